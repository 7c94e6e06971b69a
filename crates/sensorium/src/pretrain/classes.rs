//! Classes of rows: what a picture shows, learnt beside all else, or asked for
//! by name.

use super::classifier::Classifier;
use super::columns::Columns;
use super::config::PretrainConfig;
use super::part::{Part, count};
use super::start::{below, start};
use super::together::{Read, Together};
use crate::{Dataset, Error, Result};
use sensorium_data::Modality;
use sensorium_engine::{Builder, Params, Tensor, ops};
use sensorium_model::Context;
use sensorium_model::heads::{Head, HeadConfig, HeadInput};
use sensorium_model::objectives::best_is;
use serde_json::{Map, Value, json};
use std::collections::{BTreeSet, HashMap};
use std::path::Path;

/// Below which the head's parameters stand.
const SCOPE: &str = "class_head";

/// The classes of a column, in their order, and the rows of each.
#[derive(Debug, Clone)]
pub(super) struct Labels {
    /// The names.
    pub names: Vec<String>,
    /// The class of each row that has one.
    pub of_row: HashMap<u64, usize>,
}

impl Labels {
    /// The classes of a column in the training rows, and in those that are
    /// held out where `all`.
    ///
    /// # Errors
    /// When there are fewer than two.
    pub(super) fn new(dataset: &Dataset, column: &str, all: bool, place: &str) -> Result<Self> {
        let (train, val) = (&dataset.splits.train, &dataset.splits.val);
        let text = |rows: &[u64]| -> Result<Vec<Option<String>>> {
            let trimmed = |name: String| Some(name.trim().to_owned()).filter(|n| !n.is_empty());
            Ok(dataset.texts(column, rows)?.into_iter().map(|name| name.and_then(trimmed)).collect())
        };
        let (of_train, of_val) = (text(train)?, text(val)?);
        let known = of_train.iter().chain(of_val.iter().filter(|_| all)).flatten();
        let names: Vec<String> = known.cloned().collect::<BTreeSet<_>>().into_iter().collect();
        if names.len() < 2 {
            let problem = format!("column {column:?} has fewer than two classes");
            return Err(Error::Config { place: place.into(), problem });
        }
        let rows = train.iter().chain(val).zip(of_train.into_iter().chain(of_val));
        let of_row = rows.filter_map(|(row, name)| Some((*row, names.binary_search(&name?).ok()?))).collect();
        Ok(Self { names, of_row })
    }
}

/// The class of a picture.
pub(super) struct ImageClass {
    head: Head,
    labels: Labels,
    pub image: usize,
    /// How it is kept, where the tower began with an encoder.
    classifier: Option<Classifier>,
    weight: f64,
    smoothing: f64,
}

impl ImageClass {
    /// Adds the head to `params`.
    ///
    /// # Errors
    /// When columns are not there.
    pub(super) fn new(params: &mut Params, columns: &Columns, config: &PretrainConfig) -> Result<Self> {
        let p = &config.pretrain.image_class;
        let image = columns.one("pretrain.image_class.column", Modality::Image, p.column.as_ref())?;
        let place = "pretrain.image_class.label";
        let label = p.label.as_ref().ok_or_else(|| Error::Config {
            place: place.into(),
            problem: "missing; expected the column with the class of a row".into(),
        })?;
        let labels = Labels::new(&columns.dataset, label, false, place)?;
        let tower = &columns.towers[image].tower;
        let structured = columns.image == Some(image);
        let classifier = match structured {
            true => None,
            false => Classifier::of(columns, image, id2label(&labels.names))?,
        };
        let head = match &classifier {
            // A ViT's classifier reads its class token.
            None if structured => HeadConfig::linear(HeadInput::First, tower.hidden(), labels.names.len()),
            Some(classifier) => classifier.head.clone(),
            None => HeadConfig::linear(HeadInput::Pooled, tower.dim(), labels.names.len()),
        };
        let head = Head::new(&mut Builder::new(params, config.train.seed).scope(SCOPE), &head)?;
        start(params, SCOPE, config.train.seed, None);
        Ok(Self { head, labels, image, classifier, weight: p.weight, smoothing: p.label_smoothing })
    }

    /// The loss over the pictures of a batch whose row has a class; None where
    /// there are none.
    ///
    /// # Errors
    /// When widths do not fit.
    pub(super) fn part(&self, cx: &Context<'_>, read: &Read<'_>, judged: bool) -> Result<Option<Part>> {
        let Some(pictures) = &read.features[self.image] else { return Ok(None) };
        let class = |sample: &u32| self.labels.of_row.get(&read.rows[*sample as usize]).map(|class| *class as u32);
        let targets: Vec<Option<u32>> = pictures.sample_of.iter().map(class).collect();
        let asked = targets.iter().flatten().count();
        if asked == 0 {
            return Ok(None);
        }
        let scores = self.head.forward(cx, pictures)?;
        // What is measured is the plain loss.
        let label_smoothing = if judged { 0.0 } else { self.smoothing };
        let settings = ops::CrossEntropy { label_smoothing, ..ops::CrossEntropy::default() };
        let loss = ops::cross_entropy(cx.tape, &scores, &targets, &settings)?;
        let hits = judged.then(|| count(best_is(scores.data(), &targets)));
        Ok(Some(Part { hits, ..Part::new("image_class", self.weight, loss, asked) }))
    }

    /// The names of the classes, as a ViT's `config.json` has them.
    pub(super) fn id2label(&self) -> Value {
        id2label(&self.labels.names)
    }

    /// Writes it with the encoder that its tower began with, as a checkpoint of
    /// that family, where there is such a thing.
    ///
    /// # Errors
    /// When a file cannot be read or written.
    pub(super) fn save(&self, out: &Path, columns: &Columns, together: &Together, params: &Params) -> Result<()> {
        let save = |c: &Classifier| c.save(out, (columns, self.image), together, (params, SCOPE));
        self.classifier.as_ref().map_or(Ok(()), save)
    }

    /// The head's tensors under our names.
    pub(super) fn tensors(params: &Params) -> impl Iterator<Item = (&str, &Tensor)> {
        below(params, SCOPE)
    }

    /// What is learnt, in words.
    pub(super) fn describe(&self) -> String {
        format!("{} of pictures", self.labels.names.len())
    }
}

fn id2label(names: &[String]) -> Value {
    let named = names.iter().enumerate();
    Value::Object(named.map(|(at, name)| (at.to_string(), json!(name))).collect::<Map<_, _>>())
}
