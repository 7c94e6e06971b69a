//! The rate of fused multiply-adds that this machine's cores reach together:
//! what a product of matrices can cost at the least.
//!
//! `cargo run --release -p sensorium-engine --example fma_rate -- THREADS` prints
//! GFLOP/s: the best of a few runs, two operations for each multiply-add.
//! Chains of them run in registers, enough to hide their latency; nothing is
//! read from memory.

use sensorium_engine::{Level, level};
use std::hint::black_box;
use std::time::Instant;

/// Independent chains: at least latency (4) times units (2), in registers.
const CHAINS: usize = 12;
/// Multiply-adds of one chain in a run.
const STEPS: usize = 2_000_000;
const RUNS: usize = 15;

fn main() {
    let threads: usize = std::env::args().nth(1).and_then(|n| n.parse().ok()).unwrap_or(1);
    let mut best = 0f64;
    for _ in 0..RUNS {
        let started = Instant::now();
        let lanes = std::thread::scope(|scope| {
            let all: Vec<_> = (0..threads).map(|_| scope.spawn(chains)).collect();
            all.into_iter().map(|t| t.join().expect("it only computes")).sum::<usize>()
        });
        best = best.max((2 * lanes * CHAINS * STEPS) as f64 / started.elapsed().as_secs_f64());
    }
    println!("{:.1}", best / 1e9);
}

/// Runs the chains with the widest vectors; the number of lanes.
fn chains() -> usize {
    match level() {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: the level says that AVX-512 is there.
        Level::Avx512 => unsafe { avx512() },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: the level says that AVX2 and FMA are there.
        Level::Avx2 => unsafe { avx2() },
        _ => plain(),
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
fn avx512() -> usize {
    use std::arch::x86_64::{_mm512_fmadd_ps, _mm512_reduce_add_ps, _mm512_set1_ps};
    let (factor, step) = (_mm512_set1_ps(black_box(0.999)), _mm512_set1_ps(black_box(0.001)));
    let mut sums = [_mm512_set1_ps(black_box(1.0)); CHAINS];
    for _ in 0..STEPS {
        for sum in &mut sums {
            *sum = _mm512_fmadd_ps(*sum, factor, step);
        }
    }
    black_box(sums.map(|sum| _mm512_reduce_add_ps(sum)));
    16
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn avx2() -> usize {
    use std::arch::x86_64::{_mm256_cvtss_f32, _mm256_fmadd_ps, _mm256_set1_ps};
    let (factor, step) = (_mm256_set1_ps(black_box(0.999)), _mm256_set1_ps(black_box(0.001)));
    let mut sums = [_mm256_set1_ps(black_box(1.0)); CHAINS];
    for _ in 0..STEPS {
        for sum in &mut sums {
            *sum = _mm256_fmadd_ps(*sum, factor, step);
        }
    }
    black_box(sums.map(|sum| _mm256_cvtss_f32(sum)));
    8
}

/// Four lanes, which the baselines (SSE2, NEON) have.
fn plain() -> usize {
    let (factor, step) = (black_box(0.999f32), black_box(0.001f32));
    let mut sums = [[black_box(1f32); 4]; CHAINS];
    for _ in 0..STEPS {
        for lane in sums.iter_mut().flatten() {
            *lane = *lane * factor + step;
        }
    }
    black_box(sums);
    4
}
