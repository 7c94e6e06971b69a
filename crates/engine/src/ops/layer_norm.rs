//! Layer normalisation (Ba, Kiros and Hinton 2016).

use super::{matrix, residual, same, vector};
use crate::parallel::{rows_mut2, rows_per_task};
use crate::simd::{sum1, sum2, vectorised};
use crate::{Element, Result, Tape, Tensor, Var};
use rayon::prelude::*;

/// y = (x − mean) / √(variance + eps) · weight + bias, over each row.
///
/// `x` is `[rows, cols]`, `weight` and `bias` `[cols]`.
///
/// # Errors
/// When the shapes do not fit.
pub fn layer_norm<E: Element>(
    tape: &Tape<E>,
    x: &Var<E>,
    weight: &Var<E>,
    bias: Option<&Var<E>>,
    eps: f64,
) -> Result<Var<E>> {
    let (rows, cols) = matrix("layer_norm", "x", x)?;
    vector("layer_norm", "weight", weight, cols)?;
    if let Some(b) = bias {
        vector("layer_norm", "bias", b, cols)?;
    }
    let (mut value, mut stats) = (Tensor::any(&[rows, cols]), Tensor::any(&[rows, 2]));
    let (data, w, b, eps) = (x.data(), weight.data(), bias.map(Var::data), E::of(eps));
    rows_mut2((value.data_mut(), cols), (stats.data_mut(), 2), |first, y, s| {
        normalise_rows(&data[first * cols..][..y.len()], w, b, eps, y, s);
    });
    Ok(record(tape, x, weight, bias, value, stats))
}

/// The sum s = a + b and its layer normalisation, as one operation: a residual
/// and the norm that follows it.
///
/// `a` and `b` are `[rows, cols]`, `weight` and `bias` `[cols]`; the result is
/// s and [`layer_norm`] of s, to the bit.
///
/// # Errors
/// When the shapes do not fit.
pub fn add_layer_norm<E: Element>(
    tape: &Tape<E>,
    (a, b): (&Var<E>, &Var<E>),
    weight: &Var<E>,
    bias: Option<&Var<E>>,
    eps: f64,
) -> Result<(Var<E>, Var<E>)> {
    let (rows, cols) = matrix("add_layer_norm", "a", a)?;
    same("add_layer_norm", a, b)?;
    vector("add_layer_norm", "weight", weight, cols)?;
    if let Some(b) = bias {
        vector("add_layer_norm", "bias", b, cols)?;
    }
    let (mut value, mut stats) = (Tensor::any(&[rows, cols]), Tensor::any(&[rows, 2]));
    let (w, bias_data, eps) = (weight.data(), bias.map(Var::data), E::of(eps));
    let sum = residual::sum_then(tape, (a, b), (value.data_mut(), cols), (stats.data_mut(), 2), |sum, y, s| {
        normalise_rows(sum, w, bias_data, eps, y, s);
    });
    let normed = record(tape, &sum, weight, bias, value, stats);
    Ok((sum, normed))
}

fn record<E: Element>(
    tape: &Tape<E>,
    x: &Var<E>,
    weight: &Var<E>,
    bias: Option<&Var<E>>,
    value: Tensor<E>,
    stats: Tensor<E>,
) -> Var<E> {
    let mut involved = vec![x, weight];
    involved.extend(bias);
    let (hx, hw, hb) = (x.handle(), weight.handle(), bias.map(Var::handle));
    let (x, weight) = (x.value().clone(), weight.value().clone());
    tape.record(value, &involved, move |mut d, g| {
        let cols = x.shape().cols();
        // Partial sums of the weight's and the bias' gradients, one pair per
        // fixed run of rows; dx overwrites d.
        let step = rows_per_task(cols).max(x.shape().rows().div_ceil(32)).max(1);
        let parts = x.shape().rows().div_ceil(step);
        let mut partials = crate::Buffer::<E>::zeros((parts * 2 * cols).max(2 * cols));
        let (xd, wd, sd) = (x.data(), weight.data(), stats.data());
        d.data_mut().par_chunks_mut(step * cols).zip(partials.par_chunks_mut(2 * cols)).enumerate().for_each(
            |(i, (d, part))| {
                let first = i * step;
                let n = d.len() / cols;
                backward_rows(&xd[first * cols..][..d.len()], &sd[first * 2..][..n * 2], wd, d, part);
            },
        );
        let (sums, rest) = partials.split_at_mut(2 * cols);
        for part in rest.chunks(2 * cols) {
            for (s, p) in sums.iter_mut().zip(part) {
                *s += *p;
            }
        }
        g.add(hw, Tensor::from_slice(&[cols], &sums[..cols])?);
        if let Some(hb) = hb {
            g.add(hb, Tensor::from_slice(&[cols], &sums[cols..])?);
        }
        g.add(hx, d);
        Ok(())
    })
}

vectorised! {
    fn normalise_rows<E>(x: &[E], weight: &[E], bias: Option<&[E]>, eps: E, y: &mut [E], stats: &mut [E]) {
        let cols = weight.len();
        let n = E::of(cols as f64);
        for ((x, y), s) in x.chunks_exact(cols).zip(y.chunks_exact_mut(cols)).zip(stats.chunks_exact_mut(2)) {
            let mean = sum1(x, |v| v) / n;
            let variance = sum1(x, |v| (v - mean) * (v - mean)) / n;
            let inverse = E::ONE / (variance + eps).sqrt();
            match bias {
                Some(b) => {
                    for (((y, x), w), b) in y.iter_mut().zip(x).zip(weight).zip(b) {
                        *y = (*x - mean) * inverse * *w + *b;
                    }
                }
                None => {
                    for ((y, x), w) in y.iter_mut().zip(x).zip(weight) {
                        *y = (*x - mean) * inverse * *w;
                    }
                }
            }
            s[0] = mean;
            s[1] = inverse;
        }
    }
}

vectorised! {
    /// dx in place of d; gradients of weight and bias added to `part`.
    fn backward_rows<E>(x: &[E], stats: &[E], weight: &[E], d: &mut [E], part: &mut [E]) {
        let cols = weight.len();
        let n = E::of(cols as f64);
        let (dw, db) = part.split_at_mut(cols);
        for ((x, d), s) in x.chunks_exact(cols).zip(d.chunks_exact_mut(cols)).zip(stats.chunks_exact(2)) {
            let (mean, inverse) = (s[0], s[1]);
            for (((dw, db), d), x) in dw.iter_mut().zip(db.iter_mut()).zip(d.iter_mut()).zip(x) {
                *dw += *d * ((*x - mean) * inverse);
                *db += *d;
            }
            for (d, w) in d.iter_mut().zip(weight) {
                *d *= *w;
            }
            let m1 = sum1(d, |v| v) / n;
            let m2 = sum2(d, x, |d, x| d * ((x - mean) * inverse)) / n;
            for (d, x) in d.iter_mut().zip(x) {
                *d = inverse * (*d - m1 - (*x - mean) * inverse * m2);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::{gradients, random};

    #[test]
    fn gradients_match_finite_differences() -> Result<()> {
        for cols in [1, 5, 33] {
            let inputs = [random(&[4, cols], "x"), random(&[cols], "w"), random(&[cols], "b")];
            gradients(&inputs, |t, v| layer_norm(t, &v[0], &v[1], Some(&v[2]), 1e-5))?;
            gradients(&inputs[..2], |t, v| layer_norm(t, &v[0], &v[1], None, 1e-5))?;
        }
        Ok(())
    }

    #[test]
    fn of_a_sum_it_is_the_sum_and_its_norm() -> Result<()> {
        for (rows, cols) in [(0, 3), (1, 1), (4, 5), (3, 33), (200, 384)] {
            let [a, b, w, c] = [(rows, "a"), (rows, "b"), (1, "w"), (1, "c")]
                .map(|(rows, name)| random(&[rows, cols], name).cast::<f32>());
            let [w, c] = [w.reshaped(&[cols])?, c.reshaped(&[cols])?];
            let run = |fused: bool| -> Result<Vec<Vec<f32>>> {
                let tape = Tape::new();
                let v = [&a, &b, &w, &c].map(|t| tape.input(t.clone()));
                let (s, y) = if fused {
                    add_layer_norm(&tape, (&v[0], &v[1]), &v[2], Some(&v[3]), 1e-5)?
                } else {
                    let s = super::super::add(&tape, &v[0], &v[1])?;
                    let y = layer_norm(&tape, &s, &v[2], Some(&v[3]), 1e-5)?;
                    (s, y)
                };
                // Both results are used, as in a block that normalises first.
                let z = super::super::mul(&tape, &s, &y)?;
                let g = tape.backward_from(&z, Tensor::full(&[rows, cols], 0.7))?;
                let gradients = v.iter().map(|v| g.of(v).expect("a gradient").data().to_vec());
                Ok(gradients.chain([s.data().to_vec(), y.data().to_vec()]).collect())
            };
            assert_eq!(run(true)?, run(false)?, "{rows} x {cols}");
        }
        Ok(())
    }

    #[test]
    fn gradients_through_a_sum_match_finite_differences() -> Result<()> {
        let inputs = [random(&[4, 5], "a"), random(&[4, 5], "b"), random(&[5], "w"), random(&[5], "c")];
        gradients(&inputs, |t, v| {
            let (s, y) = add_layer_norm(t, (&v[0], &v[1]), &v[2], Some(&v[3]), 1e-5)?;
            super::super::mul(t, &s, &y)
        })?;
        let wrong = [random(&[4, 5], "a"), random(&[5, 4], "b"), random(&[5], "w")].map(Var::constant);
        assert!(add_layer_norm(&Tape::new(), (&wrong[0], &wrong[1]), &wrong[2], None, 1e-5).is_err());
        Ok(())
    }

    #[test]
    fn rows_come_out_with_mean_zero_and_variance_one_even_far_from_zero() -> Result<()> {
        let x: Vec<f32> = (0..300).map(|i| 1000.0 + (i % 7) as f32).collect();
        let tape = Tape::inference();
        let x = Var::constant(Tensor::from_slice(&[3, 100], &x)?);
        let (w, b) = (Var::constant(Tensor::full(&[100], 1.0)), Var::constant(Tensor::zeros(&[100])));
        let y = layer_norm(&tape, &x, &w, Some(&b), 1e-12)?;
        for row in y.data().chunks(100) {
            let mean = row.iter().sum::<f32>() / 100.0;
            let variance = row.iter().map(|v| (v - mean).powi(2)).sum::<f32>() / 100.0;
            assert!(mean.abs() < 1e-3 && (variance - 1.0).abs() < 1e-3, "{mean} {variance}");
        }
        Ok(())
    }
}
