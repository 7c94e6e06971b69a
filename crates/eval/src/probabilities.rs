//! Predicted probabilities, checked once, and the metrics that judge them as probabilities.

use crate::error::{EvalError, all_finite, classes_in_range, same_length};
use serde::{Deserialize, Serialize};

/// How far the probabilities of a row may sum from one: f32 softmax over many classes stays well below.
const SUM_TOLERANCE: f64 = 1e-3;

/// Width of the confidence bins of the expected calibration error: fifteen of equal width.
pub const CALIBRATION_BINS: usize = 15;

/// Predicted class probabilities `[rows, classes]`, finite, in 0 to 1, each row summing to one.
#[derive(Debug, Clone, PartialEq)]
pub struct Probabilities {
    values: Vec<f64>,
    classes: usize,
}

impl Probabilities {
    /// Takes row-major `[rows, classes]` values and checks each of them.
    pub fn new(values: Vec<f64>, classes: usize) -> Result<Self, EvalError> {
        let probabilities = Self::unnormalised(values, classes)?;
        for row in 0..probabilities.rows() {
            let sum: f64 = probabilities.row(row).iter().sum();
            if (sum - 1.0).abs() > SUM_TOLERANCE {
                return Err(EvalError::NotNormalised { row, sum });
            }
        }
        Ok(probabilities)
    }

    /// Takes one vector per row, each with one value per class.
    pub fn from_rows<T: Copy + Into<f64>>(rows: &[Vec<T>], classes: usize) -> Result<Self, EvalError> {
        Self::new(flatten(rows, classes)?, classes)
    }

    /// Takes `[rows, labels]` values that are each a probability of their own, as multi-label heads give.
    pub fn unnormalised(values: Vec<f64>, columns: usize) -> Result<Self, EvalError> {
        if columns == 0 || !values.len().is_multiple_of(columns) {
            return Err(EvalError::LengthMismatch {
                what: "a row of the probabilities",
                per: "classes",
                expected: columns,
                got: values.len() % columns.max(1),
            });
        }
        all_finite("probabilities", &values, columns)?;
        if let Some(at) = values.iter().position(|p| !(0.0..=1.0).contains(p)) {
            // A softmax in f32 may round a hair above one.
            if values[at] < 0.0 || values[at] > 1.0 + 1e-6 {
                return Err(EvalError::NotAProbability { row: at / columns, column: at % columns, value: values[at] });
            }
        }
        Ok(Self { values, classes: columns })
    }

    /// Like [`Probabilities::unnormalised`], from one vector per row.
    pub fn unnormalised_from_rows<T: Copy + Into<f64>>(rows: &[Vec<T>], columns: usize) -> Result<Self, EvalError> {
        Self::unnormalised(flatten(rows, columns)?, columns)
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.values.len() / self.classes
    }

    /// Number of classes.
    pub fn classes(&self) -> usize {
        self.classes
    }

    /// The probabilities of one row `[classes]`.
    pub fn row(&self, row: usize) -> &[f64] {
        &self.values[row * self.classes..(row + 1) * self.classes]
    }

    /// The probability of one class in each row `[rows]`.
    pub fn column(&self, class: usize) -> Vec<f64> {
        self.values.iter().skip(class).step_by(self.classes).copied().collect()
    }

    /// The most probable class of each row; of equals the one with the lowest index.
    pub fn predicted(&self) -> Vec<usize> {
        (0..self.rows()).map(|row| argmax(self.row(row))).collect()
    }

    /// The rows at these indices, in this order.
    pub fn select(&self, rows: &[usize]) -> Self {
        Self { values: rows.iter().flat_map(|&row| self.row(row)).copied().collect(), classes: self.classes }
    }

    /// Negative log of the truth's probability, clipped to machine epsilon.
    pub(crate) fn row_log_loss(&self, row: usize, truth: usize) -> f64 {
        -self.row(row)[truth].clamp(f64::EPSILON, 1.0 - f64::EPSILON).ln()
    }

    /// Squared distance from the one-hot truth; with two classes of the second one only.
    pub(crate) fn row_brier(&self, row: usize, truth: usize) -> f64 {
        let first = usize::from(self.classes == 2);
        let values = self.row(row).iter().enumerate().skip(first);
        values.map(|(class, p)| (p - f64::from(u8::from(class == truth))).powi(2)).sum()
    }

    /// How many classes rank before the truth; of equals the lower index ranks first.
    pub(crate) fn row_rank(&self, row: usize, truth: usize) -> usize {
        let values = self.row(row);
        let own = values[truth];
        let ahead = values.iter().enumerate();
        ahead.filter(|&(class, &p)| p > own || (p == own && class < truth)).count()
    }

    fn check(&self, truths: &[usize]) -> Result<(), EvalError> {
        if truths.is_empty() {
            return Err(EvalError::Empty { what: "label" });
        }
        same_length("probabilities", truths.len(), self.rows())?;
        classes_in_range("truths", truths, self.classes)
    }
}

fn flatten<T: Copy + Into<f64>>(rows: &[Vec<T>], columns: usize) -> Result<Vec<f64>, EvalError> {
    for row in rows {
        if row.len() != columns {
            return Err(EvalError::LengthMismatch {
                what: "a row of the probabilities",
                per: "classes",
                expected: columns,
                got: row.len(),
            });
        }
    }
    Ok(rows.iter().flatten().map(|&value| value.into()).collect())
}

fn argmax(values: &[f64]) -> usize {
    let mut best = 0;
    for (index, value) in values.iter().enumerate() {
        if *value > values[best] {
            best = index;
        }
    }
    best
}

/// Mean negative log of the truth's probability, clipped to machine epsilon as scikit-learn does.
pub fn log_loss(truths: &[usize], probabilities: &Probabilities) -> Result<f64, EvalError> {
    probabilities.check(truths)?;
    let rows = truths.iter().enumerate();
    let sum: f64 = rows.map(|(row, &t)| probabilities.row_log_loss(row, t)).sum();
    Ok(sum / truths.len() as f64)
}

/// Brier score: mean squared distance of the probabilities from the one-hot truth.
///
/// With two classes it is the squared error of the second class's probability (0 to 1), with more
/// the sum over classes (0 to 2): scikit-learn's default scaling.
pub fn brier_score(truths: &[usize], probabilities: &Probabilities) -> Result<f64, EvalError> {
    probabilities.check(truths)?;
    let rows = truths.iter().enumerate();
    let sum: f64 = rows.map(|(row, &t)| probabilities.row_brier(row, t)).sum();
    Ok(sum / truths.len() as f64)
}

/// Share of rows whose truth is among the `k` most probable classes.
///
/// Equal probabilities rank by class index, lowest first, so that `k = 1` is the accuracy.
pub fn top_k_accuracy(truths: &[usize], probabilities: &Probabilities, k: usize) -> Result<f64, EvalError> {
    probabilities.check(truths)?;
    let rows = truths.iter().enumerate();
    let hits = rows.filter(|&(row, &t)| probabilities.row_rank(row, t) < k);
    Ok(hits.count() as f64 / truths.len() as f64)
}

/// How well confidence matches correctness: the bins of a reliability diagram and their mean gap.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Calibration {
    /// Expected calibration error: the mean over rows of their bin's |accuracy - confidence|.
    pub error: f64,
    /// Largest |accuracy - confidence| of a bin that holds rows.
    pub maximum_error: f64,
    /// The bins, lowest confidence first; empty ones included.
    pub bins: Vec<CalibrationBin>,
}

/// The rows whose confidence lies in `(low, high]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CalibrationBin {
    /// Lower edge, exclusive (the first bin holds 0 too).
    pub low: f64,
    /// Upper edge, inclusive.
    pub high: f64,
    /// How many rows.
    pub rows: usize,
    /// Mean confidence of the rows; 0 if there are none.
    pub confidence: f64,
    /// Share of the rows predicted right; 0 if there are none.
    pub accuracy: f64,
}

/// Calibration of the most probable class.
///
/// Confidence is the largest probability of a row. Rows fall into `bins` bins of equal width,
/// bin b holding `(b/bins, (b+1)/bins]`. The expected calibration error is
/// `sum over bins of rows_b / rows * |accuracy_b - confidence_b|` (Guo et al. 2017).
pub fn calibration(truths: &[usize], probabilities: &Probabilities, bins: usize) -> Result<Calibration, EvalError> {
    probabilities.check(truths)?;
    if bins == 0 {
        return Err(EvalError::BadSetting { name: "bins", value: "0".into(), expected: "at least 1" });
    }
    let mut count = vec![0usize; bins];
    let mut confidence = vec![0.0; bins];
    let mut correct = vec![0usize; bins];
    for (row, &truth) in truths.iter().enumerate() {
        let values = probabilities.row(row);
        let best = argmax(values);
        let bin = ((values[best] * bins as f64).ceil() as usize).clamp(1, bins) - 1;
        count[bin] += 1;
        confidence[bin] += values[best];
        correct[bin] += usize::from(best == truth);
    }
    let mut error = 0.0;
    let mut maximum_error = 0.0f64;
    let bins = (0..bins)
        .map(|bin| {
            let rows = count[bin].max(1) as f64;
            let (confidence, accuracy) = (confidence[bin] / rows, correct[bin] as f64 / rows);
            let gap = (accuracy - confidence).abs();
            error += gap * count[bin] as f64 / truths.len() as f64;
            maximum_error = maximum_error.max(gap);
            CalibrationBin {
                low: bin as f64 / bins as f64,
                high: (bin + 1) as f64 / bins as f64,
                rows: count[bin],
                confidence,
                accuracy,
            }
        })
        .collect();
    Ok(Calibration { error, maximum_error, bins })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logits_are_refused_as_probabilities() {
        let error = Probabilities::new(vec![0.5, 0.5, 0.9, 0.9], 2).unwrap_err();
        assert!(matches!(error, EvalError::NotNormalised { row: 1, .. }));
        let error = Probabilities::new(vec![0.5, 0.5, 3.0, -2.0], 2).unwrap_err();
        assert!(matches!(error, EvalError::NotAProbability { row: 1, column: 0, .. }));
    }

    #[test]
    fn nan_is_refused_and_located() {
        let error = Probabilities::new(vec![0.5, 0.5, 1.0, f64::NAN], 2).unwrap_err();
        assert!(matches!(error, EvalError::NotFinite { row: 1, column: 1, .. }));
        assert!(error.to_string().contains("row 1, column 1"));
    }

    #[test]
    fn ragged_rows_are_refused() {
        let rows = vec![vec![0.5f32, 0.5], vec![1.0]];
        assert!(matches!(Probabilities::from_rows(&rows, 2), Err(EvalError::LengthMismatch { got: 1, .. })));
    }

    #[test]
    fn top_one_is_the_accuracy_also_with_ties() {
        let p = Probabilities::new(vec![0.5, 0.5, 0.5, 0.5], 2).unwrap();
        assert_eq!(p.predicted(), [0, 0]);
        assert_eq!(top_k_accuracy(&[0, 1], &p, 1).unwrap(), 0.5);
        assert_eq!(top_k_accuracy(&[0, 1], &p, 2).unwrap(), 1.0);
    }

    #[test]
    fn an_edge_confidence_falls_into_the_lower_bin() {
        let p = Probabilities::new(vec![0.6, 0.4, 1.0, 0.0], 2).unwrap();
        let result = calibration(&[0, 1], &p, 5).unwrap();
        assert_eq!(result.bins[2].rows, 1);
        assert_eq!(result.bins[4].rows, 1);
        assert!((result.error - (0.4 + 1.0) / 2.0).abs() < 1e-15);
    }
}
