//! A stack of blocks.

use super::{Block, BlockConfig, LayerNorm, NormPlace};
use crate::{Context, ModelError, Result};
use sensorium_engine::{Builder, Offsets, Var};
use serde::{Deserialize, Serialize};

/// Settings of a stack of Transformer blocks.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TransformerConfig {
    /// The number of blocks.
    pub layers: usize,
    /// The settings of each.
    pub block: BlockConfig,
}

impl Default for TransformerConfig {
    fn default() -> Self {
        Self { layers: 2, block: BlockConfig::default() }
    }
}

/// Blocks one after another and, with norms before the sublayers, one at the
/// end.
#[derive(Debug, Clone)]
pub struct Transformer {
    blocks: Vec<Block>,
    norm: Option<LayerNorm>,
}

impl Transformer {
    /// Creates `layer.{i}` and `norm`. Stochastic depth grows linearly with
    /// the layer up to the configured probability (Huang et al. 2016).
    ///
    /// # Errors
    /// When the configuration makes no sense.
    pub fn new(b: &mut Builder<'_>, config: &TransformerConfig) -> Result<Self> {
        config.block.validate("transformer")?;
        if config.layers > 1024 {
            return Err(ModelError::config("transformer", format!("layers = {} is more than 1024", config.layers)));
        }
        let blocks = (0..config.layers)
            .map(|i| {
                let depth = (i + 1) as f64 / config.layers as f64;
                let block = BlockConfig { drop_path: config.block.drop_path * depth, ..config.block.clone() };
                Block::new(&mut b.scope(format_args!("layer.{i}")), &block)
            })
            .collect::<Result<_>>()?;
        let norm = match config.block.norm_place {
            NormPlace::Pre => {
                let c = &config.block;
                Some(LayerNorm::new(&mut b.scope("norm"), c.hidden, c.norm, c.norm_eps)?)
            }
            NormPlace::Post => None,
        };
        Ok(Self { blocks, norm })
    }

    /// `[tokens, hidden]` to the same; attention within `segments`.
    ///
    /// # Errors
    /// When the shapes do not fit.
    pub fn forward(&self, cx: &Context<'_>, x: Var, segments: &Offsets) -> Result<Var> {
        let mut x = x;
        for block in &self.blocks {
            x = block.forward(cx, &x, segments)?;
        }
        match &self.norm {
            Some(norm) => norm.forward(cx, &x),
            None => Ok(x),
        }
    }

    /// The number of blocks.
    pub fn layers(&self) -> usize {
        self.blocks.len()
    }
}
