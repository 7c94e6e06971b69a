//! Writing that survives a crash: temporary name, sync, rename, sync of the directory.
//!
//! Everything a checkpoint does to the disk goes through [`Disk`], so that a test can
//! cut it off after any of its operations.

use crate::error::{Result, TrainError};
use std::fs::{self, File};
use std::io;
use std::path::Path;

/// The disk, or in tests one that fails from a given operation on.
#[derive(Debug, Default)]
pub(crate) struct Disk {
    #[cfg(test)]
    pub(crate) fuse: Option<std::cell::Cell<u64>>,
    #[cfg(test)]
    pub(crate) operations: std::cell::Cell<u64>,
}

impl Disk {
    /// Whether the (simulated) crash happens in this operation.
    fn crashes(&self) -> bool {
        #[cfg(test)]
        {
            self.operations.set(self.operations.get() + 1);
            if let Some(fuse) = &self.fuse {
                let left = fuse.get();
                fuse.set(left.saturating_sub(1));
                return left == 0;
            }
        }
        false
    }

    fn crash() -> io::Error {
        io::Error::other("the disk went away")
    }

    /// Creates a directory and its parents.
    pub(crate) fn create_dir(&self, path: &Path) -> Result<()> {
        let done = if self.crashes() { Err(Self::crash()) } else { fs::create_dir_all(path) };
        done.map_err(TrainError::io("create", path))
    }

    /// Has `fill` write a file and syncs it. A crash leaves half of it.
    pub(crate) fn write(&self, path: &Path, fill: impl FnOnce(&Path) -> io::Result<()>) -> Result<()> {
        let work = || {
            let torn = self.crashes();
            fill(path)?;
            let file = File::options().write(true).open(path)?;
            if torn {
                file.set_len(file.metadata()?.len() / 2)?;
                return Err(Self::crash());
            }
            file.sync_all()
        };
        work().map_err(TrainError::io("write", path))
    }

    /// Renames within a directory and syncs it.
    pub(crate) fn rename(&self, from: &Path, to: &Path) -> Result<()> {
        let work = || {
            if self.crashes() {
                return Err(Self::crash());
            }
            fs::rename(from, to)?;
            sync_dir(to.parent().unwrap_or(Path::new(".")))
        };
        work().map_err(TrainError::io("rename to", to))
    }

    /// Writes a small file in place of an old one, at once.
    pub(crate) fn replace(&self, path: &Path, contents: &str) -> Result<()> {
        let temporary = path.with_extension("tmp");
        self.write(&temporary, |p| fs::write(p, contents))?;
        self.rename(&temporary, path)
    }

    /// Removes a directory. A crash leaves some of its files.
    pub(crate) fn remove_dir(&self, path: &Path) -> Result<()> {
        let work = || {
            if self.crashes() {
                if let Some(entry) = fs::read_dir(path)?.next() {
                    fs::remove_file(entry?.path())?;
                }
                return Err(Self::crash());
            }
            fs::remove_dir_all(path)
        };
        work().map_err(TrainError::io("remove", path))
    }

    /// Syncs what a directory lists.
    pub(crate) fn sync_dir(&self, path: &Path) -> Result<()> {
        let done = if self.crashes() { Err(Self::crash()) } else { sync_dir(path) };
        done.map_err(TrainError::io("sync", path))
    }
}

fn sync_dir(path: &Path) -> io::Result<()> {
    // Other systems do not open directories as files; there the rename is as durable as it gets.
    if cfg!(unix) { File::open(path)?.sync_all() } else { Ok(()) }
}
