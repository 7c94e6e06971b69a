//! Sound: convolutions along the log-mel frames, then a Transformer, as in
//! Whisper's encoder (Radford et al. 2022). Frames beyond the sound do not
//! exist: a second of speech costs a second.

use super::{Encoded, Pooling, Positions, wrong_kind};
use crate::{ColumnInput, Context, Linear, ModelError, Result, Transformer, TransformerConfig, Values};
use sensorium_engine::{Activation, Builder, Tensor, Var, ops};
use serde::{Deserialize, Serialize};

/// Settings of an audio tower.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AudioTowerConfig {
    /// Mel bands of the spectrogram.
    pub mels: usize,
    /// Width of each convolution's kernel in frames (odd).
    pub kernel: usize,
    /// Stride of each convolution; their product is the frames per token.
    pub strides: Vec<usize>,
    /// The longest sound in tokens.
    pub max_positions: usize,
    /// How the tokens become one vector.
    pub pooling: Pooling,
    /// The Transformer.
    pub transformer: TransformerConfig,
}

impl Default for AudioTowerConfig {
    fn default() -> Self {
        Self {
            mels: 80,
            kernel: 3,
            strides: vec![2, 2],
            max_positions: 750,
            pooling: Pooling::Mean,
            transformer: TransformerConfig::default(),
        }
    }
}

/// An audio encoder.
#[derive(Debug, Clone)]
pub struct AudioTower {
    config: AudioTowerConfig,
    convolutions: Vec<Linear>,
    positions: Positions,
    encoder: Transformer,
}

impl AudioTower {
    /// Creates `conv.{i}`, `positions` and `encoder`.
    ///
    /// # Errors
    /// When the configuration makes no sense.
    pub fn new(b: &mut Builder<'_>, c: &AudioTowerConfig) -> Result<Self> {
        if c.kernel.is_multiple_of(2) || c.strides.is_empty() || c.strides.contains(&0) || c.mels == 0 {
            return Err(ModelError::config(
                "audio tower",
                format!("kernel {} must be odd, strides {:?} and mels {} positive", c.kernel, c.strides, c.mels),
            ));
        }
        let hidden = c.transformer.block.hidden;
        let convolutions = (0..c.strides.len())
            .map(|i| {
                let channels = if i == 0 { c.mels } else { hidden };
                Linear::new(&mut b.scope(format_args!("conv.{i}")), channels * c.kernel, hidden, true)
            })
            .collect::<Result<_>>()?;
        let positions = Positions::new(b, "audio tower", c.max_positions, hidden)?;
        let encoder = Transformer::new(&mut b.scope("encoder"), &c.transformer)?;
        Ok(Self { config: c.clone(), convolutions, positions, encoder })
    }

    /// Log-mel frames to `[tokens, hidden]`.
    ///
    /// # Errors
    /// When the values are not frames of the configured bands, or too long.
    pub fn forward(&self, cx: &Context<'_>, column: &ColumnInput) -> Result<Encoded> {
        let Values::Audio(mel) = column.values() else { return Err(wrong_kind("log-mel frames", column)) };
        let c = &self.config;
        let mel = if column.is_empty() { &Tensor::zeros(&[0, c.mels]) } else { mel };
        if mel.shape().cols() != c.mels {
            return Err(ModelError::Input {
                column: "of sound".into(),
                expected: format!("{} mel bands", c.mels),
                got: format!("{}", mel.shape().cols()),
            });
        }
        let (mut x, mut offsets) = (Var::constant(mel.clone()), column.offsets().clone());
        for (conv, stride) in self.convolutions.iter().zip(&c.strides) {
            let (unfolded, shorter) = ops::unfold_1d(cx.tape, &x, &offsets, c.kernel, *stride, c.kernel / 2)?;
            x = conv.forward_with(cx, &unfolded, Activation::Gelu)?;
            offsets = shorter;
        }
        let x = self.positions.add(cx, &x, &offsets)?;
        let x = cx.dropout(x, c.transformer.block.dropout)?;
        let x = self.encoder.forward(cx, x, &offsets)?;
        let pooled = c.pooling.apply(cx, &x, &offsets)?;
        Ok((x, offsets, pooled))
    }
}
