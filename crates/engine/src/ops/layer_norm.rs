//! Layer normalisation (Ba, Kiros and Hinton 2016).

use super::{matrix, vector};
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
