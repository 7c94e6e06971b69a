//! Masked language modelling (Devlin et al. 2019): which tokens were hidden?

use crate::heads::{HeadConfig, Transform};
use crate::{Context, Result};
use sensorium_engine::{Builder, Init, ParamId, Var, ops};

/// Rows whose scores stand at once when the best token of each is looked for.
const ROWS_AT_ONCE: usize = 256;

/// BERT's head: a dense layer, a norm, then the table of token embeddings
/// itself as the output, with a bias of its own.
#[derive(Debug, Clone)]
pub struct MaskedLanguageHead {
    transform: Transform,
    bias: Option<ParamId>,
}

impl MaskedLanguageHead {
    /// Creates `dense` and `norm`, each where it is wanted, and `output.bias`
    /// `[outputs]`: the names of [`crate::heads::Head`] without the output's
    /// weight, which is the tower's.
    ///
    /// # Errors
    /// When names are taken.
    pub fn new(b: &mut Builder<'_>, c: &HeadConfig) -> Result<Self> {
        let transform = Transform::new(b, c)?;
        let bias =
            if c.bias { Some(b.scope("output").param("bias", &[c.outputs], Init::Constant(0.0))?) } else { None };
        Ok(Self { transform, bias })
    }

    /// The mean loss over the tokens `[tokens, hidden]` that have a target,
    /// under the table of embeddings `[vocabulary, width]`. Of the others
    /// nothing is computed.
    ///
    /// # Errors
    /// When the shapes do not fit.
    pub fn loss(&self, cx: &Context<'_>, tokens: &Var, table: ParamId, targets: &[Option<u32>]) -> Result<Var> {
        let (rows, wanted) = hidden_rows(targets);
        let x = self.transform(cx, tokens, &rows)?;
        let bias = self.bias.map(|b| cx.param(b));
        Ok(ops::vocabulary_cross_entropy(cx.tape, &x, &cx.param(table), bias.as_ref(), &wanted, 0.0)?)
    }

    /// For each token with a target, in order, whether it is the best one.
    ///
    /// # Errors
    /// When the shapes do not fit.
    pub fn hits(&self, cx: &Context<'_>, tokens: &Var, table: ParamId, targets: &[Option<u32>]) -> Result<Vec<bool>> {
        let (rows, wanted) = hidden_rows(targets);
        let mut hits = Vec::with_capacity(rows.len());
        for (rows, wanted) in rows.chunks(ROWS_AT_ONCE).zip(wanted.chunks(ROWS_AT_ONCE)) {
            let x = self.transform(cx, tokens, rows)?;
            let bias = self.bias.map(|b| cx.param(b));
            let scores =
                ops::linear(cx.tape, &x, &cx.param(table), bias.as_ref(), sensorium_engine::Activation::Identity)?;
            hits.extend(best_is(scores.data(), wanted));
        }
        Ok(hits)
    }

    fn transform(&self, cx: &Context<'_>, tokens: &Var, rows: &[u32]) -> Result<Var> {
        self.transform.forward(cx, ops::gather_rows(cx.tape, tokens, rows)?)
    }
}

/// The places that have a target, and the targets.
fn hidden_rows(targets: &[Option<u32>]) -> (Vec<u32>, Vec<Option<u32>>) {
    targets.iter().enumerate().filter(|(_, t)| t.is_some()).map(|(row, t)| (row as u32, *t)).unzip()
}

/// For each row of scores whether the wanted one is the largest; the first of
/// several equal ones counts.
pub fn best_is<'a>(scores: &'a [f32], wanted: &'a [Option<u32>]) -> impl Iterator<Item = bool> + 'a {
    let width = scores.len() / wanted.len().max(1);
    scores.chunks(width.max(1)).zip(wanted).map(|(row, wanted)| {
        let best = (0..row.len()).fold(0, |best, i| if row[i] > row[best] { i } else { best });
        *wanted == Some(best as u32)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::heads::{Head, HeadInput};
    use crate::layers::ActivationName;
    use crate::{Features, ModelError};
    use sensorium_engine::{Offsets, Params, Tape, Tensor};

    fn config() -> HeadConfig {
        HeadConfig {
            input: HeadInput::Tokens,
            inputs: 6,
            dense: Some(ActivationName::Gelu),
            dense_width: Some(4),
            dense_bias: true,
            norm_eps: Some(1e-5),
            norm_bias: true,
            outputs: 9,
            bias: true,
        }
    }

    #[test]
    fn the_loss_is_that_of_the_whole_head_where_something_is_hidden() -> Result<()> {
        let mut params = Params::new();
        // The plain head has the table as its own output weight.
        let plain = Head::new(&mut Builder::new(&mut params, 1), &config())?;
        let table = params.id("output.weight").ok_or_else(|| ModelError::config("test", "no output"))?;
        let mut tied = Params::new();
        let word = tied.insert("word", params.get(table).value.clone())?;
        let head = MaskedLanguageHead::new(&mut Builder::new(&mut tied, 1), &config())?;
        let data: Vec<f32> = (0..30).map(|i| ((i * 37 % 101) as f32 / 50.0) - 1.0).collect();
        let x = Var::constant(Tensor::from_slice(&[5, 6], &data)?);
        let targets = [None, Some(3), None, Some(8), Some(0)];
        let tape = Tape::inference();
        let loss = head.loss(&Context::inference(&tape, &tied), &x, word, &targets)?.value().scalar()?;
        let cx = Context::inference(&tape, &params);
        let offsets = Offsets::from_lengths([5]);
        let features = Features { tokens: x.clone(), offsets, pooled: x.clone(), sample_of: vec![0] };
        let scores = plain.forward(&cx, &features)?;
        let expected = ops::cross_entropy(&tape, &scores, &targets, &ops::CrossEntropy::default())?.value().scalar()?;
        assert!((loss - expected).abs() < 1e-5, "{loss} is not {expected}");
        let hits = head.hits(&Context::inference(&tape, &tied), &x, word, &targets)?;
        assert_eq!(hits.len(), 3);
        Ok(())
    }

    #[test]
    fn the_first_of_equal_scores_is_the_best() {
        let scores = [1.0, 3.0, 3.0, 0.0, -1.0, -2.0];
        assert_eq!(best_is(&scores, &[Some(1), Some(0)]).collect::<Vec<_>>(), [true, true]);
        assert_eq!(best_is(&scores, &[Some(2), None]).collect::<Vec<_>>(), [false, false]);
    }
}
