//! Precomputed features, standardised by the training rows.

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
                self.dim, self.mean.len(), self.std.len()
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
#[derive(Debug, Default)]
pub struct FeatureFitter {
    moments: Vec<Moments>,
}

impl FeatureFitter {
    /// Takes one matrix in.
    ///
    /// # Errors
    /// A matrix of another width than the first.
    pub fn add(&mut self, matrix: &FeatureMatrix) -> Result<(), String> {
        if self.moments.is_empty() {
            self.moments = vec![Moments::default(); matrix.dim];
        }
        if self.moments.len() != matrix.dim {
            return Err(format!("{} numbers were found, the rows before have {}", matrix.dim, self.moments.len()));
        }
        for frame in matrix.data.chunks_exact(matrix.dim.max(1)) {
            for (moments, x) in self.moments.iter_mut().zip(frame) {
                moments.add(f64::from(*x));
            }
        }
        Ok(())
    }

    /// The processor; `None` where nothing was taken in.
    pub fn finish(&self) -> Option<FeaturesProcessor> {
        if self.moments.is_empty() {
            return None;
        }
        Some(FeaturesProcessor {
            dim: self.moments.len(),
            max_rows: FeaturesProcessor::DEFAULT_MAX_ROWS,
            mean: self.moments.iter().map(|moments| moments.mean() as f32).collect(),
            std: self.moments.iter().map(|moments| usable_std(moments.std())).collect(),
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
        fitter.add(&matrix(2, &[0.0, 5.0, 2.0, 5.0])).expect("first");
        fitter.add(&matrix(1, &[4.0, 5.0])).expect("second");
        assert!(fitter.add(&matrix(1, &[1.0])).is_err());
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
