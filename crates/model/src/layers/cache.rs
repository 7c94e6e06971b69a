//! Keys and values that a causal stack has computed, kept so that new tokens
//! attend to them without computing them again.

use crate::{ModelError, Result};
use sensorium_engine::{Offsets, Tensor, Var};

/// What a stack keeps of the tokens of some sequences.
#[derive(Debug, Clone)]
pub struct KeyValueCache {
    layers: Vec<LayerCache>,
    lengths: Vec<usize>,
}

/// What one layer keeps.
#[derive(Debug, Clone, Default)]
pub(crate) struct LayerCache {
    pub(crate) past: Past,
    pub(crate) memory: Option<Memory>,
}

/// The keys (turned by their positions) and values of each sequence's tokens.
#[derive(Debug, Clone, Default)]
pub(crate) struct Past {
    sequences: Vec<Sequence>,
}

#[derive(Debug, Clone, Default)]
struct Sequence {
    tokens: usize,
    keys: Vec<f32>,
    values: Vec<f32>,
}

/// The keys and values of a memory, as one layer projects them.
#[derive(Debug, Clone)]
pub(crate) struct Memory {
    pub(crate) keys: Var,
    pub(crate) values: Var,
    pub(crate) segments: Offsets,
}

impl KeyValueCache {
    /// For sequences that have no tokens yet.
    pub(crate) fn new(layers: usize, sequences: usize) -> Self {
        let layer = LayerCache { past: Past { sequences: vec![Sequence::default(); sequences] }, memory: None };
        Self { layers: vec![layer; layers], lengths: vec![0; sequences] }
    }

    /// The number of tokens kept of each sequence.
    pub fn lengths(&self) -> &[usize] {
        &self.lengths
    }

    pub(crate) fn layer(&mut self, layer: usize) -> &mut LayerCache {
        &mut self.layers[layer]
    }

    pub(crate) fn layers(&self) -> usize {
        self.layers.len()
    }

    /// Counts the tokens that every layer has taken in.
    pub(crate) fn grow(&mut self, segments: &Offsets) {
        for (length, range) in self.lengths.iter_mut().zip(segments.ranges()) {
            *length += range.len();
        }
    }

    /// The longest sequence once these tokens have been added.
    pub(crate) fn longest_with(&self, segments: &Offsets) -> usize {
        self.lengths.iter().zip(segments.ranges()).map(|(n, r)| n + r.len()).max().unwrap_or(0)
    }
}

impl Past {
    /// The number of tokens of a sequence.
    pub(crate) fn tokens(&self, sequence: usize) -> usize {
        self.sequences[sequence].tokens
    }

    /// Adds the keys and values of new tokens, segment i to sequence i;
    /// returns those of all tokens, packed.
    ///
    /// # Errors
    /// When gradients would be lost.
    pub(crate) fn extend(&mut self, (k, v): (&Var, &Var), segments: &Offsets) -> Result<(Var, Var, Offsets)> {
        if k.needs_gradient() || v.needs_gradient() {
            return Err(ModelError::config(
                "key/value cache",
                "gradients do not pass through it; use an inference tape",
            ));
        }
        let (wide, tall) = (k.cols(), v.cols());
        for (sequence, range) in self.sequences.iter_mut().zip(segments.ranges()) {
            sequence.tokens += range.len();
            sequence.keys.extend_from_slice(&k.data()[range.start * wide..range.end * wide]);
            sequence.values.extend_from_slice(&v.data()[range.start * tall..range.end * tall]);
        }
        let offsets = Offsets::from_lengths(self.sequences.iter().map(|s| s.tokens));
        let packed = |cols: usize, of: fn(&Sequence) -> &[f32]| {
            let mut all = Tensor::any(&[offsets.total(), cols]);
            for (sequence, range) in self.sequences.iter().zip(offsets.ranges()) {
                all.data_mut()[range.start * cols..range.end * cols].copy_from_slice(of(sequence));
            }
            Var::constant(all)
        };
        Ok((packed(wide, |s| &s.keys), packed(tall, |s| &s.values), offsets))
    }
}
