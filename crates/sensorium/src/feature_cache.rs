//! Features of frozen towers, computed once and kept on disk.
//!
//! The key of an entry is a hash of the tower (its structure and weights) and
//! of the segment that it read (after processing), so an entry can never be
//! stale: another weight, another processor or another content is another key.
//! The store itself is the data crate's [`Cache`]: limited in size, safe under
//! runs side by side and kills at any moment.

use crate::Result;
use sensorium_data::{Cache, CacheKey};
use sensorium_engine::{Offsets, Params, Tape, Tensor, Var};
use sensorium_model::{ColumnInput, Context, Features, MultimodalModel, Values};
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

impl FeatureCache {
    /// A cache for the frozen towers of a model. `steady` says of each column
    /// whether its content is the same every time (not augmented); `tokens`
    /// whether hidden states are needed beside the pooled vectors.
    pub fn new(cache: Arc<Cache>, steady: &[bool], tokens: bool) -> Self {
        let columns = steady.iter().map(|steady| Column { steady: *steady, tower: OnceLock::new() }).collect();
        Self { cache, tokens, columns }
    }

    /// Whether a column's features are kept: it is frozen, and steady.
    pub fn applies(&self, model: &MultimodalModel, params: &Params, column: usize) -> bool {
        self.columns.get(column).is_some_and(|c| c.steady) && model.is_frozen(params, column)
    }

    /// The features of a column, from the cache where they are there.
    ///
    /// # Errors
    /// When the tower cannot take the input.
    pub fn features(
        &self,
        model: &MultimodalModel,
        params: &Params,
        column: usize,
        input: &ColumnInput,
    ) -> Result<Features> {
        let tower = self.columns[column].tower.get_or_init(|| fingerprint(model, params, column));
        let segments = input.offsets().segments();
        let dim = model.config().columns[column].tower.dim();
        let keys: Vec<CacheKey> =
            (0..segments).map(|s| CacheKey::of(&[FORMAT, &[u8::from(self.tokens)], tower, &bytes(input, s)])).collect();
        let mut entries: Vec<Option<Entry>> =
            keys.iter().map(|key| self.cache.get(key).and_then(|b| Entry::read(&b, dim))).collect();
        let missing: Vec<usize> = (0..segments).filter(|s| entries[*s].is_none()).collect();
        if !missing.is_empty() {
            let tape = Tape::inference();
            let computed =
                model.column_features(&Context::inference(&tape, params), column, &input.select(&missing))?;
            for (i, &segment) in missing.iter().enumerate() {
                let rows = computed.offsets.range(i);
                let tokens = if self.tokens { &computed.tokens.data()[rows.start * dim..rows.end * dim] } else { &[] };
                let pooled = &computed.pooled.data()[i * dim..(i + 1) * dim];
                let entry = Entry { tokens: tokens.to_vec(), pooled: pooled.to_vec() };
                self.cache.put(&keys[segment], &entry.write());
                entries[segment] = Some(entry);
            }
        }
        let (mut tokens, mut pooled, mut lengths) = (Vec::new(), Vec::new(), Vec::new());
        for entry in entries.iter().flatten() {
            tokens.extend(&entry.tokens);
            pooled.extend(&entry.pooled);
            lengths.push(entry.tokens.len() / dim.max(1));
        }
        Ok(Features {
            tokens: Var::constant(Tensor::from_slice(&[tokens.len() / dim.max(1), dim], &tokens)?),
            offsets: Offsets::from_lengths(lengths),
            pooled: Var::constant(Tensor::from_slice(&[segments, dim], &pooled)?),
            sample_of: input.sample_of().to_vec(),
        })
    }

    /// Lookups that found their entry, and those that did not.
    pub fn hits_and_misses(&self) -> (u64, u64) {
        self.cache.hits_and_misses()
    }
}

/// The features of one segment.
struct Entry {
    tokens: Vec<f32>,
    pooled: Vec<f32>,
}

impl Entry {
    fn write(&self) -> Vec<u8> {
        self.pooled.iter().chain(&self.tokens).flat_map(|x| x.to_le_bytes()).collect()
    }

    /// None where the entry does not hold whole vectors.
    fn read(bytes: &[u8], dim: usize) -> Option<Self> {
        if bytes.len() % 4 != 0 || bytes.len() / 4 < dim || !(bytes.len() / 4).is_multiple_of(dim) {
            return None;
        }
        let mut values = bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]));
        let pooled = values.by_ref().take(dim).collect();
        Some(Self { pooled, tokens: values.collect() })
    }
}

/// A tower's structure and weights, hashed.
fn fingerprint(model: &MultimodalModel, params: &Params, column: usize) -> Vec<u8> {
    let mut hasher = blake3::Hasher::new();
    let config = serde_json::to_vec(&model.config().columns[column].tower).unwrap_or_default();
    hasher.update(&config);
    let scope = format!("{}.", model.tower_scope(column));
    for (_, p) in params.iter() {
        if let Some(name) = p.name.strip_prefix(&scope) {
            hasher.update(name.as_bytes());
            let bytes: Vec<u8> = p.value.data().iter().flat_map(|x| x.to_le_bytes()).collect();
            hasher.update(&bytes);
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
