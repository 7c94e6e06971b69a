//! Reading a file at any place from any thread.

use std::fs::File;
use std::io;

/// A file read by position, without a shared cursor.
#[derive(Debug)]
pub(crate) struct RandomFile(File);

impl RandomFile {
    pub(crate) fn new(file: File) -> Self {
        RandomFile(file)
    }

    /// The `len` bytes at `offset`.
    pub(crate) fn read(&self, offset: u64, len: usize) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; len];
        self.fill(offset, &mut bytes)?;
        Ok(bytes)
    }

    #[cfg(unix)]
    fn fill(&self, offset: u64, bytes: &mut [u8]) -> io::Result<()> {
        std::os::unix::fs::FileExt::read_exact_at(&self.0, bytes, offset)
    }

    #[cfg(windows)]
    fn fill(&self, mut offset: u64, mut bytes: &mut [u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let read = std::os::windows::fs::FileExt::seek_read(&self.0, bytes, offset)?;
            if read == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            offset += read as u64;
            bytes = &mut bytes[read..];
        }
        Ok(())
    }
}
