//! Files that appear whole or not at all, and are read with their hash.

use crate::{IndexError, Result};
use sensorium_engine::huge_pages;
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::path::Path;

/// A file of an index, and what its content must be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileRecord {
    /// Its name in the folder.
    pub file: String,
    /// Vectors that it is about.
    pub rows: u64,
    /// Its length in bytes.
    pub bytes: u64,
    /// The BLAKE3 hash of its content.
    pub hash: String,
}

/// Passes bytes on and hashes them.
pub(crate) struct Hashing<T> {
    inner: T,
    hasher: blake3::Hasher,
    bytes: u64,
}

impl<T> Hashing<T> {
    fn new(inner: T) -> Self {
        Self { inner, hasher: blake3::Hasher::new(), bytes: 0 }
    }

    fn saw(&mut self, bytes: &[u8]) {
        self.hasher.update(bytes);
        self.bytes += bytes.len() as u64;
    }
}

impl<W: Write> Write for Hashing<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(bytes)?;
        self.saw(&bytes[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

impl<R: Read> Read for Hashing<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.saw(&buffer[..read]);
        Ok(read)
    }
}

/// Writes a file under a temporary name, syncs it and renames it.
pub(crate) fn write(
    folder: &Path,
    name: &str,
    rows: usize,
    fill: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> Result<FileRecord> {
    let (path, partial) = (folder.join(name), folder.join(format!("{name}.partial")));
    let work = || -> io::Result<FileRecord> {
        let mut out = BufWriter::with_capacity(1 << 18, Hashing::new(File::create(&partial)?));
        fill(&mut out)?;
        let out = out.into_inner().map_err(io::IntoInnerError::into_error)?;
        out.inner.sync_all()?;
        std::fs::rename(&partial, &path)?;
        sync(folder)?;
        let hash = out.hasher.finalize().to_hex().to_string();
        Ok(FileRecord { file: name.to_owned(), rows: rows as u64, bytes: out.bytes, hash })
    };
    work().map_err(IndexError::io("write", &path))
}

/// Reads a file of an index: its length before anything is read, its hash
/// after.
pub(crate) fn read<T>(
    folder: &Path,
    record: &FileRecord,
    take: impl FnOnce(&Path, &mut BufReader<Hashing<File>>) -> Result<T>,
) -> Result<T> {
    let path = folder.join(&record.file);
    let io = IndexError::io("read", &path);
    let file = File::open(&path).map_err(&io)?;
    let length = file.metadata().map_err(&io)?.len();
    if length != record.bytes {
        return Err(IndexError::damaged(&path, format!("it has {length} bytes, expected {}", record.bytes)));
    }
    let mut reader = BufReader::with_capacity(1 << 18, Hashing::new(file));
    let taken = take(&path, &mut reader)?;
    // What was not taken (entries) counts for the hash all the same.
    io::copy(&mut reader, &mut io::sink()).map_err(&io)?;
    if reader.into_inner().hasher.finalize().to_hex().as_str() != record.hash {
        return Err(IndexError::damaged(&path, "its content is not what was written"));
    }
    Ok(taken)
}

/// Reads little-endian words; their count was checked against the file's length.
pub(crate) fn read_words(from: &mut impl Read, count: usize) -> io::Result<Vec<u32>> {
    let mut words = Vec::with_capacity(count);
    huge_pages(words.spare_capacity_mut());
    let mut buffer = [0; 1 << 14];
    while words.len() < count {
        let bytes = &mut buffer[..((count - words.len()) * 4).min(1 << 14)];
        from.read_exact(bytes)?;
        words.extend(bytes.chunks_exact(4).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]])));
    }
    Ok(words)
}

/// Syncs what a folder lists.
fn sync(folder: &Path) -> io::Result<()> {
    // Elsewhere folders are not opened as files, and a rename is as durable
    // as it gets.
    if cfg!(unix) { File::open(folder)?.sync_all() } else { Ok(()) }
}
