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
use sensorium_model::towers::{ImageTowerConfig, TextTowerConfig};
use sensorium_model::{
    AdapterConfig, Adapters, ColumnInput, Context, ImageText, Quantization, Tower, TowerConfig, Values, quantize,
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
    /// Training of a pair of towers by the contrastive loss of CLIP; the lengths
    /// are those of the texts, each of which has a picture.
    Contrastive,
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
    let batches: Vec<Vec<ColumnInput>> =
        case.batches.iter().map(|lengths| model.inputs(lengths)).collect::<Result<_, Failure>>()?;
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
                Work::Train | Work::Lora | Work::Contrastive => model.train(batch)?,
            };
        }
        let ms = started.elapsed().as_secs_f64() * 1e3 / case.repeat as f64;
        writeln!(answers, "{}", serde_json::json!({ "ms": ms, "values": values }))?;
        answers.flush()?;
    }
    Ok(())
}

/// What runs.
enum Network {
    Classifier { tower: Tower, config: TowerConfig, head: Head, outputs: usize, adapters: Adapters },
    Pair { towers: ImageText, text: TextTowerConfig, image: ImageTowerConfig },
}

struct Model {
    network: Network,
    params: Params,
    optimizer: Optimizer,
    hyper: Vec<Hyper>,
    steps: u64,
}

impl Model {
    fn open(case: &Case) -> Result<Self, Failure> {
        let pretrained = Pretrained::open(&case.folder)?;
        if case.work == Work::Contrastive {
            let (towers, params) = pretrained.load_image_text()?;
            let (text, image) = (pretrained.tower_config("text")?.clone(), pretrained.tower_config("image")?.clone());
            let (TowerConfig::Text(text), TowerConfig::Image(image)) = (text, image) else {
                return Err("the folder holds no pair of towers for pictures and texts".into());
            };
            return Self::new(Network::Pair { towers, text, image }, params);
        }
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
        let config = pretrained.tower_config(part)?.clone();
        let outputs = pretrained.labels().map_or(2, |labels| labels.len());
        Self::new(Network::Classifier { tower, config, head, outputs, adapters }, params)
    }

    fn new(network: Network, params: Params) -> Result<Self, Failure> {
        let hyper = params.iter().map(|(_, p)| {
            let weight_decay = if p.value.dims().len() > 1 { 0.01 } else { 0.0 };
            Hyper { lr: 1e-5, weight_decay }
        });
        Ok(Self { hyper: hyper.collect(), optimizer: Optimizer::new(Update::ADAM_W)?, steps: 0, network, params })
    }

    /// The columns of a batch of samples of these lengths.
    fn inputs(&self, lengths: &[usize]) -> Result<Vec<ColumnInput>, Failure> {
        let rows: usize = lengths.iter().sum();
        let tensor = |dims: &[usize]| {
            let values: Vec<f32> =
                (0..dims.iter().product()).map(|i| scatter(i) as f32 / 2f32.powi(23) - 1.0).collect();
            Tensor::from_slice(dims, &values)
        };
        let column = |lengths: &[usize], values: Values| {
            let samples = (0..lengths.len() as u32).collect();
            ColumnInput::new(samples, Offsets::from_lengths(lengths.iter().copied()), values)
        };
        let tokens =
            |vocabulary: usize| Values::Tokens((0..rows).map(|i| 1 + scatter(i) % (vocabulary as u32 - 1)).collect());
        let pictures = |count: usize, size: usize| tensor(&[count, 3, size, size]).map(Values::Images);
        Ok(match &self.network {
            Network::Pair { text, image, .. } => vec![
                column(lengths, ended(tokens(text.vocab_size - 1), lengths, text.vocab_size))?,
                column(&vec![1; lengths.len()], pictures(lengths.len(), image.image_size)?)?,
            ],
            Network::Classifier { config, .. } => {
                let values = match config {
                    TowerConfig::Text(text) => tokens(text.vocab_size),
                    TowerConfig::Image(image) => pictures(rows, image.image_size)?,
                    TowerConfig::Audio(audio) => Values::Audio(tensor(&[rows, audio.mels])?),
                    _ => return Err("a tower of another kind".into()),
                };
                vec![column(lengths, values)?]
            }
        })
    }

    /// The logits of a classifier, and how many classes it has.
    fn logits(&self, cx: &Context<'_>, batch: &[ColumnInput]) -> Result<(Var, usize), Failure> {
        let Network::Classifier { tower, head, outputs, adapters, .. } = &self.network else {
            return Err("a pair of towers gives no logits".into());
        };
        let cx = cx.with_adapters(adapters);
        Ok((head.forward(&cx, &tower.forward(&cx, &batch[0])?)?, *outputs))
    }

    fn infer(&self, batch: &[ColumnInput]) -> Result<Vec<f32>, Failure> {
        let tape = Tape::inference();
        let (logits, outputs) = self.logits(&Context::inference(&tape, &self.params), batch)?;
        Ok(logits.data()[..outputs].to_vec())
    }

    fn loss(&self, cx: &Context<'_>, batch: &[ColumnInput]) -> Result<Var, Failure> {
        if let Network::Pair { towers, .. } = &self.network {
            let (texts, images) = (towers.embed_texts(cx, &batch[0])?, towers.embed_images(cx, &batch[1])?);
            let scale = self.params.id("logit_scale").ok_or("the pair has no scale")?;
            let alone = vec![Vec::new(); texts.rows()];
            return Ok(ops::info_nce(cx.tape, &images, &texts, &cx.param(scale), &alone)?);
        }
        let (logits, outputs) = self.logits(cx, batch)?;
        let classes: Vec<Option<u32>> = (0..logits.rows()).map(|i| Some((i % outputs) as u32)).collect();
        Ok(ops::cross_entropy(cx.tape, &logits, &classes, &ops::CrossEntropy::default())?)
    }

    fn train(&mut self, batch: &[ColumnInput]) -> Result<Vec<f32>, Failure> {
        let tape = Tape::new();
        let loss = self.loss(&Context::training(&tape, &self.params, Random::new(self.steps)), batch)?;
        let value = loss.value().scalar()?;
        let gradients = tape.backward(&loss)?;
        let clip = clip_factor(global_norm(&gradients), 1.0);
        self.optimizer.step(&mut self.params, &gradients, &self.hyper, clip)?;
        self.steps += 1;
        Ok(vec![value])
    }
}

/// Each text's last token the vocabulary's last, which is CLIP's mark of the end.
fn ended(tokens: Values, lengths: &[usize], vocabulary: usize) -> Values {
    let Values::Tokens(mut ids) = tokens else { return tokens };
    let mut end = 0;
    for length in lengths {
        end += length;
        ids[end - 1] = vocabulary as u32 - 1;
    }
    Values::Tokens(ids)
}

/// 24 bits that follow from a place.
fn scatter(place: usize) -> u32 {
    (place as u32).wrapping_mul(2_654_435_761) >> 8
}
