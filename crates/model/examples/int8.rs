//! Inference with eight-bit weights, or as they are, of a text model in a
//! Hugging Face folder, one batch for each line of standard input.
//!
//! `cargo run --release -p sensorium-model --example int8 -- CASE.json`
//!
//! CASE.json: `{"folder": …, "threads": 2, "batches": [[128, 128]], "repeat": 1,
//! "int8": true}`, the lengths of each text of each batch. A line of input is
//! the number of a batch; the answer is `{"ms": …, "values": […]}`, the logits
//! of its first text.

use sensorium_engine::{Offsets, Tape, with_threads};
use sensorium_model::pretrained::Pretrained;
use sensorium_model::{ColumnInput, Context, Quantization, TowerConfig, Values, quantize};
use serde::Deserialize;
use std::io::{BufRead, Write};
use std::path::PathBuf;
use std::time::Instant;

type Failure = Box<dyn std::error::Error + Send + Sync>;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    /// `config.json` and `model.safetensors`, with a classifier.
    folder: PathBuf,
    threads: usize,
    /// Of each batch the length of each text in tokens.
    batches: Vec<Vec<usize>>,
    /// Forward passes for each line: small ones are timed together.
    repeat: usize,
    int8: bool,
}

fn main() -> Result<(), Failure> {
    let path = std::env::args().nth(1).ok_or("usage: int8 CASE.json")?;
    let case: Case = serde_json::from_slice(&std::fs::read(path)?)?;
    with_threads(case.threads, || serve(&case))?
}

fn serve(case: &Case) -> Result<(), Failure> {
    let pretrained = Pretrained::open(&case.folder)?;
    let part = pretrained.parts().first().ok_or("the folder holds no tower")?.name;
    let (tower, mut params) = pretrained.load_tower(part)?;
    let head = pretrained.load_head("classifier", &mut params)?;
    let TowerConfig::Text(text) = pretrained.tower_config(part)? else { return Err("not a text model".into()) };
    let ids = text.vocab_size as u32 - 1;
    let outputs = pretrained.labels().map_or(2, |labels| labels.len());
    if case.int8 {
        quantize(&mut params, &Quantization::default())?;
    }
    let mut answers = std::io::stdout().lock();
    writeln!(answers, "ready")?;
    answers.flush()?;
    for line in std::io::stdin().lock().lines() {
        let lengths = case.batches.get(line?.trim().parse::<usize>()?).ok_or("no such batch")?;
        let offsets = Offsets::from_lengths(lengths.iter().copied());
        // The identifiers follow from their places.
        let tokens = (0..offsets.total()).map(|i| 1 + ((i as u32).wrapping_mul(2_654_435_761) >> 8) % ids).collect();
        let batch = ColumnInput::new((0..lengths.len() as u32).collect(), offsets, Values::Tokens(tokens))?;
        let started = Instant::now();
        let mut values = Vec::new();
        for _ in 0..case.repeat {
            let tape = Tape::inference();
            let cx = Context::inference(&tape, &params);
            let logits = head.forward(&cx, &tower.forward(&cx, &batch)?)?;
            values = logits.data()[..outputs].to_vec();
        }
        let ms = started.elapsed().as_secs_f64() * 1e3 / case.repeat as f64;
        writeln!(answers, "{}", serde_json::json!({ "ms": ms, "values": values }))?;
        answers.flush()?;
    }
    Ok(())
}
