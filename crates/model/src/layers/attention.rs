//! Multi-head attention with its projections.

use super::cache::{Memory, Past};
use super::position_gate::PositionGate;
use super::{BlockConfig, LayerNorm, Linear, rotary};
use crate::{Context, Result};
use sensorium_engine::{Builder, Offsets, Var, ops};
use serde::{Deserialize, Serialize};
use std::ops::Range;

/// Which projections of an attention have biases, where they differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AttentionBias {
    /// The queries'.
    pub query: bool,
    /// The keys'.
    pub key: bool,
    /// The values'.
    pub value: bool,
    /// The output's.
    pub output: bool,
}

impl AttentionBias {
    /// All alike.
    pub fn all(bias: bool) -> Self {
        Self { query: bias, key: bias, value: bias, output: bias }
    }
}

/// Multi-head attention (Vaswani et al. 2017), its heads of keys and values
/// possibly fewer than those of the queries (Ainslie et al. 2023).
#[derive(Debug, Clone)]
pub struct MultiHeadAttention {
    heads: usize,
    kv_heads: usize,
    head_dim: usize,
    causal: bool,
    scale: Option<f64>,
    rotary: Option<ops::Rotary>,
    window: Option<usize>,
    dropout: f64,
    query: Linear,
    key: Linear,
    value: Linear,
    output: Linear,
    norms: Option<(LayerNorm, LayerNorm)>,
    gate: Option<PositionGate>,
}

impl MultiHeadAttention {
    /// Creates the parameters `query`, `key`, `value`, `output` and, with
    /// `qk_norm`, `query_norm` and `key_norm`, with `position_gate` one of that
    /// name. Attention to a `memory` is neither causal nor rotary, and has no
    /// gate.
    ///
    /// # Errors
    /// When names are taken.
    pub fn new(b: &mut Builder<'_>, c: &BlockConfig, memory: bool) -> Result<Self> {
        let (dim, kv_heads, bias) = (c.head_dim(), c.key_heads(), c.attention_bias());
        let (wide, narrow) = (dim * c.heads, dim * kv_heads);
        let linear = |b: &mut Builder<'_>, name, i, o, bias| Linear::new(&mut b.scope(name), i, o, bias);
        let norm =
            |b: &mut Builder<'_>, name| LayerNorm::with_bias(&mut b.scope(name), dim, c.norm, c.norm_eps, c.norm_bias);
        Ok(Self {
            heads: c.heads,
            kv_heads,
            head_dim: dim,
            causal: c.causal && !memory,
            scale: c.attention_scale,
            rotary: rotary::rotary(c).filter(|_| !memory),
            window: c.window.filter(|_| !memory),
            dropout: c.attention_dropout,
            query: linear(b, "query", c.hidden, wide, bias.query)?,
            key: linear(b, "key", c.hidden, narrow, bias.key)?,
            value: linear(b, "value", c.hidden, narrow, bias.value)?,
            output: linear(b, "output", wide, c.hidden, bias.output)?,
            norms: if c.qk_norm { Some((norm(b, "query_norm")?, norm(b, "key_norm")?)) } else { None },
            gate: if c.position_gate && !memory {
                Some(PositionGate::new(&mut b.scope("position_gate"), c.heads, dim)?)
            } else {
                None
            },
        })
    }

    /// Attention of tokens `[tokens, hidden]` to each other, within segments
    /// and with biases by distance if any; with a past, also to the tokens of
    /// it, which they follow and join.
    ///
    /// # Errors
    /// When the shapes do not fit.
    pub(crate) fn forward(
        &self,
        cx: &Context<'_>,
        x: &Var,
        segments: &Offsets,
        bias: Option<&ops::RelativeBias<'_, f32>>,
        past: Option<&mut Past>,
    ) -> Result<Var> {
        let [q, k, v] = Linear::forward_three(cx, [&self.query, &self.key, &self.value], x)?;
        let mut q = self.normed(cx, q, self.norms.as_ref().map(|n| &n.0))?;
        let mut k = self.normed(cx, k, self.norms.as_ref().map(|n| &n.1))?;
        if let Some(rotary) = &self.rotary {
            let start = |segment| past.as_ref().map_or(0, |p| p.tokens(segment)) as u32;
            let places = |(i, r): (usize, Range<usize>)| start(i)..start(i) + r.len() as u32;
            let positions: Vec<u32> = segments.ranges().enumerate().flat_map(places).collect();
            let turn = |x: &Var, heads| ops::rotary(cx.tape, x, &positions, &ops::Rotary { heads, ..rotary.clone() });
            (q, k) = (turn(&q, self.heads)?, turn(&k, self.kv_heads)?);
        }
        let (k, v, keys) = match past {
            Some(past) => past.extend((&k, &v), segments)?,
            None => (k, v, segments.clone()),
        };
        let gates = match (&self.gate, bias) {
            (Some(gate), Some(_)) => Some(gate.forward(cx, x)?),
            _ => None,
        };
        let bias = bias.map(|bias| ops::RelativeBias { gates: gates.as_ref(), ..bias.clone() });
        self.attend(cx, (&q, &k, &v), (segments, &keys), bias.as_ref())
    }

    /// The keys and values of the tokens of a memory.
    ///
    /// # Errors
    /// When the shapes do not fit.
    pub(crate) fn project(&self, cx: &Context<'_>, memory: (&Var, &Offsets)) -> Result<Memory> {
        let (keys, values) = (self.keys(cx, memory.0)?, self.value.forward(cx, memory.0)?);
        Ok(Memory { keys, values, segments: memory.1.clone() })
    }

    /// Attention of tokens to the tokens of a memory, segment to segment.
    ///
    /// # Errors
    /// When the shapes do not fit.
    pub(crate) fn forward_to(&self, cx: &Context<'_>, x: &Var, segments: &Offsets, memory: &Memory) -> Result<Var> {
        let q = self.queries(cx, x)?;
        self.attend(cx, (&q, &memory.keys, &memory.values), (segments, &memory.segments), None)
    }

    /// The layer that it begins with.
    pub(super) fn first(&self) -> &Linear {
        &self.query
    }

    fn queries(&self, cx: &Context<'_>, x: &Var) -> Result<Var> {
        self.normed(cx, self.query.forward(cx, x)?, self.norms.as_ref().map(|n| &n.0))
    }

    fn keys(&self, cx: &Context<'_>, x: &Var) -> Result<Var> {
        self.normed(cx, self.key.forward(cx, x)?, self.norms.as_ref().map(|n| &n.1))
    }

    /// Each head normalised by itself.
    fn normed(&self, cx: &Context<'_>, x: Var, norm: Option<&LayerNorm>) -> Result<Var> {
        let Some(norm) = norm else { return Ok(x) };
        let (rows, cols) = (x.rows(), x.cols());
        let by_head = ops::reshape(cx.tape, &x, &[rows * cols / self.head_dim, self.head_dim])?;
        let y = norm.forward(cx, &by_head)?;
        Ok(ops::reshape(cx.tape, &y, &[rows, cols])?)
    }

    fn attend(
        &self,
        cx: &Context<'_>,
        qkv: (&Var, &Var, &Var),
        offsets: (&Offsets, &Offsets),
        bias: Option<&ops::RelativeBias<'_, f32>>,
    ) -> Result<Var> {
        let random = cx.next_random().filter(|_| self.dropout > 0.0);
        let attention = ops::Attention {
            kv_heads: self.kv_heads,
            causal: self.causal,
            window: self.window,
            scale: self.scale,
            dropout: random.map(|r| (self.dropout, r)),
            ..ops::Attention::new(self.heads)
        };
        let prefixed = cx.prefixed((&self.key, &self.value), (qkv.1, qkv.2), offsets.1, bias.is_some())?;
        let y = match &prefixed {
            Some((k, v, keys)) => ops::attention(cx.tape, (qkv.0, k, v), (offsets.0, keys), &attention, bias)?,
            None => ops::attention(cx.tape, qkv, offsets, &attention, bias)?,
        };
        self.output.forward(cx, &y)
    }
}
