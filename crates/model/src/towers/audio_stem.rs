//! From log-mel frames or samples to tokens: the stems of [`AudioTower`].
//!
//! [`AudioTower`]: super::AudioTower

use super::audio::{AudioStem, AudioTowerConfig, SpectrogramPatchesConfig, WaveformConfig, WaveformNorm};
use super::spectrogram_grid::GridStem;
use crate::layers::TimeConvolution;
use crate::{Context, LayerNorm, Linear, ModelError, NormKind, Result};
use sensorium_engine::{Activation, Builder, Init, Offsets, ParamId, Tensor, Var, ops};

/// Added to the variance in the norms of a waveform's convolutions: those of
/// the reference are not configurable.
const CONVOLUTION_EPS: f64 = 1e-5;

/// The stem of a tower.
#[derive(Debug, Clone)]
pub(super) enum Stem {
    Frames(FrameStem),
    Waveform(WaveformStem),
    Patches(PatchStem),
    Grid(GridStem),
}

/// What a stem makes.
pub(super) struct Stemmed {
    /// `[tokens, hidden]`.
    pub tokens: Var,
    pub offsets: Offsets,
    /// The row of the position table for each token, where they do not simply
    /// count.
    pub places: Option<Vec<u32>>,
}

impl Stem {
    pub(super) fn new(b: &mut Builder<'_>, c: &AudioTowerConfig) -> Result<Self> {
        if c.mels == 0 {
            return Err(wrong("mels must be at least 1".into()));
        }
        Ok(match &c.stem {
            AudioStem::Frames => Self::Frames(FrameStem::new(b, c)?),
            AudioStem::Waveform(w) => Self::Waveform(WaveformStem::new(b, c, w)?),
            AudioStem::Patches(p) => Self::Patches(PatchStem::new(b, c, p)?),
            AudioStem::Grid(g) => Self::Grid(GridStem::new(b, c, g)?),
        })
    }

    /// `[frames, mels]` to tokens.
    pub(super) fn forward(&self, cx: &Context<'_>, x: Var, offsets: &Offsets) -> Result<Stemmed> {
        match self {
            Self::Frames(stem) => stem.forward(cx, x, offsets),
            Self::Waveform(stem) => stem.forward(cx, x, offsets),
            Self::Patches(stem) => stem.forward(cx, &x, offsets),
            Self::Grid(stem) => stem.forward(cx, &x, offsets),
        }
    }
}

pub(super) fn wrong(problem: String) -> ModelError {
    ModelError::config("audio tower", problem)
}

/// Convolutions with GELU along frames, padded so that none is lost.
#[derive(Debug, Clone)]
pub(super) struct FrameStem {
    kernel: usize,
    convolutions: Vec<(Linear, usize)>,
}

impl FrameStem {
    fn new(b: &mut Builder<'_>, c: &AudioTowerConfig) -> Result<Self> {
        if c.kernel.is_multiple_of(2) || c.strides.is_empty() || c.strides.contains(&0) {
            return Err(wrong(format!("kernel {} must be odd and strides {:?} positive", c.kernel, c.strides)));
        }
        let hidden = c.transformer.block.hidden;
        let convolutions = c.strides.iter().enumerate().map(|(i, stride)| {
            let channels = if i == 0 { c.mels } else { hidden };
            let linear = Linear::new(&mut b.scope(format_args!("conv.{i}")), channels * c.kernel, hidden, true)?;
            Ok((linear, *stride))
        });
        Ok(Self { kernel: c.kernel, convolutions: convolutions.collect::<Result<_>>()? })
    }

    fn forward(&self, cx: &Context<'_>, x: Var, offsets: &Offsets) -> Result<Stemmed> {
        let (mut tokens, mut offsets) = (x, offsets.clone());
        for (convolution, stride) in &self.convolutions {
            let (unfolded, shorter) =
                ops::unfold_1d(cx.tape, &tokens, &offsets, self.kernel, *stride, self.kernel / 2)?;
            tokens = convolution.forward_with(cx, &unfolded, Activation::Gelu)?;
            offsets = shorter;
        }
        Ok(Stemmed { tokens, offsets, places: None })
    }
}

/// Convolutions along samples, without padding.
#[derive(Debug, Clone)]
pub(super) struct WaveformStem {
    config: WaveformConfig,
    shortest: usize,
    convolutions: Vec<(TimeConvolution, Option<WaveformNormLayer>)>,
    norm: Option<LayerNorm>,
    projection: Linear,
}

#[derive(Debug, Clone)]
enum WaveformNormLayer {
    /// Each channel over the whole sound.
    Channels {
        weight: ParamId,
        bias: ParamId,
    },
    Places(LayerNorm),
}

impl WaveformStem {
    fn new(b: &mut Builder<'_>, c: &AudioTowerConfig, w: &WaveformConfig) -> Result<Self> {
        let n = w.channels.len();
        let zero = [&w.channels, &w.kernels, &w.strides].into_iter().any(|list| list.contains(&0));
        if n == 0 || w.kernels.len() != n || w.strides.len() != n || zero {
            return Err(wrong(format!(
                "channels {:?}, kernels {:?} and strides {:?} must be equally many positive numbers",
                w.channels, w.kernels, w.strides
            )));
        }
        let mut channels = c.mels;
        let mut convolutions = Vec::with_capacity(n);
        for (i, outputs) in w.channels.iter().enumerate() {
            let mut b = b.scope(format_args!("conv.{i}"));
            let windows = ops::Convolution1d { kernel: w.kernels[i], stride: w.strides[i], padding: (0, 0), groups: 1 };
            let convolution = TimeConvolution::new(&mut b, channels, *outputs, windows, w.bias)?;
            let mut b = b.scope("norm");
            let norm = match w.norm {
                WaveformNorm::First if i > 0 => None,
                WaveformNorm::First => Some(WaveformNormLayer::Channels {
                    weight: b.param("weight", &[*outputs], Init::Constant(1.0))?,
                    bias: b.param("bias", &[*outputs], Init::Constant(0.0))?,
                }),
                WaveformNorm::Each => Some(WaveformNormLayer::Places(LayerNorm::new(
                    &mut b,
                    *outputs,
                    NormKind::LayerNorm,
                    CONVOLUTION_EPS,
                )?)),
            };
            convolutions.push((convolution, norm));
            channels = *outputs;
        }
        let block = &c.transformer.block;
        let norm = if w.projection_norm {
            Some(LayerNorm::new(&mut b.scope("projection_norm"), channels, NormKind::LayerNorm, block.norm_eps)?)
        } else {
            None
        };
        let projection = Linear::new(&mut b.scope("projection"), channels, block.hidden, true)?;
        Ok(Self { config: w.clone(), shortest: c.least_frames(), convolutions, norm, projection })
    }

    fn forward(&self, cx: &Context<'_>, x: Var, offsets: &Offsets) -> Result<Stemmed> {
        if let Some(short) = offsets.ranges().map(|r| r.len()).find(|n| (1..self.shortest).contains(n)) {
            return Err(ModelError::Input {
                column: "of sound".into(),
                expected: format!("sounds of at least {} samples", self.shortest),
                got: format!("{short}"),
            });
        }
        let (mut x, mut offsets) = (x, offsets.clone());
        for (convolution, norm) in &self.convolutions {
            (x, offsets) = convolution.forward(cx, &x, &offsets)?;
            x = match norm {
                None => x,
                Some(WaveformNormLayer::Places(norm)) => norm.forward(cx, &x)?,
                Some(WaveformNormLayer::Channels { weight, bias }) => {
                    let (weight, bias) = (cx.param(*weight), cx.param(*bias));
                    ops::instance_norm(cx.tape, &x, &offsets, &weight, &bias, CONVOLUTION_EPS)?
                }
            };
            x = ops::activate(cx.tape, &x, self.config.activation.into())?;
        }
        if let Some(norm) = &self.norm {
            x = norm.forward(cx, &x)?;
        }
        let tokens = cx.dropout(self.projection.forward(cx, &x)?, self.config.projection_dropout)?;
        Ok(Stemmed { tokens, offsets, places: None })
    }
}

impl SpectrogramPatchesConfig {
    /// The tokens before the squares: class and distillation.
    pub(super) const SPECIAL_TOKENS: usize = 2;

    /// Squares along bands and along this many frames.
    pub(super) fn grid(&self, mels: usize, frames: usize) -> (usize, usize) {
        let along =
            |length: usize, stride: usize| length.checked_sub(self.size).map_or(0, |room| room / stride.max(1) + 1);
        (along(mels, self.frequency_stride), along(frames, self.time_stride))
    }

    /// The squares of sounds `[frames, mels]`, of which there are `grids`, as
    /// rows `[squares, size²]`, band by band.
    pub(super) fn cut(&self, x: &Tensor, sounds: &Offsets, mels: usize, grids: &[(usize, usize)]) -> Result<Tensor> {
        let squares: usize = grids.iter().map(|(down, across)| down * across).sum();
        let mut cut = Vec::with_capacity(squares * self.size * self.size);
        for (range, (down, across)) in sounds.ranges().zip(grids) {
            for (i, j) in (0..*down).flat_map(|i| (0..*across).map(move |j| (i, j))) {
                for band in i * self.frequency_stride..i * self.frequency_stride + self.size {
                    let first = range.start + j * self.time_stride;
                    cut.extend((first..first + self.size).map(|frame| x.data()[frame * mels + band]));
                }
            }
        }
        Ok(Tensor::from_slice(&[squares, self.size * self.size], &cut)?)
    }
}

/// A linear layer over squares of the spectrogram, after two tokens of the
/// model's own. Shorter sounds than the longest use the positions of the
/// squares that they have.
#[derive(Debug, Clone)]
pub(super) struct PatchStem {
    config: SpectrogramPatchesConfig,
    mels: usize,
    most_frames: usize,
    class_token: ParamId,
    distillation_token: ParamId,
    projection: Linear,
}

impl PatchStem {
    fn new(b: &mut Builder<'_>, c: &AudioTowerConfig, p: &SpectrogramPatchesConfig) -> Result<Self> {
        let (down, across) = p.grid(c.mels, c.max_positions);
        if p.size == 0 || p.frequency_stride == 0 || p.time_stride == 0 || down == 0 || across == 0 {
            return Err(wrong(format!("{p:?} does not fit {} bands and {} frames", c.mels, c.max_positions)));
        }
        let hidden = c.transformer.block.hidden;
        Ok(Self {
            config: p.clone(),
            mels: c.mels,
            most_frames: c.max_positions,
            class_token: b.param("class_token", &[1, hidden], Init::Normal(0.02))?,
            distillation_token: b.param("distillation_token", &[1, hidden], Init::Normal(0.02))?,
            projection: Linear::new(&mut b.scope("projection"), p.size * p.size, hidden, true)?,
        })
    }

    fn forward(&self, cx: &Context<'_>, x: &Var, offsets: &Offsets) -> Result<Stemmed> {
        let p = &self.config;
        if let Some(odd) =
            offsets.ranges().map(|r| r.len()).find(|n| *n > 0 && !(p.size..=self.most_frames).contains(n))
        {
            return Err(ModelError::Input {
                column: "of sound".into(),
                expected: format!("{} to {} frames", p.size, self.most_frames),
                got: format!("{odd}"),
            });
        }
        let (_, widest) = p.grid(self.mels, self.most_frames);
        let grids: Vec<(usize, usize)> =
            offsets.ranges().map(|r| if r.is_empty() { (0, 0) } else { p.grid(self.mels, r.len()) }).collect();
        // Where each token lies among class token, distillation token and all
        // squares, and its row of the position table.
        let (mut order, mut places) = (Vec::new(), Vec::new());
        let mut seen = SpectrogramPatchesConfig::SPECIAL_TOKENS as u32;
        for (down, across) in &grids {
            if down * across == 0 {
                continue;
            }
            order.extend([0, 1]);
            places.extend([0, 1]);
            for (i, j) in (0..*down).flat_map(|i| (0..*across).map(move |j| (i, j))) {
                order.push(seen);
                seen += 1;
                places.push((SpectrogramPatchesConfig::SPECIAL_TOKENS + i * widest + j) as u32);
            }
        }
        let patches = Var::constant(p.cut(x.value(), offsets, self.mels, &grids)?);
        let patches = self.projection.forward(cx, &patches)?;
        let own = [cx.param(self.class_token), cx.param(self.distillation_token)];
        let all = ops::concat_rows(cx.tape, &[&own[0], &own[1], &patches])?;
        let tokens = ops::gather_rows(cx.tape, &all, &order)?;
        let lengths = grids.iter().map(|(down, across)| match down * across {
            0 => 0,
            n => n + SpectrogramPatchesConfig::SPECIAL_TOKENS,
        });
        Ok(Stemmed { tokens, offsets: Offsets::from_lengths(lengths), places: Some(places) })
    }
}
