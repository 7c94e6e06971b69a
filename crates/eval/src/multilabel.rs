//! Metrics of multi-label tasks, where a row has any number of labels.

use crate::averages::{Average, ClassMetrics};
use crate::error::{EvalError, same_length};
use crate::probabilities::Probabilities;
use crate::ranking::Ranking;

/// Checked truths and predictions of a multi-label task, each `[rows, labels]`.
#[derive(Debug, Clone)]
pub struct MultiLabel {
    truths: Vec<bool>,
    predicted: Vec<bool>,
    labels: usize,
}

impl MultiLabel {
    /// Takes row-major `[rows, labels]` truths and predictions.
    pub fn new(truths: Vec<bool>, predicted: Vec<bool>, labels: usize) -> Result<Self, EvalError> {
        if truths.is_empty() || labels == 0 {
            return Err(EvalError::Empty { what: "label" });
        }
        if !truths.len().is_multiple_of(labels) {
            return Err(EvalError::LengthMismatch {
                what: "a row of the truths",
                per: "classes",
                expected: labels,
                got: truths.len() % labels,
            });
        }
        same_length("predictions", truths.len() / labels, predicted.len() / labels)?;
        if predicted.len() != truths.len() {
            return Err(EvalError::LengthMismatch {
                what: "a row of the predictions",
                per: "classes",
                expected: labels,
                got: predicted.len() % labels,
            });
        }
        Ok(Self { truths, predicted, labels })
    }

    /// Predicts each label whose probability is at least its threshold (`[labels]`).
    pub fn from_probabilities(
        truths: Vec<bool>,
        probabilities: &Probabilities,
        thresholds: &[f64],
    ) -> Result<Self, EvalError> {
        let labels = probabilities.classes();
        if thresholds.len() != labels {
            return Err(EvalError::LengthMismatch {
                what: "thresholds",
                per: "classes",
                expected: labels,
                got: thresholds.len(),
            });
        }
        let predicted = (0..probabilities.rows())
            .flat_map(|row| probabilities.row(row).iter().zip(thresholds))
            .map(|(p, threshold)| p >= threshold)
            .collect();
        Self::new(truths, predicted, labels)
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.truths.len() / self.labels
    }

    /// Number of labels.
    pub fn labels(&self) -> usize {
        self.labels
    }

    /// The true labels of a row `[labels]`.
    pub fn truth(&self, row: usize) -> &[bool] {
        &self.truths[row * self.labels..(row + 1) * self.labels]
    }

    /// The predicted labels of a row `[labels]`.
    pub fn predicted(&self, row: usize) -> &[bool] {
        &self.predicted[row * self.labels..(row + 1) * self.labels]
    }

    /// The rows at these indices, in this order.
    pub fn select(&self, rows: &[usize]) -> Self {
        let pick = |of: fn(&Self, usize) -> &[bool]| rows.iter().flat_map(|&row| of(self, row)).copied().collect();
        Self { truths: pick(Self::truth), predicted: pick(Self::predicted), labels: self.labels }
    }

    fn all_rows(&self) -> impl Iterator<Item = (&[bool], &[bool])> {
        (0..self.rows()).map(|row| (self.truth(row), self.predicted(row)))
    }

    /// Precision, recall and F1 of each label `[labels]`.
    pub fn per_label(&self) -> Vec<ClassMetrics> {
        let mut counts = vec![(0, 0, 0); self.labels];
        for (truth, predicted) in self.all_rows() {
            for (count, (&t, &p)) in counts.iter_mut().zip(truth.iter().zip(predicted)) {
                count.0 += u64::from(t && p);
                count.1 += u64::from(t);
                count.2 += u64::from(p);
            }
        }
        counts
            .into_iter()
            .map(|(hits, support, predicted)| ClassMetrics::from_counts(hits, support, predicted))
            .collect()
    }

    /// Mean over all labels, also those that never occur (as scikit-learn does for multi-label).
    pub fn macro_average(&self) -> Average {
        let labels = self.per_label();
        Average::weighted(labels.iter().map(|label| (label, 1.0)))
    }

    /// Mean over labels weighted by their support.
    pub fn weighted_average(&self) -> Average {
        let labels = self.per_label();
        Average::weighted(labels.iter().map(|label| (label, label.support as f64)))
    }

    /// Precision, recall and F1 of all decisions taken together.
    pub fn micro_average(&self) -> Average {
        let all = ratio_of(self.truths.iter().zip(&self.predicted));
        Average::weighted(std::iter::once((&all, 1.0)))
    }

    /// Mean over rows of each row's precision, recall and F1.
    pub fn samples_average(&self) -> Average {
        let rows: Vec<_> = self.all_rows().map(|(truth, predicted)| ratio_of(truth.iter().zip(predicted))).collect();
        Average::weighted(rows.iter().map(|row| (row, 1.0)))
    }

    /// Share of rows whose labels are all predicted right.
    pub fn subset_accuracy(&self) -> f64 {
        let right = self.all_rows().filter(|(truth, p)| truth == p).count();
        right as f64 / self.rows() as f64
    }

    /// Share of single decisions that are wrong.
    pub fn hamming_loss(&self) -> f64 {
        let pairs = self.truths.iter().zip(&self.predicted);
        pairs.filter(|(t, p)| t != p).count() as f64 / self.truths.len() as f64
    }

    /// Average precision of each label by its probabilities; none for a label without a positive row.
    pub fn average_precision(&self, probabilities: &Probabilities) -> Result<Vec<Option<f64>>, EvalError> {
        self.per_ranking(probabilities, Ranking::average_precision)
    }

    /// Area under the ROC curve of each label; none for a label that is always or never there.
    pub fn roc_auc(&self, probabilities: &Probabilities) -> Result<Vec<Option<f64>>, EvalError> {
        self.per_ranking(probabilities, Ranking::roc_auc)
    }

    /// Average precision and area under the ROC curve of all decisions ranked together.
    pub fn micro_ranking(&self, probabilities: &Probabilities) -> Result<(Option<f64>, Option<f64>), EvalError> {
        same_length("probabilities", self.rows(), probabilities.rows())?;
        let scores: Vec<f64> = (0..self.rows()).flat_map(|row| probabilities.row(row)).copied().collect();
        let ranking = Ranking::new(&scores)?;
        Ok((ranking.average_precision(&self.truths)?, ranking.roc_auc(&self.truths)?))
    }

    fn per_ranking(
        &self,
        probabilities: &Probabilities,
        area: fn(&Ranking, &[bool]) -> Result<Option<f64>, EvalError>,
    ) -> Result<Vec<Option<f64>>, EvalError> {
        same_length("probabilities", self.rows(), probabilities.rows())?;
        (0..self.labels)
            .map(|label| {
                let truths: Vec<bool> = (0..self.rows()).map(|r| self.truth(r)[label]).collect();
                area(&Ranking::new(&probabilities.column(label))?, &truths)
            })
            .collect()
    }
}

fn ratio_of<'a>(pairs: impl Iterator<Item = (&'a bool, &'a bool)>) -> ClassMetrics {
    let (mut hits, mut support, mut predicted) = (0, 0, 0);
    for (&truth, &prediction) in pairs {
        hits += u64::from(truth && prediction);
        support += u64::from(truth);
        predicted += u64::from(prediction);
    }
    ClassMetrics::from_counts(hits, support, predicted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_threshold_is_inclusive() {
        let p = Probabilities::unnormalised(vec![0.5, 0.49], 2).unwrap();
        let result = MultiLabel::from_probabilities(vec![true, false], &p, &[0.5, 0.5]).unwrap();
        assert_eq!(result.predicted(0), [true, false]);
        assert_eq!(result.subset_accuracy(), 1.0);
    }

    #[test]
    fn ragged_inputs_are_refused() {
        assert!(MultiLabel::new(vec![true; 3], vec![true; 3], 2).is_err());
        assert!(MultiLabel::new(vec![true; 4], vec![true; 2], 2).is_err());
        assert!(MultiLabel::new(vec![true; 4], vec![true; 5], 2).is_err());
        assert!(MultiLabel::new(vec![], vec![], 2).is_err());
    }
}
