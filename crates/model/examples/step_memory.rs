//! What a training step of MiniLM's shape keeps in memory and how long it
//! takes: 6 layers of 384, 12 heads, 16 texts of 128 of 30,522 words, the loss
//! over the vocabulary at every seventh word.
//!
//! `cargo run --release -p sensorium-model --example step_memory`

use sensorium_engine::optim::{Hyper, Method, Optimizer, clip_factor, global_norm};
use sensorium_engine::{Builder, Init, Offsets, Params, Random, Tape, memory_in_use, ops};
use sensorium_model::{BlockConfig, Context, NormPlace, Transformer, TransformerConfig};
use std::time::Instant;

const VOCABULARY: u32 = 30_522;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let block = BlockConfig {
        hidden: 384,
        heads: 12,
        intermediate: 1536,
        norm_place: NormPlace::Post,
        dropout: 0.1,
        attention_dropout: 0.1,
        ..BlockConfig::default()
    };
    let config = TransformerConfig { layers: 6, block, ..TransformerConfig::default() };
    let mut params = Params::new();
    let mut builder = Builder::new(&mut params, 1);
    let table = builder.param("table", &[VOCABULARY as usize, 384], Init::Normal(0.02))?;
    let model = Transformer::new(&mut builder, &config)?;
    let offsets = Offsets::from_lengths([128; 16]);
    let words: Vec<u32> = (0..2048).map(|i| i * 7919 % VOCABULARY).collect();
    let targets: Vec<_> = words.iter().enumerate().map(|(i, w)| (i % 7 == 0).then_some(*w)).collect();
    let mut optimizer = Optimizer::new(Method::ADAM_W)?;
    let hyper = vec![Hyper { lr: 1e-4, weight_decay: 0.01 }; params.len()];
    let mib = |bytes: usize| bytes as f64 / f64::from(1 << 20);
    for step in 0..4 {
        let start = Instant::now();
        let before = memory_in_use().0;
        let tape = Tape::new();
        let cx = Context::training(&tape, &params, Random::new(2).at_step(step));
        let x = cx.embedding(table, &words)?;
        let hidden = model.forward(&cx, x, &offsets)?;
        let kept = memory_in_use().0;
        let loss = ops::vocabulary_cross_entropy(&tape, &hidden, &cx.param(table), None, &targets, 0.0)?;
        drop((cx, hidden));
        let gradients = tape.backward(&loss)?;
        optimizer.step(&mut params, &gradients, &hyper, clip_factor(global_norm(&gradients), 1.0))?;
        let (_, peak) = memory_in_use();
        println!(
            "step {step}: {:.0} ms; parameters and moments {:.0} MiB, kept by the layers {:.0} MiB, peak {:.0} MiB",
            start.elapsed().as_secs_f64() * 1e3,
            mib(before),
            mib(kept - before),
            mib(peak),
        );
    }
    Ok(())
}
