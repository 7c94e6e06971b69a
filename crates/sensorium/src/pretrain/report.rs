//! What a run leaves for people to read: the report page, the curves,
//! `metrics.json` and the model card.

use super::Structures;
use super::config::PretrainConfig;
use super::network::Network;
use super::pictures::as_fit;
use super::save::{AUDIO_FOLDER, CAPTION_FOLDER, FUSION_FOLDER, IMAGE_FOLDER, PAIR_FOLDER, TEXT_FOLDER, VIDEO_FOLDER};
use super::sections::MimMethod;
use super::structure::TextModel;
use crate::saved::write as write_file;
use crate::verbs::training_facts;
use crate::{Error, Result};
use sensorium_eval::RunPage;
use sensorium_eval::plot::{LineChart, Marker, Series};
use sensorium_model::TransformerConfig;
use sensorium_model::pretrained::Pretrained;
use sensorium_train::Summary;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// The report page's file.
const PAGE: &str = "report.html";
/// Points of the training curve, at most.
const CURVE_POINTS: usize = 400;

/// Writes all of it, with the rows that could not be read; returns the page.
///
/// # Errors
/// When a file cannot be written.
pub(super) fn write(
    folder: &Path,
    (metrics, unread): (&BTreeMap<String, f64>, &[String]),
    summary: &Summary,
    (structures, network): (&Structures, &Network),
    config: &PretrainConfig,
) -> Result<PathBuf> {
    let json = serde_json::to_string_pretty(metrics).map_err(|e| Error::model(folder, e.to_string()))?;
    write_file(&folder.join("metrics.json"), json.as_bytes())?;
    let charts = charts(summary);
    for chart in &charts {
        let name = chart.y_label.split_whitespace().next().unwrap_or("loss");
        write_file(&folder.join(format!("{name}.svg")), chart.to_svg().as_bytes())?;
    }
    let mut facts = facts(config, structures, network, summary);
    facts.extend(unread.iter().map(|text| ("could not be used".to_owned(), text.clone())));
    let values: Vec<(String, String)> =
        metrics.iter().map(|(name, x)| (name.replace('_', " "), format!("{x:.4}"))).collect();
    let title = format!("Pretraining: {}", names(structures).join(", "));
    let page = RunPage { title: &title, facts: &facts, metrics: &values, learning: &charts };
    let path = folder.join(PAGE);
    write_file(&path, page.to_html().as_bytes())?;
    write_file(&folder.join("README.md"), card(&facts, &values, (structures, network), config).as_bytes())?;
    Ok(path)
}

fn card(
    facts: &[(String, String)],
    metrics: &[(String, String)],
    (structures, network): (&Structures, &Network),
    config: &PretrainConfig,
) -> String {
    let labels = if config.pretrain.image_class.weight > 0.0 { "" } else { ", without labels" };
    let mut card = format!("# {}, pretrained\n\nMade by Sensorium{labels}.", names(structures).join(" and "));
    let mut used = String::new();
    if let Some(text) = &structures.text {
        let (what, class) = match &text.model {
            TextModel::Masked { .. } if network.learns_text() => {
                ("an encoder of text that has guessed hidden tokens", "AutoModelForMaskedLM")
            }
            TextModel::Masked { .. } => ("an encoder of text", "AutoModel"),
            TextModel::Causal(_) => ("a language model that says the next token", "AutoModelForCausalLM"),
        };
        card += &format!(" The folder `{TEXT_FOLDER}` holds {what}, with its tokenizer.");
        used += &usage(TEXT_FOLDER, class);
    }
    if structures.image.is_some() {
        let guessed = if network.learns_images() { " that has guessed hidden patches" } else { "" };
        card += &format!(" The folder `{IMAGE_FOLDER}` holds an encoder of pictures{guessed}.");
        used += &usage(IMAGE_FOLDER, "AutoModel");
    }
    if structures.audio.is_some() {
        card += &format!(
            " The folder `{AUDIO_FOLDER}` holds an encoder of sounds that has guessed hidden squares of spectrograms."
        );
        used += &usage(AUDIO_FOLDER, "AutoModel");
    }
    if structures.video.is_some() {
        card += &format!(" The folder `{VIDEO_FOLDER}` holds an encoder of the frames of videos.");
        used += &usage(VIDEO_FOLDER, "AutoModel");
    }
    if config.pretrain.contrastive.weight > 0.0 {
        card += &format!(" The folder `{PAIR_FOLDER}` holds columns whose vectors meet in one space.");
        used += &format!(
            "```sh\nsensorium index {PAIR_FOLDER} rows.csv --out rows.index\nsensorium search rows.index --text \"…\"\n\
             sensorium predict {PAIR_FOLDER} pictures.csv --labels cat,dog\n```\n\n"
        );
    }
    if config.pretrain.caption.weight > 0.0 {
        card += &format!(
            " The folder `{CAPTION_FOLDER}` holds an encoder of pictures and a decoder that writes about them."
        );
        used += &format!(
            "```sh\nsensorium model info {CAPTION_FOLDER}\n```\n\nWith the transformers library: \
             `VisionEncoderDecoderModel.from_pretrained(\"{CAPTION_FOLDER}\").generate(pixel_values)`.\n\n"
        );
    }
    if config.pretrain.fusion.weight > 0.0 {
        card += &format!(
            " The folder `{FUSION_FOLDER}` holds a language model over texts and codes of patches, whose centres stand in \
             `codebook.safetensors`."
        );
        used += &format!("```sh\nsensorium model info {FUSION_FOLDER}\n```\n\n");
    }
    card += &format!("\n\n## Use\n\n{used}## Facts\n\n");
    for (name, fact) in facts {
        card += &format!("- {name}: {fact}\n");
    }
    if !metrics.is_empty() {
        let given = config.corpus.validation.is_empty() || structures.text.is_none();
        let on = if given { "what was held out" } else { "the validation files" };
        card += &format!("\n## Measured on {on}\n\n");
        for (name, value) in metrics {
            card += &format!("- {name}: {value}\n");
        }
    }
    card += "\n## Limits\n\nIt has learnt from what it was given, with whatever that shows and leaves out. \
             Perplexities compare only between models with the same tokens.\n";
    card
}

/// What was pretrained: families where there are some.
fn names(structures: &Structures) -> Vec<&'static str> {
    let families = structures.families();
    if families.is_empty() { vec!["columns"] } else { families }
}

/// How a tower's folder is used.
fn usage(folder: &str, class: &str) -> String {
    format!(
        "```toml\n# in the configuration of a fit\n[{folder}]\nencoder = \"{folder}\"\n```\n\n```sh\nsensorium model info \
         {folder}\nsensorium extract {folder} rows.csv\n```\n\nWith the transformers library: \
         `{class}.from_pretrained(\"{folder}\")`.\n\n"
    )
}

/// What there is to know of a run.
fn facts(
    config: &PretrainConfig,
    structures: &Structures,
    network: &Network,
    summary: &Summary,
) -> Vec<(String, String)> {
    let mut facts: Vec<(String, String)> = Vec::new();
    let size = |t: &TransformerConfig| format!("{} layers of {}, {} heads", t.layers, t.block.hidden, t.block.heads);
    let start = |source: &Option<Pretrained>| match source {
        Some(source) => format!("from {}", source.folder().display()),
        None => "from scratch".to_owned(),
    };
    if let Some(text) = &structures.text {
        let (transformer, objective) = match &text.model {
            TextModel::Masked { tower, .. } => {
                let m = &config.pretrain.mlm;
                let how = match (m.span > 0.0, m.whole_word) {
                    (true, _) => format!(", in spans of {} words on average", m.span),
                    (false, true) => ", whole words".into(),
                    (false, false) => String::new(),
                };
                let share = 100.0 * m.share;
                let objective = format!("masked language modelling, {share} % of the tokens{how}");
                (&tower.transformer, network.learns_text().then_some(objective))
            }
            TextModel::Causal(decoder) => (&decoder.transformer, Some("causal language modelling".to_owned())),
        };
        let vocabulary = text.tokenizer.vocab_size();
        let what = format!("{}, {}, {vocabulary} tokens, {}", text.family, size(transformer), start(&text.source));
        facts.push(("text".into(), what));
        facts.extend(objective.map(|objective| ("text objective".into(), objective)));
    }
    if let Some(image) = &structures.image {
        let (c, m) = (&image.tower, &config.pretrain.mim);
        let (pixels, patch) = (c.image_size, c.patch_size);
        let what = format!(
            "{}, {}, {pixels}×{pixels} pixels in patches of {patch}, {}",
            image.family,
            size(&c.transformer),
            start(&image.source)
        );
        let method = match m.method {
            MimMethod::Mae => "masked autoencoder",
            MimMethod::Simmim => "SimMIM",
        };
        let objective = format!("{method}, {} % of the patches hidden", 100.0 * m.share());
        facts.push(("image".into(), what));
        if network.learns_images() {
            facts.push(("image objective".into(), objective));
        }
    }
    if let Some(audio) = &structures.audio {
        let c = &audio.tower;
        let (bands, frames) = (c.mels, c.max_positions);
        let sizes = size(&c.transformer);
        let what = format!("{}, {sizes}, {bands} bands, up to {frames} frames, {}", audio.family, start(&audio.source));
        let share = 100.0 * config.pretrain.msm.share;
        let objective = format!("masked spectrogram modelling, {share} % of the squares hidden");
        facts.extend([("audio".into(), what), ("audio objective".into(), objective)]);
    }
    facts.extend(network.together.iter().flat_map(|t| t.facts()));
    facts.extend(training_facts(&network.params, &as_fit(config), Some(summary)));
    facts
}

/// Loss, perplexity and accuracy over the steps.
fn charts(summary: &Summary) -> Vec<LineChart> {
    let history = &summary.history;
    let marker =
        history.epochs.iter().rev().find(|e| e.best).map(|e| Marker { x: e.step as f64, label: "best".into() });
    // Means over stretches of steps: single ones are noise.
    let stretch = history.steps.len().div_ceil(CURVE_POINTS).max(1);
    let training = history.steps.chunks(stretch).map(|steps| {
        let mean = steps.iter().map(|s| s.loss).sum::<f64>() / steps.len() as f64;
        (steps[steps.len() - 1].step as f64, mean)
    });
    let mut loss = vec![Series { name: "training".into(), points: training.collect() }];
    let validation = |end: &str| -> Vec<Series> {
        let names: std::collections::BTreeSet<&String> =
            history.epochs.iter().flat_map(|e| e.metrics.keys()).filter(|name| name.ends_with(end)).collect();
        let series = |name: &String| Series {
            name: format!("validation, {}", name.trim_end_matches(end)),
            points: history.epochs.iter().filter_map(|e| Some((e.step as f64, *e.metrics.get(name)?))).collect(),
        };
        names.into_iter().map(series).collect()
    };
    loss.extend(validation("_loss"));
    let chart = |title: &str, y: &str, series: Vec<Series>| LineChart {
        title: title.into(),
        x_label: "step".into(),
        y_label: y.into(),
        series,
        marker: marker.clone(),
        whole_x: true,
        ..LineChart::default()
    };
    let mut charts = vec![chart("Loss", "loss", loss)];
    for (title, end) in
        [("Perplexity", "_perplexity"), ("Right guesses", "_accuracy"), ("Recall at 10", "_recall_at_10")]
    {
        let series = validation(end);
        if !series.is_empty() {
            charts.push(chart(title, &end[1..].replace('_', " "), series));
        }
    }
    charts
}
