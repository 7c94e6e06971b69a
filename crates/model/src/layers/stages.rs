//! Stages of Transformers over grids that become coarser.

use super::arrangement::gather_or_zeros;
use super::{LayerNorm, Linear, NormKind, Surroundings, Transformer, TransformerConfig};
use crate::{Context, ModelError, Result};
use sensorium_engine::{Builder, Offsets, Var, ops};
use serde::{Deserialize, Serialize};

/// Settings of stages of layers over a grid of tokens, attention within
/// windows (Swin, Liu et al. 2021). After each stage but the last, four tokens
/// become one of twice the width.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StagesConfig {
    /// Layers of each stage.
    pub layers: Vec<usize>,
    /// Attention heads of each stage.
    pub heads: Vec<usize>,
    /// Side of the windows in tokens; every second layer's are moved by half
    /// of it.
    pub window: usize,
    /// Added to the variance in the norms where tokens are made and merged.
    pub merge_eps: f64,
}

impl StagesConfig {
    /// Width of the tokens of the first stage, where the last stage's are
    /// `hidden` wide.
    pub fn first_width(&self, hidden: usize) -> usize {
        hidden >> self.layers.len().saturating_sub(1).min(63)
    }

    /// The grid of the last stage.
    pub fn last_grid(&self, grid: (usize, usize)) -> (usize, usize) {
        self.layers.iter().skip(1).fold(grid, |(height, width), _| (height.div_ceil(2), width.div_ceil(2)))
    }

    fn check(&self, c: &TransformerConfig) -> Result<()> {
        let wrong = |problem: String| Err(ModelError::config("stages", problem));
        let (stages, hidden) = (self.layers.len(), c.block.hidden);
        if stages == 0 || stages > 16 || self.heads.len() != stages {
            return wrong(format!("layers {:?} and heads {:?} must be 1 to 16 numbers each", self.layers, self.heads));
        }
        let doubled = |width: usize| width.is_multiple_of(1 << (stages - 1));
        if hidden == 0 || !doubled(hidden) || !doubled(c.block.intermediate) {
            return wrong(format!(
                "widths of {hidden} and {} cannot be halved {} times",
                c.block.intermediate,
                stages - 1
            ));
        }
        if c.layers != self.layers.iter().sum::<usize>() {
            return wrong(format!("{} layers are not those of the stages, {:?}", c.layers, self.layers));
        }
        if c.block.causal || c.block.cross_attention || c.shared || c.block.window.is_some() {
            return wrong("layers over windows of a grid are all different, neither causal nor with a memory".into());
        }
        Ok(())
    }
}

/// The stages, and a norm at the end.
#[derive(Debug, Clone)]
pub struct Stages {
    stages: Vec<(Transformer, Option<Merging>)>,
    norm: Option<LayerNorm>,
}

impl Stages {
    /// Creates `stage.{i}.layer.{j}` with `relative_positions`,
    /// `stage.{i}.merge.{norm,reduction}` and `norm`. `c` are the settings of
    /// the last stage, `c.layers` those of all; those before it are half as
    /// wide each.
    ///
    /// # Errors
    /// When the configuration makes no sense.
    pub fn new(b: &mut Builder<'_>, s: &StagesConfig, c: &TransformerConfig) -> Result<Self> {
        s.check(c)?;
        let mut first = 0;
        let stages = (0..s.layers.len()).map(|i| {
            let halvings = s.layers.len() - 1 - i;
            let mut own = TransformerConfig { layers: s.layers[i], final_norm: Some(false), ..c.clone() };
            own.block.hidden >>= halvings;
            own.block.intermediate >>= halvings;
            own.block.heads = s.heads[i];
            own.grid_windows = Some(s.window);
            let mut b = b.scope(format_args!("stage.{i}"));
            let stage = Transformer::part(&mut b, &own, first, c.layers)?;
            first += s.layers[i];
            let merging = match halvings {
                0 => None,
                _ => Some(Merging::new(&mut b.scope("merge"), own.block.hidden, s.merge_eps)?),
            };
            Ok((stage, merging))
        });
        let stages = stages.collect::<Result<_>>()?;
        let norm = if c.final_norm.unwrap_or(true) {
            let block = &c.block;
            Some(LayerNorm::with_bias(&mut b.scope("norm"), block.hidden, block.norm, block.norm_eps, block.norm_bias)?)
        } else {
            None
        };
        Ok(Self { stages, norm })
    }

    /// Grids of (height, width) tokens `[grids · height · width, first width]`
    /// to those of the last stage `[grids · height' · width', hidden]`, with
    /// the segments that they are.
    ///
    /// # Errors
    /// When the shapes do not fit, or a grid is smaller than a window.
    pub fn forward(&self, cx: &Context<'_>, x: Var, grids: usize, grid: (usize, usize)) -> Result<(Var, Offsets)> {
        let (mut x, mut grid) = (x, grid);
        let segments = |grid: (usize, usize)| Offsets::from_lengths(vec![grid.0 * grid.1; grids]);
        for (stage, merging) in &self.stages {
            let offsets = segments(grid);
            x = stage.forward_among(cx, x, Surroundings { grid: Some(grid), ..Surroundings::of(&offsets) })?;
            if let Some(merging) = merging {
                (x, grid) = merging.forward(cx, &x, grids, grid)?;
            }
        }
        if let Some(norm) = &self.norm {
            x = norm.forward(cx, &x)?;
        }
        Ok((x, segments(grid)))
    }
}

/// Four neighbouring tokens become one of twice their width.
#[derive(Debug, Clone)]
struct Merging {
    norm: LayerNorm,
    reduction: Linear,
}

impl Merging {
    /// Creates `norm` and `reduction` `[2 width, 4 width]`.
    fn new(b: &mut Builder<'_>, width: usize, eps: f64) -> Result<Self> {
        Ok(Self {
            norm: LayerNorm::new(&mut b.scope("norm"), 4 * width, NormKind::LayerNorm, eps)?,
            reduction: Linear::new(&mut b.scope("reduction"), 4 * width, 2 * width, false)?,
        })
    }

    fn forward(
        &self,
        cx: &Context<'_>,
        x: &Var,
        grids: usize,
        (height, width): (usize, usize),
    ) -> Result<(Var, (usize, usize))> {
        let coarse = (height.div_ceil(2), width.div_ceil(2));
        let tokens = grids * height * width;
        // The upper left of the four first, then the one below it; zeros
        // beyond the borders.
        let mut order = Vec::with_capacity(grids * coarse.0 * coarse.1 * 4);
        for (grid, line) in (0..grids).flat_map(|grid| (0..coarse.0).map(move |line| (grid, line))) {
            for place in 0..coarse.1 {
                for (down, across) in [(0, 0), (1, 0), (0, 1), (1, 1)] {
                    let (y, x) = (2 * line + down, 2 * place + across);
                    let inside = y < height && x < width;
                    order.push(if inside { (grid * height + y) * width + x } else { tokens } as u32);
                }
            }
        }
        let four = gather_or_zeros(cx, x, &order, tokens)?;
        let four = ops::reshape(cx.tape, &four, &[order.len() / 4, 4 * x.cols()])?;
        Ok((self.reduction.forward(cx, &self.norm.forward(cx, &four)?)?, coarse))
    }
}
