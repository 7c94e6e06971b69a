//! Getting bytes in: from a file within the limits, or out to a temporary file for programs that
//! need to seek.

use std::fs::File;
use std::io::{Read, Write};
use std::path::Path;

use tempfile::TempPath;

use crate::Limits;
use crate::error::{MediaError, Result};

/// Reads a whole file, refusing one larger than `limits.max_bytes` before reading it.
///
/// A pipe or a file that grows while it is read stops at the limit too.
pub fn read_file(path: &Path, limits: &Limits) -> Result<Vec<u8>> {
    let origin = path.display().to_string();
    let failed = |error| MediaError::Read { origin: origin.clone(), error };
    let file = File::open(path).map_err(failed)?;
    let metadata = file.metadata().map_err(failed)?;
    if metadata.is_dir() {
        return Err(failed(std::io::Error::new(std::io::ErrorKind::IsADirectory, "expected a file, got a directory")));
    }
    limits.check_bytes(&origin, metadata.len())?;
    let mut bytes = Vec::with_capacity(metadata.len() as usize);
    file.take(limits.max_bytes.saturating_add(1)).read_to_end(&mut bytes).map_err(failed)?;
    limits.check_bytes(&origin, bytes.len() as u64)?;
    Ok(bytes)
}

/// Writes media that is only in memory, such as a data URI, to a temporary file for
/// [`video`](crate::video); the file goes when the returned path is dropped.
pub fn spool(bytes: &[u8], source: &str, limits: &Limits) -> Result<TempPath> {
    limits.check_bytes(source, bytes.len() as u64)?;
    let failed = |error| MediaError::Spool { origin: source.to_owned(), error };
    let mut file = tempfile::Builder::new().prefix("sensorium-media-").tempfile().map_err(failed)?;
    file.write_all(bytes).and_then(|()| file.flush()).map_err(failed)?;
    Ok(file.into_temp_path())
}

/// How the bytes begin, for messages about unknown formats.
pub(crate) fn describe_start(bytes: &[u8]) -> String {
    if bytes.is_empty() {
        return "an empty file".to_owned();
    }
    let start = &bytes[..bytes.len().min(12)];
    format!("{} bytes beginning with \"{}\"", bytes.len(), start.escape_ascii())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_over_the_limit_is_refused_and_one_at_the_limit_is_read() {
        let path = spool(b"0123456789", "test", &Limits::default()).unwrap();
        let mut limits = Limits { max_bytes: 10, ..Limits::default() };
        assert_eq!(read_file(&path, &limits).unwrap(), b"0123456789");
        limits.max_bytes = 9;
        assert!(matches!(read_file(&path, &limits), Err(MediaError::OverLimit { .. })));
    }

    #[test]
    fn a_missing_file_and_a_directory_are_named_in_the_error() {
        for path in [Path::new("no/such/file.png"), Path::new(".")] {
            let message = read_file(path, &Limits::default()).unwrap_err().to_string();
            assert!(message.starts_with(&format!("{}: cannot read", path.display())), "{message}");
        }
    }
}
