//! What is to be predicted, and how a cell becomes a target.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::error::{DataError, Result};
use crate::table::{Table, Value};

/// The kind of prediction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LabelTask {
    /// One class per row.
    SingleLabel,
    /// Any number of classes per row: a list, or a cell with `|` or `;` between them.
    MultiLabel,
    /// One class per row, and the classes have an order.
    Ordinal,
    /// A number.
    Regression,
}

/// One row's target.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Target {
    /// Position of the class in [`LabelSpec::classes`].
    Class(u32),
    /// For each class, whether it applies.
    MultiLabel(Vec<bool>),
    /// Position of the class in the order.
    Ordinal(u32),
    /// The number, as the table gives it.
    Value(f32),
}

/// The label: its column, its kind and what was learnt about it from the training rows.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LabelSpec {
    /// The column.
    pub column: String,
    /// The kind of prediction.
    pub task: LabelTask,
    /// The classes in the order of their numbers; empty for regression.
    pub classes: Vec<String>,
    /// Training rows per class; empty for regression.
    pub counts: Vec<u64>,
    /// Mean of the training targets; 0 for classes.
    pub mean: f64,
    /// Standard deviation of the training targets; 1 for classes.
    pub std: f64,
}

/// What a person says about the label; the rest is inferred from the training rows.
#[derive(Clone, Debug, Default)]
pub struct LabelOptions {
    /// The kind of prediction.
    pub task: Option<LabelTask>,
    /// The classes in their order; required for an ordinal label whose classes are not numbers.
    pub classes: Option<Vec<String>>,
}

/// More distinct numbers than this are a regression, not classes.
const MAX_NUMERIC_CLASSES: usize = 20;

impl LabelSpec {
    /// Learns the label from the training rows: the classes, sorted (by number where all are
    /// numbers), or the mean and standard deviation.
    ///
    /// # Errors
    /// Labels that cannot be learnt: none at all, one class only, a text that differs in every row,
    /// a number column with texts in it.
    pub fn fit(table: &Table, column: &str, train_rows: &[u64], options: &LabelOptions) -> Result<LabelSpec> {
        let at = table.column_index(column)?;
        let mut counts: BTreeMap<String, u64> = BTreeMap::new();
        let (mut labelled, mut lists, mut numbers, mut whole) = (0u64, 0u64, 0u64, 0u64);
        let mut spread = crate::statistics::Moments::default();
        let mut not_number = None;
        for &row in train_rows {
            let value = table.row(row)?.values.swap_remove(at);
            if value.is_missing() {
                continue;
            }
            labelled += 1;
            match value.as_number() {
                Some(number) => {
                    numbers += 1;
                    whole += u64::from(number.fract() == 0.0);
                    spread.add(number);
                }
                None => {
                    not_number.get_or_insert((row, value.as_text().unwrap_or_default()));
                }
            }
            let is_list = matches!(value, Value::Texts(_)) || matches!(&value, Value::Text(text) if text.contains('|'));
            lists += u64::from(is_list);
            if options.task != Some(LabelTask::Regression) {
                let parts = match options.task {
                    Some(LabelTask::SingleLabel | LabelTask::Ordinal) => {
                        value.as_text().map(|text| text.trim().to_string()).into_iter().collect()
                    }
                    _ if options.task == Some(LabelTask::MultiLabel) || is_list => parts(&value),
                    _ => value.as_text().map(|text| text.trim().to_string()).into_iter().collect(),
                };
                parts.into_iter().for_each(|part: String| *counts.entry(part).or_insert(0) += 1);
            }
        }
        if labelled == 0 {
            return Err(DataError::Options(format!(
                "column {column:?} is the label, but none of the {} training rows has one",
                train_rows.len()
            )));
        }
        let fractional = numbers > whole;
        let task = options.task.unwrap_or({
            if lists * 20 >= labelled {
                LabelTask::MultiLabel
            } else if numbers == labelled && (fractional || counts.len() > MAX_NUMERIC_CLASSES) {
                LabelTask::Regression
            } else {
                LabelTask::SingleLabel
            }
        });
        if task == LabelTask::Regression {
            if let Some((row, text)) = not_number {
                return Err(DataError::cell(
                    row,
                    column,
                    format!("{text:?} is not a number, and the label is one (regression)"),
                ));
            }
            return Ok(LabelSpec {
                column: column.to_string(),
                task,
                classes: Vec::new(),
                counts: Vec::new(),
                mean: spread.mean(),
                std: spread.std().max(1e-12),
            });
        }
        let classes = ordered_classes(column, task, &counts, labelled, options)?;
        Ok(LabelSpec {
            column: column.to_string(),
            task,
            counts: classes.iter().map(|class| counts.get(class).copied().unwrap_or(0)).collect(),
            classes,
            mean: 0.0,
            std: 1.0,
        })
    }

    /// The target of a cell; `None` where the cell is missing.
    ///
    /// # Errors
    /// A class that no training row has, or a text where a number is expected.
    pub fn encode(&self, value: &Value) -> std::result::Result<Option<Target>, String> {
        if value.is_missing() {
            return Ok(None);
        }
        let text = || value.as_text().unwrap_or_default().trim().to_string();
        Ok(Some(match self.task {
            LabelTask::SingleLabel => Target::Class(self.class(&text())?),
            LabelTask::Ordinal => Target::Ordinal(self.class(&text())?),
            LabelTask::MultiLabel => {
                let mut present = vec![false; self.classes.len()];
                for part in parts(value) {
                    present[self.class(&part)? as usize] = true;
                }
                Target::MultiLabel(present)
            }
            LabelTask::Regression => {
                let number = value.as_number();
                Target::Value(number.ok_or_else(|| format!("{:?} is not a number", text()))? as f32)
            }
        }))
    }

    /// The text of a target, as a table would give it.
    pub fn decode(&self, target: &Target) -> String {
        let name = |class: &u32| self.classes.get(*class as usize).cloned().unwrap_or_default();
        match target {
            Target::Class(class) | Target::Ordinal(class) => name(class),
            Target::MultiLabel(present) => {
                let chosen = self.classes.iter().zip(present).filter(|(_, p)| **p);
                chosen.map(|(class, _)| class.as_str()).collect::<Vec<_>>().join("|")
            }
            Target::Value(number) => number.to_string(),
        }
    }

    fn class(&self, name: &str) -> std::result::Result<u32, String> {
        self.classes.iter().position(|class| class == name).map(|at| at as u32).ok_or_else(|| {
            let near = crate::error::nearest(name, self.classes.iter().map(String::as_str));
            let near = near.map(|near| format!(" (nearest: {near:?})")).unwrap_or_default();
            format!("{name:?} is not one of the {} classes of the training rows{near}", self.classes.len())
        })
    }

    /// Checks that a loaded specification holds together.
    pub(crate) fn validate(&self) -> std::result::Result<(), String> {
        let classes = self.task != LabelTask::Regression;
        if classes && (self.classes.is_empty() || self.counts.len() != self.classes.len()) {
            return Err(format!(
                "label {:?} has {} classes and {} counts; expected as many of one as of the other",
                self.column,
                self.classes.len(),
                self.counts.len()
            ));
        }
        if !(self.mean.is_finite() && self.std.is_finite() && self.std > 0.0) {
            return Err(format!("label {:?} has mean {} and std {}", self.column, self.mean, self.std));
        }
        Ok(())
    }
}

/// The labels of one multi-label cell.
fn parts(value: &Value) -> Vec<String> {
    let trimmed = |part: &str| part.trim().to_string();
    let parts: Vec<String> = match value {
        Value::Texts(texts) => texts.iter().map(|text| trimmed(text)).collect(),
        Value::Text(text) if text.trim().starts_with('[') => {
            serde_json::from_str(text).unwrap_or_else(|_| text.split(['|', ';']).map(trimmed).collect())
        }
        Value::Text(text) => text.split(['|', ';']).map(trimmed).collect(),
        Value::Features(matrix) => matrix.data.iter().map(|x| crate::table::format_number(f64::from(*x))).collect(),
        other => other.as_text().into_iter().collect(),
    };
    parts.into_iter().filter(|part| !part.is_empty()).collect()
}

fn ordered_classes(
    column: &str,
    task: LabelTask,
    counts: &BTreeMap<String, u64>,
    labelled: u64,
    options: &LabelOptions,
) -> Result<Vec<String>> {
    if let Some(given) = &options.classes {
        let unlisted: Vec<&str> = counts.keys().filter(|class| !given.contains(class)).map(String::as_str).collect();
        let mut distinct = given.clone();
        distinct.sort();
        distinct.dedup();
        if distinct.len() != given.len() || !unlisted.is_empty() {
            return Err(DataError::Options(format!(
                "the classes given for {column:?} must be distinct and contain every class of the \
                 training rows; missing: {unlisted:?}"
            )));
        }
        return Ok(given.clone());
    }
    if counts.len() < 2 && task != LabelTask::MultiLabel {
        return Err(DataError::Options(format!(
            "every training row has the same label {:?} in column {column:?}; there is nothing to learn",
            counts.keys().next().cloned().unwrap_or_default()
        )));
    }
    if counts.len() > 100 && counts.len() as u64 * 2 > labelled {
        return Err(DataError::Options(format!(
            "column {column:?} has {} different labels in {labelled} training rows: it looks like \
             free text or an identifier, not a label; name another column with --label",
            counts.len()
        )));
    }
    let mut classes: Vec<String> = counts.keys().cloned().collect();
    let numbers: Option<Vec<f64>> = classes.iter().map(|class| class.parse::<f64>().ok()).collect();
    match numbers {
        Some(_) => classes.sort_by(|a, b| {
            let number = |text: &str| text.parse().unwrap_or(f64::NAN);
            number(a).total_cmp(&number(b)).then_with(|| a.cmp(b))
        }),
        None if task == LabelTask::Ordinal => {
            return Err(DataError::Options(format!(
                "the label {column:?} is ordinal, and the order of its classes is not known; give \
                 them in order: {}",
                classes.join(", ")
            )));
        }
        None => {}
    }
    Ok(classes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::TableOptions;

    fn fit(labels: &[&str], options: &LabelOptions) -> Result<LabelSpec> {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("t.csv");
        let mut csv = String::from("n,label\n");
        labels.iter().for_each(|label| csv += &format!("1,{label}\n"));
        std::fs::write(&path, csv).expect("write");
        let table = Table::open(&path, &TableOptions::default()).expect("table");
        let rows: Vec<u64> = (0..table.len()).collect();
        LabelSpec::fit(&table, "label", &rows, options)
    }

    fn text(text: &str) -> Value {
        Value::from_text(text)
    }

    #[test]
    fn classes_are_sorted_and_counted() {
        let spec = fit(&["b", "a", "b", ""], &LabelOptions::default()).expect("spec");
        assert_eq!((spec.task, spec.classes.as_slice()), (LabelTask::SingleLabel, &["a".to_string(), "b".into()][..]));
        assert_eq!(spec.counts, [1, 2]);
        assert_eq!(spec.encode(&text("b")), Ok(Some(Target::Class(1))));
        assert_eq!(spec.encode(&Value::Missing), Ok(None));
        assert!(spec.encode(&text("c")).expect_err("unseen").contains("not one of the 2 classes"));
        assert_eq!(spec.decode(&Target::Class(0)), "a");
    }

    #[test]
    fn numeric_classes_are_in_numeric_order() {
        let spec = fit(&["10", "9", "2"], &LabelOptions::default()).expect("spec");
        assert_eq!(spec.classes, ["2", "9", "10"]);
        assert_eq!(spec.encode(&Value::Number(9.0)), Ok(Some(Target::Class(1))));
    }

    #[test]
    fn multi_label_cells_are_taken_apart() {
        let spec = fit(&["x|y", "y", "z"], &LabelOptions::default()).expect("spec");
        assert_eq!((spec.task, spec.classes.len()), (LabelTask::MultiLabel, 3));
        let target = Target::MultiLabel(vec![true, false, true]);
        assert_eq!(spec.encode(&text("z; x")), Ok(Some(target.clone())));
        assert_eq!(spec.encode(&Value::Texts(vec!["x".into(), "z".into()])), Ok(Some(target.clone())));
        assert_eq!(spec.decode(&target), "x|z");
    }

    #[test]
    fn fractions_are_regression() {
        let spec = fit(&["1.5", "2.5", "3.5"], &LabelOptions::default()).expect("spec");
        assert_eq!(spec.task, LabelTask::Regression);
        assert!((spec.mean - 2.5).abs() < 1e-12 && (spec.std - (2.0f64 / 3.0).sqrt()).abs() < 1e-12);
        assert_eq!(spec.encode(&text("4")), Ok(Some(Target::Value(4.0))));
        let options = LabelOptions { task: Some(LabelTask::Regression), classes: None };
        assert!(matches!(fit(&["1", "high"], &options), Err(DataError::Cell { row: 2, .. })));
    }

    #[test]
    fn ordinal_labels_need_an_order() {
        let mut options = LabelOptions { task: Some(LabelTask::Ordinal), classes: None };
        assert!(fit(&["low", "high"], &options).is_err());
        options.classes = Some(vec!["low".into(), "mid".into(), "high".into()]);
        let spec = fit(&["low", "high"], &options).expect("spec");
        assert_eq!(spec.encode(&text("high")), Ok(Some(Target::Ordinal(2))));
        assert_eq!(spec.counts, [1, 0, 1]);
        options.classes = Some(vec!["low".into()]);
        assert!(fit(&["low", "high"], &options).is_err());
    }

    #[test]
    fn labels_that_cannot_be_learnt_are_refused() {
        assert!(fit(&["", ""], &LabelOptions::default()).is_err());
        assert!(fit(&["a", "a"], &LabelOptions::default()).is_err());
        let distinct: Vec<String> = (0..150).map(|i| format!("text {i}")).collect();
        let distinct: Vec<&str> = distinct.iter().map(String::as_str).collect();
        assert!(fit(&distinct, &LabelOptions::default()).is_err());
    }
}
