//! The loop.
//!
//! [`Trainer::run`] starts a run or resumes it (`lifecycle.rs`), then takes steps until an
//! epoch is through (`step.rs`), validates and decides what to keep (`epoch_end.rs`), and
//! writes checkpoints on the way.

mod epoch_end;
mod lifecycle;
mod step;
#[cfg(test)]
mod tests;

use crate::checkpoint::{self, Checkpoint, Named};
use crate::config::TrainConfig;
use crate::contract::{Judge, Observer, Source, StopFlag, Stopped, Trainable};
use crate::disk::Disk;
use crate::error::{BoxError, Result, TrainError};
use crate::groups::Group;
use crate::log::RunLog;
use crate::record::History;
use crate::schedule::Schedule;
use crate::state::{Best, State, same_settings, settings};
use crate::tensorboard::EventWriter;
use sensorium_engine::optim::{Ema, Optimizer};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// What a run is told besides its configuration.
#[derive(Debug, Clone, Default)]
pub struct RunOptions {
    /// Where `checkpoints/`, `metrics.jsonl` and `tensorboard/` are written.
    pub dir: PathBuf,
    /// Whether to go on from the newest checkpoint there; without one the run starts anew.
    pub resume: bool,
    /// How long this call may train.
    pub time_limit: Option<Duration>,
    /// Stops the run after the current step when raised.
    pub stop: StopFlag,
    /// Whatever else determines the run (data, model, task): compared when resuming.
    pub identity: serde_json::Value,
}

/// What a run came to.
#[derive(Debug, Clone)]
pub struct Summary {
    /// Why it stopped.
    pub stopped: Stopped,
    /// The steps begun, skipped ones included.
    pub steps: u64,
    /// The steps skipped.
    pub skipped: u64,
    /// The epochs done.
    pub epochs: u64,
    /// Seconds spent, those before a resumption included.
    pub seconds: f64,
    /// Which weights the model now has: those that validated best; None for the last ones.
    pub best: Option<Best>,
    /// The whole run, for learning curves.
    pub history: History,
}

/// Trains models under one configuration.
#[derive(Debug)]
pub struct Trainer {
    config: TrainConfig,
    options: RunOptions,
    pub(crate) disk: Disk,
}

impl Trainer {
    /// A trainer for a valid configuration.
    ///
    /// # Errors
    /// When a setting is out of range.
    pub fn new(config: TrainConfig, options: RunOptions) -> Result<Self> {
        config.validate()?;
        Ok(Self { config, options, disk: Disk::default() })
    }

    /// Finds out before anything is written what [`Trainer::run`] would refuse later: a
    /// checkpoint of another run, and a metric to watch that is not measured. For that, the
    /// model is validated as it is, unless what is watched is the loss.
    ///
    /// # Errors
    /// When the checkpoint belongs to another run, or none can be read; when validation fails
    /// or has no such metric.
    pub fn check<M: Trainable>(&self, model: &M, judge: &mut dyn Judge<M>) -> Result<()> {
        if self.options.resume
            && let Some((path, then)) = Checkpoint::settings(&checkpoints_dir(&self.options.dir))?
        {
            let now = settings(&self.config, &self.options.identity, model.params());
            same_settings(&path, &then, &now)?;
        }
        let wanted = &self.config.early_stopping.metric;
        if wanted == "loss" {
            return Ok(());
        }
        let metrics = judge.judge(model, 0);
        let metrics = metrics.map_err(|source| TrainError::Caller { what: "validation", epoch: 1, step: 0, source })?;
        if metrics.is_empty() || metrics.contains_key(wanted) {
            return Ok(());
        }
        Err(TrainError::metric(wanted, &metrics))
    }

    /// Trains a model until the last epoch, early stopping, the time limit or the stop flag.
    ///
    /// Afterwards the model has the weights that validated best (their moving average, with
    /// [`TrainConfig::ema`]), or the last ones where nothing was validated; after an
    /// interruption it has the last ones, and a checkpoint of them is written.
    ///
    /// Resuming repeats the uninterrupted run bit for bit: the same losses in
    /// `metrics.jsonl`, the same weights.
    ///
    /// # Errors
    /// When the model, the data, the validation or the disk fails, when training diverges,
    /// or when the directory holds another run.
    pub fn run<M: Trainable>(
        &self,
        model: &mut M,
        source: &dyn Source<M::Batch>,
        judge: &mut dyn Judge<M>,
        observer: &mut dyn Observer,
    ) -> Result<Summary> {
        let mut run = Run::start(self, model, source, judge, observer)?;
        let stopped = run.train()?;
        run.finish(stopped)
    }
}

/// Where a run below `dir` writes its checkpoints.
pub fn checkpoints_dir(dir: &Path) -> PathBuf {
    dir.join("checkpoints")
}

/// Whether a run below `dir` has written a checkpoint, whole or not.
///
/// # Errors
/// When the directory cannot be listed.
pub fn has_checkpoint(dir: &Path) -> Result<bool> {
    checkpoint::exists(&checkpoints_dir(dir))
}

/// One run under way.
struct Run<'a, M: Trainable> {
    config: &'a TrainConfig,
    options: &'a RunOptions,
    disk: &'a Disk,
    root: PathBuf,
    model: &'a mut M,
    source: &'a dyn Source<M::Batch>,
    judge: &'a mut dyn Judge<M>,
    observer: &'a mut dyn Observer,
    groups: Vec<Group>,
    optimizer: Optimizer,
    ema: Option<Ema>,
    best_weights: Option<Named>,
    state: State,
    log: RunLog,
    board: EventWriter,
    schedule: Schedule,
    steps_per_epoch: u64,
    clock: Clock,
}

/// What the time was.
struct Clock {
    started: Instant,
    /// Seconds of the run before this call.
    before: f64,
    saved: Instant,
    /// When the epoch began, or was resumed.
    epoch: Instant,
    /// Steps and epochs done at the last checkpoint; None before the first.
    saved_at: Option<(u64, u64)>,
    waiting: f64,
}

impl<M: Trainable> Run<'_, M> {
    fn train(&mut self) -> Result<Stopped> {
        // A finished run that is resumed has nothing to do.
        if let Some(stopped) = self.over() {
            return Ok(stopped);
        }
        loop {
            if let Some(stopped) = self.epoch()? {
                return Ok(stopped);
            }
            self.end_epoch()?;
            if let Some(stopped) = self.over().or_else(|| self.asked_to_stop()) {
                return Ok(stopped);
            }
        }
    }

    /// Whether there is nothing left to train.
    fn over(&self) -> Option<Stopped> {
        if self.state.gain.exhausted(&self.config.early_stopping) {
            return Some(Stopped::EarlyStopping);
        }
        (self.state.epoch >= self.config.epochs).then_some(Stopped::Finished)
    }

    /// Trains to the end of the epoch, or until asked to stop.
    fn epoch(&mut self) -> Result<Option<Stopped>> {
        let source = self.source;
        let batches = source.batches(self.state.epoch);
        if batches == 0 {
            return Err(TrainError::NoBatches);
        }
        let mut iterator = source.epoch(self.state.epoch, self.state.batch);
        loop {
            let first = self.state.batch;
            let Some(group) = self.group(&mut iterator)? else { return Ok(None) };
            self.step(group, self.rate(first, batches))?;
            if let Some(stopped) = self.asked_to_stop() {
                return Ok(Some(stopped));
            }
            // At the end of the epoch the checkpoint waits for the validation.
            if self.state.batch < batches && self.checkpoint_due() {
                self.checkpoint()?;
            }
        }
    }

    fn asked_to_stop(&self) -> Option<Stopped> {
        if self.options.stop.is_raised() {
            return Some(Stopped::Interrupted);
        }
        let limit = self.options.time_limit?;
        (self.clock.started.elapsed() >= limit).then_some(Stopped::TimeLimit)
    }

    /// The learning rate of the step that begins with a batch of the epoch. Epochs count
    /// as equally long, so that the schedule ends where the last one ends even if token
    /// budgets make their numbers of batches differ.
    fn rate(&self, batch: usize, batches: usize) -> f64 {
        let accumulation = self.config.grad_accumulation;
        let here = batches.div_ceil(accumulation) as f64;
        let within = (batch / accumulation) as f64 * (self.steps_per_epoch as f64 / here);
        self.config.lr * self.schedule.factor((self.state.epoch * self.steps_per_epoch) as f64 + within)
    }

    /// Puts scalars of the current step before TensorBoard.
    fn plot<'s>(&mut self, section: &str, scalars: impl Iterator<Item = (&'s str, f64)>) -> Result<()> {
        let named: Vec<(String, f64)> = scalars.map(|(name, x)| (format!("{section}/{name}"), x)).collect();
        self.board.scalars(self.state.step, named.iter().map(|(tag, x)| (tag.as_str(), *x)));
        self.board.flush()
    }

    fn seconds(&self) -> f64 {
        self.clock.before + self.clock.started.elapsed().as_secs_f64()
    }

    fn caller(&self, what: &'static str, source: BoxError) -> TrainError {
        TrainError::Caller { what, epoch: self.state.epoch + 1, step: self.state.step, source }
    }
}
