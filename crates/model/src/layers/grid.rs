//! Learned biases on attention scores by the way from one patch to another.

use super::DistanceBias;
use crate::{Context, ModelError, Result};
use sensorium_engine::{Builder, Init, Offsets, ParamId, ops};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// Settings of relative positions of patches in a square grid behind one class
/// token (BEiT, Bao et al. 2022).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GridPositionsConfig {
    /// Patches along a side.
    pub side: usize,
    /// Whether every layer has biases of its own.
    pub per_layer: bool,
}

/// The biases, one for each way (down, across) from a query to a key, and one
/// each for the ways to the class token, from it, and from it to itself.
#[derive(Debug, Clone)]
pub struct GridPositions {
    tables: Vec<ParamId>,
    tokens: usize,
    entries: Arc<[u32]>,
    zero: usize,
    /// Where the tokens of a segment stand as queries, and as keys.
    places: [Vec<u32>; 2],
}

impl GridPositions {
    /// Creates `relative_positions` `[(2 side - 1)² + 3, heads]`, or one such
    /// in `layer.{i}` for each layer.
    ///
    /// # Errors
    /// When the grid is empty or too large, or names are taken.
    pub fn new(b: &mut Builder<'_>, c: &GridPositionsConfig, heads: usize, layers: usize) -> Result<Self> {
        if !(1..=1024).contains(&c.side) {
            return Err(ModelError::config("grid positions", format!("side = {} is not from 1 to 1024", c.side)));
        }
        let (side, width) = (c.side as u32, 2 * c.side as u32 - 1);
        let ways = width * width;
        let dims = [ways as usize + 3, heads];
        let table = |b: &mut Builder<'_>| b.param("relative_positions", &dims, Init::Normal(0.02));
        let tables = if c.per_layer {
            (0..layers)
                .map(|i| table(&mut b.scope(format_args!("layer.{i}"))))
                .collect::<std::result::Result<_, _>>()?
        } else {
            vec![table(b)?]
        };
        // Patches stand at numbers between any two of which the difference
        // tells the way. The class token stands apart from them, elsewhere as
        // a query than as a key.
        let patches = (0..side).flat_map(|y| (0..side).map(move |x| y * width + x));
        let last = (side - 1) * (width + 1);
        let (query, key) = (2 * last + 1, 4 * last + 2);
        let entry = |distance: i64| {
            let last = i64::from(last);
            match distance {
                d if d.abs() <= last => (last - d) as u32,
                d if d < 0 => ways,
                d if d == i64::from(key - query) => ways + 2,
                _ => ways + 1,
            }
        };
        Ok(Self {
            tables,
            tokens: 1 + c.side * c.side,
            entries: (-i64::from(query)..=i64::from(key)).map(entry).collect(),
            zero: query as usize,
            places: [query, key].map(|class| std::iter::once(class).chain(patches.clone()).collect()),
        })
    }

    /// Where the tokens of segments stand.
    ///
    /// # Errors
    /// When a segment is not a class token and the patches of the grid.
    pub fn places(&self, segments: &Offsets) -> Result<ops::Places> {
        if let Some(odd) = segments.ranges().map(|r| r.len()).find(|n| *n != self.tokens) {
            let problem = format!("a segment of {odd} tokens where the grid has {}", self.tokens);
            return Err(ModelError::config("grid positions", problem));
        }
        let [queries, keys] = self.places.each_ref().map(|p| p.repeat(segments.segments()).into());
        Ok((queries, keys))
    }

    /// The biases of a layer between tokens at these places.
    pub fn bias(&self, cx: &Context<'_>, layer: usize, places: &ops::Places) -> DistanceBias {
        DistanceBias {
            table: cx.param(self.tables[layer % self.tables.len()]),
            entries: Arc::clone(&self.entries),
            zero: self.zero,
            places: Some(places.clone()),
        }
    }
}
