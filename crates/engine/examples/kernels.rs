//! Runs one kernel on small fixed inputs a number of times, on one thread:
//! what `scripts/instructions.sh` counts the instructions of.
//!
//! `cargo run --release -p sensorium-engine --example kernels -- NAME TIMES`
//!
//! Without arguments it lists the kernels. Each runs forward and, where it has
//! one, backward; sizes are odd enough to reach the paths for remainders.

use sensorium_engine::matmul::{Matrix, Output, product};
use sensorium_engine::ops::{self, Activation, Attention};
use sensorium_engine::optim::{Hyper, Method, Optimizer, global_norm};
use sensorium_engine::{Offsets, Params, Random, Result, Tape, Tensor, Var, with_threads};
use std::hint::black_box;

type Kernel = fn(usize) -> Result<()>;

const KERNELS: &[(&str, Kernel)] = &[
    ("product", |n| matrix_product(n, 70, 200, 130)),
    ("product-thin", |n| matrix_product(n, 2, 200, 300)),
    ("linear", linear),
    ("attention", attention),
    ("layer_norm", layer_norm),
    ("gelu", gelu),
    ("cross_entropy", cross_entropy),
    ("embedding", embedding),
    ("dropout", dropout),
    ("pool", pool),
    ("adam_w", adam_w),
];

fn main() -> std::result::Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [name, times] = &arguments[..] else {
        KERNELS.iter().for_each(|(name, _)| println!("{name}"));
        return Ok(());
    };
    let times = times.parse()?;
    let (_, kernel) = KERNELS.iter().find(|(n, _)| n == name).ok_or("no kernel of that name")?;
    with_threads(1, || kernel(times))??;
    Ok(())
}

/// Values in (−1, 1) that follow from their places.
fn values(seed: u64, dims: &[usize]) -> Tensor {
    let (random, mut tensor) = (Random::new(seed), Tensor::any(dims));
    tensor.data_mut().iter_mut().enumerate().for_each(|(i, x)| *x = 2.0 * random.uniform(i as u64) - 1.0);
    tensor
}

/// Lengths of sentences, one token and none among them.
fn sentences() -> Offsets {
    Offsets::from_lengths([37, 1, 0, 20, 6])
}

/// Runs an operation forward and backward, `times` times, on inputs that all
/// want a gradient.
fn both_ways(times: usize, inputs: &[Tensor], f: impl Fn(&Tape, &[Var]) -> Result<Var>) -> Result<()> {
    for _ in 0..times {
        let tape = Tape::new();
        let leaves: Vec<Var> = inputs.iter().map(|x| tape.input(x.clone())).collect();
        let y = f(&tape, &leaves)?;
        let ones = Tensor::full(y.value().dims(), 1.0);
        black_box(tape.backward_from(&y, ones)?);
    }
    Ok(())
}

fn matrix_product(times: usize, rows: usize, inner: usize, cols: usize) -> Result<()> {
    let (a, b, mut c) = (values(1, &[rows, inner]), values(2, &[cols, inner]), Tensor::zeros(&[rows, cols]));
    for _ in 0..times {
        product(
            Matrix::dense(a.data(), rows, inner),
            Matrix::dense(b.data(), cols, inner).transposed(),
            Output::dense(c.data_mut(), rows, cols),
            false,
        );
        black_box(c.data());
    }
    Ok(())
}

fn linear(times: usize) -> Result<()> {
    let inputs = [values(1, &[64, 96]), values(2, &[130, 96]), values(3, &[130])];
    both_ways(times, &inputs, |tape, x| ops::linear(tape, &x[0], &x[1], Some(&x[2]), Activation::Gelu))
}

fn attention(times: usize) -> Result<()> {
    let inputs = [values(1, &[64, 64]), values(2, &[64, 64]), values(3, &[64, 64])];
    let (segments, config) = (sentences(), Attention::new(2));
    both_ways(times, &inputs, |tape, x| {
        ops::attention(tape, (&x[0], &x[1], &x[2]), (&segments, &segments), &config, None)
    })
}

fn layer_norm(times: usize) -> Result<()> {
    let inputs = [values(1, &[64, 130]), values(2, &[130]), values(3, &[130])];
    both_ways(times, &inputs, |tape, x| ops::layer_norm(tape, &x[0], &x[1], Some(&x[2]), 1e-5))
}

fn gelu(times: usize) -> Result<()> {
    both_ways(times, &[values(1, &[64, 130])], |tape, x| ops::activate(tape, &x[0], Activation::Gelu))
}

fn cross_entropy(times: usize) -> Result<()> {
    let classes: Vec<Option<u32>> = (0..64).map(|i| (i % 5 != 0).then_some(i * 2)).collect();
    let settings = ops::CrossEntropy::default();
    both_ways(times, &[values(1, &[64, 130])], |tape, x| ops::cross_entropy(tape, &x[0], &classes, &settings))
}

fn embedding(times: usize) -> Result<()> {
    let ids: Vec<u32> = (0..64).map(|i| i * i % 50).collect();
    both_ways(times, &[values(1, &[50, 130])], |tape, x| ops::embedding(tape, &x[0], &ids))
}

fn dropout(times: usize) -> Result<()> {
    both_ways(times, &[values(1, &[64, 130])], |tape, x| ops::dropout(tape, &x[0], 0.1, Random::new(2)))
}

fn pool(times: usize) -> Result<()> {
    let segments = sentences();
    both_ways(times, &[values(1, &[64, 130])], |tape, x| ops::pool(tape, &x[0], &segments, ops::Pooling::Mean))
}

/// The optimizer's step and the norm of the gradients.
fn adam_w(times: usize) -> Result<()> {
    let mut params = Params::new();
    let weight = params.insert("weight", values(1, &[64, 130]))?;
    let tape = Tape::new();
    let w = tape.param(&params, weight);
    let gradients = tape.backward_from(&w, values(2, &[64, 130]))?;
    let mut optimizer = Optimizer::new(Method::ADAM_W)?;
    for _ in 0..times {
        black_box(global_norm(&gradients));
        optimizer.step(&mut params, &gradients, &[Hyper { lr: 1e-3, weight_decay: 0.01 }], 1.0)?;
    }
    Ok(())
}
