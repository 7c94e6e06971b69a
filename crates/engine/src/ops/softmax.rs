//! Softmax over columns, and over the rows of segments.

use super::matrix;
use crate::parallel::{rows_mut, segments_mut};
use crate::simd::{max1, sum1, sum2, vectorised};
use crate::{Element, Offsets, Result, Tape, Tensor, Var};

/// The softmax of each row: `[rows, cols]` to the same.
///
/// # Errors
/// When `x` is not a matrix.
pub fn softmax<E: Element>(tape: &Tape<E>, x: &Var<E>) -> Result<Var<E>> {
    let (rows, cols) = matrix("softmax", "x", x)?;
    let mut value = Tensor::any(&[rows, cols]);
    let from = x.data();
    each_row(value.data_mut(), cols, |r, out| softmax_row(out, &from[r * cols..][..cols]));
    let (h, y) = (x.handle(), value.clone());
    Ok(tape.record(value, &[x], move |mut d, g| {
        let y = y.data();
        each_row(d.data_mut(), cols, |r, d| softmax_row_backward(d, &y[r * cols..][..cols]));
        g.add(h, d);
        Ok(())
    }))
}

/// The logarithm of the softmax of each row: `[rows, cols]` to the same.
///
/// # Errors
/// When `x` is not a matrix.
pub fn log_softmax<E: Element>(tape: &Tape<E>, x: &Var<E>) -> Result<Var<E>> {
    let (rows, cols) = matrix("log_softmax", "x", x)?;
    let mut value = Tensor::any(&[rows, cols]);
    let from = x.data();
    each_row(value.data_mut(), cols, |r, out| log_softmax_row(out, &from[r * cols..][..cols]));
    let (h, y) = (x.handle(), value.clone());
    Ok(tape.record(value, &[x], move |mut d, g| {
        let y = y.data();
        each_row(d.data_mut(), cols, |r, d| log_softmax_row_backward(d, &y[r * cols..][..cols]));
        g.add(h, d);
        Ok(())
    }))
}

/// The softmax over the rows of each segment, for each column (head) apart:
/// `scores` is `[rows, heads]` cut by `offsets`, the result the same.
///
/// # Errors
/// When the offsets do not cut the scores.
pub fn segment_softmax<E: Element>(tape: &Tape<E>, scores: &Var<E>, offsets: &Offsets) -> Result<Var<E>> {
    let (rows, heads) = matrix("segment_softmax", "scores", scores)?;
    offsets.expect_rows("segment_softmax", rows)?;
    let mut value = Tensor::any(&[rows, heads]);
    let from = scores.data();
    segments_mut(value.data_mut(), heads, offsets, |s, out| {
        let x = &from[offsets.range(s).start * heads..][..out.len()];
        if heads == 1 {
            softmax_row(out, x);
        } else if heads > 1 {
            softmax_columns(out, x, heads);
        }
    });
    let (h, y, offsets) = (scores.handle(), value.clone(), offsets.clone());
    Ok(tape.record(value, &[scores], move |mut d, g| {
        let y = y.data();
        segments_mut(d.data_mut(), heads, &offsets, |s, d| {
            let y = &y[offsets.range(s).start * heads..][..d.len()];
            if heads == 1 {
                softmax_row_backward(d, y);
            } else if heads > 1 {
                softmax_columns_backward(d, y, heads);
            }
        });
        g.add(h, d);
        Ok(())
    }))
}

fn each_row<E: Element>(out: &mut [E], cols: usize, f: impl Fn(usize, &mut [E]) + Sync) {
    rows_mut(out, cols, |first, part| {
        for (i, row) in part.chunks_exact_mut(cols).enumerate() {
            f(first + i, row);
        }
    });
}

fn softmax_columns<E: Element>(out: &mut [E], x: &[E], cols: usize) {
    let mut largest = vec![E::NEG_INFINITY; cols];
    for row in x.chunks_exact(cols) {
        for (m, v) in largest.iter_mut().zip(row) {
            *m = m.larger(*v);
        }
    }
    let mut sums = vec![E::ZERO; cols];
    for (row, x) in out.chunks_exact_mut(cols).zip(x.chunks_exact(cols)) {
        exp_difference(row, x, &largest);
        super::loops::add_row(&mut sums, row);
    }
    for row in out.chunks_exact_mut(cols) {
        for (o, s) in row.iter_mut().zip(&sums) {
            *o /= *s;
        }
    }
}

fn softmax_columns_backward<E: Element>(d: &mut [E], y: &[E], cols: usize) {
    let mut sums = vec![E::ZERO; cols];
    for (d, y) in d.chunks_exact(cols).zip(y.chunks_exact(cols)) {
        for ((s, d), y) in sums.iter_mut().zip(d).zip(y) {
            *s += *d * *y;
        }
    }
    for (d, y) in d.chunks_exact_mut(cols).zip(y.chunks_exact(cols)) {
        for ((d, y), s) in d.iter_mut().zip(y).zip(&sums) {
            *d = *y * (*d - *s);
        }
    }
}

vectorised! {
    fn exp_difference<E>(out: &mut [E], x: &[E], largest: &[E]) {
        for ((o, v), m) in out.iter_mut().zip(x).zip(largest) {
            *o = (*v - *m).exp();
        }
    }
}
vectorised! {
    fn softmax_row<E>(out: &mut [E], x: &[E]) {
        let largest = max1(x);
        for (o, v) in out.iter_mut().zip(x) {
            *o = (*v - largest).exp();
        }
        let share = E::ONE / sum1(out, |v| v);
        for o in out {
            *o *= share;
        }
    }
}
vectorised! {
    /// d ← y · (d − Σ d·y)
    fn softmax_row_backward<E>(d: &mut [E], y: &[E]) {
        let sum = sum2(d, y, |d, y| d * y);
        for (d, y) in d.iter_mut().zip(y) {
            *d = *y * (*d - sum);
        }
    }
}
vectorised! {
    fn log_softmax_row<E>(out: &mut [E], x: &[E]) {
        let largest = max1(x);
        let log_sum = sum1(x, |v| (v - largest).exp()).ln();
        for (o, v) in out.iter_mut().zip(x) {
            *o = (*v - largest) - log_sum;
        }
    }
}
vectorised! {
    /// d ← d − eʸ · Σ d
    fn log_softmax_row_backward<E>(d: &mut [E], y: &[E]) {
        let sum = sum1(d, |v| v);
        for (d, y) in d.iter_mut().zip(y) {
            *d -= y.exp() * sum;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::{gradients, random};
    use crate::with_threads;

    #[test]
    fn gradients_match_finite_differences() -> Result<()> {
        gradients(&[random(&[4, 19], "x")], |t, v| softmax(t, &v[0]))?;
        gradients(&[random(&[4, 19], "x")], |t, v| log_softmax(t, &v[0]))?;
        let offsets = Offsets::from_lengths([3, 0, 1, 5]);
        gradients(&[random(&[9, 3], "x")], |t, v| segment_softmax(t, &v[0], &offsets))?;
        gradients(&[random(&[9, 1], "x")], |t, v| segment_softmax(t, &v[0], &offsets))
    }

    #[test]
    fn values_are_those_of_the_definition() -> Result<()> {
        let tape = Tape::<f32>::inference();
        let x = random(&[6, 5], "x");
        let y = softmax(&tape, &Var::constant(x.cast()))?;
        let l = log_softmax(&tape, &Var::constant(x.cast()))?;
        for (r, row) in x.data().chunks(5).enumerate() {
            let sum: f64 = row.iter().map(|v| v.exp()).sum();
            for (c, v) in row.iter().enumerate() {
                let want = v.exp() / sum;
                assert!((f64::from(y.data()[r * 5 + c]) - want).abs() < 1e-6);
                assert!((f64::from(l.data()[r * 5 + c]) - want.ln()).abs() < 2e-6);
            }
        }
        let offsets = Offsets::from_lengths([2, 0, 4]);
        for (heads, x) in [(5, x.clone()), (1, random(&[6, 1], "one"))] {
            let y = segment_softmax(&tape, &Var::constant(x.cast()), &offsets)?;
            for r in offsets.ranges() {
                for h in 0..heads {
                    let sum: f64 = r.clone().map(|i| x.data()[i * heads + h].exp()).sum();
                    for i in r.clone() {
                        let want = x.data()[i * heads + h].exp() / sum;
                        assert!((f64::from(y.data()[i * heads + h]) - want).abs() < 1e-6);
                    }
                }
            }
        }
        Ok(())
    }

    #[test]
    fn far_scores_stay_finite() -> Result<()> {
        let x = Var::constant(Tensor::from_slice(&[1, 3], &[3e38_f32, -3e38, 3e38])?);
        let tape = Tape::inference();
        assert_eq!(softmax(&tape, &x)?.data()[0], 0.5);
        assert!(log_softmax(&tape, &x)?.data()[0].is_finite());
        Ok(())
    }

    #[test]
    fn threads_do_not_change_a_bit() -> Result<()> {
        let offsets = Offsets::from_lengths((0..211).map(|i| i * 5 % 17));
        let x = random(&[offsets.total(), 29], "x").cast::<f32>();
        let run = |threads| -> Result<_> {
            with_threads(threads, || {
                let tape = Tape::new();
                let x = tape.input(x.clone());
                let y = segment_softmax(&tape, &softmax(&tape, &x)?, &offsets)?;
                let z = super::super::sum(&tape, &super::super::mul(&tape, &y, &y)?)?;
                let g = tape.backward(&z)?;
                Ok((y.data().to_vec(), g.of(&x).map(|t| t.data().to_vec())))
            })
            .expect("threads")
        };
        assert_eq!(run(1)?, run(4)?);
        Ok(())
    }

    #[test]
    fn wrong_shapes_are_refused_and_nothing_is_fine() -> Result<()> {
        let tape = Tape::<f32>::new();
        let flat = Var::constant(Tensor::zeros(&[4]));
        assert!(softmax(&tape, &flat).is_err() && log_softmax(&tape, &flat).is_err());
        let x = Var::constant(Tensor::zeros(&[4, 2]));
        assert!(segment_softmax(&tape, &x, &Offsets::from_lengths([3])).is_err());
        let none = Var::constant(Tensor::zeros(&[0, 2]));
        assert_eq!(segment_softmax(&tape, &none, &Offsets::from_lengths([0, 0]))?.value().dims(), [0, 2]);
        assert_eq!(softmax(&tape, &none)?.value().dims(), [0, 2]);
        Ok(())
    }
}
