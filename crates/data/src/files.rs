//! Writing files so that a reader sees the old contents or the new, never half of them.

use std::io::Write;
use std::path::Path;

use crate::error::{DataError, Result};

/// Writes to a temporary name beside `path`, syncs, and renames.
pub(crate) fn write_atomically(path: &Path, bytes: &[u8]) -> Result<()> {
    let write = || -> std::io::Result<()> {
        let folder = match path.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => folder,
            _ => Path::new("."),
        };
        let mut file = tempfile::NamedTempFile::new_in(folder)?;
        file.write_all(bytes)?;
        file.as_file().sync_all()?;
        file.persist(path).map_err(|error| error.error)?;
        Ok(())
    };
    write().map_err(|source| DataError::io("write", path, source))
}
