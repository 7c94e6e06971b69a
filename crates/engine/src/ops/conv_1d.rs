//! Convolution along the rows of each segment, in groups of channels.

use super::linear::sum_rows;
use super::segments::each_row;
use super::{matrix, vector};
use crate::matmul::{Matrix, Output, product};
use crate::parallel::{rows_mut, rows_mut_for};
use crate::{Element, EngineError, Offsets, Result, Tape, Tensor, Var};

/// Elements of unfolded windows that are held at a time.
const UNFOLDED: usize = 1 << 20;

/// The windows of a convolution.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Convolution1d {
    /// Rows in a window.
    pub kernel: usize,
    /// Rows from one window to the next.
    pub stride: usize,
    /// Rows of zeros before and after each segment.
    pub padding: (usize, usize),
    /// Groups of channels that do not see each other; 1 for an ordinary
    /// convolution.
    pub groups: usize,
}

/// The convolution of each segment of `x` `[rows, channels]`, cut by
/// `offsets`, with `weight` `[outputs, channels / groups · kernel]` and `bias`
/// `[outputs]`: `[windows, outputs]` and its offsets.
///
/// A segment of n rows gives `(n + padding − kernel) / stride + 1` windows;
/// none if it is empty or shorter than the kernel with its padding. Inside a
/// row of the weight channels come first: the weight of a PyTorch `Conv1d`,
/// flattened. Windows are unfolded a part at a time, in the backward pass once
/// more, so that the memory kept is that of `x`.
///
/// # Errors
/// When the shapes do not fit, the groups do not divide channels and outputs,
/// `kernel` or `stride` is 0, or a padding is not below `kernel`.
pub fn conv_1d<E: Element>(
    tape: &Tape<E>,
    x: &Var<E>,
    offsets: &Offsets,
    weight: &Var<E>,
    bias: Option<&Var<E>>,
    convolution: Convolution1d,
) -> Result<(Var<E>, Offsets)> {
    const OP: &str = "conv_1d";
    let c = convolution;
    let (rows, channels) = matrix(OP, "x", x)?;
    let (outputs, inputs) = matrix(OP, "weight", weight)?;
    offsets.expect_rows(OP, rows)?;
    if c.kernel == 0 || c.stride == 0 || c.padding.0 >= c.kernel || c.padding.1 >= c.kernel {
        let problem = format!("{c:?}: expected a kernel and a stride from 1 on and paddings below the kernel");
        return Err(EngineError::setting(OP, problem));
    }
    if c.groups == 0 || !channels.is_multiple_of(c.groups) || !outputs.is_multiple_of(c.groups) {
        let problem = format!("{} groups do not divide {channels} channels and {outputs} outputs", c.groups);
        return Err(EngineError::setting(OP, problem));
    }
    if inputs != channels / c.groups * c.kernel {
        let expected = format!("[outputs, {}]", channels / c.groups * c.kernel);
        return Err(EngineError::shape(OP, "weight", expected, weight.shape()));
    }
    if let Some(b) = bias {
        vector(OP, "bias", b, outputs)?;
    }
    let windows =
        Offsets::from_lengths(offsets.ranges().map(
            |r| match (r.len() + c.padding.0 + c.padding.1).checked_sub(c.kernel) {
                Some(room) if !r.is_empty() => room / c.stride + 1,
                _ => 0,
            },
        ));
    let plan = Plan { c, channels, outputs, offsets: offsets.clone(), windows: windows.clone() };
    let total = windows.total();
    let mut value = Tensor::any(&[total, outputs]);
    plan.each_part(|group, first, count, unfolded| {
        plan.unfold(unfolded, x.data(), group, first);
        product(
            Matrix::dense(unfolded, count, inputs),
            Matrix::dense(plan.weight_of(weight.data(), group), plan.outputs_of(), inputs).transposed(),
            Output::strided(
                &mut value.data_mut()[first * outputs + group * plan.outputs_of()..],
                count,
                plan.outputs_of(),
                outputs,
            ),
            false,
        );
    });
    if let Some(bias) = bias {
        let b = bias.data();
        rows_mut(value.data_mut(), outputs, |_, part| {
            part.chunks_exact_mut(outputs).for_each(|y| super::loops::add_row(y, b));
        });
    }
    let mut involved = vec![x, weight];
    involved.extend(bias);
    let (hx, hw, hb) = (x.handle(), weight.handle(), bias.map(Var::handle));
    let (x, weight) = (x.value().clone(), weight.value().clone());
    let y = tape.record(value, &involved, move |d, g| {
        if let Some(hb) = hb.filter(|h| g.wants(*h)) {
            g.add(hb, sum_rows(&d, outputs));
        }
        let d = d.data();
        let gradient_of = |group: usize, first: usize, count: usize| {
            let from = first * outputs + group * plan.outputs_of();
            Matrix::strided(&d[from..], count, plan.outputs_of(), outputs)
        };
        if let Some((mut dw, add)) = g.take(hw, &[outputs, inputs]) {
            if total == 0 && !add {
                dw.data_mut().fill(E::ZERO);
            }
            plan.each_part(|group, first, count, unfolded| {
                plan.unfold(unfolded, x.data(), group, first);
                let (at, len) = (group * plan.outputs_of() * inputs, plan.outputs_of() * inputs);
                product(
                    gradient_of(group, first, count).transposed(),
                    Matrix::dense(unfolded, count, inputs),
                    Output::dense(&mut dw.data_mut()[at..at + len], plan.outputs_of(), inputs),
                    add || first > 0,
                );
            });
            g.put(hw, dw);
        }
        if let Some((mut dx, add)) = g.take(hx, &[rows, channels]) {
            if !add {
                dx.data_mut().fill(E::ZERO);
            }
            plan.each_part(|group, first, count, unfolded| {
                product(
                    gradient_of(group, first, count),
                    Matrix::dense(plan.weight_of(weight.data(), group), plan.outputs_of(), inputs),
                    Output::dense(unfolded, count, inputs),
                    false,
                );
                plan.fold(dx.data_mut(), unfolded, group, first);
            });
            g.put(hx, dx);
        }
        Ok(())
    });
    Ok((y, windows))
}

/// A convolution of given segments.
struct Plan {
    c: Convolution1d,
    channels: usize,
    outputs: usize,
    offsets: Offsets,
    windows: Offsets,
}

impl Plan {
    fn channels_of(&self) -> usize {
        self.channels / self.c.groups
    }

    fn outputs_of(&self) -> usize {
        self.outputs / self.c.groups
    }

    /// Numbers in a window of one group.
    fn cols(&self) -> usize {
        self.channels_of() * self.c.kernel
    }

    fn weight_of<'w, E>(&self, weight: &'w [E], group: usize) -> &'w [E] {
        &weight[group * self.outputs_of() * self.cols()..][..self.outputs_of() * self.cols()]
    }

    /// Calls `f(group, first window, windows, room)` for runs of windows that
    /// follow from the shapes only, with room for them unfolded.
    fn each_part<E: Element>(&self, mut f: impl FnMut(usize, usize, usize, &mut [E])) {
        let total = self.windows.total();
        let step = (UNFOLDED / self.cols().max(1)).clamp(1, total.max(1));
        let mut room = crate::Buffer::<E>::zeros(step * self.cols());
        for group in 0..self.c.groups {
            for first in (0..total).step_by(step) {
                let count = step.min(total - first);
                f(group, first, count, &mut room[..count * self.cols()]);
            }
        }
    }

    /// The windows from `first` on as rows, as many as there is room for.
    fn unfold<E: Element>(&self, out: &mut [E], x: &[E], group: usize, first: usize) {
        let (cols, kernel, n) = (self.cols(), self.c.kernel, self.channels_of());
        rows_mut(out, cols, |from, part| {
            each_row(&self.windows, first + from, part.len() / cols, |i, s| {
                let out = &mut part[i * cols..][..cols];
                let segment = self.offsets.range(s);
                let start = (first + from + i - self.windows.range(s).start) * self.c.stride;
                for k in 0..kernel {
                    let inside = (start + k).checked_sub(self.c.padding.0).filter(|at| *at < segment.len());
                    let places = out[k..].iter_mut().step_by(kernel);
                    match inside {
                        Some(at) => {
                            let row = &x[(segment.start + at) * self.channels + group * n..][..n];
                            places.zip(row).for_each(|(o, x)| *o = *x);
                        }
                        None => places.for_each(|o| *o = E::ZERO),
                    }
                }
            });
        });
    }

    /// Adds the gradients of the windows from `first` on to the rows that they
    /// are made of.
    fn fold<E: Element>(&self, dx: &mut [E], unfolded: &[E], group: usize, first: usize) {
        let (cols, kernel, n, stride) = (self.cols(), self.c.kernel, self.channels_of(), self.c.stride);
        let end = first + unfolded.len() / cols;
        // The rows that these windows reach: from the first row of the first
        // to the last row of the last.
        let (mut low, mut high) = (usize::MAX, 0);
        each_row(&self.windows, first, 1, |_, s| {
            let start = (first - self.windows.range(s).start) * stride;
            low = self.offsets.range(s).start + start.saturating_sub(self.c.padding.0);
        });
        each_row(&self.windows, end - 1, 1, |_, s| {
            let start = (end - 1 - self.windows.range(s).start) * stride;
            let reach = (start + kernel).saturating_sub(self.c.padding.0).min(self.offsets.length(s));
            high = self.offsets.range(s).start + reach;
        });
        let high = high.max(low);
        let reached = &mut dx[low * self.channels..high * self.channels];
        rows_mut_for(reached, self.channels, cols.div_ceil(stride), |from, part| {
            each_row(&self.offsets, low + from, part.len() / self.channels, |i, s| {
                let out = &mut part[i * self.channels + group * n..][..n];
                let at = low + from + i - self.offsets.range(s).start + self.c.padding.0;
                let windows = self.windows.range(s);
                for k in 0..kernel.min(at + 1) {
                    let window = windows.start + (at - k) / stride;
                    if (at - k).is_multiple_of(stride)
                        && (first.max(windows.start)..end.min(windows.end)).contains(&window)
                    {
                        let d = &unfolded[(window - first) * cols..][k..cols];
                        out.iter_mut().zip(d.iter().step_by(kernel)).for_each(|(o, d)| *o += *d);
                    }
                }
            });
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::{gradients, random};
    use crate::ops::{Activation, linear, mul, sum, unfold_1d};
    use crate::with_threads;

    fn convolution(kernel: usize, stride: usize, padding: (usize, usize), groups: usize) -> Convolution1d {
        Convolution1d { kernel, stride, padding, groups }
    }

    #[test]
    fn gradients_match_finite_differences() -> Result<()> {
        let offsets = Offsets::from_lengths([5, 0, 1, 3]);
        for c in [
            convolution(3, 1, (1, 1), 1),
            convolution(3, 2, (1, 1), 2),
            convolution(4, 1, (2, 1), 2),
            convolution(2, 3, (0, 0), 4),
            convolution(4, 2, (3, 0), 1),
        ] {
            let inputs = [random(&[9, 4], "x"), random(&[4, 4 / c.groups * c.kernel], "w"), random(&[4], "b")];
            gradients(&inputs, |t, v| Ok(conv_1d(t, &v[0], &offsets, &v[1], Some(&v[2]), c)?.0))?;
            // Twice from one input: the second gradient is added.
            gradients(&inputs[..2], |t, v| {
                let (a, _) = conv_1d(t, &v[0], &offsets, &v[1], None, c)?;
                let (b, _) = conv_1d(t, &v[0], &offsets, &v[1], None, c)?;
                mul(t, &a, &b)
            })?;
        }
        Ok(())
    }

    #[test]
    fn groups_are_convolutions_side_by_side() -> Result<()> {
        let tape = Tape::<f64>::inference();
        let offsets = Offsets::from_lengths([6, 4]);
        let (x, w) = (random(&[10, 6], "x"), random(&[4, 9], "w"));
        let (y, cut) = conv_1d(
            &tape,
            &Var::constant(x.clone()),
            &offsets,
            &Var::constant(w.clone()),
            None,
            convolution(3, 2, (1, 1), 2),
        )?;
        for group in 0..2 {
            let columns: Vec<f64> = x.data().chunks(6).flat_map(|r| r[group * 3..][..3].to_vec()).collect();
            let part = Var::constant(Tensor::from_slice(&[10, 3], &columns)?);
            let (rows, expected) = unfold_1d(&tape, &part, &offsets, 3, 2, 1)?;
            assert_eq!(expected.bounds(), cut.bounds());
            let weight = Var::constant(Tensor::from_slice(&[2, 9], &w.data()[group * 18..][..18])?);
            let z = linear(&tape, &rows, &weight, None, Activation::Identity)?;
            for (a, b) in y.data().chunks(4).zip(z.data().chunks(2)) {
                assert!(a[group * 2..].iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-12));
            }
        }
        Ok(())
    }

    #[test]
    fn many_parts_and_any_number_of_threads_give_the_same_bits() -> Result<()> {
        // Wide enough that the windows are unfolded in several parts.
        let c = convolution(64, 1, (32, 31), 2);
        let offsets = Offsets::from_lengths([700, 0, 1299]);
        let x = random(&[1999, 48], "x").cast::<f32>();
        let w = random(&[6, 24 * 64], "w").cast::<f32>();
        const { assert!(1999 * 24 * 64 > 2 * UNFOLDED) };
        let run = |threads| -> Result<_> {
            with_threads(threads, || {
                let tape = Tape::new();
                let (x, w) = (tape.input(x.clone()), tape.input(w.clone()));
                let (y, cut) = conv_1d(&tape, &x, &offsets, &w, None, c)?;
                assert_eq!(cut.bounds(), offsets.bounds());
                let loss = sum(&tape, &mul(&tape, &y, &y)?)?;
                let g = tape.backward(&loss)?;
                Ok([x, w].map(|v| g.of(&v).map(|t| t.data().to_vec())))
            })
            .expect("threads")
        };
        assert_eq!(run(1)?, run(4)?);
        // The parts' borders are seen by no one: the same through one product.
        let tape = Tape::inference();
        let (x, w) = (Var::constant(x.clone()), Var::constant(w.clone()));
        let (y, _) = conv_1d(&tape, &x, &offsets, &w, None, c)?;
        let columns: Vec<f32> = x.data().chunks(48).flat_map(|r| r[..24].to_vec()).collect();
        let half = Var::constant(Tensor::from_slice(&[1999, 24], &columns)?);
        let (rows, cut) = unfold_1d(&tape, &half, &offsets, 64, 1, 32)?;
        let weight = Var::constant(Tensor::from_slice(&[3, 24 * 64], &w.data()[..3 * 24 * 64])?);
        let z = linear(&tape, &rows, &weight, None, Activation::Identity)?;
        for (ours, theirs) in [(0, 0), (1998, cut.total() - 2), (699, 699), (700, 701)] {
            for i in 0..3 {
                let (a, b) = (y.data()[ours * 6 + i], z.data()[theirs * 3 + i]);
                assert!((a - b).abs() < 1e-3, "{ours}: {a} {b}");
            }
        }
        Ok(())
    }

    #[test]
    fn what_cannot_be_is_refused() -> Result<()> {
        let tape = Tape::<f64>::new();
        let x = Var::constant(random(&[4, 6], "x"));
        let offsets = Offsets::from_lengths([4]);
        let w = Var::constant(random(&[4, 9], "w"));
        for c in [
            convolution(0, 1, (0, 0), 2),
            convolution(3, 0, (0, 0), 2),
            convolution(3, 1, (3, 0), 2),
            convolution(3, 1, (0, 3), 2),
            convolution(3, 1, (1, 1), 0),
            convolution(3, 1, (1, 1), 4),
            convolution(3, 1, (1, 1), 1),
        ] {
            assert!(conv_1d(&tape, &x, &offsets, &w, None, c).is_err(), "{c:?}");
        }
        let c = convolution(3, 1, (0, 0), 2);
        assert!(conv_1d(&tape, &x, &Offsets::from_lengths([3]), &w, None, c).is_err());
        let (y, cut) = conv_1d(&tape, &x, &Offsets::from_lengths([2, 2]), &w, None, c)?;
        assert_eq!((y.value().dims(), cut.bounds()), (&[0, 4][..], &[0, 0, 0][..]));
        Ok(())
    }
}
