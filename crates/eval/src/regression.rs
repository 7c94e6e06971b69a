//! Metrics of predicted numbers.

use crate::error::{EvalError, all_finite, same_length};

/// Checked truths and predictions of a regression task, each `[rows]`.
#[derive(Debug, Clone, Copy)]
pub struct Regression<'a> {
    truths: &'a [f64],
    predicted: &'a [f64],
}

impl<'a> Regression<'a> {
    /// Takes truths and predictions row by row; both must be finite.
    pub fn new(truths: &'a [f64], predicted: &'a [f64]) -> Result<Self, EvalError> {
        if truths.is_empty() {
            return Err(EvalError::Empty { what: "target" });
        }
        same_length("predictions", truths.len(), predicted.len())?;
        all_finite("truths", truths, 1)?;
        all_finite("predictions", predicted, 1)?;
        Ok(Self { truths, predicted })
    }

    fn errors(&self) -> impl Iterator<Item = f64> + '_ {
        self.truths.iter().zip(self.predicted).map(|(t, p)| t - p)
    }

    /// Mean absolute error.
    pub fn mae(&self) -> f64 {
        mean(self.errors().map(f64::abs), self.truths.len())
    }

    /// Mean squared error.
    pub fn mse(&self) -> f64 {
        mean(self.errors().map(|e| e * e), self.truths.len())
    }

    /// Square root of the mean squared error, in the unit of the target.
    pub fn rmse(&self) -> f64 {
        self.mse().sqrt()
    }

    /// Median absolute error; of an even number of rows the mean of the middle two.
    pub fn median_absolute_error(&self) -> f64 {
        let mut errors: Vec<f64> = self.errors().map(f64::abs).collect();
        errors.sort_by(f64::total_cmp);
        let middle = errors.len() / 2;
        if errors.len() % 2 == 1 { errors[middle] } else { (errors[middle - 1] + errors[middle]) / 2.0 }
    }

    /// Largest absolute error.
    pub fn maximum_error(&self) -> f64 {
        self.errors().map(f64::abs).fold(0.0, f64::max)
    }

    /// Coefficient of determination R²; none for fewer than two rows.
    ///
    /// A constant target gives 1 if every prediction is exact and 0 otherwise, as in scikit-learn.
    pub fn r2(&self) -> Option<f64> {
        if self.truths.len() < 2 {
            return None;
        }
        let center = mean(self.truths.iter().copied(), self.truths.len());
        let residual: f64 = self.errors().map(|e| e * e).sum();
        let total: f64 = self.truths.iter().map(|t| (t - center).powi(2)).sum();
        if total == 0.0 {
            return Some(if residual == 0.0 { 1.0 } else { 0.0 });
        }
        Some(1.0 - residual / total)
    }

    /// Pearson correlation; none where truths or predictions are constant.
    pub fn pearson(&self) -> Option<f64> {
        correlation(self.truths, self.predicted)
    }

    /// Spearman rank correlation, equal values sharing their mean rank; none where either is constant.
    pub fn spearman(&self) -> Option<f64> {
        correlation(&ranks(self.truths), &ranks(self.predicted))
    }

    /// Kendall's tau-b rank correlation; none where either is constant.
    pub fn kendall(&self) -> Option<f64> {
        let rows = self.truths.len();
        // Adding zero turns -0 into 0, so that the two tie in every order.
        let positive_zero = |value: &f64| value + 0.0;
        let truths = self.truths.iter().map(positive_zero);
        let predicted = self.predicted.iter().map(positive_zero);
        let mut points: Vec<(f64, f64)> = truths.zip(predicted).collect();
        points.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.total_cmp(&b.1)));
        // Knight's method: what a merge sort by prediction swaps are the discordant pairs.
        let truth_ties = tied_pairs(points.iter().map(|point| point.0));
        let both_ties = tied_pairs(points.iter().copied());
        let mut sorted: Vec<f64> = points.iter().map(|point| point.1).collect();
        let discordant = swaps(&mut sorted);
        let predicted_ties = tied_pairs(sorted.iter().copied());
        let pairs = (rows as u64) * (rows as u64).saturating_sub(1) / 2;
        if pairs == truth_ties || pairs == predicted_ties {
            return None;
        }
        let untied = (pairs + both_ties) as f64 - truth_ties as f64 - predicted_ties as f64;
        let difference = untied - 2.0 * discordant as f64;
        let scale = ((pairs - truth_ties) as f64).sqrt() * ((pairs - predicted_ties) as f64).sqrt();
        Some((difference / scale).clamp(-1.0, 1.0))
    }
}

fn mean(values: impl Iterator<Item = f64>, count: usize) -> f64 {
    values.sum::<f64>() / count as f64
}

fn correlation(a: &[f64], b: &[f64]) -> Option<f64> {
    let constant = |values: &[f64]| values.iter().all(|value| *value == values[0]);
    if constant(a) || constant(b) {
        return None;
    }
    let (center_a, center_b) = (mean(a.iter().copied(), a.len()), mean(b.iter().copied(), b.len()));
    let (mut both, mut square_a, mut square_b) = (0.0, 0.0, 0.0);
    for (x, y) in a.iter().zip(b) {
        let (x, y) = (x - center_a, y - center_b);
        both += x * y;
        square_a += x * x;
        square_b += y * y;
    }
    let scale = square_a.sqrt() * square_b.sqrt();
    (scale > 0.0).then(|| (both / scale).clamp(-1.0, 1.0))
}

/// Ranks from 1, equal values sharing the mean of their ranks.
fn ranks(values: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|&a, &b| values[a].total_cmp(&values[b]));
    let mut ranks = vec![0.0; values.len()];
    let mut below = 0;
    for tie in order.chunk_by(|&a, &b| values[a] == values[b]) {
        let rank = below as f64 + (tie.len() as f64 + 1.0) / 2.0;
        below += tie.len();
        for &row in tie {
            ranks[row] = rank;
        }
    }
    ranks
}

/// Pairs of equal neighbours-in-order values.
fn tied_pairs<T: PartialEq>(values: impl Iterator<Item = T>) -> u64 {
    let values: Vec<T> = values.collect();
    values.chunk_by(PartialEq::eq).map(|tie| tie.len() as u64 * (tie.len() as u64 - 1) / 2).sum()
}

/// Sorts by merging and returns how many pairs stood in the wrong order.
fn swaps(values: &mut [f64]) -> u64 {
    let middle = values.len() / 2;
    if middle == 0 {
        return 0;
    }
    let mut count = swaps(&mut values[..middle]) + swaps(&mut values[middle..]);
    let mut merged = Vec::with_capacity(values.len());
    let (mut left, mut right) = (0, middle);
    while left < middle || right < values.len() {
        if right == values.len() || (left < middle && values[left] <= values[right]) {
            merged.push(values[left]);
            left += 1;
        } else {
            count += (middle - left) as u64;
            merged.push(values[right]);
            right += 1;
        }
    }
    values.copy_from_slice(&merged);
    count
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn nan_is_refused_and_located() {
        let error = Regression::new(&[1.0, 2.0], &[1.0, f64::NAN]).unwrap_err();
        assert_eq!(error.to_string(), "predictions, row 1, column 0: NaN is not a finite number");
    }

    #[test]
    fn one_row_has_errors_but_no_correlation() {
        let one = Regression::new(&[2.0], &[5.0]).unwrap();
        assert_eq!((one.mae(), one.rmse()), (3.0, 3.0));
        assert_eq!((one.r2(), one.pearson(), one.kendall()), (None, None, None));
    }

    /// Tau-b from its definition over all pairs.
    fn kendall_by_pairs(a: &[f64], b: &[f64]) -> Option<f64> {
        let (mut sum, mut left, mut right) = (0.0, 0.0, 0.0);
        for i in 0..a.len() {
            for j in 0..i {
                let sign = |x: f64, y: f64| f64::from(i8::from(x > y) - i8::from(x < y));
                let (x, y) = (sign(a[i], a[j]), sign(b[i], b[j]));
                sum += x * y;
                left += x * x;
                right += y * y;
            }
        }
        (left * right > 0.0).then(|| sum / f64::sqrt(left * right))
    }

    proptest! {
        #[test]
        fn kendall_is_its_definition(rows in prop::collection::vec((-4i8..4, -4i8..4), 1..40)) {
            let a: Vec<f64> = rows.iter().map(|r| f64::from(r.0)).collect();
            let b: Vec<f64> = rows.iter().map(|r| f64::from(r.1)).collect();
            let fast = Regression::new(&a, &b).unwrap().kendall();
            match (fast, kendall_by_pairs(&a, &b)) {
                (Some(fast), Some(slow)) => prop_assert!((fast - slow).abs() < 1e-12),
                (fast, slow) => prop_assert_eq!(fast, slow),
            }
        }
    }
}
