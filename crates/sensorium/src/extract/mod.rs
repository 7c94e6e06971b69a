//! Extract: the features that a model's towers make of every row of a table.
//!
//! Rows are read while others are computed. What is done goes into shards
//! beside the result, each a fixed range of rows, written whole or not at all,
//! so a run that was killed goes on after its last whole shard ([`shards`]).
//! At the end the shards stream into the file that was asked for
//! ([`output`]). Memory does not grow with the table.

mod output;
mod record;
mod shards;
mod towers;

use crate::batch::Batch;
use crate::{Error, Result};
use output::{Format, Layout};
use rayon::prelude::*;
use record::{Record, Summary};
use sensorium_data::{Binding, ColumnType, OnBad, Pack, Sample, Sampler, Schema, SchemaOptions, Table, TableOptions};
use shards::{Manifest, Shards};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, sync_channel};
use towers::Towers;

/// What to extract, and how.
#[derive(Debug, Clone)]
pub struct ExtractOptions {
    /// The file of features; its ending chooses the format: `.parquet`,
    /// `.safetensors`, `.npy` or `.jsonl`.
    pub out: PathBuf,
    /// The columns to extract; empty for all that the model has a tower for.
    pub columns: Vec<String>,
    /// One vector per row and column, instead of one per token.
    pub pooled: bool,
    /// The hidden states after this layer, from 1, or from the end with -1 the
    /// last; None for what the tower gives.
    pub layer: Option<i64>,
    /// Types of the table's columns that are not to be inferred.
    pub types: BTreeMap<String, ColumnType>,
    /// What becomes of a row of which a cell cannot be read: an error, left
    /// out, or kept with features missing.
    pub on_error: OnBad,
    /// Rows computed at a time.
    pub batch_size: usize,
    /// Rows per shard, rounded up to whole batches; None for a number that
    /// suits the table.
    pub shard_rows: Option<u64>,
    /// Whether the result stays in one file per shard.
    pub keep_shards: bool,
    /// Whether what an interrupted run has left is thrown away.
    pub restart: bool,
}

impl Default for ExtractOptions {
    fn default() -> Self {
        Self {
            out: "features.parquet".into(),
            columns: Vec::new(),
            pooled: false,
            layer: None,
            types: BTreeMap::new(),
            on_error: OnBad::Null,
            batch_size: 32,
            shard_rows: None,
            keep_shards: false,
            restart: false,
        }
    }
}

/// How far an extraction is.
#[derive(Debug, Clone, PartialEq)]
pub enum ExtractStep {
    /// It begins, or goes on.
    Begin {
        /// Rows of the table.
        rows: u64,
        /// Rows that an earlier run has done.
        done: u64,
        /// What is extracted, in words.
        columns: Vec<String>,
    },
    /// So many rows are done, those of earlier runs included.
    Rows(u64),
    /// All rows are done; the result is being written.
    Writing,
}

/// What an extraction came to.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Extracted {
    /// The files that were written.
    pub files: Vec<PathBuf>,
    /// Rows in them.
    pub rows: u64,
    /// Rows of which some cell could not be read.
    pub bad: u64,
    /// The first few problems, with row and column.
    pub problems: Vec<String>,
    /// Rows that have each column.
    pub present: Vec<(String, u64)>,
    /// Columns of the model that the table lacks.
    pub absent: Vec<String>,
}

/// Problems kept for the person to read.
const PROBLEMS: usize = 20;
/// Automatic shards are a sixty-fourth of the table, within these bounds.
const SHARD_ROWS: std::ops::RangeInclusive<u64> = 32..=4096;

/// Extracts features of every row of a table, in its order. `source` is the
/// folder of one of our models, or of any checkpoint that is known. Goes on
/// where an interrupted run with the same model, table and options stopped,
/// to the same bytes.
///
/// # Errors
/// When the model, the table or the options do not fit each other, a file
/// cannot be read or written, what an interrupted run has left is of another
/// extraction, or a row cannot be read under [`OnBad::Fail`].
pub fn extract(
    source: &Path,
    table: &Path,
    options: &ExtractOptions,
    watch: &mut dyn FnMut(ExtractStep),
) -> Result<Extracted> {
    let format = Format::of(&options.out)?;
    let table = Table::open(table, &TableOptions::default())?;
    let types = SchemaOptions { types: options.types.clone(), ..SchemaOptions::default() };
    let schema = Schema::infer(&table, &types)?;
    let towers = Towers::open(source, &table, &schema, options)?;
    let layout = Layout::new(&towers, &schema, options.pooled);
    output::check(format, &layout, &options.out)?;
    let binding = Binding::new(&towers.plan, &table)?;
    let rows = shard_rows(options, table.len());
    let shards =
        Shards::open(&options.out, Manifest::of(&towers, &table, options, rows)?, table.len(), options.restart)?;
    let first = shards.done()?;
    watch(ExtractStep::Begin { rows: table.len(), done: shards.range(first).start, columns: towers.describe() });

    let sampler = Sampler::new(towers.plan.clone(), table.folder(), towers.cache()?);
    let name = match layout.identifier() {
        Some(column) => Some(table.column_index(column)?),
        None => None,
    };
    std::thread::scope(|scope| {
        let (sender, receiver) = sync_channel(2);
        let (table, binding, sampler, size) = (&table, &binding, &sampler, options.batch_size.max(1));
        let start = shards.range(first).start;
        scope.spawn(move || {
            for from in (start..table.len()).step_by(size) {
                let rows: Vec<u64> = (from..(from + size as u64).min(table.len())).collect();
                let read = |row: &u64| read(table, binding, sampler, name, *row);
                if sender.send(rows.par_iter().map(read).collect()).is_err() {
                    return;
                }
            }
        });
        (first..shards.count()).try_for_each(|shard| compute(&towers, &shards, shard, &receiver, options, watch))
    })?;

    watch(ExtractStep::Writing);
    let files = output::write(format, &layout, &shards, options)?;
    let mut extracted = Extracted { files, ..summarise(&shards, &towers)? };
    extracted.absent = binding.absent(&towers.plan).into_iter().map(str::to_owned).collect();
    shards.remove()?;
    Ok(extracted)
}

/// Rows per shard, whole batches.
fn shard_rows(options: &ExtractOptions, rows: u64) -> u64 {
    let wanted = options.shard_rows.unwrap_or((rows / 64).clamp(*SHARD_ROWS.start(), *SHARD_ROWS.end()));
    wanted.max(1).next_multiple_of(options.batch_size.max(1) as u64)
}

/// A row as it comes out of the table.
struct Read {
    row: u64,
    name: Option<String>,
    sample: Sample,
    /// Why not all of it could be read.
    problem: Option<String>,
}

fn read(table: &Table, binding: &Binding, sampler: &Sampler, name: Option<usize>, row: u64) -> Read {
    let whole = || -> Result<(Option<String>, Sample)> {
        let name = match name {
            Some(at) => table.row(row)?.values[at].as_text(),
            None => None,
        };
        Ok((name, sampler.row(table, binding, row, None)?))
    };
    match whole() {
        Err(e) => Read { row, name: None, sample: Sample { row, ..Sample::default() }, problem: Some(e.to_string()) },
        Ok((name, mut sample)) => {
            let columns = &sampler.plan().columns;
            let broken = |at: usize| sample.problems.iter().any(|p| p.column == columns[at].name);
            let kept: Vec<bool> = (0..columns.len()).map(|at| !broken(at)).collect();
            // What stood before the broken part of a cell is not the cell.
            sample.segments.retain(|(at, _)| kept[*at]);
            let problems: Vec<String> = sample
                .problems
                .iter()
                .map(|p| format!("row {}, column {:?}: {}", p.row + 1, p.column, p.message))
                .collect();
            Read { row, name, sample, problem: (!problems.is_empty()).then(|| problems.join("; ")) }
        }
    }
}

/// Computes one shard from the rows that come.
fn compute(
    towers: &Towers,
    shards: &Shards,
    shard: u64,
    rows: &Receiver<Vec<Read>>,
    options: &ExtractOptions,
    watch: &mut dyn FnMut(ExtractStep),
) -> Result<()> {
    let range = shards.range(shard);
    let mut writer = shards.writer(shard)?;
    let mut summary = Summary::new(towers.plan.columns.len());
    let mut done = range.start;
    while done < range.end {
        let batch = rows.recv().map_err(|_| Error::Request("the reader of the table has stopped".into()))?;
        done += batch.len() as u64;
        let (mut heads, mut samples) = (Vec::new(), Vec::new());
        for Read { row, name, sample, problem } in batch {
            if let Some(problem) = &problem {
                if options.on_error == OnBad::Fail {
                    return Err(Error::Request(format!(
                        "{problem}; extract the other rows with --on-error skip or --on-error null"
                    )));
                }
                summary.problem(problem, PROBLEMS);
                if options.on_error == OnBad::Skip {
                    continue;
                }
            }
            heads.push((row, name, problem));
            samples.push(sample);
        }
        let count = samples.len();
        let batch = Batch::new(Pack::new(&towers.plan, samples))?;
        let mut columns = batch
            .inputs
            .columns
            .iter()
            .enumerate()
            .map(|(column, input)| Ok(towers.features(column, input, count)?.into_iter()))
            .collect::<Result<Vec<_>>>()?;
        for (row, name, error) in heads {
            let cells = columns.iter_mut().map(|c| c.next().flatten()).collect();
            let record = Record { row, name, error, cells };
            summary.add(&record);
            writer.write(&record)?;
        }
        watch(ExtractStep::Rows(done));
    }
    writer.finish(&summary)
}

fn summarise(shards: &Shards, towers: &Towers) -> Result<Extracted> {
    let mut whole = Summary::new(towers.plan.columns.len());
    for shard in 0..shards.count() {
        whole.join(&shards.reader(shard)?.summary, PROBLEMS);
    }
    let names = towers.plan.columns.iter().map(|c| c.name.clone());
    Ok(Extracted {
        rows: whole.records,
        bad: whole.bad,
        problems: whole.problems,
        present: names.zip(whole.present).collect(),
        ..Extracted::default()
    })
}
