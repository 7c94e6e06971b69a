//! From log-mel frames to squares of a picture that is folded from them.

use super::audio::{AudioTowerConfig, SpectrogramGridConfig};
use super::audio_stem::{Stemmed, wrong};
use crate::{Context, LayerNorm, Linear, ModelError, NormKind, Result};
use sensorium_engine::{Builder, Init, Offsets, ParamId, Tensor, Var, ops};

/// Added to the variance of a band, and in the norm of the squares; not
/// configurable in the reference.
const EPS: f64 = 1e-5;

impl SpectrogramGridConfig {
    /// Squares along each side of the picture.
    pub(super) fn along(&self) -> usize {
        self.side / self.patch.max(1)
    }
}

/// Bands brought to the mean and variance that they had in training, the sound
/// stretched to the width of the picture, folded, and a linear layer with a
/// norm over its squares (HTSAT, Chen et al. 2022).
#[derive(Debug, Clone)]
pub(super) struct GridStem {
    config: SpectrogramGridConfig,
    mels: usize,
    mean: ParamId,
    variance: ParamId,
    weight: ParamId,
    bias: ParamId,
    projection: Linear,
    norm: LayerNorm,
}

impl GridStem {
    /// Creates `bands.{mean,variance,weight,bias}` `[mels]`, the first two not
    /// trained, `projection` `[hidden, patch · patch]`, whose columns are
    /// frames of bands, and `projection_norm`.
    pub(super) fn new(b: &mut Builder<'_>, c: &AudioTowerConfig, g: &SpectrogramGridConfig) -> Result<Self> {
        let fits = g.patch > 0
            && g.side > 0
            && g.side.is_multiple_of(c.mels)
            && c.mels.is_multiple_of(g.patch)
            && g.side.is_multiple_of(g.side / c.mels.min(g.side).max(1) * g.patch);
        if !fits {
            return Err(wrong(format!("{g:?} cannot be folded from {} bands", c.mels)));
        }
        let hidden = c.transformer.block.hidden;
        let width = c.stages.as_ref().map_or(hidden, |s| s.first_width(hidden));
        let mut bands = b.scope("bands");
        let mean = bands.fixed("mean", &[c.mels], |_| 0.0)?;
        let variance = bands.fixed("variance", &[c.mels], |_| 1.0)?;
        let weight = bands.param("weight", &[c.mels], Init::Constant(1.0))?;
        let bias = bands.param("bias", &[1, c.mels], Init::Constant(0.0))?;
        Ok(Self {
            config: g.clone(),
            mels: c.mels,
            mean,
            variance,
            weight,
            bias,
            projection: Linear::new(&mut b.scope("projection"), g.patch * g.patch, width, true)?,
            norm: LayerNorm::new(&mut b.scope("projection_norm"), width, NormKind::LayerNorm, EPS)?,
        })
    }

    /// Frames in a picture.
    fn frames(&self) -> usize {
        self.config.side * (self.config.side / self.mels)
    }

    pub(super) fn forward(&self, cx: &Context<'_>, x: &Var, offsets: &Offsets) -> Result<Stemmed> {
        let (patch, frames, mels) = (self.config.patch, self.frames(), self.mels);
        if let Some(long) = offsets.ranges().map(|r| r.len()).find(|n| *n > frames) {
            return Err(ModelError::Input {
                column: "of sound".into(),
                expected: format!("at most {frames} frames"),
                got: format!("{long}"),
            });
        }
        let sounds: Vec<_> = offsets.ranges().filter(|r| !r.is_empty()).collect();
        // Stretching and the scale of bands may change places: the weights of
        // what a stretched frame is made of sum to one.
        let (mean, variance) = (cx.param(self.mean), cx.param(self.variance));
        let mut values = Vec::with_capacity(sounds.len() * frames * mels);
        for range in &sounds {
            stretch(&x.data()[range.start * mels..range.end * mels], mels, frames, &mut values);
        }
        for row in values.chunks_exact_mut(mels) {
            for ((x, mean), variance) in row.iter_mut().zip(mean.data()).zip(variance.data()) {
                *x = ((f64::from(*x) - f64::from(*mean)) / (f64::from(*variance) + EPS).sqrt()) as f32;
            }
        }
        let values = Var::constant(Tensor::from_slice(&[sounds.len() * frames, mels], &values)?);
        let values = ops::mul_vector(cx.tape, &values, &cx.param(self.weight))?;
        let values = ops::add_rows_broadcast(cx.tape, &values, &cx.param(self.bias), &vec![0; values.rows()])?;
        // A square is `patch` frames of `patch` bands, which lie together.
        let groups = mels / patch;
        let values = ops::reshape(cx.tape, &values, &[values.rows() * groups, patch])?;
        let along = self.config.along();
        let mut order = Vec::with_capacity(values.rows());
        for sound in 0..sounds.len() {
            for (down, across) in (0..along).flat_map(|down| (0..along).map(move |across| (down, across))) {
                let (stretch, group) = (down / groups, down % groups);
                let first = sound * frames + stretch * self.config.side + across * patch;
                order.extend((first..first + patch).map(|frame| (frame * groups + group) as u32));
            }
        }
        let squares = ops::gather_rows(cx.tape, &values, &order)?;
        let squares = ops::reshape(cx.tape, &squares, &[order.len() / patch, patch * patch])?;
        let tokens = self.norm.forward(cx, &self.projection.forward(cx, &squares)?)?;
        let lengths = offsets.ranges().map(|r| if r.is_empty() { 0 } else { along * along });
        Ok(Stemmed { tokens, offsets: Offsets::from_lengths(lengths), places: None })
    }
}

/// Appends `frames` frames made of fewer, the first and the last staying where
/// they are: bicubic with a = −0.75, the borders repeated.
fn stretch(sound: &[f32], mels: usize, frames: usize, into: &mut Vec<f32>) {
    let own = sound.len() / mels;
    if own == frames {
        into.extend(sound);
        return;
    }
    let step = if frames > 1 { (own - 1) as f64 / (frames - 1) as f64 } else { 0.0 };
    for frame in 0..frames {
        let at = step * frame as f64;
        let below = (at.floor() as usize).min(own - 1);
        let near = at - below as f64;
        let taps = [-1, 0, 1, 2].map(|k: isize| {
            let place = (below as isize + k).clamp(0, own as isize - 1) as usize;
            (place, cubic(near - k as f64))
        });
        into.extend((0..mels).map(|band| {
            taps.iter().map(|(place, weight)| weight * f64::from(sound[place * mels + band])).sum::<f64>() as f32
        }));
    }
}

/// The cubic convolution kernel (Keys 1981) with a = −0.75.
fn cubic(x: f64) -> f64 {
    const A: f64 = -0.75;
    let x = x.abs();
    if x <= 1.0 {
        ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0
    } else if x < 2.0 {
        ((A * x - 5.0 * A) * x + 8.0 * A) * x - 4.0 * A
    } else {
        0.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stretched_sound_keeps_its_ends_and_its_level() {
        let mut out = Vec::new();
        stretch(&[1.0, 5.0, 2.0, 5.0, 4.0, 5.0], 2, 5, &mut out);
        assert_eq!((out.len(), out[0], out[8]), (10, 1.0, 4.0));
        assert!(out.chunks(2).all(|frame| (frame[1] - 5.0).abs() < 1e-6));
        let mut single = Vec::new();
        stretch(&[3.0], 1, 4, &mut single);
        assert_eq!(single, [3.0; 4]);
    }
}
