//! Learned rows in front of every segment of a pack: prefixes of keys and
//! values, prompts of tokens.

use crate::{Context, Result};
use sensorium_engine::{Offsets, ParamId, Var, ops};

/// Segments with learned rows in front.
pub(crate) struct Prepended {
    /// How many rows stand in front of each segment.
    count: usize,
    /// The segments, those rows included.
    pub segments: Offsets,
}

impl Prepended {
    /// Segments with `count` rows in front of each.
    fn new(count: usize, segments: &Offsets) -> Self {
        Self { count, segments: Offsets::from_lengths(segments.ranges().map(|r| r.len() + count)) }
    }

    /// `x` `[rows, width]` of the plain segments with the rows of `table`
    /// `[count, width]` in front of each.
    fn prepend(&self, cx: &Context<'_>, x: &Var, table: &Var) -> Result<Var> {
        let first = x.rows() as u32;
        let mut row = 0;
        let mut index = Vec::with_capacity(self.segments.total());
        for range in self.segments.ranges() {
            index.extend(first..first + self.count as u32);
            let own = (range.len() - self.count) as u32;
            index.extend(row..row + own);
            row += own;
        }
        let all = ops::concat_rows(cx.tape, &[x, table])?;
        Ok(ops::gather_rows(cx.tape, &all, &index)?)
    }

    /// The rows without those in front.
    pub fn strip(&self, cx: &Context<'_>, x: &Var) -> Result<Var> {
        let own = self.segments.ranges().flat_map(|r| (r.start + self.count) as u32..r.end as u32);
        Ok(ops::gather_rows(cx.tape, x, &own.collect::<Vec<_>>())?)
    }
}

/// A prompt in front of the tokens of each segment.
pub(crate) fn prompted(cx: &Context<'_>, prompt: ParamId, x: &Var, segments: &Offsets) -> Result<(Var, Prepended)> {
    let table = cx.param(prompt);
    let prepended = Prepended::new(table.rows(), segments);
    Ok((prepended.prepend(cx, x, &table)?, prepended))
}

/// Prefixes in front of the keys and the values of each segment.
pub(crate) fn prefixed(
    cx: &Context<'_>,
    (key, value): (ParamId, ParamId),
    (k, v): (&Var, &Var),
    segments: &Offsets,
) -> Result<(Var, Var, Offsets)> {
    let (key, value) = (cx.param(key), cx.param(value));
    let prepended = Prepended::new(key.rows(), segments);
    let (k, v) = (prepended.prepend(cx, k, &key)?, prepended.prepend(cx, v, &value)?);
    Ok((k, v, prepended.segments))
}
