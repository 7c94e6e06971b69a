//! Text: token and position embeddings, then a Transformer.

use super::{Encoded, Pooling, Positions, wrong_kind};
use crate::{ColumnInput, Context, LayerNorm, Result, Transformer, TransformerConfig, Values};
use sensorium_engine::{Builder, Init, ParamId, ops};
use serde::{Deserialize, Serialize};

/// Settings of a text tower.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TextTowerConfig {
    /// Number of tokens in the vocabulary.
    pub vocab_size: usize,
    /// The longest text in tokens.
    pub max_positions: usize,
    /// How the tokens become one vector.
    pub pooling: Pooling,
    /// The Transformer.
    pub transformer: TransformerConfig,
}

impl Default for TextTowerConfig {
    fn default() -> Self {
        Self { vocab_size: 1000, max_positions: 128, pooling: Pooling::Mean, transformer: TransformerConfig::default() }
    }
}

/// A text encoder.
#[derive(Debug, Clone)]
pub struct TextTower {
    embeddings: ParamId,
    positions: Positions,
    norm: LayerNorm,
    encoder: Transformer,
    pooling: Pooling,
    dropout: f64,
}

impl TextTower {
    /// Creates `embeddings.{word,positions,norm}` and `encoder`.
    ///
    /// # Errors
    /// When the configuration makes no sense.
    pub fn new(b: &mut Builder<'_>, c: &TextTowerConfig) -> Result<Self> {
        let block = &c.transformer.block;
        let mut e = b.scope("embeddings");
        let embeddings = e.param("word", &[c.vocab_size, block.hidden], Init::Normal(0.02))?;
        let positions = Positions::new(&mut e, "text tower", c.max_positions, block.hidden)?;
        let norm = LayerNorm::new(&mut e.scope("norm"), block.hidden, block.norm, block.norm_eps)?;
        let encoder = Transformer::new(&mut b.scope("encoder"), &c.transformer)?;
        Ok(Self { embeddings, positions, norm, encoder, pooling: c.pooling, dropout: block.dropout })
    }

    /// Tokens to `[tokens, hidden]`.
    ///
    /// # Errors
    /// When the values are not tokens, or a text is too long.
    pub fn forward(&self, cx: &Context<'_>, column: &ColumnInput) -> Result<Encoded> {
        let Values::Tokens(ids) = column.values() else { return Err(wrong_kind("tokens", column)) };
        let offsets = column.offsets();
        let x = ops::embedding(cx.tape, &cx.param(self.embeddings), ids)?;
        let x = self.positions.add(cx, &x, offsets)?;
        let x = cx.dropout(self.norm.forward(cx, &x)?, self.dropout)?;
        let x = self.encoder.forward(cx, x, offsets)?;
        let pooled = self.pooling.apply(cx, &x, offsets)?;
        Ok((x, offsets.clone(), pooled))
    }
}
