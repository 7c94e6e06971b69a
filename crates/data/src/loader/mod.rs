//! Batches in a fixed order, prepared ahead by several threads.
//!
//! The order of an epoch is a function of the seed and the epoch alone; each sample is a
//! function of its row, and of the seed and the epoch where it is augmented. So the packs are the
//! same whatever the number of threads, and any batch can be the first one: resuming is asking for
//! the rest of an epoch.

mod order;
mod prefetch;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rayon::prelude::*;

use crate::augment::{AugmentKey, Augmentation};
use crate::cache::Cache;
use crate::error::{DataError, Result};
use crate::features::read_features;
use crate::pack::Pack;
use crate::plan::DataPlan;
use crate::processor::{AudioFeatures, Processor};
use crate::sampler::{Binding, Sampler};
use crate::segment::{Problem, Sample};
use crate::table::{Table, Value};

pub use order::BatchSize;
use order::EpochOrder;
pub use prefetch::Epoch;

/// What to do with a row of which some cell cannot be used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnBad {
    /// Stop with an error.
    Fail,
    /// Leave the row out.
    Skip,
    /// Treat the cell as missing; a row without anything left is left out.
    #[default]
    Null,
}

/// How to load.
#[derive(Clone, Debug)]
pub struct LoaderOptions {
    /// Size of the batches (default 32 samples).
    pub batch_size: BatchSize,
    /// Whether each epoch has its own order (default false).
    pub shuffle: bool,
    /// Seed of order and augmentation (default 0).
    pub seed: u64,
    /// Samples of similar length share batches within windows of this many batches; 0 or 1 turns
    /// that off (default 0).
    pub bucket_window: usize,
    /// Threads that prepare samples (default 1, at least 1).
    pub workers: usize,
    /// Batches prepared ahead (default 2, at least 1).
    pub prefetch: usize,
    /// What to do with bad rows (default [`OnBad::Null`]).
    pub on_bad: OnBad,
    /// The share of bad rows of an epoch that stops the run (default 0.05). One bad row never does.
    pub max_bad_fraction: f64,
    /// Variation of training samples (default none).
    pub augmentation: Option<Augmentation>,
    /// Whether rows without a target are left out (default false).
    pub require_target: bool,
    /// Whether rows with a target and no usable input are kept, as samples without segments, so
    /// that an evaluation can count them (default false: they are left out).
    pub keep_empty: bool,
}

impl Default for LoaderOptions {
    fn default() -> Self {
        LoaderOptions {
            batch_size: BatchSize::Samples(32),
            shuffle: false,
            seed: 0,
            bucket_window: 0,
            workers: 1,
            prefetch: 2,
            on_bad: OnBad::Null,
            max_bad_fraction: 0.05,
            augmentation: None,
            require_target: false,
            keep_empty: false,
        }
    }
}

/// What loading has cost so far, over all epochs of a loader.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct LoaderStatistics {
    /// Samples handed out.
    pub samples: u64,
    /// Tokens of texts handed out.
    pub text_tokens: u64,
    /// Rows with a cell that could not be used.
    pub bad: u64,
    /// Rows left out.
    pub skipped: u64,
    /// Texts that lost their end.
    pub truncated: u64,
    /// Time the consumer waited for batches.
    pub waited: Duration,
    /// Time between the first request and the last answer: waiting and what the consumer did.
    pub elapsed: Duration,
}

impl LoaderStatistics {
    /// The share of time spent waiting for data.
    pub fn wait_fraction(&self) -> f64 {
        if self.elapsed.is_zero() { 0.0 } else { self.waited.as_secs_f64() / self.elapsed.as_secs_f64() }
    }
}

/// The rows of a column of which the cell could not be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadCells {
    /// The column.
    pub column: String,
    /// How many rows, each counted once over all epochs.
    pub rows: u64,
    /// What was wrong with the first of them in the table.
    pub first: Problem,
}

/// Counters behind [`LoaderStatistics`].
#[derive(Debug, Default)]
struct Counters {
    samples: AtomicU64,
    text_tokens: AtomicU64,
    bad: AtomicU64,
    skipped: AtomicU64,
    truncated: AtomicU64,
    waited_ns: AtomicU64,
    elapsed_ns: AtomicU64,
}

/// What the workers share.
#[derive(Debug)]
struct Source {
    table: Arc<Table>,
    binding: Binding,
    sampler: Sampler,
    options: LoaderOptions,
    counters: Counters,
    /// Of each column the rows with a problem, and that of the first.
    bad: Mutex<BTreeMap<String, (BTreeSet<u64>, Problem)>>,
}

impl Source {
    fn load(&self, row: u64, epoch: u64) -> Result<Sample> {
        let augmentation = self.options.augmentation.as_ref();
        let key = AugmentKey::new(self.options.seed, epoch, row);
        self.sampler.row(&self.table, &self.binding, row, augmentation.map(|a| (a, key)))
    }
}

/// Loads some rows of a table in batches.
#[derive(Clone, Debug)]
pub struct Loader {
    source: Arc<Source>,
    rows: Arc<Vec<u64>>,
    /// Estimated length of each of `rows`; empty where the order does not need it.
    costs: Arc<Vec<u32>>,
}

impl Loader {
    /// A loader of `rows`, in their order unless shuffled.
    ///
    /// Batches by tokens or by length need the length of every row: texts are tokenized once for
    /// that, other modalities are estimated from their configs, features from their headers; it
    /// costs 4 bytes per row.
    ///
    /// # Errors
    /// A table without any input of the plan, options that make no sense.
    pub fn new(
        table: Arc<Table>,
        plan: Arc<DataPlan>,
        rows: Vec<u64>,
        cache: Option<Arc<Cache>>,
        options: LoaderOptions,
    ) -> Result<Loader> {
        if matches!(options.batch_size, BatchSize::Samples(0) | BatchSize::Tokens(0)) {
            return Err(DataError::Options("the batch size is 0; expected at least 1".into()));
        }
        if !(0.0..=1.0).contains(&options.max_bad_fraction) {
            return Err(DataError::Options(format!(
                "max_bad_fraction is {}; expected 0 to 1",
                options.max_bad_fraction
            )));
        }
        if let Some(augmentation) = &options.augmentation {
            augmentation.check().map_err(|error| DataError::Options(error.to_string()))?;
        }
        if rows.len() > u32::MAX as usize {
            return Err(DataError::Options(format!("{} rows are more than this program loads (2^32)", rows.len())));
        }
        if let Some(row) = rows.iter().find(|row| **row >= table.len()) {
            return Err(DataError::RowOutOfRange { table: table.path().to_path_buf(), row: row + 1, len: table.len() });
        }
        let binding = Binding::new(&plan, &table)?;
        let sampler = Sampler::new(plan, table.folder(), cache);
        let source = Source { table, binding, sampler, options, counters: Counters::default(), bad: Mutex::default() };
        let needs_costs = source.options.bucket_window > 1 || matches!(source.options.batch_size, BatchSize::Tokens(_));
        let costs = if needs_costs {
            rows.par_iter().map(|row| source.cost(*row)).collect::<Result<Vec<u32>>>()?
        } else {
            Vec::new()
        };
        Ok(Loader { source: Arc::new(source), rows: Arc::new(rows), costs: Arc::new(costs) })
    }

    /// The plan that is followed.
    pub fn plan(&self) -> &Arc<DataPlan> {
        self.source.sampler.plan()
    }

    /// The rows that are loaded.
    pub fn rows(&self) -> &[u64] {
        &self.rows
    }

    /// How many batches an epoch has.
    pub fn batches(&self, epoch: u64) -> usize {
        match self.source.options.batch_size {
            BatchSize::Samples(size) => self.rows.len().div_ceil(size),
            BatchSize::Tokens(_) => self.order(epoch).batches(),
        }
    }

    /// The batches of an epoch from `start_batch` on. Dropping the iterator stops its threads.
    ///
    /// A batch of which every row was left out is still handed out, empty, so that batch numbers
    /// mean the same in every run.
    pub fn epoch(&self, epoch: u64, start_batch: usize) -> Epoch {
        Epoch::start(self.source.clone(), self.order(epoch), epoch, start_batch)
    }

    /// One sample by its row in the table, not augmented.
    pub fn load_row(&self, row: u64) -> Result<Sample> {
        self.source.sampler.row(&self.source.table, &self.source.binding, row, None)
    }

    /// What loading has cost so far.
    pub fn statistics(&self) -> LoaderStatistics {
        let counters = &self.source.counters;
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        LoaderStatistics {
            samples: get(&counters.samples),
            text_tokens: get(&counters.text_tokens),
            bad: get(&counters.bad),
            skipped: get(&counters.skipped),
            truncated: get(&counters.truncated),
            waited: Duration::from_nanos(get(&counters.waited_ns)),
            elapsed: Duration::from_nanos(get(&counters.elapsed_ns)),
        }
    }

    /// The cells that could not be used so far, by column.
    pub fn bad_cells(&self) -> Vec<BadCells> {
        let bad = self.source.bad.lock().unwrap_or_else(PoisonError::into_inner);
        let told = |(column, (rows, first)): (&String, &(BTreeSet<u64>, Problem))| BadCells {
            column: column.clone(),
            rows: rows.len() as u64,
            first: first.clone(),
        };
        bad.iter().map(told).collect()
    }

    fn order(&self, epoch: u64) -> EpochOrder {
        let options = &self.source.options;
        let shuffle = options.shuffle.then_some((options.seed, epoch));
        EpochOrder::new(self.rows.clone(), &self.costs, options.batch_size, shuffle, options.bucket_window)
    }
}

/// Pixels of a side of the patch that a picture's length is estimated with.
const PATCH: usize = 16;
/// Samples of a token of models that read samples, 20 ms at 16 kHz.
const SAMPLES_PER_TOKEN: usize = 320;

impl Source {
    /// The estimated length of a row in tokens: text exactly, pictures by patches of 16 pixels,
    /// sound by patches of 16 frames and 16 bands at its longest, features by their rows.
    fn cost(&self, row: u64) -> Result<u32> {
        let plan = self.sampler.plan();
        let values = self.table.row(row)?.values;
        let mut cost = 0;
        for (column, at) in plan.columns.iter().zip(self.binding.inputs()) {
            let value = at.map_or(&Value::Missing, |at| &values[at]);
            if value.is_missing() {
                continue;
            }
            let picture = |size: usize| size.div_ceil(PATCH).pow(2) + 1;
            cost += match &column.processor {
                Processor::Text(config) => {
                    let mut tokens = 0;
                    for (tokenizer, text) in
                        plan.tokenizer.iter().flat_map(|t| value.texts().into_iter().map(move |x| (t, x)))
                    {
                        tokens += tokenizer.encode(&text, config.max_tokens)?.ids.len();
                    }
                    tokens
                }
                Processor::Image(config) => picture(config.size),
                Processor::Video(config) => config.frames * picture(config.size),
                Processor::Audio(config) => {
                    let frames = (config.max_seconds * config.frames_per_second()) as usize;
                    match config.features {
                        AudioFeatures::Waveform => frames.div_ceil(SAMPLES_PER_TOKEN),
                        _ => frames.div_ceil(PATCH) * config.mels.div_ceil(PATCH),
                    }
                }
                Processor::Features(config) => {
                    read_features(value, self.table.folder()).map_or(0, |matrix| matrix.rows.min(config.max_rows))
                }
                Processor::Number(_) | Processor::Category(_) => 1,
            };
        }
        Ok(u32::try_from(cost).unwrap_or(u32::MAX).max(1))
    }

    /// Remembers the problems of a row.
    fn note(&self, problems: &[Problem]) {
        for problem in problems {
            let mut bad = self.bad.lock().unwrap_or_else(PoisonError::into_inner);
            let (rows, first) = bad.entry(problem.column.clone()).or_insert_with(|| (BTreeSet::new(), problem.clone()));
            rows.insert(problem.row);
            if problem.row < first.row {
                *first = problem.clone();
            }
        }
    }

    /// Applies the policy to the samples of a batch.
    fn pack(&self, samples: Vec<Sample>, bad: &mut Vec<Problem>) -> Result<Pack> {
        let mut kept = Vec::with_capacity(samples.len());
        let (mut bad_rows, mut skipped) = (0, 0);
        for sample in samples {
            bad_rows += u64::from(!sample.problems.is_empty());
            self.note(&sample.problems);
            if let (OnBad::Fail, Some(problem)) = (self.options.on_bad, sample.problems.first()) {
                return Err(DataError::cell(problem.row, &problem.column, problem.message.clone()));
            }
            let leave_out = (sample.is_empty() && !(self.options.keep_empty && sample.target.is_some()))
                || (self.options.on_bad == OnBad::Skip && !sample.problems.is_empty())
                || (self.options.require_target && sample.target.is_none());
            bad.extend(sample.problems.first().cloned());
            if leave_out {
                skipped += 1;
            } else {
                kept.push(sample);
            }
        }
        let mut pack = Pack::new(self.sampler.plan(), kept);
        pack.skipped = skipped;
        let add = |counter: &AtomicU64, by: u64| counter.fetch_add(by, Ordering::Relaxed);
        add(&self.counters.samples, pack.len() as u64);
        add(&self.counters.text_tokens, pack.text_tokens() as u64);
        add(&self.counters.bad, bad_rows);
        add(&self.counters.skipped, u64::from(skipped));
        add(&self.counters.truncated, u64::from(pack.truncated));
        Ok(pack)
    }
}

#[cfg(test)]
mod tests;
