//! Quantize: a model with codes of eight bits in place of its weights, for
//! inference: a quarter of the size, and faster.

use super::dataset::open_cache;
use super::evaluate::{EvaluateOptions, Evaluated, evaluate};
use crate::batch::Batch;
use crate::saved::{self, Model, SavedQuantization};
use crate::{Error, Result};
use rayon::prelude::*;
use sensorium_data::{Binding, Pack, Sample, Sampler, Table, TableOptions};
use sensorium_engine::quantized::Calibration;
use sensorium_model::{Deviation, Quantization};
use std::cell::RefCell;
use std::path::{Path, PathBuf};

/// Rows that ranges are chosen from: more change little.
const CALIBRATION_ROWS: u64 = 1024;
/// Files of a model's folder that are copied as they are.
const COPIED: [&str; 1] = ["report.html"];
/// The model card's file.
const CARD: &str = "README.md";

/// How to quantise.
#[derive(Debug, Clone, Default)]
pub struct QuantizeOptions {
    /// Where the quantised model is written; the folder must not be there yet.
    pub out: PathBuf,
    /// A table whose rows fix the ranges of activations. With the label's
    /// column, both models are measured on it.
    pub calibrate: Option<PathBuf>,
    /// Patterns of weights to leave as they are.
    pub keep: Vec<String>,
}

/// What quantising came to.
#[derive(Debug, Clone)]
pub struct QuantizeResult {
    /// The size of the weights' file before and after, in bytes.
    pub bytes: (u64, u64),
    /// The memory of the loaded weights before and after, in bytes.
    pub memory: (usize, usize),
    /// Each quantised weight and how far it is from what it was.
    pub deviations: Vec<Deviation>,
    /// The number of parameters that became codes, and of those that did not.
    pub parameters: (usize, usize),
    /// Names of what stayed as it was, with the number of parameters.
    pub kept: Vec<(String, usize)>,
    /// Rows that ranges were chosen from.
    pub calibrated_on: Option<usize>,
    /// The quantised model measured against the one before.
    pub evaluated: Option<Evaluated>,
    /// Remarks for the person.
    pub notes: Vec<String>,
}

/// Quantises a saved model into another folder.
///
/// # Errors
/// When the model cannot be loaded or is quantised already, `out` is there, a
/// pattern names nothing, or the table lacks the model's columns.
pub fn quantize(folder: &Path, options: &QuantizeOptions) -> Result<QuantizeResult> {
    if options.out.exists() {
        return Err(Error::Request(format!("{:?} is there already: name another folder with --out", options.out)));
    }
    let mut model = Model::load(folder)?;
    if model.is_quantized() {
        return Err(Error::model(folder, "is quantised already: give the model that it was made from"));
    }
    let mut notes = Vec::new();
    model.merge_adapter()?;
    let learner = &mut model.learner;
    let merged = learner.model.adapters().is_merged();
    if merged {
        notes.push("the adapter was folded into the weights".to_owned());
    }
    let memory_before = memory(&model);
    let mut rows = None;
    let calibration = match &options.calibrate {
        Some(table) => {
            let (calibration, met) = calibrate(&model, table)?;
            rows = Some(met);
            Some(calibration)
        }
        None => None,
    };
    let how = Quantization { keep: options.keep.clone(), calibration };
    let deviations = sensorium_model::quantize(&mut model.learner.params, &how)?;
    let unmet = deviations.iter().filter(|d| rows.is_some() && !d.fixed_range && d.name.ends_with(".weight"));
    match unmet.count() {
        0 => {}
        n => notes.push(format!("{n} layers met no row of the table: their inputs keep a range of their own per row")),
    }
    write(folder, &model, options, merged)?;
    // What was written is what is measured.
    let quantized = Model::load(&options.out)?;
    let size = |folder: &Path| std::fs::metadata(folder.join(saved::WEIGHTS_FILE)).map_or(0, |m| m.len());
    let mut result = QuantizeResult {
        bytes: (size(folder), size(&options.out)),
        memory: (memory_before, memory(&quantized)),
        deviations,
        parameters: (0, 0),
        kept: Vec::new(),
        calibrated_on: rows,
        evaluated: None,
        notes,
    };
    for (_, p) in quantized.learner.params.iter() {
        match p.quantized() {
            Some(_) => result.parameters.0 += p.value.len(),
            None => {
                result.parameters.1 += p.value.len();
                result.kept.push((p.name.clone(), p.value.len()));
            }
        }
    }
    if let Some(table) = &options.calibrate {
        let label = &quantized.learner.objective.label.column;
        if Table::open(table, &TableOptions::default())?.columns().contains(label) {
            let split = quantized.was_trained_on(table).then_some(sensorium_data::Split::Test);
            let before = Model::load(folder)?;
            let options = EvaluateOptions { split, against: Some(before), no_subsets: true };
            result.evaluated = Some(evaluate(&quantized, table, &options)?);
        } else {
            result.notes.push(format!("the table has no column {label:?}: the models were not measured on it"));
        }
    }
    Ok(result)
}

/// The memory of a model's weights in bytes.
fn memory(model: &Model) -> usize {
    model.learner.params.iter().map(|(_, p)| p.bytes()).sum()
}

/// What the linear layers are given for the rows of a table, evenly taken, and
/// how many rows that were. A table that the model was trained on gives those
/// of its training split.
fn calibrate(model: &Model, path: &Path) -> Result<(Calibration, usize)> {
    let table = Table::open(path, &TableOptions::default())?;
    let binding = Binding::new(&model.plan, &table)?;
    let sampler = Sampler::new(model.plan.clone(), table.folder(), open_cache(&model.config, "media")?);
    let rows: Vec<u64> = match model.was_trained_on(path) {
        true => super::Dataset::open(path, &model.config)?.splits.rows(sensorium_data::Split::Train).to_vec(),
        false => (0..table.len()).collect(),
    };
    let step = (rows.len() as u64).div_ceil(CALIBRATION_ROWS).max(1);
    let rows: Vec<u64> = rows.into_iter().step_by(step as usize).collect();
    let calibration = RefCell::new(Calibration::default());
    let mut met = 0;
    for rows in rows.chunks(model.config.train.batch_size.clamp(1, 64)) {
        let samples: Vec<Option<Sample>> = rows
            .par_iter()
            .map(|row| sampler.row(&table, &binding, *row, None).ok().filter(|s| !s.segments.is_empty()))
            .collect();
        let samples: Vec<Sample> = samples.into_iter().flatten().collect();
        if samples.is_empty() {
            continue;
        }
        met += samples.len();
        model.learner.calibrate(&Batch::new(Pack::new(&model.plan, samples))?, &calibration)?;
    }
    if met == 0 {
        return Err(Error::Request(format!("{path:?} has no row that the model can read: nothing to calibrate with")));
    }
    Ok((calibration.into_inner(), met))
}

/// Writes the folder under a temporary name first.
fn write(source: &Path, model: &Model, options: &QuantizeOptions, merged: bool) -> Result<()> {
    let mut name = options.out.file_name().unwrap_or_default().to_os_string();
    name.push(".partial");
    let partial = options.out.with_file_name(name);
    if partial.exists() {
        std::fs::remove_dir_all(&partial).map_err(|e| Error::io("remove", &partial, e))?;
    }
    let calibrated = options.calibrate.is_some();
    let quantization = SavedQuantization {
        weights: "int8".into(),
        activations: if calibrated { "calibrated" } else { "dynamic" }.into(),
        kept: options.keep.clone(),
    };
    let keeps_adapter = !merged && model.learner.model.adapters().active().is_some();
    saved::save_structure_as(&partial, model, quantization, keeps_adapter)?;
    saved::save_weights(&partial, &model.learner.model, &model.learner.params)?;
    for file in COPIED {
        copy(&source.join(file), &partial.join(file))?;
    }
    if keeps_adapter {
        let (from, to) = (source.join(crate::ADAPTER_FOLDER), partial.join(crate::ADAPTER_FOLDER));
        std::fs::create_dir_all(&to).map_err(|e| Error::io("create", &to, e))?;
        let entries = std::fs::read_dir(&from).map_err(|e| Error::io("read", &from, e))?;
        for entry in entries {
            let entry = entry.map_err(|e| Error::io("read", &from, e))?;
            copy(&entry.path(), &to.join(entry.file_name()))?;
        }
    }
    let card = std::fs::read_to_string(source.join(CARD)).unwrap_or_default();
    let how = if calibrated { "ranges of activations fixed from data" } else { "activations quantised row by row" };
    let note = format!(
        "> Quantised by `sensorium quantize`: weights are codes of 8 bits with a scale for each output, {how}. For \
         inference only. What follows, figures included, is about the model it was made from.\n\n"
    );
    saved::write(&partial.join(CARD), format!("{note}{card}").as_bytes())?;
    if let Some(parent) = options.out.parent().filter(|p| !p.as_os_str().is_empty()) {
        std::fs::create_dir_all(parent).map_err(|e| Error::io("create", parent, e))?;
    }
    std::fs::rename(&partial, &options.out).map_err(|e| Error::io("write", &options.out, e))
}

/// Copies a file, if it is there.
fn copy(from: &Path, to: &Path) -> Result<()> {
    if !from.is_file() {
        return Ok(());
    }
    let bytes = std::fs::read(from).map_err(|e| Error::io("read", from, e))?;
    saved::write(to, &bytes)
}
