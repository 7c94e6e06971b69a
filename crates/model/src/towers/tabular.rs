//! What needs little encoding: precomputed features, numbers, categories.

use super::{Encoded, Pooling, Positions, wrong_kind};
use crate::{ColumnInput, Context, LayerNorm, Linear, Result, Transformer, TransformerConfig, Values};
use sensorium_engine::{Activation, Builder, Init, Offsets, ParamId, Tensor, Var, ops};
use serde::{Deserialize, Serialize};

/// Settings of a tower over precomputed features.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct FeaturesTowerConfig {
    /// Numbers per row of features.
    pub dim: usize,
    /// The most rows of a segment; 1 for one vector per sample.
    pub max_positions: usize,
    /// How the rows become one vector.
    pub pooling: Pooling,
    /// Dropout on the features themselves.
    pub input_dropout: f64,
    /// The Transformer over the rows; without effect on single vectors but
    /// for its width.
    pub transformer: TransformerConfig,
}

impl Default for FeaturesTowerConfig {
    fn default() -> Self {
        Self {
            dim: 1,
            max_positions: 1,
            pooling: Pooling::Mean,
            input_dropout: 0.0,
            transformer: TransformerConfig::default(),
        }
    }
}

/// A projection of features and, where they are sequences, a Transformer.
#[derive(Debug, Clone)]
pub struct FeaturesTower {
    config: FeaturesTowerConfig,
    projection: Linear,
    norm: LayerNorm,
    sequence: Option<(Positions, Transformer)>,
}

impl FeaturesTower {
    /// Creates `projection`, `norm` and, for sequences, `positions` and
    /// `encoder`.
    ///
    /// # Errors
    /// When the configuration makes no sense.
    pub fn new(b: &mut Builder<'_>, c: &FeaturesTowerConfig) -> Result<Self> {
        let block = &c.transformer.block;
        let sequence = if c.max_positions > 1 {
            let positions = Positions::new(b, "features tower", c.max_positions, block.hidden)?;
            Some((positions, Transformer::new(&mut b.scope("encoder"), &c.transformer)?))
        } else {
            None
        };
        Ok(Self {
            projection: Linear::new(&mut b.scope("projection"), c.dim, block.hidden, true)?,
            norm: LayerNorm::new(&mut b.scope("norm"), block.hidden, block.norm, block.norm_eps)?,
            sequence,
            config: c.clone(),
        })
    }

    /// Features `[rows, dim]` to `[rows, hidden]`.
    ///
    /// # Errors
    /// When the values are not features of the configured width.
    pub fn forward(&self, cx: &Context<'_>, column: &ColumnInput) -> Result<Encoded> {
        let Values::Features(values) = column.values() else { return Err(wrong_kind("features", column)) };
        let offsets = column.offsets();
        let values = if column.is_empty() { Tensor::zeros(&[0, self.config.dim]) } else { values.clone() };
        let x = cx.dropout(Var::constant(values), self.config.input_dropout)?;
        let x = self.projection.forward_with(cx, &x, Activation::Gelu)?;
        let mut x = cx.dropout(self.norm.forward(cx, &x)?, self.config.transformer.block.dropout)?;
        if let Some((positions, encoder)) = &self.sequence {
            x = positions.add(cx, &x, offsets)?;
            x = encoder.forward(cx, x, offsets)?;
        }
        let pooled = self.pool(cx, &x, offsets)?;
        Ok((x, offsets.clone(), pooled))
    }

    /// Tokens to one vector of each segment.
    pub(super) fn pool(&self, cx: &Context<'_>, x: &Var, offsets: &Offsets) -> Result<Var> {
        self.config.pooling.apply(cx, x, offsets)
    }
}

/// Settings of the tower of a number or a category.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TabularTowerConfig {
    /// Number of categories; 0 for a number.
    pub categories: usize,
    /// Width of the token.
    pub dim: usize,
}

impl Default for TabularTowerConfig {
    fn default() -> Self {
        Self { categories: 0, dim: 32 }
    }
}

/// One token for a number or a category.
#[derive(Debug, Clone)]
pub enum TabularTower {
    /// Two linear layers over the number.
    Number {
        /// `[dim, 1]`
        inner: Linear,
        /// `[dim, dim]`
        outer: Linear,
    },
    /// A row of a table.
    Category {
        /// `[categories, dim]`
        table: ParamId,
    },
}

impl TabularTower {
    /// Creates `inner` and `outer`, or `embeddings`.
    ///
    /// # Errors
    /// When names are taken.
    pub fn new(b: &mut Builder<'_>, c: &TabularTowerConfig) -> Result<Self> {
        Ok(if c.categories > 0 {
            Self::Category { table: b.param("embeddings", &[c.categories, c.dim], Init::Normal(0.02))? }
        } else {
            Self::Number {
                inner: Linear::with_init(&mut b.scope("inner"), 1, c.dim, true, Init::Normal(1.0))?,
                outer: Linear::new(&mut b.scope("outer"), c.dim, c.dim, true)?,
            }
        })
    }

    /// Values to one token each: `[segments, dim]`.
    ///
    /// # Errors
    /// When the values are of the other kind.
    pub fn forward(&self, cx: &Context<'_>, column: &ColumnInput) -> Result<Encoded> {
        let x = match (self, column.values()) {
            (Self::Number { inner, outer }, Values::Numbers(x)) => {
                let x = inner.forward_with(cx, &Var::constant(x.clone()), Activation::Gelu)?;
                outer.forward(cx, &x)?
            }
            (Self::Category { table }, Values::Categories(ids)) => ops::embedding(cx.tape, &cx.param(*table), ids)?,
            (Self::Number { .. }, _) => return Err(wrong_kind("numbers", column)),
            (Self::Category { .. }, _) => return Err(wrong_kind("categories", column)),
        };
        Ok((x.clone(), column.offsets().clone(), x))
    }
}
