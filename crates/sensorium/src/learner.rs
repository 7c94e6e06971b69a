//! A model with its weights and its label: what is trained, and what answers.

use crate::batch::Batch;
use crate::feature_cache::FeatureCache;
use crate::mixup::Blend;
use crate::task::{Decision, Objective};
use crate::{Error, Result};
use sensorium_engine::quantized::Calibration;
use sensorium_engine::{Params, Tape, Tensor, Var, ops};
use sensorium_model::{Context, Features, Inputs, MultimodalModel};
use sensorium_train::{BoxError, StepContext, StepLoss, Trainable};
use std::cell::RefCell;
use std::sync::Arc;

/// A multimodal model, its weights and what it predicts.
#[derive(Debug, Clone)]
pub struct Learner {
    /// The structure.
    pub model: MultimodalModel,
    /// The weights.
    pub params: Params,
    /// The label.
    pub objective: Objective,
    /// Where the features of frozen towers are kept; without one, they are
    /// computed each time.
    pub feature_cache: Option<Arc<FeatureCache>>,
}

/// What a model says of a batch.
#[derive(Debug, Clone)]
pub struct Answers {
    /// One decision per sample.
    pub decisions: Vec<Decision>,
    /// The mean loss over the samples with a target, and what the mean is over.
    pub loss: Option<(f64, f64)>,
    /// The weight of each column in each sample `[samples, columns]`, from gated fusion.
    pub gates: Option<Tensor>,
}

impl Learner {
    /// Z = M(X) of each column, the frozen ones from the cache.
    fn features(&self, cx: &Context<'_>, inputs: &Inputs) -> Result<Vec<Features>> {
        let Some(cache) = &self.feature_cache else { return Ok(self.model.features(cx, inputs)?) };
        let of = |(column, input)| cache.features(cx, &self.model, column, input);
        inputs.columns.iter().enumerate().map(of).collect()
    }

    /// Answers for a batch.
    ///
    /// # Errors
    /// When the batch is not of the model's columns.
    pub fn answer(&self, batch: &Batch) -> Result<Answers> {
        let tape = Tape::inference();
        let cx = Context::inference(&tape, &self.params);
        let features = self.features(&cx, &batch.inputs)?;
        self.answer_features(&cx, &features, batch)
    }

    /// Counts what linear layers are given for a batch.
    ///
    /// # Errors
    /// When the batch is not of the model's columns.
    pub(crate) fn calibrate(&self, batch: &Batch, calibration: &RefCell<Calibration>) -> Result<()> {
        let tape = Tape::inference();
        let cx = Context::inference(&tape, &self.params).calibrating(calibration);
        self.model.forward(&cx, &batch.inputs)?;
        Ok(())
    }

    /// Answers for a batch as it would be with only some columns, for each of
    /// `subsets` (a flag per column); the towers run once for all.
    ///
    /// # Errors
    /// When the batch is not of the model's columns.
    pub fn answer_subsets(&self, batch: &Batch, subsets: &[Vec<bool>]) -> Result<Vec<Answers>> {
        let tape = Tape::inference();
        let cx = Context::inference(&tape, &self.params);
        let features = self.features(&cx, &batch.inputs)?;
        subsets
            .iter()
            .map(|keep| {
                let kept: Vec<Features> =
                    features.iter().zip(keep).map(|(f, k)| if *k { f.clone() } else { f.none() }).collect();
                self.answer_features(&cx, &kept, batch)
            })
            .collect()
    }

    /// The loss that each column alone has, by name, over the samples that
    /// have it; the towers have already run.
    fn losses_alone(&self, cx: &Context<'_>, features: &[Features], batch: &Batch) -> Result<Vec<(String, Var)>> {
        let mut losses = Vec::new();
        for (column, own) in features.iter().enumerate() {
            let mut targets = vec![None; batch.targets.len()];
            for s in own.sample_of.iter().map(|s| *s as usize) {
                targets[s].clone_from(&batch.targets[s]);
            }
            if features.len() < 2 || targets.iter().all(Option::is_none) {
                continue;
            }
            let alone: Vec<Features> =
                features.iter().enumerate().map(|(c, f)| if c == column { f.clone() } else { f.none() }).collect();
            let output = self.model.fuse(cx, &alone, batch.inputs.samples)?;
            let (loss, _) = self.objective.loss(cx.tape, &output.logits, &targets)?;
            losses.push((self.model.config().columns[column].name.clone(), loss));
        }
        Ok(losses)
    }

    fn answer_features(&self, cx: &Context<'_>, features: &[Features], batch: &Batch) -> Result<Answers> {
        let output = self.model.fuse(cx, features, batch.inputs.samples)?;
        let loss = if batch.targets.iter().any(Option::is_some) {
            let (loss, weight) = self.objective.loss(cx.tape, &output.logits, &batch.targets)?;
            Some((f64::from(loss.value().scalar()?), weight))
        } else {
            None
        };
        Ok(Answers { decisions: self.objective.decide(output.logits.value()), loss, gates: output.gates })
    }
}

impl Trainable for Learner {
    type Batch = Batch;

    fn params(&self) -> &Params {
        &self.params
    }

    fn params_mut(&mut self) -> &mut Params {
        &mut self.params
    }

    fn loss(&self, tape: &Tape, batch: &Batch, step: &StepContext) -> std::result::Result<StepLoss, BoxError> {
        if step.training && self.params.iter().any(|(_, p)| p.quantized().is_some()) {
            let problem = "a quantised model cannot be trained: its weights are whole numbers; train the model that it \
                           was made from, and quantise that again";
            return Err(Error::Request(problem.into()).into());
        }
        let cx = if step.training {
            Context::training(tape, &self.params, step.random).checkpointing(self.model.gradient_checkpointing())
        } else {
            Context::inference(tape, &self.params)
        };
        let run = || -> Result<StepLoss> {
            let features = self.features(&cx, &self.model.kept_inputs(&cx, &batch.inputs))?;
            let output = self.model.fuse(&cx, &features, batch.inputs.samples)?;
            let blend = cx.next_random().and_then(|r| Blend::draw(self.objective.mixup, &batch.targets, r));
            let (loss, weight) = match blend {
                Some(blend) => {
                    let logits = self.model.head(&cx, &blend.vectors(tape, &output.vectors)?)?;
                    let classes = self.objective.outputs();
                    let wanted = blend.targets(&batch.targets, classes, self.objective.label_smoothing);
                    let loss = ops::soft_cross_entropy(tape, &logits, wanted.data())?;
                    (loss, batch.targets.len() as f64)
                }
                None => self.objective.loss(tape, &output.logits, &batch.targets)?,
            };
            let alone = match self.model.config().fusion.unimodal_loss {
                share if step.training && share > 0.0 => self.losses_alone(&cx, &features, batch)?,
                _ => Vec::new(),
            };
            let mut parts = Vec::new();
            let mut total = loss;
            if !alone.is_empty() {
                parts.push(("fused".to_owned(), f64::from(total.value().scalar()?)));
            }
            for (column, part) in alone {
                parts.push((column, f64::from(part.value().scalar()?)));
                let part = ops::scale(tape, &part, self.model.config().fusion.unimodal_loss)?;
                total = ops::add(tape, &total, &part)?;
            }
            Ok(StepLoss {
                loss: total,
                parts,
                weight,
                samples: batch.inputs.samples,
                tokens: self.model.tokens(&batch.inputs),
            })
        };
        run().map_err(|e: Error| e.into())
    }
}
