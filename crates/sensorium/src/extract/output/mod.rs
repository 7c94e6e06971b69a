//! The file of features, in the format that its ending names.
//!
//! Each format streams the shards once, or once for each of its columns or
//! tensors: memory holds a row, whatever the table.

mod json_lines;
mod npy;
mod parquet_file;
mod safetensors_file;

use super::ExtractOptions;
use super::shards::Shards;
use super::towers::Towers;
use crate::{Error, Result};
use sensorium_data::Schema;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};

/// How features are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Format {
    Parquet,
    Safetensors,
    Npy,
    JsonLines,
}

impl Format {
    /// The format that a file's ending names.
    pub(super) fn of(out: &Path) -> Result<Self> {
        match out.extension().and_then(|e| e.to_str()) {
            Some("parquet") => Ok(Self::Parquet),
            Some("safetensors") => Ok(Self::Safetensors),
            Some("npy") => Ok(Self::Npy),
            Some("jsonl" | "ndjson") => Ok(Self::JsonLines),
            _ => Err(Error::Request(format!(
                "{out:?}: the ending chooses the format: .parquet, .safetensors, .npy or .jsonl"
            ))),
        }
    }
}

/// What stands in the file.
#[derive(Debug, Clone)]
pub(super) struct Layout {
    /// Whether there is one vector per row, not one per token.
    pooled: bool,
    /// The table's column that names rows.
    identifier: Option<String>,
    /// The columns' names and widths.
    columns: Vec<(String, usize)>,
}

impl Layout {
    pub(super) fn new(towers: &Towers, schema: &Schema, pooled: bool) -> Self {
        let names = towers.plan.columns.iter().map(|c| c.name.clone());
        let columns: Vec<(String, usize)> = names.enumerate().map(|(i, name)| (name, towers.dim(i))).collect();
        let identifier = schema.identifier().map(|c| c.name.clone()).filter(|n| columns.iter().all(|c| c.0 != *n));
        Self { pooled, identifier, columns }
    }

    pub(super) fn identifier(&self) -> Option<&str> {
        self.identifier.as_deref()
    }

    /// A name of ours that is none of the table's.
    fn own(&self, name: &str) -> String {
        let mut name = name.to_owned();
        while self.identifier.as_ref() == Some(&name) || self.columns.iter().any(|c| c.0 == name) {
            name.push('_');
        }
        name
    }
}

/// Refuses what a format cannot hold, before anything is computed.
///
/// # Errors
/// With what to do instead.
pub(super) fn check(format: Format, layout: &Layout, out: &Path) -> Result<()> {
    if format != Format::Npy {
        return Ok(());
    }
    if !layout.pooled {
        return Err(Error::Request(format!(
            "{out:?}: .npy holds one vector per row; add --pooled, or write .safetensors, .parquet or .jsonl"
        )));
    }
    if layout.columns.len() != 1 {
        let names: Vec<&str> = layout.columns.iter().map(|c| c.0.as_str()).collect();
        return Err(Error::Request(format!(
            "{out:?}: .npy holds one column, and there are {}; choose one with --column, or write .safetensors, \
             .parquet or .jsonl",
            names.join(", ")
        )));
    }
    Ok(())
}

/// Streams the shards into the file that was asked for, or into one for each.
///
/// # Errors
/// When a shard cannot be read or a file cannot be written.
pub(super) fn write(
    format: Format,
    layout: &Layout,
    shards: &Shards,
    options: &ExtractOptions,
) -> Result<Vec<PathBuf>> {
    let count = shards.count();
    let files: Vec<(PathBuf, Range<u64>)> = if options.keep_shards {
        (0..count).map(|shard| (part_name(&options.out, shard, count), shard..shard + 1)).collect()
    } else {
        vec![(options.out.clone(), 0..count)]
    };
    for (path, range) in &files {
        let mut partial = path.as_os_str().to_owned();
        partial.push(".partial");
        let partial = PathBuf::from(partial);
        let file = File::create(&partial).map_err(|e| Error::io("write", &partial, e))?;
        let mut out = Out { file: BufWriter::with_capacity(1 << 18, file), path: partial.clone() };
        match format {
            Format::Parquet => parquet_file::write(&mut out, layout, shards, range.clone())?,
            Format::Safetensors => safetensors_file::write(&mut out, layout, shards, range.clone())?,
            Format::Npy => npy::write(&mut out, layout, shards, range.clone())?,
            Format::JsonLines => json_lines::write(&mut out, layout, shards, range.clone())?,
        }
        let failed = |e| Error::io("write", path, e);
        out.file.flush().map_err(failed)?;
        out.file.get_ref().sync_all().map_err(failed)?;
        std::fs::rename(&partial, path).map_err(failed)?;
    }
    Ok(files.into_iter().map(|f| f.0).collect())
}

/// `features-00003-of-00012.parquet`
fn part_name(out: &Path, shard: u64, count: u64) -> PathBuf {
    let stem = out.file_stem().unwrap_or_default().to_string_lossy();
    let ending = out.extension().unwrap_or_default().to_string_lossy();
    out.with_file_name(format!("{stem}-{shard:05}-of-{count:05}.{ending}"))
}

/// A file that is being written.
struct Out {
    file: BufWriter<File>,
    path: PathBuf,
}

impl Out {
    fn put(&mut self, bytes: &[u8]) -> Result<()> {
        self.file.write_all(bytes).map_err(|e| Error::io("write", &self.path, e))
    }

    fn floats(&mut self, values: &[f32]) -> Result<()> {
        let bytes: Vec<u8> = values.iter().flat_map(|x| x.to_le_bytes()).collect();
        self.put(&bytes)
    }

    fn failed(&self, error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
        Error::io("write", &self.path, std::io::Error::other(error))
    }
}
