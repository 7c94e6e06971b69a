//! Fusion: the features of any subset of a sample's modalities into one
//! vector per sample, the same way in training and inference.

mod attention;
mod concat;
mod weighted;

pub use attention::AttentionFusion;
pub use concat::ConcatFusion;
pub use weighted::WeightedFusion;

use crate::{Context, Features, LayerNorm, Linear, NormKind, Result};
use sensorium_engine::{Activation, Builder, Tensor, Var};
use serde::{Deserialize, Serialize};

/// Which fusion.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(rename_all = "snake_case")]
pub enum FusionKind {
    /// The columns' vectors side by side, projected.
    Concat,
    /// A gated sum of the columns' vectors; the gates are reported.
    Weighted,
    /// A Transformer over the tokens of all columns.
    #[default]
    Attention,
}

/// Settings of a fusion.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct FusionConfig {
    /// concat, weighted or attention.
    pub kind: FusionKind,
    /// Width of the fused vector.
    pub dim: usize,
    /// Dropout on the fused vector and inside the fusion.
    pub dropout: f64,
    /// Probability of leaving out each present modality of a sample in
    /// training, so that the model learns to do without.
    pub modality_dropout: f64,
    /// Weight of the sum of the losses that each column alone has, in
    /// training: keeps slower modalities learning when a fast one already
    /// explains the training rows. 0 for none.
    pub unimodal_loss: f64,
    /// Blocks of `attention`.
    pub layers: usize,
    /// Heads of `attention`.
    pub heads: usize,
    /// Bottleneck tokens of `attention` through which modalities exchange
    /// (Nagrani et al. 2021); 0 to let all tokens see each other.
    pub bottleneck: usize,
}

impl Default for FusionConfig {
    fn default() -> Self {
        Self {
            kind: FusionKind::Attention,
            dim: 128,
            dropout: 0.1,
            modality_dropout: 0.0,
            unimodal_loss: 0.0,
            layers: 1,
            heads: 4,
            bottleneck: 0,
        }
    }
}

/// The fused batch.
pub struct Fused {
    /// One vector per sample `[samples, dim]`.
    pub vectors: Var,
    /// The weight of each column in each sample `[samples, columns]`, 0 where
    /// absent; only from `weighted`.
    pub gates: Option<Tensor>,
}

/// A fusion of any kind.
#[derive(Debug, Clone)]
#[allow(missing_docs)]
pub enum Fusion {
    Concat(ConcatFusion),
    Weighted(WeightedFusion),
    Attention(AttentionFusion),
}

impl Fusion {
    /// Creates the parameters for columns whose features have these widths.
    ///
    /// # Errors
    /// When the configuration makes no sense.
    pub fn new(b: &mut Builder<'_>, c: &FusionConfig, dims: &[usize]) -> Result<Self> {
        Ok(match c.kind {
            FusionKind::Concat => Self::Concat(ConcatFusion::new(b, c, dims)?),
            FusionKind::Weighted => Self::Weighted(WeightedFusion::new(b, c, dims)?),
            FusionKind::Attention => Self::Attention(AttentionFusion::new(b, c, dims)?),
        })
    }

    /// The features of all columns (in the model's order) of `samples`
    /// samples into one vector each.
    ///
    /// # Errors
    /// Those of the engine.
    pub fn forward(&self, cx: &Context<'_>, features: &[Features], samples: usize) -> Result<Fused> {
        match self {
            Self::Concat(f) => f.forward(cx, features, samples),
            Self::Weighted(f) => f.forward(cx, features, samples),
            Self::Attention(f) => f.forward(cx, features, samples),
        }
    }
}

/// Brings one column's features to the width of the fusion: a norm, then a
/// linear layer.
#[derive(Debug, Clone)]
struct Entrance {
    norm: LayerNorm,
    projection: Linear,
}

impl Entrance {
    /// One for each column: creates `column.{i}.{norm,projection}`.
    fn for_columns(b: &mut Builder<'_>, dims: &[usize], dim: usize) -> Result<Vec<Self>> {
        dims.iter()
            .enumerate()
            .map(|(i, own)| {
                let mut b = b.scope(format_args!("column.{i}"));
                let norm = LayerNorm::new(&mut b.scope("norm"), *own, NormKind::LayerNorm, 1e-5)?;
                Ok(Self { norm, projection: Linear::new(&mut b.scope("projection"), *own, dim, true)? })
            })
            .collect()
    }

    /// `[rows, own width]` to `[rows, dim]`.
    fn forward(&self, cx: &Context<'_>, x: &Var, activation: Activation) -> Result<Var> {
        self.projection.forward_with(cx, &self.norm.forward(cx, x)?, activation)
    }
}

/// A table of `columns * samples` rows, laid out sample by sample, of which
/// only the present ones exist: for each sample its present columns in order.
struct Present {
    /// Row in the columns' concatenated vectors, for each present pair.
    rows: Vec<u32>,
    /// The column of each present pair.
    columns: Vec<u32>,
    /// Pairs of each sample.
    offsets: sensorium_engine::Offsets,
}

impl Present {
    /// `rows[c][s]` is the row of sample s among column c's vectors; the
    /// columns' vectors stand one after another.
    fn new(rows: &[Vec<Option<u32>>], samples: usize) -> Self {
        let mut starts = vec![0; rows.len()];
        for c in 1..rows.len() {
            starts[c] = starts[c - 1] + rows[c - 1].iter().flatten().count() as u32;
        }
        let mut present =
            Self { rows: Vec::new(), columns: Vec::new(), offsets: sensorium_engine::Offsets::from_lengths([]) };
        let mut lengths = vec![0; samples];
        for s in 0..samples {
            for (c, column) in rows.iter().enumerate() {
                if let Some(r) = column[s] {
                    present.rows.push(starts[c] + r);
                    present.columns.push(c as u32);
                    lengths[s] += 1;
                }
            }
        }
        present.offsets = sensorium_engine::Offsets::from_lengths(lengths);
        present
    }
}
