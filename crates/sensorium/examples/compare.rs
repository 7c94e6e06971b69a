//! Several models on the same test rows: one table, one page.
//!
//! ```sh
//! cargo run --release --example compare -- TABLE REPORT.html MODEL...
//! ```
//!
//! Prints accuracy and macro F1 of each model with intervals, what each fused model gains over each
//! that takes a part of its inputs, with paired intervals, and what is left of the fused models when
//! modalities are taken away.

use indexmap::IndexMap;
use sensorium::evaluate::{EvaluateOptions, Evaluated, evaluate};
use sensorium::rooms::eval::{Align, Comparison, Evaluation, Gain, Page, Table, compare_gains, compare_models};
use sensorium::{Model, Result, Split};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

const METRIC: &str = "accuracy";

fn main() -> ExitCode {
    let arguments: Vec<PathBuf> = std::env::args_os().skip(1).map(PathBuf::from).collect();
    let [table, report, folders @ ..] = arguments.as_slice() else {
        eprintln!("usage: compare TABLE REPORT.html MODEL...");
        return ExitCode::from(2);
    };
    match compare(table, report, folders) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

struct Entry {
    name: String,
    model: Model,
    result: Evaluated,
}

impl Entry {
    /// Whether the model fuses what another of them takes alone.
    fn fuses(&self, entries: &[Entry]) -> bool {
        let own: BTreeSet<&str> = self.model.columns().into_iter().collect();
        entries.iter().any(|other| {
            let columns = other.model.columns();
            columns.len() < own.len() && columns.iter().all(|c| own.contains(c))
        })
    }

    fn accuracy(&self) -> f64 {
        self.result.evaluation.metric(METRIC).unwrap_or(f64::NAN)
    }
}

fn compare(table: &Path, report: &Path, folders: &[PathBuf]) -> Result<()> {
    let test = EvaluateOptions { split: Some(Split::Test), ..EvaluateOptions::default() };
    let mut entries = Vec::new();
    for folder in folders {
        let model = Model::load(folder)?;
        let result = evaluate(&model, table, &test)?;
        let name = folder.file_name().unwrap_or(folder.as_os_str()).to_string_lossy().into_owned();
        entries.push(Entry { name, model, result });
    }
    let models: IndexMap<String, Evaluation> =
        entries.iter().map(|e| (e.name.clone(), e.result.evaluation.clone())).collect();
    println!("{}", compare_models(&models, &[METRIC, "macro_f1"], false));

    let best_of = |fuses: bool| {
        entries.iter().filter(|e| e.fuses(&entries) == fuses).max_by(|a, b| a.accuracy().total_cmp(&b.accuracy()))
    };
    let (single, fused) = (best_of(false), best_of(true));
    let mut gains = Vec::new();
    let mut shown = None;
    for entry in entries.iter().filter(|e| e.fuses(&entries)) {
        for other in entries.iter().filter(|e| !e.fuses(&entries)) {
            let comparison = entry.result.compared_with(&other.result)?;
            gains.extend(Gain::of(&comparison, METRIC, &entry.name, &other.name));
            let both_best = |e: &Entry, best: Option<&Entry>| best.is_some_and(|b| b.name == e.name);
            if both_best(entry, fused) && both_best(other, single) {
                shown = Some(comparison);
            }
        }
    }
    if !gains.is_empty() {
        let confidence = entries[0].result.evaluation.bootstrap.unwrap_or_default().confidence;
        println!("on the same rows:\n{}", compare_gains(&gains, confidence, false));
    }
    println!("{}", taken_away(&entries));

    let Some(best) = fused.or(single) else { return Ok(()) };
    write_page(report, best, &entries, &models, &gains, shown.as_ref())?;
    println!("report: {}", report.display());
    Ok(())
}

/// Accuracy of the fused models with only some of their inputs.
fn taken_away(entries: &[Entry]) -> String {
    let fused: Vec<&Entry> = entries.iter().filter(|e| e.fuses(entries)).collect();
    let Some(first) = fused.first() else { return String::new() };
    let columns = fused.iter().map(|e| (e.name.clone(), Align::Right));
    let mut table = Table::new([("inputs".to_owned(), Align::Left)].into_iter().chain(columns));
    let everything = first.model.columns().join(" + ");
    table.row([everything].into_iter().chain(fused.iter().map(|e| points(Some(e.accuracy())))));
    for inputs in first.result.evaluation.subsets.keys() {
        let accuracy = |e: &&Entry| {
            let subset = e.result.evaluation.subsets.get(inputs);
            points(subset.and_then(|s| s.metrics.get(METRIC).copied().flatten()))
        };
        table.row([inputs.clone()].into_iter().chain(fused.iter().map(accuracy)));
    }
    format!("accuracy with inputs taken away, without training again:\n{}", table.to_text())
}

fn points(share: Option<f64>) -> String {
    share.map_or_else(|| "–".to_owned(), |s| format!("{:.1} %", 100.0 * s))
}

fn write_page(
    path: &Path,
    shown: &Entry,
    entries: &[Entry],
    models: &IndexMap<String, Evaluation>,
    gains: &[Gain],
    against_best: Option<&Comparison>,
) -> Result<()> {
    let label = &shown.model.learner.objective.label.column;
    let title = format!("{label}: one modality alone, and fused");
    let highlight: Vec<String> = entries.iter().filter(|e| e.fuses(entries)).map(|e| e.name.clone()).collect();
    let facts: Vec<(String, String)> = entries
        .iter()
        .map(|e| {
            let (parameters, _) = e.model.learner.params.count();
            (e.name.clone(), format!("{} ({parameters} parameters)", e.model.columns().join(", ")))
        })
        .collect();
    let page = Page {
        facts: &facts,
        models: Some(models),
        highlight: &highlight,
        gains,
        comparison: against_best,
        ids: Some(&shown.result.names),
        ..Page::new(&title, &shown.result.evaluation)
    };
    let problem = |error: std::io::Error| sensorium::Error::Request(format!("cannot write {path:?}: {error}"));
    std::fs::write(path, page.to_html()).map_err(problem)
}
