//! How well a model guesses what is hidden of text, pictures and sounds that it
//! has not learnt from.

use super::network::Network;
use super::source::{Batch, BatchSize, TextBatch, cut, pictures, sounds};
use crate::Result;
use sensorium_data::{Corpus, Loader};
use sensorium_engine::{Random, Tape};
use sensorium_model::Context;
use sensorium_train::{BoxError, Judge};
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

/// Validation on pieces of a corpus and rows of a table; what is hidden of
/// them is the same each time.
pub(super) struct Validation {
    text: Option<Pieces>,
    pictures: Option<Loader>,
    /// The fewest frames of a sound go with it.
    sounds: Option<(Loader, usize)>,
    masks: Random,
}

struct Pieces {
    corpus: Arc<Corpus>,
    pieces: Vec<u32>,
    batches: Vec<Range<usize>>,
}

#[derive(Default)]
struct Sums {
    weight: f64,
    loss: f64,
    count: usize,
    /// None where no guess is right or wrong.
    hits: Option<usize>,
}

impl Validation {
    /// On nothing yet.
    pub(super) fn new(seed: u64) -> Self {
        Self { text: None, pictures: None, sounds: None, masks: Random::new(seed).purpose("validation masks") }
    }

    /// Adds pieces of a corpus, if there are any.
    pub(super) fn add_text(&mut self, corpus: Arc<Corpus>, pieces: Vec<u32>, size: BatchSize) {
        let batches = cut(&pieces, size, |piece| corpus.length(piece as usize));
        self.text = (!pieces.is_empty()).then_some(Pieces { corpus, pieces, batches });
    }

    /// Adds rows of a table.
    pub(super) fn add_pictures(&mut self, loader: Loader) {
        self.pictures = Some(loader);
    }

    /// Adds rows of a table whose sounds have at least so many frames.
    pub(super) fn add_sounds(&mut self, loader: Loader, shortest: usize) {
        self.sounds = Some((loader, shortest));
    }

    /// Whether there is nothing to validate on.
    pub(super) fn is_empty(&self) -> bool {
        self.text.is_none() && self.pictures.is_none() && self.sounds.is_none()
    }

    /// The metrics of a model; of each objective the loss, of language also the
    /// perplexity, the bits for each token and the share of right guesses, and
    /// as `loss` the weighted sum.
    ///
    /// # Errors
    /// When the corpus cannot be read.
    pub(super) fn measure(&self, network: &Network) -> Result<BTreeMap<String, f64>> {
        let mut sums: BTreeMap<&str, Sums> = BTreeMap::new();
        let texts = self.text.iter().flat_map(|t| {
            let read = |range: &Range<usize>| TextBatch::read(&t.corpus, &t.pieces[range.clone()]);
            t.batches
                .iter()
                .map(move |range| -> Result<Batch> { Ok(Batch { text: Some(read(range)?), ..Batch::default() }) })
        });
        let pictures = self.pictures.iter().flat_map(|loader| loader.epoch(0, 0)).map(|pack| -> Result<Batch> {
            let images = pictures(pack?)?;
            Ok(Batch { images, ..Batch::default() })
        });
        let sounds = self.sounds.iter().flat_map(|(loader, shortest)| {
            let read =
                move |pack| -> Result<Batch> { Ok(Batch { sounds: sounds(pack, *shortest)?, ..Batch::default() }) };
            loader.epoch(0, 0).map(move |pack| read(pack?))
        });
        for (n, batch) in texts.chain(pictures).chain(sounds).enumerate() {
            let batch = batch?;
            let tape = Tape::inference();
            let cx = Context::inference(&tape, &network.params);
            for part in network.parts(&cx, &batch, self.masks.at_step(n as u64), true)? {
                let sum = sums.entry(part.name).or_default();
                sum.weight = part.weight;
                sum.loss += f64::from(part.loss.value().scalar()?) * part.count as f64;
                sum.count += part.count;
                sum.hits = match (sum.hits, part.hits) {
                    (before, Some(more)) => Some(before.unwrap_or(0) + more),
                    (before, None) => before,
                };
            }
        }
        let mut metrics = BTreeMap::new();
        let mut total = 0.0;
        for (name, sum) in sums.into_iter().filter(|(_, sum)| sum.count > 0) {
            let loss = sum.loss / sum.count as f64;
            total += sum.weight * loss;
            metrics.insert(format!("{name}_loss"), loss);
            if let Some(hits) = sum.hits {
                metrics.insert(format!("{name}_perplexity"), loss.exp());
                metrics.insert(format!("{name}_bits_per_token"), loss / std::f64::consts::LN_2);
                metrics.insert(format!("{name}_accuracy"), hits as f64 / sum.count as f64);
            }
        }
        if !metrics.is_empty() {
            metrics.insert("loss".to_owned(), total);
        }
        Ok(metrics)
    }
}

impl Judge<Network> for Validation {
    fn judge(&mut self, network: &Network, _epoch: u64) -> std::result::Result<BTreeMap<String, f64>, BoxError> {
        Ok(self.measure(network)?)
    }
}
