//! Sound and text in one space: two towers and the scales of their
//! similarity (CLAP).

use crate::towers::{AudioTower, AudioTowerConfig, TextTower, TextTowerConfig};
use crate::{ColumnInput, Context, Result};
use sensorium_engine::{Activation, Builder, Init, ParamId, Var, ops};
use serde::{Deserialize, Serialize};

/// Settings of a pair of towers whose pooled vectors are compared.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AudioTextConfig {
    /// The tower of texts.
    pub text: TextTowerConfig,
    /// The tower of sounds.
    pub audio: AudioTowerConfig,
}

/// Both towers, with a learned scale of their similarities for each side
/// (CLAP, Wu et al. 2023).
#[derive(Debug, Clone)]
pub struct AudioText {
    /// The tower of texts.
    pub text: TextTower,
    /// The tower of sounds.
    pub audio: AudioTower,
    audio_scale: ParamId,
    text_scale: ParamId,
}

impl AudioText {
    /// Creates `text`, `audio`, `logit_scale_audio` and `logit_scale_text`.
    ///
    /// # Errors
    /// When a tower's configuration makes no sense.
    pub fn new(b: &mut Builder<'_>, c: &AudioTextConfig) -> Result<Self> {
        Ok(Self {
            text: TextTower::new(&mut b.scope("text"), &c.text)?,
            audio: AudioTower::new(&mut b.scope("audio"), &c.audio)?,
            // ln(1 / 0.07), as in CLIP.
            audio_scale: b.param("logit_scale_audio", &[1, 1], Init::Constant(2.6592))?,
            text_scale: b.param("logit_scale_text", &[1, 1], Init::Constant(2.6592))?,
        })
    }

    /// A unit vector for each text: `[texts, dim]`.
    ///
    /// # Errors
    /// Those of the tower.
    pub fn embed_texts(&self, cx: &Context<'_>, texts: &ColumnInput) -> Result<Var> {
        Ok(ops::normalize(cx.tape, &self.text.forward(cx, texts)?.2, 1e-12)?)
    }

    /// A unit vector for each sound: `[sounds, dim]`.
    ///
    /// # Errors
    /// Those of the tower.
    pub fn embed_sounds(&self, cx: &Context<'_>, sounds: &ColumnInput) -> Result<Var> {
        Ok(ops::normalize(cx.tape, &self.audio.forward(cx, sounds)?.2, 1e-12)?)
    }

    /// The similarity of each sound to each text, scaled:
    /// `exp(logit_scale_audio) · sounds · textsᵀ`, `[sounds, texts]`.
    ///
    /// # Errors
    /// When the vectors are not equally wide.
    pub fn logits_per_audio(&self, cx: &Context<'_>, sounds: &Var, texts: &Var) -> Result<Var> {
        scaled(cx, sounds, texts, self.audio_scale)
    }

    /// The similarity of each text to each sound, scaled:
    /// `exp(logit_scale_text) · texts · soundsᵀ`, `[texts, sounds]`.
    ///
    /// # Errors
    /// When the vectors are not equally wide.
    pub fn logits_per_text(&self, cx: &Context<'_>, texts: &Var, sounds: &Var) -> Result<Var> {
        scaled(cx, texts, sounds, self.text_scale)
    }
}

fn scaled(cx: &Context<'_>, from: &Var, to: &Var, scale: ParamId) -> Result<Var> {
    let (n, m) = (from.rows(), to.rows());
    let cosines = ops::linear(cx.tape, from, to, None, Activation::Identity)?;
    let scale = ops::exp(cx.tape, &cx.param(scale))?;
    let each = ops::gather_rows(cx.tape, &scale, &vec![0; n * m])?;
    let scaled = ops::scale_rows(cx.tape, &ops::reshape(cx.tape, &cosines, &[n * m, 1])?, &each)?;
    Ok(ops::reshape(cx.tape, &scaled, &[n, m])?)
}
