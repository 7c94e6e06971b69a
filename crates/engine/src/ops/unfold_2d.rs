//! Windows of grids of tokens laid out as rows, so that a convolution in two
//! dimensions is this and a linear layer: convolution stems of image towers.

use super::loops::{add_row, row};
use super::matrix;
use crate::parallel::{rows_mut, rows_mut_for};
use crate::{Element, EngineError, Result, Tape, Tensor, Var};

/// The windows of `kernel` by `kernel` places of equal grids as rows: `x` is
/// `[n · height · width, channels]` with the places of a grid line by line,
/// `size` its (height, width); the result `[n · down · across, kernel · kernel
/// · channels]`, and (down, across).
///
/// A side of s places, zeros laid around it, gives
/// `(s + 2 · padding − kernel) / stride + 1` windows. Inside a row lines come
/// first, then places, then channels: the weight of a PyTorch `Conv2d`
/// permuted by (0, 2, 3, 1) and flattened.
///
/// # Errors
/// When the rows are not whole grids, `kernel` or `stride` is 0, `padding` is
/// not below `kernel`, or the kernel is larger than the grid with its padding.
pub fn unfold_2d<E: Element>(
    tape: &Tape<E>,
    x: &Var<E>,
    size: (usize, usize),
    kernel: usize,
    stride: usize,
    padding: usize,
) -> Result<(Var<E>, (usize, usize))> {
    const OP: &str = "unfold_2d";
    let (rows, channels) = matrix(OP, "x", x)?;
    let places = size.0.checked_mul(size.1).filter(|places| *places > 0 && rows % places == 0);
    let Some(places) = places else {
        let expected = format!("[n · {} · {}, channels]", size.0, size.1);
        return Err(EngineError::shape(OP, "x", expected, x.shape()));
    };
    if kernel == 0 || stride == 0 || padding >= kernel {
        let problem = format!(
            "kernel {kernel}, stride {stride}, padding {padding}: expected a kernel and a stride from 1 on and a padding below the kernel"
        );
        return Err(EngineError::setting(OP, problem));
    }
    let windows = |side: usize| (side + 2 * padding).checked_sub(kernel).map(|room| room / stride + 1);
    let (Some(down), Some(across)) = (windows(size.0), windows(size.1)) else {
        let problem =
            format!("a kernel of {kernel} does not fit grids of {} by {} padded by {padding}", size.0, size.1);
        return Err(EngineError::setting(OP, problem));
    };
    let grids = Grids { size, channels, kernel, stride, padding, down, across };
    let cols = kernel * kernel * channels;
    let mut value = Tensor::any(&[rows / places * down * across, cols]);
    let from = x.data();
    rows_mut(value.data_mut(), cols.max(1), |first, part| {
        for (i, out) in part.chunks_exact_mut(cols).enumerate() {
            grids.window(out, from, first + i);
        }
    });
    let h = x.handle();
    let y = tape.record(value, &[x], move |d, g| {
        if let Some((mut dx, add)) = g.take(h, &[rows, channels]) {
            let d = d.data();
            let work = cols.div_ceil(stride * stride);
            rows_mut_for(dx.data_mut(), channels.max(1), work, |first, part| {
                if !add {
                    part.fill(E::ZERO);
                }
                for (i, out) in part.chunks_exact_mut(channels).enumerate() {
                    grids.fold_place(out, d, first + i);
                }
            });
            g.put(h, dx);
        }
        Ok(())
    });
    Ok((y, (down, across)))
}

/// Equal grids and the windows over them.
#[derive(Clone, Copy)]
struct Grids {
    size: (usize, usize),
    channels: usize,
    kernel: usize,
    stride: usize,
    padding: usize,
    down: usize,
    across: usize,
}

impl Grids {
    /// Copies one window, zeros where it lies outside the grid.
    fn window<E: Element>(&self, out: &mut [E], x: &[E], window: usize) {
        let (height, width) = self.size;
        let (grid, left) = (window / (self.down * self.across), window % self.across * self.stride);
        let top = window / self.across % self.down * self.stride;
        // The part of each line that lies inside: the same for all lines.
        let skipped = self.padding.saturating_sub(left).min(self.kernel);
        let end = (width + self.padding).saturating_sub(left).min(self.kernel).max(skipped);
        for (k, out) in out.chunks_exact_mut(self.kernel * self.channels).enumerate() {
            match (top + k).checked_sub(self.padding).filter(|line| *line < height) {
                Some(line) => {
                    out[..skipped * self.channels].fill(E::ZERO);
                    out[end * self.channels..].fill(E::ZERO);
                    if end > skipped {
                        let place = (grid * height + line) * width + left + skipped - self.padding;
                        let inside = &x[place * self.channels..][..(end - skipped) * self.channels];
                        out[skipped * self.channels..end * self.channels].copy_from_slice(inside);
                    }
                }
                None => out.fill(E::ZERO),
            }
        }
    }

    /// Adds to one place of a grid the gradients of all windows that hold it.
    fn fold_place<E: Element>(&self, out: &mut [E], d: &[E], place: usize) {
        let (height, width) = self.size;
        let (grid, line, column) = (place / (height * width), place / width % height, place % width);
        for (ky, down) in self.holding(line, self.down) {
            for (kx, across) in self.holding(column, self.across) {
                let window = (grid * self.down + down) * self.across + across;
                let d = row(d, window * self.kernel * self.kernel + ky * self.kernel + kx, self.channels);
                add_row(out, d);
            }
        }
    }

    /// Along one side: the places in the kernel, and the windows, that hold a place.
    fn holding(&self, place: usize, windows: usize) -> impl Iterator<Item = (usize, usize)> + use<> {
        let (stride, at) = (self.stride, place + self.padding);
        (0..self.kernel.min(at + 1))
            .filter(move |k| (at - k).is_multiple_of(stride) && (at - k) / stride < windows)
            .map(move |k| (k, (at - k) / stride))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::{gradients, random};
    use crate::ops::{Activation, linear, mul, sum};
    use crate::with_threads;

    fn counted(dims: &[usize], f: impl Fn(usize) -> f64) -> Var<f64> {
        let mut t = Tensor::any(dims);
        for (i, x) in t.data_mut().iter_mut().enumerate() {
            *x = f(i);
        }
        Var::constant(t)
    }

    const SHAPES: [(usize, usize, usize); 6] = [(3, 1, 1), (3, 2, 1), (2, 3, 0), (1, 1, 0), (4, 2, 3), (2, 3, 1)];

    #[test]
    fn gradients_match_finite_differences() -> Result<()> {
        for (kernel, stride, padding) in SHAPES {
            gradients(&[random(&[2 * 4 * 5, 2], "x")], |t, v| {
                Ok(unfold_2d(t, &v[0], (4, 5), kernel, stride, padding)?.0)
            })?;
        }
        // Twice from one input: the second gradient is added.
        gradients(&[random(&[3 * 3, 2], "x")], |t, v| {
            let window = || Ok::<_, EngineError>(unfold_2d(t, &v[0], (3, 3), 3, 2, 1)?.0);
            mul(t, &window()?, &window()?)
        })
    }

    #[test]
    fn with_a_linear_layer_it_is_a_convolution() -> Result<()> {
        // Against the definition: y[o] = Σ w[o, ky, kx, c] · x[padded place, c].
        let (n, height, width, channels, outputs) = (2, 5, 4, 3, 2);
        let tape = Tape::inference();
        let x = counted(&[n * height * width, channels], |i| (i * 7 % 11) as f64 * 0.5 - 2.0);
        for (kernel, stride, padding) in SHAPES {
            let w = counted(&[outputs, kernel * kernel * channels], |i| (i * 5 % 7) as f64 * 0.25 - 0.5);
            let (rows, (down, across)) = unfold_2d(&tape, &x, (height, width), kernel, stride, padding)?;
            assert_eq!(down, (height + 2 * padding - kernel) / stride + 1);
            assert_eq!(across, (width + 2 * padding - kernel) / stride + 1);
            let y = linear(&tape, &rows, &w, None, Activation::Identity)?;
            assert_eq!(y.value().dims(), [n * down * across, outputs]);
            for (i, y) in y.data().iter().enumerate() {
                let (o, window) = (i % outputs, i / outputs);
                let (grid, r, c) = (window / (down * across), window / across % down, window % across);
                let mut want = 0.0;
                for (k, w) in
                    w.data()[o * kernel * kernel * channels..][..kernel * kernel * channels].iter().enumerate()
                {
                    let (ky, kx, channel) = (k / channels / kernel, k / channels % kernel, k % channels);
                    let (line, place) =
                        ((r * stride + ky).wrapping_sub(padding), (c * stride + kx).wrapping_sub(padding));
                    if line < height && place < width {
                        want += w * x.data()[((grid * height + line) * width + place) * channels + channel];
                    }
                }
                assert!((y - want).abs() < 1e-12, "kernel {kernel}, stride {stride}, padding {padding}");
            }
        }
        Ok(())
    }

    #[test]
    fn with_a_linear_layer_it_is_pytorchs_conv2d() -> Result<()> {
        // F.conv2d(x, w, stride=2, padding=1) of x [1, 2, 4, 3] and w [2, 2, 3, 3],
        // counted in the order of the rows here, read as [down, across, outputs].
        const WANT: [f64; 8] = [0.25, 3.25, -3.25, 1.75, 0.375, -1.125, 5.25, -0.5];
        let tape = Tape::inference();
        let x = counted(&[12, 2], |i| (i * 7 % 11) as f64 * 0.5 - 2.0);
        let w = counted(&[2, 18], |i| (i * 5 % 7) as f64 * 0.25 - 0.5);
        let (rows, size) = unfold_2d(&tape, &x, (4, 3), 3, 2, 1)?;
        assert_eq!(size, (2, 2));
        let y = linear(&tape, &rows, &w, None, Activation::Identity)?;
        for (a, b) in y.data().iter().zip(WANT) {
            assert!((a - b).abs() < 1e-12, "{:?}", y.data());
        }
        Ok(())
    }

    #[test]
    fn threads_do_not_change_a_bit() -> Result<()> {
        let x = random(&[7 * 31 * 29, 13], "x").cast::<f32>();
        let run = |threads| -> Result<_> {
            with_threads(threads, || {
                let tape = Tape::new();
                let x = tape.input(x.clone());
                let (y, _) = unfold_2d(&tape, &x, (31, 29), 3, 2, 1)?;
                let loss = sum(&tape, &mul(&tape, &y, &y)?)?;
                let g = tape.backward(&loss)?;
                Ok((y.data().to_vec(), g.of(&x).map(|t| t.data().to_vec())))
            })
            .expect("threads")
        };
        assert_eq!(run(1)?, run(4)?);
        Ok(())
    }

    #[test]
    fn no_grid_gives_no_window_and_wrong_ones_are_refused() -> Result<()> {
        let tape = Tape::<f64>::inference();
        let (y, size) = unfold_2d(&tape, &Var::constant(Tensor::zeros(&[0, 2])), (4, 4), 3, 2, 1)?;
        assert_eq!((y.value().dims(), size), (&[0, 18][..], (2, 2)));
        let x = counted(&[12, 2], |i| i as f64);
        for size in [(5, 2), (0, 0), (0, 12), (usize::MAX, 2)] {
            assert!(unfold_2d(&tape, &x, size, 1, 1, 0).is_err());
        }
        for (kernel, stride, padding) in [(0, 1, 0), (1, 0, 0), (3, 1, 3), (4, 1, 0)] {
            assert!(unfold_2d(&tape, &x, (4, 3), kernel, stride, padding).is_err());
        }
        Ok(())
    }
}
