//! Quantised matrices: codes, a scale for each row, and how they lie in memory.

use super::bytes::Bytes;
use super::{MOST_INPUTS, Range};
use crate::{Element, EngineError, Result, Tensor};
use std::fmt;

/// Columns of one panel: what a 512-bit register holds of 32-bit sums.
pub(super) const PANEL: usize = 16;
/// Inputs are padded with zeros to whole steps of this many.
pub(super) const STEP: usize = 64;

/// A matrix `[rows, cols]` of eight-bit codes with a scale for each row: the
/// weight of a linear layer `[outputs, inputs]`, or a table of embeddings
/// `[entries, dim]`.
pub struct Quantized {
    rows: usize,
    cols: usize,
    layout: Layout,
    codes: Bytes,
    scales: Vec<f32>,
    /// The sum of each row's codes, as far as panels go; empty for `Rows`.
    sums: Vec<f32>,
    range: Option<Range>,
}

/// How the codes lie in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Layout {
    /// Row-major: for looking rows up.
    Rows,
    /// In panels of [`PANEL`] rows, for products: four neighbours of each row
    /// next to each other, `panel[(k / 4) * 64 + row * 4 + k % 4]`, padded with
    /// zeros to whole panels and to whole steps of [`STEP`] inputs.
    Panels,
}

impl Quantized {
    /// Quantises row-major values: each row's largest magnitude becomes ±127.
    ///
    /// # Errors
    /// When the shape is not a matrix of at most [`MOST_INPUTS`] columns, or a
    /// value is not finite.
    pub fn of(values: &Tensor) -> Result<Self> {
        let [rows, cols] = *values.dims() else {
            return Err(EngineError::shape("quantize", "values", "[rows, cols]", values.shape()));
        };
        let mut codes = vec![0_i8; rows * cols];
        let mut scales = vec![0.0; rows];
        for ((row, code), scale) in
            values.data().chunks_exact(cols.max(1)).zip(codes.chunks_exact_mut(cols.max(1))).zip(&mut scales)
        {
            let largest = row.iter().fold(0.0_f32, |m, x| m.max(x.abs()));
            if row.iter().any(|x| !x.is_finite()) {
                return Err(EngineError::setting("quantize", "a value is not finite"));
            }
            // A row of zeros (or of numbers too small to divide by) keeps zeros.
            let inverse = 127.0 / largest;
            if !inverse.is_finite() {
                continue;
            }
            *scale = largest / 127.0;
            for (q, x) in code.iter_mut().zip(row) {
                *q = (x * inverse).round_ties_even().clamp(-127.0, 127.0) as i8;
            }
        }
        Self::new((rows, cols), &codes, scales)
    }

    /// A matrix from its row-major codes and the scales of its rows.
    ///
    /// # Errors
    /// When they do not fit each other, there are more than [`MOST_INPUTS`]
    /// columns, or a scale is not a finite number from 0.
    pub fn new((rows, cols): (usize, usize), codes: &[i8], scales: Vec<f32>) -> Result<Self> {
        const OP: &str = "quantized matrix";
        if cols > MOST_INPUTS {
            return Err(EngineError::setting(OP, format!("{cols} columns; at most {MOST_INPUTS} can be added up")));
        }
        if codes.len() != rows * cols || scales.len() != rows {
            let problem = format!("{} codes and {} scales cannot fill [{rows}, {cols}]", codes.len(), scales.len());
            return Err(EngineError::setting(OP, problem));
        }
        if let Some(row) = scales.iter().position(|s| !(s.is_finite() && *s >= 0.0)) {
            return Err(EngineError::setting(OP, format!("the scale of row {row} is {}", scales[row])));
        }
        let mut own = Bytes::any(codes.len());
        own.signed_mut().copy_from_slice(codes);
        Ok(Self { rows, cols, layout: Layout::Rows, codes: own, scales, sums: Vec::new(), range: None })
    }

    /// The same matrix, laid out for products with it.
    #[must_use]
    pub fn into_panels(self) -> Self {
        if self.layout == Layout::Panels {
            return self;
        }
        let depth = self.cols.next_multiple_of(STEP);
        let panels = self.rows.div_ceil(PANEL);
        let mut packed = Bytes::zeros(panels * PANEL * depth);
        let mut sums = vec![0.0; panels * PANEL];
        let mut scales = self.scales;
        scales.resize(panels * PANEL, 0.0);
        let to = packed.signed_mut();
        for (r, row) in self.codes.signed().chunks_exact(self.cols.max(1)).enumerate() {
            let panel = &mut to[r / PANEL * PANEL * depth..][..PANEL * depth];
            for (group, codes) in panel.chunks_exact_mut(PANEL * 4).zip(row.chunks(4)) {
                group[r % PANEL * 4..][..codes.len()].copy_from_slice(codes);
            }
            // Whole numbers below 2²⁴: 127 · 65,536 is the most.
            sums[r] = row.iter().map(|q| i32::from(*q)).sum::<i32>() as f32;
        }
        Self { layout: Layout::Panels, codes: packed, scales, sums, ..self }
    }

    /// The same matrix whose inputs have a fixed range; None lets each row of
    /// inputs have its own.
    #[must_use]
    pub fn with_range(self, range: Option<Range>) -> Self {
        Self { range, ..self }
    }

    /// Rows: outputs, or entries.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Columns: inputs, or the width of an entry.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// The scale of each row.
    pub fn scales(&self) -> &[f32] {
        &self.scales[..self.rows]
    }

    /// The range of the inputs that calibration has fixed.
    pub fn range(&self) -> Option<Range> {
        self.range
    }

    /// Bytes of memory that the matrix takes.
    pub fn bytes(&self) -> usize {
        self.codes.len() + (self.scales.len() + self.sums.len()) * size_of::<f32>()
    }

    /// The codes of a row, in order.
    pub fn row(&self, row: usize, out: &mut [i8]) {
        let codes = self.codes.signed();
        match self.layout {
            Layout::Rows => out.copy_from_slice(&codes[row * self.cols..][..self.cols]),
            Layout::Panels => {
                let depth = self.cols.next_multiple_of(STEP);
                let panel = &codes[row / PANEL * PANEL * depth..][..PANEL * depth];
                for (out, group) in out.chunks_mut(4).zip(panel.chunks_exact(PANEL * 4)) {
                    out.copy_from_slice(&group[row % PANEL * 4..][..out.len()]);
                }
            }
        }
    }

    /// The values that the codes of a row stand for.
    pub fn dequantize_row<E: Element>(&self, row: usize, out: &mut [E]) {
        let scale = E::of(self.scales[row].into());
        if self.layout == Layout::Rows {
            let codes = &self.codes.signed()[row * self.cols..][..self.cols];
            out.iter_mut().zip(codes).for_each(|(x, q)| *x = E::of(f64::from(*q)) * scale);
            return;
        }
        let mut codes = vec![0; self.cols];
        self.row(row, &mut codes);
        out.iter_mut().zip(&codes).for_each(|(x, q)| *x = E::of(f64::from(*q)) * scale);
    }

    /// All values that the codes stand for, `[rows, cols]`.
    pub fn dequantize<E: Element>(&self) -> Tensor<E> {
        let mut values = Tensor::any(&[self.rows, self.cols]);
        crate::parallel::rows_mut(values.data_mut(), self.cols.max(1), |first, part| {
            for (i, row) in part.chunks_exact_mut(self.cols.max(1)).enumerate() {
                self.dequantize_row(first + i, row);
            }
        });
        values
    }

    /// Panels for products: codes, scales and sums; None when laid out in rows.
    pub(super) fn panels(&self) -> Option<Panels<'_>> {
        (self.layout == Layout::Panels).then(|| Panels {
            outputs: self.rows,
            depth: self.cols.next_multiple_of(STEP),
            codes: self.codes.signed(),
            scales: &self.scales,
            sums: &self.sums,
        })
    }
}

/// A matrix laid out for products.
#[derive(Clone, Copy)]
pub(super) struct Panels<'a> {
    /// The real number of outputs.
    pub outputs: usize,
    /// Inputs, padded to whole steps.
    pub depth: usize,
    /// `[panels, depth / 4, PANEL, 4]`
    pub codes: &'a [i8],
    /// One for each output of whole panels.
    pub scales: &'a [f32],
    /// One for each output of whole panels.
    pub sums: &'a [f32],
}

impl fmt::Debug for Quantized {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Quantized [{}, {}]", self.rows, self.cols)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Random;

    fn some(rows: usize, cols: usize) -> Tensor {
        let random = Random::new(3).purpose("weights");
        let values: Vec<f32> = (0..rows * cols).map(|i| random.normal(i as u64) as f32).collect();
        Tensor::from_slice(&[rows, cols], &values).expect("values")
    }

    #[test]
    fn no_value_moves_by_more_than_half_a_step() -> Result<()> {
        let values = some(37, 70);
        let quantized = Quantized::of(&values)?;
        let back = quantized.dequantize::<f32>();
        for (r, (row, again)) in values.data().chunks(70).zip(back.data().chunks(70)).enumerate() {
            for (x, y) in row.iter().zip(again) {
                assert!((x - y).abs() <= 0.5001 * quantized.scales()[r], "row {r}: {x} became {y}");
            }
        }
        Ok(())
    }

    #[test]
    fn panels_hold_the_same_codes() -> Result<()> {
        for (rows, cols) in [(1, 1), (16, 64), (17, 65), (40, 130), (3, 0), (0, 5)] {
            let plain = Quantized::of(&some(rows, cols))?;
            let values = plain.dequantize::<f64>();
            let panels = plain.into_panels();
            assert_eq!(panels.dequantize::<f64>().data(), values.data(), "{rows} × {cols}");
        }
        Ok(())
    }

    #[test]
    fn rows_of_zeros_stay_zeros_and_bad_ones_are_refused() -> Result<()> {
        let zeros = Quantized::of(&Tensor::zeros(&[2, 5]))?;
        assert_eq!(zeros.dequantize::<f32>().data(), [0.0; 10]);
        assert!(Quantized::of(&Tensor::full(&[2, 5], f32::NAN)).is_err());
        assert!(Quantized::of(&Tensor::zeros(&[2])).is_err());
        assert!(Quantized::new((2, 2), &[0; 3], vec![1.0; 2]).is_err());
        assert!(Quantized::new((1, 2), &[0; 2], vec![f32::INFINITY]).is_err());
        assert!(Quantized::new((1, MOST_INPUTS + 1), &[], vec![1.0]).is_err());
        Ok(())
    }
}
