//! A stack of blocks.

use super::windows::GridWindows;
use super::{Block, BlockConfig, GridPositions, GridPositionsConfig, KeyValueCache, LayerNorm, NormPlace, recompute};
use super::{RelativePositions, RelativePositionsConfig, Surroundings};
use crate::adapters::Prepended;
use crate::{Context, ModelError, Result};
use sensorium_engine::{Builder, Offsets, Var};
use serde::{Deserialize, Serialize};
use std::ops::Range;
use std::rc::Rc;

/// Settings of a stack of Transformer blocks.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TransformerConfig {
    /// The number of blocks.
    pub layers: usize,
    /// The settings of each.
    pub block: BlockConfig,
    /// Whether all layers are one block used again (ALBERT).
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub shared: bool,
    /// Whether a norm stands at the end; with `pre` norms when left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub final_norm: Option<bool>,
    /// A bias on attention scores by distance, shared by all layers (T5, MPNet).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub relative_positions: Option<RelativePositionsConfig>,
    /// Whether the first block normalises before its attention; not where
    /// the embeddings are normalised (ModernBERT).
    #[serde(skip_serializing_if = "Clone::clone")]
    pub first_norm: bool,
    /// A bias on attention scores by the way between patches of a grid (BEiT).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub grid_positions: Option<GridPositionsConfig>,
    /// Side, in tokens, of the windows of a grid within which attention stays,
    /// every second layer's moved by half a side, with a bias on scores by the
    /// way between tokens in each layer (Swin).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub grid_windows: Option<usize>,
    /// Layers that see everything whatever the block's `window`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub global_layers: Vec<usize>,
    /// Layers without rotary positions though the block has them (SmolLM3).
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub no_rotary_layers: Vec<usize>,
    /// Base of rotary positions in the layers with a window, where it is not
    /// the block's (ModernBERT).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub local_rotary_base: Option<f64>,
}

impl Default for TransformerConfig {
    fn default() -> Self {
        let block = BlockConfig::default();
        Self {
            layers: 2,
            block,
            shared: false,
            final_norm: None,
            relative_positions: None,
            first_norm: true,
            grid_positions: None,
            grid_windows: None,
            global_layers: Vec::new(),
            no_rotary_layers: Vec::new(),
            local_rotary_base: None,
        }
    }
}

/// Blocks one after another and, with norms before the sublayers, one at the
/// end.
#[derive(Debug, Clone)]
pub struct Transformer {
    blocks: Vec<Block>,
    layers: usize,
    causal: bool,
    relative: Option<RelativePositions>,
    grid: Option<GridPositions>,
    windows: Option<GridWindows>,
    norm: Option<LayerNorm>,
}

impl Transformer {
    /// Creates `layer.{i}`, `norm` and, if wanted, `relative_positions`.
    /// Stochastic depth grows linearly with the layer up to the configured
    /// probability (Huang et al. 2016).
    ///
    /// # Errors
    /// When the configuration makes no sense.
    pub fn new(b: &mut Builder<'_>, config: &TransformerConfig) -> Result<Self> {
        Self::part(b, config, 0, config.layers)
    }

    /// As [`Transformer::new`] for a part of `all` layers, `before` of which
    /// stand before its own.
    pub(super) fn part(b: &mut Builder<'_>, config: &TransformerConfig, before: usize, all: usize) -> Result<Self> {
        config.block.validate("transformer")?;
        if config.layers > 1024 {
            return Err(ModelError::config("transformer", format!("layers = {} is more than 1024", config.layers)));
        }
        if config.block.position_gate && config.relative_positions.is_none() {
            let problem = "position_gate weighs relative_positions, and there are none";
            return Err(ModelError::config("transformer", problem));
        }
        let c = &config.block;
        let distinct = if config.shared { config.layers.min(1) } else { config.layers };
        let mut windows = config.grid_windows.map(GridWindows::new).transpose()?;
        let blocks = (0..distinct)
            .map(|i| {
                let depth = (before + i + 1) as f64 / (all - config.layers + distinct) as f64;
                let mut block = BlockConfig { drop_path: c.drop_path * depth, ..c.clone() };
                if config.global_layers.contains(&i) {
                    block.window = None;
                } else if c.window.is_some() && c.rotary_base.is_some() {
                    block.rotary_base = config.local_rotary_base.or(c.rotary_base);
                }
                if config.no_rotary_layers.contains(&i) {
                    block.rotary_base = None;
                }
                let mut b = b.scope(format_args!("layer.{i}"));
                let made = Block::with_norm(&mut b, &block, i > 0 || config.first_norm)?;
                if let Some(windows) = &mut windows {
                    windows.add_layer(&mut b, c.heads)?;
                }
                Ok(made)
            })
            .collect::<Result<_>>()?;
        let relative = match &config.relative_positions {
            Some(relative) => Some(RelativePositions::new(b, relative, c.heads)?),
            None => None,
        };
        let grid = match &config.grid_positions {
            Some(grid) => Some(GridPositions::new(b, grid, c.heads, config.layers)?),
            None => None,
        };
        let norm = if config.final_norm.unwrap_or(c.norm_place == NormPlace::Pre) {
            Some(LayerNorm::with_bias(&mut b.scope("norm"), c.hidden, c.norm, c.norm_eps, c.norm_bias)?)
        } else {
            None
        };
        Ok(Self { blocks, layers: config.layers, causal: c.causal, relative, grid, windows, norm })
    }

    /// `[tokens, hidden]` to the same; attention within `segments`.
    ///
    /// # Errors
    /// When the shapes do not fit.
    pub fn forward(&self, cx: &Context<'_>, x: Var, segments: &Offsets) -> Result<Var> {
        self.forward_among(cx, x, Surroundings::of(segments))
    }

    /// As [`Transformer::forward`], among whatever the blocks attend to.
    ///
    /// # Errors
    /// When the shapes do not fit.
    pub fn forward_among(&self, cx: &Context<'_>, x: Var, around: Surroundings<'_>) -> Result<Var> {
        let prompted = match self.blocks.first() {
            Some(block) => cx.prompted(block.first(), &x, around.segments)?,
            None => None,
        };
        let all = 0..self.layers;
        let x = match prompted {
            None => self.stack(cx, x, around, all, None, None)?,
            Some(_) if self.windows.is_some() || around.arranged.is_some() || around.time.is_some() => {
                let problem = "the tokens that an adapter puts in front stand in no window and no frame";
                return Err(ModelError::config("transformer", problem));
            }
            Some((x, prompt)) => {
                let around = Surroundings { segments: &prompt.segments, ..around };
                self.stack(cx, x, around, all, Some(&prompt), None)?
            }
        };
        self.last_norm(cx, x)
    }

    /// The first `layers` layers of [`Transformer::forward`], without the norm
    /// at the end.
    ///
    /// # Errors
    /// When the shapes do not fit.
    pub fn lower(&self, cx: &Context<'_>, x: Var, segments: &Offsets, layers: usize) -> Result<Var> {
        self.stack(cx, x, Surroundings::of(segments), 0..layers.min(self.layers), None, None)
    }

    /// What [`Transformer::forward`] makes of the hidden states after the
    /// first `layers` layers.
    ///
    /// # Errors
    /// When the shapes do not fit.
    pub fn upper(&self, cx: &Context<'_>, x: Var, segments: &Offsets, layers: usize) -> Result<Var> {
        let x = self.stack(cx, x, Surroundings::of(segments), layers.min(self.layers)..self.layers, None, None)?;
        self.last_norm(cx, x)
    }

    /// A cache for sequences without tokens, the keys and values of a memory
    /// computed for every layer.
    ///
    /// # Errors
    /// When the blocks attend to a memory and there is none or it does not
    /// fit, or the stack is not causal.
    pub fn cache(&self, cx: &Context<'_>, sequences: usize, memory: Option<(&Var, &Offsets)>) -> Result<KeyValueCache> {
        if !self.causal {
            return Err(ModelError::config("transformer", "only a causal stack can keep its keys and values"));
        }
        if let Some((_, segments)) = memory.filter(|m| m.1.segments() != sequences) {
            let problem = format!("a memory of {} segments for {sequences} sequences", segments.segments());
            return Err(ModelError::config("transformer", problem));
        }
        let mut cache = KeyValueCache::new(self.layers, sequences);
        for layer in 0..self.layers {
            cache.layer(layer).memory = self.blocks[layer % self.blocks.len()].project_memory(cx, memory)?;
        }
        Ok(cache)
    }

    /// The next tokens `[tokens, hidden]` of the cached sequences, segment i
    /// of sequence i, to the same; the cache grows by them. Without
    /// gradients.
    ///
    /// # Errors
    /// When the shapes do not fit, or the cache is of another stack.
    pub fn forward_cached(
        &self,
        cx: &Context<'_>,
        x: Var,
        segments: &Offsets,
        cache: &mut KeyValueCache,
    ) -> Result<Var> {
        let (layers, sequences) = (cache.layers(), cache.lengths().len());
        if layers != self.layers || sequences != segments.segments() {
            return Err(ModelError::config(
                "transformer",
                format!(
                    "a cache of {layers} layers and {sequences} sequences for {} layers and {} segments",
                    self.layers,
                    segments.segments()
                ),
            ));
        }
        if let Some(block) = self.blocks.first()
            && cx.prompted(block.first(), &x, segments)?.is_some()
        {
            let problem = "the tokens that an adapter puts in front do not pass through a key/value cache";
            return Err(ModelError::config("transformer", problem));
        }
        let x = self.stack(cx, x, Surroundings::of(segments), 0..self.layers, None, Some(cache))?;
        cache.grow(segments);
        self.last_norm(cx, x)
    }

    /// Some of the layers; tokens in front that adapters have put there are
    /// taken off again.
    fn stack(
        &self,
        cx: &Context<'_>,
        x: Var,
        around: Surroundings<'_>,
        layers: Range<usize>,
        prompt: Option<&Prepended>,
        mut cache: Option<&mut KeyValueCache>,
    ) -> Result<Var> {
        let own = |x: &Var| prompt.map_or_else(|| Ok(x.clone()), |p| p.strip(cx, x));
        let longest = cache.as_ref().map_or(around.segments.longest(), |c| c.longest_with(around.segments));
        let bias = self.relative.as_ref().map(|relative| relative.bias(cx, longest));
        let around = Surroundings { bias: bias.as_ref().map(|b| b.of()).or(around.bias), ..around };
        let places = self.grid.as_ref().map(|grid| grid.places(around.segments)).transpose()?;
        let windows =
            self.windows.as_ref().map(|windows| windows.layouts_of(around.segments, around.grid)).transpose()?;
        let mut x = x;
        for layer in layers {
            // A shared block stands for every layer.
            let block = &self.blocks[layer % self.blocks.len()];
            let own_windows = windows.as_ref().map(|w| &w[layer % 2]);
            let own_bias = match (&self.grid, &places, &self.windows, own_windows) {
                (Some(grid), Some(places), ..) => Some(grid.bias(cx, layer, places)),
                (_, _, Some(windows), Some(layout)) => Some(windows.bias(cx, layer, layout)),
                _ => None,
            };
            let around = Surroundings {
                bias: own_bias.as_ref().map(|b| b.of()).or(around.bias.clone()),
                arranged: own_windows.map(|w| Rc::clone(&w.arrangement)).or(around.arranged.clone()),
                time: around.time.clone(),
                ..around
            };
            x = match &mut cache {
                Some(cache) => block.forward_cached(cx, &x, &around, Some(cache.layer(layer)))?,
                None => recompute::forward(cx, block, &x, &around)?,
            };
            cx.keep_hidden(&own(&x)?);
        }
        own(&x)
    }

    fn last_norm(&self, cx: &Context<'_>, x: Var) -> Result<Var> {
        match &self.norm {
            Some(norm) => norm.forward(cx, &x),
            None => Ok(x),
        }
    }

    /// The number of layers.
    pub fn layers(&self) -> usize {
        self.layers
    }
}
