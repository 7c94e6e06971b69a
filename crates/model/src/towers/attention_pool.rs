//! One vector of many tokens by attention.

use crate::layers::{ActivationName, BlockConfig, LayerNorm, Linear, MultiHeadAttention};
use crate::{Context, Result};
use sensorium_engine::{Builder, Init, Offsets, ParamId, Var, ops};

/// A learned query that attends to the tokens of each segment, then a
/// feed-forward part with a residual (SigLIP, Zhai et al. 2023; after Lee et
/// al., "Set Transformer", 2019).
#[derive(Debug, Clone)]
pub(super) struct AttentionPool {
    query: ParamId,
    attention: MultiHeadAttention,
    norm: LayerNorm,
    up: Linear,
    down: Linear,
    activation: ActivationName,
}

impl AttentionPool {
    /// Creates `probe`, `attention`, `norm` and `mlp.{up,down}`, as wide as a
    /// block of this configuration.
    pub(super) fn new(b: &mut Builder<'_>, c: &BlockConfig) -> Result<Self> {
        let inner = if c.intermediate == 0 { 4 * c.hidden } else { c.intermediate };
        Ok(Self {
            query: b.param("probe", &[1, c.hidden], Init::Normal(0.02))?,
            attention: MultiHeadAttention::new(&mut b.scope("attention"), c, true)?,
            norm: LayerNorm::with_bias(&mut b.scope("norm"), c.hidden, c.norm, c.norm_eps, c.norm_bias)?,
            up: Linear::new(&mut b.scope("mlp.up"), c.hidden, inner, c.bias)?,
            down: Linear::new(&mut b.scope("mlp.down"), inner, c.hidden, c.bias)?,
            activation: c.activation,
        })
    }

    /// `[tokens, hidden]` to `[segments, hidden]`.
    pub(super) fn forward(&self, cx: &Context<'_>, x: &Var, offsets: &Offsets) -> Result<Var> {
        let n = offsets.segments();
        let queries = ops::gather_rows(cx.tape, &cx.param(self.query), &vec![0; n])?;
        let single = Offsets::from_lengths(vec![1; n]);
        let memory = self.attention.project(cx, (x, offsets))?;
        let y = self.attention.forward_to(cx, &queries, &single, &memory)?;
        let inner = self.up.forward_with(cx, &self.norm.forward(cx, &y)?, self.activation.into())?;
        Ok(ops::add(cx.tape, &self.down.forward(cx, &inner)?, &y)?)
    }
}
