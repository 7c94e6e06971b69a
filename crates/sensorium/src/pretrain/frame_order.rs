//! The order of a video's frames: where did each of the shuffled ones stand, and
//! what did the hidden one show?

use super::columns::Columns;
use super::config::PretrainConfig;
use super::part::{Part, count};
use crate::{Error, Result};
use sensorium_data::Modality;
use sensorium_engine::{Builder, Params, Random};
use sensorium_model::objectives::{FrameOrderConfig, FrameOrderHead};
use sensorium_model::towers::VideoTower;
use sensorium_model::{Context, Inputs, Tower, TowerConfig, Towers};

/// Below which the head's parameters stand; it is of no more use afterwards.
const SCOPE: &str = "frame_head";

/// What is learnt of the frames of a column of videos.
pub(super) struct FrameOrder {
    head: FrameOrderHead,
    tower: VideoTower,
    pub column: usize,
    weight: f64,
    hidden_frame: f64,
}

impl FrameOrder {
    /// Adds the head to `params`.
    ///
    /// # Errors
    /// When the column is not there, or its tower knows no single frames.
    pub(super) fn new(
        params: &mut Params,
        towers: &Towers,
        columns: &Columns,
        config: &PretrainConfig,
    ) -> Result<Self> {
        let p = &config.pretrain.frame_order;
        let column = columns.one("pretrain.frame_order.column", Modality::Video, p.column.as_ref())?;
        let (TowerConfig::Video(tower_config), Tower::Video(tower)) =
            (&columns.towers[column].tower, towers.tower(column))
        else {
            return Err(Error::Config {
                place: "video.encoder".into(),
                problem: "a video encoder mixes frames from the start; frame_order needs a tower from scratch or an \
                          encoder of pictures for the frames"
                    .into(),
            });
        };
        let c = FrameOrderConfig {
            hidden: tower_config.image.dim(),
            places: tower_config.max_positions,
            image_size: tower_config.image.image_size,
            patch_size: tower_config.image.patch_size,
            hidden_frame: p.hidden_frame > 0.0,
        };
        let head = FrameOrderHead::new(&mut Builder::new(params, config.train.seed).scope(SCOPE), &c)?;
        Ok(Self { head, tower: tower.clone(), column, weight: p.weight, hidden_frame: p.hidden_frame })
    }

    /// What is learnt, in words.
    pub(super) fn describe(&self) -> String {
        let hidden = if self.hidden_frame > 0.0 { ", and what a hidden one showed" } else { "" };
        format!("where each of the shuffled stood{hidden}")
    }

    /// The losses over the videos of a batch that have several frames.
    ///
    /// # Errors
    /// When frames are not of the tower's size.
    pub(super) fn parts(&self, cx: &Context<'_>, inputs: &Inputs, random: Random, judged: bool) -> Result<Vec<Part>> {
        let mut parts = Vec::new();
        let column = &inputs.columns[self.column];
        if let Some(order) = self.head.order(cx, &self.tower, column, random.purpose("order"))? {
            let hits = judged.then(|| count(order.hits.iter().copied()));
            parts.push(Part { hits, ..Part::new("frame_order", self.weight, order.loss, order.hits.len()) });
        }
        if self.hidden_frame > 0.0
            && let Some(hidden) = self.head.hidden_frame(cx, &self.tower, column, random.purpose("hidden frame"))?
        {
            let weight = self.weight * self.hidden_frame;
            parts.push(Part::new("hidden_frame", weight, hidden.loss, hidden.frames));
        }
        Ok(parts)
    }
}
