//! Windows laid out as rows, so that a convolution is this and a linear layer
//! (im2col): patch embeddings and the stems of audio encoders.

use super::loops::row;
use super::matrix;
use super::segments::each_row;
use crate::parallel::{rows_mut, rows_mut_for};
use crate::{Element, EngineError, Offsets, Result, Tape, Tensor, Var};

/// The patches of images as rows: `images` is `[n, channels, height, width]`,
/// the result `[n · patches, channels · patch height · patch width]`.
///
/// `patch` and `stride` are (height, width). Patches run row by row over the
/// image; inside a row channels come first, then lines, then pixels, which is
/// how PyTorch flattens the weight of a `Conv2d` without padding. What is left
/// over at the right and the bottom is not used.
///
/// # Errors
/// When `images` does not have four dimensions, a patch is empty or larger
/// than the images, or a stride is 0.
pub fn unfold_patches<E: Element>(
    tape: &Tape<E>,
    images: &Var<E>,
    patch: (usize, usize),
    stride: (usize, usize),
) -> Result<Var<E>> {
    const OP: &str = "unfold_patches";
    let &[n, channels, height, width] = images.value().dims() else {
        return Err(EngineError::shape(OP, "images", "[n, channels, height, width]", images.shape()));
    };
    if patch.0 == 0 || patch.1 == 0 || patch.0 > height || patch.1 > width {
        let problem = format!("patches of {} by {} do not fit images of {height} by {width}", patch.0, patch.1);
        return Err(EngineError::setting(OP, problem));
    }
    if stride.0 == 0 || stride.1 == 0 {
        return Err(EngineError::setting(OP, "a stride is 0"));
    }
    let grid = Grid {
        channels,
        height,
        width,
        patch,
        stride,
        down: (height - patch.0) / stride.0 + 1,
        across: (width - patch.1) / stride.1 + 1,
    };
    let mut value = Tensor::any(&[n * grid.down * grid.across, grid.cols()]);
    let from = images.data();
    rows_mut(value.data_mut(), grid.cols(), |first, part| {
        for (i, out) in part.chunks_exact_mut(grid.cols()).enumerate() {
            let (image, down, across) = grid.place(first + i);
            for (line, out) in out.chunks_exact_mut(patch.1).enumerate() {
                let (channel, y) = (line / patch.0, down * stride.0 + line % patch.0);
                let at = ((image * channels + channel) * height + y) * width + across * stride.1;
                out.copy_from_slice(&from[at..at + patch.1]);
            }
        }
    });
    let h = images.handle();
    Ok(tape.record(value, &[images], move |d, g| {
        if let Some((mut dx, add)) = g.take(h, &[n, channels, height, width]) {
            let d = d.data();
            let work = grid.down * grid.across * patch.0 * patch.1;
            rows_mut_for(dx.data_mut(), height * width, work, |first, part| {
                if !add {
                    part.fill(E::ZERO);
                }
                for (i, plane) in part.chunks_exact_mut(height * width).enumerate() {
                    grid.fold_plane(plane, d, (first + i) / channels, (first + i) % channels);
                }
            });
            g.put(h, dx);
        }
        Ok(())
    }))
}

/// Where the patches of equal images lie.
#[derive(Clone, Copy)]
struct Grid {
    channels: usize,
    height: usize,
    width: usize,
    patch: (usize, usize),
    stride: (usize, usize),
    down: usize,
    across: usize,
}

impl Grid {
    fn cols(&self) -> usize {
        self.channels * self.patch.0 * self.patch.1
    }

    /// Image, patch row and patch column of a row of the result.
    fn place(&self, row: usize) -> (usize, usize, usize) {
        (row / (self.down * self.across), row / self.across % self.down, row % self.across)
    }

    /// Adds the gradients of all patches to one channel of one image.
    fn fold_plane<E: Element>(&self, plane: &mut [E], d: &[E], image: usize, channel: usize) {
        debug_assert_eq!(plane.len(), self.height * self.width);
        for down in 0..self.down {
            for across in 0..self.across {
                let patch = row(d, (image * self.down + down) * self.across + across, self.cols());
                let lines = patch.chunks_exact(self.patch.1).skip(channel * self.patch.0).take(self.patch.0);
                for (line, d) in lines.enumerate() {
                    let at = (down * self.stride.0 + line) * self.width + across * self.stride.1;
                    for (o, d) in plane[at..at + self.patch.1].iter_mut().zip(d) {
                        *o += *d;
                    }
                }
            }
        }
    }
}

/// The windows of `kernel` rows within each segment as rows: `x` is
/// `[rows, channels]` cut by `offsets`, the result
/// `[windows, channels · kernel]` and its offsets.
///
/// A segment of n rows, zeros laid around it, gives
/// `(n + 2 · padding − kernel) / stride + 1` windows; none if it is empty or
/// shorter than the kernel with its padding. Inside a row channels come first,
/// which is how PyTorch flattens the weight of a `Conv1d`.
///
/// # Errors
/// When the offsets do not cut `x`, `kernel` or `stride` is 0, or `padding` is
/// not below `kernel`.
pub fn unfold_1d<E: Element>(
    tape: &Tape<E>,
    x: &Var<E>,
    offsets: &Offsets,
    kernel: usize,
    stride: usize,
    padding: usize,
) -> Result<(Var<E>, Offsets)> {
    const OP: &str = "unfold_1d";
    let (rows, channels) = matrix(OP, "x", x)?;
    offsets.expect_rows(OP, rows)?;
    if kernel == 0 || stride == 0 || padding >= kernel {
        let problem = format!(
            "kernel {kernel}, stride {stride}, padding {padding}: expected a kernel and a stride from 1 on and a padding below the kernel"
        );
        return Err(EngineError::setting(OP, problem));
    }
    let windows = Offsets::from_lengths(offsets.ranges().map(|r| match (r.len() + 2 * padding).checked_sub(kernel) {
        Some(room) if !r.is_empty() => room / stride + 1,
        _ => 0,
    }));
    let cols = channels * kernel;
    let mut value = Tensor::any(&[windows.total(), cols]);
    let from = x.data();
    rows_mut(value.data_mut(), cols, |first, part| {
        each_row(&windows, first, part.len() / cols, |i, s| {
            let out = &mut part[i * cols..][..cols];
            let segment = offsets.range(s);
            let start = (first + i - windows.range(s).start) * stride;
            for k in 0..kernel {
                let inside = (start + k).checked_sub(padding).filter(|at| *at < segment.len());
                let places = out[k..].iter_mut().step_by(kernel);
                match inside {
                    Some(at) => places.zip(row(from, segment.start + at, channels)).for_each(|(o, x)| *o = *x),
                    None => places.for_each(|o| *o = E::ZERO),
                }
            }
        });
    });
    let (h, offsets, cut) = (x.handle(), offsets.clone(), windows.clone());
    let y = tape.record(value, &[x], move |d, g| {
        if let Some((mut dx, add)) = g.take(h, &[rows, channels]) {
            let d = d.data();
            rows_mut_for(dx.data_mut(), channels, cols.div_ceil(stride), |first, part| {
                if !add {
                    part.fill(E::ZERO);
                }
                each_row(&offsets, first, part.len() / channels, |i, s| {
                    let out = &mut part[i * channels..][..channels];
                    let at = first + i - offsets.range(s).start + padding;
                    for k in 0..kernel.min(at + 1) {
                        let window = (at - k) / stride;
                        if (at - k).is_multiple_of(stride) && window < cut.length(s) {
                            let d = &row(d, cut.range(s).start + window, cols)[k..];
                            out.iter_mut().zip(d.iter().step_by(kernel)).for_each(|(o, d)| *o += *d);
                        }
                    }
                });
            });
            g.put(h, dx);
        }
        Ok(())
    });
    Ok((y, windows))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::{gradients, random};
    use crate::ops::{Activation, linear, mul};
    use crate::with_threads;

    /// Values that the reference was given too.
    fn counted(dims: &[usize], f: impl Fn(usize) -> f64) -> Var<f64> {
        let mut t = Tensor::any(dims);
        for (i, x) in t.data_mut().iter_mut().enumerate() {
            *x = f(i);
        }
        Var::constant(t)
    }

    fn inputs(dims: &[usize]) -> Var<f64> {
        counted(dims, |i| (i * 7 % 11) as f64 * 0.5 - 2.0)
    }

    fn weights(dims: &[usize]) -> Var<f64> {
        counted(dims, |i| (i * 5 % 7) as f64 * 0.25 - 0.5)
    }

    #[test]
    fn gradients_match_finite_differences() -> Result<()> {
        for (patch, stride) in [((2, 3), (2, 3)), ((3, 2), (1, 1)), ((2, 2), (3, 2))] {
            gradients(&[random(&[2, 2, 5, 7], "x")], |t, v| unfold_patches(t, &v[0], patch, stride))?;
        }
        let offsets = Offsets::from_lengths([5, 0, 1, 3]);
        for (kernel, stride, padding) in [(3, 1, 1), (3, 2, 1), (2, 3, 0), (1, 1, 0), (4, 2, 3)] {
            gradients(&[random(&[9, 2], "x")], |t, v| Ok(unfold_1d(t, &v[0], &offsets, kernel, stride, padding)?.0))?;
        }
        // Twice from one input: the second gradient is added.
        gradients(&[random(&[1, 1, 3, 3], "x")], |t, v| {
            let (a, b) = (unfold_patches(t, &v[0], (2, 2), (1, 1))?, unfold_patches(t, &v[0], (2, 2), (1, 1))?);
            mul(t, &a, &b)
        })
    }

    #[test]
    fn with_a_linear_layer_it_is_pytorchs_conv2d() -> Result<()> {
        // F.conv2d(x, w, stride=(2, 2)) of x [2, 2, 5, 7], w [3, 2, 2, 3], as
        // [n, height, width, channels].
        const WANT: [f64; 36] = [
            -0.875, -1.75, 6.125, 2.25, 3.75, 4.375, -0.125, 3.75, -2.875, 0.375, 1.0, 0.75, 4.875, -1.75, 10.0, -3.0,
            6.5, -4.125, -0.125, 3.75, -2.875, 4.375, 1.0, -3.25, 3.375, -3.125, 8.75, -3.0, 6.5, -4.125, 2.875,
            -0.375, -4.5, -0.875, -1.75, 6.125,
        ];
        let tape = Tape::inference();
        let rows = unfold_patches(&tape, &inputs(&[2, 2, 5, 7]), (2, 3), (2, 2))?;
        let y = linear(&tape, &rows, &weights(&[3, 12]), None, Activation::Identity)?;
        assert_eq!(y.value().dims(), [12, 3]);
        for (a, b) in y.data().iter().zip(WANT) {
            assert!((a - b).abs() < 1e-12);
        }
        Ok(())
    }

    #[test]
    fn with_a_linear_layer_it_is_pytorchs_conv1d_of_each_segment() -> Result<()> {
        // F.conv1d(x.T, w, stride=2, padding=1) of 4 and 2 rows, w [3, 2, 3].
        const WANT: [f64; 9] = [1.375, 3.25, -0.125, 0.125, 2.875, 0.375, -0.125, -1.75, 1.0];
        let tape = Tape::inference();
        let (rows, offsets) = unfold_1d(&tape, &inputs(&[6, 2]), &Offsets::from_lengths([4, 0, 2]), 3, 2, 1)?;
        assert_eq!(offsets.bounds(), [0, 2, 2, 3]);
        let y = linear(&tape, &rows, &weights(&[3, 6]), None, Activation::Identity)?;
        for (a, b) in y.data().iter().zip(WANT) {
            assert!((a - b).abs() < 1e-12);
        }
        Ok(())
    }

    #[test]
    fn a_segment_shorter_than_the_kernel_gives_no_windows() -> Result<()> {
        let tape = Tape::<f64>::inference();
        let (y, offsets) = unfold_1d(&tape, &inputs(&[4, 2]), &Offsets::from_lengths([1, 3]), 3, 1, 0)?;
        assert_eq!((offsets.bounds(), y.value().dims()), (&[0, 0, 1][..], &[1, 6][..]));
        Ok(())
    }

    #[test]
    fn threads_do_not_change_a_bit() -> Result<()> {
        let images = random(&[5, 3, 67, 71], "x").cast::<f32>();
        let frames = random(&[1999, 21], "y").cast::<f32>();
        let offsets = Offsets::from_lengths([700, 0, 1299]);
        let run = |threads| -> Result<_> {
            with_threads(threads, || {
                let tape = Tape::new();
                let (a, b) = (tape.input(images.clone()), tape.input(frames.clone()));
                let y = unfold_patches(&tape, &a, (16, 16), (7, 5))?;
                let (z, _) = unfold_1d(&tape, &b, &offsets, 3, 2, 1)?;
                let y = crate::ops::sum(&tape, &mul(&tape, &y, &y)?)?;
                let z = crate::ops::sum(&tape, &mul(&tape, &z, &z)?)?;
                let loss = crate::ops::add(&tape, &y, &z)?;
                let g = tape.backward(&loss)?;
                Ok([a, b].map(|v| g.of(&v).map(|t| t.data().to_vec())))
            })
            .expect("threads")
        };
        assert_eq!(run(1)?, run(4)?);
        Ok(())
    }

    #[test]
    fn windows_that_cannot_be_are_refused() {
        let tape = Tape::<f64>::new();
        let images = inputs(&[1, 1, 3, 4]);
        for (patch, stride) in [((4, 1), (1, 1)), ((0, 1), (1, 1)), ((1, 5), (1, 1)), ((1, 1), (0, 1))] {
            assert!(unfold_patches(&tape, &images, patch, stride).is_err());
        }
        assert!(unfold_patches(&tape, &inputs(&[3, 4]), (1, 1), (1, 1)).is_err());
        let x = inputs(&[4, 2]);
        let offsets = Offsets::from_lengths([4]);
        for (kernel, stride, padding) in [(0, 1, 0), (1, 0, 0), (3, 1, 3), (3, 1, usize::MAX)] {
            assert!(unfold_1d(&tape, &x, &offsets, kernel, stride, padding).is_err());
        }
        assert!(unfold_1d(&tape, &x, &Offsets::from_lengths([3]), 3, 1, 1).is_err());
    }
}
