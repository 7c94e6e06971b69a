//! The power spectrum of a frame, in double precision: quiet bins beside loud ones keep their digits.

use std::f64::consts::PI;
use std::sync::Arc;

use realfft::num_complex::Complex;
use realfft::{RealFftPlanner, RealToComplex};

/// A transform of one length with its buffers.
pub(super) struct Spectrum {
    transform: Arc<dyn RealToComplex<f64>>,
    bins: Vec<Complex<f64>>,
    scratch: Vec<Complex<f64>>,
    power: Vec<f64>,
}

impl Spectrum {
    /// Prepares transforms of `length` values to `length / 2 + 1` bins.
    pub fn new(length: usize) -> Self {
        let transform = RealFftPlanner::new().plan_fft_forward(length);
        let bins = transform.make_output_vec();
        Self { power: vec![0.0; bins.len()], scratch: transform.make_scratch_vec(), bins, transform }
    }

    /// The squared magnitude of each bin; `frame` has the prepared length and is used as scratch.
    pub fn power(&mut self, frame: &mut [f64]) -> &[f64] {
        self.transform
            .process_with_scratch(frame, &mut self.bins, &mut self.scratch)
            .expect("the buffers are of the prepared length");
        for (power, bin) in self.power.iter_mut().zip(&self.bins) {
            *power = bin.norm_sqr();
        }
        &self.power
    }
}

/// Hann's window of a length, as if it repeated.
pub(super) fn hann(length: usize) -> Vec<f64> {
    (0..length).map(|i| 0.5 - 0.5 * (2.0 * PI * i as f64 / length as f64).cos()).collect()
}

/// The index that `i` falls on when both ends are mirrors and the end samples are not repeated.
pub(super) fn mirrored(i: isize, length: usize) -> usize {
    let last = length as isize - 1;
    let i = i.abs();
    (if i > last { 2 * last - i } else { i }) as usize
}
