//! What a fit leaves for people to read: the report page, the learning
//! curves, `metrics.json` and the model card.

use super::describe::duration;
use super::evaluate::Evaluated;
use crate::config::{FitConfig, MethodName};
use crate::saved::{Model, write as write_file};
use crate::task::Decision;
use crate::{Error, Result};
use sensorium_data::{LabelTask, Modality, Target};
use sensorium_engine::Params;
use sensorium_eval::plot::{LineChart, Marker, Series};
use sensorium_eval::{Classification, Curves, Example, Page, Probabilities};
use sensorium_train::{Stopped, Summary};
use std::path::{Path, PathBuf};

/// The report page's file.
pub(crate) const PAGE: &str = "report.html";
/// Metrics of validation that are drawn over the epochs.
const WATCHED: [&str; 5] = ["accuracy", "macro_f1", "micro_f1", "r2", "spearman"];
/// Points of a curve on the page, at most.
const CURVE_POINTS: usize = 200;
/// Mistakes shown on the page.
const EXAMPLES: usize = 12;

/// Writes `report.html`, `metrics.json` and the curves; returns the page.
///
/// # Errors
/// When a file cannot be written.
pub(crate) fn write(
    folder: &Path,
    model: &Model,
    evaluated: &Evaluated,
    summary: Option<&Summary>,
    split: &str,
) -> Result<PathBuf> {
    let json = serde_json::to_string_pretty(&evaluated.evaluation).map_err(|e| Error::model(folder, e.to_string()))?;
    write_file(&folder.join("metrics.json"), json.as_bytes())?;
    let learning = summary.map(|s| learning_curves(s, &WATCHED)).unwrap_or_default();
    for chart in &learning {
        let name = if chart.y_label == "loss" { "loss.svg" } else { "learning.svg" };
        write_file(&folder.join(name), chart.to_svg().as_bytes())?;
    }
    let curves = curves(model, evaluated)?;
    let numbers = numbers(evaluated);
    let label = &model.learner.objective.label.column;
    let title = if split.is_empty() { label.clone() } else { format!("{label}: {split} split") };
    let page = Page {
        facts: &facts(model, summary),
        comparison: evaluated.comparison.as_ref(),
        ids: Some(&evaluated.names),
        curves: curves.as_ref(),
        numbers: numbers.as_ref().map(|(a, b)| (a.as_slice(), b.as_slice())),
        learning: &learning,
        examples: &examples(model, evaluated)?,
        ..Page::new(&title, &evaluated.evaluation)
    };
    let path = folder.join(PAGE);
    write_file(&path, page.to_html().as_bytes())?;
    Ok(path)
}

/// Writes the model card.
///
/// # Errors
/// When the file cannot be written.
pub(crate) fn write_card(
    folder: &Path,
    model: &Model,
    evaluated: Option<&Evaluated>,
    summary: &Summary,
    split: &str,
) -> Result<()> {
    let label = &model.learner.objective.label;
    let mut card =
        format!("# {}\n\nA multimodal model made by Sensorium. It predicts `{}`", label.column, label.column);
    card += &match label.task {
        LabelTask::Regression => " (a number)".to_owned(),
        _ => format!(" (one of: {})", label.classes.join(", ")),
    };
    card += " from:\n\n";
    for c in &model.plan.columns {
        card += &format!("- `{}` ({})\n", c.name, c.modality.name());
    }
    card += "\nAny of them may be missing.\n\n## Use\n\n";
    card += "```sh\nsensorium predict . rows.csv\nsensorium evaluate . rows.csv\n```\n\n## Facts\n\n";
    for (name, value) in facts(model, Some(summary)) {
        card += &format!("- {name}: {value}\n");
    }
    if let Some(e) = evaluated {
        card += &format!("\n## Measured on the {split} split ({} rows)\n\n```text\n", e.evaluation.rows);
        card += &e.evaluation.to_text();
        card += "```\n";
    }
    card += "\n## Limits\n\nThe figures hold for rows like those it was measured on. Rows from elsewhere, other \
             languages, other cameras or microphones may fare worse: evaluate before relying on it.\n";
    write_file(&folder.join("README.md"), card.as_bytes())
}

fn facts(model: &Model, summary: Option<&Summary>) -> Vec<(String, String)> {
    let inputs: Vec<String> =
        model.plan.columns.iter().map(|c| format!("{} ({})", c.name, c.modality.name())).collect();
    let mut facts = vec![
        ("inputs".to_owned(), inputs.join(", ")),
        ("fusion".to_owned(), format!("{:?}", model.config.fusion.kind).to_lowercase()),
    ];
    facts.extend(training_facts(&model.learner.params, &model.config, summary));
    facts
}

/// What is worth knowing of how a model was trained.
pub(crate) fn training_facts(params: &Params, config: &FitConfig, summary: Option<&Summary>) -> Vec<(String, String)> {
    let (all, trainable) = params.count();
    let mut facts = vec![
        ("parameters".to_owned(), format!("{all} ({trainable} trainable)")),
        ("seed".to_owned(), config.train.seed.to_string()),
    ];
    if config.finetune.method != MethodName::Full {
        facts.push(("fine-tuning".to_owned(), config.finetune.method.name().to_owned()));
    }
    if let Some(s) = summary {
        let why = match s.stopped {
            Stopped::Finished => "all epochs done",
            Stopped::EarlyStopping => "early stopping",
            Stopped::TimeLimit => "time limit",
            Stopped::Interrupted => "interrupted",
        };
        facts.push((
            "training".to_owned(),
            format!("{} epochs, {} steps, {}, {why}", s.epochs, s.steps, duration(s.seconds)),
        ));
        if s.skipped > 0 {
            facts.push(("skipped steps".to_owned(), s.skipped.to_string()));
        }
    }
    facts.push(("made by".to_owned(), concat!("sensorium ", env!("CARGO_PKG_VERSION")).to_owned()));
    facts
}

/// Loss over the epochs, and the watched metrics.
pub(crate) fn learning_curves(summary: &Summary, watched: &[&str]) -> Vec<LineChart> {
    let epochs = &summary.history.epochs;
    let series = |name: &str, value: &dyn Fn(&sensorium_train::EpochRecord) -> Option<f64>| Series {
        name: name.to_owned(),
        points: epochs.iter().filter_map(|e| Some((e.epoch as f64, value(e)?))).collect(),
    };
    let marker = epochs.iter().rev().find(|e| e.best).map(|e| Marker { x: e.epoch as f64, label: "best".into() });
    let loss = LineChart {
        title: "Loss".into(),
        x_label: "epoch".into(),
        y_label: "loss".into(),
        series: vec![
            series("training", &|e| Some(e.train_loss)),
            series("validation", &|e| e.metrics.get("loss").copied()),
        ],
        marker: marker.clone(),
        whole_x: true,
        ..LineChart::default()
    };
    let watched: Vec<Series> = watched
        .iter()
        .map(|name| series(name, &|e| e.metrics.get(*name).copied()))
        .filter(|s| !s.points.is_empty())
        .collect();
    let mut charts = vec![loss];
    if !watched.is_empty() {
        charts.push(LineChart {
            title: "Validation".into(),
            x_label: "epoch".into(),
            y_label: "metric".into(),
            series: watched,
            marker,
            whole_x: true,
            ..LineChart::default()
        });
    }
    charts
}

fn curves(model: &Model, evaluated: &Evaluated) -> Result<Option<Curves>> {
    let label = &model.learner.objective.label;
    if !matches!(label.task, LabelTask::SingleLabel | LabelTask::Ordinal) {
        return Ok(None);
    }
    let answered = &evaluated.answered;
    let truths: Vec<usize> = answered
        .targets
        .iter()
        .filter_map(|t| match t {
            Target::Class(c) | Target::Ordinal(c) => Some(*c as usize),
            _ => None,
        })
        .collect();
    let p = answered.decisions.iter().filter_map(Decision::probabilities).flat_map(|p| p.iter().copied()).collect();
    let judged = Classification::new(&label.classes, &truths, Probabilities::new(p, label.classes.len())?)?;
    Ok(Some(judged.curves(CURVE_POINTS)?))
}

fn numbers(evaluated: &Evaluated) -> Option<(Vec<f64>, Vec<f64>)> {
    let pairs: Option<Vec<(f64, f64)>> = evaluated
        .answered
        .targets
        .iter()
        .zip(&evaluated.answered.decisions)
        .map(|pair| match pair {
            (Target::Value(t), Decision::Value(v)) => Some((f64::from(*t), *v)),
            _ => None,
        })
        .collect();
    pairs.map(|p| p.into_iter().unzip())
}

/// The most confident mistakes, with their text.
fn examples(model: &Model, evaluated: &Evaluated) -> Result<Vec<Example>> {
    let objective = &model.learner.objective;
    let (answered, dataset) = (&evaluated.answered, &evaluated.dataset);
    let mut wrong: Vec<(f64, usize)> = (0..answered.rows.len())
        .filter_map(|i| match (&answered.targets[i], &answered.decisions[i]) {
            (Target::Class(t) | Target::Ordinal(t), Decision::Class(c, p)) if *t as usize != *c => Some((p[*c], i)),
            _ => None,
        })
        .collect();
    wrong.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
    wrong.truncate(EXAMPLES);
    let text = model.plan.columns.iter().find(|c| c.modality == Modality::Text).map(|c| c.source.clone());
    wrong
        .into_iter()
        .map(|(confidence, i)| {
            let row = answered.rows[i];
            let text = match &text {
                Some(column) if dataset.table.column_index(column).is_ok() => {
                    dataset.texts(column, &[row])?.pop().flatten()
                }
                _ => None,
            };
            Ok(Example {
                id: evaluated.names[i].clone(),
                truth: objective.label.decode(&answered.targets[i]),
                answer: objective.describe(&answered.decisions[i]),
                confidence: Some(confidence),
                text,
                thumbnails: Vec::new(),
            })
        })
        .collect()
}
