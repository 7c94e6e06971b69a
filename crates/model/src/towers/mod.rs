//! Towers: one column of any modality into [`Features`].

mod attention_pool;
mod audio;
mod audio_stem;
mod image;
mod image_stem;
mod projection;
mod space_time;
mod special_tokens;
mod spectrogram_grid;
mod tabular;
mod text;
mod video;

pub use audio::{
    AudioPositions, AudioStem, AudioTower, AudioTowerConfig, SpectrogramGridConfig, SpectrogramPatchesConfig,
    WaveformConfig, WaveformNorm,
};
pub use image::{EmbeddingNorm, ImageStem, ImageTower, ImageTowerConfig, ShownPatches};
pub use space_time::{SpaceTimeAttention, SpaceTimePositions, SpaceTimeTower, SpaceTimeTowerConfig};
pub use tabular::{FeaturesTower, FeaturesTowerConfig, TabularTower, TabularTowerConfig};
pub use text::{TextTower, TextTowerConfig};
pub use video::{VideoTower, VideoTowerConfig};

use crate::{ColumnInput, Context, Features, ModelError, Result, Transformer};
use sensorium_engine::{Builder, Init, Offsets, ParamId, Var, ops};
use serde::{Deserialize, Serialize};

/// How a tower makes one vector of a segment's tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(rename_all = "snake_case")]
pub enum Pooling {
    /// The mean over the tokens.
    #[default]
    Mean,
    /// The first token (\[CLS\]).
    First,
    /// The largest of each feature.
    Max,
    /// The last token (CLIP's text, decoders).
    Last,
    /// The mean of the first two tokens (class and distillation token of AST).
    FirstTwo,
}

impl Pooling {
    fn apply(self, cx: &Context<'_>, x: &Var, offsets: &Offsets) -> Result<Var> {
        let pooling = match self {
            Self::Mean => ops::Pooling::Mean,
            Self::First => ops::Pooling::First,
            Self::Max => ops::Pooling::Max,
            Self::Last => ops::Pooling::Last,
            Self::FirstTwo => {
                let two = |n: usize| n.min(2);
                let rows: Vec<u32> =
                    offsets.ranges().flat_map(|r| (0..two(r.len())).map(move |i| (r.start + i) as u32)).collect();
                let firsts = ops::gather_rows(cx.tape, x, &rows)?;
                let pairs = Offsets::from_lengths(offsets.ranges().map(|r| two(r.len())));
                return Ok(ops::pool(cx.tape, &firsts, &pairs, ops::Pooling::Mean)?);
            }
        };
        Ok(ops::pool(cx.tape, x, offsets, pooling)?)
    }
}

/// Settings of a tower, by the kind of values it takes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
#[expect(clippy::large_enum_variant, reason = "a model has one for each column, never many")]
pub enum TowerConfig {
    /// Token numbers.
    Text(TextTowerConfig),
    /// Pictures.
    Image(ImageTowerConfig),
    /// Log-mel spectrograms or samples.
    Audio(AudioTowerConfig),
    /// Frames in time.
    Video(VideoTowerConfig),
    /// Frames in time, as one grid of space and time.
    SpaceTime(SpaceTimeTowerConfig),
    /// Precomputed features.
    Features(FeaturesTowerConfig),
    /// One number or one category.
    Tabular(TabularTowerConfig),
}

impl TowerConfig {
    /// The width of the tower's features.
    pub fn dim(&self) -> usize {
        match self {
            Self::Text(c) => c.projection.unwrap_or(c.transformer.block.hidden),
            Self::Image(c) => c.dim(),
            Self::Audio(c) => c.projection.unwrap_or(c.transformer.block.hidden),
            Self::Video(c) => c.image.dim(),
            Self::SpaceTime(c) => c.transformer.block.hidden,
            Self::Features(c) => c.transformer.block.hidden,
            Self::Tabular(c) => c.dim,
        }
    }

    /// The width of the hidden states between its layers.
    pub fn hidden(&self) -> usize {
        match self {
            Self::Text(c) => c.transformer.block.hidden,
            Self::Image(c) => c.transformer.block.hidden,
            Self::Audio(c) => c.transformer.block.hidden,
            other => other.dim(),
        }
    }

    /// Layers after which there are hidden states of the tokens; 0 where the
    /// tokens come without a Transformer.
    pub fn layers(&self) -> usize {
        match self {
            Self::Text(c) => c.transformer.layers,
            Self::Image(c) => c.layers(),
            Self::Audio(c) => c.layers(),
            Self::Video(c) => c.temporal.layers,
            Self::SpaceTime(c) => c.transformer.layers,
            Self::Features(c) if c.max_positions > 1 => c.transformer.layers,
            Self::Features(_) | Self::Tabular(_) => 0,
        }
    }

    /// Tokens that the tower makes of this many rows of its values (tokens,
    /// images, frames, feature rows).
    pub fn tokens(&self, rows: usize) -> usize {
        match self {
            Self::Image(c) => rows * c.tokens(),
            Self::Video(c) => rows * c.image.tokens(),
            Self::SpaceTime(c) => rows.div_ceil(c.frames.max(1)) * c.tokens(),
            Self::Audio(c) => c.tokens(rows),
            Self::Text(_) | Self::Features(_) | Self::Tabular(_) => rows,
        }
    }
}

/// A tower of any kind.
#[derive(Debug, Clone)]
#[allow(missing_docs)]
#[expect(clippy::large_enum_variant, reason = "a model has one for each column, never many")]
pub enum Tower {
    Text(TextTower),
    Image(ImageTower),
    Audio(AudioTower),
    Video(VideoTower),
    SpaceTime(SpaceTimeTower),
    Features(FeaturesTower),
    Tabular(TabularTower),
}

impl Tower {
    /// Creates the tower's parameters.
    ///
    /// # Errors
    /// When the configuration makes no sense.
    pub fn new(b: &mut Builder<'_>, config: &TowerConfig) -> Result<Self> {
        Ok(match config {
            TowerConfig::Text(c) => Self::Text(TextTower::new(b, c)?),
            TowerConfig::Image(c) => Self::Image(ImageTower::new(b, c)?),
            TowerConfig::Audio(c) => Self::Audio(AudioTower::new(b, c)?),
            TowerConfig::Video(c) => Self::Video(VideoTower::new(b, c)?),
            TowerConfig::SpaceTime(c) => Self::SpaceTime(SpaceTimeTower::new(b, c)?),
            TowerConfig::Features(c) => Self::Features(FeaturesTower::new(b, c)?),
            TowerConfig::Tabular(c) => Self::Tabular(TabularTower::new(b, c)?),
        })
    }

    /// The features of a column.
    ///
    /// # Errors
    /// When the column's values are not of the tower's kind or shape.
    pub fn forward(&self, cx: &Context<'_>, column: &ColumnInput) -> Result<Features> {
        let (tokens, offsets, pooled) = match self {
            Self::Text(t) => t.forward(cx, column)?,
            Self::Image(t) => t.forward(cx, column)?,
            Self::Audio(t) => t.forward(cx, column)?,
            Self::Video(t) => t.forward(cx, column)?,
            Self::SpaceTime(t) => t.forward(cx, column)?,
            Self::Features(t) => t.forward(cx, column)?,
            Self::Tabular(t) => t.forward(cx, column)?,
        };
        Ok(Features { tokens, offsets, pooled, sample_of: column.sample_of().to_vec() })
    }

    /// Tokens `[tokens, hidden]`, also those of an earlier layer, to one vector
    /// of each segment `[segments, dim]`, as the tower pools its own.
    ///
    /// # Errors
    /// Those of the engine.
    pub fn pool(&self, cx: &Context<'_>, tokens: &Var, offsets: &Offsets) -> Result<Var> {
        match self {
            Self::Text(t) => t.pool(cx, tokens, offsets),
            Self::Image(t) => t.pool(cx, tokens, offsets),
            Self::Audio(t) => t.pool(cx, tokens, offsets),
            Self::Video(t) => t.pool(cx, tokens, offsets),
            Self::SpaceTime(t) => t.pool(cx, tokens, offsets),
            Self::Features(t) => t.pool(cx, tokens, offsets),
            Self::Tabular(_) => Ok(tokens.clone()),
        }
    }
}

impl Tower {
    /// Layers at whose borders the tower can be cut; None where it cannot.
    pub fn layers(&self) -> Option<usize> {
        match self {
            Self::Text(t) => Some(t.encoder().layers()),
            Self::Image(t) => t.encoder().map(Transformer::layers),
            _ => None,
        }
    }

    /// The hidden states after the first `layers` layers: tokens and their
    /// segments.
    ///
    /// # Errors
    /// When the tower cannot be cut, or the column's values are not its own.
    pub fn lower(&self, cx: &Context<'_>, column: &ColumnInput, layers: usize) -> Result<(Var, Offsets)> {
        let (encoder, (x, offsets)) = match self {
            Self::Text(t) => (t.encoder(), t.embed(cx, column)?),
            Self::Image(t) => (t.encoder().ok_or_else(uncut)?, t.embed(cx, ImageTower::images(column)?)?),
            _ => return Err(uncut()),
        };
        Ok((encoder.lower(cx, x, &offsets, layers)?, offsets))
    }

    /// The features of a column from its hidden states after the first
    /// `layers` layers.
    ///
    /// # Errors
    /// When the tower cannot be cut.
    pub fn upper(
        &self,
        cx: &Context<'_>,
        (x, offsets): (Var, Offsets),
        layers: usize,
        column: &ColumnInput,
    ) -> Result<Features> {
        let (tokens, offsets, pooled) = match self {
            Self::Text(t) => t.finish(cx, t.encoder().upper(cx, x, &offsets, layers)?, offsets)?,
            Self::Image(t) => {
                let encoder = t.encoder().ok_or_else(uncut)?;
                t.finish(cx, encoder.upper(cx, x, &offsets, layers)?, offsets)?
            }
            _ => return Err(uncut()),
        };
        Ok(Features { tokens, offsets, pooled, sample_of: column.sample_of().to_vec() })
    }
}

fn uncut() -> ModelError {
    ModelError::config("tower", "cannot be cut between layers")
}

/// What a tower returns: tokens, their offsets, one vector per segment.
type Encoded = (Var, Offsets, Var);

fn wrong_kind(expected: &str, column: &ColumnInput) -> ModelError {
    ModelError::Input { column: "of the batch".into(), expected: expected.into(), got: column.values().kind().into() }
}

/// Rows `[tokens, hidden]` with a token `[1, hidden]` in place of those that
/// are hidden.
fn replaced(cx: &Context<'_>, x: &Var, hidden: &[bool], token: &Var) -> Result<Var> {
    if hidden.len() != x.rows() {
        let problem = format!("{} tokens, of which {} are hidden or not", x.rows(), hidden.len());
        return Err(ModelError::config("tower", problem));
    }
    let all = ops::concat_rows(cx.tape, &[x, token])?;
    let last = hidden.len() as u32;
    let rows: Vec<u32> = hidden.iter().enumerate().map(|(row, hide)| if *hide { last } else { row as u32 }).collect();
    Ok(ops::gather_rows(cx.tape, &all, &rows)?)
}

/// Learned positions within each segment.
#[derive(Debug, Clone)]
struct Positions {
    table: ParamId,
    most: usize,
    offset: usize,
    part: &'static str,
}

impl Positions {
    fn new(b: &mut Builder<'_>, part: &'static str, most: usize, dim: usize) -> Result<Self> {
        Self::with_offset(b, part, most, 0, dim)
    }

    /// As [`Positions::new`], the first position standing `offset` rows down
    /// the table.
    fn with_offset(b: &mut Builder<'_>, part: &'static str, most: usize, offset: usize, dim: usize) -> Result<Self> {
        if most == 0 {
            return Err(ModelError::config(part, "max_positions must be at least 1"));
        }
        let table = b.param("positions", &[most + offset, dim], Init::Normal(0.02))?;
        Ok(Self { table, most, offset, part })
    }

    /// Sines, then cosines, of the place at wavelengths from 2π to 10000 · 2π
    /// (Vaswani et al. 2017, in Whisper's order); never trained.
    fn sinusoids(b: &mut Builder<'_>, part: &'static str, most: usize, dim: usize) -> Result<Self> {
        if most == 0 {
            return Err(ModelError::config(part, "max_positions must be at least 1"));
        }
        let half = dim / 2;
        let step = 10_000_f64.ln() / (half - 1) as f64;
        let table = b.fixed("positions", &[most, dim], |i| {
            let (place, feature) = ((i / dim) as f64, i % dim);
            let angle = place * (-step * (feature % half) as f64).exp();
            if feature < half { angle.sin() } else { angle.cos() }
        })?;
        Ok(Self { table, most, offset: 0, part })
    }

    /// x + the rows of the table that `places` names, one for each token.
    fn add_at(&self, cx: &Context<'_>, x: &Var, places: &[u32]) -> Result<Var> {
        Ok(ops::add_rows_broadcast(cx.tape, x, &cx.param(self.table), places)?)
    }

    /// x + position of each token in its segment.
    fn add(&self, cx: &Context<'_>, x: &Var, offsets: &Offsets) -> Result<Var> {
        let longest = offsets.longest();
        if longest > self.most {
            return Err(ModelError::config(
                self.part,
                format!("a segment of {longest} tokens is longer than the {} positions of the model", self.most),
            ));
        }
        let first = self.offset as u32;
        let places: Vec<u32> = offsets.ranges().flat_map(|r| first..first + r.len() as u32).collect();
        Ok(ops::add_rows_broadcast(cx.tape, x, &cx.param(self.table), &places)?)
    }
}
