//! Finite-difference checks of gradients, in `f64`.
//!
//! Every differentiable operation, and every layer built from them, is held
//! against `(f(x + h) - f(x - h)) / 2h`.

use crate::{Params, Random, Result, Tape, Tensor, Var};

/// A tensor of standard normal values, a function of the name.
pub fn random(dims: &[usize], name: &str) -> Tensor<f64> {
    let r = Random::new(17).purpose(name);
    let mut t = Tensor::any(dims);
    for (i, x) in t.data_mut().iter_mut().enumerate() {
        *x = r.normal(i as u64);
    }
    t
}

/// Reduces any output to one number with fixed random weights, so that no two
/// elements' gradients can be exchanged unseen.
fn project(tape: &Tape<f64>, y: &Var<f64>) -> Result<Var<f64>> {
    let w = Var::constant(random(y.value().dims(), "projection"));
    crate::ops::sum(tape, &crate::ops::mul(tape, y, &w)?)
}

/// Asserts that the gradients of `f` with respect to every input agree with
/// finite differences to `1e-6` relative to the largest.
///
/// # Errors
/// Those of `f`.
///
/// # Panics
/// When a gradient is missing or wrong.
pub fn gradients(inputs: &[Tensor<f64>], f: impl Fn(&Tape<f64>, &[Var<f64>]) -> Result<Var<f64>>) -> Result<()> {
    let tape = Tape::new();
    let vars: Vec<_> = inputs.iter().map(|t| tape.input(t.clone())).collect();
    let loss = project(&tape, &f(&tape, &vars)?)?;
    let g = tape.backward(&loss)?;
    let value = |changed: &[Tensor<f64>]| -> Result<f64> {
        let tape = Tape::inference();
        let vars: Vec<_> = changed.iter().map(|t| Var::constant(t.clone())).collect();
        project(&tape, &f(&tape, &vars)?)?.value().scalar()
    };
    for (n, input) in inputs.iter().enumerate() {
        let ours = g.of(&vars[n]).unwrap_or_else(|| panic!("input {n} got no gradient"));
        let mut moved = inputs.to_vec();
        let numeric = differences(input, |t| {
            moved[n] = t;
            value(&moved)
        })?;
        compare(&format!("input {n}"), ours.data(), &numeric);
    }
    Ok(())
}

/// As [`gradients`], with respect to every trainable parameter of a layer.
///
/// # Errors
/// Those of `f`.
///
/// # Panics
/// When a gradient is missing or wrong.
pub fn param_gradients(params: &Params<f64>, f: impl Fn(&Tape<f64>, &Params<f64>) -> Result<Var<f64>>) -> Result<()> {
    let tape = Tape::new();
    let loss = project(&tape, &f(&tape, params)?)?;
    let g = tape.backward(&loss)?;
    for (id, p) in params.iter().filter(|(_, p)| p.trainable) {
        let ours = g.param(id).unwrap_or_else(|| panic!("{} got no gradient", p.name));
        let mut moved = params.clone();
        let numeric = differences(&p.value, |t| {
            moved.get_mut(id).value = t;
            let tape = Tape::inference();
            project(&tape, &f(&tape, &moved)?)?.value().scalar()
        })?;
        compare(&p.name, ours.data(), &numeric);
    }
    Ok(())
}

fn differences(at: &Tensor<f64>, mut f: impl FnMut(Tensor<f64>) -> Result<f64>) -> Result<Vec<f64>> {
    const STEP: f64 = 1e-5;
    (0..at.len())
        .map(|i| {
            let mut side = |h: f64| {
                let mut t = at.clone();
                t.data_mut()[i] += h;
                f(t)
            };
            Ok((side(STEP)? - side(-STEP)?) / (2.0 * STEP))
        })
        .collect()
}

fn compare(what: &str, ours: &[f64], numeric: &[f64]) {
    let scale = numeric.iter().fold(1.0_f64, |m, x| m.max(x.abs()));
    for (i, (a, b)) in ours.iter().zip(numeric).enumerate() {
        assert!((a - b).abs() <= 1e-6 * scale, "{what}, element {i}: gradient {a}, finite difference {b}");
    }
}
