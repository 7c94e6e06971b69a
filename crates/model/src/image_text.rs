//! Image and text in one space: two towers and a scale (CLIP, SigLIP).

use crate::towers::{ImageTower, ImageTowerConfig, TextTower, TextTowerConfig};
use crate::{ColumnInput, Context, Result};
use sensorium_engine::{Activation, Builder, Init, ParamId, Var, ops};
use serde::{Deserialize, Serialize};

/// Settings of a pair of towers whose pooled vectors are compared.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImageTextConfig {
    /// The tower of texts.
    pub text: TextTowerConfig,
    /// The tower of pictures.
    pub image: ImageTowerConfig,
    /// Whether a learned number is added to all similarities (SigLIP).
    pub logit_bias: bool,
}

/// Both towers, with the learned scale of their similarities (CLIP, Radford
/// et al. 2021; SigLIP, Zhai et al. 2023).
#[derive(Debug, Clone)]
pub struct ImageText {
    /// The tower of texts.
    pub text: TextTower,
    /// The tower of pictures.
    pub image: ImageTower,
    logit_scale: ParamId,
    logit_bias: Option<ParamId>,
}

impl ImageText {
    /// Creates `text`, `image`, `logit_scale` and, if wanted, `logit_bias`.
    ///
    /// # Errors
    /// When a tower's configuration makes no sense.
    pub fn new(b: &mut Builder<'_>, c: &ImageTextConfig) -> Result<Self> {
        Ok(Self {
            text: TextTower::new(&mut b.scope("text"), &c.text)?,
            image: ImageTower::new(&mut b.scope("image"), &c.image)?,
            // ln(1 / 0.07), as in CLIP.
            logit_scale: b.param("logit_scale", &[1, 1], Init::Constant(2.6592))?,
            logit_bias: if c.logit_bias { Some(b.param("logit_bias", &[1, 1], Init::Constant(-10.0))?) } else { None },
        })
    }

    /// A unit vector for each text: `[texts, dim]`.
    ///
    /// # Errors
    /// Those of the tower.
    pub fn embed_texts(&self, cx: &Context<'_>, texts: &ColumnInput) -> Result<Var> {
        Ok(ops::normalize(cx.tape, &self.text.forward(cx, texts)?.2, 1e-12)?)
    }

    /// A unit vector for each picture: `[images, dim]`.
    ///
    /// # Errors
    /// Those of the tower.
    pub fn embed_images(&self, cx: &Context<'_>, images: &ColumnInput) -> Result<Var> {
        Ok(ops::normalize(cx.tape, &self.image.forward(cx, images)?.2, 1e-12)?)
    }

    /// The similarity of each picture to each text, scaled:
    /// `exp(logit_scale) · images · textsᵀ + logit_bias`, `[images, texts]`.
    /// Over the texts of a picture, softmax gives probabilities where there is
    /// no bias; with one, the logistic function does for each pair by itself.
    ///
    /// # Errors
    /// When the vectors are not equally wide.
    pub fn logits_per_image(&self, cx: &Context<'_>, images: &Var, texts: &Var) -> Result<Var> {
        let (n, m) = (images.rows(), texts.rows());
        let cosines = ops::linear(cx.tape, images, texts, None, Activation::Identity)?;
        let pairs = ops::reshape(cx.tape, &cosines, &[n * m, 1])?;
        let scale = ops::exp(cx.tape, &cx.param(self.logit_scale))?;
        let first = vec![0; n * m];
        let mut logits = ops::scale_rows(cx.tape, &pairs, &ops::gather_rows(cx.tape, &scale, &first)?)?;
        if let Some(bias) = self.logit_bias {
            logits = ops::add_rows_broadcast(cx.tape, &logits, &cx.param(bias), &first)?;
        }
        Ok(ops::reshape(cx.tape, &logits, &[n, m])?)
    }
}
