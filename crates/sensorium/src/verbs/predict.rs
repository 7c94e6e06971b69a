//! Predict: answers for new rows, streaming and in their order.

use super::dataset::open_cache;
use crate::batch::Batch;
use crate::saved::Model;
use crate::task::Decision;
use crate::{Error, Result};
use rayon::prelude::*;
use sensorium_data::{
    Binding, ColumnPlan, Modality, OnBad, Pack, Problem, Processor, Sample, Sampler, Table, TableOptions, Value,
};
use std::path::Path;
use std::sync::mpsc::sync_channel;

/// The answer to one row.
#[derive(Debug, Clone, PartialEq)]
pub struct Prediction {
    /// The table row, from 0.
    pub row: u64,
    /// The decision; None for a row that could not be read.
    pub decision: Option<Decision>,
    /// The decision in words: the class, the labels, the number.
    pub label: Option<String>,
    /// Why there is no decision.
    pub problem: Option<String>,
}

/// What a pass over a table came to.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Counts {
    /// Rows answered.
    pub answered: u64,
    /// Rows that could not be read.
    pub bad: u64,
    /// The first few problems.
    pub problems: Vec<String>,
    /// Inputs of the model that the table lacks.
    pub absent: Vec<String>,
}

/// Problems kept for the person to read.
const PROBLEMS: usize = 10;

/// Predicts every row of a table, in order, handing each answer to `each`.
/// Memory does not grow with the table; rows are read while others are
/// answered.
///
/// # Errors
/// When the table cannot be read, `each` fails, or a row cannot be read under
/// [`OnBad::Fail`].
pub fn predict_table(
    model: &Model,
    path: &Path,
    on_error: OnBad,
    each: &mut dyn FnMut(Prediction) -> Result<()>,
) -> Result<Counts> {
    let table = Table::open(path, &TableOptions::default())?;
    let binding = Binding::new(&model.plan, &table)?;
    let sampler = Sampler::new(model.plan.clone(), table.folder(), open_cache(&model.config, "media")?);
    let mut counts =
        Counts { absent: binding.absent(&model.plan).into_iter().map(str::to_owned).collect(), ..Counts::default() };
    let size = model.config.train.batch_size.clamp(1, 256) as u64;
    std::thread::scope(|scope| {
        let (sender, receiver) = sync_channel(2);
        let (table, binding, sampler) = (&table, &binding, &sampler);
        scope.spawn(move || {
            for first in (0..table.len()).step_by(size as usize) {
                let rows: Vec<u64> = (first..(first + size).min(table.len())).collect();
                let samples: Vec<_> = rows.par_iter().map(|r| (*r, sampler.row(table, binding, *r, None))).collect();
                if sender.send(samples).is_err() {
                    return;
                }
            }
        });
        for samples in receiver {
            let mut read = Vec::with_capacity(samples.len());
            for (row, sample) in samples {
                read.push((row, sample.map_err(|e| e.to_string())));
            }
            for prediction in answer_samples(model, read)? {
                match (&prediction.problem, on_error) {
                    (None, _) => counts.answered += 1,
                    (Some(problem), OnBad::Fail) => {
                        return Err(Error::Request(format!(
                            "{problem}; answer the other rows with --on-error skip or --on-error null"
                        )));
                    }
                    (Some(problem), _) => {
                        counts.bad += 1;
                        if counts.problems.len() < PROBLEMS {
                            counts.problems.push(problem.clone());
                        }
                    }
                }
                if prediction.problem.is_none() || on_error == OnBad::Null {
                    each(prediction)?;
                }
            }
        }
        Ok(counts)
    })
}

/// Predicts one sample given by values for some of the model's columns.
///
/// # Errors
/// When a name is no column of the model, or a value cannot be used.
pub fn predict_values(model: &Model, values: &[(String, Value)], folder: &Path) -> Result<Prediction> {
    let sampler = Sampler::new(model.plan.clone(), folder, None);
    let sample = sampler.from_values(0, values)?;
    let prediction = answer_samples(model, vec![(0, Ok(sample))])?.pop();
    let prediction = prediction.ok_or_else(|| Error::Request("nothing to predict from".into()))?;
    match prediction.problem {
        Some(problem) => Err(Error::Request(problem)),
        None => Ok(prediction),
    }
}

/// The model's only column of a modality, for values given without a name.
///
/// # Errors
/// When there is none, or more than one.
pub fn only_column(model: &Model, modality: Modality) -> Result<String> {
    let sources = |wanted: &dyn Fn(&ColumnPlan) -> bool| -> Vec<&str> {
        model.plan.columns.iter().filter(|c| wanted(c) && !c.sound_track).map(|c| c.source.as_str()).collect()
    };
    let mut columns = sources(&|c| c.modality == modality);
    if columns.is_empty() && modality == Modality::Text {
        // A text of few different values is read as a category.
        columns = sources(&|c| matches!(c.processor, Processor::Category(_)));
    }
    match columns.as_slice() {
        [one] => Ok((*one).to_owned()),
        [] => Err(Error::Request(format!(
            "the model takes no {}; its inputs are: {}",
            modality.name(),
            model.columns().join(", ")
        ))),
        many => Err(Error::Request(format!(
            "the model takes several columns of {}: name one, as --input {}=…; they are: {}",
            modality.name(),
            many[0],
            many.join(", ")
        ))),
    }
}

/// Answers for samples in their order; those that could not be read, or have
/// nothing to go by, get a problem instead.
fn answer_samples(model: &Model, samples: Vec<(u64, std::result::Result<Sample, String>)>) -> Result<Vec<Prediction>> {
    let mut predictions = Vec::with_capacity(samples.len());
    let mut good = Vec::new();
    for (row, sample) in samples {
        let problem = match sample {
            Err(problem) => Some(problem),
            Ok(sample) => match sample.problems.iter().find(|p| !concerns_label(model, p)) {
                Some(p) => Some(format!("row {}, column {:?}: {}", p.row + 1, p.column, p.message)),
                None if sample.segments.is_empty() => {
                    Some(format!("row {}: every input of the model is missing", row + 1))
                }
                None => {
                    good.push(sample);
                    None
                }
            },
        };
        predictions.push(Prediction { row, decision: None, label: None, problem });
    }
    if good.is_empty() {
        return Ok(predictions);
    }
    let batch = Batch::new(Pack::new(&model.plan, good))?;
    let mut decisions = model.learner.answer(&batch)?.decisions.into_iter();
    for p in predictions.iter_mut().filter(|p| p.problem.is_none()) {
        p.decision = decisions.next();
        p.label = p.decision.as_ref().map(|d| model.learner.objective.describe(d));
    }
    Ok(predictions)
}

/// An unknown label does not keep a row from being answered.
fn concerns_label(model: &Model, problem: &Problem) -> bool {
    problem.column == model.learner.objective.label.column
}
