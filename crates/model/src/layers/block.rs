//! The one Transformer block; BERT, ViT, Whisper, Llama are settings of it.

use super::cache::{LayerCache, Memory};
use super::{Arrangement, time_attention::TimeAttention};
use super::{AttentionBias, LayerNorm, Linear, MultiHeadAttention, NormKind, RotaryScaling};
use crate::{Context, ModelError, Result};
use sensorium_engine::{Activation, Builder, Init, Offsets, ParamId, Var, ops};
use serde::{Deserialize, Serialize};
use std::rc::Rc;

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
    /// Attention heads; divides `hidden` unless `head_dim` is given.
    pub heads: usize,
    /// Width of a head; `hidden` / `heads` when left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub head_dim: Option<usize>,
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
    /// Whether normalisations have biases (layer_norm only).
    #[serde(skip_serializing_if = "is_true")]
    pub norm_bias: bool,
    /// Whether linear layers have biases.
    pub bias: bool,
    /// Biases of the attention, where they differ from `bias`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub attention_bias: Option<AttentionBias>,
    /// Whether each head of queries and keys is normalised (Qwen3).
    #[serde(skip_serializing_if = "is_false")]
    pub qk_norm: bool,
    /// Whether each token decides how much the biases by distance count for
    /// it (WavLM); needs the stack's `relative_positions`.
    #[serde(skip_serializing_if = "is_false")]
    pub position_gate: bool,
    /// What scores are multiplied by; 1 / √head_dim when left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub attention_scale: Option<f64>,
    /// First value of a learned factor per feature on each sublayer's output
    /// (LayerScale, Touvron et al. 2021); none without.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub layer_scale: Option<f64>,
    /// Whether tokens of a video see those of other times at their place
    /// before they see others of their own time (TimeSformer).
    #[serde(skip_serializing_if = "is_false")]
    pub time_attention: bool,
    /// Whether the block also attends to a memory, as decoders do.
    #[serde(skip_serializing_if = "is_false")]
    pub cross_attention: bool,
    /// A token sees only those before it.
    pub causal: bool,
    /// Base of rotary positions; none without.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rotary_base: Option<f64>,
    /// How rotary positions are stretched to longer texts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rotary_scaling: Option<RotaryScaling>,
    /// Whether rotary positions turn neighbouring features together, not
    /// those half a head apart.
    #[serde(skip_serializing_if = "is_false")]
    pub rotary_interleaved: bool,
    /// How many tokens away a token sees others; all when left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub window: Option<usize>,
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
    /// None at all: two linear layers in a row.
    Identity,
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
            ActivationName::Identity => Self::Identity,
        }
    }
}

impl Default for BlockConfig {
    fn default() -> Self {
        Self {
            hidden: 128,
            heads: 4,
            head_dim: None,
            kv_heads: 0,
            intermediate: 0,
            activation: ActivationName::Gelu,
            gated: false,
            norm: NormKind::LayerNorm,
            norm_place: NormPlace::Pre,
            norm_eps: 1e-5,
            norm_bias: true,
            bias: true,
            attention_bias: None,
            qk_norm: false,
            position_gate: false,
            attention_scale: None,
            layer_scale: None,
            time_attention: false,
            cross_attention: false,
            causal: false,
            rotary_base: None,
            rotary_scaling: None,
            rotary_interleaved: false,
            window: None,
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
        if self.hidden == 0 || self.heads == 0 || (self.head_dim.is_none() && !self.hidden.is_multiple_of(self.heads)) {
            return err(format!("heads ({}) must divide hidden ({})", self.heads, self.hidden));
        }
        if self.head_dim == Some(0) {
            return err("head_dim must be at least 1".into());
        }
        if self.kv_heads > 0 && !self.heads.is_multiple_of(self.kv_heads) {
            return err(format!("kv_heads ({}) must divide heads ({})", self.kv_heads, self.heads));
        }
        if self.rotary_base.is_some() && !self.head_dim().is_multiple_of(2) {
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

    pub(crate) fn key_heads(&self) -> usize {
        if self.kv_heads == 0 { self.heads } else { self.kv_heads }
    }

    pub(crate) fn head_dim(&self) -> usize {
        self.head_dim.unwrap_or(self.hidden / self.heads.max(1))
    }

    pub(crate) fn attention_bias(&self) -> AttentionBias {
        self.attention_bias.unwrap_or(AttentionBias::all(self.bias))
    }
}

fn is_true(x: &bool) -> bool {
    *x
}

fn is_false(x: &bool) -> bool {
    !*x
}

/// What the tokens of a block stand among.
pub struct Surroundings<'a> {
    /// Where each segment begins and ends; attention stays within.
    pub segments: &'a Offsets,
    /// The (height, width) in tokens that every segment is, line by line, for
    /// a stack that looks at windows of a grid.
    pub grid: Option<(usize, usize)>,
    /// An order of the tokens in which attention stays within its segments
    /// instead.
    pub arranged: Option<Rc<Arrangement>>,
    /// The one of attention along time, for blocks that have it.
    pub time: Option<Rc<Arrangement>>,
    /// A bias on the scores by distance.
    pub bias: Option<ops::RelativeBias<'a, f32>>,
    /// What cross-attention sees: tokens `[memory_tokens, hidden]`, segment by
    /// segment.
    pub memory: Option<(&'a Var, &'a Offsets)>,
}

impl<'a> Surroundings<'a> {
    /// Segments and nothing else.
    pub fn of(segments: &'a Offsets) -> Self {
        Self { segments, grid: None, arranged: None, time: None, bias: None, memory: None }
    }
}

/// What stands between two sublayers.
struct Between {
    /// What the next one's output is added to.
    residual: Var,
    /// What the next one takes.
    input: Var,
}

/// Attention and a feed-forward part, each with a residual.
#[derive(Debug, Clone)]
pub struct Block {
    config: BlockConfig,
    attention: MultiHeadAttention,
    attention_norm: Option<LayerNorm>,
    time: Option<TimeAttention>,
    cross: Option<(MultiHeadAttention, LayerNorm)>,
    gate: Option<Linear>,
    up: Linear,
    down: Linear,
    mlp_norm: LayerNorm,
    scales: Option<(ParamId, ParamId)>,
}

impl Block {
    /// Creates the parameters `attention.{query,key,value,output}`,
    /// `attention_norm`, `mlp.{gate,up,down}`, `mlp_norm`; with
    /// cross-attention also `cross.{query,key,value,output}` and `cross_norm`;
    /// with layer scale `attention_scale` and `mlp_scale`; with attention along
    /// time `time_norm`, `time_attention` and `time_dense`.
    ///
    /// # Errors
    /// When the configuration makes no sense or names are taken.
    pub fn new(b: &mut Builder<'_>, config: &BlockConfig) -> Result<Self> {
        Self::with_norm(b, config, true)
    }

    /// As [`Block::new`], without `attention_norm` if not wanted.
    pub(super) fn with_norm(b: &mut Builder<'_>, config: &BlockConfig, attention_norm: bool) -> Result<Self> {
        config.validate("block")?;
        let c = config;
        let inner = if c.intermediate == 0 { 4 * c.hidden } else { c.intermediate };
        let norm = |b: &mut Builder<'_>, name| {
            LayerNorm::with_bias(&mut b.scope(name), c.hidden, c.norm, c.norm_eps, c.norm_bias)
        };
        let linear = |b: &mut Builder<'_>, name, i, o| Linear::new(&mut b.scope(name), i, o, c.bias);
        let scale = |b: &mut Builder<'_>, name| {
            c.layer_scale.map(|start| b.param(name, &[c.hidden], Init::Constant(start))).transpose()
        };
        Ok(Self {
            attention: MultiHeadAttention::new(&mut b.scope("attention"), c, false)?,
            attention_norm: if attention_norm { Some(norm(b, "attention_norm")?) } else { None },
            time: if c.time_attention { Some(TimeAttention::new(b, c)?) } else { None },
            cross: if c.cross_attention {
                Some((MultiHeadAttention::new(&mut b.scope("cross"), c, true)?, norm(b, "cross_norm")?))
            } else {
                None
            },
            gate: if c.gated { Some(linear(b, "mlp.gate", c.hidden, inner)?) } else { None },
            up: linear(b, "mlp.up", c.hidden, inner)?,
            down: linear(b, "mlp.down", inner, c.hidden)?,
            mlp_norm: norm(b, "mlp_norm")?,
            scales: scale(b, "attention_scale")?.zip(scale(b, "mlp_scale")?),
            config: config.clone(),
        })
    }

    /// `[tokens, hidden]` to the same; attention within segments.
    ///
    /// # Errors
    /// When the shapes do not fit, or a block with cross-attention gets no
    /// memory.
    pub fn forward(&self, cx: &Context<'_>, x: &Var, around: &Surroundings<'_>) -> Result<Var> {
        self.forward_cached(cx, x, around, None)
    }

    /// As [`Block::forward`] for tokens that follow those in a cache.
    pub(crate) fn forward_cached(
        &self,
        cx: &Context<'_>,
        x: &Var,
        around: &Surroundings<'_>,
        cache: Option<&mut LayerCache>,
    ) -> Result<Var> {
        let (past, known) = match cache {
            Some(cache) => (Some(&mut cache.past), cache.memory.as_ref()),
            None => (None, None),
        };
        let pre = self.config.norm_place == NormPlace::Pre;
        let (own, mlp) = (self.attention_norm.as_ref(), &self.mlp_norm);
        let along = match &self.time {
            Some(time) => {
                let y = time.forward(cx, x, around.time.as_deref())?;
                Some(ops::add(cx.tape, &self.after(cx, y, around.segments)?, x)?)
            }
            None => None,
        };
        let x = along.as_ref().unwrap_or(x);
        let input = match own.filter(|_| pre) {
            Some(norm) => norm.forward(cx, x)?,
            None => x.clone(),
        };
        let y = match &around.arranged {
            None => self.attention.forward(cx, &input, around.segments, around.bias.as_ref(), past)?,
            Some(others) => {
                let arranged = others.arrange(cx, &input)?;
                let y = self.attention.forward(cx, &arranged, &others.segments, around.bias.as_ref(), None)?;
                others.restore(cx, &y)?
            }
        };
        let y = self.finish(cx, y, around, self.scales.map(|s| s.0))?;
        let after = match &self.cross {
            Some((_, norm)) if pre => Some(norm),
            None if pre => Some(mlp),
            _ => own,
        };
        let mut at = self.join(cx, &y, x, after)?;
        if let Some((cross, norm)) = &self.cross {
            let memory = match known {
                Some(memory) => Some(memory.clone()),
                None => self.project_memory(cx, around.memory)?,
            };
            let memory =
                memory.ok_or_else(|| ModelError::config("block", "cross-attention needs a memory to attend to"))?;
            let y = cross.forward_to(cx, &at.input, around.segments, &memory)?;
            let y = self.finish(cx, y, around, None)?;
            at = self.join(cx, &y, &at.residual, Some(if pre { mlp } else { norm }))?;
        }
        let y = self.feed_forward(cx, &at.input)?;
        let y = self.finish(cx, y, around, self.scales.map(|s| s.1))?;
        Ok(self.join(cx, &y, &at.residual, Some(mlp).filter(|_| !pre))?.residual)
    }

    /// The layer that it begins with.
    pub(super) fn first(&self) -> &Linear {
        self.attention.first()
    }

    /// The keys and values of a memory; none without it or without
    /// cross-attention.
    pub(crate) fn project_memory(&self, cx: &Context<'_>, memory: Option<(&Var, &Offsets)>) -> Result<Option<Memory>> {
        match (&self.cross, memory) {
            (Some((cross, _)), Some(memory)) => Ok(Some(cross.project(cx, memory)?)),
            _ => Ok(None),
        }
    }

    /// x + y, with the norm that follows: of the next sublayer's input where
    /// norms stand before sublayers, of the sum itself where they stand after.
    fn join(&self, cx: &Context<'_>, y: &Var, x: &Var, norm: Option<&LayerNorm>) -> Result<Between> {
        let Some(norm) = norm else {
            let residual = ops::add(cx.tape, y, x)?;
            return Ok(Between { input: residual.clone(), residual });
        };
        let (sum, input) = norm.after_sum(cx, y, x)?;
        let residual = if self.config.norm_place == NormPlace::Pre { sum } else { input.clone() };
        Ok(Between { residual, input })
    }

    /// Layer scale, dropout and stochastic depth on a sublayer's output.
    fn finish(&self, cx: &Context<'_>, y: Var, around: &Surroundings<'_>, scale: Option<ParamId>) -> Result<Var> {
        let y = match scale {
            Some(scale) => ops::mul_vector(cx.tape, &y, &cx.param(scale))?,
            None => y,
        };
        self.after(cx, y, around.segments)
    }

    fn feed_forward(&self, cx: &Context<'_>, x: &Var) -> Result<Var> {
        let activation = Activation::from(self.config.activation);
        let y = match &self.gate {
            Some(gate) => {
                let (gate, up) = (gate.forward(cx, x)?, self.up.forward(cx, x)?);
                self.down.forward(cx, &ops::gated(cx.tape, &gate, &up, activation)?)?
            }
            // In training the value before the activation is kept anyway, and
            // the one after it need not be; in inference it is the other way.
            None if cx.tape.is_recording() => self.down.forward_activated(cx, &self.up.forward(cx, x)?, activation)?,
            None => self.down.forward(cx, &self.up.forward_with(cx, x, activation)?)?,
        };
        cx.beside(&self.down, x, y)
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
