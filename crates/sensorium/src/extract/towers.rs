//! The towers of an extraction: those of one of our models, or those of a
//! checkpoint, over the columns that they read.

use super::ExtractOptions;
use crate::learner::Learner;
use crate::verbs::open_cache;
use crate::{Error, FitConfig, Model, Result, processors};
use sensorium_data::{Cache, ColumnType, DataPlan, PlanOptions, Schema, Table};
use sensorium_engine::{Params, Tape};
use sensorium_model::pretrained::{PartConfig, Pretrained};
use sensorium_model::{ColumnInput, Context, Tower, TowerConfig};
use std::path::Path;
use std::sync::Arc;

/// Towers and the columns that they read.
pub(super) struct Towers {
    /// How the columns become inputs; in the order of the result.
    pub plan: Arc<DataPlan>,
    columns: Vec<Column>,
    pooled: bool,
    from: Origin,
}

/// A column of the plan.
struct Column {
    /// Its place among the model's columns, or its tower's among the
    /// checkpoint's.
    at: usize,
    config: TowerConfig,
    /// The layer whose hidden states are wanted, from 1.
    layer: Option<usize>,
}

enum Origin {
    Model(Box<Learner>, Box<FitConfig>),
    Checkpoint(Vec<(Tower, Params)>),
}

impl Towers {
    /// Opens a model's folder, or the weights file in it, and decides on the columns.
    pub(super) fn open(source: &Path, table: &Table, schema: &Schema, options: &ExtractOptions) -> Result<Self> {
        let ours = |folder: &&Path| folder.join(sensorium_data::plan::PLAN_FILE).exists();
        let beside = source.parent().filter(|_| source.is_file());
        let (plan, columns, from) = match [Some(source), beside].into_iter().flatten().find(ours) {
            Some(model) => of_model(model, options)?,
            None => of_checkpoint(source, table, schema, options)?,
        };
        let mut this = Self { plan: Arc::new(plan), columns, pooled: options.pooled, from };
        if let Some(layer) = options.layer {
            for (column, plan) in this.columns.iter_mut().zip(&this.plan.columns) {
                column.layer = Some(resolve(layer, column.config.layers(), &plan.name)?);
            }
        }
        Ok(this)
    }

    /// The width of a column's features.
    pub(super) fn dim(&self, column: usize) -> usize {
        let config = &self.columns[column].config;
        if self.pooled { config.dim() } else { config.hidden() }
    }

    /// The columns in words.
    pub(super) fn describe(&self) -> Vec<String> {
        let one = |(column, plan): (usize, &sensorium_data::ColumnPlan)| {
            let shape = if self.pooled { "" } else { "tokens × " };
            let layer = self.columns[column].layer.map(|l| format!(", layer {l}")).unwrap_or_default();
            format!("{} ({}, {shape}{}{layer})", plan.name, plan.modality.name(), self.dim(column))
        };
        self.plan.columns.iter().enumerate().map(one).collect()
    }

    /// Decoded media that a fit has left.
    pub(super) fn cache(&self) -> Result<Option<Arc<Cache>>> {
        match &self.from {
            Origin::Model(_, config) => open_cache(config, "media"),
            // Every file is read once.
            Origin::Checkpoint(_) => Ok(None),
        }
    }

    /// The features of a column for each of `samples`: `[dim]`, or
    /// `[tokens, dim]`; None where a sample lacks the column.
    pub(super) fn features(&self, at: usize, input: &ColumnInput, samples: usize) -> Result<Vec<Option<Vec<f32>>>> {
        let column = &self.columns[at];
        if input.sample_of().is_empty() {
            return Ok(vec![None; samples]);
        }
        let tape = Tape::inference();
        let (params, tower, adapters) = match &self.from {
            Origin::Model(learner, _) => {
                (&learner.params, learner.model.tower(column.at), Some(learner.model.adapters()))
            }
            Origin::Checkpoint(towers) => (&towers[column.at].1, &towers[column.at].0, None),
        };
        let cx = Context::inference(&tape, params);
        let cx = if column.layer.is_some() { cx.keeping_hidden() } else { cx };
        let adapted = adapters.map(|adapters| cx.with_adapters(adapters));
        let cx = adapted.as_ref().unwrap_or(&cx);
        let mut features = tower.forward(cx, input)?;
        if let Some(layer) = column.layer {
            // A tower within a tower (the frames of a video) stands before it.
            let hidden = cx.take_hidden();
            let own = hidden.len().checked_sub(column.config.layers()).and_then(|first| hidden.get(first + layer - 1));
            let own = own.ok_or_else(|| Error::Request(format!("the tower has no hidden states of layer {layer}")))?;
            features.tokens = own.clone();
            if self.pooled {
                features.pooled = tower.pool(cx, &features.tokens, &features.offsets)?;
            }
        }
        let dim = self.dim(at);
        let mut rows = vec![None; samples];
        if self.pooled {
            let (vectors, of) = features.sample_vectors(cx, samples)?;
            for (row, at) in rows.iter_mut().zip(of) {
                *row = at.map(|at| vectors.value().data()[at as usize * dim..][..dim].to_vec());
            }
        } else {
            let values = features.tokens.value().data();
            for (segment, sample) in features.sample_of.iter().enumerate() {
                let range = features.offsets.range(segment);
                let row: &mut Vec<f32> = rows[*sample as usize].get_or_insert_default();
                row.extend(&values[range.start * dim..range.end * dim]);
            }
        }
        Ok(rows)
    }

    /// A hash of all that decides about the features of a row: weights,
    /// structure and the way inputs are prepared.
    pub(super) fn fingerprint(&self) -> String {
        let mut hasher = blake3::Hasher::new();
        let configs: Vec<&TowerConfig> = self.columns.iter().map(|c| &c.config).collect();
        // Both are plain data, which always has a JSON.
        hasher.update(serde_json::json!([&*self.plan, configs]).to_string().as_bytes());
        if let Some(tokenizer) = &self.plan.tokenizer {
            hasher.update(tokenizer.json());
        }
        let mut add = |params: &Params| {
            for (_, p) in params.iter() {
                hasher.update(p.name.as_bytes());
                p.digest(|bytes| {
                    hasher.update(bytes);
                });
            }
        };
        match &self.from {
            Origin::Model(learner, _) => add(&learner.params),
            Origin::Checkpoint(towers) => towers.iter().for_each(|(_, params)| add(params)),
        }
        hasher.finalize().to_hex().to_string()
    }
}

/// A plan's columns and the towers for them.
type Parts = (DataPlan, Vec<Column>, Origin);

/// The towers of one of our models.
fn of_model(source: &Path, options: &ExtractOptions) -> Result<Parts> {
    if let Some(column) = options.types.keys().next() {
        return Err(Error::Request(format!(
            "the type of column {column:?} was decided when {source:?} was fitted; leave --type out"
        )));
    }
    let model = Model::load(source)?;
    let mut plan = DataPlan::clone(&model.plan);
    plan.label = None;
    let inputs = std::mem::take(&mut plan.columns);
    for wanted in &options.columns {
        if !inputs.iter().any(|c| c.name == *wanted || c.source == *wanted) {
            return Err(Error::Request(format!(
                "the model has no input {wanted:?}; its inputs are: {}",
                model.columns().join(", ")
            )));
        }
    }
    let towers = &model.learner.model.config().columns;
    let mut columns = Vec::new();
    for (at, (input, named)) in inputs.into_iter().zip(towers).enumerate() {
        if options.columns.is_empty()
            || options.columns.contains(&input.name)
            || options.columns.contains(&input.source)
        {
            columns.push(Column { at, config: named.tower.clone(), layer: None });
            plan.columns.push(input);
        }
    }
    Ok((plan, columns, Origin::Model(Box::new(model.learner), Box::new(model.config))))
}

/// The towers of a checkpoint, over the columns of a table that they can read.
fn of_checkpoint(source: &Path, table: &Table, schema: &Schema, options: &ExtractOptions) -> Result<Parts> {
    let checkpoint = Pretrained::open(source)?;
    let mut towers: Vec<(&str, TowerConfig, ColumnType)> = Vec::new();
    for part in checkpoint.parts() {
        if let PartConfig::Tower(config) = &part.config
            && let Some(kind) = reads(config)
        {
            towers.push((part.name, TowerConfig::clone(config), kind));
        }
    }
    if towers.is_empty() {
        let parts: Vec<&str> = checkpoint.parts().iter().map(|p| p.name).collect();
        return Err(Error::model(
            source,
            format!(
                "is a {} checkpoint without an encoder (it holds: {}); features come from encoders of text, pictures, sound or video",
                checkpoint.family().name,
                parts.join(", ")
            ),
        ));
    }
    let kinds: Vec<ColumnType> = towers.iter().map(|t| t.2).collect();
    let mut chosen = choose(schema, table, &kinds, options)?;
    let mut plan_options = PlanOptions::default();
    let mut columns = Vec::new();
    for column in chosen.columns.iter().filter(|c| c.kind.is_input()) {
        let at = kinds.iter().position(|kind| *kind == column.kind).unwrap_or(0);
        columns.push(Column { at, config: towers[at].1.clone(), layer: None });
    }
    // What no column needs is neither prepared nor loaded.
    let mut loaded = Vec::new();
    for (at, (part, config, _)) in towers.iter().enumerate() {
        let place = loaded.len();
        let mut used = false;
        for column in columns.iter_mut().filter(|c| c.at == at && c.config == *config) {
            (column.at, used) = (place, true);
        }
        if used {
            processors::prepare(&checkpoint, config, &mut plan_options)?;
            loaded.push(checkpoint.load_tower(part)?);
        }
    }
    chosen.split = None;
    let plan = DataPlan::fit(table, &chosen, &[], &plan_options)?;
    Ok((plan, columns, Origin::Checkpoint(loaded)))
}

/// The columns that a tower can read.
fn reads(config: &TowerConfig) -> Option<ColumnType> {
    match config {
        TowerConfig::Text(_) => Some(ColumnType::Text),
        TowerConfig::Image(_) => Some(ColumnType::Image),
        TowerConfig::Audio(_) => Some(ColumnType::Audio),
        TowerConfig::Video(_) | TowerConfig::SpaceTime(_) => Some(ColumnType::Video),
        TowerConfig::Features(_) | TowerConfig::Tabular(_) => None,
    }
}

/// The schema with only the columns to extract as inputs: those named, or all
/// of the given types.
fn choose(schema: &Schema, table: &Table, kinds: &[ColumnType], options: &ExtractOptions) -> Result<Schema> {
    let names = || kinds.iter().map(|k| k.name()).collect::<Vec<_>>().join(" and ");
    for wanted in &options.columns {
        table.column_index(wanted)?;
    }
    let mut chosen = schema.clone();
    for column in &mut chosen.columns {
        let named = options.columns.contains(&column.name);
        let readable = kinds.contains(&column.kind) && !column.precomputed;
        column.kind = match (named, readable) {
            (true, true) => column.kind,
            (false, true) if options.columns.is_empty() => column.kind,
            (true, false) if !column.kind.is_media() && !column.precomputed && kinds.contains(&ColumnType::Text) => {
                // Short texts look like categories or identifiers.
                ColumnType::Text
            }
            (true, false) => {
                return Err(Error::Request(format!(
                    "column {:?} is {}, and the model reads {}; say --type {}={} if it is",
                    column.name,
                    column.kind,
                    names(),
                    column.name,
                    kinds[0]
                )));
            }
            (false, _) if column.kind == ColumnType::Identifier => ColumnType::Identifier,
            (false, _) => ColumnType::Ignore,
        };
    }
    if chosen.inputs().next().is_none() {
        return Err(Error::Request(format!(
            "the model reads {}, and no column of {:?} is; types: {}; name one with --column, or say --type COLUMN={}",
            names(),
            table.path(),
            schema.columns.iter().map(|c| format!("{}={}", c.name, c.kind)).collect::<Vec<_>>().join(", "),
            kinds[0]
        )));
    }
    Ok(chosen)
}

/// A layer from 1, from one that may count from the end.
fn resolve(layer: i64, layers: usize, column: &str) -> Result<usize> {
    let from_start = if layer < 0 { layer + layers as i64 + 1 } else { layer };
    if (1..=layers as i64).contains(&from_start) {
        return Ok(from_start as usize);
    }
    Err(Error::Request(match layers {
        0 => format!("column {column:?} has no layers to choose --layer {layer} from; choose others with --column"),
        _ => format!(
            "column {column:?} has no layer {layer}; its tower has 1 to {layers}, or -{layers} to -1 from the end"
        ),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_count_from_both_ends() {
        for (layer, of, wanted) in [(1, 6, 1), (6, 6, 6), (-1, 6, 6), (-6, 6, 1)] {
            assert_eq!(resolve(layer, of, "a").ok(), Some(wanted), "{layer} of {of}");
        }
        for (layer, of) in [(0, 6), (7, 6), (-7, 6), (1, 0), (i64::MIN, 6)] {
            assert!(resolve(layer, of, "a").is_err(), "{layer} of {of}");
        }
    }
}
