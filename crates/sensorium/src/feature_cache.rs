//! Features of frozen towers, or the hidden states where their frozen lower
//! layers end, computed once and kept on disk.
//!
//! The key of an entry is a hash of the tower (its structure and frozen
//! weights) and of the segment that it read (after processing), so an entry
//! can never be stale: another weight, another processor or another content is
//! another key. The store itself is the data crate's [`Cache`]: limited in
//! size, safe under runs side by side and kills at any moment.

use crate::Result;
use sensorium_data::{Cache, CacheKey};
use sensorium_engine::matmul::rows_alike;
use sensorium_engine::{Offsets, Params, Tape, Tensor, Var, ops};
use sensorium_model::{ColumnInput, Context, Features, Frozen, Towers, Values};
use std::sync::{Arc, OnceLock};

/// Changes whenever what is stored changes its meaning.
const FORMAT: &[u8] = b"features 1";

/// The feature cache of a model.
#[derive(Debug)]
pub struct FeatureCache {
    cache: Arc<Cache>,
    /// Whether the fusion reads tokens, or pooled vectors only.
    tokens: bool,
    columns: Vec<Column>,
}

/// What is known of a column.
#[derive(Debug)]
struct Column {
    /// The same content every epoch: nothing is augmented.
    steady: bool,
    tower: OnceLock<Vec<u8>>,
}

/// One column of a batch on its way through its tower.
struct Asked<'a> {
    model: &'a Towers,
    params: &'a Params,
    column: usize,
    input: &'a ColumnInput,
}

impl FeatureCache {
    /// A cache for the frozen parts of a model's towers. `steady` says of each
    /// column whether its content is the same every time (not augmented);
    /// `tokens` whether hidden states are needed beside the pooled vectors.
    pub fn new(cache: Arc<Cache>, steady: &[bool], tokens: bool) -> Self {
        let columns = steady.iter().map(|steady| Column { steady: *steady, tower: OnceLock::new() }).collect();
        Self { cache, tokens, columns }
    }

    /// What of a column is kept: what is frozen of its tower, if its content
    /// is steady.
    pub fn applies(&self, model: &Towers, params: &Params, column: usize) -> Frozen {
        match self.columns.get(column) {
            Some(c) if c.steady => model.frozen(params, column),
            _ => Frozen::Nothing,
        }
    }

    /// The features of a column; what is frozen of its tower comes from the
    /// cache where it is there.
    ///
    /// # Errors
    /// When the tower cannot take the input.
    pub fn features(&self, cx: &Context<'_>, model: &Towers, column: usize, input: &ColumnInput) -> Result<Features> {
        let asked = Asked { model, params: cx.params, column, input };
        match self.applies(model, cx.params, column) {
            Frozen::Nothing => Ok(model.column_features(cx, column, input)?),
            Frozen::All => self.whole(&asked),
            Frozen::Layers(n) => {
                let below = self.border(&asked, n)?;
                Ok(model.column_upper(cx, column, below, n, input)?)
            }
        }
    }

    /// The features of a tower that is frozen as a whole. An entry is the
    /// pooled vector, then the tokens if they are needed.
    fn whole(&self, asked: &Asked<'_>) -> Result<Features> {
        let dim = asked.model.columns()[asked.column].tower.dim();
        let (rows, offsets) = self.rows(asked, dim, &[u8::from(self.tokens)], |cx, input| {
            let f = asked.model.column_features(cx, asked.column, input)?;
            let segment = |i: usize| {
                let tokens = if self.tokens { f.offsets.range(i) } else { 0..0 };
                let tokens = &f.tokens.data()[tokens.start * dim..tokens.end * dim];
                [&f.pooled.data()[i * dim..(i + 1) * dim], tokens].concat()
            };
            Ok((0..f.offsets.segments()).map(segment).collect())
        })?;
        let (mut first, mut rest, mut lengths) = (Vec::new(), Vec::new(), Vec::new());
        for r in offsets.ranges() {
            first.push(r.start as u32);
            rest.extend(r.start as u32 + 1..r.end as u32);
            lengths.push(r.len() - 1);
        }
        let tape = Tape::inference();
        Ok(Features {
            pooled: ops::gather_rows(&tape, &rows, &first)?,
            tokens: ops::gather_rows(&tape, &rows, &rest)?,
            offsets: Offsets::from_lengths(lengths),
            sample_of: asked.input.sample_of().to_vec(),
        })
    }

    /// The hidden states after the first `layers` layers, which are frozen.
    fn border(&self, asked: &Asked<'_>, layers: usize) -> Result<(Var, Offsets)> {
        let hidden = asked.model.columns()[asked.column].tower.hidden();
        let mark = [&b"layers"[..], &(layers as u64).to_le_bytes()].concat();
        self.rows(asked, hidden, &mark, |cx, input| {
            let (x, offsets) = asked.model.column_lower(cx, asked.column, input, layers)?;
            Ok(offsets.ranges().map(|r| x.data()[r.start * hidden..r.end * hidden].to_vec()).collect())
        })
    }

    /// Rows of `width` numbers for each segment of a column, from the cache or
    /// from `compute`, which is given the segments that are not there.
    fn rows(
        &self,
        asked: &Asked<'_>,
        width: usize,
        mark: &[u8],
        compute: impl FnOnce(&Context<'_>, &ColumnInput) -> Result<Vec<Vec<f32>>>,
    ) -> Result<(Var, Offsets)> {
        let tower = self.columns[asked.column].tower.get_or_init(|| fingerprint(asked));
        let segments = asked.input.offsets().segments();
        let key = |s| CacheKey::of(&[FORMAT, mark, tower, &bytes(asked.input, s)]);
        let keys: Vec<CacheKey> = (0..segments).map(key).collect();
        let mut entries: Vec<Option<Vec<f32>>> =
            keys.iter().map(|key| self.cache.get(key).and_then(|b| read(&b, width))).collect();
        let missing: Vec<usize> = (0..segments).filter(|s| entries[*s].is_none()).collect();
        if !missing.is_empty() {
            let tape = Tape::inference();
            let cx = Context::inference(&tape, asked.params);
            // Whoever reads an entry has the bits that he would have computed himself.
            let computed = rows_alike(|| compute(&cx, &asked.input.select(&missing)))?;
            for (segment, entry) in missing.iter().zip(computed) {
                let bytes: Vec<u8> = entry.iter().flat_map(|x| x.to_le_bytes()).collect();
                self.cache.put(&keys[*segment], &bytes);
                entries[*segment] = Some(entry);
            }
        }
        let lengths: Vec<usize> = entries.iter().flatten().map(|e| e.len() / width.max(1)).collect();
        let all: Vec<f32> = entries.into_iter().flatten().flatten().collect();
        let offsets = Offsets::from_lengths(lengths);
        Ok((Var::constant(Tensor::from_slice(&[offsets.total(), width], &all)?), offsets))
    }
}

/// The numbers of an entry; None where they are not whole rows.
fn read(bytes: &[u8], width: usize) -> Option<Vec<f32>> {
    let whole = !bytes.is_empty() && bytes.len().is_multiple_of(4 * width.max(1));
    whole.then(|| bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect())
}

/// A tower's structure and the weights that are frozen, hashed.
fn fingerprint(asked: &Asked<'_>) -> Vec<u8> {
    let mut hasher = blake3::Hasher::new();
    let config = serde_json::to_vec(&asked.model.columns()[asked.column].tower).unwrap_or_default();
    hasher.update(&config);
    let scope = format!("{}.", asked.model.tower_scope(asked.column));
    for (_, p) in asked.params.iter().filter(|(_, p)| !p.trainable) {
        if let Some(name) = p.name.strip_prefix(&scope) {
            hasher.update(name.as_bytes());
            p.digest(|bytes| {
                hasher.update(bytes);
            });
        }
    }
    hasher.finalize().as_bytes().to_vec()
}

/// What a tower reads of one segment.
fn bytes(input: &ColumnInput, segment: usize) -> Vec<u8> {
    let range = input.offsets().range(segment);
    match input.values() {
        Values::Tokens(ids) | Values::Categories(ids) => ids[range].iter().flat_map(|x| x.to_le_bytes()).collect(),
        Values::Images(t) | Values::Audio(t) | Values::Video(t) | Values::Features(t) | Values::Numbers(t) => {
            let row = t.len() / t.dims()[0].max(1);
            let data = &t.data()[range.start * row..range.end * row];
            let dims = t.dims()[1..].iter().flat_map(|d| (*d as u64).to_le_bytes());
            dims.chain(data.iter().flat_map(|x| x.to_le_bytes())).collect()
        }
    }
}
