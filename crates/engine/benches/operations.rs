//! The operations around the matrix products, forward and backward.
//!
//! `RAYON_NUM_THREADS=1 cargo bench -p sensorium-engine --bench operations`

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use sensorium_engine::optim::{Hyper, Method, Optimizer, clip_factor, global_norm};
use sensorium_engine::{Activation, Offsets, Params, Random, Result, Tape, Tensor, Var, ops};
use std::hint::black_box;

/// Normal values, a function of the name.
fn random(dims: &[usize], name: &str) -> Tensor {
    sensorium_engine::check::random(dims, name).cast()
}

/// Times `f` without a tape, and the backward pass of what it records.
fn operation(c: &mut Criterion, name: &str, inputs: &[Tensor], f: impl Fn(&Tape, &[Var]) -> Result<Var>) {
    c.bench_function(&format!("{name}/forward"), |b| {
        let inputs: Vec<Var> = inputs.iter().map(|t| Var::constant(t.clone())).collect();
        b.iter(|| f(&Tape::inference(), black_box(&inputs)).expect("shapes fit"));
    });
    c.bench_function(&format!("{name}/backward"), |b| {
        let forward = || {
            let tape = Tape::new();
            let inputs: Vec<Var> = inputs.iter().map(|t| tape.input(t.clone())).collect();
            let y = f(&tape, &inputs).expect("shapes fit");
            let d = Tensor::full(y.value().dims(), 0.5);
            (tape, y, d)
        };
        b.iter_batched(forward, |(tape, y, d)| tape.backward_from(&y, d).expect("recorded"), BatchSize::PerIteration);
    });
}

fn attention(c: &mut Criterion) {
    let natural = [16, 22, 31, 9, 47, 18, 64, 27, 12, 83, 35, 19, 128, 41, 25, 200];
    for (name, heads, dim, lengths) in [
        ("attention 12 x 32, 16 segments of 128", 12, 32, vec![128; 16]),
        ("attention 12 x 32, 16 segments of 9 to 200", 12, 32, natural.to_vec()),
        ("attention 12 x 64, 8 segments of 197", 12, 64, vec![197; 8]),
        ("attention 12 x 64, 1 segment of 16", 12, 64, vec![16]),
        ("attention 6 x 64, 1 segment of 1500", 6, 64, vec![1500]),
    ] {
        let offsets = Offsets::from_lengths(lengths);
        let inputs = ["q", "k", "v"].map(|n| random(&[offsets.total(), heads * dim], n));
        operation(c, name, &inputs, |t, v| {
            ops::attention(t, (&v[0], &v[1], &v[2]), (&offsets, &offsets), &ops::Attention::new(heads), None)
        });
    }
    let offsets = Offsets::from_lengths([128; 16]);
    let inputs = ["q", "k", "v"].map(|n| random(&[offsets.total(), 384], n));
    let dropout = ops::Attention { dropout: Some((0.1, Random::new(1))), ..ops::Attention::new(12) };
    operation(c, "attention 12 x 32 with dropout, 16 segments of 128", &inputs, |t, v| {
        ops::attention(t, (&v[0], &v[1], &v[2]), (&offsets, &offsets), &dropout, None)
    });
    let causal = ops::Attention { causal: true, ..ops::Attention::new(12) };
    operation(c, "attention 12 x 32, causal, 16 segments of 128", &inputs, |t, v| {
        ops::attention(t, (&v[0], &v[1], &v[2]), (&offsets, &offsets), &causal, None)
    });
}

fn norms(c: &mut Criterion) {
    let inputs = [random(&[2048, 384], "x"), random(&[384], "weight"), random(&[384], "bias")];
    operation(c, "layer_norm 2048 x 384", &inputs, |t, v| ops::layer_norm(t, &v[0], &v[1], Some(&v[2]), 1e-12));
    operation(c, "rms_norm 2048 x 384", &inputs[..2], |t, v| ops::rms_norm(t, &v[0], &v[1], 1e-6));
}

fn elementwise(c: &mut Criterion) {
    let x = [random(&[2048, 1536], "x")];
    operation(c, "gelu 2048 x 1536", &x, |t, v| ops::activate(t, &v[0], Activation::Gelu));
    let x = [random(&[2048, 384], "x")];
    operation(c, "dropout 2048 x 384", &x, |t, v| ops::dropout(t, &v[0], 0.1, Random::new(1)));
}

fn losses(c: &mut Criterion) {
    let targets = |rows: u32, classes: u32| (0..rows).map(|i| Some(i * 7 % classes)).collect::<Vec<_>>();
    let (x, y) = ([random(&[512, 1000], "x")], targets(512, 1000));
    operation(c, "cross_entropy 512 x 1000", &x, |t, v| ops::cross_entropy(t, &v[0], &y, &Default::default()));
    let (x, y) = ([random(&[307, 384], "x"), random(&[30522, 384], "weight")], targets(307, 30522));
    operation(c, "vocabulary_cross_entropy 307 x 384 x 30522", &x, |t, v| {
        ops::vocabulary_cross_entropy(t, &v[0], &v[1], None, &y, 0.0)
    });
}

fn optimizers(c: &mut Criterion) {
    // The parameters of six MiniLM layers: many small ones beside large ones.
    let mut params = Params::new();
    for layer in 0..6 {
        for (name, dims) in
            [("a", &[1536, 384][..]), ("b", &[384, 1536]), ("c", &[4 * 384, 384]), ("d", &[384]), ("e", &[384])]
        {
            params.insert(format!("{layer}.{name}"), random(dims, name)).expect("a new name");
        }
    }
    let tape = Tape::new();
    let squares = params.iter().map(|(id, _)| {
        let p = tape.param(&params, id);
        ops::sum(&tape, &ops::mul(&tape, &p, &p)?)
    });
    let loss = squares.reduce(|a, b| ops::add(&tape, &a?, &b?)).expect("parameters").expect("shapes fit");
    let gradients = tape.backward(&loss).expect("recorded");
    let hyper = vec![Hyper { lr: 1e-4, weight_decay: 0.01 }; params.len()];
    for (name, method) in [
        ("adamw, clipped, 10.6 million parameters", Method::ADAM_W),
        ("sgd, clipped, 10.6 million parameters", Method::Sgd { momentum: 0.9, nesterov: false }),
    ] {
        let mut optimizer = Optimizer::new(method).expect("possible constants");
        c.bench_function(name, |b| {
            b.iter(|| {
                let scale = clip_factor(global_norm(&gradients), 1.0);
                optimizer.step(&mut params, &gradients, &hyper, scale).expect("shapes fit");
            });
        });
    }
}

criterion_group! {
    name = operations;
    config = Criterion::default().sample_size(20).warm_up_time(std::time::Duration::from_millis(300)).measurement_time(std::time::Duration::from_secs(1));
    targets = attention, norms, elementwise, losses, optimizers
}
criterion_main!(operations);
