//! A training step of MiniLM's shape (6 layers of 384, 12 heads, 30,522 tokens
//! in the vocabulary, batch 16 × 128), timed on request.
//!
//! Each line on standard input runs one step; the answer is its time in
//! milliseconds. `bench/minilm.py` drives it in turn with PyTorch. With the
//! argument `profile` it prints where the time of ten steps goes instead.

use sensorium_engine::optim::{Hyper, Method, Optimizer};
use sensorium_engine::{Builder, Offsets, Params, Random, Tape, memory_in_use, ops};
use sensorium_model::layers::Linear;
use sensorium_model::towers::{TextTower, TextTowerConfig};
use sensorium_model::{BlockConfig, ColumnInput, Context, NormPlace, TransformerConfig, Values};
use std::io::{BufRead, Write};
use std::time::Instant;

const BATCH: usize = 16;
const LENGTH: usize = 128;
const VOCABULARY: usize = 30_522;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let block = BlockConfig {
        hidden: 384,
        heads: 12,
        norm_place: NormPlace::Post,
        norm_eps: 1e-12,
        dropout: 0.0,
        ..BlockConfig::default()
    };
    let config = TextTowerConfig {
        vocab_size: VOCABULARY,
        max_positions: 512,
        transformer: TransformerConfig { layers: 6, block, ..TransformerConfig::default() },
        ..TextTowerConfig::default()
    };
    let mut params = Params::new();
    let mut builder = Builder::new(&mut params, 0);
    let tower = TextTower::new(&mut builder.scope("text"), &config)?;
    let head = Linear::new(&mut builder.scope("head"), 384, 2, true)?;
    let random = Random::new(1);
    let ids = (0..(BATCH * LENGTH) as u64).map(|i| random.below(i, VOCABULARY as u64) as u32).collect();
    let input =
        ColumnInput::new((0..BATCH as u32).collect(), Offsets::from_lengths(vec![LENGTH; BATCH]), Values::Tokens(ids))?;
    let targets: Vec<_> = (0..BATCH as u32).map(|i| Some(i % 2)).collect();
    let mut optimizer = Optimizer::new(Method::ADAM_W)?;
    let hyper = vec![Hyper { lr: 1e-4, weight_decay: 0.01 }; params.len()];

    let mut step = |parts: &mut [f64; 3]| -> Result<f64, Box<dyn std::error::Error>> {
        let start = Instant::now();
        let tape = Tape::new();
        let cx = Context::training(&tape, &params, Random::new(2));
        let (_, _, pooled) = tower.forward(&cx, &input)?;
        let logits = head.forward(&cx, &pooled)?;
        let loss = ops::cross_entropy(&tape, &logits, &targets, &ops::CrossEntropy::default())?;
        let forward = start.elapsed().as_secs_f64();
        let gradients = tape.backward(&loss)?;
        let backward = start.elapsed().as_secs_f64();
        optimizer.step(&mut params, &gradients, &hyper, 1.0)?;
        let total = start.elapsed().as_secs_f64();
        for (sum, t) in parts.iter_mut().zip([forward, backward - forward, total - backward]) {
            *sum += t * 1e3;
        }
        Ok(total * 1e3)
    };
    let mut parts = [0.0; 3];
    if std::env::args().nth(1).as_deref() == Some("profile") {
        step(&mut parts)?;
        parts = [0.0; 3];
        for _ in 0..10 {
            step(&mut parts)?;
        }
        let [f, b, o] = parts.map(|t| t / 10.0);
        println!(
            "forward {f:.1} ms, backward {b:.1} ms, optimizer {o:.1} ms, peak {} MB",
            memory_in_use().1 / 1_000_000
        );
        return Ok(());
    }
    let mut out = std::io::stdout().lock();
    for line in std::io::stdin().lock().lines() {
        line?;
        writeln!(out, "{:.3}", step(&mut parts)?)?;
        out.flush()?;
    }
    Ok(())
}
