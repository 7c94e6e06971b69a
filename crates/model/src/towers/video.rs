//! Video: the image tower on every frame, then a Transformer over the frames
//! in time.

use super::{Encoded, ImageTower, ImageTowerConfig, Pooling, Positions, replaced, wrong_kind};
use crate::{ColumnInput, Context, Result, Transformer, TransformerConfig, Values};
use sensorium_engine::{Builder, Offsets, Var};
use serde::{Deserialize, Serialize};

/// Settings of a video tower.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct VideoTowerConfig {
    /// The tower of single frames.
    pub image: ImageTowerConfig,
    /// The most frames of a video.
    pub max_positions: usize,
    /// How the frames become one vector.
    pub pooling: Pooling,
    /// Blocks over the frames; their width is the image tower's.
    pub temporal: TransformerConfig,
}

impl Default for VideoTowerConfig {
    fn default() -> Self {
        Self {
            image: ImageTowerConfig::default(),
            max_positions: 64,
            pooling: Pooling::Mean,
            temporal: TransformerConfig::default(),
        }
    }
}

/// A video encoder.
#[derive(Debug, Clone)]
pub struct VideoTower {
    image: ImageTower,
    positions: Positions,
    temporal: Transformer,
    pooling: Pooling,
}

impl VideoTower {
    /// Creates `image`, `positions` and `temporal`.
    ///
    /// # Errors
    /// When the configuration makes no sense.
    pub fn new(b: &mut Builder<'_>, c: &VideoTowerConfig) -> Result<Self> {
        let hidden = c.image.dim();
        let mut temporal = c.temporal.clone();
        temporal.block.hidden = hidden;
        Ok(Self {
            image: ImageTower::new(&mut b.scope("image"), &c.image)?,
            positions: Positions::new(b, "video tower", c.max_positions, hidden)?,
            temporal: Transformer::new(&mut b.scope("temporal"), &temporal)?,
            pooling: c.pooling,
        })
    }

    /// Frames to one token each: `[frames, hidden]`.
    ///
    /// # Errors
    /// When the values are not frames of the configured size, or too many.
    pub fn forward(&self, cx: &Context<'_>, column: &ColumnInput) -> Result<Encoded> {
        self.encode(cx, column, None)
    }

    /// As [`VideoTower::forward`] with a learned token `[1, hidden]` in place
    /// of the frames that are hidden: `[frames]`.
    ///
    /// # Errors
    /// As there.
    pub fn forward_hidden(
        &self,
        cx: &Context<'_>,
        column: &ColumnInput,
        hidden: &[bool],
        token: &Var,
    ) -> Result<Encoded> {
        self.encode(cx, column, Some((hidden, token)))
    }

    fn encode(&self, cx: &Context<'_>, column: &ColumnInput, hidden: Option<(&[bool], &Var)>) -> Result<Encoded> {
        let Values::Video(frames) = column.values() else { return Err(wrong_kind("video frames", column)) };
        let offsets = column.offsets();
        let (_, _, mut per_frame) = self.image.encode(cx, frames)?;
        if let Some((hidden, token)) = hidden {
            per_frame = replaced(cx, &per_frame, hidden, token)?;
        }
        let x = self.positions.add(cx, &per_frame, offsets)?;
        let x = self.temporal.forward(cx, x, offsets)?;
        let pooled = self.pool(cx, &x, offsets)?;
        Ok((x, offsets.clone(), pooled))
    }

    /// Frames to one vector of each video.
    pub(super) fn pool(&self, cx: &Context<'_>, x: &Var, offsets: &Offsets) -> Result<Var> {
        self.pooling.apply(cx, x, offsets)
    }
}
