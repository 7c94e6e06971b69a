//! Image-text matching (Li et al. 2021, "Align before fuse"): do a picture and
//! a text belong together?
//!
//! The tokens of the text see those of the picture through cross-attention, and
//! the first of them says yes or no. What is asked are the pairs of a batch
//! and, for each picture and each text, one that does not belong to it: the
//! more similar, the more often.

use crate::layers::{BlockConfig, Linear, NormPlace, Surroundings};
use crate::{Context, ModelError, Result, Transformer, TransformerConfig};
use sensorium_engine::{Builder, Offsets, Random, Var, ops};

/// Settings of a matching head.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct MatchingConfig {
    /// Width of the tokens of texts.
    pub text: usize,
    /// Width of the tokens of pictures.
    pub image: usize,
    /// Width of the head's tokens.
    pub hidden: usize,
    /// Attention heads.
    pub heads: usize,
    /// Blocks.
    pub layers: usize,
    /// Dropout in the blocks.
    pub dropout: f64,
}

/// Says of pairs of texts and pictures whether they belong together.
#[derive(Debug, Clone)]
pub struct MatchingHead {
    text: Linear,
    image: Linear,
    transformer: Transformer,
    output: Linear,
}

/// Tokens `[tokens, width]` of some segments.
pub type Tokens<'a> = (&'a Var, &'a Offsets);

impl MatchingHead {
    /// Creates `text` and `image`, which bring tokens to the width of the
    /// head, `layer.{i}` (BERT's blocks with cross-attention) and `output` to
    /// two scores: no, yes.
    ///
    /// # Errors
    /// When sizes do not fit.
    pub fn new(b: &mut Builder<'_>, c: &MatchingConfig) -> Result<Self> {
        let block = BlockConfig {
            hidden: c.hidden,
            heads: c.heads,
            norm_place: NormPlace::Post,
            norm_eps: 1e-12,
            cross_attention: true,
            dropout: c.dropout,
            ..BlockConfig::default()
        };
        block.validate("matching head")?;
        Ok(Self {
            text: Linear::new(&mut b.scope("text"), c.text, c.hidden, true)?,
            image: Linear::new(&mut b.scope("image"), c.image, c.hidden, true)?,
            transformer: Transformer::new(
                b,
                &TransformerConfig { layers: c.layers, block, ..TransformerConfig::default() },
            )?,
            output: Linear::new(&mut b.scope("output"), c.hidden, 2, true)?,
        })
    }

    /// The scores of no and yes `[pairs, 2]` of pairs (text, picture), by the
    /// numbers of their segments.
    ///
    /// # Errors
    /// When a segment is not there, or widths do not fit.
    pub fn scores(&self, cx: &Context<'_>, texts: Tokens<'_>, images: Tokens<'_>, pairs: &[[u32; 2]]) -> Result<Var> {
        let texts = (&self.text.forward(cx, texts.0)?, texts.1);
        let images = (&self.image.forward(cx, images.0)?, images.1);
        let (x, segments) = of_segments(cx, texts, pairs.iter().map(|[text, _]| *text))?;
        let (memory, of) = of_segments(cx, images, pairs.iter().map(|[_, image]| *image))?;
        let around = Surroundings { memory: Some((&memory, &of)), ..Surroundings::of(&segments) };
        let x = self.transformer.forward_among(cx, x, around)?;
        self.output.forward(cx, &ops::pool(cx.tape, &x, &segments, ops::Pooling::First)?)
    }
}

/// The tokens of some segments one after another, and where they begin and end.
///
/// # Errors
/// When there is no such segment.
pub fn of_segments(
    cx: &Context<'_>,
    (tokens, offsets): Tokens<'_>,
    chosen: impl IntoIterator<Item = u32>,
) -> Result<(Var, Offsets)> {
    let (mut rows, mut lengths) = (Vec::new(), Vec::new());
    for segment in chosen {
        if segment as usize >= offsets.segments() {
            let problem = format!("there is no segment {segment} among {}", offsets.segments());
            return Err(ModelError::config("segments", problem));
        }
        let range = offsets.range(segment as usize);
        lengths.push(range.len());
        rows.extend(range.start as u32..range.end as u32);
    }
    Ok((ops::gather_rows(cx.tape, tokens, &rows)?, Offsets::from_lengths(lengths)))
}

/// For each of n things one of n others that does not belong to it, drawn in
/// proportion to `e^score` of `scores` `[n, n]`; all alike without scores. What
/// is the `same` is never drawn; None where nothing is left.
pub fn negatives(scores: Option<&[f32]>, same: &[Vec<u32>], random: Random) -> Vec<Option<u32>> {
    let n = same.len();
    (0..n)
        .map(|i| {
            let others: Vec<u32> =
                (0..n as u32).filter(|j| *j as usize != i && same[i].binary_search(j).is_err()).collect();
            let score = |j: &u32| scores.map_or(0.0, |s| f64::from(s[i * n + *j as usize]));
            let highest = others.iter().map(score).fold(f64::NEG_INFINITY, f64::max);
            let weights: Vec<f64> = others.iter().map(|j| (score(j) - highest).exp()).collect();
            let mut left = f64::from(random.uniform(i as u64)) * weights.iter().sum::<f64>();
            let drawn = weights.iter().position(|w| {
                left -= w;
                left < 0.0
            });
            // What rounding leaves falls to the last.
            drawn.map(|at| others[at]).or(others.last().copied())
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use sensorium_engine::{Params, Tape, Tensor};
    use serde_json::Value;

    const GOLDEN: &str = include_str!("../../tests/golden/matching.json");

    fn numbers(value: &Value) -> Vec<f32> {
        value.as_array().expect("a list").iter().map(|x| x.as_f64().expect("a number") as f32).collect()
    }

    #[test]
    fn scores_loss_and_gradients_are_those_of_blip() -> Result<()> {
        let golden: Value = serde_json::from_str(GOLDEN).expect("JSON");
        let mut params = Params::new();
        let c = MatchingConfig { text: 6, image: 5, hidden: 8, heads: 2, layers: 2, dropout: 0.0 };
        let head = MatchingHead::new(&mut Builder::new(&mut params, 1), &c)?;
        for (_, p) in params.iter_mut() {
            p.value = Tensor::from_slice(p.value.dims(), &numbers(&golden["weights"][&p.name]))?;
        }
        let tape = Tape::new();
        let input = |name: &str, width: usize| -> Result<Var> {
            let data = numbers(&golden[name]);
            Ok(tape.input(Tensor::from_slice(&[data.len() / width, width], &data)?))
        };
        let (texts, images) = (input("texts", 6)?, input("images", 5)?);
        let (of_texts, of_images) = (Offsets::from_lengths([3, 2]), Offsets::from_lengths([4, 4]));
        let pairs = [[0, 0], [1, 1], [0, 1], [1, 0], [1, 0]];
        let cx = Context::inference(&tape, &params);
        let scores = head.scores(&cx, (&texts, &of_texts), (&images, &of_images), &pairs)?;
        for (ours, theirs) in scores.data().iter().zip(numbers(&golden["scores"])) {
            assert!((ours - theirs).abs() < 1e-5, "{ours} is not {theirs}");
        }
        let targets = [1, 1, 0, 0, 0].map(Some);
        let loss = ops::cross_entropy(&tape, &scores, &targets, &ops::CrossEntropy::default())?;
        assert!((loss.value().scalar()? - numbers(&golden["loss"])[0]).abs() < 1e-5);
        drop(cx);
        let gradients = tape.backward(&loss)?;
        let close = |name: &str, ours: &[f32], theirs: &[f32]| {
            let largest = theirs.iter().fold(0.0_f32, |a, b| a.max(b.abs()));
            for (a, b) in ours.iter().zip(theirs) {
                assert!((a - b).abs() < 2e-5 * largest.max(1e-2), "{name}: {a} is not {b}");
            }
        };
        for (id, p) in params.iter() {
            let ours = gradients.param(id).unwrap_or_else(|| panic!("{} has no gradient", p.name));
            close(&p.name, ours.data(), &numbers(&golden["gradients"][&p.name]));
        }
        for (name, input) in [("texts", &texts), ("images", &images)] {
            let ours = gradients.of(input).unwrap_or_else(|| panic!("{name} have no gradient"));
            close(name, ours.data(), &numbers(&golden["gradients"][name]));
        }
        Ok(())
    }

    #[test]
    fn negatives_are_drawn_in_proportion_and_never_what_belongs_together() {
        // To the first three others at odds of 1 : 3, never the one that is the same.
        let same = vec![vec![3], vec![], vec![], vec![0]];
        let mut scores = vec![0.0_f32; 16];
        scores[2] = 3_f32.ln();
        let mut counts = [0; 4];
        for step in 0..4000 {
            let drawn = negatives(Some(&scores), &same, Random::new(5).at_step(step));
            counts[drawn[0].expect("one") as usize] += 1;
            assert!(drawn.iter().enumerate().all(|(i, j)| j.is_some_and(|j| j as usize != i)));
        }
        assert_eq!((counts[0], counts[3]), (0, 0));
        assert!((2850..3150).contains(&counts[2]), "{counts:?}");
        let all = vec![vec![1], vec![0]];
        assert_eq!(negatives(None, &all, Random::new(1)), [None, None], "nothing is left");
        let drawn: std::collections::BTreeSet<_> =
            (0..40).map(|step| negatives(None, &same, Random::new(2).at_step(step))[1]).collect();
        assert_eq!(drawn.len(), 3, "without scores any other");
    }
}
