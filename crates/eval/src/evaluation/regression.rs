//! Tasks whose answer is a number.

use super::{Evaluation, Judged, Task};
use crate::error::EvalError;
use crate::regression::Regression;

/// Truths and predictions of a regression task.
#[derive(Debug, Clone)]
pub struct Regressed {
    truths: Vec<f64>,
    predicted: Vec<f64>,
}

impl Regressed {
    /// From true and predicted numbers `[rows]`, all finite.
    pub fn new(truths: &[f64], predicted: &[f64]) -> Result<Self, EvalError> {
        Regression::new(truths, predicted)?;
        Ok(Self { truths: truths.to_vec(), predicted: predicted.to_vec() })
    }
}

/// A number for people: six significant digits.
fn short(value: f64) -> String {
    let magnitude = value.abs();
    if magnitude != 0.0 && !(1e-4..1e9).contains(&magnitude) {
        return format!("{value:.5e}");
    }
    let decimals = (5 - magnitude.max(1.0).log10().floor() as i32).max(0) as usize;
    let text = format!("{value:.decimals$}");
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text }
}

impl Judged for Regressed {
    fn task(&self) -> Task {
        Task::Regression
    }

    fn rows(&self) -> usize {
        self.truths.len()
    }

    fn metrics(&self) -> Vec<String> {
        ["mae", "rmse", "mse", "median_ae", "max_error", "r2", "pearson", "spearman", "kendall"]
            .map(str::to_owned)
            .to_vec()
    }

    fn measure(&self, counts: &[u32], resampled: bool) -> Vec<Option<f64>> {
        let repeat = |values: &[f64]| -> Vec<f64> {
            let pairs = values.iter().zip(counts);
            pairs.flat_map(|(&value, &count)| std::iter::repeat_n(value, count as usize)).collect()
        };
        let (truths, predicted) = (repeat(&self.truths), repeat(&self.predicted));
        let Ok(rows) = Regression::new(&truths, &predicted) else {
            return vec![None; 9];
        };
        vec![
            Some(rows.mae()),
            Some(rows.rmse()),
            Some(rows.mse()),
            Some(rows.median_absolute_error()),
            // A resample never holds a larger error than the rows themselves: no interval.
            (!resampled).then(|| rows.maximum_error()),
            rows.r2(),
            rows.pearson(),
            rows.spearman(),
            rows.kendall(),
        ]
    }

    fn truth(&self, row: usize) -> String {
        short(self.truths[row])
    }

    fn answer(&self, row: usize) -> String {
        short(self.predicted[row])
    }

    fn error(&self, row: usize) -> f64 {
        (self.truths[row] - self.predicted[row]).abs()
    }

    fn describe(&self, _evaluation: &mut Evaluation) {}
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bootstrap::Bootstrap;
    use crate::evaluation::Options;

    #[test]
    fn metrics_come_with_intervals_around_them() {
        let truths: Vec<f64> = (0..50).map(f64::from).collect();
        let predicted: Vec<f64> = truths.iter().map(|t| t + (t * 7.0) % 5.0 - 2.0).collect();
        let judged = Regressed::new(&truths, &predicted).unwrap();
        let options = Options { bootstrap: Some(Bootstrap::default()), ..Options::default() };
        let evaluation = Evaluation::new(&judged, &options).unwrap();
        for name in ["mae", "rmse", "r2", "pearson", "spearman"] {
            let (value, interval) = (evaluation.metric(name).unwrap(), evaluation.intervals[name]);
            assert!(interval.low < value && value < interval.high, "{name}");
        }
        assert!(!evaluation.intervals.contains_key("max_error"));
        let json = serde_json::to_value(&evaluation).unwrap();
        assert_eq!(json["task"], "regression");
        assert!(json["mae"].is_number() && json["intervals"]["r2"][1].is_number());
        assert!(json.get("per_class").is_none() && json.get("confusion").is_none());
    }

    #[test]
    fn numbers_are_short_for_people() {
        assert_eq!(short(0.1 + 0.2), "0.3");
        assert_eq!(short(-1234.5678), "-1234.57");
        assert_eq!(short(1e12), "1.00000e12");
        assert_eq!(short(0.0), "0");
        assert_eq!(short(100.0), "100");
    }
}
