//! A small real model with real data, for the tests of the loop: a network of two layers
//! with dropout learns the outputs of a fixed random one.

use sensorium_engine::{Activation, Builder, Init, ParamId, Params, Random, Tape, Tensor, Var, ops};
use sensorium_train::{
    Batches, BoxError, CheckpointEvery, Judge, RunOptions, Source, StepContext, StepLoss, Summary, TrainConfig,
    Trainable, Trainer,
};
use std::collections::BTreeMap;
use std::path::Path;

const INPUTS: usize = 12;
const OUTPUTS: usize = 3;

pub struct Net {
    params: Params,
    hidden: usize,
    ids: [ParamId; 4],
}

impl Net {
    pub fn new(seed: u64, hidden: usize) -> Self {
        let mut params = Params::new();
        let mut builder = Builder::new(&mut params, seed);
        let mut add = |layer: &str, name: &str, dims: &[usize], init| {
            builder.scope(layer).param(name, dims, init).expect("new name")
        };
        let ids = [
            add("encoder.layer.0", "weight", &[hidden, INPUTS], Init::Xavier),
            add("encoder.layer.0", "bias", &[hidden], Init::Constant(0.0)),
            add("head", "weight", &[OUTPUTS, hidden], Init::Xavier),
            add("head", "bias", &[OUTPUTS], Init::Constant(0.0)),
        ];
        Self { params, hidden, ids }
    }

    fn forward(&self, tape: &Tape, x: &Tensor, mask: Option<Tensor>) -> Result<Var, BoxError> {
        let [w1, b1, w2, b2] = self.ids.map(|id| tape.param(&self.params, id));
        let mut h = ops::linear(tape, &Var::constant(x.clone()), &w1, Some(&b1), Activation::Tanh)?;
        if let Some(mask) = mask {
            h = ops::mul(tape, &h, &Var::constant(mask))?;
        }
        Ok(ops::linear(tape, &h, &w2, Some(&b2), Activation::Identity)?)
    }

    pub fn bits(&self) -> Vec<u32> {
        self.params.iter().flat_map(|(_, p)| p.value.data().iter().map(|x| x.to_bits())).collect()
    }
}

#[derive(Clone)]
pub struct Pair {
    pub x: Tensor,
    pub y: Tensor,
}

fn mean_square(tape: &Tape, out: &Var, y: &Tensor) -> Result<Var, BoxError> {
    let difference = ops::sub(tape, out, &Var::constant(y.clone()))?;
    Ok(ops::mean(tape, &ops::mul(tape, &difference, &difference)?)?)
}

impl Trainable for Net {
    type Batch = Pair;

    fn params(&self) -> &Params {
        &self.params
    }

    fn params_mut(&mut self) -> &mut Params {
        &mut self.params
    }

    fn loss(&self, tape: &Tape, batch: &Pair, cx: &StepContext) -> Result<StepLoss, BoxError> {
        let rows = batch.x.shape().rows();
        let mask = cx.training.then(|| {
            let random = cx.random.purpose("dropout");
            let keep: Vec<f32> =
                (0..rows * self.hidden).map(|i| if random.uniform(i as u64) < 0.1 { 0.0 } else { 1.0 / 0.9 }).collect();
            Tensor::from_slice(&[rows, self.hidden], &keep).expect("one per element")
        });
        let loss = mean_square(tape, &self.forward(tape, &batch.x, mask)?, &batch.y)?;
        let half = f64::from(loss.value().scalar()?) / 2.0;
        Ok(StepLoss { loss, parts: vec![("half".into(), half)], weight: rows as f64, samples: rows, tokens: rows * 2 })
    }
}

/// Samples of a fixed random network.
pub struct Data {
    pub seed: u64,
    pub samples: usize,
    pub batch_size: usize,
    /// Batches (of every epoch) whose inputs are not numbers.
    pub poisoned: std::ops::Range<usize>,
}

impl Data {
    pub fn new(config: &TrainConfig, samples: usize) -> Self {
        Self { seed: config.seed, samples, batch_size: config.batch_size, poisoned: 0..0 }
    }

    pub fn batch(&self, rows: &[usize]) -> Pair {
        let noise = Random::new(99).purpose("inputs");
        let x: Vec<f32> =
            rows.iter().flat_map(|r| (0..INPUTS).map(move |i| noise.normal((r * INPUTS + i) as u64) as f32)).collect();
        let x = Tensor::from_slice(&[rows.len(), INPUTS], &x).expect("one per element");
        let y = Net::new(1234, 8).forward(&Tape::inference(), &x, None).expect("fits").into_value();
        Pair { x, y }
    }
}

impl Source<Pair> for Data {
    fn batches(&self, _epoch: u64) -> usize {
        self.samples.div_ceil(self.batch_size)
    }

    fn epoch(&self, epoch: u64, start_batch: usize) -> Batches<'_, Pair> {
        let order = Random::new(self.seed).purpose("shuffle").at_step(epoch).permutation(self.samples);
        let batches: Vec<Vec<usize>> = order.chunks(self.batch_size).map(<[usize]>::to_vec).collect();
        Box::new(batches.into_iter().enumerate().skip(start_batch).map(|(n, rows)| {
            let mut batch = self.batch(&rows);
            if self.poisoned.contains(&n) {
                batch.x.data_mut()[0] = f32::NAN;
            }
            Ok(batch)
        }))
    }
}

/// Validation on samples after those of training.
pub struct Validation(pub usize);

impl Judge<Net> for Validation {
    fn judge(&mut self, model: &Net, epoch: u64) -> Result<BTreeMap<String, f64>, BoxError> {
        let rows: Vec<usize> = (self.0..self.0 + 64).collect();
        let batch = Data { seed: 0, samples: 0, batch_size: 1, poisoned: 0..0 }.batch(&rows);
        let tape = Tape::inference();
        let loss = mean_square(&tape, &model.forward(&tape, &batch.x, None)?, &batch.y)?.value().scalar()?;
        let metrics = [("loss", f64::from(loss)), ("one_minus", 1.0 - f64::from(loss)), ("epoch_error", epoch as f64)];
        Ok(metrics.map(|(name, value)| (name.to_owned(), value)).into())
    }
}

/// Uses every part of a checkpoint: moments, moving average, best weights, accumulation.
pub fn config() -> TrainConfig {
    TrainConfig {
        lr: 0.02,
        epochs: 3,
        batch_size: 8,
        grad_accumulation: 2,
        ema: 0.9,
        clip_norm: 0.5,
        checkpoint_every: CheckpointEvery { steps: 2, ..CheckpointEvery::default() },
        ..TrainConfig::default()
    }
}

pub const SAMPLES: usize = 70;

pub fn options(dir: &Path, resume: bool) -> RunOptions {
    RunOptions { dir: dir.into(), resume, ..RunOptions::default() }
}

/// Trains a fresh model in `dir`.
pub fn train(trainer: &Trainer, config: &TrainConfig) -> (Net, sensorium_train::Result<Summary>) {
    let mut net = Net::new(config.seed, 20);
    let source = Data::new(config, SAMPLES);
    let summary = trainer.run(&mut net, &source, &mut Validation(SAMPLES), &mut ());
    (net, summary)
}

/// The lines of `metrics.jsonl` without the times in them.
pub fn log_lines(dir: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(dir.join("metrics.jsonl")).expect("a log");
    assert!(text.ends_with('\n'), "the log ends within a line");
    text.lines()
        .map(|line| {
            let mut value: serde_json::Value = serde_json::from_str(line).expect("a record");
            let fields = value.as_object_mut().expect("an object");
            fields.retain(|key, _| !key.starts_with("seconds"));
            value.to_string()
        })
        .collect()
}
