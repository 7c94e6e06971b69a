//! `index.json`: what belongs to an index.

use crate::files::{self, FileRecord};
use crate::{IndexError, Result};
use serde::{Deserialize, Serialize};
use std::io::Read;
use std::path::Path;

/// The version of the folder's format.
pub(crate) const FORMAT: u32 = 1;
pub(crate) const MANIFEST_FILE: &str = "index.json";
/// Vectors are at most so wide.
const MAX_DIM: usize = 1 << 16;
/// The longest `index.json` accepted, in bytes.
const MAX_BYTES: u64 = 64 << 20;

/// How vectors are compared.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Metric {
    /// The cosine of their angle: vectors are stored with length 1.
    #[default]
    Cosine,
    /// Their inner product: vectors are stored as they are, and searched
    /// exactly.
    InnerProduct,
}

/// What an index is of.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// Numbers per vector.
    pub dim: usize,
    /// How vectors are compared.
    pub metric: Metric,
    /// What made the vectors: those of another model are refused.
    pub model: String,
    /// Whatever the caller wants to find again.
    pub about: serde_json::Value,
}

impl Settings {
    /// Requires the vectors of an index that was found to be of the same kind.
    /// `place` is where it was found, `mend` what to do with another model's.
    ///
    /// # Errors
    /// When they are another model's, or of another width or metric.
    pub(crate) fn accept(&self, (model, dim, metric): (&str, usize, Metric), place: &Path, mend: &str) -> Result<()> {
        let problem = if model != self.model {
            format!("its vectors are another model's; {mend}")
        } else if (dim, metric) != (self.dim, self.metric) {
            format!(
                "its vectors have {dim} numbers and are compared by {metric:?}, these have {} and {:?}",
                self.dim, self.metric
            )
        } else {
            return Ok(());
        };
        Err(IndexError::Mismatch { path: place.into(), problem })
    }
}

/// What belongs to an index.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// The version of the folder's format.
    pub format: u32,
    /// The program that wrote it.
    pub written_by: String,
    /// Numbers per vector.
    pub dim: usize,
    /// How vectors are compared.
    pub metric: Metric,
    /// What made the vectors.
    pub model: String,
    /// What the caller says of it.
    pub about: serde_json::Value,
    /// The vectors and their entries, in order.
    pub segments: Vec<FileRecord>,
    /// The positions that are deleted, a bit each.
    pub deleted: Option<FileRecord>,
    /// The graph of neighbours over the first vectors.
    pub graph: Option<FileRecord>,
    /// The number of the next file.
    pub next: u64,
}

impl Manifest {
    /// Of an index without vectors.
    pub(crate) fn new(settings: &Settings) -> Result<Self> {
        let dim = settings.dim;
        if !(1..=MAX_DIM).contains(&dim) {
            return Err(IndexError::Vector {
                problem: format!("of {dim} numbers cannot be indexed; expected 1 to {MAX_DIM}"),
            });
        }
        Ok(Self {
            format: FORMAT,
            written_by: concat!("sensorium ", env!("CARGO_PKG_VERSION")).into(),
            dim,
            metric: settings.metric,
            model: settings.model.clone(),
            about: settings.about.clone(),
            segments: Vec::new(),
            deleted: None,
            graph: None,
            next: 0,
        })
    }

    /// Reads a folder's; None where there is none.
    pub(crate) fn read(folder: &Path) -> Result<Option<Self>> {
        let path = folder.join(MANIFEST_FILE);
        let io = IndexError::io("read", &path);
        let file = match std::fs::File::open(&path) {
            Ok(file) => file,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(io(e)),
        };
        let mut text = Vec::new();
        file.take(MAX_BYTES).read_to_end(&mut text).map_err(&io)?;
        let broken = |e: serde_json::Error| IndexError::damaged(&path, e.to_string());
        let json: serde_json::Value = serde_json::from_slice(&text).map_err(broken)?;
        match json.get("format").and_then(serde_json::Value::as_u64) {
            Some(found) if found > u64::from(FORMAT) => {
                let found = u32::try_from(found).unwrap_or(u32::MAX);
                return Err(IndexError::Newer { path: folder.to_owned(), found, known: FORMAT });
            }
            Some(_) => {}
            None => return Err(IndexError::damaged(&path, "it is not the description of an index")),
        }
        let this: Self = serde_json::from_value(json).map_err(broken)?;
        this.check(&path)?;
        Ok(Some(this))
    }

    fn check(&self, path: &Path) -> Result<()> {
        let files = || self.segments.iter().chain(&self.deleted).chain(&self.graph);
        let plain = |name: &str| !name.is_empty() && !name.contains(['/', '\\', ':']) && !name.starts_with('.');
        if !(1..=MAX_DIM).contains(&self.dim) {
            return Err(IndexError::damaged(path, format!("vectors of {} numbers", self.dim)));
        }
        if let Some(file) = files().find(|f| !plain(&f.file)) {
            return Err(IndexError::damaged(path, format!("{:?} is not the name of a file of an index", file.file)));
        }
        let rows = self.segments.iter().try_fold(0_u64, |n, s| n.checked_add(s.rows));
        // Positions are numbers of 32 bits in a graph.
        if rows.is_none_or(|n| n >= u64::from(u32::MAX)) {
            return Err(IndexError::damaged(path, "too many vectors"));
        }
        Ok(())
    }

    /// Vectors in the segments, deleted ones too.
    pub fn rows(&self) -> usize {
        self.segments.iter().map(|s| s.rows as usize).sum()
    }

    /// Takes the place of the folder's.
    pub(crate) fn save(&self, folder: &Path) -> Result<()> {
        let path = folder.join(MANIFEST_FILE);
        let json = serde_json::to_vec_pretty(self).map_err(|e| IndexError::io("write", &path)(e.into()))?;
        files::write(folder, MANIFEST_FILE, 0, |out| out.write_all(&json))?;
        Ok(())
    }
}
