//! The end of an epoch: validation, the best weights, patience.

use super::Run;
use crate::checkpoint::{Named, values};
use crate::contract::{Event, Trainable};
use crate::error::{Result, TrainError};
use crate::record::{EpochRecord, Record};
use crate::state::{Best, better};
use std::collections::BTreeMap;
use std::time::Instant;

impl<M: Trainable> Run<'_, M> {
    pub(super) fn end_epoch(&mut self) -> Result<()> {
        let asked = Instant::now();
        let metrics = self.validate()?;
        let seconds_validating = asked.elapsed().as_secs_f64();
        let best = self.note(&metrics)?;
        let sums = std::mem::take(&mut self.state.sums);
        self.state.epoch += 1;
        self.state.batch = 0;
        let record = EpochRecord {
            epoch: self.state.epoch,
            step: self.state.step,
            train_loss: sums.loss(),
            parts: sums.parts(),
            metrics,
            best,
            samples: sums.samples,
            tokens: sums.tokens,
            seconds: self.seconds(),
            seconds_epoch: std::mem::replace(&mut self.clock.epoch, Instant::now()).elapsed().as_secs_f64(),
            seconds_waiting: std::mem::take(&mut self.clock.waiting),
            seconds_validating,
        };
        self.observer.event(&Event::Epoch(&record));
        if self.config.report_every_epoch
            && let Some(text) = self.judge.report()
        {
            self.observer.event(&Event::Report(&text));
        }
        self.plot("train_epoch", [("loss", record.train_loss)].into_iter())?;
        self.plot("validation", record.metrics.iter().map(|(name, x)| (name.as_str(), *x)))?;
        self.log.append(&Record::Epoch(record))?;
        if self.checkpoint_due() {
            self.checkpoint()?;
        }
        Ok(())
    }

    /// The validation metrics of the weights that would be kept now.
    pub(super) fn validate(&mut self) -> Result<BTreeMap<String, f64>> {
        self.observer.event(&Event::Validating { epoch: self.state.epoch + 1 });
        self.swap_average()?;
        let metrics = self.judge.judge(self.model, self.state.epoch);
        self.swap_average()?;
        metrics.map_err(|e| self.caller("validation", e))
    }

    fn swap_average(&mut self) -> Result<()> {
        let Some(ema) = &mut self.ema else { return Ok(()) };
        ema.swap(self.model.params_mut()).map_err(|source| TrainError::Engine { step: self.state.step, source })
    }

    /// Keeps the weights if they are the best so far, and counts patience.
    fn note(&mut self, metrics: &BTreeMap<String, f64>) -> Result<bool> {
        let rule = &self.config.early_stopping;
        let Some(value) = self.watched(metrics)? else { return Ok(false) };
        self.state.gain.note(rule, value);
        let best = match &self.state.best {
            None => !value.is_nan(),
            Some(best) => better(&rule.metric, value, best.value),
        };
        if best {
            self.state.best = Some(self.best_now(value, metrics));
            self.best_weights = Some(self.kept_weights());
        }
        Ok(best)
    }

    /// The watched metric; None where there is no validation at all.
    pub(super) fn watched(&self, metrics: &BTreeMap<String, f64>) -> Result<Option<f64>> {
        let rule = &self.config.early_stopping;
        match metrics.get(&rule.metric) {
            Some(value) => Ok(Some(*value)),
            None if metrics.is_empty() && rule.patience == 0 => Ok(None),
            None if metrics.is_empty() => {
                Err(TrainError::config("early_stopping.patience", "there is no validation data to watch; set it to 0"))
            }
            None => Err(TrainError::metric(&rule.metric, metrics)),
        }
    }

    pub(super) fn best_now(&self, value: f64, metrics: &BTreeMap<String, f64>) -> Best {
        Best {
            epoch: self.state.epoch + 1,
            step: self.state.step,
            metric: self.config.early_stopping.metric.clone(),
            value,
            metrics: metrics.clone(),
        }
    }

    /// The moving average where there is one, otherwise the weights as they are.
    pub(super) fn kept_weights(&self) -> Named {
        match &self.ema {
            Some(ema) => ema.state(self.model.params()).into_iter().collect(),
            None => values(self.model.params()),
        }
    }
}
