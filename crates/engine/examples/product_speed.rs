//! The speed of matrix products of the shapes that Transformers have, in the
//! three forms of a linear layer, as a share of what the cores can multiply.
//!
//!     cargo run --release -p sensorium-engine --example product_speed [SHAPE…]
//!
//! A SHAPE is ROWSxOUTPUTSxINPUTS. Each line: shape, form, GFLOP/s of the best
//! of many runs, on one thread and on all.

use sensorium_engine::matmul::{Matrix, Output, product, product_here};
use std::time::Instant;

/// Rows, outputs, inputs.
const SHAPES: [[usize; 3]; 8] = [
    [2048, 384, 384],
    [2048, 1536, 384],
    [2048, 384, 1536],
    [1024, 768, 768],
    [1024, 3072, 768],
    [1024, 768, 3072],
    [16, 384, 384],
    [16, 1536, 384],
];

fn best(seconds: f64, mut f: impl FnMut()) -> f64 {
    f();
    let (begin, mut least) = (Instant::now(), f64::INFINITY);
    while begin.elapsed().as_secs_f64() < seconds {
        let start = Instant::now();
        f();
        least = least.min(start.elapsed().as_secs_f64());
    }
    least
}

fn main() {
    let asked: Vec<[usize; 3]> = std::env::args()
        .skip(1)
        .filter_map(|a| {
            let n: Vec<usize> = a.split('x').filter_map(|n| n.parse().ok()).collect();
            n.try_into().ok()
        })
        .collect();
    let shapes = if asked.is_empty() { SHAPES.to_vec() } else { asked };
    println!("{:<18} {:<16} {:>10} {:>10}", "shape", "form", "1 thread", "all");
    for [rows, outputs, inputs] in shapes {
        let x: Vec<f32> = (0..rows * inputs).map(|i| (i % 17) as f32 / 17.0).collect();
        let w: Vec<f32> = (0..outputs * inputs).map(|i| (i % 13) as f32 / 13.0).collect();
        let d: Vec<f32> = (0..rows * outputs).map(|i| (i % 11) as f32 / 11.0).collect();
        let (mx, mw, md) =
            (Matrix::dense(&x, rows, inputs), Matrix::dense(&w, outputs, inputs), Matrix::dense(&d, rows, outputs));
        let forms = [
            ("forward", mx, mw.transposed(), rows, outputs),
            ("input gradient", md, mw, rows, inputs),
            ("weight gradient", md.transposed(), mx, outputs, inputs),
        ];
        for (name, a, b, m, n) in forms {
            let mut c = vec![0.0_f32; m * n];
            let flops = 2.0 * (rows * outputs * inputs) as f64;
            let one = best(0.2, || product_here(a, b, Output::dense(&mut c, m, n), false));
            let all = best(0.2, || product(a, b, Output::dense(&mut c, m, n), false));
            println!(
                "{:<18} {name:<16} {:>10.1} {:>10.1}",
                format!("{rows}x{outputs}x{inputs}"),
                flops / one / 1e9,
                flops / all / 1e9
            );
        }
    }
}
