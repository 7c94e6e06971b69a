//! Metrics of how well scores rank: ROC and precision-recall curves and the areas under them.

use crate::error::{EvalError, all_finite, same_length};

/// Scores sorted once, so that areas under many labellings and resamplings of the rows are cheap.
#[derive(Debug, Clone)]
pub struct Ranking {
    /// Rows from the highest score to the lowest.
    order: Vec<usize>,
    /// Whether the score after this place is lower, so that a threshold fits between.
    ends_tie: Vec<bool>,
}

/// A curve as points `(x, y)`: (false positive rate, true positive rate) or (recall, precision).
pub type Curve = Vec<(f64, f64)>;

impl Ranking {
    /// Sorts the scores `[rows]`; equal ones share a threshold.
    pub fn new(scores: &[f64]) -> Result<Self, EvalError> {
        all_finite("scores", scores, 1)?;
        let mut order: Vec<usize> = (0..scores.len()).collect();
        order.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]));
        let ends_tie =
            (0..order.len()).map(|at| at + 1 == order.len() || scores[order[at]] != scores[order[at + 1]]).collect();
        Ok(Self { order, ends_tie })
    }

    /// Area under the ROC curve; none unless there are both positive and negative rows.
    pub fn roc_auc(&self, positive: &[bool]) -> Result<Option<f64>, EvalError> {
        same_length("truths", self.order.len(), positive.len())?;
        Ok(self.roc_auc_weighted(|row| positive[row], |_| 1))
    }

    /// Average precision, `sum over thresholds of (recall gained) * precision`; none without positive rows.
    pub fn average_precision(&self, positive: &[bool]) -> Result<Option<f64>, EvalError> {
        same_length("truths", self.order.len(), positive.len())?;
        Ok(self.average_precision_weighted(|row| positive[row], |_| 1))
    }

    /// ROC curve from (0, 0) to (1, 1), one point per distinct score; empty where undefined.
    pub fn roc_curve(&self, positive: &[bool]) -> Result<Curve, EvalError> {
        same_length("truths", self.order.len(), positive.len())?;
        let steps = self.steps(|row| positive[row], |_| 1);
        let Some(&(positives, negatives)) = steps.last() else {
            return Ok(Vec::new());
        };
        if positives == 0 || negatives == 0 {
            return Ok(Vec::new());
        }
        let rate = |&(p, n): &(u64, u64)| (n as f64 / negatives as f64, p as f64 / positives as f64);
        Ok(std::iter::once((0.0, 0.0)).chain(steps.iter().map(rate)).collect())
    }

    /// Precision over recall from recall 0 (precision 1) upwards; empty without positive rows.
    pub fn precision_recall_curve(&self, positive: &[bool]) -> Result<Curve, EvalError> {
        same_length("truths", self.order.len(), positive.len())?;
        let steps = self.steps(|row| positive[row], |_| 1);
        let positives = steps.last().map_or(0, |step| step.0);
        if positives == 0 {
            return Ok(Vec::new());
        }
        let point = |&(p, n): &(u64, u64)| (p as f64 / positives as f64, p as f64 / (p + n) as f64);
        Ok(std::iter::once((0.0, 1.0)).chain(steps.iter().map(point)).collect())
    }

    /// [`Ranking::roc_auc`] where each row counts `weight(row)` times, as in a resample.
    pub(crate) fn roc_auc_weighted(
        &self,
        positive: impl Fn(usize) -> bool,
        weight: impl Fn(usize) -> u32,
    ) -> Option<f64> {
        let (mut seen, mut area, mut tie) = ((0u64, 0u64), 0.0, (0u64, 0u64));
        for (at, &row) in self.order.iter().enumerate() {
            let count = u64::from(weight(row));
            if positive(row) {
                tie.0 += count;
            } else {
                tie.1 += count;
            }
            if self.ends_tie[at] {
                // Each negative of the tie has the positives above it beaten it, and half its equals.
                area += tie.1 as f64 * (seen.0 as f64 + tie.0 as f64 / 2.0);
                seen = (seen.0 + tie.0, seen.1 + tie.1);
                tie = (0, 0);
            }
        }
        let pairs = seen.0 as f64 * seen.1 as f64;
        (pairs > 0.0).then(|| area / pairs)
    }

    /// [`Ranking::average_precision`] where each row counts `weight(row)` times.
    pub(crate) fn average_precision_weighted(
        &self,
        positive: impl Fn(usize) -> bool,
        weight: impl Fn(usize) -> u32,
    ) -> Option<f64> {
        let (mut sum, mut before) = (0.0, 0u64);
        let (mut positives, mut total) = (0u64, 0u64);
        for (at, &row) in self.order.iter().enumerate() {
            let count = u64::from(weight(row));
            total += count;
            positives += if positive(row) { count } else { 0 };
            if self.ends_tie[at] && positives > before {
                sum += (positives - before) as f64 * positives as f64 / total as f64;
                before = positives;
            }
        }
        (positives > 0).then(|| sum / positives as f64)
    }

    /// Positives and negatives at or above each distinct score, highest score first.
    fn steps(&self, positive: impl Fn(usize) -> bool, weight: impl Fn(usize) -> u64) -> Vec<(u64, u64)> {
        let mut seen = (0, 0);
        let mut steps = Vec::new();
        for (at, &row) in self.order.iter().enumerate() {
            if positive(row) {
                seen.0 += weight(row);
            } else {
                seen.1 += weight(row);
            }
            if self.ends_tie[at] {
                steps.push(seen);
            }
        }
        steps
    }
}

/// Keeps at most `limit` points of a curve: the ends and those evenly spaced between.
pub fn thin(curve: &[(f64, f64)], limit: usize) -> Curve {
    if curve.len() <= limit || limit < 2 {
        return curve.to_vec();
    }
    (0..limit).map(|i| curve[i * (curve.len() - 1) / (limit - 1)]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_scores_equal_is_chance() {
        let ranking = Ranking::new(&[0.5; 4]).unwrap();
        let truths = [true, false, true, false];
        assert_eq!(ranking.roc_auc(&truths).unwrap(), Some(0.5));
        assert_eq!(ranking.average_precision(&truths).unwrap(), Some(0.5));
        assert_eq!(ranking.roc_curve(&truths).unwrap(), [(0.0, 0.0), (1.0, 1.0)]);
    }

    #[test]
    fn a_single_class_has_no_area() {
        let ranking = Ranking::new(&[0.1, 0.9]).unwrap();
        assert_eq!(ranking.roc_auc(&[true, true]).unwrap(), None);
        assert_eq!(ranking.average_precision(&[false, false]).unwrap(), None);
        assert!(ranking.roc_curve(&[true, true]).unwrap().is_empty());
        assert_eq!(Ranking::new(&[]).unwrap().roc_auc(&[]).unwrap(), None);
    }

    #[test]
    fn weights_are_repeated_rows() {
        let scores = [0.9, 0.4, 0.4, 0.3, 0.1];
        let truths = [true, false, true, true, false];
        let weights = [2, 0, 1, 3, 2];
        let repeat = |values: &[f64]| -> Vec<f64> {
            (0..5).flat_map(|i| std::iter::repeat_n(values[i], weights[i] as usize)).collect()
        };
        let labels: Vec<bool> = (0..5).flat_map(|i| std::iter::repeat_n(truths[i], weights[i] as usize)).collect();
        let repeated = Ranking::new(&repeat(&scores)).unwrap();
        let ranking = Ranking::new(&scores).unwrap();
        let area = ranking.roc_auc_weighted(|row| truths[row], |row| weights[row]);
        assert_eq!(repeated.roc_auc(&labels).unwrap(), area);
        let precision = ranking.average_precision_weighted(|row| truths[row], |row| weights[row]);
        assert_eq!(repeated.average_precision(&labels).unwrap(), precision);
    }

    #[test]
    fn nan_scores_are_refused() {
        assert!(matches!(Ranking::new(&[0.1, f64::NAN]), Err(EvalError::NotFinite { row: 1, .. })));
    }

    #[test]
    fn thinning_keeps_the_ends() {
        let curve: Curve = (0..1000).map(|i| (f64::from(i), 0.0)).collect();
        let thinned = thin(&curve, 50);
        assert_eq!(thinned.len(), 50);
        assert_eq!((thinned[0].0, thinned[49].0), (0.0, 999.0));
    }
}
