//! What is said of a fit before it trains: columns, towers, parameters, cost.

use super::Dataset;
use crate::config::{FitConfig, MethodName};
use crate::{Error, Result};
use sensorium_engine::{Params, Tape};
use sensorium_model::Towers;
use sensorium_model::towers::{ImageStem, ImageTowerConfig};
use sensorium_train::{BoxError, Inventory, Source, StepContext, Trainable};
use std::time::Instant;

/// Seconds of one forward and backward pass, and tokens in it.
///
/// # Errors
/// When a batch cannot be read, or the model cannot take it.
pub(crate) fn measure_step<M: Trainable>(model: &M, training: &dyn Source<M::Batch>) -> Result<Option<(f64, usize)>> {
    let failed = |e: BoxError| Error::Request(e.to_string());
    let Some(batch) = training.epoch(0, 0).next() else { return Ok(None) };
    let batch = batch.map_err(failed)?;
    let (mut best, mut tokens) = (f64::INFINITY, 0);
    // The first pass fills the buffer pool; the second is what steps cost.
    for _ in 0..2 {
        let start = Instant::now();
        let tape = Tape::new();
        let step = model.loss(&tape, &batch, &StepContext::training(0, 0, 0, 0)).map_err(failed)?;
        if step.samples == 0 {
            return Ok(None);
        }
        tokens = step.tokens;
        tape.backward(&step.loss)?;
        best = best.min(start.elapsed().as_secs_f64());
    }
    Ok(Some((best, tokens)))
}

/// The columns with their types and why, and the splits.
pub(crate) fn describe_columns(dataset: &Dataset) -> String {
    let mut table = sensorium_eval::Table::new([
        ("column", sensorium_eval::Align::Left),
        ("type", sensorium_eval::Align::Left),
        ("because", sensorium_eval::Align::Left),
    ]);
    for c in &dataset.schema.columns {
        table.row([c.name.clone(), c.kind.name().to_owned(), c.reason.clone()]);
    }
    format!("{}\n{}", table.to_text().trim_end(), dataset.splits.summary())
}

/// The towers, what `joins` them in a line, the parameters, and what training
/// costs at `steps` an epoch of the measured length.
pub(crate) fn describe_model(
    (towers, params): (&Towers, &Params),
    joins: &str,
    config: &FitConfig,
    steps: usize,
    measured: Option<(f64, usize)>,
) -> String {
    let (_, trainable) = params.count();
    let mut text = String::new();
    for c in towers.columns() {
        text += &format!("{}: {}\n", c.name, describe_tower(&c.tower));
    }
    text += &format!("{joins}\n");
    if config.finetune.method != MethodName::Full {
        text += &format!("fine-tuning: {}\n", config.finetune.method.name());
    }
    text += &Inventory::of(&config.train, params).to_string();
    if let Some((seconds, tokens)) = measured {
        let total = seconds * (steps as u64 * config.train.epochs) as f64;
        let (_, peak) = sensorium_engine::memory_in_use();
        // Weights, gradients and two moments stand beside the activations.
        let memory = peak + 2 * trainable * 4;
        text += &format!(
            "\nwith activations about {} MB\n{steps} steps of about {} tokens in an epoch, at most {} epochs: {} or less",
            memory / 1_000_000 + 1,
            thousands(tokens),
            config.train.epochs,
            duration(total)
        );
    }
    text
}

fn describe_tower(tower: &sensorium_model::TowerConfig) -> String {
    use sensorium_model::TowerConfig as T;
    let stack = |t: &sensorium_model::TransformerConfig| format!("{} layers of {}", t.layers, t.block.hidden);
    match tower {
        T::Text(c) => format!("text tower, {} tokens in the vocabulary, {}", c.vocab_size, stack(&c.transformer)),
        T::Image(c) => format!(
            "image tower ({}), {}×{} pixels, {} tokens, {}",
            describe_stem(c),
            c.image_size,
            c.image_size,
            c.patches(),
            stack(&c.transformer)
        ),
        T::Audio(c) => format!("audio tower, {} mel bands, {}", c.mels, stack(&c.transformer)),
        T::Video(c) => format!(
            "video tower ({}), {} frames, {}, then {} over time",
            describe_stem(&c.image),
            c.max_positions,
            stack(&c.image.transformer),
            stack(&c.temporal)
        ),
        T::SpaceTime(c) => format!(
            "video tower, {} frames of {}×{} pixels, {} tokens, {}",
            c.frames,
            c.image_size,
            c.image_size,
            c.tokens(),
            stack(&c.transformer)
        ),
        T::Features(c) => format!("features tower, {} numbers, {}", c.dim, stack(&c.transformer)),
        T::Tabular(c) if c.categories > 0 => format!("category, {} values", c.categories),
        T::Tabular(_) => "number".to_owned(),
    }
}

fn describe_stem(image: &ImageTowerConfig) -> String {
    match image.stem {
        ImageStem::Patch => "ViT: patches, then a Transformer".to_owned(),
        ImageStem::Conv => {
            format!("{} convolutions, then a Transformer", image.patch_size.trailing_zeros())
        }
    }
}

fn thousands(n: usize) -> String {
    let digits = n.to_string();
    let mut out = String::new();
    for (i, d) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(d);
    }
    out
}

/// A duration for people.
pub(crate) fn duration(seconds: f64) -> String {
    let s = seconds.round() as u64;
    match s {
        0..=99 => format!("{s} s"),
        100..=5999 => format!("{} min", s.div_ceil(60)),
        _ => format!("{:.1} h", seconds / 3600.0),
    }
}
