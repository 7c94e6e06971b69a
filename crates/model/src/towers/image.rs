//! Pictures: patches (ViT, Dosovitskiy et al. 2021) or a few convolutions
//! (Xiao et al. 2021), then a Transformer.

use super::image_stem::{ConvStem, PatchStem};
use super::{Encoded, Pooling, Positions, wrong_kind};
use crate::{ColumnInput, Context, ModelError, Result, Transformer, TransformerConfig, Values};
use sensorium_engine::{Builder, Offsets, Tensor, Var};
use serde::{Deserialize, Serialize};

/// How pixels become tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(rename_all = "snake_case")]
pub enum ImageStem {
    /// One linear layer over each patch, as in ViT.
    #[default]
    Patch,
    /// Convolutions of 3 × 3 with stride 2, one for each halving that makes a
    /// patch of a token; they learn from fewer pictures (Xiao et al., "Early
    /// convolutions help transformers see better", 2021).
    Conv,
}

/// Settings of an image tower.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ImageTowerConfig {
    /// Height and width of the pictures in pixels.
    pub image_size: usize,
    /// How pixels become tokens.
    pub stem: ImageStem,
    /// Height and width of a patch in pixels; a power of two for `conv`.
    pub patch_size: usize,
    /// Pixels from one patch to the next; 0 for `patch_size`. The windows of
    /// `conv` overlap by themselves.
    pub patch_stride: usize,
    /// How the patches become one vector.
    pub pooling: Pooling,
    /// The Transformer.
    pub transformer: TransformerConfig,
}

impl Default for ImageTowerConfig {
    fn default() -> Self {
        Self {
            image_size: 64,
            stem: ImageStem::Patch,
            patch_size: 8,
            patch_stride: 0,
            pooling: Pooling::Mean,
            transformer: TransformerConfig::default(),
        }
    }
}

impl ImageTowerConfig {
    pub(super) fn stride(&self) -> usize {
        if self.patch_stride == 0 { self.patch_size } else { self.patch_stride }
    }

    /// Tokens per picture.
    pub fn patches(&self) -> usize {
        let along = match self.stem {
            ImageStem::Patch => (self.image_size.saturating_sub(self.patch_size)) / self.stride().max(1) + 1,
            ImageStem::Conv => self.image_size.div_ceil(self.patch_size.max(1)),
        };
        along * along
    }

    fn check(&self) -> Result<()> {
        let wrong = |problem: String| Err(ModelError::config("image tower", problem));
        if self.patch_size == 0 || self.patch_size > self.image_size || self.patch_stride > self.patch_size {
            return wrong(format!(
                "patches of {} pixels every {} do not cover pictures of {}",
                self.patch_size,
                self.stride(),
                self.image_size
            ));
        }
        if self.stem == ImageStem::Conv
            && (!self.patch_size.is_power_of_two() || self.patch_size == 1 || self.stride() != self.patch_size)
        {
            return wrong(format!(
                "a stem of convolutions halves pictures: patch_size {} must be 2, 4, 8, 16 or 32, and patch_stride \
                 {} the same; other sizes need stem = \"patch\"",
                self.patch_size,
                self.stride()
            ));
        }
        Ok(())
    }
}

/// The stem of a tower.
#[derive(Debug, Clone)]
enum Stem {
    Patch(PatchStem),
    Conv(ConvStem),
}

/// A Vision Transformer.
#[derive(Debug, Clone)]
pub struct ImageTower {
    config: ImageTowerConfig,
    stem: Stem,
    positions: Positions,
    encoder: Transformer,
}

impl ImageTower {
    /// Creates `embeddings.{projection,norm,positions}` and `encoder`; with a
    /// stem of convolutions also `embeddings.conv.{i}`, and no norm.
    ///
    /// # Errors
    /// When the configuration makes no sense.
    pub fn new(b: &mut Builder<'_>, c: &ImageTowerConfig) -> Result<Self> {
        c.check()?;
        let mut e = b.scope("embeddings");
        let stem = match c.stem {
            ImageStem::Patch => Stem::Patch(PatchStem::new(&mut e, c)?),
            ImageStem::Conv => Stem::Conv(ConvStem::new(&mut e, c)?),
        };
        let positions = Positions::new(&mut e, "image tower", c.patches(), c.transformer.block.hidden)?;
        let encoder = Transformer::new(&mut b.scope("encoder"), &c.transformer)?;
        Ok(Self { config: c.clone(), stem, positions, encoder })
    }

    /// Pictures to `[pictures * patches, hidden]`.
    ///
    /// # Errors
    /// When the values are not pictures of the configured size.
    pub fn forward(&self, cx: &Context<'_>, column: &ColumnInput) -> Result<Encoded> {
        let Values::Images(images) = column.values() else { return Err(wrong_kind("images", column)) };
        self.encode(cx, images)
    }

    /// Pictures `[n, 3, size, size]` to patches, their offsets and `[n, hidden]`.
    pub(super) fn encode(&self, cx: &Context<'_>, images: &Tensor) -> Result<Encoded> {
        let (n, size) = (images.dims()[0], self.config.image_size);
        let offsets = Offsets::from_lengths(vec![self.config.patches(); n]);
        let images = if n == 0 { &Tensor::zeros(&[0, 3, size, size]) } else { images };
        if images.dims() != [n, 3, size, size] {
            return Err(ModelError::Input {
                column: "of pictures".into(),
                expected: format!("3 × {size} × {size}"),
                got: format!("{:?}", &images.dims()[1..]),
            });
        }
        let images = Var::constant(images.clone());
        let x = match &self.stem {
            Stem::Patch(stem) => stem.forward(cx, &images)?,
            Stem::Conv(stem) => stem.forward(cx, &images)?,
        };
        let x = self.positions.add(cx, &x, &offsets)?;
        let x = cx.dropout(x, self.config.transformer.block.dropout)?;
        let x = self.encoder.forward(cx, x, &offsets)?;
        let pooled = self.config.pooling.apply(cx, &x, &offsets)?;
        Ok((x, offsets, pooled))
    }
}
