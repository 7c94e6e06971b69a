//! Learned biases on attention scores by the distance of two tokens.

use crate::{Context, ModelError, Result};
use sensorium_engine::{Builder, Init, ParamId, Var, ops};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// Settings of relative positions in buckets (Raffel et al. 2020, T5).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RelativePositionsConfig {
    /// How many biases each head has.
    pub buckets: usize,
    /// Distances from here on share the last bucket.
    pub max_distance: usize,
    /// Whether tokens before and after have buckets of their own (encoders).
    pub bidirectional: bool,
}

impl RelativePositionsConfig {
    /// The bucket of a distance (key − query), as the reference computes it:
    /// one each for the nearest, then logarithmically wider.
    fn bucket(&self, distance: i64) -> u32 {
        let (mut buckets, mut first) = (self.buckets as i64, 0);
        let away = if self.bidirectional {
            buckets /= 2;
            if distance > 0 {
                first = buckets;
            }
            distance.abs()
        } else {
            (-distance).max(0)
        };
        let exact = buckets / 2;
        if away < exact {
            return (first + away) as u32;
        }
        // In f32, as the reference: at the borders rounding decides.
        let far = (away as f32 / exact as f32).ln() / (self.max_distance as f32 / exact as f32).ln();
        let wide = exact + (far * (buckets - exact) as f32) as i64;
        (first + wide.min(buckets - 1)) as u32
    }
}

/// The table of biases, shared by the layers of a stack.
#[derive(Debug, Clone)]
pub struct RelativePositions {
    config: RelativePositionsConfig,
    table: ParamId,
}

impl RelativePositions {
    /// Creates `relative_positions` `[buckets, heads]`.
    ///
    /// # Errors
    /// When there are too few buckets, or the name is taken.
    pub fn new(b: &mut Builder<'_>, config: &RelativePositionsConfig, heads: usize) -> Result<Self> {
        let per_side = config.buckets / if config.bidirectional { 2 } else { 1 };
        if per_side < 2 || config.max_distance <= per_side / 2 {
            return Err(ModelError::config(
                "relative positions",
                format!("{} buckets up to a distance of {} are too few", config.buckets, config.max_distance),
            ));
        }
        let table = b.param("relative_positions", &[config.buckets, heads], Init::Normal(0.02))?;
        Ok(Self { config: config.clone(), table })
    }

    /// The biases for segments no longer than this.
    pub fn bias(&self, cx: &Context<'_>, longest: usize) -> DistanceBias {
        // Beyond the greatest distance every bucket is the last one.
        let reach = longest.saturating_sub(1).min(self.config.max_distance.max(1)) as i64;
        let entries = (-reach..=reach).map(|d| self.config.bucket(d)).collect();
        DistanceBias { table: cx.param(self.table), entries, zero: reach as usize, places: None }
    }
}

/// Biases by distance, ready for attention.
pub struct DistanceBias {
    pub(super) table: Var,
    pub(super) entries: Arc<[u32]>,
    pub(super) zero: usize,
    pub(super) places: Option<ops::Places>,
}

impl DistanceBias {
    /// As the engine takes it.
    pub fn of(&self) -> ops::RelativeBias<'_, f32> {
        let (entries, places) = (Arc::clone(&self.entries), self.places.clone());
        ops::RelativeBias { table: &self.table, entries, zero: self.zero, places, gates: None }
    }
}
