//! One step: the gradients of its batches, and what is made of them.

use super::Run;
use crate::contract::{Event, StepContext, StepLoss, Trainable};
use crate::error::{BoxError, Result, TrainError};
use crate::record::{Record, SkipRecord, StepRecord};
use crate::state::Sums;
use sensorium_engine::optim::{Hyper, clip_factor, global_norm};
use sensorium_engine::{EngineError, Gradients, Tape, Tensor};
use std::time::Instant;

/// So many skipped steps in a row are not bad luck any more.
const SKIPS_IN_A_ROW: u32 = 5;

/// What one step's batches gave.
pub(super) struct Gathered {
    gradients: Gradients,
    sums: Sums,
    cause: Option<String>,
}

impl<M: Trainable> Run<'_, M> {
    /// The gradients of the next `grad_accumulation` batches, or of those that are left.
    pub(super) fn group(
        &mut self,
        batches: &mut dyn Iterator<Item = std::result::Result<M::Batch, BoxError>>,
    ) -> Result<Option<Gathered>> {
        let mut group = Gathered { gradients: Gradients::none(), sums: Sums::default(), cause: None };
        let accumulation = self.config.grad_accumulation;
        for micro in 0..accumulation {
            let asked = Instant::now();
            let next = batches.next();
            self.clock.waiting += asked.elapsed().as_secs_f64();
            let Some(batch) = next else {
                if micro == 0 {
                    return Ok(None);
                }
                break;
            };
            let batch = batch.map_err(|e| self.caller("the training data", e))?;
            let cx = StepContext::training(self.config.seed, self.state.epoch, self.state.step, micro as u64);
            let tape = Tape::new();
            let out = self.model.loss(&tape, &batch, &cx).map_err(|e| self.caller("the model", e))?;
            drop(batch);
            self.state.batch += 1;
            self.add(&mut group, tape, out).map_err(|source| TrainError::Engine { step: self.state.step, source })?;
        }
        Ok(Some(group))
    }

    /// Adds one batch's loss and gradients to those of the step.
    fn add(&self, group: &mut Gathered, tape: Tape, out: StepLoss) -> std::result::Result<(), EngineError> {
        group.sums.samples += out.samples as u64;
        group.sums.tokens += out.tokens as u64;
        let loss = f64::from(out.loss.value().scalar()?);
        if out.weight == 0.0 {
            // Nothing in this batch has a target: it says nothing about the loss.
            return Ok(());
        }
        if !(loss.is_finite() && out.weight.is_finite() && out.weight > 0.0) {
            group.cause.get_or_insert_with(|| format!("the loss was {loss} over a weight of {}", out.weight));
            return Ok(());
        }
        if group.cause.is_some() {
            return Ok(());
        }
        group.sums.add(loss, &out.parts, out.weight);
        // A single batch keeps its gradients as they are; several are summed by weight
        // and divided by the total in the update.
        let start = if self.config.grad_accumulation == 1 { 1.0 } else { out.weight as f32 };
        let gradients = tape.backward_from(&out.loss, Tensor::full(out.loss.value().dims(), start))?;
        group.gradients.accumulate(gradients);
        Ok(())
    }

    /// Updates the parameters, or skips the step if its gradients are not finite.
    pub(super) fn step(&mut self, group: Gathered, lr: f64) -> Result<()> {
        let Gathered { gradients, sums, cause } = group;
        self.state.step += 1;
        let mean = if self.config.grad_accumulation == 1 { 1.0 } else { 1.0 / sums.weight() };
        let norm = global_norm(&gradients) * mean;
        if cause.is_none() && sums.weight() == 0.0 {
            // Nothing to learn from is no fault of the numbers: it does not count as one.
            return self.pass("no sample of it has a target".into());
        }
        let cause = cause.or_else(|| (!norm.is_finite()).then(|| self.culprit(&gradients)));
        if let Some(cause) = cause {
            return self.skip(cause);
        }
        let clip = if self.config.clip_norm > 0.0 { clip_factor(norm, self.config.clip_norm) } else { 1.0 };
        let hyper: Vec<Hyper> =
            self.groups.iter().map(|g| Hyper { lr: lr * g.lr_scale, weight_decay: g.weight_decay }).collect();
        let engine = |source| TrainError::Engine { step: self.state.step, source };
        self.optimizer.step(self.model.params_mut(), &gradients, &hyper, mean * clip).map_err(engine)?;
        drop(gradients);
        self.model.after_update();
        self.state.updates += 1;
        self.state.skipped_in_a_row = 0;
        if let Some(ema) = &mut self.ema {
            // The average forgets the start faster than `ema` alone would let it.
            let updates = self.state.updates as f64;
            let decay = self.config.ema.min((1.0 + updates) / (10.0 + updates));
            ema.update(self.model.params(), decay).map_err(engine)?;
        }
        let record = StepRecord {
            step: self.state.step,
            epoch: self.state.epoch + 1,
            loss: sums.loss(),
            parts: sums.parts(),
            lr,
            grad_norm: norm,
            samples: sums.samples,
            tokens: sums.tokens,
        };
        self.state.sums.absorb(&sums);
        self.observer.event(&Event::Step(&record));
        let scalars = [("loss", record.loss), ("lr", record.lr), ("grad_norm", record.grad_norm)];
        self.plot("train", scalars.into_iter().chain(record.parts.iter().map(|(name, x)| (name.as_str(), *x))))?;
        self.log.append(&Record::Step(record))
    }

    /// Notes a step that changes nothing.
    fn pass(&mut self, cause: String) -> Result<()> {
        let record = SkipRecord { step: self.state.step, epoch: self.state.epoch + 1, cause };
        self.observer.event(&Event::Skip(&record));
        self.log.append(&Record::Skip(record))
    }

    fn skip(&mut self, cause: String) -> Result<()> {
        self.state.skipped += 1;
        self.state.skipped_in_a_row += 1;
        let diverged = TrainError::Diverged {
            step: self.state.step,
            in_a_row: self.state.skipped_in_a_row,
            cause: cause.clone(),
            saved: self.clock.saved_at.is_some(),
        };
        self.pass(cause)?;
        if self.state.skipped_in_a_row >= SKIPS_IN_A_ROW { Err(diverged) } else { Ok(()) }
    }

    /// Says which gradient is not finite.
    fn culprit(&self, gradients: &Gradients) -> String {
        let bad = gradients.params().find(|(_, g)| g.data().iter().any(|x| !x.is_finite()));
        match bad {
            Some((id, _)) => format!("the gradient of {} was not finite", self.model.params().get(id).name),
            None => "the gradients were too large to measure".into(),
        }
    }
}
