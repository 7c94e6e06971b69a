//! Sound: a stem that makes tokens of log-mel frames or of samples, positions,
//! then a Transformer. Whisper's encoder (Radford et al. 2022), wav2vec 2.0
//! and HuBERT (Baevski et al. 2020, Hsu et al. 2021), the Audio Spectrogram
//! Transformer (Gong et al. 2021) and HTSAT (Chen et al. 2022) are settings of it. Frames
//! beyond the sound do not exist: a second of speech costs a second. Whisper
//! and AST have learnt with all sounds padded to one length; for their exact
//! states the processor pads (`pad_seconds`).

use super::audio_stem::{Stem, Stemmed};
use super::projection::Projection;
use super::{Encoded, Pooling, Positions, replaced, wrong_kind};
use crate::layers::{ActivationName, ConvolutionPositions, Stages, StagesConfig};
use crate::{ColumnInput, Context, LayerNorm, ModelError, Result, Transformer, TransformerConfig, Values};
use sensorium_engine::{Builder, Offsets, Tensor, Var};
use serde::{Deserialize, Serialize};

/// Settings of an audio tower.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AudioTowerConfig {
    /// Mel bands of the spectrogram; 1 for samples.
    pub mels: usize,
    /// How sound becomes tokens.
    #[serde(skip_serializing_if = "AudioStem::is_frames")]
    pub stem: AudioStem,
    /// Width of each convolution's kernel in frames (odd), of the stem
    /// `frames`.
    pub kernel: usize,
    /// Stride of each convolution of the stem `frames`; their product is the
    /// frames per token.
    pub strides: Vec<usize>,
    /// The longest sound in tokens; of the stem `patches` in frames. Positions
    /// by convolution have no longest.
    pub max_positions: usize,
    /// How tokens get positions.
    #[serde(skip_serializing_if = "AudioPositions::is_learned")]
    pub positions: AudioPositions,
    /// Whether tokens are normalised once they have positions.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub embedding_norm: bool,
    /// How the tokens become one vector.
    pub pooling: Pooling,
    /// Width of a last projection of that vector (CLAP); none without.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub projection: Option<usize>,
    /// The activation between the two layers of that projection.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub projection_activation: Option<ActivationName>,
    /// The Transformer; of stages the last.
    pub transformer: TransformerConfig,
    /// Over the stem `grid`: stages of layers over windows of it (HTSAT).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stages: Option<StagesConfig>,
}

/// How sound becomes tokens.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Default)]
#[serde(rename_all = "snake_case")]
pub enum AudioStem {
    /// Convolutions with GELU along log-mel frames (`kernel`, `strides`).
    #[default]
    Frames,
    /// Convolutions along samples (wav2vec 2.0, HuBERT).
    Waveform(WaveformConfig),
    /// Squares of a spectrogram (AST).
    Patches(SpectrogramPatchesConfig),
    /// Squares of a spectrogram folded to a square picture (HTSAT).
    Grid(SpectrogramGridConfig),
}

/// Settings of the convolutions along samples; one entry of each list for
/// each of them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WaveformConfig {
    /// Channels that come out.
    pub channels: Vec<usize>,
    /// Widths of the kernels.
    pub kernels: Vec<usize>,
    /// Strides; their product is the samples per token.
    pub strides: Vec<usize>,
    /// Whether they have biases.
    pub bias: bool,
    /// Which of them are normalised, and how.
    pub norm: WaveformNorm,
    /// The activation after each.
    pub activation: ActivationName,
    /// Whether the last channels are normalised before the projection to the
    /// width of the tokens.
    pub projection_norm: bool,
    /// Dropout after that projection.
    pub projection_dropout: f64,
}

/// Normalisation among the convolutions along samples.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WaveformNorm {
    /// The first one's channels, each over the whole sound.
    First,
    /// Every one's places, each over its channels.
    Each,
}

/// Settings of a stem of squares: `max_positions` frames are the longest
/// sound.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SpectrogramPatchesConfig {
    /// Bands and frames in a square.
    pub size: usize,
    /// Bands from one square to the next.
    pub frequency_stride: usize,
    /// Frames from one square to the next.
    pub time_stride: usize,
}

/// Settings of a stem of squares of a folded spectrogram.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SpectrogramGridConfig {
    /// Bands and frames in a square.
    pub patch: usize,
    /// Height and width of the picture: the bands of `side / mels` stretches
    /// of `side` frames below each other. A shorter sound is stretched to so
    /// many frames.
    pub side: usize,
}

/// How tokens get positions.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Default)]
#[serde(rename_all = "snake_case")]
pub enum AudioPositions {
    /// None: attention knows them.
    None,
    /// A learned row for each place.
    #[default]
    Learned,
    /// Sines and cosines that are not trained (Whisper).
    Sinusoids,
    /// A convolution of the tokens in groups (wav2vec 2.0).
    Convolution {
        /// Tokens in a window.
        kernel: usize,
        /// Groups of features.
        groups: usize,
        /// The activation afterwards.
        activation: ActivationName,
    },
}

impl AudioStem {
    fn is_frames(&self) -> bool {
        *self == Self::Frames
    }
}

impl AudioPositions {
    fn is_learned(&self) -> bool {
        *self == Self::Learned
    }
}

impl Default for AudioTowerConfig {
    fn default() -> Self {
        Self {
            mels: 80,
            stem: AudioStem::Frames,
            kernel: 3,
            strides: vec![2, 2],
            max_positions: 750,
            positions: AudioPositions::Learned,
            embedding_norm: false,
            pooling: Pooling::Mean,
            projection: None,
            projection_activation: None,
            transformer: TransformerConfig::default(),
            stages: None,
        }
    }
}

impl AudioTowerConfig {
    /// Layers of the last width, whose hidden states stand for the tokens that
    /// come out.
    pub fn layers(&self) -> usize {
        self.stages.as_ref().map_or(self.transformer.layers, |s| s.layers.last().copied().unwrap_or(0))
    }

    /// The fewest frames or samples of a sound that make a token.
    pub fn least_frames(&self) -> usize {
        match &self.stem {
            AudioStem::Frames | AudioStem::Grid(_) => 1,
            AudioStem::Waveform(w) => {
                w.kernels.iter().zip(&w.strides).rev().fold(1, |rows, (kernel, stride)| (rows - 1) * stride + kernel)
            }
            AudioStem::Patches(p) => p.size,
        }
    }

    /// Tokens that come out of this many frames or samples.
    pub fn tokens(&self, rows: usize) -> usize {
        match &self.stem {
            AudioStem::Frames => self.strides.iter().fold(rows, |n, s| n.div_ceil((*s).max(1))),
            AudioStem::Waveform(w) => {
                let windows = |n: usize, (kernel, stride): (&usize, &usize)| {
                    n.checked_sub(*kernel).map_or(0, |room| room / (*stride).max(1) + 1)
                };
                w.kernels.iter().zip(&w.strides).fold(rows, windows)
            }
            AudioStem::Patches(p) => {
                let (down, across) = p.grid(self.mels, rows);
                down * across + SpectrogramPatchesConfig::SPECIAL_TOKENS
            }
            AudioStem::Grid(_) if rows == 0 => 0,
            AudioStem::Grid(g) => {
                let grid = (g.along(), g.along());
                let (height, width) = self.stages.as_ref().map_or(grid, |s| s.last_grid(grid));
                height * width
            }
        }
    }
}

/// Where the positions of tokens come from.
#[derive(Debug, Clone)]
enum Places {
    None,
    Table(Positions),
    Convolution(ConvolutionPositions),
}

/// An audio encoder.
#[derive(Debug, Clone)]
pub struct AudioTower {
    config: AudioTowerConfig,
    stem: Stem,
    places: Places,
    norm: Option<LayerNorm>,
    encoder: Encoder,
    projection: Option<Projection>,
}

/// What follows the stem.
#[derive(Debug, Clone)]
enum Encoder {
    Layers(Transformer),
    /// Over square grids with this side.
    Stages(Stages, usize),
}

impl AudioTower {
    /// Creates the stem's `conv.{i}` (samples: also `conv.{i}.norm`,
    /// `projection_norm` and `projection`; squares: `projection`,
    /// `class_token` and `distillation_token`; a folded spectrogram: `bands`,
    /// `projection` and `projection_norm`), `positions`, `norm` and
    /// `pooled_projection` where they are wanted, and `encoder`.
    ///
    /// # Errors
    /// When the configuration makes no sense.
    pub fn new(b: &mut Builder<'_>, c: &AudioTowerConfig) -> Result<Self> {
        let block = &c.transformer.block;
        let wrong = |problem: String| Err(ModelError::config("audio tower", problem));
        let stem = Stem::new(b, c)?;
        let table = match &c.stem {
            AudioStem::Patches(_) => c.tokens(c.max_positions),
            _ => c.max_positions,
        };
        let places = match &c.positions {
            AudioPositions::None => Places::None,
            AudioPositions::Learned => Places::Table(Positions::new(b, "audio tower", table, block.hidden)?),
            AudioPositions::Sinusoids if matches!(c.stem, AudioStem::Patches(_)) || block.hidden < 4 => {
                return wrong("sinusoids are positions along time alone, for a width from 4 on".into());
            }
            AudioPositions::Sinusoids => {
                Places::Table(Positions::sinusoids(b, "audio tower", c.max_positions, block.hidden)?)
            }
            AudioPositions::Convolution { kernel, groups, activation } => {
                if *kernel == 0 || *groups == 0 || !block.hidden.is_multiple_of(*groups) {
                    return wrong(format!(
                        "{groups} groups of a kernel of {kernel} do not fit hidden {}",
                        block.hidden
                    ));
                }
                let mut b = b.scope("positions");
                let activation = (*activation).into();
                Places::Convolution(ConvolutionPositions::new(&mut b, block.hidden, *kernel, *groups, activation)?)
            }
        };
        let norm = if c.embedding_norm {
            Some(LayerNorm::with_bias(&mut b.scope("norm"), block.hidden, block.norm, block.norm_eps, block.norm_bias)?)
        } else {
            None
        };
        let encoder = match (&c.stages, &c.stem) {
            (Some(stages), AudioStem::Grid(grid)) => {
                Encoder::Stages(Stages::new(&mut b.scope("encoder"), stages, &c.transformer)?, grid.along())
            }
            (Some(_), _) => return wrong("stages take the grid of a folded spectrogram".into()),
            (None, _) => Encoder::Layers(Transformer::new(&mut b.scope("encoder"), &c.transformer)?),
        };
        let projection = match c.projection {
            Some(dim) => {
                let mut b = b.scope("pooled_projection");
                Some(Projection::new(&mut b, block.hidden, dim, true, c.projection_activation)?)
            }
            None => None,
        };
        Ok(Self { config: c.clone(), stem, places, norm, encoder, projection })
    }

    /// Log-mel frames `[frames, mels]`, or samples `[samples, 1]`, to
    /// `[tokens, hidden]`.
    ///
    /// # Errors
    /// When the values are not as wide as configured, or a sound is too long
    /// or too short.
    pub fn forward(&self, cx: &Context<'_>, column: &ColumnInput) -> Result<Encoded> {
        let (x, offsets, _) = self.encode(cx, column, None)?;
        let pooled = self.pool(cx, &x, &offsets)?;
        Ok((x, offsets, pooled))
    }

    /// The last hidden states with a learned token `[1, hidden]` in place of
    /// squares that are hidden, and the row of each square among them. `hidden`
    /// says of every square of [`AudioTower::grids`], row by row.
    ///
    /// # Errors
    /// As [`AudioTower::forward`], and when the stem is not one of squares or
    /// has not so many.
    pub fn encode_hidden(
        &self,
        cx: &Context<'_>,
        column: &ColumnInput,
        hidden: &[bool],
        token: &Var,
    ) -> Result<(Var, Vec<u32>)> {
        let (x, _, places) = self.encode(cx, column, Some((hidden, token)))?;
        Ok((x, places))
    }

    /// The squares of each sound: along bands and along time; none of a sound
    /// without frames.
    pub fn grids(&self, sounds: &Offsets) -> Vec<(usize, usize)> {
        let AudioStem::Patches(p) = &self.config.stem else { return vec![(0, 0); sounds.segments()] };
        sounds.ranges().map(|r| if r.is_empty() { (0, 0) } else { p.grid(self.config.mels, r.len()) }).collect()
    }

    /// The numbers `[squares, size²]` of all squares of sounds, band by band.
    ///
    /// # Errors
    /// When the stem is not one of squares, or the values are not frames.
    pub fn squares(&self, column: &ColumnInput) -> Result<Var> {
        let (Values::Audio(values), AudioStem::Patches(p)) = (column.values(), &self.config.stem) else {
            return Err(wrong_kind("frames of sound, cut into squares", column));
        };
        let grids = self.grids(column.offsets());
        Ok(Var::constant(p.cut(values, column.offsets(), self.config.mels, &grids)?))
    }

    /// Hidden states, their segments, and the rows of squares where some are
    /// hidden.
    fn encode(
        &self,
        cx: &Context<'_>,
        column: &ColumnInput,
        hidden: Option<(&[bool], &Var)>,
    ) -> Result<(Var, Offsets, Vec<u32>)> {
        let Values::Audio(values) = column.values() else { return Err(wrong_kind("frames of sound", column)) };
        let c = &self.config;
        let values = if column.is_empty() { &Tensor::zeros(&[0, c.mels]) } else { values };
        if values.shape().cols() != c.mels {
            return Err(ModelError::Input {
                column: "of sound".into(),
                expected: match c.mels {
                    1 => "samples".into(),
                    mels => format!("{mels} mel bands"),
                },
                got: format!("{} numbers a frame", values.shape().cols()),
            });
        }
        let Stemmed { mut tokens, offsets, places } =
            self.stem.forward(cx, Var::constant(values.clone()), column.offsets())?;
        let mut rows = Vec::new();
        if let Some((hidden, token)) = hidden {
            let special = SpectrogramPatchesConfig::SPECIAL_TOKENS;
            rows = offsets.ranges().flat_map(|r| (r.start + special).min(r.end) as u32..r.end as u32).collect();
            if rows.len() != hidden.len() {
                let problem = format!("{} squares, of which {} are hidden or not", rows.len(), hidden.len());
                return Err(ModelError::config("audio tower", problem));
            }
            let mut flags = vec![false; tokens.rows()];
            rows.iter().zip(hidden).for_each(|(row, hide)| flags[*row as usize] = *hide);
            tokens = replaced(cx, &tokens, &flags, token)?;
        }
        let x = match (&self.places, places) {
            (Places::Table(table), Some(places)) => table.add_at(cx, &tokens, &places)?,
            (Places::Table(table), None) => table.add(cx, &tokens, &offsets)?,
            (Places::None, _) => tokens,
            (Places::Convolution(convolution), _) => convolution.add(cx, &tokens, &offsets)?,
        };
        let x = match &self.norm {
            Some(norm) => norm.forward(cx, &x)?,
            None => x,
        };
        let x = cx.dropout(x, c.transformer.block.dropout)?;
        let (x, offsets) = match &self.encoder {
            Encoder::Layers(encoder) => (encoder.forward(cx, x, &offsets)?, offsets),
            Encoder::Stages(stages, side) => stages.forward(cx, x, offsets.segments(), (*side, *side))?,
        };
        Ok((x, offsets, rows))
    }

    /// Tokens to one vector of each segment.
    pub(super) fn pool(&self, cx: &Context<'_>, x: &Var, offsets: &Offsets) -> Result<Var> {
        let pooled = self.config.pooling.apply(cx, x, offsets)?;
        match &self.projection {
            Some(projection) => projection.forward(cx, &pooled),
            None => Ok(pooled),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sensorium_engine::{Offsets, Params, Tape};

    fn sounds(lengths: &[usize], width: usize) -> ColumnInput {
        let offsets = Offsets::from_lengths(lengths.iter().copied());
        let data: Vec<f32> = (0..offsets.total() * width).map(|i| (i * 37 % 101) as f32 / 50.0 - 1.0).collect();
        let frames = Tensor::from_slice(&[offsets.total(), width], &data).expect("whole frames");
        ColumnInput::new((0..lengths.len() as u32).collect(), offsets, Values::Audio(frames)).expect("packed")
    }

    /// No layers and no norm: the tokens as the stem makes them.
    fn patches() -> AudioTowerConfig {
        AudioTowerConfig {
            mels: 10,
            stem: AudioStem::Patches(SpectrogramPatchesConfig { size: 4, frequency_stride: 3, time_stride: 2 }),
            max_positions: 16,
            pooling: Pooling::FirstTwo,
            transformer: TransformerConfig { layers: 0, final_norm: Some(false), ..TransformerConfig::default() },
            ..AudioTowerConfig::default()
        }
    }

    fn run(c: &AudioTowerConfig, column: &ColumnInput) -> Result<(Tensor, Offsets)> {
        let mut params = Params::new();
        let tower = AudioTower::new(&mut Builder::new(&mut params, 3), c)?;
        let tape = Tape::inference();
        let (tokens, offsets, _) = tower.forward(&Context::inference(&tape, &params), column)?;
        Ok((tokens.into_value(), offsets))
    }

    #[test]
    fn squares_of_a_shorter_sound_are_those_of_the_longer_one() -> Result<()> {
        let c = patches();
        let (long, _) = run(&c, &sounds(&[16], 10))?;
        let (short, _) = run(&c, &sounds(&[9], 10))?;
        let hidden = c.transformer.block.hidden;
        // Three squares along the bands, seven and three along time.
        assert_eq!((long.dims()[0], short.dims()[0]), (2 + 3 * 7, 2 + 3 * 3));
        assert_eq!((c.tokens(16), c.tokens(9)), (2 + 3 * 7, 2 + 3 * 3));
        let row = |t: &Tensor, i: usize| t.data()[i * hidden..(i + 1) * hidden].to_vec();
        for (i, j) in (0..3).flat_map(|i| (0..3).map(move |j| (i, j))) {
            assert_eq!(row(&short, 2 + i * 3 + j), row(&long, 2 + i * 7 + j));
        }
        assert_eq!((row(&short, 0), row(&short, 1)), (row(&long, 0), row(&long, 1)));
        Ok(())
    }

    #[test]
    fn sounds_of_lengths_that_cannot_be_are_refused() {
        let message = |c: &AudioTowerConfig, lengths: &[usize]| {
            run(c, &sounds(lengths, c.mels)).map(|_| ()).expect_err("refused").to_string()
        };
        assert!(message(&patches(), &[8, 17]).contains("4 to 16 frames"));
        assert!(message(&patches(), &[3]).contains("4 to 16 frames"));
        let samples = AudioTowerConfig {
            mels: 1,
            stem: AudioStem::Waveform(WaveformConfig {
                channels: vec![3, 4],
                kernels: vec![5, 3],
                strides: vec![4, 2],
                bias: false,
                norm: WaveformNorm::First,
                activation: ActivationName::Gelu,
                projection_norm: true,
                projection_dropout: 0.0,
            }),
            ..patches()
        };
        assert!(message(&samples, &[12]).contains("at least 13 samples"));
        assert_eq!((samples.tokens(12), samples.tokens(13), samples.tokens(21)), (0, 1, 2));
        assert_eq!(run(&samples, &sounds(&[13, 21], 1)).map(|(_, o)| o.bounds().to_vec()).ok(), Some(vec![0, 1, 3]));
    }

    #[test]
    fn sinusoids_stay_and_settings_saved_before_them_load() -> Result<()> {
        let c = AudioTowerConfig { positions: AudioPositions::Sinusoids, ..AudioTowerConfig::default() };
        let mut params = Params::new();
        AudioTower::new(&mut Builder::new(&mut params, 3), &c)?;
        let table = params.get(params.id("positions").expect("a table"));
        assert!(!table.trainable);
        let (row, half) = (&table.value.data()[128..256], 64);
        assert!((row[0] - 1f32.sin()).abs() < 1e-6 && (row[half] - 1f32.cos()).abs() < 1e-6);
        assert!((row[half - 1] - 1e-4).abs() < 1e-8 && (row[127] - 1.0).abs() < 1e-6);
        let old =
            serde_json::json!({ "mels": 40, "kernel": 3, "strides": [2, 2], "max_positions": 9, "pooling": "mean" });
        let loaded: AudioTowerConfig = serde_json::from_value(old).expect("loads");
        let plain = AudioTowerConfig { mels: 40, max_positions: 9, ..AudioTowerConfig::default() };
        assert_eq!(loaded, plain);
        let json = serde_json::to_string(&plain).expect("json");
        assert!(!json.contains("stem") && !json.contains("positions\":{"), "{json}");
        let back: AudioTowerConfig =
            serde_json::from_str(&serde_json::to_string(&patches()).expect("json")).expect("back");
        assert_eq!(back, patches());
        Ok(())
    }
}
