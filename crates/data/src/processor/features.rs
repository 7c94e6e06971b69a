//! Precomputed features, standardised by the training rows.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::usable_std;
use crate::statistics::Moments;
use crate::table::FeatureMatrix;

/// `(number - mean) / std` for each of the `dim` numbers of a frame.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FeaturesProcessor {
    /// Numbers per frame.
    pub dim: usize,
    /// Longer matrices lose their end.
    pub max_rows: usize,
    /// Mean of the training rows, `[dim]`.
    pub mean: Vec<f32>,
    /// Standard deviation of the training rows, `[dim]`; 1 where they are all alike.
    pub std: Vec<f32>,
}

impl FeaturesProcessor {
    /// Frames kept of one cell unless told otherwise.
    pub const DEFAULT_MAX_ROWS: usize = 1024;

    /// Standardises a matrix in place and cuts it to `max_rows`.
    ///
    /// # Errors
    /// A matrix of another width than the training rows had.
    pub fn apply(&self, mut matrix: FeatureMatrix) -> Result<FeatureMatrix, String> {
        if matrix.dim != self.dim {
            return Err(format!("{} numbers were found, expected {} as in the training rows", matrix.dim, self.dim));
        }
        matrix.rows = matrix.rows.min(self.max_rows);
        matrix.data.truncate(matrix.rows * matrix.dim);
        for frame in matrix.data.chunks_exact_mut(self.dim) {
            for ((x, mean), std) in frame.iter_mut().zip(&self.mean).zip(&self.std) {
                *x = (*x - mean) / std;
            }
        }
        Ok(matrix)
    }

    pub(crate) fn validate(&self) -> Result<(), String> {
        if self.dim == 0 || self.mean.len() != self.dim || self.std.len() != self.dim {
            return Err(format!(
                "dim is {}, with {} means and {} deviations; expected as many of each",
                self.dim,
                self.mean.len(),
                self.std.len()
            ));
        }
        let usable = self.mean.iter().all(|x| x.is_finite()) && self.std.iter().all(|x| x.is_finite() && *x > 0.0);
        if !usable || self.max_rows == 0 {
            return Err("means must be finite, deviations above 0, max_rows at least 1".into());
        }
        Ok(())
    }
}

/// Learns a [`FeaturesProcessor`], one matrix at a time.
///
/// A table may hold a few broken matrices; the width that most of them have is the column's.
#[derive(Debug, Default)]
pub struct FeatureFitter {
    /// For each width, the matrices seen and the moments of each number.
    widths: BTreeMap<usize, (u64, Vec<Moments>)>,
}

impl FeatureFitter {
    /// Different widths that are kept apart; a column with more is broken anyway.
    const MAX_WIDTHS: usize = 8;

    /// Takes one matrix in.
    pub fn add(&mut self, matrix: &FeatureMatrix) {
        if self.widths.len() >= Self::MAX_WIDTHS && !self.widths.contains_key(&matrix.dim) {
            return;
        }
        let new = || (0, vec![Moments::default(); matrix.dim]);
        let (seen, moments) = self.widths.entry(matrix.dim).or_insert_with(new);
        *seen += 1;
        for frame in matrix.data.chunks_exact(matrix.dim.max(1)) {
            for (moments, x) in moments.iter_mut().zip(frame) {
                moments.add(f64::from(*x));
            }
        }
    }

    /// The processor; `None` where nothing was taken in.
    pub fn finish(&self) -> Option<FeaturesProcessor> {
        let (dim, (_, moments)) = self.widths.iter().max_by_key(|(_, (seen, _))| *seen)?;
        Some(FeaturesProcessor {
            dim: *dim,
            max_rows: FeaturesProcessor::DEFAULT_MAX_ROWS,
            mean: moments.iter().map(|moments| moments.mean() as f32).collect(),
            std: moments.iter().map(|moments| usable_std(moments.std())).collect(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matrix(rows: usize, data: &[f32]) -> FeatureMatrix {
        FeatureMatrix { rows, dim: data.len() / rows, data: data.to_vec() }
    }

    #[test]
    fn features_are_standardised_per_number() {
        let mut fitter = FeatureFitter::default();
        fitter.add(&matrix(1, &[1.0]));
        fitter.add(&matrix(2, &[0.0, 5.0, 2.0, 5.0]));
        fitter.add(&matrix(1, &[4.0, 5.0]));
        let processor = fitter.finish().expect("fitted");
        processor.validate().expect("valid");
        assert_eq!(processor.mean, [2.0, 5.0]);
        assert_eq!(processor.std[1], 1.0);
        let out = processor.apply(matrix(1, &[4.0, 5.0])).expect("apply");
        assert!((out.data[0] - 2.0 / (8.0f32 / 3.0).sqrt()).abs() < 1e-6 && out.data[1] == 0.0);
        let short = FeaturesProcessor { max_rows: 1, ..processor.clone() };
        assert_eq!(short.apply(matrix(3, &[0.0; 6])).expect("cut").data.len(), 2);
        assert!(processor.apply(matrix(1, &[1.0; 3])).is_err());
    }
}
