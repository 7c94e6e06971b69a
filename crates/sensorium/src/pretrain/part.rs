//! What one objective says of a batch: its loss, and how many guesses were
//! right.

use crate::Result;
use sensorium_engine::{Offsets, Var, ops};
use sensorium_model::objectives::best_is;
use sensorium_model::{Context, Decoder};

/// Rows whose scores stand at once when the best token of each is looked for.
const ROWS_AT_ONCE: usize = 256;

/// One objective's loss of a batch.
pub(super) struct Part {
    /// Its name, as in the configuration.
    pub name: &'static str,
    /// Its weight in the sum.
    pub weight: f64,
    /// The mean over `count`.
    pub loss: Var,
    /// The guesses.
    pub count: usize,
    /// Those that were right, where it was asked for and a guess can be right.
    pub hits: Option<usize>,
    /// Whether the guesses are of tokens, so that a perplexity says something.
    pub tokens: bool,
    /// More numbers for the log of training.
    pub details: Vec<(String, f64)>,
}

impl Part {
    /// A loss that is a mean over so many guesses.
    pub(super) fn new(name: &'static str, weight: f64, loss: Var, count: usize) -> Self {
        Self { name, weight, loss, count, hits: None, tokens: false, details: Vec::new() }
    }
}

/// How many guesses were right.
pub(super) fn count(hits: impl IntoIterator<Item = bool>) -> usize {
    hits.into_iter().filter(|hit| *hit).count()
}

/// The token after each, within its segment.
pub(super) fn following(ids: &[u32], segments: &Offsets) -> Vec<Option<u32>> {
    segments.ranges().flat_map(|r| r.clone().map(move |at| (at + 1 < r.end).then(|| ids[at + 1]))).collect()
}

/// How many of the tokens that follow are the best guess.
///
/// # Errors
/// When the decoder has no output.
pub(super) fn causal_hits(cx: &Context<'_>, decoder: &Decoder, hidden: &Var, next: &[Option<u32>]) -> Result<usize> {
    let rows: Vec<u32> = (0..next.len() as u32).filter(|row| next[*row as usize].is_some()).collect();
    let mut hits = 0;
    for rows in rows.chunks(ROWS_AT_ONCE) {
        let scores = decoder.logits(cx, &ops::gather_rows(cx.tape, hidden, rows)?)?;
        let wanted: Vec<Option<u32>> = rows.iter().map(|row| next[*row as usize]).collect();
        hits += best_is(scores.data(), &wanted).filter(|hit| *hit).count();
    }
    Ok(hits)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_token_is_of_the_same_segment() {
        let next = following(&[1, 2, 3, 4, 5], &Offsets::from_lengths([3, 0, 2]));
        assert_eq!(next, [Some(2), Some(3), None, Some(5), None]);
    }
}
