//! How well a model guesses what is hidden, and finds what belongs together, of
//! what it has not learnt from.

use super::classes::Labels;
use super::columns::Columns;
use super::config::PretrainConfig;
use super::corpora::Corpora;
use super::network::Network;
use super::source::{Batch, BatchSize, TextBatch, cut};
use crate::config::FitConfig;
use crate::retrieve::Galleries;
use crate::search::{ZeroShot, ZeroShotOptions};
use crate::{Decision, Error, Result};
use sensorium_data::{DataPlan, Modality};
use sensorium_engine::{Random, Tape};
use sensorium_model::Context;
use sensorium_train::{BoxError, Judge, Source};
use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::sync::Arc;

/// Validation on pieces of a corpus and rows of a table; what is hidden of
/// them is the same each time.
pub(super) struct Validation {
    text: Option<Pieces>,
    rows: Vec<Box<dyn Source<Batch>>>,
    compared: Option<Compared>,
    masks: Random,
    report: Option<String>,
}

struct Pieces {
    corpus: Arc<Corpora>,
    pieces: Vec<u32>,
    batches: Vec<Range<usize>>,
}

/// What is asked of columns that meet in one space.
struct Compared {
    plan: Arc<DataPlan>,
    fit: FitConfig,
    zero_shot: Option<Classes>,
}

/// Classes that are known by name, of rows that are held out.
struct Classes {
    options: ZeroShotOptions,
    /// The column that is sorted.
    column: usize,
    /// The class of each row that has one.
    of_row: HashMap<u64, usize>,
}

#[derive(Default)]
struct Sums {
    weight: f64,
    loss: f64,
    count: usize,
    tokens: bool,
    /// None where no guess is right or wrong.
    hits: Option<usize>,
}

impl Validation {
    /// On nothing yet.
    pub(super) fn new(seed: u64) -> Self {
        let masks = Random::new(seed).purpose("validation masks");
        Self { text: None, rows: Vec::new(), compared: None, masks, report: None }
    }

    /// Adds pieces of a corpus, if there are any.
    pub(super) fn add_text(&mut self, corpus: Arc<Corpora>, pieces: Vec<u32>, size: BatchSize) {
        let batches = cut(&pieces, size, |piece| corpus.length(piece as usize));
        self.text = (!pieces.is_empty()).then_some(Pieces { corpus, pieces, batches });
    }

    /// Adds rows of a table, in an order that stays.
    pub(super) fn add(&mut self, rows: Box<dyn Source<Batch>>) {
        self.rows.push(rows);
    }

    /// Says what is asked of columns that meet in one space.
    ///
    /// # Errors
    /// When the column of classes has too few, or nothing can be sorted.
    pub(super) fn compare(&mut self, columns: &Columns, config: &PretrainConfig) -> Result<()> {
        let zero_shot = match &config.pretrain.contrastive.zero_shot {
            Some(name) => Some(Classes::new(columns, name, config)?),
            None => None,
        };
        self.compared = Some(Compared { plan: Arc::clone(&columns.plan), fit: columns.fit.clone(), zero_shot });
        Ok(())
    }

    /// Whether there is nothing to validate on.
    pub(super) fn is_empty(&self) -> bool {
        self.text.is_none() && self.rows.is_empty()
    }

    /// The metrics of a model; of each objective the loss, of language also the
    /// perplexity, the bits for each token and the share of right guesses, of
    /// what is compared how far up the right one stands, and as `loss` the
    /// weighted sum.
    ///
    /// # Errors
    /// When the corpus or the table cannot be read.
    pub(super) fn measure(&mut self, network: &Network) -> Result<BTreeMap<String, f64>> {
        let mut sums: BTreeMap<&str, Sums> = BTreeMap::new();
        let texts = self.text.iter().flat_map(|t| {
            let read = |range: &Range<usize>| TextBatch::read(&t.corpus, &t.pieces[range.clone()]);
            t.batches
                .iter()
                .map(move |range| -> Result<Batch> { Ok(Batch { text: Some(read(range)?), ..Batch::default() }) })
        });
        let rows = self.rows.iter().flat_map(|rows| rows.epoch(0, 0));
        let rows = rows.map(|batch| batch.map_err(|e| Error::Request(e.to_string())));
        let learner = network.together.as_ref().and_then(|t| t.learner(&network.params));
        let mut galleries = learner.as_ref().map(Galleries::of);
        for (n, batch) in texts.chain(rows).enumerate() {
            let batch = batch?;
            let tape = Tape::inference();
            let cx = Context::inference(&tape, &network.params);
            for part in network.parts(&cx, &batch, self.masks.at_step(n as u64), true)? {
                let sum = sums.entry(part.name).or_default();
                (sum.weight, sum.tokens) = (part.weight, part.tokens);
                sum.loss += f64::from(part.loss.value().scalar()?) * part.count as f64;
                sum.count += part.count;
                sum.hits = match (sum.hits, part.hits) {
                    (before, Some(more)) => Some(before.unwrap_or(0) + more),
                    (before, None) => before,
                };
            }
            if let (Some(galleries), Some(learner), Some(rows)) = (&mut galleries, &learner, &batch.rows) {
                galleries.add(learner, rows)?;
            }
        }
        let mut metrics = BTreeMap::new();
        let mut total = 0.0;
        for (name, sum) in sums.into_iter().filter(|(_, sum)| sum.count > 0) {
            let loss = sum.loss / sum.count as f64;
            total += sum.weight * loss;
            metrics.insert(format!("{name}_loss"), loss);
            if sum.tokens {
                metrics.insert(format!("{name}_perplexity"), loss.exp());
                metrics.insert(format!("{name}_bits_per_token"), loss / std::f64::consts::LN_2);
            }
            if let Some(hits) = sum.hits {
                metrics.insert(format!("{name}_accuracy"), hits as f64 / sum.count as f64);
            }
        }
        self.report = None;
        if let (Some(galleries), Some(learner), Some(together), Some(compared)) =
            (galleries, learner, &network.together, &self.compared)
        {
            let found = galleries.evaluation(&learner)?;
            total += together.contrastive_weight() * found.loss;
            for d in &found.directions {
                let m = &d.metrics;
                for (k, recall) in [(1, m.recall_at_1), (5, m.recall_at_5), (10, m.recall_at_10)] {
                    metrics.insert(format!("{}_to_{}_recall_at_{k}", d.from, d.to), recall);
                }
            }
            for (name, value) in found.metrics() {
                metrics.insert(if name == "loss" { "contrastive_loss".into() } else { name }, value);
            }
            if let Some(classes) = &compared.zero_shot
                && let Some(space) = together.retriever(&network.params, &compared.plan, &compared.fit)?
            {
                let accuracy = classes.accuracy(&space, &galleries, &compared.plan)?;
                metrics.extend(accuracy.map(|accuracy| ("zero_shot_accuracy".to_owned(), accuracy)));
            }
            self.report = Some(format!("\n{}", found.to_text()?));
        }
        if !metrics.is_empty() {
            metrics.insert("loss".to_owned(), total);
        }
        Ok(metrics)
    }
}

impl Classes {
    fn new(columns: &Columns, name: &str, config: &PretrainConfig) -> Result<Self> {
        let wrong = |problem: String| Error::Config { place: "pretrain.contrastive.zero_shot".into(), problem };
        let compared = |name: &String| match &config.pretrain.contrastive.pairs {
            Some(pairs) => pairs.iter().flatten().any(|c| c == name),
            None => true,
        };
        let sorted = columns.plan.columns.iter().position(|c| c.modality != Modality::Text && compared(&c.name));
        let texts = columns.plan.columns.iter().any(|c| c.modality == Modality::Text && compared(&c.name));
        let (Some(column), true) = (sorted, texts) else {
            return Err(wrong("needs a column of texts that is compared with one of another modality".into()));
        };
        let Labels { names, of_row } = Labels::new(&columns.dataset, name, true, "pretrain.contrastive.zero_shot")?;
        let templates = config.pretrain.contrastive.templates.clone();
        Ok(Self { options: ZeroShotOptions { labels: names, templates, language: None }, column, of_row })
    }

    /// The share of rows that are sorted into their class; None where none has
    /// one.
    fn accuracy(
        &self,
        space: &crate::retrieve::Retriever,
        galleries: &Galleries,
        plan: &DataPlan,
    ) -> Result<Option<f64>> {
        let zero_shot = ZeroShot::new(space, plan.columns[self.column].modality, &self.options)?;
        let (mut hits, mut count) = (0_usize, 0_usize);
        for (row, vector) in galleries.vectors(self.column, space.learner.model.config().dim) {
            let Some(class) = self.of_row.get(&row) else { continue };
            count += 1;
            hits += usize::from(matches!(zero_shot.decide(vector.to_vec()), Decision::Class(at, _) if at == *class));
        }
        Ok((count > 0).then(|| hits as f64 / count as f64))
    }
}

impl Judge<Network> for Validation {
    fn judge(&mut self, network: &Network, _epoch: u64) -> std::result::Result<BTreeMap<String, f64>, BoxError> {
        Ok(self.measure(network)?)
    }

    fn report(&self) -> Option<String> {
        self.report.clone()
    }
}
