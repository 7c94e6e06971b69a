//! `metrics.jsonl`: one record a line, each flushed as it is written.

use crate::error::{Result, TrainError};
use crate::record::Record;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

/// The file, open at its end.
pub(crate) struct RunLog {
    path: PathBuf,
    file: File,
    bytes: u64,
}

impl RunLog {
    /// Opens the log of a run that stands where the log had `keep` bytes: what was written
    /// after that is cut off, for it will be written again.
    pub(crate) fn open(path: &Path, keep: u64) -> Result<Self> {
        let open = || {
            let mut file = File::options().read(true).write(true).create(true).truncate(false).open(path)?;
            let mut bytes = Vec::new();
            (&mut file).take(keep).read_to_end(&mut bytes)?;
            // Whole lines only, should the file have been cut by someone else.
            let whole = bytes.iter().rposition(|b| *b == b'\n').map_or(0, |at| at as u64 + 1);
            file.set_len(whole)?;
            file.seek(SeekFrom::Start(whole))?;
            Ok((file, whole))
        };
        let (file, bytes) = open().map_err(TrainError::io("open", path))?;
        Ok(Self { path: path.into(), file, bytes })
    }

    /// Appends a record.
    pub(crate) fn append(&mut self, record: &Record) -> Result<()> {
        let mut write = || {
            let mut line = serde_json::to_vec(record)?;
            line.push(b'\n');
            // One write straight to the file: nothing of it waits in this process.
            self.file.write_all(&line)?;
            Ok(line.len() as u64)
        };
        self.bytes += write().map_err(TrainError::io("write", &self.path))?;
        Ok(())
    }

    /// Makes what was written durable and tells its length.
    pub(crate) fn sync(&mut self) -> Result<u64> {
        self.file.sync_data().map_err(TrainError::io("sync", &self.path))?;
        Ok(self.bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::{History, SkipRecord};

    #[test]
    fn lines_after_the_checkpoint_are_cut_off() {
        let dir = tempfile::tempdir().expect("dir");
        let path = dir.path().join("metrics.jsonl");
        let record = |step| Record::Skip(SkipRecord { step, epoch: 1, cause: "损失".into() });
        let mut log = RunLog::open(&path, 0).expect("new");
        log.append(&record(1)).expect("write");
        let keep = log.sync().expect("sync");
        log.append(&record(2)).expect("write");
        std::fs::write(&path, [std::fs::read(&path).expect("read"), b"{\"event\":".to_vec()].concat()).expect("torn");
        let mut log = RunLog::open(&path, keep).expect("again");
        log.append(&record(3)).expect("write");
        let steps: Vec<_> = History::read(&path).expect("whole").skips.iter().map(|s| s.step).collect();
        assert_eq!(steps, [1, 3]);
        assert_eq!(RunLog::open(&path, keep + 5).expect("cut").bytes, keep);
    }
}
