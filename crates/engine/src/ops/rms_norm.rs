//! Root-mean-square normalisation (Zhang and Sennrich 2019).

use super::{matrix, residual, same, vector};
use crate::parallel::{rows_mut2, rows_per_task};
use crate::simd::{sum1, sum2, vectorised};
use crate::{Element, Result, Tape, Tensor, Var};
use rayon::prelude::*;

/// y = x / √(mean(x²) + eps) · weight, over each row.
///
/// `x` is `[rows, cols]`, `weight` `[cols]`.
///
/// # Errors
/// When the shapes do not fit.
pub fn rms_norm<E: Element>(tape: &Tape<E>, x: &Var<E>, weight: &Var<E>, eps: f64) -> Result<Var<E>> {
    let (rows, cols) = matrix("rms_norm", "x", x)?;
    vector("rms_norm", "weight", weight, cols)?;
    let (mut value, mut inverse) = (Tensor::any(&[rows, cols]), Tensor::any(&[rows]));
    let (data, w, eps) = (x.data(), weight.data(), E::of(eps));
    rows_mut2((value.data_mut(), cols), (inverse.data_mut(), 1), |first, y, s| {
        normalise_rows(&data[first * cols..][..y.len()], w, eps, y, s);
    });
    Ok(record(tape, x, weight, value, inverse))
}

/// The sum s = a + b and its root-mean-square normalisation, as one operation:
/// a residual and the norm that follows it.
///
/// `a` and `b` are `[rows, cols]`, `weight` `[cols]`; the result is s and
/// [`rms_norm`] of s, to the bit.
///
/// # Errors
/// When the shapes do not fit.
pub fn add_rms_norm<E: Element>(
    tape: &Tape<E>,
    (a, b): (&Var<E>, &Var<E>),
    weight: &Var<E>,
    eps: f64,
) -> Result<(Var<E>, Var<E>)> {
    let (rows, cols) = matrix("add_rms_norm", "a", a)?;
    same("add_rms_norm", a, b)?;
    vector("add_rms_norm", "weight", weight, cols)?;
    let (mut value, mut inverse) = (Tensor::any(&[rows, cols]), Tensor::any(&[rows]));
    let (w, eps) = (weight.data(), E::of(eps));
    let sum = residual::sum_then(tape, (a, b), (value.data_mut(), cols), (inverse.data_mut(), 1), |sum, y, s| {
        normalise_rows(sum, w, eps, y, s);
    });
    let normed = record(tape, &sum, weight, value, inverse);
    Ok((sum, normed))
}

fn record<E: Element>(tape: &Tape<E>, x: &Var<E>, weight: &Var<E>, value: Tensor<E>, inverse: Tensor<E>) -> Var<E> {
    let (rows, cols) = (x.rows(), x.cols());
    let (hx, hw) = (x.handle(), weight.handle());
    let (vx, vw) = (x.value().clone(), weight.value().clone());
    tape.record(value, &[x, weight], move |mut d, g| {
        let step = rows_per_task(cols).max(rows.div_ceil(32)).max(1);
        let mut partials = crate::Buffer::<E>::zeros(rows.div_ceil(step).max(1) * cols);
        let (xd, wd, sd) = (vx.data(), vw.data(), inverse.data());
        d.data_mut().par_chunks_mut(step * cols).zip(partials.par_chunks_mut(cols)).enumerate().for_each(
            |(i, (d, part))| {
                let first = i * step;
                let n = d.len() / cols;
                backward_rows(&xd[first * cols..][..d.len()], &sd[first..][..n], wd, d, part);
            },
        );
        let (sums, rest) = partials.split_at_mut(cols);
        for part in rest.chunks(cols) {
            for (s, p) in sums.iter_mut().zip(part) {
                *s += *p;
            }
        }
        g.add(hw, Tensor::from_slice(&[cols], sums)?);
        g.add(hx, d);
        Ok(())
    })
}

vectorised! {
    fn normalise_rows<E>(x: &[E], weight: &[E], eps: E, y: &mut [E], inverse: &mut [E]) {
        let cols = weight.len();
        for ((x, y), s) in x.chunks_exact(cols).zip(y.chunks_exact_mut(cols)).zip(inverse) {
            *s = E::ONE / (sum1(x, |v| v * v) / E::of(cols as f64) + eps).sqrt();
            for ((y, x), w) in y.iter_mut().zip(x).zip(weight) {
                *y = *x * *s * *w;
            }
        }
    }
}

vectorised! {
    fn backward_rows<E>(x: &[E], inverse: &[E], weight: &[E], d: &mut [E], part: &mut [E]) {
        let cols = weight.len();
        for ((x, d), s) in x.chunks_exact(cols).zip(d.chunks_exact_mut(cols)).zip(inverse) {
            for ((p, d), x) in part.iter_mut().zip(d.iter()).zip(x) {
                *p += *d * *x * *s;
            }
            for (d, w) in d.iter_mut().zip(weight) {
                *d *= *w;
            }
            let along = sum2(d, x, |d, x| d * x) / E::of(cols as f64) * *s * *s;
            for (d, x) in d.iter_mut().zip(x) {
                *d = *s * (*d - *x * along);
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
        for cols in [1, 6, 35] {
            gradients(&[random(&[4, cols], "x"), random(&[cols], "w")], |t, v| rms_norm(t, &v[0], &v[1], 1e-6))?;
        }
        Ok(())
    }

    #[test]
    fn of_a_sum_it_is_the_sum_and_its_norm() -> Result<()> {
        let inputs = [random(&[4, 6], "a"), random(&[4, 6], "b"), random(&[6], "w")];
        let fused = |t: &Tape<f64>, v: &[Var<f64>]| {
            let (s, y) = add_rms_norm(t, (&v[0], &v[1]), &v[2], 1e-6)?;
            super::super::mul(t, &s, &y)
        };
        let plain = |t: &Tape<f64>, v: &[Var<f64>]| {
            let s = super::super::add(t, &v[0], &v[1])?;
            super::super::mul(t, &s, &rms_norm(t, &s, &v[2], 1e-6)?)
        };
        gradients(&inputs, fused)?;
        let vars = inputs.map(Var::constant);
        let tape = Tape::inference();
        assert_eq!(fused(&tape, &vars)?.data(), plain(&tape, &vars)?.data());
        Ok(())
    }

    #[test]
    fn a_row_of_zeros_stays_zero() -> Result<()> {
        let tape = Tape::<f32>::inference();
        let y = rms_norm(&tape, &Var::constant(Tensor::zeros(&[1, 4])), &Var::constant(Tensor::full(&[4], 3.0)), 1e-6)?;
        assert_eq!(y.data(), [0.0; 4]);
        Ok(())
    }
}
