//! One side of `bench/compare`: training steps, or inference, of a model in a
//! Hugging Face folder, one for each line of standard input.
//!
//! `cargo run --release -p sensorium-model --example step -- CASE.json`
//!
//! CASE.json names the folder, the work and the lengths of each batch; the
//! values of the inputs follow from their places, so that the other side has
//! the same ones. A line of input is the number of a batch; the answer is
//! `{"ms": …, "values": […]}`: the loss in training, in inference the logits of
//! the first sample. A training step is that of `sensorium fit`: loss,
//! gradients, their global norm, clipping, AdamW.

use sensorium_engine::optim::{Hyper, Method as Update, Optimizer, clip_factor, global_norm};
use sensorium_engine::{Offsets, Params, Random, Tape, Tensor, Var, ops, with_threads};
use sensorium_model::adapters::{Finetune, LoraConfig, Method};
use sensorium_model::heads::Head;
use sensorium_model::pretrained::Pretrained;
use sensorium_model::{
    AdapterConfig, Adapters, ColumnInput, Context, Quantization, Tower, TowerConfig, Values, quantize,
};
use serde::Deserialize;
use std::io::{BufRead, Write};
use std::path::PathBuf;
use std::time::Instant;

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// What is to be done.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    /// `config.json` and `model.safetensors`, with a classifier.
    folder: PathBuf,
    work: Work,
    threads: usize,
    /// Of each batch the length of each sample: tokens, or mel frames, or 1
    /// for a picture.
    batches: Vec<Vec<usize>>,
    /// Forward passes for each line: small ones are timed together.
    repeat: usize,
}

#[derive(Deserialize, PartialEq)]
#[serde(rename_all = "snake_case")]
enum Work {
    Train,
    Lora,
    Infer,
    /// Inference with what `sensorium quantize` makes of the model.
    Int8,
}

fn main() -> Result<(), Failure> {
    let path = std::env::args().nth(1).ok_or("usage: step CASE.json")?;
    let case: Case = serde_json::from_slice(&std::fs::read(path)?)?;
    with_threads(case.threads, || serve(&case))?
}

fn serve(case: &Case) -> Result<(), Failure> {
    let mut model = Model::open(case)?;
    let batches: Vec<ColumnInput> =
        case.batches.iter().map(|lengths| model.input(lengths)).collect::<Result<_, Failure>>()?;
    let mut answers = std::io::stdout().lock();
    writeln!(answers, "ready")?;
    answers.flush()?;
    for line in std::io::stdin().lock().lines() {
        let batch = batches.get(line?.trim().parse::<usize>()?).ok_or("no such batch")?;
        let started = Instant::now();
        let mut values = Vec::new();
        for _ in 0..case.repeat {
            values = match case.work {
                Work::Infer | Work::Int8 => model.infer(batch)?,
                Work::Train | Work::Lora => model.train(batch)?,
            };
        }
        let ms = started.elapsed().as_secs_f64() * 1e3 / case.repeat as f64;
        writeln!(answers, "{}", serde_json::json!({ "ms": ms, "values": values }))?;
        answers.flush()?;
    }
    Ok(())
}

struct Model {
    tower: Tower,
    config: TowerConfig,
    head: Head,
    outputs: usize,
    adapters: Adapters,
    params: Params,
    optimizer: Optimizer,
    hyper: Vec<Hyper>,
    steps: u64,
}

impl Model {
    fn open(case: &Case) -> Result<Self, Failure> {
        let pretrained = Pretrained::open(&case.folder)?;
        let part = pretrained.parts().first().ok_or("the folder holds no tower")?.name;
        let (tower, mut params) = pretrained.load_tower(part)?;
        let parts = vec!["embeddings".into(), "encoder".into(), "pooler".into()];
        let head = pretrained.load_head("classifier", &mut params)?;
        if case.work == Work::Int8 {
            quantize(&mut params, &Quantization::default())?;
        }
        let mut adapters = Adapters::default();
        if case.work == Work::Lora {
            let method = Method::Adapter(AdapterConfig::Lora(LoraConfig::default()));
            let finetune = Finetune { method, parts, modules_to_save: Vec::new() };
            finetune.apply(&mut adapters, &mut params, "lora", 0)?;
        }
        let hyper = params.iter().map(|(_, p)| {
            let weight_decay = if p.value.dims().len() > 1 { 0.01 } else { 0.0 };
            Hyper { lr: 1e-5, weight_decay }
        });
        Ok(Self {
            config: pretrained.tower_config(part)?.clone(),
            outputs: pretrained.labels().map_or(2, |labels| labels.len()),
            optimizer: Optimizer::new(Update::ADAM_W)?,
            hyper: hyper.collect(),
            steps: 0,
            tower,
            head,
            adapters,
            params,
        })
    }

    /// A batch of samples of these lengths.
    fn input(&self, lengths: &[usize]) -> Result<ColumnInput, Failure> {
        let rows: usize = lengths.iter().sum();
        let tensor = |dims: &[usize]| {
            let values: Vec<f32> =
                (0..dims.iter().product()).map(|i| scatter(i) as f32 / 2f32.powi(23) - 1.0).collect();
            Tensor::from_slice(dims, &values)
        };
        let values = match &self.config {
            TowerConfig::Text(text) => {
                Values::Tokens((0..rows).map(|i| 1 + scatter(i) % (text.vocab_size as u32 - 1)).collect())
            }
            TowerConfig::Image(image) => Values::Images(tensor(&[rows, 3, image.image_size, image.image_size])?),
            TowerConfig::Audio(audio) => Values::Audio(tensor(&[rows, audio.mels])?),
            _ => return Err("a tower of another kind".into()),
        };
        let samples = (0..lengths.len() as u32).collect();
        Ok(ColumnInput::new(samples, Offsets::from_lengths(lengths.iter().copied()), values)?)
    }

    fn logits(&self, cx: &Context<'_>, batch: &ColumnInput) -> Result<Var, Failure> {
        let cx = cx.with_adapters(&self.adapters);
        Ok(self.head.forward(&cx, &self.tower.forward(&cx, batch)?)?)
    }

    fn infer(&self, batch: &ColumnInput) -> Result<Vec<f32>, Failure> {
        let tape = Tape::inference();
        let logits = self.logits(&Context::inference(&tape, &self.params), batch)?;
        Ok(logits.data()[..self.outputs].to_vec())
    }

    fn train(&mut self, batch: &ColumnInput) -> Result<Vec<f32>, Failure> {
        let tape = Tape::new();
        let logits = self.logits(&Context::training(&tape, &self.params, Random::new(self.steps)), batch)?;
        let classes: Vec<Option<u32>> = (0..logits.rows()).map(|i| Some((i % self.outputs) as u32)).collect();
        let loss = ops::cross_entropy(&tape, &logits, &classes, &ops::CrossEntropy::default())?;
        drop(logits);
        let value = loss.value().scalar()?;
        let gradients = tape.backward(&loss)?;
        let clip = clip_factor(global_norm(&gradients), 1.0);
        self.optimizer.step(&mut self.params, &gradients, &self.hyper, clip)?;
        self.steps += 1;
        Ok(vec![value])
    }
}

/// 24 bits that follow from a place.
fn scatter(place: usize) -> u32 {
    (place as u32).wrapping_mul(2_654_435_761) >> 8
}
