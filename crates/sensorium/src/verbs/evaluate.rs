//! Evaluate: what a model is worth on rows whose label is known.

use super::Dataset;
use crate::batch::Batch;
use crate::learner::Learner;
use crate::saved::Model;
use crate::task::Decision;
use crate::{Error, Result};
use indexmap::IndexMap;
use sensorium_data::{
    DataPlan, LabelSpec, LabelTask, Loader, LoaderStatistics, Modality, Split, Table, TableOptions, Target,
};
use sensorium_eval::{
    Bootstrap, Classification, Comparison, Evaluation, Judged, MultiLabelled, Options, Probabilities, Regressed,
    group_numbers,
};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// With more input columns than this, only single columns and modalities, and
/// all but one of them, are evaluated, not every subset.
const ALL_SUBSETS: usize = 3;

/// Truths and answers of some rows, in their order.
#[derive(Debug, Clone, Default)]
pub struct Answered {
    /// The table rows.
    pub rows: Vec<u64>,
    /// Their targets.
    pub targets: Vec<Target>,
    /// The model's decisions.
    pub decisions: Vec<Decision>,
    /// Decisions with only some columns, by the names of those kept.
    pub subsets: IndexMap<String, Vec<Decision>>,
    /// The mean loss.
    pub loss: f64,
    /// The mean weight of each column, from gated fusion.
    pub gates: IndexMap<String, f64>,
    /// Rows that have none of the model's inputs, answered by [`Objective::prior`](crate::Objective::prior).
    pub without_input: usize,
    /// What loading met with: rows skipped, texts cut.
    pub statistics: LoaderStatistics,
}

/// What to evaluate.
#[derive(Debug, Clone, Default)]
pub struct EvaluateOptions {
    /// Only the rows of this split; all rows without.
    pub split: Option<Split>,
    /// Leave out the evaluation with modalities taken away.
    pub no_subsets: bool,
    /// Another model on the same rows, as the one before.
    pub against: Option<Model>,
}

/// An evaluation and what it was made of.
#[derive(Debug, Clone)]
pub struct Evaluated {
    /// The metrics.
    pub evaluation: Evaluation,
    /// The other model's metrics, side by side.
    pub comparison: Option<Comparison>,
    /// Answers by row.
    pub answered: Answered,
    /// What the rows are called.
    pub names: Vec<String>,
    /// Remarks for the person: rows left out and why.
    pub notes: Vec<String>,
    /// The rows' table.
    pub dataset: Dataset,
    /// The label.
    label: LabelSpec,
    /// Group of each row, where rows of a group are alike.
    groups: Option<Vec<usize>>,
}

impl Evaluated {
    /// This model against another, as the one before, on the same rows: what
    /// differs, with intervals of the difference by the paired bootstrap.
    ///
    /// # Errors
    /// When the two were not evaluated on the same rows.
    pub fn compared_with(&self, before: &Self) -> Result<Comparison> {
        if before.answered.rows != self.answered.rows {
            return Err(Error::Request("the two models were not evaluated on the same rows".into()));
        }
        let judge = |of: &Self| judged(&of.label, &of.answered.targets, &of.answered.decisions);
        let how = how(self.groups.as_deref());
        Ok(Comparison::new(judge(before)?.as_ref(), judge(self)?.as_ref(), &how)?)
    }

    /// Writes the report page, `report.html`, and `metrics.json` into a folder.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn write_report(&self, model: &Model, folder: &Path) -> Result<PathBuf> {
        std::fs::create_dir_all(folder).map_err(|e| Error::io("create", folder, e))?;
        super::report::write(folder, model, self, None, "")
    }
}

/// Evaluates a model on a table.
///
/// # Errors
/// When the table lacks the label, or no row has a known one.
pub fn evaluate(model: &Model, table: &Path, options: &EvaluateOptions) -> Result<Evaluated> {
    let label = &model.learner.objective.label.column;
    let mut config = model.config.clone();
    config.label.column = Some(label.clone());
    let dataset = open_labelled(table, &mut config)?;
    let rows = match options.split {
        Some(split) => dataset.splits.rows(split).to_vec(),
        None => (0..dataset.table.len()).collect(),
    };
    if rows.is_empty() {
        return Err(Error::Request(format!("{table:?} has no rows to evaluate ({})", dataset.splits.summary())));
    }
    evaluate_rows(model, &dataset, &rows, options)
}

/// Opens a table under a model's configuration; columns that the configuration
/// names and this table lacks do not matter, but the label does.
fn open_labelled(table: &Path, config: &mut crate::FitConfig) -> Result<Dataset> {
    let opened = Table::open(table, &TableOptions::default())?;
    let columns = opened.columns();
    let label = config.label.column.clone().unwrap_or_default();
    if !columns.contains(&label) {
        return Err(Error::Request(format!(
            "{table:?} has no column {label:?}, the label to compare with; its columns are: {}",
            columns.join(", ")
        )));
    }
    let known = |c: &String| columns.contains(c);
    config.data.ignore.retain(known);
    config.data.types.retain(|c, _| known(c));
    config.data.split = config.data.split.take().filter(known);
    config.data.group = config.data.group.take().filter(known);
    Dataset::of(opened, config)
}

/// How everything is measured.
fn how(groups: Option<&[usize]>) -> Options<'_> {
    Options { bootstrap: Some(Bootstrap::default()), groups, modalities: None }
}

/// Evaluates a model on some rows of an opened table.
///
/// # Errors
/// When no row has a known label.
pub fn evaluate_rows(model: &Model, dataset: &Dataset, rows: &[u64], options: &EvaluateOptions) -> Result<Evaluated> {
    let answered = answer(&model.learner, &model.plan, dataset, rows, &model.config, !options.no_subsets)?;
    let mut notes = notes(&answered, rows.len());
    if answered.rows.is_empty() {
        return Err(Error::Request(format!(
            "none of the {} rows has a label that the model knows ({:?}: {})",
            rows.len(),
            model.learner.objective.label.column,
            model.learner.objective.label.classes.join(", ")
        )));
    }
    let groups = match &model.config.data.group {
        Some(column) if dataset.table.column_index(column).is_ok() => {
            let keys = dataset.texts(column, &answered.rows)?;
            notes.push(format!("intervals are drawn by {column}, whose rows are alike"));
            Some(group_numbers(&keys))
        }
        _ => None,
    };
    let how = how(groups.as_deref());
    let label = &model.learner.objective.label;
    let judged = judged(label, &answered.targets, &answered.decisions)?;
    let mut evaluation = Evaluation::new(judged.as_ref(), &how)?;
    evaluation.metrics.insert("loss".into(), Some(answered.loss));
    evaluation.without_input = answered.without_input;
    for (name, decisions) in &answered.subsets {
        let part = self::judged(label, &answered.targets, decisions)?;
        evaluation.subsets.insert(name.clone(), Evaluation::new(part.as_ref(), &how)?.as_subset());
    }
    evaluation.gates = answered.gates.clone();
    let comparison = match &options.against {
        Some(before) => {
            let other = answer(&before.learner, &before.plan, dataset, &answered.rows, &before.config, false)?;
            if other.rows != answered.rows {
                return Err(Error::Request("the two models cannot answer the same rows".into()));
            }
            let before = self::judged(&before.learner.objective.label, &other.targets, &other.decisions)?;
            Some(Comparison::new(before.as_ref(), judged.as_ref(), &how)?)
        }
        None => None,
    };
    let names = dataset.names(&answered.rows)?;
    let label = label.clone();
    Ok(Evaluated { evaluation, comparison, answered, names, notes, dataset: dataset.clone(), label, groups })
}

/// The model's answers to the rows that have a known label.
///
/// # Errors
/// When the data cannot be read.
pub fn answer(
    learner: &Learner,
    plan: &Arc<DataPlan>,
    dataset: &Dataset,
    rows: &[u64],
    config: &crate::FitConfig,
    with_subsets: bool,
) -> Result<Answered> {
    let loader = dataset.in_order(plan, rows, config, true)?;
    answer_loader(learner, &loader, with_subsets)
}

pub(crate) fn answer_loader(learner: &Learner, loader: &Loader, with_subsets: bool) -> Result<Answered> {
    let names: Vec<&str> = learner.model.config().columns.iter().map(|c| c.name.as_str()).collect();
    let modalities: Vec<Modality> = loader.plan().columns.iter().map(|c| c.modality).collect();
    let subsets = if with_subsets { subsets(&modalities) } else { Vec::new() };
    let mut masks = vec![vec![true; names.len()]];
    masks.extend(subsets.iter().cloned());
    let keys: Vec<String> = subsets
        .iter()
        .map(|keep| names.iter().zip(keep).filter(|(_, k)| **k).map(|(n, _)| *n).collect::<Vec<_>>().join(" + "))
        .collect();
    let mut all = Answered::default();
    for key in &keys {
        all.subsets.insert(key.clone(), Vec::new());
    }
    let (mut loss, mut weight) = (0.0, 0.0);
    let mut gates = vec![(0.0_f64, 0_usize); names.len()];
    for pack in loader.epoch(0, 0) {
        let mut batch = Batch::new(pack?)?;
        if batch.rows.is_empty() {
            continue;
        }
        let present = batch.inputs.presence();
        all.targets.extend(batch.targets.iter().flatten().cloned());
        for (target, present) in batch.targets.iter_mut().zip(&present) {
            if !present.contains(&true) {
                // The model has nothing to go by: no loss.
                *target = None;
                all.without_input += 1;
            }
        }
        let mut answers = learner.answer_subsets(&batch, &masks)?;
        for (answer, mask) in answers.iter_mut().zip(&masks) {
            for (decision, present) in answer.decisions.iter_mut().zip(&present) {
                if !present.iter().zip(mask).any(|(here, kept)| *here && *kept) {
                    *decision = learner.objective.prior();
                }
            }
        }
        let full = answers.remove(0);
        for (key, part) in keys.iter().zip(answers) {
            if let Some(list) = all.subsets.get_mut(key) {
                list.extend(part.decisions);
            }
        }
        if let Some((mean, over)) = full.loss {
            loss += mean * over;
            weight += over;
        }
        if let Some(table) = full.gates {
            for row in table.data().chunks_exact(names.len()) {
                for (sum, g) in gates.iter_mut().zip(row) {
                    sum.0 += f64::from(*g);
                    sum.1 += 1;
                }
            }
        }
        all.rows.extend(&batch.rows);
        all.decisions.extend(full.decisions);
    }
    all.loss = if weight > 0.0 { loss / weight } else { f64::NAN };
    for (name, (sum, n)) in names.iter().zip(gates) {
        if n > 0 {
            all.gates.insert((*name).to_owned(), sum / n as f64);
        }
    }
    all.statistics = loader.statistics();
    Ok(all)
}

/// Which columns to keep, given the modality of each: every proper subset of
/// few columns, else all but each column or modality, and each alone.
fn subsets(modalities: &[Modality]) -> Vec<Vec<bool>> {
    let columns = modalities.len();
    if columns < 2 {
        return Vec::new();
    }
    if columns <= ALL_SUBSETS {
        let flags = |mask: u32| (0..columns).map(|c| mask >> c & 1 == 1).collect::<Vec<bool>>();
        let mut masks: Vec<u32> = (1..(1 << columns) - 1).collect();
        masks.sort_by_key(|m| (std::cmp::Reverse(m.count_ones()), *m));
        return masks.into_iter().map(flags).collect();
    }
    // A modality with several columns is taken away as one, too.
    let mut parts: Vec<Vec<bool>> = (0..columns).map(|c| (0..columns).map(|o| o == c).collect()).collect();
    for (c, modality) in modalities.iter().enumerate() {
        let alike: Vec<bool> = modalities.iter().map(|m| m == modality).collect();
        let several = alike.iter().filter(|same| **same).count();
        if modalities[..c].contains(modality) || several < 2 || several == columns {
            continue;
        }
        parts.push(alike);
    }
    let without: Vec<Vec<bool>> = parts.iter().map(|part| part.iter().map(|kept| !kept).collect()).collect();
    let mut subsets = Vec::new();
    for subset in without.into_iter().chain(parts) {
        if !subsets.contains(&subset) {
            subsets.push(subset);
        }
    }
    subsets
}

/// Targets and decisions as the evaluation room takes them.
///
/// # Errors
/// When they do not fit each other.
pub(crate) fn judged(label: &LabelSpec, targets: &[Target], decisions: &[Decision]) -> Result<Box<dyn Judged>> {
    let probabilities = || -> Vec<f64> {
        decisions.iter().filter_map(Decision::probabilities).flat_map(|p| p.iter().copied()).collect()
    };
    let classes = || -> Vec<usize> {
        let number = |t: &Target| match t {
            Target::Class(c) | Target::Ordinal(c) => Some(*c as usize),
            _ => None,
        };
        targets.iter().filter_map(number).collect()
    };
    Ok(match label.task {
        LabelTask::SingleLabel | LabelTask::Ordinal => {
            let p = Probabilities::new(probabilities(), label.classes.len())?;
            let judged = Classification::new(&label.classes, &classes(), p)?;
            Box::new(if label.task == LabelTask::Ordinal { judged.ordinal() } else { judged })
        }
        LabelTask::MultiLabel => {
            let truths: Vec<bool> = targets
                .iter()
                .flat_map(|t| match t {
                    Target::MultiLabel(l) => l.clone(),
                    _ => Vec::new(),
                })
                .collect();
            let p = Probabilities::unnormalised(probabilities(), label.classes.len())?;
            Box::new(MultiLabelled::new(&label.classes, truths, &p, &vec![0.5; label.classes.len()])?)
        }
        LabelTask::Regression => {
            let truths: Vec<f64> = targets
                .iter()
                .filter_map(|t| match t {
                    Target::Value(v) => Some(f64::from(*v)),
                    _ => None,
                })
                .collect();
            let values: Vec<f64> = decisions
                .iter()
                .filter_map(|d| match d {
                    Decision::Value(v) => Some(*v),
                    _ => None,
                })
                .collect();
            Box::new(Regressed::new(&truths, &values)?)
        }
    })
}

fn notes(answered: &Answered, asked: usize) -> Vec<String> {
    let s = answered.statistics;
    let mut notes = Vec::new();
    if s.bad > 0 {
        notes.push(format!("{} of {asked} rows have a cell that could not be used", s.bad));
    }
    if answered.rows.len() < asked {
        notes.push(format!(
            "{} of {asked} rows were left out: unreadable, or without a known label",
            asked - answered.rows.len()
        ));
    }
    if answered.without_input > 0 {
        notes.push(format!(
            "{} of {asked} rows have none of the model's inputs: answered with what is most frequent in training",
            answered.without_input
        ));
    }
    if s.truncated > 0 {
        notes.push(format!("{} texts are longer than the model reads and lost their end", s.truncated));
    }
    notes
}

#[cfg(test)]
mod tests {
    use super::subsets;
    use sensorium_data::Modality;

    #[test]
    fn every_subset_of_three_but_a_few_of_five() {
        let images = |n| vec![Modality::Image; n];
        assert_eq!(subsets(&images(1)).len(), 0);
        assert_eq!(subsets(&images(2)), [[true, false], [false, true]]);
        assert_eq!(subsets(&images(3)).len(), 6);
        assert!(subsets(&images(3))[..3].iter().all(|s| s.iter().filter(|k| **k).count() == 2));
        assert_eq!(subsets(&images(5)).len(), 10);
    }

    #[test]
    fn a_modality_of_several_columns_is_taken_away_as_one() {
        use Modality::{Audio, Image, Text};
        let few = subsets(&[Image, Text, Text, Audio]);
        // Without and alone: four columns each, and the two texts together.
        assert_eq!(few.len(), 10);
        assert!(few.contains(&vec![true, false, false, true]));
        assert!(few.contains(&vec![false, true, true, false]));
        // What both texts leave is what both images are: once.
        assert_eq!(subsets(&[Image, Text, Text, Image]).len(), 10);
    }
}
