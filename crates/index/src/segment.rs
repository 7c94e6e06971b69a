//! Segments: some vectors and their entries in one file, written once.
//!
//! ```text
//! magic 8 · dim u64 · rows u64 · vectors f32 [rows, dim] · ends u64 [rows] · entries (JSON, one after another)
//! ```
//! all little-endian; `ends` say where each entry ends, from the first one's
//! beginning. Entries stay on disk and are read when they are asked for.

use crate::files::{self, FileRecord};
use crate::{Entry, IndexError, Result};
use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

const MAGIC: &[u8; 8] = b"SNSRMIX1";
/// The longest entry accepted, in bytes.
pub(crate) const MAX_ENTRY: usize = 1 << 20;

/// Vectors and entries on their way into a segment.
#[derive(Debug, Default)]
pub(crate) struct Pending {
    pub vectors: Vec<f32>,
    entries: Vec<u8>,
    ends: Vec<u64>,
}

impl Pending {
    pub(crate) fn rows(&self) -> usize {
        self.ends.len()
    }

    pub(crate) fn add(&mut self, vector: &[f32], entry: &Entry) -> Result<()> {
        let json = serde_json::to_vec(entry)
            .map_err(|e| IndexError::Vector { problem: format!("has an entry that cannot be written: {e}") })?;
        if json.len() > MAX_ENTRY {
            return Err(IndexError::Vector {
                problem: format!("has an entry of {} bytes; at most {MAX_ENTRY} are kept", json.len()),
            });
        }
        self.vectors.extend_from_slice(vector);
        self.entries.extend(json);
        self.ends.push(self.entries.len() as u64);
        Ok(())
    }

    pub(crate) fn write(&self, folder: &Path, name: &str, dim: usize) -> Result<FileRecord> {
        files::write(folder, name, self.rows(), |out| {
            out.write_all(MAGIC)?;
            for number in [dim as u64, self.rows() as u64] {
                out.write_all(&number.to_le_bytes())?;
            }
            for values in self.vectors.chunks(1 << 14) {
                let bytes: Vec<u8> = values.iter().flat_map(|x| x.to_le_bytes()).collect();
                out.write_all(&bytes)?;
            }
            for end in &self.ends {
                out.write_all(&end.to_le_bytes())?;
            }
            out.write_all(&self.entries)
        })
    }
}

/// Where a segment's entries stand; its vectors are the index's.
#[derive(Debug)]
pub(crate) struct Segment {
    path: PathBuf,
    file: Mutex<File>,
    /// Where the entries begin in the file.
    start: u64,
    ends: Vec<u64>,
}

impl Segment {
    /// Reads a segment of vectors of `dim` numbers into `vectors`
    /// `[rows, dim]`.
    pub(crate) fn read(folder: &Path, record: &FileRecord, dim: usize, vectors: &mut [f32]) -> Result<Self> {
        files::read(folder, record, |path, from| {
            let io = IndexError::io("read", path);
            let mut head = [0; 24];
            from.read_exact(&mut head).map_err(&io)?;
            let number = |at: usize| u64::from_le_bytes(std::array::from_fn(|i| head[at + i]));
            if head[..8] != *MAGIC || number(8) != dim as u64 || number(16) != record.rows {
                return Err(IndexError::damaged(path, "it is not the segment that index.json describes"));
            }
            let mut buffer = [0; 1 << 14];
            for values in vectors.chunks_mut(1 << 12) {
                let bytes = &mut buffer[..values.len() * 4];
                from.read_exact(bytes).map_err(&io)?;
                for (x, b) in values.iter_mut().zip(bytes.chunks_exact(4)) {
                    *x = f32::from_le_bytes([b[0], b[1], b[2], b[3]]);
                }
            }
            if !vectors.iter().all(|x| x.is_finite()) {
                return Err(IndexError::damaged(path, "a vector holds a number that is not finite"));
            }
            let rows = record.rows as usize;
            let words = files::read_words(from, 2 * rows).map_err(&io)?;
            let ends: Vec<u64> = words.chunks_exact(2).map(|w| u64::from(w[0]) | u64::from(w[1]) << 32).collect();
            let start = 24 + (rows * (4 * dim + 8)) as u64;
            let mut last = 0;
            for end in &ends {
                if *end < last || *end - last > MAX_ENTRY as u64 {
                    return Err(IndexError::damaged(path, "its entries do not follow one another"));
                }
                last = *end;
            }
            if start.checked_add(last) != Some(record.bytes) {
                return Err(IndexError::damaged(path, "its entries do not fill it"));
            }
            let file = Mutex::new(File::open(path).map_err(&io)?);
            Ok(Self { path: path.to_owned(), file, start, ends })
        })
    }

    /// The length of a segment's file without its entries, if a number holds
    /// it.
    pub(crate) fn least_bytes(record: &FileRecord, dim: usize) -> Option<u64> {
        record.rows.checked_mul(4 * dim as u64 + 8)?.checked_add(24)
    }

    pub(crate) fn rows(&self) -> usize {
        self.ends.len()
    }

    /// One entry.
    pub(crate) fn entry(&self, at: usize) -> Result<Entry> {
        let first = if at == 0 { 0 } else { self.ends[at - 1] };
        let mut bytes = vec![0; (self.ends[at] - first) as usize];
        let mut read = || -> std::io::Result<()> {
            // A thread that panicked while it read leaves a file that works.
            let mut file = self.file.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            file.seek(SeekFrom::Start(self.start + first))?;
            file.read_exact(&mut bytes)
        };
        read().map_err(IndexError::io("read", &self.path))?;
        self.parse(&bytes)
    }

    /// All entries, one after another.
    pub(crate) fn entries(&self) -> Result<impl Iterator<Item = Result<Entry>> + '_> {
        let io = IndexError::io("read", &self.path);
        let mut file = File::open(&self.path).map_err(&io)?;
        file.seek(SeekFrom::Start(self.start)).map_err(&io)?;
        let mut reader = BufReader::with_capacity(1 << 18, file);
        let mut first = 0;
        Ok(self.ends.iter().map(move |end| {
            let mut bytes = vec![0; (end - first) as usize];
            first = *end;
            reader.read_exact(&mut bytes).map_err(IndexError::io("read", &self.path))?;
            self.parse(&bytes)
        }))
    }

    fn parse(&self, bytes: &[u8]) -> Result<Entry> {
        serde_json::from_slice(bytes).map_err(|e| IndexError::damaged(&self.path, format!("an entry: {e}")))
    }
}
