//! The corpora of a run as one: their pieces are numbered through, and a
//! mixture says how often those of each come.

use super::config::CorpusSection;
use crate::{Error, Result};
use sensorium_data::{Corpus, CorpusOptions, Piece, Tokenizer, corpus};
use sensorium_engine::Random;
use std::ops::Range;
use std::path::{Path, PathBuf};

/// Files that are mixed in as one.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct TextSource {
    pub files: Vec<PathBuf>,
    /// The column of shards that holds the texts.
    pub column: Option<String>,
    /// Passes over it in an epoch.
    pub weight: f64,
}

impl TextSource {
    /// Those that a configuration names, folders resolved into files.
    ///
    /// # Errors
    /// When a path is not there, or a folder has no text.
    pub(super) fn of(section: &CorpusSection) -> Result<Vec<Self>> {
        let plain = (!section.files.is_empty()).then_some((&section.files, &section.column, 1.0));
        let parts = section.source.iter().map(|s| (&s.files, &s.column, s.weight));
        let source = |(named, column, weight): (&Vec<PathBuf>, &Option<String>, f64)| {
            Ok(Self { files: files(named)?, column: column.clone(), weight })
        };
        plain.into_iter().chain(parts).map(source).collect()
    }

    /// That of the validation files; None where there are none.
    ///
    /// # Errors
    /// As [`TextSource::of`].
    pub(super) fn validation(section: &CorpusSection) -> Result<Option<Self>> {
        if section.validation.is_empty() {
            return Ok(None);
        }
        Ok(Some(Self { files: files(&section.validation)?, column: section.column.clone(), weight: 1.0 }))
    }

    /// The texts of some sources, to learn a vocabulary from.
    pub(super) fn texts(sources: &[Self]) -> impl Iterator<Item = sensorium_data::Result<String>> + '_ {
        sources.iter().flat_map(|s| corpus::texts(&s.files, s.column.as_deref()))
    }
}

fn files(named: &[PathBuf]) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for path in named {
        let table = path.extension().is_some_and(|e| e.eq_ignore_ascii_case("csv") || e.eq_ignore_ascii_case("tsv"));
        if table && path.is_file() {
            let problem = format!(
                "{} is a table, not running text; in a configuration, name it as data.table instead (or with --set \
                 data.table={0:?} beside one) and say what is to be learnt of it",
                path.display()
            );
            return Err(Error::Config { place: "corpus.files".into(), problem });
        }
        files.extend(corpus::files_of(path)?);
    }
    Ok(files)
}

/// Corpora whose pieces are numbered through.
pub(super) struct Corpora {
    parts: Vec<Corpus>,
    weights: Vec<f64>,
    /// The number of the first piece of each, and behind the last.
    starts: Vec<usize>,
}

impl Corpora {
    /// Opens the corpus of each source; their numbers lie in `folder` under
    /// `name`, `name-2` and so on. A run that goes on (`resume`) must find them
    /// made from the same text.
    ///
    /// # Errors
    /// As [`Corpus::open`] and [`Corpus::reopen`].
    pub(super) fn open(
        sources: &[TextSource],
        tokenizer: &Tokenizer,
        how: &CorpusOptions,
        (folder, name): (&Path, &str),
        resume: bool,
    ) -> Result<Self> {
        let open = if resume { Corpus::reopen } else { Corpus::open };
        let mut this = Self { parts: Vec::new(), weights: Vec::new(), starts: vec![0] };
        for (at, source) in sources.iter().enumerate() {
            let name = if at == 0 { name.to_owned() } else { format!("{name}-{}", at + 1) };
            let how = CorpusOptions { column: source.column.clone(), ..how.clone() };
            let corpus = open(&source.files, tokenizer, &how, folder, &name)?;
            this.starts.push(this.len() + corpus.len());
            this.parts.push(corpus);
            this.weights.push(source.weight);
        }
        Ok(this)
    }

    /// The number of pieces.
    pub(super) fn len(&self) -> usize {
        self.starts.last().copied().unwrap_or(0)
    }

    /// The number of tokens that are no special ones.
    pub(super) fn plain_tokens(&self, tokenizer: &Tokenizer) -> u64 {
        // A beginning and an end, or an end alone.
        let special = if tokenizer.adds_special_tokens() { 2 } else { 1 };
        self.parts.iter().map(|c| c.tokens().saturating_sub(special * c.texts())).sum()
    }

    /// The corpora, in their order.
    pub(super) fn parts(&self) -> &[Corpus] {
        &self.parts
    }

    /// What the numbers of each follow from.
    pub(super) fn fingerprints(&self) -> Vec<&str> {
        self.parts.iter().map(Corpus::fingerprint).collect()
    }

    fn at(&self, piece: usize) -> (&Corpus, usize) {
        let part = self.starts.partition_point(|start| *start <= piece) - 1;
        (&self.parts[part], piece - self.starts[part])
    }

    /// The tokens of a piece, which must be below [`Corpora::len`].
    pub(super) fn length(&self, piece: usize) -> usize {
        let (corpus, piece) = self.at(piece);
        corpus.length(piece)
    }

    /// Reads a piece, which must be below [`Corpora::len`].
    ///
    /// # Errors
    /// When the file cannot be read.
    pub(super) fn read(&self, piece: usize) -> Result<Piece> {
        let (corpus, piece) = self.at(piece);
        Ok(corpus.read(piece)?)
    }

    /// In what order these pieces, ascending, come.
    pub(super) fn mixture(&self, pieces: &[u32]) -> Mixture {
        let mut rest = pieces;
        let mut parts = Vec::new();
        for (end, weight) in self.starts[1..].iter().zip(&self.weights) {
            let (own, others) = rest.split_at(rest.partition_point(|piece| (*piece as usize) < *end));
            parts.push((own.to_vec(), *weight));
            rest = others;
        }
        Mixture { parts }
    }
}

/// Pieces of several sources, and how many passes over those of each an epoch
/// has.
pub(super) struct Mixture {
    parts: Vec<(Vec<u32>, f64)>,
}

impl Mixture {
    /// The pieces of an epoch in their order, a function of (seed, epoch). Each
    /// source is gone through pass by pass, every pass in another order; where
    /// its weight is not whole, the next epoch goes on where this one ended.
    pub(super) fn order(&self, seed: u64, epoch: u64) -> Vec<u32> {
        if let [(pieces, 1.0)] = &self.parts[..] {
            return pass(pieces, seed, 0, epoch).collect();
        }
        let mut all = Vec::new();
        for (at, (pieces, weight)) in self.parts.iter().enumerate().filter(|(_, (pieces, _))| !pieces.is_empty()) {
            let drawn = |epochs: u64| (epochs as f64 * weight * pieces.len() as f64).floor() as u64;
            let length = pieces.len() as u64;
            let Range { start, end } = drawn(epoch)..drawn(epoch + 1);
            for number in start / length..end.div_ceil(length) {
                let within = |n: u64| n.clamp(number * length, (number + 1) * length) - number * length;
                let (from, to) = (within(start) as usize, within(end) as usize);
                all.extend(pass(pieces, seed, at, number).skip(from).take(to - from));
            }
        }
        let order = Random::new(seed).purpose("mixture order").at_step(epoch).permutation(all.len());
        order.into_iter().map(|at| all[at]).collect()
    }
}

/// One pass over the pieces of a source.
fn pass(pieces: &[u32], seed: u64, source: usize, number: u64) -> impl Iterator<Item = u32> + '_ {
    let purpose = if source == 0 { "corpus order".to_owned() } else { format!("corpus order {source}") };
    let order = Random::new(seed).purpose(&purpose).at_step(number).permutation(pieces.len());
    order.into_iter().map(|at| pieces[at])
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;

    fn counts(orders: &[Vec<u32>]) -> HashMap<u32, usize> {
        let mut counts = HashMap::new();
        orders.iter().flatten().for_each(|piece| *counts.entry(*piece).or_default() += 1);
        counts
    }

    #[test]
    fn weights_are_passes_in_an_epoch() {
        let mixture = Mixture { parts: vec![((0..100).collect(), 0.25), ((100..110).collect(), 3.0)] };
        let epochs: Vec<Vec<u32>> = (0..8).map(|epoch| mixture.order(7, epoch)).collect();
        for epoch in &epochs {
            assert_eq!(epoch.iter().filter(|p| **p < 100).count(), 25);
            assert_eq!(counts(std::slice::from_ref(epoch)).iter().filter(|(p, n)| **p >= 100 && **n == 3).count(), 10);
        }
        // Four epochs are a pass over the large one: nothing twice, nothing left out.
        for four in epochs.chunks(4) {
            assert!((0..100).all(|piece| counts(four)[&piece] == 1));
        }
        assert_ne!(epochs[0], epochs[4]);
        assert_eq!(epochs[3], mixture.order(7, 3), "a function of (seed, epoch)");
        assert_ne!(epochs[3], mixture.order(8, 3));
        // The sources are mixed, not one after the other.
        assert!(epochs[0][..20].iter().any(|p| *p >= 100) && epochs[0][..20].iter().any(|p| *p < 100));
    }

    #[test]
    fn odd_weights_lose_no_piece_over_the_epochs() {
        let mixture = Mixture { parts: vec![((0..7).collect(), 1.3), ((7..10).collect(), 0.1)] };
        let epochs: Vec<Vec<u32>> = (0..10).map(|epoch| mixture.order(0, epoch)).collect();
        let counts = counts(&epochs);
        assert!((0..7).all(|piece| counts[&piece] == 13), "{counts:?}");
        assert!((7..10).all(|piece| counts[&piece] == 1), "{counts:?}");
    }

    #[test]
    fn a_piece_is_read_from_the_source_that_its_number_falls_to() {
        let folder = tempfile::tempdir().expect("folder");
        let source = |name: &str, lines: usize, weight: f64| {
            let path = folder.path().join(name);
            let text: String = (0..lines).map(|n| format!("{name} {}\n", "word ".repeat(n + 1))).collect();
            std::fs::write(&path, text).expect("written");
            TextSource { files: vec![path], column: None, weight }
        };
        let sources = [source("first", 5, 1.0), source("second", 3, 2.0)];
        let tokenizer = Tokenizer::train(TextSource::texts(&sources), &sensorium_data::TokenizerOptions::default())
            .expect("a vocabulary");
        let how = CorpusOptions {
            unit: sensorium_data::Unit::Line,
            max_tokens: 64,
            words: sensorium_data::WordsBy::Pieces,
            column: None,
        };
        let open = |sources: &[TextSource], name: &str| {
            Corpora::open(sources, &tokenizer, &how, (folder.path(), name), false).expect("corpora")
        };
        let both = open(&sources, "both");
        let alone = [open(&sources[..1], "a"), open(&sources[1..], "b")];
        assert_eq!((both.len(), alone[0].len(), alone[1].len()), (8, 5, 3));
        for piece in 0..8 {
            let (corpora, within) = if piece < 5 { (&alone[0], piece) } else { (&alone[1], piece - 5) };
            assert_eq!(both.read(piece).expect("a piece").ids, corpora.read(within).expect("a piece").ids, "{piece}");
            assert_eq!(both.length(piece), corpora.length(within), "{piece}");
        }
        // An epoch has each piece as often as its source weighs.
        let counts = counts(&[both.mixture(&[0, 1, 2, 3, 4, 5, 6, 7]).order(0, 0)]);
        assert!((0..8).all(|piece| counts[&piece] == if piece < 5 { 1 } else { 2 }), "{counts:?}");
    }
}
