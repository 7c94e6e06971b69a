//! Before against after: two models on the same rows.

use super::{Evaluation, Judged, Options, Task, units};
use crate::bootstrap::Interval;
use crate::error::EvalError;
use crate::significance::{McNemar, bootstrap_p_value};
use indexmap::IndexMap;
use serde::{Deserialize, Serialize};

/// Of a regression task, how many rows are listed whose error changed most.
const REGRESSION_ROWS: usize = 50;

/// Two evaluations of the same rows, what differs between them, and the rows whose answer changed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Comparison {
    /// The first model, such as the one before fine-tuning.
    pub before: Evaluation,
    /// The second model.
    pub after: Evaluation,
    /// By metric, after minus before.
    pub differences: IndexMap<String, Difference>,
    /// Whether one is right more often than the other; none for regression.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mcnemar: Option<McNemar>,
    /// Rows whose answer changed, in order; of regression those whose error changed most, most first.
    pub changed: Vec<ChangedRow>,
}

/// After minus before of one metric.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Difference {
    /// After minus before.
    pub difference: f64,
    /// Interval of the difference by the paired bootstrap.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interval: Option<Interval>,
    /// Two-sided p-value by the paired bootstrap.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub p_value: Option<f64>,
}

/// A row whose answer changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChangedRow {
    /// Row of the table, counted from 0.
    pub row: usize,
    /// The true answer.
    pub truth: String,
    /// The answer of the first model.
    pub before: String,
    /// The answer of the second model.
    pub after: String,
    /// Whether that is better.
    pub change: Change,
}

/// What a changed answer means.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Change {
    /// The answer is nearer to the truth.
    Better,
    /// The answer is farther from the truth.
    Worse,
    /// Another answer, as wrong as the first.
    Same,
}

impl Comparison {
    /// Measures both; fails unless they are the same task on the same rows with the same truths.
    pub fn new(before: &dyn Judged, after: &dyn Judged, options: &Options<'_>) -> Result<Self, EvalError> {
        check(before, after)?;
        let rows = before.rows();
        let evaluations = (Evaluation::new(before, options)?, Evaluation::new(after, options)?);
        Ok(Self {
            differences: differences(before, after, options)?,
            mcnemar: match before.task() {
                Task::Regression => None,
                _ => {
                    let right = |of: &dyn Judged| -> Vec<bool> { (0..rows).map(|row| of.error(row) == 0.0).collect() };
                    Some(McNemar::new(&right(before), &right(after))?)
                }
            },
            changed: changed(before, after),
            before: evaluations.0,
            after: evaluations.1,
        })
    }
}

fn check(before: &dyn Judged, after: &dyn Judged) -> Result<(), EvalError> {
    let differ = |reason: String| Err(EvalError::NotComparable { reason });
    if before.task() != after.task() {
        return differ(format!("the first model's task is {:?}, the second's {:?}", before.task(), after.task()));
    }
    if before.rows() != after.rows() {
        return differ(format!(
            "the first model was evaluated on {} rows, the second on {}",
            before.rows(),
            after.rows()
        ));
    }
    for row in 0..before.rows() {
        let (a, b) = (before.truth(row), after.truth(row));
        if a != b {
            return differ(format!("row {row} is {a:?} for the first model, {b:?} for the second"));
        }
    }
    Ok(())
}

fn differences(
    before: &dyn Judged,
    after: &dyn Judged,
    options: &Options<'_>,
) -> Result<IndexMap<String, Difference>, EvalError> {
    let rows = before.rows();
    // Metrics that only one of the two has (a model without probabilities) are left out.
    let places: Vec<(usize, usize, String)> = before
        .metrics()
        .into_iter()
        .enumerate()
        .filter_map(|(at, name)| {
            let other = after.metrics().iter().position(|n| *n == name)?;
            Some((at, other, name))
        })
        .collect();
    let measure = |counts: &[u32], resampled: bool| -> Vec<Option<f64>> {
        let (a, b) = (before.measure(counts, resampled), after.measure(counts, resampled));
        let pairs = places.iter().map(|&(i, j, _)| (a[i], b[j]));
        pairs.map(|(a, b)| Some(b? - a?)).collect()
    };
    let values = measure(&vec![1; rows], false);
    let drawn = match options.bootstrap {
        None => vec![Vec::new(); places.len()],
        Some(bootstrap) => {
            let all: Vec<usize> = (0..rows).collect();
            bootstrap.distributions(&units(&all, rows, options)?, |c| measure(c, true))?
        }
    };
    let of_each = places.into_iter().zip(values).zip(drawn);
    Ok(of_each
        .filter_map(|(((_, _, name), difference), drawn)| {
            let difference = Difference {
                difference: difference?,
                p_value: bootstrap_p_value(&drawn),
                interval: options.bootstrap.and_then(|b| b.interval(drawn)),
            };
            Some((name, difference))
        })
        .collect())
}

fn changed(before: &dyn Judged, after: &dyn Judged) -> Vec<ChangedRow> {
    let mut rows: Vec<usize> = (0..before.rows()).filter(|&row| before.answer(row) != after.answer(row)).collect();
    if before.task() == Task::Regression {
        let change = |row: usize| (after.error(row) - before.error(row)).abs();
        rows.sort_by(|&a, &b| change(b).total_cmp(&change(a)));
        rows.truncate(REGRESSION_ROWS);
    }
    rows.into_iter()
        .map(|row| ChangedRow {
            row,
            truth: before.truth(row),
            before: before.answer(row),
            after: after.answer(row),
            change: match after.error(row).total_cmp(&before.error(row)) {
                std::cmp::Ordering::Less => Change::Better,
                std::cmp::Ordering::Greater => Change::Worse,
                std::cmp::Ordering::Equal => Change::Same,
            },
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bootstrap::Bootstrap;
    use crate::evaluation::{Classification, Regressed};

    fn model(predicted: &[usize]) -> Classification {
        let classes = ["a", "b", "c"].map(str::to_owned);
        Classification::from_labels(&classes, &[0, 0, 1, 1, 2, 2], predicted).unwrap()
    }

    fn options() -> Options<'static> {
        Options { bootstrap: Some(Bootstrap::default()), ..Options::default() }
    }

    #[test]
    fn changed_rows_say_what_the_change_means() {
        let comparison = Comparison::new(&model(&[0, 1, 1, 0, 2, 0]), &model(&[0, 0, 1, 2, 1, 0]), &options());
        let comparison = comparison.unwrap();
        let changes: Vec<_> = comparison.changed.iter().map(|row| (row.row, row.change)).collect();
        let expected = [(1, Change::Better), (3, Change::Same), (4, Change::Worse)];
        assert_eq!(changes, expected);
        assert_eq!(comparison.changed[0].before, "b");
        let test = comparison.mcnemar.unwrap();
        assert_eq!((test.only_before, test.only_after), (1, 1));
        assert_eq!(comparison.differences["accuracy"].difference, 0.0);
        let text = serde_json::to_string(&comparison).unwrap();
        assert_eq!(serde_json::from_str::<Comparison>(&text).unwrap(), comparison);
    }

    #[test]
    fn a_paired_difference_is_tighter_than_two_intervals() {
        // The second model mends 20 of 100 rows and breaks none.
        let classes = ["a", "b"].map(str::to_owned);
        let truths: Vec<usize> = vec![0; 100];
        let with = |wrong: usize| {
            let predicted: Vec<usize> = (0..100).map(|row| usize::from(row < wrong)).collect();
            Classification::from_labels(&classes, &truths, &predicted).unwrap()
        };
        let comparison = Comparison::new(&with(40), &with(20), &options()).unwrap();
        let difference = comparison.differences["accuracy"];
        let interval = difference.interval.unwrap();
        assert!((difference.difference - 0.2).abs() < 1e-12);
        assert!(interval.low > 0.1 && interval.high < 0.3, "{interval:?}");
        assert!(difference.p_value.unwrap() < 0.01);
        assert!(comparison.mcnemar.unwrap().p_value < 1e-5);
    }

    #[test]
    fn different_rows_are_not_compared() {
        let other = Classification::from_labels(&["a", "b"].map(str::to_owned), &[0], &[1]);
        let error = Comparison::new(&model(&[0; 6]), &other.unwrap(), &options()).unwrap_err();
        assert!(error.to_string().contains("6 rows, the second on 1"));
        let numbers = Regressed::new(&[0.0; 6], &[0.0; 6]).unwrap();
        assert!(Comparison::new(&model(&[0; 6]), &numbers, &options()).is_err());
    }

    #[test]
    fn of_numbers_the_largest_changes_come_first() {
        let before = Regressed::new(&[1.0, 2.0, 3.0], &[1.0, 2.5, 9.0]).unwrap();
        let after = Regressed::new(&[1.0, 2.0, 3.0], &[1.1, 2.5, 3.0]).unwrap();
        let comparison = Comparison::new(&before, &after, &options()).unwrap();
        let rows: Vec<_> = comparison.changed.iter().map(|r| (r.row, r.change)).collect();
        assert_eq!(rows, [(2, Change::Better), (0, Change::Worse)]);
        assert_eq!(comparison.mcnemar, None);
    }
}
