//! Precision, recall and F1 by class, and what is averaged or derived from their counts.

use serde::{Deserialize, Serialize};

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
        Self { precision: sum.precision / total, recall: sum.recall / total, f1: sum.f1 / total }
    }
}

/// Hits, support and predictions of each class `[classes]`: the margins of a confusion matrix.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tally {
    hits: Vec<u64>,
    support: Vec<u64>,
    predicted: Vec<u64>,
}

impl Tally {
    pub(crate) fn empty(classes: usize) -> Self {
        Self { hits: vec![0; classes], support: vec![0; classes], predicted: vec![0; classes] }
    }

    /// Counts `rows` more of class `truth` predicted as `predicted`, both checked by the caller.
    pub(crate) fn add(&mut self, truth: usize, predicted: usize, rows: u64) {
        self.support[truth] += rows;
        self.predicted[predicted] += rows;
        if truth == predicted {
            self.hits[truth] += rows;
        }
    }

    /// Rows of each class.
    pub fn support(&self) -> &[u64] {
        &self.support
    }

    /// Rows predicted as each class.
    pub fn predicted(&self) -> &[u64] {
        &self.predicted
    }

    /// Rows in all.
    pub fn rows(&self) -> u64 {
        self.support.iter().sum()
    }

    /// Rows predicted right.
    pub fn correct(&self) -> u64 {
        self.hits.iter().sum()
    }

    /// Precision, recall and F1 of each class.
    pub fn per_class(&self) -> Vec<ClassMetrics> {
        (0..self.hits.len())
            .map(|c| ClassMetrics::from_counts(self.hits[c], self.support[c], self.predicted[c]))
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
        Average { precision: accuracy, recall: accuracy, f1: accuracy }
    }

    /// Matthews correlation coefficient for any number of classes; 0 where truths or predictions are constant.
    pub fn matthews(&self) -> f64 {
        let rows = self.rows() as f64;
        let both = self.correct() as f64 * rows - product(&self.support, &self.predicted);
        let truths = rows * rows - product(&self.support, &self.support);
        let predictions = rows * rows - product(&self.predicted, &self.predicted);
        if truths * predictions == 0.0 {
            return 0.0;
        }
        both / (truths.sqrt() * predictions.sqrt())
    }

    /// Cohen's kappa without weights; none where chance agreement is complete (one class throughout).
    pub fn kappa(&self) -> Option<f64> {
        let rows = self.rows() as f64;
        let wrong = rows - self.correct() as f64;
        let expected = rows - product(&self.support, &self.predicted) / rows;
        (expected > 0.0).then(|| 1.0 - wrong / expected)
    }
}

fn product(a: &[u64], b: &[u64]) -> f64 {
    a.iter().zip(b).map(|(&a, &b)| a as f64 * b as f64).sum()
}

#[cfg(test)]
mod tests {
    use crate::Confusion;

    #[test]
    fn a_class_never_predicted_says_that_its_precision_is_undefined() {
        let tally = Confusion::new(&[0, 1], &[0, 0], 3).unwrap().tally();
        let classes = tally.per_class();
        assert_eq!(classes[0].undefined, Vec::<String>::new());
        assert_eq!(classes[1].undefined, ["precision"]);
        assert_eq!(classes[2].undefined, ["precision", "recall", "f1"]);
    }

    #[test]
    fn a_single_class_throughout_correlates_with_nothing() {
        let tally = Confusion::new(&[1, 1], &[1, 1], 2).unwrap().tally();
        assert_eq!(tally.matthews(), 0.0);
        assert_eq!(tally.balanced_accuracy(), 1.0);
    }
}
