//! What a tower makes of a column.

use crate::{Context, Result};
use sensorium_engine::{Offsets, Tensor, Var, ops};

/// Z = M(X) of one column: tokens and one vector per segment.
#[derive(Debug, Clone)]
pub struct Features {
    /// The last hidden states `[tokens, dim]`.
    pub tokens: Var,
    /// Where each segment's tokens begin and end.
    pub offsets: Offsets,
    /// One vector per segment `[segments, dim]`.
    pub pooled: Var,
    /// The sample of each segment, ascending: `[segments]`.
    pub sample_of: Vec<u32>,
}

impl Features {
    /// The tokens of each segment without the first `skip` (class tokens and
    /// their like), and where they begin and end.
    ///
    /// # Errors
    /// Those of the engine.
    pub(crate) fn without_first(
        cx: &Context<'_>,
        tokens: &Var,
        offsets: &Offsets,
        skip: usize,
    ) -> Result<(Var, Offsets)> {
        if skip == 0 {
            return Ok((tokens.clone(), offsets.clone()));
        }
        let kept: Vec<u32> = offsets.ranges().flat_map(|r| (r.start + skip) as u32..r.end as u32).collect();
        let rest = Offsets::from_lengths(offsets.ranges().map(|r| r.len().saturating_sub(skip)));
        Ok((ops::gather_rows(cx.tape, tokens, &kept)?, rest))
    }

    /// The features of a column that no sample has, as wide as these.
    pub fn none(&self) -> Self {
        let empty = || Var::constant(Tensor::zeros(&[0, self.pooled.cols()]));
        Self { tokens: empty(), offsets: Offsets::from_lengths([]), pooled: empty(), sample_of: Vec::new() }
    }

    /// The segments cut by sample: entry s are the segments of sample s.
    pub fn by_sample(&self, samples: usize) -> Offsets {
        let mut counts = vec![0; samples];
        for s in &self.sample_of {
            counts[*s as usize] += 1;
        }
        Offsets::from_lengths(counts)
    }

    /// One vector per sample that has the column, the mean over its segments,
    /// and for each sample its row (None where it has none).
    ///
    /// # Errors
    /// Those of the engine.
    pub fn sample_vectors(&self, cx: &Context<'_>, samples: usize) -> Result<(Var, Vec<Option<u32>>)> {
        let by_sample = self.by_sample(samples);
        let mut row = 0;
        let rows = (0..samples)
            .map(|s| {
                (by_sample.length(s) > 0).then(|| {
                    row += 1;
                    row - 1
                })
            })
            .collect();
        if by_sample.longest() <= 1 {
            return Ok((self.pooled.clone(), rows));
        }
        let present = Offsets::from_lengths(by_sample.ranges().map(|r| r.len()).filter(|n| *n > 0));
        Ok((ops::pool(cx.tape, &self.pooled, &present, ops::Pooling::Mean)?, rows))
    }
}
