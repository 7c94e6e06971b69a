//! Normalisation of each column within each segment.

use super::loops::{add_row, row};
use super::{matrix, vector};
use crate::parallel::{rows_mut_for, segments_mut};
use crate::{Element, Offsets, Result, Tape, Tensor, Var};
use std::ops::Range;

/// y = (x − mean) / √(variance + eps) · weight + bias, mean and variance of
/// each column over the rows of a segment (Ulyanov et al. 2016): group
/// normalisation along time with as many groups as channels.
///
/// `x` is `[rows, cols]` cut by `offsets`, `weight` and `bias` `[cols]`.
///
/// # Errors
/// When the shapes do not fit.
pub fn instance_norm<E: Element>(
    tape: &Tape<E>,
    x: &Var<E>,
    offsets: &Offsets,
    weight: &Var<E>,
    bias: &Var<E>,
    eps: f64,
) -> Result<Var<E>> {
    const OP: &str = "instance_norm";
    let (rows, cols) = matrix(OP, "x", x)?;
    offsets.expect_rows(OP, rows)?;
    vector(OP, "weight", weight, cols)?;
    vector(OP, "bias", bias, cols)?;
    let data = x.data();
    let work = 2 * cols * (1 + rows / offsets.segments().max(1));
    // For each segment the means, then 1 / √(variance + eps).
    let mut stats = Tensor::<E>::any(&[offsets.segments(), 2 * cols]);
    rows_mut_for(stats.data_mut(), 2 * cols, work, |first, part| {
        for (i, stats) in part.chunks_exact_mut(2 * cols).enumerate() {
            let range = offsets.range(first + i);
            let n = range.len().max(1) as f64;
            let (mean, inverse) = stats.split_at_mut(cols);
            sums(range.clone(), mean, |r, c| data[r * cols + c]);
            mean.iter_mut().for_each(|m| *m /= E::of(n));
            sums(range, inverse, |r, c| {
                let away = data[r * cols + c] - mean[c];
                away * away
            });
            inverse.iter_mut().for_each(|v| *v = E::of(1.0 / (v.to_f64() / n + eps).sqrt()));
        }
    });
    let mut value = Tensor::any(&[rows, cols]);
    let (w, b, s) = (weight.data(), bias.data(), stats.data());
    segments_mut(value.data_mut(), cols, offsets, |segment, part| {
        let (mean, inverse) = row(s, segment, 2 * cols).split_at(cols);
        let from = &data[offsets.range(segment).start * cols..];
        for (y, x) in part.chunks_exact_mut(cols).zip(from.chunks_exact(cols)) {
            for (c, y) in y.iter_mut().enumerate() {
                *y = (x[c] - mean[c]) * inverse[c] * w[c] + b[c];
            }
        }
    });
    let (hx, hw, hb) = (x.handle(), weight.handle(), bias.handle());
    let (x_value, weight_value, offsets) = (x.value().clone(), weight.value().clone(), offsets.clone());
    Ok(tape.record(value, &[x, weight, bias], move |mut d, g| {
        let (x, s, w) = (x_value.data(), stats.data(), weight_value.data());
        let normal = |segment: usize, r: usize, c: usize| {
            (x[r * cols + c] - s[segment * 2 * cols + c]) * s[(segment * 2 + 1) * cols + c]
        };
        // For each segment the sums of d, then of d · (x − mean) / deviation.
        let mut along = Tensor::<E>::any(&[offsets.segments(), 2 * cols]);
        let from = d.data();
        rows_mut_for(along.data_mut(), 2 * cols, work, |first, part| {
            for (i, along) in part.chunks_exact_mut(2 * cols).enumerate() {
                let (plain, weighted) = along.split_at_mut(cols);
                sums(offsets.range(first + i), plain, |r, c| from[r * cols + c]);
                sums(offsets.range(first + i), weighted, |r, c| from[r * cols + c] * normal(first + i, r, c));
            }
        });
        let mut total = vec![E::ZERO; 2 * cols];
        along.data().chunks_exact(2 * cols).for_each(|segment| add_row(&mut total, segment));
        g.add(hb, Tensor::from_slice(&[cols], &total[..cols])?);
        g.add(hw, Tensor::from_slice(&[cols], &total[cols..])?);
        if g.wants(hx) {
            let along = along.data();
            segments_mut(d.data_mut(), cols, &offsets, |segment, part| {
                let range = offsets.range(segment);
                let n = E::of(range.len().max(1) as f64);
                let (plain, weighted) = row(along, segment, 2 * cols).split_at(cols);
                let inverse = &row(s, segment, 2 * cols)[cols..];
                for (d, r) in part.chunks_exact_mut(cols).zip(range) {
                    for (c, d) in d.iter_mut().enumerate() {
                        *d = (*d - (plain[c] + normal(segment, r, c) * weighted[c]) / n) * inverse[c] * w[c];
                    }
                }
            });
            g.add(hx, d);
        }
        Ok(())
    }))
}

/// out[c] ← the sum of f(r, c) over the rows, in f64: a sound has many.
fn sums<E: Element>(rows: Range<usize>, out: &mut [E], f: impl Fn(usize, usize) -> E) {
    let mut sums = vec![0.0; out.len()];
    for r in rows {
        for (c, sum) in sums.iter_mut().enumerate() {
            *sum += f(r, c).to_f64();
        }
    }
    for (o, sum) in out.iter_mut().zip(sums) {
        *o = E::of(sum);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::{gradients, random};
    use crate::with_threads;

    #[test]
    fn gradients_match_finite_differences() -> Result<()> {
        let offsets = Offsets::from_lengths([4, 0, 1, 5]);
        gradients(&[random(&[10, 3], "x"), random(&[3], "w"), random(&[3], "b")], |t, v| {
            instance_norm(t, &v[0], &offsets, &v[1], &v[2], 1e-2)
        })?;
        // Twice from one input: the second gradient is added.
        gradients(&[random(&[10, 3], "x"), random(&[3], "w"), random(&[3], "b")], |t, v| {
            let y = instance_norm(t, &v[0], &offsets, &v[1], &v[2], 1e-2)?;
            super::super::mul(t, &y, &v[0])
        })
    }

    #[test]
    fn columns_of_a_segment_get_mean_0_and_variance_1() -> Result<()> {
        let offsets = Offsets::from_lengths([40, 60]);
        let x = Var::constant(random(&[100, 2], "x"));
        let (one, zero) = (Var::constant(Tensor::full(&[2], 1.0)), Var::constant(Tensor::zeros(&[2])));
        let y = instance_norm(&Tape::inference(), &x, &offsets, &one, &zero, 0.0)?;
        for range in offsets.ranges() {
            for c in 0..2 {
                let column = || range.clone().map(|r| y.data()[r * 2 + c]);
                let n = range.len() as f64;
                assert!((column().sum::<f64>() / n).abs() < 1e-12);
                assert!((column().map(|v| v * v).sum::<f64>() / n - 1.0).abs() < 1e-12);
            }
        }
        Ok(())
    }

    #[test]
    fn threads_do_not_change_a_bit() -> Result<()> {
        let offsets = Offsets::from_lengths([400, 0, 900, 33]);
        let inputs = [random(&[1333, 37], "x"), random(&[37], "w"), random(&[37], "b")].map(|t| t.cast::<f32>());
        let run = |threads| -> Result<_> {
            with_threads(threads, || {
                let tape = Tape::new();
                let [x, w, b] = inputs.clone().map(|t| tape.input(t));
                let y = instance_norm(&tape, &x, &offsets, &w, &b, 1e-5)?;
                let loss = super::super::sum(&tape, &super::super::mul(&tape, &y, &y)?)?;
                let g = tape.backward(&loss)?;
                Ok([x, w, b].map(|v| g.of(&v).map(|t| t.data().to_vec())))
            })
            .expect("threads")
        };
        assert_eq!(run(1)?, run(4)?);
        Ok(())
    }

    #[test]
    fn shapes_must_fit() {
        let tape = Tape::<f32>::new();
        let x = Var::constant(Tensor::zeros(&[4, 2]));
        let (right, wrong) = (Var::constant(Tensor::zeros(&[2])), Var::constant(Tensor::zeros(&[3])));
        let whole = Offsets::from_lengths([4]);
        assert!(instance_norm(&tape, &x, &whole, &right, &right, 1e-5).is_ok());
        assert!(instance_norm(&tape, &x, &whole, &wrong, &right, 1e-5).is_err());
        assert!(instance_norm(&tape, &x, &whole, &right, &wrong, 1e-5).is_err());
        assert!(instance_norm(&tape, &x, &Offsets::from_lengths([3]), &right, &right, 1e-5).is_err());
    }
}
