//! What is done of an extraction: `FEATURES.shards/`.
//!
//! `manifest.json` says what is extracted from what; `part-00000`, … hold the
//! records of a range of rows each, and at their end a summary. A part gets
//! its name when it is whole and synced.

use super::ExtractOptions;
use super::record::{Record, Stored, Summary};
use super::towers::Towers;
use crate::{Error, Result};
use sensorium_data::Table;
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::{BufReader, BufWriter, Read, Seek, SeekFrom, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};

/// Stands at the end of every part.
const MAGIC: &[u8; 8] = b"SNSRMEX1";
const MANIFEST: &str = "manifest.json";

/// What is extracted from what.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Manifest {
    /// A hash of towers, weights and processors.
    model: String,
    /// A hash of the table's file.
    table: String,
    /// Everything else that decides about the features.
    options: String,
    /// Rows per part.
    shard_rows: u64,
}

impl Manifest {
    pub(super) fn of(towers: &Towers, table: &Table, options: &ExtractOptions, shard_rows: u64) -> Result<Self> {
        let mut hasher = blake3::Hasher::new();
        let file = File::open(table.path()).map_err(|e| Error::io("read", table.path(), e))?;
        hasher.update_reader(file).map_err(|e| Error::io("read", table.path(), e))?;
        Ok(Self {
            model: towers.fingerprint(),
            table: hasher.finalize().to_hex().to_string(),
            options: format!(
                "pooled {}, layer {:?}, on_error {:?}, batch_size {}",
                options.pooled, options.layer, options.on_error, options.batch_size
            ),
            shard_rows,
        })
    }
}

/// The parts of an extraction.
#[derive(Debug)]
pub(super) struct Shards {
    folder: PathBuf,
    shard_rows: u64,
    rows: u64,
}

impl Shards {
    /// Begins an extraction into `out`, or goes on with one.
    pub(super) fn open(out: &Path, manifest: Manifest, rows: u64, restart: bool) -> Result<Self> {
        let mut name = out.as_os_str().to_owned();
        name.push(".shards");
        let folder = PathBuf::from(name);
        let path = folder.join(MANIFEST);
        if restart && path.exists() {
            std::fs::remove_dir_all(&folder).map_err(|e| Error::io("remove", &folder, e))?;
        }
        let this = Self { folder, shard_rows: manifest.shard_rows, rows };
        match std::fs::read(&path) {
            Ok(bytes) => this.check(&manifest, serde_json::from_slice(&bytes).ok())?,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                std::fs::create_dir_all(&this.folder).map_err(|e| Error::io("create", &this.folder, e))?;
                let json = serde_json::to_vec_pretty(&manifest).map_err(|e| Error::io("write", &path, e.into()))?;
                crate::saved::write(&path, &json)?;
            }
            Err(e) => return Err(Error::io("read", &path, e)),
        }
        Ok(this)
    }

    /// Refuses to mix two extractions.
    fn check(&self, wanted: &Manifest, found: Option<Manifest>) -> Result<()> {
        let differs = match &found {
            None => "what it says of itself cannot be read".to_owned(),
            Some(found) if found == wanted => return Ok(()),
            Some(found) => {
                let fields = [
                    ("the model", found.model != wanted.model),
                    ("the table", found.table != wanted.table),
                    ("the options", (&found.options, found.shard_rows) != (&wanted.options, wanted.shard_rows)),
                ];
                let names: Vec<&str> = fields.iter().filter(|f| f.1).map(|f| f.0).collect();
                format!(
                    "{} differ{}",
                    names.join(" and "),
                    if names.len() == 1 && !names[0].ends_with('s') { "s" } else { "" }
                )
            }
        };
        Err(Error::Request(format!(
            "{:?} holds the beginning of another extraction ({differs}); give --restart to throw it away, or another --out",
            self.folder
        )))
    }

    /// How many parts there are in all.
    pub(super) fn count(&self) -> u64 {
        self.rows.div_ceil(self.shard_rows)
    }

    /// The rows of a part.
    pub(super) fn range(&self, shard: u64) -> Range<u64> {
        let end = ((shard + 1) * self.shard_rows).min(self.rows);
        (shard * self.shard_rows).min(end)..end
    }

    /// The parts that are done, from the first on.
    pub(super) fn done(&self) -> Result<u64> {
        let mut done = 0;
        while done < self.count() && self.path(done).exists() {
            self.reader(done)?;
            done += 1;
        }
        Ok(done)
    }

    fn path(&self, shard: u64) -> PathBuf {
        self.folder.join(format!("part-{shard:05}"))
    }

    pub(super) fn writer(&self, shard: u64) -> Result<Writer> {
        let path = self.path(shard);
        let partial = path.with_extension("partial");
        let file = File::create(&partial).map_err(|e| Error::io("write", &partial, e))?;
        Ok(Writer { file: BufWriter::with_capacity(1 << 18, file), partial, path })
    }

    pub(super) fn reader(&self, shard: u64) -> Result<Reader> {
        let path = self.path(shard);
        let (summary, file) = open(&path).map_err(|e| Error::io("read", &path, e))?;
        Ok(Reader { left: summary.records, summary, file, path })
    }

    /// Removes all parts.
    pub(super) fn remove(self) -> Result<()> {
        std::fs::remove_dir_all(&self.folder).map_err(|e| Error::io("remove", &self.folder, e))
    }
}

/// A part that is being written.
pub(super) struct Writer {
    file: BufWriter<File>,
    partial: PathBuf,
    path: PathBuf,
}

impl Writer {
    pub(super) fn write(&mut self, record: &Record) -> Result<()> {
        record.write(&mut self.file).map_err(|e| Error::io("write", &self.partial, e))
    }

    /// Gives the part its summary and its name.
    pub(super) fn finish(mut self, summary: &Summary) -> Result<()> {
        let mut finish = || -> std::io::Result<()> {
            let json = serde_json::to_vec(summary)?;
            self.file.write_all(&json)?;
            self.file.write_all(&(json.len() as u64).to_le_bytes())?;
            self.file.write_all(MAGIC)?;
            self.file.flush()?;
            self.file.get_ref().sync_all()?;
            std::fs::rename(&self.partial, &self.path)
        };
        finish().map_err(|e| Error::io("write", &self.path, e))
    }
}

/// A part that is being read.
pub(super) struct Reader {
    /// What its records come to.
    pub summary: Summary,
    left: u64,
    file: BufReader<File>,
    path: PathBuf,
}

fn open(path: &Path) -> std::io::Result<(Summary, BufReader<File>)> {
    let damaged = || std::io::Error::other("the part is damaged; begin anew with --restart");
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    let mut tail = [0; 16];
    file.seek(SeekFrom::Start(length.checked_sub(16).ok_or_else(damaged)?))?;
    file.read_exact(&mut tail)?;
    let (size, magic) = tail.split_at(8);
    let size = u64::from_le_bytes(size.try_into().map_err(|_| damaged())?);
    if magic != MAGIC || size > length - 16 {
        return Err(damaged());
    }
    file.seek(SeekFrom::Start(length - 16 - size))?;
    let mut json = Vec::new();
    Read::by_ref(&mut file).take(size).read_to_end(&mut json)?;
    let summary = serde_json::from_slice(&json).map_err(|_| damaged())?;
    file.seek(SeekFrom::Start(0))?;
    Ok((summary, BufReader::with_capacity(1 << 18, file)))
}

impl Reader {
    /// The next record, with the values of the columns for which `wanted`
    /// holds; None after the last.
    pub(super) fn next(&mut self, wanted: impl Fn(usize) -> bool) -> Result<Option<Stored>> {
        if self.left == 0 {
            return Ok(None);
        }
        self.left -= 1;
        let skip = |file: &mut BufReader<File>, bytes: u64| file.seek_relative(bytes as i64);
        Stored::read(&mut self.file, self.summary.present.len(), wanted, skip)
            .map(Some)
            .map_err(|e| Error::io("read", &self.path, e))
    }
}
