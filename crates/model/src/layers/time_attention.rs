//! Attention of the tokens of a video along time.

use super::{Arrangement, BlockConfig, LayerNorm, Linear, MultiHeadAttention, NormPlace};
use crate::{Context, ModelError, Result};
use sensorium_engine::{Builder, Var};

/// What a block does first where space and time are divided (TimeSformer,
/// Bertasius et al. 2021): a norm, attention of the tokens of one place to each
/// other, a linear layer.
#[derive(Debug, Clone)]
pub(super) struct TimeAttention {
    norm: LayerNorm,
    attention: MultiHeadAttention,
    dense: Linear,
}

impl TimeAttention {
    /// Creates `time_norm`, `time_attention` and `time_dense`.
    pub(super) fn new(b: &mut Builder<'_>, c: &BlockConfig) -> Result<Self> {
        if c.norm_place != NormPlace::Pre {
            return Err(ModelError::config("block", "time_attention needs norms before the sublayers"));
        }
        Ok(Self {
            norm: LayerNorm::with_bias(&mut b.scope("time_norm"), c.hidden, c.norm, c.norm_eps, c.norm_bias)?,
            attention: MultiHeadAttention::new(&mut b.scope("time_attention"), c, false)?,
            dense: Linear::new(&mut b.scope("time_dense"), c.hidden, c.hidden, true)?,
        })
    }

    /// What is added to the tokens `[tokens, hidden]`.
    pub(super) fn forward(&self, cx: &Context<'_>, x: &Var, time: Option<&Arrangement>) -> Result<Var> {
        let time =
            time.ok_or_else(|| ModelError::config("block", "time_attention needs to know the times of tokens"))?;
        let arranged = time.arrange(cx, &self.norm.forward(cx, x)?)?;
        let y = self.attention.forward(cx, &arranged, &time.segments, None, None)?;
        time.restore(cx, &self.dense.forward(cx, &y)?)
    }
}
