//! Image-text matching over two columns.

use super::columns::Columns;
use super::config::PretrainConfig;
use super::part::{Part, count};
use super::start::start;
use super::together::Read;
use crate::Result;
use sensorium_engine::{Activation, Builder, Params, Random, Tape, ops};
use sensorium_model::objectives::{MatchingConfig, MatchingHead, best_is, negatives};
use sensorium_model::{Context, Embedded, same_contents};

/// Below which the head's parameters stand; it is of no more use afterwards.
const SCOPE: &str = "itm_head";

/// Says whether a picture and a text belong together.
pub(super) struct Matching {
    head: MatchingHead,
    pub image: usize,
    pub text: usize,
    weight: f64,
    /// Whether what is similar is drawn more often.
    pub hard: bool,
}

impl Matching {
    /// Adds the head to `params`.
    ///
    /// # Errors
    /// When columns are not there or sizes do not fit.
    pub(super) fn new(params: &mut Params, columns: &Columns, config: &PretrainConfig) -> Result<Self> {
        let p = &config.pretrain.itm;
        let place = "pretrain.itm.columns";
        let [image, text] = columns.image_and_text(place, p.columns.as_ref())?;
        let widths = [image, text].map(|c| columns.towers[c].tower.hidden());
        let hidden = p.hidden.unwrap_or(widths[1]);
        let dropout = config.text.tower.dropout;
        let head = MatchingConfig {
            text: widths[1],
            image: widths[0],
            hidden,
            heads: (hidden / 32).max(1),
            layers: p.layers,
            dropout,
        };
        let head = MatchingHead::new(&mut Builder::new(params, config.train.seed).scope(SCOPE), &head)?;
        start(params, SCOPE, config.train.seed, None);
        Ok(Self { head, image, text, weight: p.weight, hard: p.hard_negatives })
    }

    /// What is learnt, in words; `by_similarity` says how pairs that do not
    /// belong together are drawn.
    pub(super) fn describe(&self, by_similarity: bool) -> String {
        let drawn = if by_similarity { "in proportion to contrastive similarity" } else { "all alike" };
        format!("what does not belong together is drawn {drawn}")
    }

    /// The loss over the pairs of a batch and as many again twice that do not
    /// belong together; `scale` and the vectors of the columns where these are
    /// compared. None where no sample has both.
    ///
    /// # Errors
    /// When widths do not fit.
    pub(super) fn part(
        &self,
        cx: &Context<'_>,
        read: &Read<'_>,
        compared: Option<(&[Embedded], f32)>,
        random: Random,
        judged: bool,
    ) -> Result<Option<Part>> {
        let (Some(images), Some(texts)) = (&read.features[self.image], &read.features[self.text]) else {
            return Ok(None);
        };
        let both = read.both(self.image, self.text);
        if both.is_empty() {
            return Ok(None);
        }
        let samples: Vec<u32> = both.iter().map(|(sample, _)| *sample).collect();
        let contents = read.contents();
        let same = same_contents(&samples, [&contents[self.image], &contents[self.text]]);
        let scores = match compared {
            Some((embedded, scale)) => Some(similarities(embedded, [self.image, self.text], &both, scale)?),
            None => None,
        };
        let [to_texts, to_images] = match &scores {
            Some([to_texts, to_images]) => [Some(&to_texts[..]), Some(&to_images[..])],
            None => [None, None],
        };
        let wrong_texts = negatives(to_texts, &same, random.purpose("texts"));
        let wrong_images = negatives(to_images, &same, random.purpose("pictures"));
        let segments = |at: u32| both[at as usize].1;
        let mut pairs: Vec<[u32; 2]> = both.iter().map(|(_, [image, text])| [*text, *image]).collect();
        let mut targets = vec![Some(1); pairs.len()];
        for ((wrong_text, wrong_image), (_, [image, text])) in wrong_texts.iter().zip(&wrong_images).zip(&both) {
            pairs.extend(wrong_text.map(|other| [segments(other)[1], *image]));
            pairs.extend(wrong_image.map(|other| [*text, segments(other)[0]]));
        }
        targets.resize(pairs.len(), Some(0));
        let texts = (&texts.tokens, &texts.offsets);
        let scores = self.head.scores(cx, texts, (&images.tokens, &images.offsets), &pairs)?;
        let loss = ops::cross_entropy(cx.tape, &scores, &targets, &ops::CrossEntropy::default())?;
        let hits = judged.then(|| count(best_is(scores.data(), &targets)));
        Ok(Some(Part { hits, ..Part::new("itm", self.weight, loss, pairs.len()) }))
    }
}

/// Scaled cosines of pictures and texts, a row for each picture, and the same
/// with a row for each text.
fn similarities(
    embedded: &[Embedded],
    columns: [usize; 2],
    both: &[(u32, [u32; 2])],
    scale: f32,
) -> Result<[Vec<f32>; 2]> {
    let tape = Tape::inference();
    let rows = |which: usize| {
        let rows: Vec<u32> = both.iter().map(|(_, segments)| segments[which]).collect();
        ops::gather_rows(&tape, &embedded[columns[which]].vectors.detached(), &rows)
    };
    let (images, texts) = (rows(0)?, rows(1)?);
    let scaled = |a, b| -> Result<Vec<f32>> {
        let cosines = ops::linear(&tape, a, b, None, Activation::Identity)?;
        Ok(cosines.data().iter().map(|x| x * scale).collect())
    };
    Ok([scaled(&images, &texts)?, scaled(&texts, &images)?])
}

#[cfg(test)]
mod tests {
    use super::*;
    use sensorium_engine::{Tensor, Var};

    #[test]
    fn a_row_of_similarities_is_one_picture_over_all_texts() -> Result<()> {
        let vectors = |rows: &[[f32; 2]]| Embedded {
            vectors: Var::constant(Tensor::from_slice(&[rows.len(), 2], rows.as_flattened()).expect("fits")),
            sample_of: Vec::new(),
        };
        // The first picture is in no pair; of the columns the texts come first.
        let texts = vectors(&[[1.0, 0.0], [0.6, 0.8]]);
        let images = vectors(&[[9.0, 9.0], [0.0, 1.0], [1.0, 0.0]]);
        let both = [(0, [1, 0]), (1, [2, 1])];
        let [to_texts, to_images] = similarities(&[texts, images], [1, 0], &both, 10.0)?;
        let near = |a: &[f32], b: [f32; 4]| a.len() == 4 && a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-5);
        assert!(near(&to_texts, [0.0, 8.0, 10.0, 6.0]), "{to_texts:?}");
        assert!(near(&to_images, [0.0, 10.0, 8.0, 6.0]), "{to_images:?}");
        Ok(())
    }
}
