//! The confusion matrix of a single-label task and every metric that follows from its counts.

use crate::error::{EvalError, classes_in_range, same_length};
use serde::{Deserialize, Serialize};

/// Counts of rows by truth and prediction, `[truth][predicted]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Confusion {
    counts: Vec<u64>,
    classes: usize,
}

/// Precision, recall and F1 of one class, or their average over classes.
///
/// A quotient with nothing below the line is 0, as in scikit-learn, and named in `undefined`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ClassMetrics {
    /// Share of the rows predicted as this class that are of it.
    pub precision: f64,
    /// Share of the rows of this class that were predicted as it.
    pub recall: f64,
    /// Harmonic mean of precision and recall.
    pub f1: f64,
    /// Rows of this class.
    pub support: u64,
    /// Rows predicted as this class.
    pub predicted: u64,
    /// Area under the ROC curve of this class against the rest, where it is defined.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub roc_auc: Option<f64>,
    /// Average precision of this class against the rest, where it is defined.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub average_precision: Option<f64>,
    /// The metrics that are 0 because they divide by zero: "precision", "recall", "f1".
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub undefined: Vec<String>,
}

/// Precision, recall and F1 averaged over classes.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Average {
    /// Averaged precision.
    pub precision: f64,
    /// Averaged recall.
    pub recall: f64,
    /// Averaged F1.
    pub f1: f64,
}

/// How a disagreement by several ranks counts in Cohen's kappa.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KappaWeights {
    /// Each disagreement counts the same.
    None,
    /// By the distance of the classes.
    Linear,
    /// By the squared distance of the classes.
    Quadratic,
}

impl ClassMetrics {
    /// From the rows that are right, the rows of the class and the rows predicted as it.
    pub fn from_counts(hits: u64, support: u64, predicted: u64) -> Self {
        let mut undefined = Vec::new();
        let mut ratio = |above: u64, below: u64, name: &str| {
            if below == 0 {
                undefined.push(name.to_owned());
                0.0
            } else {
                above as f64 / below as f64
            }
        };
        Self {
            precision: ratio(hits, predicted, "precision"),
            recall: ratio(hits, support, "recall"),
            f1: ratio(2 * hits, support + predicted, "f1"),
            support,
            predicted,
            roc_auc: None,
            average_precision: None,
            undefined,
        }
    }
}

impl Average {
    /// The average of some classes, each with its weight; zeros if the weights sum to zero.
    pub fn weighted<'a>(classes: impl Iterator<Item = (&'a ClassMetrics, f64)>) -> Self {
        let mut sum = Self::default();
        let mut total = 0.0;
        for (class, weight) in classes {
            sum.precision += weight * class.precision;
            sum.recall += weight * class.recall;
            sum.f1 += weight * class.f1;
            total += weight;
        }
        if total == 0.0 {
            return Self::default();
        }
        Self {
            precision: sum.precision / total,
            recall: sum.recall / total,
            f1: sum.f1 / total,
        }
    }
}

impl Confusion {
    /// Counts truths `[rows]` against predictions `[rows]`, both class indices below `classes`.
    pub fn new(truths: &[usize], predicted: &[usize], classes: usize) -> Result<Self, EvalError> {
        if truths.is_empty() {
            return Err(EvalError::Empty { what: "label" });
        }
        same_length("predictions", truths.len(), predicted.len())?;
        classes_in_range("truths", truths, classes)?;
        classes_in_range("predictions", predicted, classes)?;
        let mut confusion = Self::empty(classes);
        for (&truth, &prediction) in truths.iter().zip(predicted) {
            confusion.add(truth, prediction);
        }
        Ok(confusion)
    }

    /// A matrix without a row yet.
    pub(crate) fn empty(classes: usize) -> Self {
        Self {
            counts: vec![0; classes * classes],
            classes,
        }
    }

    /// Counts one more row, whose indices the caller has checked.
    pub(crate) fn add(&mut self, truth: usize, predicted: usize) {
        self.counts[truth * self.classes + predicted] += 1;
    }

    /// Number of classes.
    pub fn classes(&self) -> usize {
        self.classes
    }

    /// Rows of class `truth` that were predicted as `predicted`.
    pub fn count(&self, truth: usize, predicted: usize) -> u64 {
        self.counts[truth * self.classes + predicted]
    }

    /// The counts, one vector of predictions per truth.
    pub fn to_rows(&self) -> Vec<Vec<u64>> {
        self.counts
            .chunks(self.classes)
            .map(<[u64]>::to_vec)
            .collect()
    }

    /// Rows in all.
    pub fn rows(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// Rows predicted right.
    pub fn correct(&self) -> u64 {
        (0..self.classes).map(|c| self.count(c, c)).sum()
    }

    /// Rows of each class `[classes]`.
    pub fn support(&self) -> Vec<u64> {
        self.counts
            .chunks(self.classes)
            .map(|row| row.iter().sum())
            .collect()
    }

    /// Rows predicted as each class `[classes]`.
    pub fn predicted(&self) -> Vec<u64> {
        let mut sums = vec![0; self.classes];
        for row in self.counts.chunks(self.classes) {
            for (sum, count) in sums.iter_mut().zip(row) {
                *sum += count;
            }
        }
        sums
    }

    /// Precision, recall and F1 of each class `[classes]`.
    pub fn per_class(&self) -> Vec<ClassMetrics> {
        let (support, predicted) = (self.support(), self.predicted());
        (0..self.classes)
            .map(|c| ClassMetrics::from_counts(self.count(c, c), support[c], predicted[c]))
            .collect()
    }

    /// Share of rows predicted right.
    pub fn accuracy(&self) -> f64 {
        self.correct() as f64 / self.rows() as f64
    }

    /// Mean recall of the classes that have rows.
    pub fn balanced_accuracy(&self) -> f64 {
        let classes = self.per_class();
        let present = classes.iter().filter(|c| c.support > 0);
        Average::weighted(present.map(|c| (c, 1.0))).recall
    }

    /// Unweighted mean over the classes that occur in truths or predictions, as scikit-learn takes them.
    pub fn macro_average(&self) -> Average {
        let classes = self.per_class();
        let seen = classes.iter().filter(|c| c.support + c.predicted > 0);
        Average::weighted(seen.map(|c| (c, 1.0)))
    }

    /// Mean over classes weighted by their support.
    pub fn weighted_average(&self) -> Average {
        let classes = self.per_class();
        Average::weighted(classes.iter().map(|c| (c, c.support as f64)))
    }

    /// Average over rows: for single-label tasks all three equal the accuracy.
    pub fn micro_average(&self) -> Average {
        let accuracy = self.accuracy();
        Average {
            precision: accuracy,
            recall: accuracy,
            f1: accuracy,
        }
    }

    /// Matthews correlation coefficient for any number of classes; 0 where truths or predictions are constant.
    pub fn matthews(&self) -> f64 {
        let rows = self.rows() as f64;
        let (support, predicted) = (self.support(), self.predicted());
        let product = |a: &[u64], b: &[u64]| -> f64 {
            a.iter().zip(b).map(|(&a, &b)| a as f64 * b as f64).sum()
        };
        let both = self.correct() as f64 * rows - product(&support, &predicted);
        let truths = rows * rows - product(&support, &support);
        let predictions = rows * rows - product(&predicted, &predicted);
        if truths * predictions == 0.0 {
            return 0.0;
        }
        both / (truths.sqrt() * predictions.sqrt())
    }

    /// Cohen's kappa; none where chance agreement is already complete (a single class throughout).
    pub fn kappa(&self, weights: KappaWeights) -> Option<f64> {
        let rows = self.rows() as f64;
        let (support, predicted) = (self.support(), self.predicted());
        let (mut observed, mut expected) = (0.0, 0.0);
        for (truth, &in_truth) in support.iter().enumerate() {
            for (prediction, &in_predicted) in predicted.iter().enumerate() {
                let distance = truth.abs_diff(prediction) as f64;
                let weight = match weights {
                    KappaWeights::None => f64::from(u8::from(truth != prediction)),
                    KappaWeights::Linear => distance,
                    KappaWeights::Quadratic => distance * distance,
                };
                observed += weight * self.count(truth, prediction) as f64;
                expected += weight * in_truth as f64 * in_predicted as f64 / rows;
            }
        }
        (expected > 0.0).then(|| 1.0 - observed / expected)
    }

    /// Mean distance in ranks between truth and prediction, for classes that are in order.
    pub fn mean_rank_error(&self) -> f64 {
        self.distances()
            .map(|(distance, count)| distance as f64 * count as f64)
            .sum::<f64>()
            / self.rows() as f64
    }

    /// Share of rows at most one rank off, for classes that are in order.
    pub fn within_one_rank(&self) -> f64 {
        let near: u64 = self
            .distances()
            .filter(|(distance, _)| *distance <= 1)
            .map(|(_, count)| count)
            .sum();
        near as f64 / self.rows() as f64
    }

    /// The largest confusions: (truth, predicted, rows), most rows first, equals by class index.
    pub fn most_confused(&self, limit: usize) -> Vec<(usize, usize, u64)> {
        let mut pairs: Vec<_> = (0..self.classes)
            .flat_map(|truth| (0..self.classes).map(move |predicted| (truth, predicted)))
            .filter(|(truth, predicted)| truth != predicted)
            .map(|(truth, predicted)| (truth, predicted, self.count(truth, predicted)))
            .filter(|(_, _, count)| *count > 0)
            .collect();
        pairs.sort_by_key(|&(truth, predicted, count)| (u64::MAX - count, truth, predicted));
        pairs.truncate(limit);
        pairs
    }

    fn distances(&self) -> impl Iterator<Item = (usize, u64)> + '_ {
        self.counts
            .iter()
            .enumerate()
            .map(|(at, &count)| ((at / self.classes).abs_diff(at % self.classes), count))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_index_out_of_range_names_its_row() {
        let error = Confusion::new(&[0, 1], &[0, 5], 3).unwrap_err();
        assert_eq!(
            error.to_string(),
            "predictions, row 1: class index 5 is out of range, there are 3 classes"
        );
    }

    #[test]
    fn empty_and_ragged_inputs_are_refused() {
        assert!(matches!(
            Confusion::new(&[], &[], 3),
            Err(EvalError::Empty { .. })
        ));
        assert!(matches!(
            Confusion::new(&[0, 1], &[0], 3),
            Err(EvalError::LengthMismatch {
                expected: 2,
                got: 1,
                ..
            })
        ));
    }

    #[test]
    fn a_class_never_predicted_says_that_its_precision_is_undefined() {
        let classes = Confusion::new(&[0, 1], &[0, 0], 3).unwrap().per_class();
        assert_eq!(classes[0].undefined, Vec::<String>::new());
        assert_eq!(classes[1].undefined, ["precision"]);
        assert_eq!(classes[2].undefined, ["precision", "recall", "f1"]);
    }

    #[test]
    fn a_single_class_throughout_has_no_kappa() {
        let confusion = Confusion::new(&[1, 1], &[1, 1], 2).unwrap();
        assert_eq!(confusion.kappa(KappaWeights::None), None);
        assert_eq!(confusion.matthews(), 0.0);
        assert_eq!(confusion.balanced_accuracy(), 1.0);
    }

    #[test]
    fn confusions_come_largest_first() {
        let confusion = Confusion::new(&[0, 0, 1, 2, 2, 2], &[1, 1, 0, 2, 1, 0], 3).unwrap();
        assert_eq!(
            confusion.most_confused(2),
            vec![(0, 1, 2), (1, 0, 1)],
            "the diagonal does not count"
        );
    }
}
