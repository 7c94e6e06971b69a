//! What a fit leaves for people to read: the page with queries and what came
//! first, the learning curves, `metrics.json` and the model card.

use super::Retriever;
use super::evaluate::{Direction, Place, RetrievalEvaluation};
use crate::saved::write as write_file;
use crate::search::sheet::{STYLE, escape, shown};
use crate::verbs::{Dataset, learning_curves, training_facts};
use crate::{Error, Result};
use sensorium_data::Modality;
use sensorium_data::media_ref::{MediaRef, parse_media};
use sensorium_train::Summary;
use std::fmt::Write;
use std::path::{Path, PathBuf};

/// Metrics of validation that are drawn over the epochs.
const WATCHED: [&str; 3] = ["recall_at_1", "recall_at_10", "mrr"];

/// Rules of this page beside the contact sheet's.
const MORE_STYLE: &str = "\
table{border-collapse:collapse;font-variant-numeric:tabular-nums;margin:.5rem 0 1.5rem}\
th,td{padding:.3rem .8rem;border-bottom:1px solid var(--line);text-align:right}\
th:first-child,td:first-child{text-align:left}h2{font-size:1.1rem;margin:2rem 0 .5rem}\
main.ask{grid-template-columns:repeat(6,minmax(0,1fr));margin-bottom:1.2rem}\
figure.right{border-color:#2c8a4b;box-shadow:0 0 0 1px #2c8a4b}figure.query{border-style:dashed}\
svg{max-width:100%;height:auto}";

/// Writes `report.html`, `metrics.json` and the curves; returns the page.
///
/// # Errors
/// When a file cannot be written.
pub(super) fn write(
    folder: &Path,
    model: &Retriever,
    dataset: &Dataset,
    (after, before): (&RetrievalEvaluation, &RetrievalEvaluation),
    summary: &Summary,
    split: &str,
) -> Result<PathBuf> {
    let json = serde_json::to_string_pretty(after).map_err(|e| Error::model(folder, e.to_string()))?;
    write_file(&folder.join("metrics.json"), json.as_bytes())?;
    let charts = learning_curves(summary, &WATCHED);
    for chart in &charts {
        let name = if chart.y_label == "loss" { "loss.svg" } else { "learning.svg" };
        write_file(&folder.join(name), chart.to_svg().as_bytes())?;
    }
    let mut page = format!(
        "<!DOCTYPE html>\n<html>\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; img-src data:; media-src data:; \
         style-src 'unsafe-inline'\">\n<title>Retrieval: {split} split</title>\n<style>{STYLE}{MORE_STYLE}</style>\n\
         </head>\n<body>\n<header><h1>Retrieval: {split} split</h1><p>{} rows</p></header>\n",
        after.rows
    );
    page += &metrics("After training", after);
    page += &metrics("Before training", before);
    for chart in &charts {
        page += &format!("<div>{}</div>\n", chart.to_svg());
    }
    for direction in &after.directions {
        page += &examples(model, dataset, direction)?;
    }
    page += "</body>\n</html>\n";
    let path = folder.join("report.html");
    write_file(&path, page.as_bytes())?;
    Ok(path)
}

fn metrics(title: &str, evaluation: &RetrievalEvaluation) -> String {
    let mut html = format!(
        "<h2>{title}</h2>\n<table><tr><th>query → answer</th><th>queries</th><th>answers</th><th>R@1</th><th>R@5</th>\
         <th>R@10</th><th>R@10 by chance</th><th>median rank</th><th>MRR</th></tr>\n"
    );
    for d in &evaluation.directions {
        let m = &d.metrics;
        // Writing to a string cannot fail.
        let _ = writeln!(
            html,
            "<tr><td>{} → {}</td><td>{}</td><td>{}</td><td>{:.3}</td><td>{:.3}</td><td>{:.3}</td><td>{:.3}</td>\
             <td>{}</td><td>{:.3}</td></tr>",
            escape(&d.from),
            escape(&d.to),
            m.queries,
            d.items,
            m.recall_at_1,
            m.recall_at_5,
            m.recall_at_10,
            d.chance_at_10,
            m.median_rank,
            m.mrr
        );
    }
    html + "</table>\n"
}

/// A few queries, each beside what came first; what belongs to it is framed.
fn examples(model: &Retriever, dataset: &Dataset, direction: &Direction) -> Result<String> {
    let mut html = format!("<h2>{} → {}</h2>\n", escape(&direction.from), escape(&direction.to));
    let card = |column: &str, place: Place, class: &str, caption: &str| -> Result<String> {
        let (modality, source) = cell(model, dataset, column, place)?;
        let shown = shown(Some(modality), &source);
        Ok(format!("<figure class=\"{class}\">{shown}<figcaption>{}</figcaption></figure>\n", escape(caption)))
    };
    for example in &direction.examples {
        html += "<main class=\"ask\">\n";
        html += &card(&direction.from, example.query, "query", &format!("row {}", example.query.row + 1))?;
        for (place, cosine, right) in &example.answers {
            let class = if *right { "right" } else { "" };
            let mark = if *right { " ✓" } else { "" };
            html += &card(&direction.to, *place, class, &format!("{cosine:.3}{mark}"))?;
        }
        html += "</main>\n";
    }
    Ok(html)
}

/// What stands in a part of a cell: a text, or the path of a file.
fn cell(model: &Retriever, dataset: &Dataset, column: &str, place: Place) -> Result<(Modality, String)> {
    let Some(plan) = model.plan.columns.iter().find(|c| c.name == column) else {
        return Err(Error::Request(format!("the model has no column {column:?}")));
    };
    let at = dataset.table.column_index(&plan.source)?;
    let value = dataset.table.row(place.row)?.values.swap_remove(at);
    let source = match plan.modality {
        Modality::Text => value.texts().into_iter().nth(place.part).unwrap_or_default(),
        Modality::Image | Modality::Audio | Modality::Video => {
            let parts = parse_media(&value, dataset.table.folder()).unwrap_or_default();
            match parts.into_iter().nth(place.part) {
                Some(MediaRef::File(path)) => path.display().to_string(),
                _ => format!("row {}", place.row + 1),
            }
        }
        _ => value.as_text().unwrap_or_default(),
    };
    Ok((plan.modality, source))
}

/// Writes the model card.
///
/// # Errors
/// When the file cannot be written.
pub(crate) fn write_card(
    folder: &Path,
    model: &Retriever,
    evaluated: Option<&RetrievalEvaluation>,
    summary: &Summary,
    split: &str,
) -> Result<()> {
    let config = model.learner.model.config();
    let mut card = format!(
        "# Retrieval\n\nA multimodal model made by Sensorium. What belongs together lies close in its space of {} \
         numbers:\n\n",
        config.dim
    );
    for c in &model.plan.columns {
        card += &format!("- `{}` ({})\n", c.name, c.modality.name());
    }
    card += "\n## Use\n\n```sh\nsensorium index . rows.csv --out rows.index\nsensorium search rows.index --text \"…\"\n\
             sensorium evaluate . rows.csv\n```\n\n## Facts\n\n";
    for (name, value) in training_facts(&model.learner.params, &model.config, Some(summary)) {
        card += &format!("- {name}: {value}\n");
    }
    if let Some(e) = evaluated {
        card += &format!("\n## Measured on the {split} split ({} rows)\n\n```text\n{}```\n", e.rows, e.to_text()?);
    }
    card += "\n## Limits\n\nThe figures hold for rows like those it was measured on, and for as many answers to choose \
             from: among more, the right one is harder to find.\n";
    write_file(&folder.join("README.md"), card.as_bytes())
}
