//! What a model is worth on a table, as one value that turns into JSON and back.
//!
//! A task's truths and predictions are a [`Judged`]: [`Classification`], [`MultiLabelled`] or
//! [`Regressed`]. [`Evaluation::new`] measures one, with intervals and by subset of modalities;
//! [`Comparison::new`] measures two on the same rows and says which rows changed.

mod classification;
mod comparison;
mod multilabel;
mod regression;

pub use classification::{Classification, Curves};
pub use comparison::{Change, ChangedRow, Comparison, Difference};
pub use multilabel::MultiLabelled;
pub use regression::Regressed;

use crate::averages::ClassMetrics;
use crate::bootstrap::{Bootstrap, Interval, Units};
use crate::error::{EvalError, same_length};
use crate::probabilities::Calibration;
use crate::significance::wilson;
use indexmap::IndexMap;
use serde::{Deserialize, Serialize};

/// What kind of answer a model gives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Task {
    /// One of several classes.
    Classification,
    /// One of several classes that are in order.
    Ordinal,
    /// Any number of labels.
    MultiLabel,
    /// A number.
    Regression,
}

/// Metrics by name, in the order they are reported; undefined ones are null.
pub type Metrics = IndexMap<String, Option<f64>>;

/// Truths and predictions of one task, checked and ready to be measured.
pub trait Judged: Sync {
    /// The task.
    fn task(&self) -> Task;
    /// Number of rows.
    fn rows(&self) -> usize;
    /// Names of the metrics that [`Judged::measure`] returns, in its order.
    fn metrics(&self) -> Vec<String>;
    /// The metrics where row r counts `counts[r]` times.
    ///
    /// With `resampled` it is one of many bootstrap resamples, and a metric that is too costly
    /// then, or whose bootstrap is biased, is left undefined: it gets no interval.
    fn measure(&self, counts: &[u32], resampled: bool) -> Vec<Option<f64>>;
    /// The true answer of a row, for people.
    fn truth(&self, row: usize) -> String;
    /// The predicted answer of a row, for people.
    fn answer(&self, row: usize) -> String;
    /// How wrong the answer of a row is; 0 is right.
    fn error(&self, row: usize) -> f64;
    /// Adds what goes beyond plain metrics: classes, confusion, calibration.
    fn describe(&self, evaluation: &mut Evaluation);
}

/// How to evaluate, beside the predictions.
#[derive(Debug, Clone, Copy, Default)]
pub struct Options<'a> {
    /// Draw intervals like this; none draws no intervals.
    pub bootstrap: Option<Bootstrap>,
    /// Group number of each row `[rows]`, where rows of a group are alike: intervals are then
    /// drawn by group.
    pub groups: Option<&'a [usize]>,
    /// The modalities each row has `[rows]`, such as "text+image": adds metrics of each subset.
    pub modalities: Option<&'a [String]>,
}

/// The metrics of a model on a table; as JSON one flat object.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Evaluation {
    /// The kind of task.
    pub task: Task,
    /// Rows evaluated.
    pub rows: usize,
    /// Of these, rows that had none of the model's inputs and were answered without it.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub without_input: usize,
    /// Accuracy, macro F1, mean absolute error and so on, each a field of its own in JSON.
    #[serde(flatten)]
    pub metrics: Metrics,
    /// Intervals of the metrics, `[low, high]`.
    #[serde(default, skip_serializing_if = "IndexMap::is_empty")]
    pub intervals: IndexMap<String, Interval>,
    /// How the intervals were drawn.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bootstrap: Option<Bootstrap>,
    /// Precision, recall, F1 and support of each class, by name, in the model's order.
    #[serde(default, skip_serializing_if = "IndexMap::is_empty")]
    pub per_class: IndexMap<String, ClassMetrics>,
    /// Counts `[truth][predicted]`, classes in the order of `per_class`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub confusion: Vec<Vec<u64>>,
    /// Metrics of the rows that have exactly these modalities, or of the model with some taken away.
    #[serde(default, skip_serializing_if = "IndexMap::is_empty")]
    pub subsets: IndexMap<String, Subset>,
    /// How well confidence matches correctness.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub calibration: Option<Calibration>,
    /// Mean weight that gated fusion gave each modality.
    #[serde(default, skip_serializing_if = "IndexMap::is_empty")]
    pub gates: IndexMap<String, f64>,
}

/// The metrics of a part of the rows.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Subset {
    /// Rows of the part.
    pub rows: usize,
    /// The same metrics as of the whole.
    #[serde(flatten)]
    pub metrics: Metrics,
    /// Intervals of the metrics, `[low, high]`.
    #[serde(default, skip_serializing_if = "IndexMap::is_empty")]
    pub intervals: IndexMap<String, Interval>,
}

impl Evaluation {
    /// Measures predictions.
    pub fn new(judged: &dyn Judged, options: &Options<'_>) -> Result<Self, EvalError> {
        let rows = judged.rows();
        let all: Vec<usize> = (0..rows).collect();
        let whole = measure(judged, &all, options)?;
        let mut evaluation = Self {
            task: judged.task(),
            rows,
            without_input: 0,
            metrics: whole.metrics,
            intervals: whole.intervals,
            bootstrap: options.bootstrap,
            per_class: IndexMap::new(),
            confusion: Vec::new(),
            subsets: IndexMap::new(),
            calibration: None,
            gates: IndexMap::new(),
        };
        judged.describe(&mut evaluation);
        if let Some(modalities) = options.modalities {
            same_length("modalities", rows, modalities.len())?;
            for (name, part) in by_name(modalities) {
                evaluation.subsets.insert(name, measure(judged, &part, options)?);
            }
        }
        Ok(evaluation)
    }

    /// The value of a metric, if it is there and defined.
    pub fn metric(&self, name: &str) -> Option<f64> {
        self.metrics.get(name).copied().flatten()
    }

    /// This evaluation as a subset of another, such as the same rows with a modality taken away.
    pub fn as_subset(&self) -> Subset {
        Subset { rows: self.rows, metrics: self.metrics.clone(), intervals: self.intervals.clone() }
    }
}

/// Rows by name, the name with most rows first, equals by name.
fn is_zero(count: &usize) -> bool {
    *count == 0
}

fn by_name(names: &[String]) -> IndexMap<String, Vec<usize>> {
    let mut parts: IndexMap<String, Vec<usize>> = IndexMap::new();
    for (row, name) in names.iter().enumerate() {
        parts.entry(name.clone()).or_default().push(row);
    }
    parts.sort_by(|a, x, b, y| y.len().cmp(&x.len()).then(a.cmp(b)));
    parts
}

/// What is drawn for a resample of these rows.
fn units(picked: &[usize], rows: usize, options: &Options<'_>) -> Result<Units, EvalError> {
    match options.groups {
        None => Ok(Units::rows(picked, rows)),
        Some(groups) => {
            same_length("groups", rows, groups.len())?;
            Ok(Units::groups(picked, groups))
        }
    }
}

/// Metrics and intervals of the picked rows.
fn measure(judged: &dyn Judged, picked: &[usize], options: &Options<'_>) -> Result<Subset, EvalError> {
    let mut counts = vec![0; judged.rows()];
    for &row in picked {
        counts[row] = 1;
    }
    let names = judged.metrics();
    let values = judged.measure(&counts, false);
    let mut intervals = IndexMap::new();
    if let Some(bootstrap) = options.bootstrap {
        let units = units(picked, judged.rows(), options)?;
        let drawn = bootstrap.distributions(&units, |counts| judged.measure(counts, true))?;
        for ((name, value), drawn) in names.iter().zip(&values).zip(drawn) {
            let Some(mut interval) = value.and_then(|_| bootstrap.interval(drawn)) else {
                continue;
            };
            // Resampling rows that are all right, or all wrong, cannot show how far chance reaches.
            let share = value.filter(|v| *v == 0.0 || *v == 1.0);
            if let Some(share) = share.filter(|_| SHARES_OF_ROWS.contains(&name.as_str())) {
                let units = units.len() as u64;
                let right = if share == 1.0 { units } else { 0 };
                interval = wilson(right, units, bootstrap.confidence)?;
            }
            intervals.insert(name.clone(), interval);
        }
    }
    Ok(Subset { rows: picked.len(), metrics: names.into_iter().zip(values).collect(), intervals })
}

/// Metrics that are a share of rows: at 0 and 1 they get Wilson's interval over the drawn units.
const SHARES_OF_ROWS: [&str; 3] = ["accuracy", "subset_accuracy", "within_one_rank"];

#[cfg(test)]
mod tests {
    use super::*;

    fn classes(names: &[&str]) -> Vec<String> {
        names.iter().map(|&name| name.to_owned()).collect()
    }

    fn example(predicted: &[usize]) -> Classification {
        let truths = [0, 0, 1, 1, 1, 2, 2, 2, 2, 2];
        Classification::from_labels(&classes(&["猫", "dog", "fish"]), &truths, predicted).unwrap()
    }

    #[test]
    fn it_is_one_flat_json_object_and_comes_back() {
        let judged = example(&[0, 1, 1, 1, 1, 2, 2, 2, 0, 2]);
        let modalities =
            classes(&["text"; 4].map(|s| s)).into_iter().chain(classes(&["image+text"; 6])).collect::<Vec<_>>();
        let options =
            Options { bootstrap: Some(Bootstrap::default()), modalities: Some(&modalities), ..Options::default() };
        let evaluation = Evaluation::new(&judged, &options).unwrap();
        let json = serde_json::to_value(&evaluation).unwrap();
        assert_eq!(json["accuracy"], 0.8);
        assert!(json["macro_f1"].is_number() && json["weighted_f1"].is_number());
        assert_eq!(json["per_class"]["猫"]["support"], 2);
        assert_eq!(json["confusion"][2][0], 1);
        assert!(json["intervals"]["accuracy"][0].as_f64().unwrap() < 0.8);
        assert_eq!(json["subsets"]["text"]["rows"], 4);
        assert_eq!(json["subsets"]["text"]["accuracy"], 0.75);
        assert_eq!(json["task"], "classification");
        let text = serde_json::to_string(&evaluation).unwrap();
        let back: Evaluation = serde_json::from_str(&text).unwrap();
        assert_eq!(back, evaluation);
    }

    #[test]
    fn the_subset_with_most_rows_comes_first() {
        let names = classes(&["b", "a", "c", "a", "c", "a"]);
        let order: Vec<_> = by_name(&names).into_keys().collect();
        assert_eq!(order, ["a", "c", "b"]);
    }

    #[test]
    fn all_right_still_has_an_interval_of_some_width() {
        let judged = example(&[0, 0, 1, 1, 1, 2, 2, 2, 2, 2]);
        let mut options = Options { bootstrap: Some(Bootstrap::default()), ..Options::default() };
        let accuracy = |options: &Options<'_>| {
            let evaluation = Evaluation::new(&judged, options).unwrap();
            evaluation.intervals["accuracy"]
        };
        let by_row = accuracy(&options);
        assert_eq!(by_row, wilson(10, 10, 0.95).unwrap());
        options.groups = Some(&[0, 0, 0, 0, 0, 1, 1, 1, 1, 1]);
        assert_eq!(accuracy(&options), wilson(2, 2, 0.95).unwrap());
    }

    #[test]
    fn groups_of_the_wrong_length_are_refused() {
        let judged = example(&[0; 10]);
        let options = Options { bootstrap: Some(Bootstrap::default()), groups: Some(&[0, 1]), ..Options::default() };
        let error = Evaluation::new(&judged, &options).unwrap_err();
        assert_eq!(error.to_string(), "groups has 2 entries but there are 10 rows: give one for each");
    }
}
