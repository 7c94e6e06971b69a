//! What is trained to retrieve.

use super::batch::{PairBatch, segment_contents};
use crate::Result;
use crate::feature_cache::FeatureCache;
use sensorium_engine::{Params, Tape};
use sensorium_model::{ColumnInput, Context, Embedded, Frozen, Inputs, JointLoss, JointModel};
use sensorium_train::{BoxError, StepContext, StepLoss, Trainable};
use std::sync::Arc;

/// Columns that meet in one space, and the weights.
#[derive(Debug, Clone)]
pub struct RetrievalLearner {
    /// The structure.
    pub model: JointModel,
    /// The weights.
    pub params: Params,
    /// Segments that go through a tower at a time in training; 0: all.
    pub sub_batch: usize,
    /// Where the features of frozen towers are kept; without one, they are
    /// computed each time.
    pub feature_cache: Option<Arc<FeatureCache>>,
}

impl RetrievalLearner {
    /// A vector of length 1 for each segment of a column.
    ///
    /// # Errors
    /// When the input is not what the column's tower takes.
    pub fn embed(&self, cx: &Context<'_>, column: usize, input: &ColumnInput) -> Result<Embedded> {
        match &self.feature_cache {
            Some(cache) if cache.applies(&self.model, cx.params, column) != Frozen::Nothing => {
                let features = cache.features(cx, &self.model, column, input)?;
                Ok(self.model.project(cx, column, &features)?)
            }
            _ => Ok(self.model.embed(cx, column, input, self.sub_batch)?),
        }
    }

    fn pairs_loss(&self, tape: &Tape, batch: &PairBatch, step: &StepContext) -> Result<StepLoss> {
        let inputs = &batch.batch.inputs;
        let (cx, inputs) = if step.training {
            let cx = Context::training(tape, &self.params, step.random);
            let one = inputs.one_of_each(step.random.purpose("captions"));
            (cx.checkpointing(self.model.gradient_checkpointing()), one)
        } else {
            (Context::inference(tape, &self.params), inputs.clone())
        };
        let columns = inputs.columns.iter().enumerate();
        let embedded = columns.map(|(c, input)| self.embed(&cx, c, input)).collect::<Result<Vec<_>>>()?;
        let (out, weight) = loss_of(&self.model, &cx, &embedded, &inputs, &batch.cells)?;
        let mut parts: Vec<(String, f64)> = match out.parts.len() {
            0 | 1 => Vec::new(),
            _ => out.parts.into_iter().map(|(name, loss, _)| (name, loss)).collect(),
        };
        if step.training {
            parts.push(("logit_scale".into(), f64::from(self.model.similarity(&self.params).0)));
        }
        Ok(StepLoss { loss: out.loss, parts, weight, samples: inputs.samples, tokens: self.model.tokens(&inputs) })
    }
}

/// The loss of a batch whose columns are embedded, and the samples that its
/// mean is over; `cells` are those of [`PairBatch`].
///
/// # Errors
/// Those of the engine.
pub(crate) fn loss_of(
    model: &JointModel,
    cx: &Context<'_>,
    embedded: &[Embedded],
    inputs: &Inputs,
    cells: &[Vec<u64>],
) -> Result<(JointLoss, f64)> {
    let out = model.loss(cx, embedded, &sample_contents(inputs, cells))?;
    let weight = out.parts.iter().map(|(_, _, pairs)| *pairs).max().unwrap_or(0) as f64;
    Ok((out, weight))
}

/// `[columns][samples]`: a number of the content of each sample's first
/// segment, equal where contents are; 0 where there is none.
pub(crate) fn sample_contents(inputs: &Inputs, cells: &[Vec<u64>]) -> Vec<Vec<u64>> {
    let columns = inputs.columns.iter().zip(cells);
    columns
        .map(|(input, cells)| {
            let mut of_samples = vec![0; inputs.samples];
            let segments = input.sample_of().iter().zip(segment_contents(input, cells));
            for (sample, content) in segments.rev() {
                of_samples[*sample as usize] = content;
            }
            of_samples
        })
        .collect()
}

impl Trainable for RetrievalLearner {
    type Batch = PairBatch;

    fn params(&self) -> &Params {
        &self.params
    }

    fn params_mut(&mut self) -> &mut Params {
        &mut self.params
    }

    fn loss(&self, tape: &Tape, batch: &PairBatch, step: &StepContext) -> std::result::Result<StepLoss, BoxError> {
        self.pairs_loss(tape, batch, step).map_err(Into::into)
    }

    fn after_update(&mut self) {
        self.model.clamp_scale(&mut self.params);
    }
}
