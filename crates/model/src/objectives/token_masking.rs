//! Which tokens are hidden, and behind what.

use crate::{ModelError, Result};
use sensorium_engine::{Offsets, Random};
use serde::{Deserialize, Serialize};
use std::ops::Range;

/// How tokens are chosen and replaced. Of those chosen, `mask` become the mask
/// token, `random` any token, and the rest stay as they are (Devlin et al.
/// 2019).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TokenMasking {
    /// The share of tokens that are chosen.
    pub share: f64,
    /// The share of those that become the mask token.
    pub mask: f64,
    /// The share of those that become any token of the vocabulary.
    pub random: f64,
    /// Whether all tokens of a word are chosen together.
    pub whole_word: bool,
    /// The mean length in words of runs that are chosen together, their lengths
    /// geometrically distributed up to ten words (SpanBERT, Joshi et al. 2020:
    /// 3.8); 0: single tokens or words.
    pub span: f64,
}

impl Default for TokenMasking {
    fn default() -> Self {
        Self { share: 0.15, mask: 0.8, random: 0.1, whole_word: false, span: 0.0 }
    }
}

/// The longest run of words that is chosen together.
const LONGEST_SPAN: u64 = 10;

/// What masking needs to know of a vocabulary.
#[derive(Debug, Clone)]
pub struct Vocabulary {
    /// How many tokens there are.
    pub size: usize,
    /// The token that hides others.
    pub mask: u32,
    /// For each token whether it is one of the special ones, which are never
    /// hidden.
    pub special: Vec<bool>,
}

/// Tokens with some of them hidden.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MaskedTokens {
    /// What the model is shown.
    pub ids: Vec<u32>,
    /// What it is to say, where it is asked.
    pub targets: Vec<Option<u32>>,
}

impl TokenMasking {
    /// Whether the shares make sense.
    ///
    /// # Errors
    /// When a share is not in [0, 1], or a span is shorter than a word.
    pub fn validate(&self) -> Result<()> {
        let wrong = |key: &str, problem: String| Err(ModelError::config(key, problem));
        if !(self.share > 0.0 && self.share <= 1.0) {
            return wrong("share", format!("{} is not a share above 0 and at most 1", self.share));
        }
        let fits = |x: f64| (0.0..=1.0).contains(&x);
        if !fits(self.mask) || !fits(self.random) || self.mask + self.random > 1.0 + 1e-9 {
            return wrong("mask and random", format!("{} and {} are not parts of 1", self.mask, self.random));
        }
        if !(self.span == 0.0 || self.span.is_finite() && self.span >= 1.0) {
            return wrong("span", format!("{} is neither 0 nor a mean length of at least 1 word", self.span));
        }
        Ok(())
    }

    /// Hides some of the tokens of every segment. `continues` says of each
    /// token whether it belongs to the word of the one before it. What is
    /// hidden follows from `random` and the places alone.
    pub fn apply(
        &self,
        ids: &[u32],
        segments: &Offsets,
        continues: &[bool],
        vocabulary: &Vocabulary,
        random: Random,
    ) -> MaskedTokens {
        let special = |id: u32| vocabulary.special.get(id as usize).copied().unwrap_or(false);
        let mut chosen = vec![false; ids.len()];
        for (segment, range) in segments.ranges().enumerate() {
            let words = words(range, self.whole_word || self.span > 0.0, continues, |at| special(ids[at]));
            if self.span > 0.0 {
                self.choose_spans(&words, random.purpose("spans").at_step(segment as u64), &mut chosen);
            } else {
                let draw = random.purpose("choice");
                for word in words {
                    // A word is chosen by the number of its first token.
                    let hit = f64::from(draw.uniform(word.start as u64)) < self.share;
                    chosen[word].fill(hit);
                }
            }
        }
        let (how, which) = (random.purpose("replacement"), random.purpose("token"));
        let mut masked = MaskedTokens { ids: ids.to_vec(), targets: vec![None; ids.len()] };
        for at in (0..ids.len()).filter(|at| chosen[*at]) {
            masked.targets[at] = Some(ids[at]);
            let draw = f64::from(how.uniform(at as u64));
            if draw < self.mask {
                masked.ids[at] = vocabulary.mask;
            } else if draw < self.mask + self.random {
                masked.ids[at] = which.below(at as u64, vocabulary.size as u64) as u32;
            }
        }
        masked
    }

    /// Chooses runs of words until the share of the segment's tokens is reached.
    fn choose_spans(&self, words: &[Range<usize>], random: Random, chosen: &mut [bool]) {
        let tokens: usize = words.iter().map(Range::len).sum();
        let wanted = (self.share * tokens as f64).round().max(1.0) as usize;
        let mut done = 0;
        // Each draw chooses something new with the probability of what is not
        // chosen yet: so many are enough but for a share near 1.
        for draw in 0..20 * words.len() as u64 {
            let start = random.below(2 * draw, words.len() as u64) as usize;
            // Geometric with this mean: the number of trials up to a success.
            let u = 1.0 - f64::from(random.uniform(2 * draw + 1));
            let length = if self.span <= 1.0 { 1 } else { 1 + (u.ln() / (1.0 - 1.0 / self.span).ln()) as u64 };
            for word in words[start..].iter().take(length.min(LONGEST_SPAN) as usize) {
                if done >= wanted {
                    return;
                }
                if !chosen[word.start] {
                    chosen[word.clone()].fill(true);
                    done += word.len();
                }
            }
        }
    }
}

/// The words of a segment, special tokens left out; each token is one where
/// they are not `whole`.
fn words(range: Range<usize>, whole: bool, continues: &[bool], special: impl Fn(usize) -> bool) -> Vec<Range<usize>> {
    let mut words: Vec<Range<usize>> = Vec::new();
    for at in range {
        if special(at) {
            continue;
        }
        match words.last_mut() {
            Some(word) if whole && continues[at] && word.end == at => word.end += 1,
            _ => words.push(at..at + 1),
        }
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: usize = 1000;

    fn vocabulary() -> Vocabulary {
        Vocabulary { size: SIZE, mask: 4, special: (0..SIZE).map(|id| id < 5).collect() }
    }

    /// 200 texts of 100 tokens between special ones; every third token begins a word.
    fn texts() -> (Vec<u32>, Offsets, Vec<bool>) {
        let text = |n: u32| [2].into_iter().chain((0..98).map(move |i| 5 + (n * 131 + i * 7) % 990)).chain([3]);
        let ids: Vec<u32> = (0..200).flat_map(text).collect();
        let continues = (0..ids.len()).map(|i| (i % 100) % 3 != 1).collect();
        (ids, Offsets::from_lengths(vec![100; 200]), continues)
    }

    fn masked(how: &TokenMasking, seed: u64) -> (Vec<u32>, MaskedTokens) {
        let (ids, segments, continues) = texts();
        let masked = how.apply(&ids, &segments, &continues, &vocabulary(), Random::new(seed));
        (ids, masked)
    }

    fn share(of: impl Iterator<Item = bool>) -> f64 {
        let all: Vec<bool> = of.collect();
        all.iter().filter(|x| **x).count() as f64 / all.len() as f64
    }

    #[test]
    fn fifteen_of_a_hundred_are_chosen_and_replaced_eighty_ten_ten() {
        for how in [
            TokenMasking::default(),
            TokenMasking { whole_word: true, ..TokenMasking::default() },
            TokenMasking { span: 3.8, ..TokenMasking::default() },
        ] {
            let (ids, masked) = masked(&how, 7);
            let ordinary = || (0..ids.len()).filter(|i| ids[*i] >= 5);
            assert!((share(ordinary().map(|i| masked.targets[i].is_some())) - 0.15).abs() < 0.01, "{how:?}");
            assert!((0..ids.len()).all(|i| ids[i] >= 5 || masked.targets[i].is_none()), "special tokens stay");
            let chosen = || (0..ids.len()).filter(|i| masked.targets[*i].is_some());
            assert!(chosen().all(|i| masked.targets[i] == Some(ids[i])));
            assert!((share(chosen().map(|i| masked.ids[i] == 4)) - 0.8).abs() < 0.03, "{how:?}");
            assert!((share(chosen().map(|i| masked.ids[i] == ids[i])) - 0.1).abs() < 0.03, "{how:?}");
            assert!((0..ids.len()).all(|i| masked.targets[i].is_some() || masked.ids[i] == ids[i]));
        }
    }

    #[test]
    fn words_are_hidden_whole() {
        let (_, _, continues) = texts();
        for how in [
            TokenMasking { whole_word: true, ..TokenMasking::default() },
            TokenMasking { span: 3.0, ..TokenMasking::default() },
        ] {
            let (ids, masked) = masked(&how, 3);
            for at in (1..ids.len()).filter(|at| continues[*at] && ids[*at] >= 5 && ids[*at - 1] >= 5) {
                assert_eq!(masked.targets[at].is_some(), masked.targets[at - 1].is_some(), "{how:?}: token {at}");
            }
        }
    }

    #[test]
    fn spans_are_longer_than_words() {
        let runs = |how: &TokenMasking| {
            let (_, masked) = masked(how, 5);
            let mut runs: Vec<usize> = Vec::new();
            for at in 0..masked.targets.len() {
                match masked.targets[at] {
                    Some(_) if at > 0 && masked.targets[at - 1].is_some() => *runs.last_mut().expect("begun") += 1,
                    Some(_) => runs.push(1),
                    None => {}
                }
            }
            runs.iter().sum::<usize>() as f64 / runs.len() as f64
        };
        let (single, word) = (TokenMasking::default(), TokenMasking { whole_word: true, ..TokenMasking::default() });
        let span = TokenMasking { span: 3.8, ..TokenMasking::default() };
        assert!(runs(&single) < 1.3 && runs(&word) > 2.5 && runs(&span) > 2.0 * runs(&word) * 0.9);
    }

    #[test]
    fn the_same_stream_hides_the_same() {
        let how = TokenMasking { whole_word: true, ..TokenMasking::default() };
        assert_eq!(masked(&how, 1), masked(&how, 1));
        assert_ne!(masked(&how, 1), masked(&how, 2));
    }

    #[test]
    fn shares_that_cannot_be_are_refused() {
        for how in [
            TokenMasking { share: 0.0, ..TokenMasking::default() },
            TokenMasking { share: 1.5, ..TokenMasking::default() },
            TokenMasking { mask: 0.8, random: 0.3, ..TokenMasking::default() },
            TokenMasking { span: 0.5, ..TokenMasking::default() },
        ] {
            assert!(how.validate().is_err(), "{how:?}");
        }
        assert!(TokenMasking::default().validate().is_ok());
    }
}
