//! The confusion matrix of a single-label task and every metric that follows from its counts.

use crate::averages::Tally;
use crate::error::{EvalError, classes_in_range, same_length};

/// Counts of rows by truth and prediction, `[truth][predicted]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Confusion {
    counts: Vec<u64>,
    classes: usize,
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

impl Confusion {
    /// Counts truths `[rows]` against predictions `[rows]`, both class indices below `classes`.
    pub fn new(truths: &[usize], predicted: &[usize], classes: usize) -> Result<Self, EvalError> {
        if truths.is_empty() {
            return Err(EvalError::Empty { what: "label" });
        }
        same_length("predictions", truths.len(), predicted.len())?;
        classes_in_range("truths", truths, classes)?;
        classes_in_range("predictions", predicted, classes)?;
        let mut counts = vec![0; classes * classes];
        for (&truth, &prediction) in truths.iter().zip(predicted) {
            counts[truth * classes + prediction] += 1;
        }
        Ok(Self { counts, classes })
    }

    /// Takes counts `[truth][predicted]`, as many rows as columns.
    pub fn from_rows(rows: &[Vec<u64>]) -> Result<Self, EvalError> {
        for row in rows {
            if row.len() != rows.len() {
                return Err(EvalError::LengthMismatch {
                    what: "a row of the confusion matrix",
                    per: "classes",
                    expected: rows.len(),
                    got: row.len(),
                });
            }
        }
        Ok(Self { counts: rows.concat(), classes: rows.len() })
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
        self.counts.chunks(self.classes).map(<[u64]>::to_vec).collect()
    }

    /// Hits, support and predictions of each class: all that the averages need.
    pub fn tally(&self) -> Tally {
        let mut tally = Tally::empty(self.classes);
        for truth in 0..self.classes {
            for predicted in 0..self.classes {
                tally.add(truth, predicted, self.count(truth, predicted));
            }
        }
        tally
    }

    /// Cohen's kappa; none where chance agreement is already complete (a single class throughout).
    pub fn kappa(&self, weights: KappaWeights) -> Option<f64> {
        let tally = self.tally();
        let rows = tally.rows() as f64;
        let (mut observed, mut expected) = (0.0, 0.0);
        for (truth, &in_truth) in tally.support().iter().enumerate() {
            for (prediction, &in_predicted) in tally.predicted().iter().enumerate() {
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
        self.distances().map(|(distance, count)| distance as f64 * count as f64).sum::<f64>()
            / self.tally().rows() as f64
    }

    /// Share of rows at most one rank off, for classes that are in order.
    pub fn within_one_rank(&self) -> f64 {
        let near: u64 = self.distances().filter(|(distance, _)| *distance <= 1).map(|(_, count)| count).sum();
        near as f64 / self.tally().rows() as f64
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
        self.counts.iter().enumerate().map(|(at, &count)| ((at / self.classes).abs_diff(at % self.classes), count))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_index_out_of_range_names_its_row() {
        let error = Confusion::new(&[0, 1], &[0, 5], 3).unwrap_err();
        assert_eq!(error.to_string(), "predictions, row 1: class index 5 is out of range, there are 3 classes");
    }

    #[test]
    fn empty_and_ragged_inputs_are_refused() {
        assert!(matches!(Confusion::new(&[], &[], 3), Err(EvalError::Empty { .. })));
        assert!(matches!(Confusion::new(&[0, 1], &[0], 3), Err(EvalError::LengthMismatch { expected: 2, got: 1, .. })));
    }

    #[test]
    fn a_single_class_throughout_has_no_kappa() {
        let confusion = Confusion::new(&[1, 1], &[1, 1], 2).unwrap();
        assert_eq!(confusion.kappa(KappaWeights::Quadratic), None);
        assert_eq!(confusion.tally().kappa(), None);
    }

    #[test]
    fn confusions_come_largest_first() {
        let confusion = Confusion::new(&[0, 0, 1, 2, 2, 2], &[1, 1, 0, 2, 1, 0], 3).unwrap();
        assert_eq!(confusion.most_confused(2), vec![(0, 1, 2), (1, 0, 1)], "the diagonal does not count");
    }
}
