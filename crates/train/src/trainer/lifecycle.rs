//! How a run begins, is saved, and ends.

use super::{Clock, Run, Summary, Trainer, checkpoints_dir};
use crate::checkpoint::{self, Checkpoint, Named, values};
use crate::config::{OptimizerKind, TrainConfig};
use crate::contract::{Event, Judge, Observer, Source, Stopped, Trainable};
use crate::error::{Result, TrainError};
use crate::groups;
use crate::log::RunLog;
use crate::record::History;
use crate::schedule::Schedule;
use crate::state::{State, better, same_settings, settings};
use crate::tensorboard::EventWriter;
use sensorium_engine::Params;
use sensorium_engine::optim::{Ema, Method, Optimizer};
use std::time::Instant;

impl<'a, M: Trainable> Run<'a, M> {
    pub(super) fn start(
        trainer: &'a Trainer,
        model: &'a mut M,
        source: &'a dyn Source<M::Batch>,
        judge: &'a mut dyn Judge<M>,
        observer: &'a mut dyn Observer,
    ) -> Result<Self> {
        let Trainer { config, options, disk } = trainer;
        let root = checkpoints_dir(&options.dir);
        if !options.resume && checkpoint::exists(&root)? {
            return Err(TrainError::RunExists { path: options.dir.clone() });
        }
        let groups = groups::assign(config, model.params_mut())?;
        let settings = settings(config, &options.identity, model.params());
        let engine = |source| TrainError::Engine { step: 0, source };
        let mut optimizer = Optimizer::new(method(config)).map_err(engine)?;
        let mut ema = (config.ema > 0.0).then(|| Ema::new(model.params()));
        let found = if options.resume {
            Checkpoint::newest(&root, |path, problem| observer.event(&Event::DamagedCheckpoint { path, problem }))?
        } else {
            None
        };
        let resumed = found.is_some();
        let mut best_weights = None;
        let state = match found {
            None => State { settings, ..State::default() },
            Some((path, checkpoint)) => {
                same_settings(&path, &checkpoint.state.settings, &settings)?;
                restore(model.params_mut(), checkpoint.model);
                let listed = |named: Named| named.into_iter().collect::<Vec<_>>();
                optimizer.load_state(model.params(), &listed(checkpoint.optimizer)).map_err(engine)?;
                if let (Some(ema), Some(state)) = (&mut ema, checkpoint.ema) {
                    ema.load_state(model.params(), &listed(state)).map_err(engine)?;
                }
                best_weights = checkpoint.best;
                State { settings, ..checkpoint.state }
            }
        };
        disk.create_dir(&options.dir)?;
        let log = RunLog::open(&options.dir.join("metrics.jsonl"), state.log_bytes)?;
        // What an earlier process wrote of steps after the checkpoint is to be forgotten.
        let purge_from = if resumed { state.step + 1 } else { 0 };
        let board = EventWriter::create(&options.dir.join("tensorboard"), purge_from)?;
        let steps_per_epoch = source.batches(0).div_ceil(config.grad_accumulation) as u64;
        observer.event(&Event::Start {
            epochs: config.epochs,
            steps_per_epoch,
            resumed: resumed.then_some(state.step),
        });
        let now = Instant::now();
        let saved_at = resumed.then_some((state.step, state.epoch));
        Ok(Self {
            schedule: Schedule::new(config, steps_per_epoch * config.epochs),
            clock: Clock { started: now, before: state.seconds, saved: now, epoch: now, saved_at, waiting: 0.0 },
            config,
            options,
            disk,
            root,
            model,
            source,
            judge,
            observer,
            groups,
            optimizer,
            ema,
            best_weights,
            state,
            log,
            board,
            steps_per_epoch,
        })
    }

    pub(super) fn checkpoint_due(&self) -> bool {
        let every = &self.config.checkpoint_every;
        let (step, epoch) = self.clock.saved_at.unwrap_or((0, 0));
        (every.steps > 0 && self.state.step >= step + every.steps)
            || (every.epochs > 0 && self.state.batch == 0 && self.state.epoch >= epoch + every.epochs)
            || (every.seconds > 0.0 && self.clock.saved.elapsed().as_secs_f64() >= every.seconds)
    }

    pub(super) fn checkpoint(&mut self) -> Result<()> {
        self.state.log_bytes = self.log.sync()?;
        self.state.seconds = self.seconds();
        let checkpoint = Checkpoint {
            state: self.state.clone(),
            model: values(self.model.params()),
            optimizer: self.optimizer.state(self.model.params()).into_iter().collect(),
            ema: self.ema.as_ref().map(|ema| ema.state(self.model.params()).into_iter().collect()),
            best: self.best_weights.clone(),
        };
        let path = checkpoint.save(self.disk, &self.root, self.config.keep_checkpoints)?;
        self.clock.saved = Instant::now();
        self.clock.saved_at = Some((self.state.step, self.state.epoch));
        self.observer.event(&Event::Checkpoint { path: &path, step: self.state.step });
        Ok(())
    }

    /// Writes the last checkpoint and leaves the model with the weights to keep.
    pub(super) fn finish(mut self, stopped: Stopped) -> Result<Summary> {
        if self.clock.saved_at != Some((self.state.step, self.state.epoch)) {
            self.checkpoint()?;
        }
        let mut best = self.state.best.clone();
        if stopped == Stopped::TimeLimit && self.state.batch > 0 {
            // The time ran out within an epoch: is what it learned worth keeping? The
            // answer is not part of the checkpoint, an uninterrupted run would not know it.
            let metrics = self.validate()?;
            if let Some(value) = self.watched(&metrics)?
                && best.as_ref().is_none_or(|b| better(&b.metric, value, b.value))
            {
                best = Some(self.best_now(value, &metrics));
                self.best_weights = None;
            }
        }
        if stopped == Stopped::Interrupted {
            best = None;
        } else {
            let weights = self.best_weights.take().unwrap_or_else(|| self.kept_weights());
            restore(self.model.params_mut(), weights);
        }
        self.observer.event(&Event::Stop(stopped));
        Ok(Summary {
            stopped,
            steps: self.state.step,
            skipped: self.state.skipped,
            epochs: self.state.epoch,
            seconds: self.seconds(),
            best,
            history: History::read(&self.options.dir.join("metrics.jsonl"))?,
        })
    }
}

fn method(config: &TrainConfig) -> Method {
    let betas = (config.betas[0], config.betas[1]);
    match config.optimizer {
        OptimizerKind::AdamW => Method::AdamW { betas, eps: config.eps },
        OptimizerKind::Adam => Method::Adam { betas, eps: config.eps },
        OptimizerKind::Sgd => Method::Sgd { momentum: config.momentum, nesterov: false },
    }
}

/// Gives parameters the values saved under their names; the shapes are known to be equal.
fn restore(params: &mut Params, mut saved: Named) {
    for (_, p) in params.iter_mut() {
        if let Some(value) = saved.remove(&p.name) {
            p.value = value;
        }
    }
}
