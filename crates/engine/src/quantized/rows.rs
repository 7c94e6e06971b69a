//! Activations as codes: each row with a scale and a zero of its own, or all
//! with those of a fixed range.

use super::bytes::Bytes;
use super::weights::STEP;
use crate::simd::{Level, level};
use rayon::prelude::*;

/// Rows are padded to whole blocks of this many, so that kernels need no edge.
pub(super) const BLOCK: usize = 32;

/// A range of activations; what is outside is clipped to it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Range {
    /// The lowest value, not above 0.
    pub low: f32,
    /// The highest value, not below 0.
    pub high: f32,
}

impl Range {
    /// The distance between neighbouring codes, and the code of 0.
    fn steps(self) -> (f32, f32) {
        let scale = (self.high - self.low) / 255.0;
        let inverse = 1.0 / scale;
        if !scale.is_finite() {
            return (f32::NAN, 0.0);
        }
        // All zeros, or so small that their inverse is infinite.
        if !inverse.is_finite() {
            return (0.0, 0.0);
        }
        (scale, round(-self.low * inverse))
    }
}

/// Rows of activations as codes.
pub(super) struct Rows {
    /// `[rows padded to BLOCK, depth]`, zeros (of the code) where padded along
    /// the depth, anything in rows beyond the last.
    pub codes: Bytes,
    /// Inputs, padded to whole steps.
    pub depth: usize,
    /// The scale of each row.
    pub scales: Vec<f32>,
    /// The code of 0 in each row.
    pub zeros: Vec<f32>,
}

impl Rows {
    /// Quantises `x` `[rows, cols]`. A row that holds an infinity or NaN gets
    /// NaN as its scale, which hands it on to every output.
    pub fn of(x: &[f32], cols: usize, range: Option<Range>) -> Self {
        let rows = x.len() / cols.max(1);
        let depth = cols.next_multiple_of(STEP);
        let mut codes = Bytes::any(rows.next_multiple_of(BLOCK) * depth);
        let (mut scales, mut zeros) = (vec![0.0; rows], vec![0.0; rows]);
        // Work per task: some sixteen thousand elements.
        let at_a_time = crate::parallel::rows_per_task(depth);
        let fixed = range.map(Range::steps);
        codes[..rows * depth]
            .par_chunks_mut(at_a_time * depth.max(1))
            .zip(scales.par_chunks_mut(at_a_time))
            .zip(zeros.par_chunks_mut(at_a_time))
            .enumerate()
            .for_each(|(task, ((codes, scales), zeros))| {
                let first = task * at_a_time;
                for (i, codes) in codes.chunks_exact_mut(depth).enumerate() {
                    let row = &x[(first + i) * cols..][..cols];
                    (scales[i], zeros[i]) = quantize(row, fixed, codes);
                }
            });
        Self { codes, depth, scales, zeros }
    }
}

/// Codes of a row under a fixed range or its own; its scale and zero.
fn quantize(row: &[f32], fixed: Option<(f32, f32)>, codes: &mut [u8]) -> (f32, f32) {
    #[cfg(target_arch = "x86_64")]
    {
        #[target_feature(enable = "avx512f,avx512bw,avx512vl")]
        fn widest(row: &[f32], fixed: Option<(f32, f32)>, codes: &mut [u8]) -> (f32, f32) {
            plain(row, fixed, codes)
        }
        #[target_feature(enable = "avx2,fma")]
        fn wide(row: &[f32], fixed: Option<(f32, f32)>, codes: &mut [u8]) -> (f32, f32) {
            plain(row, fixed, codes)
        }
        if level() >= Level::Avx512 && super::kernels::has_avx512bw() {
            // SAFETY: the instructions are there.
            return unsafe { widest(row, fixed, codes) };
        }
        if level() >= Level::Avx2 {
            // SAFETY: the level says that AVX2 is there.
            return unsafe { wide(row, fixed, codes) };
        }
    }
    plain(row, fixed, codes)
}

#[inline(always)]
fn plain(row: &[f32], fixed: Option<(f32, f32)>, codes: &mut [u8]) -> (f32, f32) {
    let (scale, zero) = match fixed {
        Some(steps) if is_finite(row) => steps,
        Some(_) => (f32::NAN, 0.0),
        None => own_range(row).steps(),
    };
    let inverse = if scale > 0.0 { 1.0 / scale } else { 0.0 };
    let (codes, padding) = codes.split_at_mut(row.len());
    for (code, x) in codes.iter_mut().zip(row) {
        let shifted = (x * inverse + zero).clamp(0.0, 255.0);
        *code = (shifted + ROUND).to_bits() as u8;
    }
    padding.fill(0);
    (scale, zero)
}

/// Adding 1.5·2²³ rounds to the nearest whole number, which is then in the
/// lowest bits.
const ROUND: f32 = 12_582_912.0;

fn round(x: f32) -> f32 {
    (x + ROUND) - ROUND
}

#[inline(always)]
fn is_finite(row: &[f32]) -> bool {
    row.iter().map(|x| u32::from(!x.is_finite())).sum::<u32>() == 0
}

/// The least and greatest of a row and 0; NaN where the row has one that is
/// not finite.
#[inline(always)]
fn own_range(row: &[f32]) -> Range {
    const LANES: usize = 64;
    let (mut low, mut high, mut odd) = ([0.0_f32; LANES], [0.0_f32; LANES], [0.0_f32; LANES]);
    let chunks = row.chunks_exact(LANES);
    let rest = chunks.remainder();
    for x in chunks {
        for i in 0..LANES {
            low[i] = if x[i] < low[i] { x[i] } else { low[i] };
            high[i] = if x[i] > high[i] { x[i] } else { high[i] };
            // 0 for finite numbers, NaN for all others.
            odd[i] += x[i] * 0.0;
        }
    }
    for (i, x) in rest.iter().enumerate() {
        low[i] = if *x < low[i] { *x } else { low[i] };
        high[i] = if *x > high[i] { *x } else { high[i] };
        odd[i] += *x * 0.0;
    }
    let odd: f32 = odd.iter().sum();
    let low = low.iter().fold(0.0, |m: f32, x| if *x < m { *x } else { m });
    let high = high.iter().fold(0.0, |m: f32, x| if *x > m { *x } else { m });
    Range { low: low + odd, high }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn back(rows: &Rows, row: usize, cols: usize) -> Vec<f32> {
        rows.codes[row * rows.depth..][..cols]
            .iter()
            .map(|u| (f32::from(*u) - rows.zeros[row]) * rows.scales[row])
            .collect()
    }

    #[test]
    fn every_row_uses_its_own_range() {
        let x: Vec<f32> = (0..3 * 70).map(|i| ((i * 37 % 101) as f32 - 30.0) * [1e-3, 1.0, 1e3][i / 70]).collect();
        let rows = Rows::of(&x, 70, None);
        for r in 0..3 {
            for (x, y) in x[r * 70..][..70].iter().zip(back(&rows, r, 70)) {
                // Half a step for x, and half a step that the zero was rounded by.
                assert!((x - y).abs() <= 1.001 * rows.scales[r], "row {r}: {x} became {y}");
            }
        }
        assert!(rows.scales[0] < rows.scales[1] && rows.scales[1] < rows.scales[2]);
    }

    #[test]
    fn zero_stays_zero_and_positive_rows_use_all_codes() {
        let rows = Rows::of(&[0.0, 2.0, 5.1, 0.02], 4, None);
        assert_eq!(rows.zeros, [0.0]);
        assert_eq!(rows.codes[..4], [0, 100, 255, 1]);
        let zeros = Rows::of(&[0.0; 8], 4, None);
        assert_eq!(back(&zeros, 1, 4), [0.0; 4]);
        let tiny = Rows::of(&[1e-42, -1e-42], 2, None);
        assert!(back(&tiny, 0, 2).iter().all(|x| *x == 0.0));
    }

    #[test]
    fn a_fixed_range_clips() {
        let range = Range { low: -1.0, high: 1.55 };
        let rows = Rows::of(&[-7.0, 0.0, 0.5, 9.0], 4, Some(range));
        assert_eq!(rows.codes[..4], [0, 100, 150, 255]);
    }

    #[test]
    fn what_is_not_finite_is_handed_on() {
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            for range in [None, Some(Range { low: -1.0, high: 1.0 })] {
                let rows = Rows::of(&[1.0, bad, 1.0, 2.0], 2, range);
                assert!(rows.scales[0].is_nan() && rows.scales[1].is_finite(), "{bad} {range:?}");
            }
        }
        let wide = Rows::of(&[-3e38, 3e38], 2, None);
        assert!(wide.scales[0].is_nan(), "a range beyond f32 is not computed with");
    }
}
