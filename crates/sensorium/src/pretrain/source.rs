//! Batches of text, pictures and sounds, in an order that is a function of (seed,
//! pass).

use super::corpora::{Corpora, Mixture};
use crate::Result;
use crate::retrieve::PairBatch;
use sensorium_data::{Loader, Pack};
use sensorium_engine::{Offsets, Random, Tensor};
use sensorium_model::{ColumnInput, Values};
use sensorium_train::{Batches, BoxError, Source};
use std::ops::Range;
use std::sync::{Arc, Mutex};

/// What one step learns from.
#[derive(Default)]
pub(super) struct Batch {
    pub text: Option<TextBatch>,
    /// `[pictures, 3, size, size]`
    pub images: Option<Tensor>,
    /// Frames of sounds.
    pub sounds: Option<ColumnInput>,
    /// Rows of a table, of which text, pictures and sounds may be a part.
    pub rows: Option<PairBatch>,
}

impl Batch {
    /// Rows of columns that are learnt together, or else pieces of text, pictures and sounds.
    pub(super) fn samples(&self) -> usize {
        if let Some(rows) = &self.rows {
            return rows.batch.rows.len();
        }
        self.text.as_ref().map_or(0, |t| t.segments.segments())
            + self.images.as_ref().map_or(0, |i| i.dims()[0])
            + self.sounds.as_ref().map_or(0, |s| s.offsets().segments())
    }

    /// One batch of both.
    fn with(self, other: Self) -> Self {
        Self {
            text: self.text.or(other.text),
            images: self.images.or(other.images),
            sounds: self.sounds.or(other.sounds),
            rows: self.rows.or(other.rows),
        }
    }
}

/// Pieces of running text laid end to end.
pub(super) struct TextBatch {
    /// Token numbers.
    pub ids: Vec<u32>,
    /// For each whether it belongs to the word of the one before.
    pub continues: Vec<bool>,
    /// Where the pieces begin and end.
    pub segments: Offsets,
}

impl TextBatch {
    /// Reads pieces of a corpus.
    ///
    /// # Errors
    /// When the corpus cannot be read.
    pub(super) fn read(corpus: &Corpora, pieces: &[u32]) -> Result<Self> {
        let (mut ids, mut continues, mut lengths) = (Vec::new(), Vec::new(), Vec::new());
        for piece in pieces {
            let piece = corpus.read(*piece as usize)?;
            lengths.push(piece.ids.len());
            ids.extend(piece.ids);
            continues.extend(piece.continues);
        }
        Ok(Self { ids, continues, segments: Offsets::from_lengths(lengths) })
    }
}

/// The pictures of a pack `[pictures, 3, size, size]`, those of all columns
/// one after another.
///
/// # Errors
/// When the pack's parts do not fit each other.
pub(super) fn pictures(pack: Pack) -> Result<Option<Tensor>> {
    pictures_of(&crate::Batch::new(pack)?.inputs.columns)
}

/// As [`pictures`], of columns.
///
/// # Errors
/// When columns have pictures of several sizes.
pub(super) fn pictures_of(columns: &[ColumnInput]) -> Result<Option<Tensor>> {
    let mut found: Vec<&Tensor> = Vec::new();
    for column in columns {
        if let Values::Images(images) = column.values()
            && images.dims()[0] > 0
        {
            found.push(images);
        }
    }
    let Some(first) = found.first() else { return Ok(None) };
    let mut dims = first.dims().to_vec();
    dims[0] = found.iter().map(|i| i.dims()[0]).sum();
    let data: Vec<f32> = found.iter().flat_map(|i| i.data().iter().copied()).collect();
    Ok(Some(Tensor::from_slice(&dims, &data)?))
}

/// The sounds of a pack that are long enough for a square of so many frames.
///
/// # Errors
/// When the pack's parts do not fit each other.
pub(super) fn sounds(pack: Pack, shortest: usize) -> Result<Option<ColumnInput>> {
    let batch = crate::Batch::new(pack)?;
    let column = batch.inputs.columns.into_iter().find(|c| matches!(c.values(), Values::Audio(_)));
    Ok(column.and_then(|column| long_enough(&column, shortest)))
}

/// The sounds of a column that have so many frames; None where there are none.
pub(super) fn long_enough(column: &ColumnInput, shortest: usize) -> Option<ColumnInput> {
    let offsets = column.offsets();
    let kept: Vec<usize> = (0..offsets.segments()).filter(|s| offsets.length(*s) >= shortest).collect();
    (!kept.is_empty()).then(|| column.select(&kept))
}

/// How many pieces share a batch.
#[derive(Debug, Clone, Copy)]
pub(super) struct BatchSize {
    /// Pieces at most.
    pub pieces: usize,
    /// Tokens at most, 0 for any number.
    pub tokens: usize,
}

/// The training pieces of corpora; an epoch is a pass over all of them, or as
/// many as their weights say.
pub(super) struct CorpusSource {
    corpus: Arc<Corpora>,
    mixture: Mixture,
    size: BatchSize,
    seed: u64,
    /// The last pass that was planned.
    planned: Mutex<Option<Arc<Pass>>>,
}

/// One epoch.
struct Pass {
    number: u64,
    order: Vec<u32>,
    batches: Vec<Range<usize>>,
}

impl CorpusSource {
    pub(super) fn new(corpus: Arc<Corpora>, pieces: &[u32], size: BatchSize, seed: u64) -> Self {
        let mixture = corpus.mixture(pieces);
        Self { corpus, mixture, size, seed, planned: Mutex::new(None) }
    }

    fn pass(&self, number: u64) -> Arc<Pass> {
        let mut planned = self.planned.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some(pass) = planned.as_ref().filter(|pass| pass.number == number) {
            return Arc::clone(pass);
        }
        let order = self.mixture.order(self.seed, number);
        let batches = cut(&order, self.size, |piece| self.corpus.length(piece as usize));
        let pass = Arc::new(Pass { number, order, batches });
        *planned = Some(Arc::clone(&pass));
        pass
    }

    fn batch(&self, pass: u64, batch: usize) -> Result<Batch> {
        let pass = self.pass(pass);
        let text = TextBatch::read(&self.corpus, &pass.order[pass.batches[batch].clone()])?;
        Ok(Batch { text: Some(text), ..Batch::default() })
    }
}

impl Source<Batch> for CorpusSource {
    fn batches(&self, epoch: u64) -> usize {
        self.pass(epoch).batches.len()
    }

    fn epoch(&self, epoch: u64, start_batch: usize) -> Batches<'_, Batch> {
        let batches = self.pass(epoch).batches.len();
        Box::new((start_batch..batches).map(move |n| self.batch(epoch, n).map_err(BoxError::from)))
    }
}

/// The training pictures of a table; an epoch is a pass over all of them.
pub(super) struct PictureSource(pub Loader);

impl Source<Batch> for PictureSource {
    fn batches(&self, epoch: u64) -> usize {
        self.0.batches(epoch)
    }

    fn epoch(&self, epoch: u64, start_batch: usize) -> Batches<'_, Batch> {
        let batch = |pack| -> std::result::Result<Batch, BoxError> {
            Ok(Batch { images: pictures(pack)?, ..Batch::default() })
        };
        Box::new(self.0.epoch(epoch, start_batch).map(move |pack| batch(pack?)))
    }
}

/// The training sounds of a table of at least so many frames; an epoch is a
/// pass over all of them.
pub(super) struct SoundSource(pub Loader, pub usize);

impl Source<Batch> for SoundSource {
    fn batches(&self, epoch: u64) -> usize {
        self.0.batches(epoch)
    }

    fn epoch(&self, epoch: u64, start_batch: usize) -> Batches<'_, Batch> {
        let batch = |pack| -> std::result::Result<Batch, BoxError> {
            Ok(Batch { sounds: sounds(pack, self.1)?, ..Batch::default() })
        };
        Box::new(self.0.epoch(epoch, start_batch).map(move |pack| batch(pack?)))
    }
}

/// All sources side by side, each step a batch of every one. An epoch is a
/// pass over the one with the most batches, or so many batches; a source that
/// ends begins its next pass.
pub(super) struct Sources {
    sources: Vec<Box<dyn Source<Batch>>>,
    epoch_batches: usize,
}

impl Sources {
    pub(super) fn new(sources: Vec<Box<dyn Source<Batch>>>, epoch_batches: usize) -> Self {
        Self { sources, epoch_batches }
    }

    /// Whether epochs are the passes of the only source.
    fn plain(&self) -> Option<&dyn Source<Batch>> {
        match &self.sources[..] {
            [only] if self.epoch_batches == 0 => Some(&**only),
            _ => None,
        }
    }
}

/// The batches of a source from the `n`th of all on, pass after pass.
struct Rounds<'a> {
    source: &'a dyn Source<Batch>,
    pass: u64,
    batches: Batches<'a, Batch>,
}

impl<'a> Rounds<'a> {
    fn from(source: &'a dyn Source<Batch>, mut n: u64) -> Self {
        let mut pass = 0;
        loop {
            let batches = source.batches(pass) as u64;
            if n < batches || batches == 0 {
                return Self { source, pass, batches: source.epoch(pass, n as usize) };
            }
            n -= batches;
            pass += 1;
        }
    }
}

impl Iterator for Rounds<'_> {
    type Item = std::result::Result<Batch, BoxError>;

    fn next(&mut self) -> Option<Self::Item> {
        if let Some(batch) = self.batches.next() {
            return Some(batch);
        }
        self.pass += 1;
        self.batches = self.source.epoch(self.pass, 0);
        self.batches.next()
    }
}

impl Source<Batch> for Sources {
    fn batches(&self, epoch: u64) -> usize {
        let passes = || self.sources.iter().map(|s| s.batches(0));
        match self.plain() {
            Some(only) => only.batches(epoch),
            None if passes().any(|batches| batches == 0) => 0,
            None if self.epoch_batches > 0 => self.epoch_batches,
            None => passes().max().unwrap_or(0),
        }
    }

    fn epoch(&self, epoch: u64, start_batch: usize) -> Batches<'_, Batch> {
        if let Some(only) = self.plain() {
            return only.epoch(epoch, start_batch);
        }
        let all = self.batches(epoch);
        let first = epoch * all as u64 + start_batch as u64;
        let mut rounds: Vec<Rounds<'_>> = self.sources.iter().map(|s| Rounds::from(&**s, first)).collect();
        Box::new((start_batch..all).map_while(move |_| {
            let mut batch = Batch::default();
            for round in &mut rounds {
                match round.next()? {
                    Ok(more) => batch = batch.with(more),
                    Err(e) => return Some(Err(e)),
                }
            }
            Some(Ok(batch))
        }))
    }
}

/// Cuts pieces in their order into batches: each holds at least one.
pub(super) fn cut(order: &[u32], size: BatchSize, length: impl Fn(u32) -> usize) -> Vec<Range<usize>> {
    let mut batches = Vec::new();
    let (mut start, mut tokens) = (0, 0);
    for (at, piece) in order.iter().enumerate() {
        let more = length(*piece);
        let full = at - start >= size.pieces || size.tokens > 0 && tokens + more > size.tokens;
        if at > start && full {
            batches.push(start..at);
            (start, tokens) = (at, 0);
        }
        tokens += more;
    }
    if start < order.len() {
        batches.push(start..order.len());
    }
    batches
}

/// The pieces for training and those for validation: of a share each piece
/// has its own chance, which does not depend on the others.
pub(super) fn held_out(pieces: usize, share: f64, seed: u64) -> (Vec<u32>, Vec<u32>) {
    let random = Random::new(seed).purpose("held out");
    let (mut val, mut train): (Vec<u32>, Vec<u32>) =
        (0..pieces as u32).partition(|piece| f64::from(random.uniform(u64::from(*piece))) < share);
    // Of few pieces the share may be none.
    if val.is_empty() && share > 0.0 && train.len() > 1 {
        val.extend(train.pop());
    }
    (train, val)
}

#[cfg(test)]
mod tests {
    use super::super::corpora::TextSource;
    use super::*;
    use sensorium_data::{CorpusOptions, Tokenizer, TokenizerOptions, Unit, WordsBy};
    use std::collections::BTreeSet;

    fn source(size: BatchSize) -> CorpusSource {
        let folder = tempfile::tempdir().expect("folder");
        let file = folder.path().join("text.txt");
        let words = |n: usize| format!("w{n} ").repeat(1 + n % 7);
        std::fs::write(&file, (0..50).map(|n| format!("{}\n", words(n))).collect::<String>()).expect("written");
        let sources = [TextSource { files: vec![file], column: None, weight: 1.0 }];
        let tokenizer =
            Tokenizer::train(TextSource::texts(&sources), &TokenizerOptions::default()).expect("vocabulary");
        let options = CorpusOptions { unit: Unit::Line, max_tokens: 64, words: WordsBy::Pieces, column: None };
        let corpus = Corpora::open(&sources, &tokenizer, &options, (folder.path(), "train"), false).expect("corpus");
        let pieces: Vec<u32> = (0..corpus.len() as u32).collect();
        CorpusSource::new(Arc::new(corpus), &pieces, size, 3)
    }

    fn all(source: &dyn Source<Batch>, epoch: u64, from: usize) -> Vec<Vec<u32>> {
        source.epoch(epoch, from).map(|b| b.expect("batch").text.expect("text").ids).collect()
    }

    #[test]
    fn every_piece_comes_once_a_pass_and_in_another_order_each() {
        let source = source(BatchSize { pieces: 8, tokens: 0 });
        let (first, second) = (all(&source, 0, 0), all(&source, 1, 0));
        assert_eq!((first.len(), source.batches(0)), (7, 7));
        assert_ne!(first, second);
        let tokens = |batches: &[Vec<u32>]| batches.iter().map(Vec::len).sum::<usize>();
        assert_eq!(tokens(&first), tokens(&second));
        assert_eq!(all(&source, 1, 3), second[3..], "any batch can be the first");
    }

    #[test]
    fn an_epoch_of_so_many_batches_goes_on_where_the_last_one_ended() {
        let whole = source(BatchSize { pieces: 8, tokens: 0 });
        let short = Sources::new(vec![Box::new(source(BatchSize { pieces: 8, tokens: 0 }))], 5);
        let passes: Vec<Vec<u32>> = (0..3).flat_map(|pass| all(&whole, pass, 0)).collect();
        let epochs: Vec<Vec<u32>> = (0..4).flat_map(|epoch| all(&short, epoch, 0)).collect();
        assert_eq!(epochs, passes[..20]);
        assert_eq!(all(&short, 2, 3), passes[13..15]);
    }

    #[test]
    fn batches_keep_to_a_number_of_tokens() {
        let lengths = [5, 5, 5, 30, 1, 1];
        let cut = |size| cut(&[0, 1, 2, 3, 4, 5], size, |piece| lengths[piece as usize]);
        assert_eq!(cut(BatchSize { pieces: 100, tokens: 10 }), [0..2, 2..3, 3..4, 4..6]);
        assert_eq!(cut(BatchSize { pieces: 4, tokens: 0 }), [0..4, 4..6]);
    }

    #[test]
    fn what_is_held_out_is_not_trained_on() {
        let (train, val) = held_out(1000, 0.1, 0);
        assert!((70..130).contains(&val.len()));
        let all: BTreeSet<u32> = train.iter().chain(&val).copied().collect();
        assert_eq!((all.len(), train.len() + val.len()), (1000, 1000));
        assert_ne!(held_out(1000, 0.1, 1).1, val);
        assert_eq!(held_out(3, 0.01, 0).1.len(), 1, "a share of few is at least one");
    }
}
