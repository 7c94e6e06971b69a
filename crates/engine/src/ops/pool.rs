//! One row for each segment.

use super::loops::{add_row, add_scaled_row, row, scale_row};
use super::matrix;
use super::segments::each_row;
use crate::parallel::{rows_mut, rows_mut_for, segments_mut};
use crate::{Element, Offsets, Result, Tape, Tensor, Var};

/// How the rows of a segment become one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Pooling {
    /// The mean of all rows.
    Mean,
    /// The largest value of each column; its gradient goes to the first row
    /// that has it.
    Max,
    /// The first row (a class token).
    First,
    /// The last row (the end of a causal sequence).
    Last,
}

/// Pools the rows of each segment: `x` is `[rows, dim]` cut by `offsets`, the
/// result `[segments, dim]`. An empty segment gives zeros.
///
/// # Errors
/// When the offsets do not cut `x`.
pub fn pool<E: Element>(tape: &Tape<E>, x: &Var<E>, offsets: &Offsets, pooling: Pooling) -> Result<Var<E>> {
    let (rows, cols) = matrix("pool", "x", x)?;
    offsets.expect_rows("pool", rows)?;
    match pooling {
        Pooling::Mean => Ok(mean(tape, x, offsets, cols)),
        Pooling::Max => Ok(max(tape, x, offsets, cols)),
        Pooling::First => Ok(one(tape, x, offsets, cols, |r| r.start)),
        Pooling::Last => Ok(one(tape, x, offsets, cols, |r| r.end - 1)),
    }
}

/// Each segment's row of `x` `[segments, dim]` repeated for all rows of the
/// segment: `[rows, dim]`.
///
/// # Errors
/// When `x` does not have one row for each segment.
pub fn repeat_segments<E: Element>(tape: &Tape<E>, x: &Var<E>, offsets: &Offsets) -> Result<Var<E>> {
    let (segments, cols) = matrix("repeat_segments", "x", x)?;
    if segments != offsets.segments() {
        let problem = format!("cut {} segments, but there are {segments} rows", offsets.segments());
        return Err(crate::EngineError::Offsets { op: "repeat_segments", problem });
    }
    let mut value = Tensor::any(&[offsets.total(), cols]);
    let from = x.data();
    rows_mut(value.data_mut(), cols, |first, part| {
        each_row(offsets, first, part.len() / cols, |i, s| {
            part[i * cols..][..cols].copy_from_slice(row(from, s, cols));
        });
    });
    let (h, offsets) = (x.handle(), offsets.clone());
    Ok(tape.record(value, &[x], move |d, g| {
        let mut sums = Tensor::any(&[segments, cols]);
        sum_segments(sums.data_mut(), d.data(), &offsets, cols);
        g.add(h, sums);
        Ok(())
    }))
}

/// out[s] ← the sum of the rows of segment s
fn sum_segments<E: Element>(out: &mut [E], x: &[E], offsets: &Offsets, cols: usize) {
    rows_mut_for(out, cols, work(offsets, cols), |first, part| {
        for (i, o) in part.chunks_exact_mut(cols).enumerate() {
            o.fill(E::ZERO);
            for r in offsets.range(first + i) {
                add_row(o, row(x, r, cols));
            }
        }
    });
}

/// The elements that an average segment reads.
fn work(offsets: &Offsets, cols: usize) -> usize {
    cols * (1 + offsets.total() / offsets.segments().max(1))
}

fn mean<E: Element>(tape: &Tape<E>, x: &Var<E>, offsets: &Offsets, cols: usize) -> Var<E> {
    let mut value = Tensor::any(&[offsets.segments(), cols]);
    sum_segments(value.data_mut(), x.data(), offsets, cols);
    rows_mut(value.data_mut(), cols, |first, part| {
        for (i, o) in part.chunks_exact_mut(cols).enumerate() {
            let n = E::of(offsets.length(first + i).max(1) as f64);
            for o in o {
                *o /= n;
            }
        }
    });
    let (h, offsets) = (x.handle(), offsets.clone());
    tape.record(value, &[x], move |d, g| {
        if let Some((mut dx, add)) = g.take(h, &[offsets.total(), cols]) {
            let d = d.data();
            rows_mut(dx.data_mut(), cols, |first, part| {
                each_row(&offsets, first, part.len() / cols, |i, s| {
                    let share = E::ONE / E::of(offsets.length(s) as f64);
                    let out = &mut part[i * cols..][..cols];
                    if add {
                        add_scaled_row(out, row(d, s, cols), share);
                    } else {
                        scale_row(out, row(d, s, cols), share);
                    }
                });
            });
            g.put(h, dx);
        }
        Ok(())
    })
}

/// Marks the columns of an empty segment, which come from no row.
const NO_ROW: u32 = u32::MAX;

fn max<E: Element>(tape: &Tape<E>, x: &Var<E>, offsets: &Offsets, cols: usize) -> Var<E> {
    let from = x.data();
    let mut origin = vec![NO_ROW; offsets.segments() * cols];
    rows_mut_for(&mut origin, cols, work(offsets, cols), |first, part| {
        let mut best = vec![E::ZERO; cols];
        for (i, origin) in part.chunks_exact_mut(cols).enumerate() {
            for r in offsets.range(first + i) {
                for ((&v, best), origin) in row(from, r, cols).iter().zip(&mut best).zip(origin.iter_mut()) {
                    // NaN is handed on: it replaces any number, and no number
                    // is greater than it.
                    #[allow(clippy::eq_op)]
                    if *origin == NO_ROW || v > *best || v != v {
                        *best = v;
                        *origin = r as u32;
                    }
                }
            }
        }
    });
    let mut value = Tensor::any(&[offsets.segments(), cols]);
    rows_mut(value.data_mut(), cols, |first, part| {
        for (i, (o, &r)) in part.iter_mut().zip(&origin[first * cols..]).enumerate() {
            *o = if r == NO_ROW { E::ZERO } else { from[r as usize * cols + i % cols] };
        }
    });
    let (h, offsets) = (x.handle(), offsets.clone());
    tape.record(value, &[x], move |d, g| {
        if let Some((mut dx, add)) = g.take(h, &[offsets.total(), cols]) {
            let d = d.data();
            segments_mut(dx.data_mut(), cols, &offsets, |s, part| {
                if !add {
                    part.fill(E::ZERO);
                }
                let start = offsets.range(s).start;
                for (c, (&r, &d)) in row(&origin, s, cols).iter().zip(row(d, s, cols)).enumerate() {
                    if r != NO_ROW {
                        part[(r as usize - start) * cols + c] += d;
                    }
                }
            });
            g.put(h, dx);
        }
        Ok(())
    })
}

/// The row that `which` picks from every segment that has rows.
fn one<E: Element>(
    tape: &Tape<E>,
    x: &Var<E>,
    offsets: &Offsets,
    cols: usize,
    which: fn(std::ops::Range<usize>) -> usize,
) -> Var<E> {
    let from = x.data();
    let mut value = Tensor::any(&[offsets.segments(), cols]);
    rows_mut(value.data_mut(), cols, |first, part| {
        for (i, o) in part.chunks_exact_mut(cols).enumerate() {
            match offsets.range(first + i) {
                r if r.is_empty() => o.fill(E::ZERO),
                r => o.copy_from_slice(row(from, which(r), cols)),
            }
        }
    });
    let (h, offsets) = (x.handle(), offsets.clone());
    tape.record(value, &[x], move |d, g| {
        if let Some((mut dx, add)) = g.take(h, &[offsets.total(), cols]) {
            let d = d.data();
            segments_mut(dx.data_mut(), cols, &offsets, |s, part| {
                if !add {
                    part.fill(E::ZERO);
                }
                let r = offsets.range(s);
                if !r.is_empty() {
                    let at = which(r.clone()) - r.start;
                    add_row(&mut part[at * cols..][..cols], row(d, s, cols));
                }
            });
            g.put(h, dx);
        }
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::{gradients, random};
    use crate::with_threads;

    const ALL: [Pooling; 4] = [Pooling::Mean, Pooling::Max, Pooling::First, Pooling::Last];

    #[test]
    fn gradients_match_finite_differences() -> Result<()> {
        let offsets = Offsets::from_lengths([3, 0, 1, 5, 0]);
        for p in ALL {
            gradients(&[random(&[9, 5], "x")], |t, v| pool(t, &v[0], &offsets, p))?;
            // Twice from one input: the second gradient is added.
            gradients(&[random(&[9, 5], "x")], |t, v| {
                let (a, b) = (pool(t, &v[0], &offsets, p)?, pool(t, &v[0], &offsets, Pooling::Mean)?);
                super::super::mul(t, &a, &b)
            })?;
        }
        gradients(&[random(&[5, 3], "x")], |t, v| repeat_segments(t, &v[0], &offsets))
    }

    #[test]
    fn values_are_those_of_the_definitions() -> Result<()> {
        let tape = Tape::<f64>::inference();
        let x = Var::constant(Tensor::from_slice(&[3, 2], &[1.0, -2.0, 3.0, -5.0, 7.0, 0.5])?);
        let offsets = Offsets::from_lengths([2, 0, 1]);
        for (p, want) in ALL.into_iter().zip([[2.0, -3.5], [3.0, -2.0], [1.0, -2.0], [3.0, -5.0]]) {
            let y = pool(&tape, &x, &offsets, p)?;
            assert_eq!(y.data(), [want[0], want[1], 0.0, 0.0, 7.0, 0.5], "{p:?}");
        }
        let y = repeat_segments(&tape, &x, &Offsets::from_lengths([0, 2, 1]))?;
        assert_eq!(y.data(), [3.0, -5.0, 3.0, -5.0, 7.0, 0.5]);
        Ok(())
    }

    #[test]
    fn the_largest_of_values_with_nan_is_nan() -> Result<()> {
        let x = Var::constant(Tensor::from_slice(&[3, 1], &[1.0_f32, f32::NAN, 2.0])?);
        assert!(pool(&Tape::inference(), &x, &Offsets::from_lengths([3]), Pooling::Max)?.data()[0].is_nan());
        Ok(())
    }

    #[test]
    fn threads_do_not_change_a_bit() -> Result<()> {
        let offsets = Offsets::from_lengths((0..97).map(|i| i * 7 % 23));
        let x = random(&[offsets.total(), 61], "x").cast::<f32>();
        let run = |threads, p| -> Result<_> {
            with_threads(threads, || {
                let tape = Tape::new();
                let x = tape.input(x.clone());
                let y = pool(&tape, &x, &offsets, p)?;
                let z = super::super::sum(&tape, &super::super::mul(&tape, &y, &y)?)?;
                let g = tape.backward(&z)?;
                Ok((y.data().to_vec(), g.of(&x).map(|t| t.data().to_vec())))
            })
            .expect("threads")
        };
        for p in ALL {
            assert_eq!(run(1, p)?, run(4, p)?);
        }
        Ok(())
    }

    #[test]
    fn offsets_must_cut_the_rows() {
        let tape = Tape::<f32>::new();
        let x = Var::constant(Tensor::zeros(&[4, 2]));
        let message = pool(&tape, &x, &Offsets::from_lengths([3]), Pooling::Mean).map(|_| ()).unwrap_err().to_string();
        assert_eq!(message, "pool: offsets end at row 3, but there are 4 rows");
        assert!(repeat_segments(&tape, &x, &Offsets::from_lengths([3])).is_err());
        assert!(pool(&tape, &Var::constant(Tensor::zeros(&[4])), &Offsets::from_lengths([4]), Pooling::Max).is_err());
    }
}
