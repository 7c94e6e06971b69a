//! The one Transformer block; BERT, ViT, Whisper, Llama are settings of it.

use super::{LayerNorm, Linear, NormKind};
use crate::{Context, ModelError, Result};
use sensorium_engine::{Activation, Builder, Offsets, Var, ops};
use serde::{Deserialize, Serialize};

/// Where a block normalises.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(rename_all = "snake_case")]
pub enum NormPlace {
    /// Before each sublayer: ViT, GPT-2, Whisper, Llama; trains from scratch
    /// without trouble.
    #[default]
    Pre,
    /// After each residual sum: BERT.
    Post,
}

/// Settings of a Transformer block.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct BlockConfig {
    /// Width of the tokens.
    pub hidden: usize,
    /// Attention heads; divides `hidden`.
    pub heads: usize,
    /// Heads of keys and values; 0 for as many as `heads`.
    pub kv_heads: usize,
    /// Width inside the feed-forward part; 0 for 4 · `hidden`.
    pub intermediate: usize,
    /// The feed-forward activation: relu, gelu, gelu_tanh, quick_gelu, silu.
    pub activation: ActivationName,
    /// Whether the feed-forward part is gated (SwiGLU and kin).
    pub gated: bool,
    /// layer_norm or rms_norm.
    pub norm: NormKind,
    /// pre or post.
    pub norm_place: NormPlace,
    /// Added to the variance in norms.
    pub norm_eps: f64,
    /// Whether linear layers have biases.
    pub bias: bool,
    /// A token sees only those before it.
    pub causal: bool,
    /// Base of rotary positions; none without.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rotary_base: Option<f64>,
    /// Dropout on the sublayers' outputs.
    pub dropout: f64,
    /// Dropout on attention weights.
    pub attention_dropout: f64,
    /// Stochastic depth: probability of skipping a sublayer, per sample.
    pub drop_path: f64,
}

/// An activation by its name in configurations.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs)]
pub enum ActivationName {
    Relu,
    #[default]
    Gelu,
    GeluTanh,
    QuickGelu,
    Silu,
    Tanh,
}

impl From<ActivationName> for Activation {
    fn from(name: ActivationName) -> Self {
        match name {
            ActivationName::Relu => Self::Relu,
            ActivationName::Gelu => Self::Gelu,
            ActivationName::GeluTanh => Self::GeluTanh,
            ActivationName::QuickGelu => Self::QuickGelu,
            ActivationName::Silu => Self::Silu,
            ActivationName::Tanh => Self::Tanh,
        }
    }
}

impl Default for BlockConfig {
    fn default() -> Self {
        Self {
            hidden: 128,
            heads: 4,
            kv_heads: 0,
            intermediate: 0,
            activation: ActivationName::Gelu,
            gated: false,
            norm: NormKind::LayerNorm,
            norm_place: NormPlace::Pre,
            norm_eps: 1e-5,
            bias: true,
            causal: false,
            rotary_base: None,
            dropout: 0.1,
            attention_dropout: 0.0,
            drop_path: 0.0,
        }
    }
}

impl BlockConfig {
    /// Whether the numbers fit each other.
    ///
    /// # Errors
    /// When they do not; the error names `part`.
    pub fn validate(&self, part: &str) -> Result<()> {
        let err = |problem: String| Err(ModelError::config(part, problem));
        if self.hidden == 0 || self.heads == 0 || !self.hidden.is_multiple_of(self.heads) {
            return err(format!("heads ({}) must divide hidden ({})", self.heads, self.hidden));
        }
        if self.kv_heads > 0 && !self.heads.is_multiple_of(self.kv_heads) {
            return err(format!("kv_heads ({}) must divide heads ({})", self.kv_heads, self.heads));
        }
        if self.rotary_base.is_some() && !(self.hidden / self.heads).is_multiple_of(2) {
            return err("rotary positions need an even head width".into());
        }
        for (name, p) in
            [("dropout", self.dropout), ("attention_dropout", self.attention_dropout), ("drop_path", self.drop_path)]
        {
            if !(0.0..1.0).contains(&p) {
                return err(format!("{name} = {p} is not in [0, 1)"));
            }
        }
        Ok(())
    }

    fn key_heads(&self) -> usize {
        if self.kv_heads == 0 { self.heads } else { self.kv_heads }
    }
}

/// Self-attention and a feed-forward part, each with a residual.
#[derive(Debug, Clone)]
pub struct Block {
    config: BlockConfig,
    query: Linear,
    key: Linear,
    value: Linear,
    output: Linear,
    attention_norm: LayerNorm,
    gate: Option<Linear>,
    up: Linear,
    down: Linear,
    mlp_norm: LayerNorm,
}

impl Block {
    /// Creates the parameters `attention.{query,key,value,output}`,
    /// `attention_norm`, `mlp.{gate,up,down}` and `mlp_norm`.
    ///
    /// # Errors
    /// When the configuration makes no sense or names are taken.
    pub fn new(b: &mut Builder<'_>, config: &BlockConfig) -> Result<Self> {
        config.validate("block")?;
        let c = config;
        let kv = c.hidden / c.heads * c.key_heads();
        let inner = if c.intermediate == 0 { 4 * c.hidden } else { c.intermediate };
        let norm = |b: &mut Builder<'_>, name| LayerNorm::new(&mut b.scope(name), c.hidden, c.norm, c.norm_eps);
        let linear = |b: &mut Builder<'_>, name, i, o| Linear::new(&mut b.scope(name), i, o, c.bias);
        Ok(Self {
            query: linear(b, "attention.query", c.hidden, c.hidden)?,
            key: linear(b, "attention.key", c.hidden, kv)?,
            value: linear(b, "attention.value", c.hidden, kv)?,
            output: linear(b, "attention.output", c.hidden, c.hidden)?,
            attention_norm: norm(b, "attention_norm")?,
            gate: if c.gated { Some(linear(b, "mlp.gate", c.hidden, inner)?) } else { None },
            up: linear(b, "mlp.up", c.hidden, inner)?,
            down: linear(b, "mlp.down", inner, c.hidden)?,
            mlp_norm: norm(b, "mlp_norm")?,
            config: config.clone(),
        })
    }

    /// `[tokens, hidden]` to the same; attention within `segments`.
    ///
    /// # Errors
    /// When the shapes do not fit.
    pub fn forward(&self, cx: &Context<'_>, x: &Var, segments: &Offsets) -> Result<Var> {
        match self.config.norm_place {
            NormPlace::Pre => {
                let y = self.attention_norm.forward(cx, x)?;
                let y = self.attend(cx, &y, segments)?;
                let (x, y) = self.mlp_norm.add_forward(cx, &y, x)?;
                let y = self.feed_forward(cx, &y, segments)?;
                Ok(ops::add(cx.tape, &y, &x)?)
            }
            NormPlace::Post => {
                let y = self.attend(cx, x, segments)?;
                let (_, x) = self.attention_norm.add_forward(cx, &y, x)?;
                let y = self.feed_forward(cx, &x, segments)?;
                Ok(self.mlp_norm.add_forward(cx, &y, &x)?.1)
            }
        }
    }

    fn attend(&self, cx: &Context<'_>, x: &Var, segments: &Offsets) -> Result<Var> {
        let c = &self.config;
        let (mut q, mut k, v) = (self.query.forward(cx, x)?, self.key.forward(cx, x)?, self.value.forward(cx, x)?);
        if let Some(base) = c.rotary_base {
            let positions: Vec<u32> = segments.ranges().flat_map(|r| 0..r.len() as u32).collect();
            let turn = |x: &Var, heads| {
                let rotary = ops::Rotary { heads, dims: c.hidden / c.heads, base, interleaved: false };
                ops::rotary(cx.tape, x, &positions, rotary)
            };
            (q, k) = (turn(&q, c.heads)?, turn(&k, c.key_heads())?);
        }
        let random = cx.next_random().filter(|_| c.attention_dropout > 0.0);
        let attention = ops::Attention {
            kv_heads: c.key_heads(),
            causal: c.causal,
            dropout: random.map(|r| (c.attention_dropout, r)),
            ..ops::Attention::new(c.heads)
        };
        let y = ops::attention(cx.tape, (&q, &k, &v), (segments, segments), &attention, None)?;
        self.after(cx, self.output.forward(cx, &y)?, segments)
    }

    fn feed_forward(&self, cx: &Context<'_>, x: &Var, segments: &Offsets) -> Result<Var> {
        let activation = Activation::from(self.config.activation);
        let inner = match &self.gate {
            Some(gate) => {
                let (gate, up) = (gate.forward(cx, x)?, self.up.forward(cx, x)?);
                ops::gated(cx.tape, &gate, &up, activation)?
            }
            None => self.up.forward_with(cx, x, activation)?,
        };
        self.after(cx, self.down.forward(cx, &inner)?, segments)
    }

    /// Dropout and stochastic depth on a sublayer's output.
    fn after(&self, cx: &Context<'_>, y: Var, segments: &Offsets) -> Result<Var> {
        let y = cx.dropout(y, self.config.dropout)?;
        match cx.next_random() {
            Some(random) if self.config.drop_path > 0.0 => {
                Ok(ops::drop_path(cx.tape, &y, segments, self.config.drop_path, random)?)
            }
            _ => Ok(y),
        }
    }
}
