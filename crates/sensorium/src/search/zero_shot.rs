//! Zero-shot classification: classes that are known by name only.
//!
//! Each name goes into some sentences ("a photo of a {}."); the mean of their
//! vectors stands for the class (Radford et al. 2021, "prompt ensembling").

use super::embed::{embed, embed_many, unit};
use super::open;
use super::plan::TablePlan;
use super::space::{Similarity, Space};
use crate::predict::{Counts, Prediction};
use crate::{Decision, Error, Result};
use rayon::prelude::*;
use sensorium_data::{Modality, OnBad, Sample, Sampler, Schema, SchemaOptions, Table, TableOptions, Value};
use std::path::Path;

/// The language of the sentences.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Language {
    /// English.
    #[default]
    English,
    /// Chinese.
    Chinese,
}

impl Language {
    /// Sentences about pictures, `{}` standing for the class.
    fn pictures(self) -> &'static [&'static str] {
        match self {
            Self::English => &[
                "a photo of a {}.",
                "a blurry photo of a {}.",
                "a close-up photo of a {}.",
                "a drawing of a {}.",
                "a photo of the large {}.",
                "a photo of the small {}.",
            ],
            Self::Chinese => {
                &["一张{}的照片。", "{}的特写。", "一幅{}的图画。", "一张模糊的{}的照片。", "图片里有{}。"]
            }
        }
    }

    /// Sentences about sounds.
    fn sounds(self) -> &'static [&'static str] {
        match self {
            Self::English => &["the sound of {}.", "a recording of {}."],
            Self::Chinese => &["{}的声音。", "一段{}的录音。"],
        }
    }

    /// Sentences about texts.
    fn texts(self) -> &'static [&'static str] {
        match self {
            Self::English => &["This text is about {}.", "{}"],
            Self::Chinese => &["这段文字是关于{}的。", "{}"],
        }
    }

    /// The language of some names: Chinese where most have its characters.
    pub fn of(names: &[String]) -> Self {
        let han = |name: &&String| name.chars().any(|c| ('\u{4e00}'..='\u{9fff}').contains(&c));
        if 2 * names.iter().filter(han).count() > names.len() { Self::Chinese } else { Self::English }
    }
}

/// How classes are told.
#[derive(Debug, Clone, Default)]
pub struct ZeroShotOptions {
    /// The names of the classes.
    pub labels: Vec<String>,
    /// Sentences with `{}` for the class; empty for some that suit the
    /// modality and the language.
    pub templates: Vec<String>,
    /// The language of those; None for that of the names.
    pub language: Option<Language>,
}

/// Classes in a space.
pub struct ZeroShot {
    /// The names of the classes.
    pub labels: Vec<String>,
    /// For each class its direction `[dim]`.
    classes: Vec<Vec<f32>>,
    similarity: Similarity,
}

impl ZeroShot {
    /// Embeds the names of the classes, to compare with things of a modality.
    ///
    /// # Errors
    /// When the model embeds no texts, fewer than two classes are named, one
    /// is named twice, or a sentence has no place for the name.
    pub fn new(space: &dyn Space, modality: Modality, options: &ZeroShotOptions) -> Result<Self> {
        let labels: Vec<String> =
            options.labels.iter().map(|l| l.trim().to_owned()).filter(|l| !l.is_empty()).collect();
        if labels.len() < 2 {
            return Err(Error::Request("name two classes at least, as --labels cat,dog".into()));
        }
        if let Some(twice) = labels.iter().enumerate().find(|(at, label)| labels[..*at].contains(label)) {
            return Err(Error::Request(format!("the class {:?} is named twice", twice.1)));
        }
        if let Some(bad) = options.templates.iter().find(|t| !t.contains("{}")) {
            return Err(Error::Request(format!(
                "--template {bad:?} has no {{}} where the class belongs, as \"a photo of a {{}}.\""
            )));
        }
        let language = options.language.unwrap_or_else(|| Language::of(&labels));
        let usual = match modality {
            Modality::Image | Modality::Video => language.pictures(),
            Modality::Audio => language.sounds(),
            _ => language.texts(),
        };
        let templates: Vec<&str> = match options.templates.is_empty() {
            true => usual.to_vec(),
            false => options.templates.iter().map(String::as_str).collect(),
        };
        let sentences =
            labels.iter().flat_map(|label| templates.iter().map(move |t| Value::Text(t.replace("{}", label))));
        let vectors = embed_many(space, Modality::Text, sentences.collect())?;
        let mean = |vectors: &[Vec<f32>]| {
            let mut sum = vec![0.0; space.dim()];
            vectors.iter().for_each(|v| sum.iter_mut().zip(v).for_each(|(s, x)| *s += x));
            unit(sum)
        };
        let classes = vectors.chunks(templates.len()).map(mean).collect();
        Ok(Self { labels, classes, similarity: space.similarity() })
    }

    /// The class of a vector.
    pub fn decide(&self, vector: Vec<f32>) -> Decision {
        let vector = unit(vector);
        let cosine =
            |class: &Vec<f32>| class.iter().zip(&vector).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
        let Similarity { scale, bias } = self.similarity;
        let logits = self.classes.iter().map(|c| f64::from(scale) * cosine(c) + f64::from(bias.unwrap_or(0.0)));
        let logits: Vec<f64> = logits.collect();
        let best = (1..logits.len()).fold(0, |best, at| if logits[at] > logits[best] { at } else { best });
        let probabilities = match bias {
            Some(_) => logits.iter().map(|l| 1.0 / (1.0 + (-l).exp())).collect(),
            None => {
                let powers: Vec<f64> = logits.iter().map(|l| (l - logits[best]).exp()).collect();
                let sum: f64 = powers.iter().sum();
                powers.into_iter().map(|p| p / sum).collect()
            }
        };
        Decision::Class(best, probabilities)
    }
}

/// Rows answered at a time.
const BATCH: u64 = 32;
/// Problems kept for the person to read.
const PROBLEMS: usize = 10;

/// Sorts every row of a table, in order, by its one column that the model can
/// read, or the one that is named.
///
/// # Errors
/// When the model, the table and the classes do not fit each other, `each`
/// fails, or a row cannot be read under [`OnBad::Fail`].
pub fn classify_table(
    model: &Path,
    table: &Path,
    column: Option<&str>,
    options: &ZeroShotOptions,
    on_error: OnBad,
    each: &mut dyn FnMut(Prediction) -> Result<()>,
) -> Result<Counts> {
    let space = open(model)?;
    let table = Table::open(table, &TableOptions::default())?;
    let schema = Schema::infer(&table, &SchemaOptions::default())?;
    let named: Vec<String> = column.into_iter().map(str::to_owned).collect();
    let plan = TablePlan::new(&*space, &table, &schema, &named)?;
    if let [first, _, ..] = &plan.plan.columns[..] {
        let names: Vec<&str> = plan.plan.columns.iter().map(|c| c.name.as_str()).collect();
        return Err(Error::Request(format!(
            "the model can read several columns ({}); name the one to sort by, as --column {}",
            names.join(", "),
            first.name
        )));
    }
    let zero_shot = ZeroShot::new(&*space, plan.plan.columns[0].modality, options)?;
    let sampler = Sampler::new(plan.plan.clone(), table.folder(), None);
    let binding = sensorium_data::Binding::new(&plan.plan, &table)?;
    let mut counts = Counts::default();
    for first in (0..table.len()).step_by(BATCH as usize) {
        let rows: Vec<u64> = (first..(first + BATCH).min(table.len())).collect();
        let samples: Vec<Sample> =
            rows.par_iter().map(|row| Ok(sampler.row(&table, &binding, *row, None)?)).collect::<Result<_>>()?;
        for prediction in answer(&*space, &plan, &zero_shot, samples)? {
            match (&prediction.problem, on_error) {
                (None, _) => counts.answered += 1,
                (Some(problem), OnBad::Fail) => {
                    return Err(Error::Request(format!(
                        "{problem}; answer the other rows with --on-error skip or --on-error null"
                    )));
                }
                (Some(problem), _) => {
                    counts.bad += 1;
                    if counts.problems.len() < PROBLEMS {
                        counts.problems.push(problem.clone());
                    }
                }
            }
            if prediction.problem.is_none() || on_error == OnBad::Null {
                each(prediction)?;
            }
        }
    }
    Ok(counts)
}

/// Sorts one thing.
///
/// # Errors
/// As [`classify_table`].
pub fn classify_values(model: &Path, query: &super::Query, options: &ZeroShotOptions) -> Result<Prediction> {
    let space = open(model)?;
    let zero_shot = ZeroShot::new(&*space, query.modality, options)?;
    let vector = super::embed::embed_one(&*space, query.modality, Value::Text(query.value.clone()))?;
    let decision = zero_shot.decide(vector);
    let label = name(&zero_shot, &decision);
    Ok(Prediction { row: 0, decision: Some(decision), label, problem: None })
}

fn name(zero_shot: &ZeroShot, decision: &Decision) -> Option<String> {
    match decision {
        Decision::Class(at, _) => zero_shot.labels.get(*at).cloned(),
        _ => None,
    }
}

fn answer(space: &dyn Space, plan: &TablePlan, zero_shot: &ZeroShot, samples: Vec<Sample>) -> Result<Vec<Prediction>> {
    let mut predictions: Vec<Prediction> = samples
        .iter()
        .map(|sample| {
            let problem =
                sample.problems.first().map(|p| format!("row {}, column {:?}: {}", p.row + 1, p.column, p.message));
            let missing = || sample.segments.is_empty().then(|| format!("row {}: it is missing", sample.row + 1));
            Prediction { row: sample.row, decision: None, label: None, problem: problem.or_else(missing) }
        })
        .collect();
    let vectors = embed(space, &plan.plan, &plan.ways, samples)?.remove(0);
    for (prediction, vector) in predictions.iter_mut().zip(vectors) {
        if let (None, Some(vector)) = (&prediction.problem, vector) {
            let decision = zero_shot.decide(vector);
            prediction.label = name(zero_shot, &decision);
            prediction.decision = Some(decision);
        }
    }
    Ok(predictions)
}
