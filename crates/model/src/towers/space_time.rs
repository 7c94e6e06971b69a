//! Video as one grid of space and time: tokens of small pieces of a few
//! frames, then a Transformer over all of them. VideoMAE (Tong et al. 2022) and
//! TimeSformer (Bertasius et al. 2021) are settings of it.

use super::{Encoded, Pooling, wrong_kind};
use crate::layers::{Arrangement, Surroundings};
use crate::{ColumnInput, Context, LayerNorm, Linear, ModelError, NormKind, Result};
use crate::{Transformer, TransformerConfig, Values};
use sensorium_engine::{Builder, Init, Offsets, ParamId, Tensor, Var, ops};
use serde::{Deserialize, Serialize};
use std::rc::Rc;

/// Settings of a space-time tower.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SpaceTimeTowerConfig {
    /// Height and width of the frames in pixels.
    pub image_size: usize,
    /// Frames of a video: exactly so many.
    pub frames: usize,
    /// Height and width of a patch in pixels.
    pub patch_size: usize,
    /// Frames in a token.
    pub tubelet: usize,
    /// Which tokens see each other.
    pub attention: SpaceTimeAttention,
    /// How tokens get positions.
    pub positions: SpaceTimePositions,
    /// How the tokens become one vector.
    pub pooling: Pooling,
    /// Added to the variance in a norm of that vector; no norm without.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pooled_norm_eps: Option<f64>,
    /// The Transformer.
    pub transformer: TransformerConfig,
}

/// Which tokens of a video see each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SpaceTimeAttention {
    /// All of them.
    Joint,
    /// In each layer first those of one place at all times, then those of one
    /// time.
    Divided,
    /// Those of one time; each has a class token of its own.
    Space,
}

/// How tokens of a video get positions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SpaceTimePositions {
    /// Sines and cosines of the token's number, in turn, that are not trained;
    /// there is no class token (VideoMAE).
    Sinusoids,
    /// A learned row for each place and one for each time, and a class token
    /// in front (TimeSformer).
    Learned,
}

impl SpaceTimeTowerConfig {
    /// Tokens of a picture.
    fn patches(&self) -> usize {
        let side = self.image_size / self.patch_size.max(1);
        side * side
    }

    /// Times at which there are tokens.
    fn times(&self) -> usize {
        self.frames / self.tubelet.max(1)
    }

    /// Class tokens of a video.
    fn class_tokens(&self) -> usize {
        match (self.positions, self.attention) {
            (SpaceTimePositions::Sinusoids, _) => 0,
            (_, SpaceTimeAttention::Space) => self.times(),
            _ => 1,
        }
    }

    /// Tokens of a video.
    pub fn tokens(&self) -> usize {
        self.class_tokens() + self.times() * self.patches()
    }

    fn check(&self) -> Result<()> {
        let wrong = |problem: String| Err(ModelError::config("space-time tower", problem));
        let Self { image_size, patch_size, frames, tubelet, .. } = *self;
        if patch_size == 0 || image_size == 0 || !image_size.is_multiple_of(patch_size) {
            return wrong(format!("patches of {patch_size} pixels do not divide frames of {image_size}"));
        }
        if tubelet == 0 || frames == 0 || !frames.is_multiple_of(tubelet) {
            return wrong(format!("tokens of {tubelet} frames do not divide {frames} frames"));
        }
        if self.positions == SpaceTimePositions::Sinusoids && self.attention != SpaceTimeAttention::Joint {
            return wrong("attention in space or time alone needs learned positions, with a class token".into());
        }
        Ok(())
    }
}

/// Where the positions come from.
#[derive(Debug, Clone)]
enum Places {
    /// `[times · patches, hidden]`
    Sinusoids(Var),
    Learned {
        class_token: ParamId,
        places: ParamId,
        times: Option<ParamId>,
    },
}

/// A video encoder over pieces of space and time.
#[derive(Debug, Clone)]
pub struct SpaceTimeTower {
    config: SpaceTimeTowerConfig,
    projection: Linear,
    places: Places,
    encoder: Transformer,
    pooled_norm: Option<LayerNorm>,
}

impl SpaceTimeTower {
    /// Creates `embeddings.projection` `[hidden, tubelet · 3 · patch · patch]`
    /// and `encoder`; with learned positions `embeddings.class_token`,
    /// `embeddings.positions` `[1 + patches, hidden]` and, unless attention
    /// stays within a time, `embeddings.times`; where it is wanted
    /// `pooled_norm`.
    ///
    /// # Errors
    /// When the configuration makes no sense.
    pub fn new(b: &mut Builder<'_>, c: &SpaceTimeTowerConfig) -> Result<Self> {
        c.check()?;
        let hidden = c.transformer.block.hidden;
        let mut transformer = c.transformer.clone();
        transformer.block.time_attention = c.attention == SpaceTimeAttention::Divided;
        let mut e = b.scope("embeddings");
        let pixels = c.tubelet * 3 * c.patch_size * c.patch_size;
        let projection = Linear::new(&mut e.scope("projection"), pixels, hidden, true)?;
        let mut learned = |name: &str, rows: usize| e.param(name, &[rows, hidden], Init::Normal(0.02));
        let places = match c.positions {
            SpaceTimePositions::Sinusoids => Places::Sinusoids(sinusoids(c.times() * c.patches(), hidden)?),
            SpaceTimePositions::Learned => Places::Learned {
                class_token: learned("class_token", 1)?,
                places: learned("positions", 1 + c.patches())?,
                times: match c.attention {
                    SpaceTimeAttention::Space => None,
                    _ => Some(learned("times", c.times())?),
                },
            },
        };
        let encoder = Transformer::new(&mut b.scope("encoder"), &transformer)?;
        let pooled_norm = match c.pooled_norm_eps {
            Some(eps) => Some(LayerNorm::new(&mut b.scope("pooled_norm"), hidden, NormKind::LayerNorm, eps)?),
            None => None,
        };
        Ok(Self { config: c.clone(), projection, places, encoder, pooled_norm })
    }

    /// Videos of `frames` frames to tokens, the class token first, then time
    /// by time: `[tokens, hidden]`.
    ///
    /// # Errors
    /// When the values are not frames of the configured size and number.
    pub fn forward(&self, cx: &Context<'_>, column: &ColumnInput) -> Result<Encoded> {
        let Values::Video(frames) = column.values() else { return Err(wrong_kind("video frames", column)) };
        let (c, size) = (&self.config, self.config.image_size);
        if let Some(odd) = column.offsets().ranges().map(|r| r.len()).find(|n| *n != c.frames) {
            return Err(ModelError::Input {
                column: "of videos".into(),
                expected: format!("{} frames of each, as many as the encoder has learnt with", c.frames),
                got: format!("{odd}"),
            });
        }
        let all = column.offsets().total();
        if all > 0 && frames.dims()[1..] != [3, size, size] {
            return Err(ModelError::Input {
                column: "of videos".into(),
                expected: format!("frames of 3 × {size} × {size}"),
                got: format!("{:?}", &frames.dims()[1..]),
            });
        }
        let (videos, times) = (column.offsets().segments(), c.times());
        // Frames of a token lie one after another: they are its channels.
        let pieces = Tensor::from_slice(&[all / c.tubelet, 3 * c.tubelet, size, size], frames.data())?;
        let (patch, pieces) = ((c.patch_size, c.patch_size), Var::constant(pieces));
        let x = self.projection.forward(cx, &ops::unfold_patches(cx.tape, &pieces, patch, patch)?)?;
        let x = cx.dropout(self.placed(cx, x, videos)?, c.transformer.block.dropout)?;
        let offsets = Offsets::from_lengths(vec![c.tokens(); videos]);
        let x = match c.attention {
            SpaceTimeAttention::Joint => self.encoder.forward(cx, x, &offsets)?,
            SpaceTimeAttention::Space => self.encoder.forward(cx, x, &self.each_time(&offsets))?,
            SpaceTimeAttention::Divided => {
                let (space, time) = divided(videos, times, c.patches());
                let (arranged, time) = (Some(Rc::new(space)), Some(Rc::new(time)));
                let around = Surroundings { arranged, time, ..Surroundings::of(&offsets) };
                self.encoder.forward_among(cx, x, around)?
            }
        };
        let pooled = self.pool(cx, &x, &offsets)?;
        Ok((x, offsets, pooled))
    }

    /// Patches `[videos · times · patches, hidden]` with their positions, and
    /// class tokens before them.
    fn placed(&self, cx: &Context<'_>, x: Var, videos: usize) -> Result<Var> {
        let (times, patches) = (self.config.times(), self.config.patches());
        let each = |of: &dyn Fn(usize, usize) -> usize| -> Vec<u32> {
            let one: Vec<u32> =
                (0..times).flat_map(|t| (0..patches).map(move |p| (t, p))).map(|(t, p)| of(t, p) as u32).collect();
            one.repeat(videos)
        };
        let (class_token, places, learned) = match &self.places {
            Places::Sinusoids(table) => {
                return Ok(ops::add_rows_broadcast(cx.tape, &x, table, &each(&|t, p| t * patches + p))?);
            }
            Places::Learned { class_token, places, times } => (cx.param(*class_token), cx.param(*places), times),
        };
        let mut x = ops::add_rows_broadcast(cx.tape, &x, &places, &each(&|_, p| 1 + p))?;
        if let Some(learned) = learned {
            x = ops::add_rows_broadcast(cx.tape, &x, &cx.param(*learned), &each(&|t, _| t))?;
        }
        let class = ops::add_rows_broadcast(cx.tape, &class_token, &places, &[0])?;
        let all = ops::concat_rows(cx.tape, &[&x, &class])?;
        let first = x.rows();
        let group = match self.config.attention {
            SpaceTimeAttention::Space => patches,
            _ => times * patches,
        };
        let order = (0..first).step_by(group.max(1)).flat_map(|start| [first].into_iter().chain(start..start + group));
        Ok(ops::gather_rows(cx.tape, &all, &order.map(|row| row as u32).collect::<Vec<_>>())?)
    }

    /// The tokens of each time, where those have class tokens of their own.
    fn each_time(&self, offsets: &Offsets) -> Offsets {
        Offsets::from_lengths(vec![1 + self.config.patches(); offsets.segments() * self.config.times()])
    }

    /// Tokens to one vector of each video.
    pub(super) fn pool(&self, cx: &Context<'_>, x: &Var, offsets: &Offsets) -> Result<Var> {
        let c = &self.config;
        let pooled = match c.attention {
            SpaceTimeAttention::Space => {
                let of_times = c.pooling.apply(cx, x, &self.each_time(offsets))?;
                let times = Offsets::from_lengths(vec![c.times(); offsets.segments()]);
                ops::pool(cx.tape, &of_times, &times, ops::Pooling::Mean)?
            }
            _ => c.pooling.apply(cx, x, offsets)?,
        };
        match &self.pooled_norm {
            Some(norm) => norm.forward(cx, &pooled),
            None => Ok(pooled),
        }
    }
}

/// Attention in space, where the class token stands at every time, and along
/// time, where it does not.
fn divided(videos: usize, times: usize, patches: usize) -> (Arrangement, Arrangement) {
    let tokens = 1 + times * patches;
    let (mut space, mut time) = (Vec::new(), Vec::new());
    for first in (0..videos).map(|video| (video * tokens) as u32) {
        let at = |t: usize, p: usize| first + (1 + t * patches + p) as u32;
        for t in 0..times {
            space.push(first);
            space.extend((0..patches).map(|p| at(t, p)));
        }
        time.extend((0..patches).flat_map(|p| (0..times).map(move |t| at(t, p))));
    }
    (
        Arrangement::new(videos * tokens, space, vec![1 + patches; videos * times]),
        Arrangement::new(videos * tokens, time, vec![times; videos * patches]),
    )
}

/// Features 2i and 2i + 1 of a place are sine and cosine of place / 10000^(2i /
/// hidden): `[rows, hidden]`.
fn sinusoids(rows: usize, hidden: usize) -> Result<Var> {
    let value = |i: usize| {
        let (place, feature) = ((i / hidden) as f64, i % hidden);
        let angle = place / 10_000_f64.powf((feature / 2 * 2) as f64 / hidden as f64);
        (if feature.is_multiple_of(2) { angle.sin() } else { angle.cos() }) as f32
    };
    let table: Vec<f32> = (0..rows * hidden).map(value).collect();
    Ok(Var::constant(Tensor::from_slice(&[rows, hidden], &table)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use sensorium_engine::{Params, Tape};

    fn config(attention: SpaceTimeAttention) -> SpaceTimeTowerConfig {
        let mut transformer = TransformerConfig { layers: 1, ..TransformerConfig::default() };
        (transformer.block.hidden, transformer.block.heads) = (8, 2);
        SpaceTimeTowerConfig {
            image_size: 4,
            frames: 3,
            patch_size: 2,
            tubelet: 1,
            attention,
            positions: SpaceTimePositions::Learned,
            pooling: Pooling::First,
            pooled_norm_eps: None,
            transformer,
        }
    }

    fn videos(lengths: &[usize]) -> ColumnInput {
        let offsets = Offsets::from_lengths(lengths.iter().copied());
        let data: Vec<f32> = (0..offsets.total() * 48).map(|i| (i * 29 % 97) as f32 / 50.0 - 1.0).collect();
        let frames = Tensor::from_slice(&[offsets.total(), 3, 4, 4], &data).expect("whole frames");
        ColumnInput::new((0..lengths.len() as u32).collect(), offsets, Values::Video(frames)).expect("packed")
    }

    fn run(c: &SpaceTimeTowerConfig, column: &ColumnInput) -> Result<(Var, Offsets, Var)> {
        let mut params = Params::new();
        let tower = SpaceTimeTower::new(&mut Builder::new(&mut params, 3), c)?;
        let tape = Tape::inference();
        tower.forward(&Context::inference(&tape, &params), column)
    }

    #[test]
    fn every_attention_gives_the_tokens_that_the_configuration_counts() -> Result<()> {
        for (attention, tokens) in
            [(SpaceTimeAttention::Joint, 13), (SpaceTimeAttention::Divided, 13), (SpaceTimeAttention::Space, 15)]
        {
            let c = config(attention);
            let (x, offsets, pooled) = run(&c, &videos(&[3, 3]))?;
            assert_eq!((c.tokens(), x.rows(), offsets.length(1)), (tokens, 2 * tokens, tokens));
            assert_eq!(pooled.value().dims(), [2, 8]);
            assert_eq!(run(&c, &videos(&[]))?.2.rows(), 0, "a batch without videos");
        }
        Ok(())
    }

    #[test]
    fn another_number_of_frames_is_refused() {
        let error = run(&config(SpaceTimeAttention::Divided), &videos(&[3, 2])).expect_err("refused").to_string();
        assert!(error.contains("3 frames") && error.contains('2'), "{error}");
    }
}
