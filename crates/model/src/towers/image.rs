//! Pictures: patches, then a Transformer (ViT, Dosovitskiy et al. 2021).

use super::{Encoded, Pooling, Positions, wrong_kind};
use crate::{ColumnInput, Context, LayerNorm, Linear, ModelError, Result, Transformer, TransformerConfig, Values};
use sensorium_engine::{Builder, Offsets, Tensor, Var, ops};
use serde::{Deserialize, Serialize};

/// Settings of an image tower.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ImageTowerConfig {
    /// Height and width of the pictures in pixels.
    pub image_size: usize,
    /// Height and width of a patch in pixels.
    pub patch_size: usize,
    /// Pixels from one patch to the next; 0 for `patch_size`. Overlapping
    /// patches help on few pictures.
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
            patch_size: 8,
            patch_stride: 0,
            pooling: Pooling::Mean,
            transformer: TransformerConfig::default(),
        }
    }
}

impl ImageTowerConfig {
    fn stride(&self) -> usize {
        if self.patch_stride == 0 { self.patch_size } else { self.patch_stride }
    }

    /// Patches per picture.
    pub fn patches(&self) -> usize {
        let along = (self.image_size.saturating_sub(self.patch_size)) / self.stride().max(1) + 1;
        along * along
    }
}

/// A Vision Transformer.
#[derive(Debug, Clone)]
pub struct ImageTower {
    config: ImageTowerConfig,
    projection: Linear,
    norm: LayerNorm,
    positions: Positions,
    encoder: Transformer,
}

impl ImageTower {
    /// Creates `embeddings.{projection,norm,positions}` and `encoder`.
    ///
    /// # Errors
    /// When the configuration makes no sense.
    pub fn new(b: &mut Builder<'_>, c: &ImageTowerConfig) -> Result<Self> {
        if c.patch_size == 0 || c.patch_size > c.image_size || c.patch_stride > c.patch_size {
            return Err(ModelError::config(
                "image tower",
                format!(
                    "patches of {} pixels every {} do not cover pictures of {}",
                    c.patch_size,
                    c.stride(),
                    c.image_size
                ),
            ));
        }
        let block = &c.transformer.block;
        let mut e = b.scope("embeddings");
        let pixels = 3 * c.patch_size * c.patch_size;
        let projection = Linear::new(&mut e.scope("projection"), pixels, block.hidden, true)?;
        let norm = LayerNorm::new(&mut e.scope("norm"), block.hidden, block.norm, block.norm_eps)?;
        let positions = Positions::new(&mut e, "image tower", c.patches(), block.hidden)?;
        let encoder = Transformer::new(&mut b.scope("encoder"), &c.transformer)?;
        Ok(Self { config: c.clone(), projection, norm, positions, encoder })
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
        let (patch, stride) = (self.config.patch_size, self.config.stride());
        let offsets = Offsets::from_lengths(vec![self.config.patches(); n]);
        let patches = if n == 0 {
            Var::constant(Tensor::zeros(&[0, 3 * patch * patch]))
        } else {
            if images.dims() != [n, 3, size, size] {
                return Err(ModelError::Input {
                    column: "of pictures".into(),
                    expected: format!("3 × {size} × {size}"),
                    got: format!("{:?}", &images.dims()[1..]),
                });
            }
            ops::unfold_patches(cx.tape, &Var::constant(images.clone()), (patch, patch), (stride, stride))?
        };
        let x = self.projection.forward(cx, &patches)?;
        let x = self.norm.forward(cx, &x)?;
        let x = self.positions.add(cx, &x, &offsets)?;
        let x = cx.dropout(x, self.config.transformer.block.dropout)?;
        let x = self.encoder.forward(cx, x, &offsets)?;
        let pooled = self.config.pooling.apply(cx, &x, &offsets)?;
        Ok((x, offsets, pooled))
    }
}
