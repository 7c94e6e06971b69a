//! Pictures: patches (ViT, Dosovitskiy et al. 2021) or a few convolutions
//! (Xiao et al. 2021), then a Transformer.

use super::attention_pool::AttentionPool;
use super::image_stem::{ConvStem, PatchStem};
use super::special_tokens::SpecialTokens;
use super::{Encoded, Pooling, Positions, replaced, wrong_kind};
use crate::layers::ActivationName;
use crate::layers::{Stages, StagesConfig};
use crate::{ColumnInput, Context, Features, LayerNorm, Linear, ModelError, Result};
use crate::{Transformer, TransformerConfig, Values};
use sensorium_engine::{Builder, Offsets, Tensor, Var, ops};
use serde::{Deserialize, Serialize};

/// How pixels become tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(rename_all = "snake_case")]
pub enum ImageStem {
    /// One linear layer over each patch, as in ViT.
    #[default]
    Patch,
    /// Convolutions of 3 × 3 with stride 2, one for each halving that makes a
    /// patch of a token (Xiao et al., "Early
    /// convolutions help transformers see better", 2021).
    Conv,
}

/// What is normalised before the Transformer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(rename_all = "snake_case")]
pub enum EmbeddingNorm {
    /// The patches, before positions are added; nothing with a stem of
    /// convolutions, which has norms of its own.
    #[default]
    Patches,
    /// All tokens with their positions (CLIP).
    Tokens,
    /// Nothing (ViT).
    None,
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
    /// Whether the layer over each patch has a bias.
    #[serde(skip_serializing_if = "is_true")]
    pub patch_bias: bool,
    /// What is normalised before the Transformer.
    #[serde(skip_serializing_if = "is_default")]
    pub embedding_norm: EmbeddingNorm,
    /// Whether tokens have a learned position.
    #[serde(skip_serializing_if = "is_true")]
    pub learned_positions: bool,
    /// Whether a learned token stands before the patches (\[CLS\]).
    #[serde(skip_serializing_if = "is_default")]
    pub class_token: bool,
    /// Whether another learned token follows it (DeiT).
    #[serde(skip_serializing_if = "is_default")]
    pub distillation_token: bool,
    /// How many learned tokens without a position follow these (DINOv2 with
    /// registers).
    #[serde(skip_serializing_if = "is_default")]
    pub register_tokens: usize,
    /// How the tokens become one vector: the mean and the largest are those of
    /// the patches alone, the first is the class token where there is one.
    pub pooling: Pooling,
    /// Instead of `pooling`, a learned query that attends to all tokens
    /// (SigLIP).
    #[serde(skip_serializing_if = "is_default")]
    pub attention_pool: bool,
    /// Whether that vector is normalised (CLIP).
    #[serde(skip_serializing_if = "is_default")]
    pub pooled_norm: bool,
    /// A dense layer with this activation on that vector (ViT's pooler).
    #[serde(skip_serializing_if = "is_default")]
    pub pooler: Option<ActivationName>,
    /// Width of a last projection of that vector, without a bias (CLIP); none
    /// without.
    #[serde(skip_serializing_if = "is_default")]
    pub projection: Option<usize>,
    /// Whether that vector gets unit length.
    #[serde(skip_serializing_if = "is_default")]
    pub normalize: bool,
    /// The Transformer; of stages the last.
    pub transformer: TransformerConfig,
    /// Instead of layers that see the whole picture, stages of layers over
    /// windows of it (Swin).
    #[serde(skip_serializing_if = "is_default")]
    pub stages: Option<StagesConfig>,
}

fn is_true(x: &bool) -> bool {
    *x
}

fn is_default<T: Default + PartialEq>(x: &T) -> bool {
    *x == T::default()
}

impl Default for ImageTowerConfig {
    fn default() -> Self {
        Self {
            image_size: 64,
            stem: ImageStem::Patch,
            patch_size: 8,
            patch_stride: 0,
            patch_bias: true,
            embedding_norm: EmbeddingNorm::Patches,
            learned_positions: true,
            class_token: false,
            distillation_token: false,
            register_tokens: 0,
            pooling: Pooling::Mean,
            attention_pool: false,
            pooled_norm: false,
            pooler: None,
            projection: None,
            normalize: false,
            transformer: TransformerConfig::default(),
            stages: None,
        }
    }
}

impl ImageTowerConfig {
    pub(super) fn stride(&self) -> usize {
        if self.patch_stride == 0 { self.patch_size } else { self.patch_stride }
    }

    /// Learned tokens before the patches.
    pub fn special_tokens(&self) -> usize {
        usize::from(self.class_token) + usize::from(self.distillation_token) + self.register_tokens
    }

    /// Tokens per picture that come out.
    pub fn tokens(&self) -> usize {
        match &self.stages {
            None => self.special_tokens() + self.patches(),
            Some(stages) => {
                let side = self.patches().isqrt();
                let (height, width) = stages.last_grid((side, side));
                height * width
            }
        }
    }

    /// Layers of the last width, whose hidden states stand for the tokens that
    /// come out.
    pub fn layers(&self) -> usize {
        self.stages.as_ref().map_or(self.transformer.layers, |s| s.layers.last().copied().unwrap_or(0))
    }

    /// Width of the tokens that patches become.
    pub(super) fn embedding_width(&self) -> usize {
        let hidden = self.transformer.block.hidden;
        self.stages.as_ref().map_or(hidden, |s| s.first_width(hidden))
    }

    /// Width of the pooled vector.
    pub fn dim(&self) -> usize {
        self.projection.unwrap_or(self.transformer.block.hidden)
    }

    /// Patches per picture.
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
        if self.stages.is_some() && (self.special_tokens() > 0 || !self.image_size.is_multiple_of(self.patch_size)) {
            return wrong(format!(
                "stages take a grid of patches that covers the picture, without other tokens: image_size {}, \
                 patch_size {}, {} tokens before the patches",
                self.image_size,
                self.patch_size,
                self.special_tokens()
            ));
        }
        Ok(())
    }
}

/// Which patches of pictures a tower is shown.
#[derive(Clone, Copy)]
pub enum ShownPatches<'a> {
    /// All of them.
    All,
    /// All, but a learned token `[1, hidden]` in place of those that are
    /// hidden: `[pictures · patches]`.
    Replaced(&'a [bool], &'a Var),
    /// Only these rows of `[pictures · patches]`, ascending and as many of
    /// every picture.
    Only(&'a [u32]),
}

/// The stem of a tower.
#[derive(Debug, Clone)]
enum Stem {
    Patch(PatchStem),
    Conv(ConvStem),
}

/// What follows the stem.
#[derive(Debug, Clone)]
enum Encoder {
    Layers(Transformer),
    Stages(Stages),
}

/// A Vision Transformer.
#[derive(Debug, Clone)]
pub struct ImageTower {
    config: ImageTowerConfig,
    stem: Stem,
    special: SpecialTokens,
    positions: Option<Positions>,
    norm: Option<LayerNorm>,
    encoder: Encoder,
    attention_pool: Option<AttentionPool>,
    pooled_norm: Option<LayerNorm>,
    pooler: Option<(Linear, ActivationName)>,
    projection: Option<Linear>,
}

impl ImageTower {
    /// Creates `embeddings.{projection,norm,positions}` and `encoder`; with a
    /// stem of convolutions also `embeddings.conv.{i}`, and no norm. Where they
    /// are wanted: `embeddings.{class_token,distillation_token,
    /// register_tokens}`, `attention_pool`, `pooled_norm`, `pooler` and
    /// `projection`.
    ///
    /// # Errors
    /// When the configuration makes no sense.
    pub fn new(b: &mut Builder<'_>, c: &ImageTowerConfig) -> Result<Self> {
        c.check()?;
        let block = &c.transformer.block;
        let (hidden, first) = (block.hidden, c.embedding_width());
        let norm = |b: &mut Builder<'_>, name, wanted: bool| {
            let norm =
                |mut b: Builder<'_>| LayerNorm::with_bias(&mut b, hidden, block.norm, block.norm_eps, block.norm_bias);
            if wanted { Ok::<_, ModelError>(Some(norm(b.scope(name))?)) } else { Ok(None) }
        };
        let mut e = b.scope("embeddings");
        let stem = match c.stem {
            ImageStem::Patch => Stem::Patch(PatchStem::new(&mut e, c)?),
            ImageStem::Conv => Stem::Conv(ConvStem::new(&mut e, c)?),
        };
        let special = SpecialTokens::new(&mut e, c)?;
        // Positions of the special tokens stand before those of the patches.
        let placed = c.special_tokens() - c.register_tokens;
        let positions = if c.learned_positions {
            Some(Positions::with_offset(&mut e, "image tower", c.patches(), placed, first)?)
        } else {
            None
        };
        let tokens_norm = norm(&mut e, "norm", c.embedding_norm == EmbeddingNorm::Tokens)?;
        let encoder = match &c.stages {
            None => Encoder::Layers(Transformer::new(&mut b.scope("encoder"), &c.transformer)?),
            Some(stages) => Encoder::Stages(Stages::new(&mut b.scope("encoder"), stages, &c.transformer)?),
        };
        let attention_pool =
            if c.attention_pool { Some(AttentionPool::new(&mut b.scope("attention_pool"), block)?) } else { None };
        let pooled_norm = norm(b, "pooled_norm", c.pooled_norm)?;
        let pooler = match c.pooler {
            Some(f) => Some((Linear::new(&mut b.scope("pooler"), hidden, hidden, true)?, f)),
            None => None,
        };
        let projection = match c.projection {
            Some(dim) => Some(Linear::new(&mut b.scope("projection"), hidden, dim, false)?),
            None => None,
        };
        Ok(Self {
            config: c.clone(),
            stem,
            special,
            positions,
            norm: tokens_norm,
            encoder,
            attention_pool,
            pooled_norm,
            pooler,
            projection,
        })
    }

    /// Pictures to `[pictures * tokens, hidden]`.
    ///
    /// # Errors
    /// When the values are not pictures of the configured size.
    pub fn forward(&self, cx: &Context<'_>, column: &ColumnInput) -> Result<Encoded> {
        self.encode(cx, Self::images(column)?)
    }

    /// The pictures of a column.
    pub(super) fn images(column: &ColumnInput) -> Result<&Tensor> {
        match column.values() {
            Values::Images(images) => Ok(images),
            _ => Err(wrong_kind("images", column)),
        }
    }

    /// Pictures `[n, 3, size, size]` to tokens, their offsets and `[n, dim]`.
    pub(super) fn encode(&self, cx: &Context<'_>, images: &Tensor) -> Result<Encoded> {
        let (x, offsets) = self.embed(cx, images)?;
        let (x, offsets) = match &self.encoder {
            Encoder::Layers(encoder) => (encoder.forward(cx, x, &offsets)?, offsets),
            Encoder::Stages(stages) => {
                let side = self.config.patches().isqrt();
                stages.forward(cx, x, offsets.segments(), (side, side))?
            }
        };
        self.finish(cx, x, offsets)
    }

    /// The Transformer; None where there are stages.
    pub(super) fn encoder(&self) -> Option<&Transformer> {
        match &self.encoder {
            Encoder::Layers(encoder) => Some(encoder),
            Encoder::Stages(_) => None,
        }
    }

    /// Pictures to what the Transformer takes.
    pub(super) fn embed(&self, cx: &Context<'_>, images: &Tensor) -> Result<(Var, Offsets)> {
        self.embed_shown(cx, images, ShownPatches::All)
    }

    /// The last hidden states of pictures `[n, 3, size, size]` of which not
    /// everything is shown, and where each picture's begin and end: special
    /// tokens, then the patches that are there.
    ///
    /// # Errors
    /// When the pictures are not of the configured size, or what is shown is
    /// not of them.
    pub fn encode_shown(&self, cx: &Context<'_>, images: &Tensor, shown: ShownPatches<'_>) -> Result<(Var, Offsets)> {
        let (x, offsets) = self.embed_shown(cx, images, shown)?;
        match &self.encoder {
            Encoder::Layers(encoder) => Ok((encoder.forward(cx, x, &offsets)?, offsets)),
            Encoder::Stages(..) => {
                Err(ModelError::config("image tower", "in stages, which need every patch, nothing can be hidden"))
            }
        }
    }

    fn embed_shown(&self, cx: &Context<'_>, images: &Tensor, shown: ShownPatches<'_>) -> Result<(Var, Offsets)> {
        let (n, size) = (images.dims()[0], self.config.image_size);
        let images = if n == 0 { &Tensor::zeros(&[0, 3, size, size]) } else { images };
        if images.dims() != [n, 3, size, size] {
            return Err(ModelError::Input {
                column: "of pictures".into(),
                expected: format!("3 × {size} × {size}"),
                got: format!("{:?}", &images.dims()[1..]),
            });
        }
        let images = Var::constant(images.clone());
        let mut x = match &self.stem {
            Stem::Patch(stem) => stem.forward(cx, &images)?,
            Stem::Conv(stem) => stem.forward(cx, &images)?,
        };
        let mut patches = self.config.patches();
        if let ShownPatches::Replaced(hidden, token) = shown {
            x = replaced(cx, &x, hidden, token)?;
        }
        if let Some(positions) = &self.positions {
            x = positions.add(cx, &x, &Offsets::from_lengths(vec![patches; n]))?;
        }
        if let ShownPatches::Only(rows) = shown {
            patches = rows.len() / n.max(1);
            x = ops::gather_rows(cx.tape, &x, rows)?;
        }
        x = self.special.before(cx, x, n, self.positions.as_ref())?;
        if let Some(norm) = &self.norm {
            x = norm.forward(cx, &x)?;
        }
        let x = cx.dropout(x, self.config.transformer.block.dropout)?;
        Ok((x, Offsets::from_lengths(vec![self.config.special_tokens() + patches; n])))
    }

    /// The settings.
    pub fn config(&self) -> &ImageTowerConfig {
        &self.config
    }

    /// What the Transformer gives, and one vector of each picture.
    pub(super) fn finish(&self, cx: &Context<'_>, x: Var, offsets: Offsets) -> Result<Encoded> {
        let pooled = self.pool(cx, &x, &offsets)?;
        Ok((x, offsets, pooled))
    }

    /// Tokens to `[n, dim]`.
    pub(super) fn pool(&self, cx: &Context<'_>, x: &Var, offsets: &Offsets) -> Result<Var> {
        let c = &self.config;
        let mut pooled = match (&self.attention_pool, c.pooling) {
            (Some(pool), _) => pool.forward(cx, x, offsets)?,
            (None, Pooling::Mean | Pooling::Max) => {
                let (patches, offsets) = Features::without_first(cx, x, offsets, c.special_tokens())?;
                c.pooling.apply(cx, &patches, &offsets)?
            }
            (None, Pooling::First | Pooling::FirstTwo | Pooling::Last) => c.pooling.apply(cx, x, offsets)?,
        };
        if let Some(norm) = &self.pooled_norm {
            pooled = norm.forward(cx, &pooled)?;
        }
        if let Some((pooler, activation)) = &self.pooler {
            pooled = pooler.forward_with(cx, &pooled, (*activation).into())?;
        }
        if let Some(projection) = &self.projection {
            pooled = projection.forward(cx, &pooled)?;
        }
        if c.normalize {
            pooled = ops::normalize(cx.tape, &pooled, 1e-12)?;
        }
        Ok(pooled)
    }
}
