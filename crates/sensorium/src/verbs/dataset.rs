//! A table with its types, splits and cache, as the verbs share it.

use crate::batch::Batch;
use crate::config::FitConfig;
use crate::{Error, Result};
use sensorium_data::{
    Augmentation, BatchSize, Cache, DataPlan, Loader, LoaderOptions, Schema, SchemaOptions, SplitOptions, Splits,
    Table, TableOptions, Value,
};
use sensorium_train::{Batches, BoxError, Source, TrainConfig};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// An opened table under a configuration.
#[derive(Debug, Clone)]
pub struct Dataset {
    /// The table.
    pub table: Arc<Table>,
    /// The types of its columns.
    pub schema: Schema,
    /// Which rows are for what.
    pub splits: Splits,
    /// Decoded media on disk.
    pub cache: Option<Arc<Cache>>,
}

/// Where decoded media are kept: `SENSORIUM_CACHE`, or the user's cache folder.
pub fn cache_folder() -> Option<PathBuf> {
    let set = |name| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    set("SENSORIUM_CACHE")
        .or_else(|| set("XDG_CACHE_HOME").map(|p| p.join("sensorium")))
        .or_else(|| set("HOME").map(|p| p.join(".cache").join("sensorium")))
}

impl Dataset {
    /// Opens a table and decides on types and splits.
    ///
    /// # Errors
    /// When the table cannot be read or the configuration names unknown columns.
    pub fn open(path: &Path, config: &FitConfig) -> Result<Self> {
        Self::of(Table::open(path, &TableOptions::default())?, config)
    }

    /// As [`Dataset::open`], of an opened table.
    ///
    /// # Errors
    /// When the configuration names unknown columns.
    pub fn of(table: Table, config: &FitConfig) -> Result<Self> {
        let options = SchemaOptions {
            label: config.label.column.clone(),
            types: config.data.types.clone(),
            ignore: config.data.ignore.clone(),
            split: config.data.split.clone(),
            group: config.data.group.clone(),
        };
        let schema = Schema::infer(&table, &options)?;
        let label = schema.label().map(|c| c.name.clone());
        let stratify =
            label.filter(|_| config.data.stratify && config.label.task != Some(sensorium_data::LabelTask::Regression));
        let splits = Splits::of(
            &table,
            &SplitOptions {
                column: schema.split.clone(),
                group: config.data.group.clone(),
                stratify,
                identifier: schema.identifier().map(|c| c.name.clone()),
                val: config.data.val,
                test: config.data.test,
                seed: config.data.seed.unwrap_or(0),
            },
        )?;
        Ok(Self { table: Arc::new(table), schema, splits, cache: open_cache(config, "media")? })
    }

    /// A loader of some rows in their order, for validation and evaluation;
    /// if `labelled`, of those that have a label, also where they have no input.
    ///
    /// # Errors
    /// When the table lacks the plan's columns.
    pub fn in_order(&self, plan: &Arc<DataPlan>, rows: &[u64], config: &FitConfig, labelled: bool) -> Result<Loader> {
        let options = LoaderOptions { require_target: labelled, keep_empty: labelled, ..loader_options(config) };
        Ok(Loader::new(Arc::clone(&self.table), Arc::clone(plan), rows.to_vec(), self.cache.clone(), options)?)
    }

    /// A loader of the training rows (where the plan has a label, of those that have one):
    /// shuffled, bucketed by length, varied.
    ///
    /// # Errors
    /// When the table lacks the plan's columns.
    pub fn for_training(
        &self,
        plan: &Arc<DataPlan>,
        config: &FitConfig,
        augmentation: Option<Augmentation>,
    ) -> Result<Loader> {
        let TrainConfig { batch_size, token_budget, seed, .. } = config.train;
        let options = LoaderOptions {
            batch_size: if token_budget > 0 { BatchSize::Tokens(token_budget) } else { BatchSize::Samples(batch_size) },
            shuffle: true,
            seed,
            augmentation,
            require_target: plan.label.is_some(),
            ..loader_options(config)
        };
        let rows = self.splits.train.clone();
        Ok(Loader::new(Arc::clone(&self.table), Arc::clone(plan), rows, self.cache.clone(), options)?)
    }

    /// What rows are called: by the identifier column, else by their number
    /// from 1.
    ///
    /// # Errors
    /// When a row cannot be read.
    pub fn names(&self, rows: &[u64]) -> Result<Vec<String>> {
        let at = self.schema.identifier().map(|c| self.table.column_index(&c.name)).transpose()?;
        rows.iter()
            .map(|&row| {
                let number = (row + 1).to_string();
                Ok(match at {
                    Some(at) => self.table.row(row)?.values[at].as_text().unwrap_or(number),
                    None => number,
                })
            })
            .collect()
    }

    /// The values of a column in some rows; None where missing.
    ///
    /// # Errors
    /// When there is no such column or a row cannot be read.
    pub fn texts(&self, column: &str, rows: &[u64]) -> Result<Vec<Option<String>>> {
        let at = self.table.column_index(column)?;
        rows.iter().map(|&row| Ok(self.table.row(row)?.values.get(at).and_then(Value::as_text))).collect()
    }
}

fn loader_options(config: &FitConfig) -> LoaderOptions {
    LoaderOptions {
        batch_size: BatchSize::Samples(config.train.batch_size.max(1)),
        workers: rayon::current_num_threads().max(1),
        prefetch: 4,
        on_bad: config.data.on_error,
        max_bad_fraction: config.data.max_bad_fraction,
        ..LoaderOptions::default()
    }
}

/// A cache of a kind, `media` or `features`, within the user's cache folder.
pub(crate) fn open_cache(config: &FitConfig, kind: &str) -> Result<Option<Arc<Cache>>> {
    if !config.data.cache {
        return Ok(None);
    }
    let bytes = config.data.cache_gb * 1e9;
    if !(bytes.is_finite() && bytes > 0.0) {
        return Err(Error::Config {
            place: "data.cache_gb".into(),
            problem: format!("{} is not a positive number of gigabytes", config.data.cache_gb),
        });
    }
    match cache_folder() {
        Some(folder) => Ok(Some(Arc::new(Cache::open(folder.join(kind), bytes as u64)?))),
        None => Ok(None),
    }
}

/// A loader as the training loop's source.
pub(crate) struct TrainingRows<'a>(pub &'a Loader);

impl Source<Batch> for TrainingRows<'_> {
    fn batches(&self, epoch: u64) -> usize {
        self.0.batches(epoch)
    }

    fn epoch(&self, epoch: u64, start_batch: usize) -> Batches<'_, Batch> {
        let batches = self.0.epoch(epoch, start_batch);
        Box::new(batches.map(|pack| pack.map_err(BoxError::from).and_then(|p| Batch::new(p).map_err(BoxError::from))))
    }
}
