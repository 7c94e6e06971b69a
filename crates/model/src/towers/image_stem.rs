//! From pixels to tokens: one linear layer over patches, or convolutions.

use super::{EmbeddingNorm, ImageTowerConfig};
use crate::{Context, LayerNorm, Linear, NormKind, Result};
use sensorium_engine::{Activation, Builder, Var, ops};

/// Channels of the thinnest convolution.
const FEWEST_CHANNELS: usize = 16;

/// A linear layer over each patch.
#[derive(Debug, Clone)]
pub(super) struct PatchStem {
    patch: usize,
    stride: usize,
    projection: Linear,
    norm: Option<LayerNorm>,
}

impl PatchStem {
    /// Creates `projection` and, where patches are normalised, `norm`.
    pub(super) fn new(b: &mut Builder<'_>, c: &ImageTowerConfig) -> Result<Self> {
        let (block, width) = (&c.transformer.block, c.embedding_width());
        let pixels = 3 * c.patch_size * c.patch_size;
        let projection = Linear::new(&mut b.scope("projection"), pixels, width, c.patch_bias)?;
        let eps = c.stages.as_ref().map_or(block.norm_eps, |s| s.merge_eps);
        let norm = match c.embedding_norm {
            EmbeddingNorm::Patches => Some(LayerNorm::new(&mut b.scope("norm"), width, block.norm, eps)?),
            EmbeddingNorm::Tokens | EmbeddingNorm::None => None,
        };
        Ok(Self { patch: c.patch_size, stride: c.stride(), projection, norm })
    }

    /// Pictures `[n, 3, size, size]` to `[n · patches, hidden]`.
    pub(super) fn forward(&self, cx: &Context<'_>, images: &Var) -> Result<Var> {
        let patches = ops::unfold_patches(cx.tape, images, (self.patch, self.patch), (self.stride, self.stride))?;
        let x = self.projection.forward(cx, &patches)?;
        match &self.norm {
            Some(norm) => norm.forward(cx, &x),
            None => Ok(x),
        }
    }
}

/// Convolutions of 3 × 3 with stride 2, each with a norm over the channels of
/// a place and GELU, the channels doubling up to the width of the tokens; then
/// a linear layer.
///
/// Layer normalisation instead of the batch normalisation of Xiao et al.: the
/// same in training and inference, and for any size of batch.
#[derive(Debug, Clone)]
pub(super) struct ConvStem {
    convolutions: Vec<(Linear, LayerNorm)>,
    projection: Linear,
}

impl ConvStem {
    const KERNEL: usize = 3;

    /// Creates `conv.{i}`, `conv.{i}.norm` and `projection`; weights
    /// `[channels out, 3 · 3 · channels in]`.
    pub(super) fn new(b: &mut Builder<'_>, c: &ImageTowerConfig) -> Result<Self> {
        let (block, width) = (&c.transformer.block, c.embedding_width());
        let halvings = c.patch_size.trailing_zeros();
        let mut channels = 3;
        let convolutions = (0..halvings)
            .map(|i| {
                let wider = (width >> (halvings - 1 - i)).max(FEWEST_CHANNELS.min(width));
                let mut b = b.scope(format_args!("conv.{i}"));
                let convolution = Linear::new(&mut b, Self::KERNEL * Self::KERNEL * channels, wider, false)?;
                channels = wider;
                Ok((convolution, LayerNorm::new(&mut b.scope("norm"), wider, NormKind::LayerNorm, block.norm_eps)?))
            })
            .collect::<Result<_>>()?;
        let projection = Linear::new(&mut b.scope("projection"), width, width, true)?;
        Ok(Self { convolutions, projection })
    }

    /// Pictures `[n, 3, size, size]` to `[n · places, hidden]`.
    pub(super) fn forward(&self, cx: &Context<'_>, images: &Var) -> Result<Var> {
        let mut size = match images.value().dims() {
            [_, _, height, width] => (*height, *width),
            _ => (0, 0),
        };
        // Every pixel is a place with three channels.
        let mut x = ops::unfold_patches(cx.tape, images, (1, 1), (1, 1))?;
        for (convolution, norm) in &self.convolutions {
            let (windows, smaller) = ops::unfold_2d(cx.tape, &x, size, Self::KERNEL, 2, Self::KERNEL / 2)?;
            x = norm.forward(cx, &convolution.forward(cx, &windows)?)?;
            x = ops::activate(cx.tape, &x, Activation::Gelu)?;
            size = smaller;
        }
        self.projection.forward(cx, &x)
    }
}
