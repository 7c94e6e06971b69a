//! One file of a checkpoint: positioned reads that meet the file's end before
//! memory is spent.

use crate::{ModelError, Result};
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

/// A file that is read in places.
#[derive(Debug)]
pub(crate) struct Source {
    pub(crate) path: PathBuf,
    pub(crate) bytes: u64,
    file: File,
}

impl Source {
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let problem = |e: io::Error| ModelError::checkpoint(path, format!("cannot be opened: {e}"));
        let file = File::open(path).map_err(problem)?;
        let metadata = file.metadata().map_err(problem)?;
        if !metadata.is_file() {
            return Err(ModelError::checkpoint(path, "is not a file"));
        }
        Ok(Self { path: path.into(), bytes: metadata.len(), file })
    }

    /// An error of this file.
    pub(crate) fn broken(&self, problem: impl Into<String>) -> ModelError {
        ModelError::checkpoint(&self.path, problem)
    }

    /// Fills `out` from the bytes at `start`.
    pub(crate) fn read(&self, start: u64, out: &mut [u8]) -> Result<()> {
        let end = start.checked_add(out.len() as u64).filter(|end| *end <= self.bytes);
        if end.is_none() {
            return Err(self.broken(format!("ends after {} bytes: it is not whole", self.bytes)));
        }
        read_exact_at(&self.file, start, out)
            .map_err(|e| self.broken(format!("cannot read {} bytes at {start}: {e}", out.len())))
    }

    /// `length` bytes at `start`, none allocated when the file has fewer.
    pub(crate) fn read_vec(&self, start: u64, length: u64) -> Result<Vec<u8>> {
        let inside = start.checked_add(length).is_some_and(|end| end <= self.bytes);
        let length = usize::try_from(length).ok().filter(|_| inside);
        let Some(length) = length else {
            return Err(self.broken(format!("ends after {} bytes: it is not whole", self.bytes)));
        };
        let mut out = vec![0; length];
        self.read(start, &mut out)?;
        Ok(out)
    }

    /// The first bytes, up to `most`.
    pub(crate) fn head(&self, most: u64) -> Result<Vec<u8>> {
        self.read_vec(0, most.min(self.bytes))
    }
}

#[cfg(unix)]
fn read_exact_at(file: &File, start: u64, out: &mut [u8]) -> io::Result<()> {
    std::os::unix::fs::FileExt::read_exact_at(file, out, start)
}

#[cfg(windows)]
fn read_exact_at(file: &File, mut start: u64, mut out: &mut [u8]) -> io::Result<()> {
    while !out.is_empty() {
        match std::os::windows::fs::FileExt::seek_read(file, out, start)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            n => {
                out = &mut out[n..];
                start += n as u64;
            }
        }
    }
    Ok(())
}
