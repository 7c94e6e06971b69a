//! The loop.

use crate::checkpoint::{self, Checkpoint, Named, values};
use crate::config::{OptimizerKind, TrainConfig};
use crate::contract::{Event, Judge, Observer, Source, StepContext, StepLoss, StopFlag, Stopped, Trainable};
use crate::disk::Disk;
use crate::error::{BoxError, Result, TrainError};
use crate::groups::{self, Group};
use crate::log::RunLog;
use crate::record::{EpochRecord, History, Record, SkipRecord, StepRecord};
use crate::schedule::Schedule;
use crate::state::{Best, State, Sums, better, same_settings, settings};
use crate::tensorboard::EventWriter;
use sensorium_engine::optim::{Ema, Hyper, Method, Optimizer, clip_factor, global_norm};
use sensorium_engine::{EngineError, Gradients, Params, Tape, Tensor};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// So many skipped steps in a row are not bad luck any more.
const SKIPS_IN_A_ROW: u32 = 5;

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

/// What one step's batches gave.
struct Gathered {
    gradients: Gradients,
    sums: Sums,
    cause: Option<String>,
}

impl<'a, M: Trainable> Run<'a, M> {
    fn start(
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

    fn train(&mut self) -> Result<Stopped> {
        loop {
            if self.state.gain.exhausted(&self.config.early_stopping) {
                return Ok(Stopped::EarlyStopping);
            }
            if self.state.epoch >= self.config.epochs {
                return Ok(Stopped::Finished);
            }
            if let Some(stopped) = self.epoch()? {
                return Ok(stopped);
            }
            self.end_epoch()?;
            if let Some(stopped) = self.asked_to_stop() {
                return Ok(stopped);
            }
        }
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

    /// The gradients of the next `grad_accumulation` batches, or of those that are left.
    fn group(
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
    fn step(&mut self, group: Gathered, lr: f64) -> Result<()> {
        let Gathered { gradients, sums, cause } = group;
        self.state.step += 1;
        let mean = if self.config.grad_accumulation == 1 { 1.0 } else { 1.0 / sums.weight() };
        let norm = global_norm(&gradients) * mean;
        let cause = cause.or_else(|| match sums.weight() > 0.0 {
            false => Some("no sample of it has a target".into()),
            true => (!norm.is_finite()).then(|| self.culprit(&gradients)),
        });
        if let Some(cause) = cause {
            return self.skip(cause);
        }
        let clip = if self.config.clip_norm > 0.0 { clip_factor(norm, self.config.clip_norm) } else { 1.0 };
        let hyper: Vec<Hyper> =
            self.groups.iter().map(|g| Hyper { lr: lr * g.lr_scale, weight_decay: g.weight_decay }).collect();
        let engine = |source| TrainError::Engine { step: self.state.step, source };
        self.optimizer.step(self.model.params_mut(), &gradients, &hyper, mean * clip).map_err(engine)?;
        drop(gradients);
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

    fn skip(&mut self, cause: String) -> Result<()> {
        self.state.skipped += 1;
        self.state.skipped_in_a_row += 1;
        let record = SkipRecord { step: self.state.step, epoch: self.state.epoch + 1, cause };
        self.observer.event(&Event::Skip(&record));
        let diverged = TrainError::Diverged {
            step: self.state.step,
            in_a_row: self.state.skipped_in_a_row,
            cause: record.cause.clone(),
        };
        self.log.append(&Record::Skip(record))?;
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

    fn end_epoch(&mut self) -> Result<()> {
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
        self.plot("train_epoch", [("loss", record.train_loss)].into_iter())?;
        self.plot("validation", record.metrics.iter().map(|(name, x)| (name.as_str(), *x)))?;
        self.log.append(&Record::Epoch(record))?;
        if self.checkpoint_due() {
            self.checkpoint()?;
        }
        Ok(())
    }

    /// The validation metrics of the weights that would be kept now.
    fn validate(&mut self) -> Result<BTreeMap<String, f64>> {
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
    fn watched(&self, metrics: &BTreeMap<String, f64>) -> Result<Option<f64>> {
        let rule = &self.config.early_stopping;
        match metrics.get(&rule.metric) {
            Some(value) => Ok(Some(*value)),
            None if metrics.is_empty() && rule.patience == 0 => Ok(None),
            None if metrics.is_empty() => {
                Err(TrainError::config("early_stopping.patience", "there is no validation data to watch; set it to 0"))
            }
            None => {
                Err(TrainError::Metric { wanted: rule.metric.clone(), available: metrics.keys().cloned().collect() })
            }
        }
    }

    fn best_now(&self, value: f64, metrics: &BTreeMap<String, f64>) -> Best {
        Best {
            epoch: self.state.epoch + 1,
            step: self.state.step,
            metric: self.config.early_stopping.metric.clone(),
            value,
            metrics: metrics.clone(),
        }
    }

    /// The moving average where there is one, otherwise the weights as they are.
    fn kept_weights(&self) -> Named {
        match &self.ema {
            Some(ema) => ema.state(self.model.params()).into_iter().collect(),
            None => values(self.model.params()),
        }
    }

    /// Puts scalars of the current step before TensorBoard.
    fn plot<'s>(&mut self, section: &str, scalars: impl Iterator<Item = (&'s str, f64)>) -> Result<()> {
        let named: Vec<(String, f64)> = scalars.map(|(name, x)| (format!("{section}/{name}"), x)).collect();
        self.board.scalars(self.state.step, named.iter().map(|(tag, x)| (tag.as_str(), *x)));
        self.board.flush()
    }

    fn checkpoint_due(&self) -> bool {
        let every = &self.config.checkpoint_every;
        let (step, epoch) = self.clock.saved_at.unwrap_or((0, 0));
        (every.steps > 0 && self.state.step >= step + every.steps)
            || (every.epochs > 0 && self.state.batch == 0 && self.state.epoch >= epoch + every.epochs)
            || (every.seconds > 0.0 && self.clock.saved.elapsed().as_secs_f64() >= every.seconds)
    }

    fn checkpoint(&mut self) -> Result<()> {
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

    fn seconds(&self) -> f64 {
        self.clock.before + self.clock.started.elapsed().as_secs_f64()
    }

    fn caller(&self, what: &'static str, source: BoxError) -> TrainError {
        TrainError::Caller { what, epoch: self.state.epoch + 1, step: self.state.step, source }
    }

    /// Writes the last checkpoint and leaves the model with the weights to keep.
    fn finish(mut self, stopped: Stopped) -> Result<Summary> {
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

/// Where a run below `dir` writes its checkpoints.
pub fn checkpoints_dir(dir: &Path) -> PathBuf {
    dir.join("checkpoints")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{CheckpointEvery, EarlyStopping, ScheduleKind};
    use crate::contract::NoJudge;
    use crate::fixture::{Data, Net, SAMPLES, Validation, config, log_lines, options, train};

    fn run(dir: &Path, config: &TrainConfig, resume: bool) -> (Net, Summary) {
        let trainer = Trainer::new(config.clone(), options(dir, resume)).expect("valid");
        let (net, summary) = train(&trainer, config);
        (net, summary.expect("trains"))
    }

    fn uninterrupted(config: &TrainConfig) -> (Vec<u32>, Vec<String>) {
        let dir = tempfile::tempdir().expect("dir");
        let (net, _) = run(dir.path(), config, false);
        (net.bits(), log_lines(dir.path()))
    }

    #[test]
    fn the_loss_falls_and_the_model_ends_with_its_best_weights() {
        let dir = tempfile::tempdir().expect("dir");
        let config = TrainConfig { epochs: 30, ..config() };
        let (net, summary) = run(dir.path(), &config, false);
        let best = summary.best.expect("validated");
        let first = summary.history.epochs[0].metrics["loss"];
        assert!(best.value < 0.3 * first, "{} after {first}", best.value);
        assert_eq!(Validation(SAMPLES).judge(&net, 0).expect("loss")["loss"], best.value);
        assert_eq!(summary.stopped, Stopped::Finished);
        // 70 samples in batches of 8 are 9 batches, two by two 5 steps.
        assert_eq!((summary.steps, summary.epochs, summary.history.steps.len()), (150, 30, 150));
    }

    #[test]
    fn a_crash_at_any_operation_on_the_disk_changes_nothing() {
        let config = TrainConfig { epochs: 2, ..config() };
        let (bits, lines) = uninterrupted(&config);
        let mut crashes = 0;
        loop {
            let dir = tempfile::tempdir().expect("dir");
            let mut trainer = Trainer::new(config.clone(), options(dir.path(), false)).expect("valid");
            trainer.disk.fuse = Some(std::cell::Cell::new(crashes));
            let (_, summary) = train(&trainer, &config);
            if summary.is_ok() {
                break;
            }
            let (net, _) = run(dir.path(), &config, true);
            assert_eq!(net.bits(), bits, "weights after a crash at operation {crashes}");
            assert_eq!(log_lines(dir.path()), lines, "losses after a crash at operation {crashes}");
            crashes += 1;
        }
        assert!(crashes > 50, "{crashes} operations are too few to have tried them all");
    }

    #[test]
    fn a_second_crash_while_resuming_changes_nothing() {
        let config = TrainConfig { epochs: 2, ..config() };
        let (bits, lines) = uninterrupted(&config);
        for first in [17, 40] {
            for second in 0..16 {
                let dir = tempfile::tempdir().expect("dir");
                for (resume, fuse) in [(false, first), (true, second)] {
                    let mut trainer = Trainer::new(config.clone(), options(dir.path(), resume)).expect("valid");
                    trainer.disk.fuse = Some(std::cell::Cell::new(fuse));
                    assert!(train(&trainer, &config).1.is_err());
                }
                let (net, _) = run(dir.path(), &config, true);
                assert_eq!(net.bits(), bits, "weights after crashes at {first} and {second}");
                assert_eq!(log_lines(dir.path()), lines);
            }
        }
    }

    #[test]
    fn another_seed_gives_other_bits() {
        let other = TrainConfig { seed: 1, ..config() };
        assert_ne!(uninterrupted(&config()).0, uninterrupted(&other).0);
    }

    #[test]
    fn interrupted_and_resumed_is_as_never_interrupted() {
        struct StopAt(u64, StopFlag);
        impl Observer for StopAt {
            fn event(&mut self, event: &Event<'_>) {
                if matches!(event, Event::Step(s) if s.step == self.0) {
                    self.1.raise();
                }
            }
        }
        for kind in [OptimizerKind::AdamW, OptimizerKind::Adam, OptimizerKind::Sgd] {
            let config = TrainConfig { optimizer: kind, checkpoint_every: rarely(), ..config() };
            let (bits, lines) = uninterrupted(&config);
            // Within an epoch, and at its last step, before its validation.
            for at in [3, 5, 10] {
                let dir = tempfile::tempdir().expect("dir");
                let stop = StopFlag::new();
                let interrupted = RunOptions { stop: stop.clone(), ..options(dir.path(), false) };
                let trainer = Trainer::new(config.clone(), interrupted).expect("valid");
                let (mut net, source) = (Net::new(config.seed, 20), Data::new(&config, SAMPLES));
                let summary = trainer
                    .run(&mut net, &source, &mut Validation(SAMPLES), &mut StopAt(at, stop))
                    .expect("stops cleanly");
                assert_eq!((summary.stopped, summary.steps), (Stopped::Interrupted, at));
                let (net, summary) = run(dir.path(), &config, true);
                assert_eq!((net.bits(), summary.stopped), (bits.clone(), Stopped::Finished));
                assert_eq!(log_lines(dir.path()), lines);
                // Once more: there is nothing left to do, and the same comes out.
                assert_eq!(run(dir.path(), &config, true).0.bits(), bits);
                assert_eq!(log_lines(dir.path()), lines);
            }
        }
    }

    #[test]
    fn best_weights_from_before_the_interruption_are_kept() {
        // By this metric the first epoch is the best.
        let early_stopping = EarlyStopping { metric: "epoch_error".into(), ..EarlyStopping::default() };
        let config = TrainConfig { early_stopping, ..config() };
        let (bits, lines) = uninterrupted(&config);
        assert_ne!(bits, uninterrupted(&TrainConfig { early_stopping: EarlyStopping::default(), ..config.clone() }).0);
        for fuse in [45, 60, 70] {
            let dir = tempfile::tempdir().expect("dir");
            let mut trainer = Trainer::new(config.clone(), options(dir.path(), false)).expect("valid");
            trainer.disk.fuse = Some(std::cell::Cell::new(fuse));
            assert!(train(&trainer, &config).1.is_err());
            let (net, summary) = run(dir.path(), &config, true);
            assert_eq!(summary.best.map(|b| b.epoch), Some(1));
            assert_eq!(net.bits(), bits, "after a crash at operation {fuse}");
            assert_eq!(log_lines(dir.path()), lines);
        }
    }

    fn rarely() -> CheckpointEvery {
        CheckpointEvery { seconds: 0.0, steps: 0, epochs: 0 }
    }

    #[test]
    fn the_number_of_threads_changes_no_bit() {
        let config = TrainConfig { batch_size: 256, epochs: 2, ..config() };
        let bits = |threads| {
            let config = config.clone();
            sensorium_engine::with_threads(threads, move || {
                let dir = tempfile::tempdir().expect("dir");
                let trainer = Trainer::new(config.clone(), options(dir.path(), false)).expect("valid");
                let (mut net, source) = (Net::new(0, 600), Data::new(&config, 1000));
                trainer.run(&mut net, &source, &mut Validation(1000), &mut ()).expect("trains");
                net.bits()
            })
            .expect("threads")
        };
        let one = bits(1);
        assert_eq!(one, bits(2));
        assert_eq!(one, bits(4));
    }

    #[test]
    fn accumulated_batches_are_one_large_batch() {
        // No dropout differs between the two: it is drawn per batch, so it is trained away
        // from here by comparing the first step's gradient norm on a model without it.
        let accumulated = TrainConfig { batch_size: 8, grad_accumulation: 9, epochs: 1, ..config() };
        let large = TrainConfig { batch_size: 72, grad_accumulation: 1, ..accumulated.clone() };
        let norm = |config: &TrainConfig| {
            struct Plain(Net);
            impl Trainable for Plain {
                type Batch = crate::fixture::Pair;
                fn params(&self) -> &Params {
                    self.0.params()
                }
                fn params_mut(&mut self) -> &mut Params {
                    self.0.params_mut()
                }
                fn loss(
                    &self,
                    tape: &Tape,
                    batch: &Self::Batch,
                    cx: &StepContext,
                ) -> std::result::Result<StepLoss, BoxError> {
                    self.0.loss(tape, batch, &StepContext { training: false, ..*cx })
                }
            }
            let dir = tempfile::tempdir().expect("dir");
            let trainer = Trainer::new(config.clone(), options(dir.path(), false)).expect("valid");
            let mut net = Plain(Net::new(0, 20));
            let summary = trainer.run(&mut net, &Data::new(config, SAMPLES), &mut NoJudge, &mut ()).expect("trains");
            assert_eq!(summary.steps, 1);
            (summary.history.steps[0].grad_norm, summary.history.steps[0].loss)
        };
        // The last of the nine batches has 6 samples, the others 8: they must not count alike.
        let (a, b) = (norm(&accumulated), norm(&large));
        assert!((a.0 / b.0 - 1.0).abs() < 1e-5 && (a.1 / b.1 - 1.0).abs() < 1e-6, "{a:?}, {b:?}");
    }

    #[test]
    fn poisoned_steps_are_skipped_and_five_in_a_row_stop_the_run() {
        let config = TrainConfig { grad_accumulation: 1, epochs: 2, ..config() };
        let attempt = |poisoned| {
            let dir = tempfile::tempdir().expect("dir");
            let trainer = Trainer::new(config.clone(), options(dir.path(), false)).expect("valid");
            let mut net = Net::new(0, 20);
            let source = Data { poisoned, ..Data::new(&config, SAMPLES) };
            let summary = trainer.run(&mut net, &source, &mut Validation(SAMPLES), &mut ());
            (summary, net.bits())
        };
        let (summary, bits) = attempt(2..6);
        let summary = summary.expect("four in a row are borne");
        assert_eq!((summary.steps, summary.skipped, summary.history.skips.len()), (18, 8, 8));
        assert!(bits.iter().all(|b| f32::from_bits(*b).is_finite()));
        let error = attempt(2..7).0.expect_err("five in a row").to_string();
        assert!(error.contains("5 steps in a row were skipped up to step 7") && error.contains("NaN"), "{error}");
    }

    #[test]
    fn patience_ends_the_run_and_the_best_epoch_is_kept() {
        let early_stopping = EarlyStopping { metric: "one_minus".into(), patience: 2, min_gain: 10.0 };
        let dir = tempfile::tempdir().expect("dir");
        let (_, summary) = run(dir.path(), &TrainConfig { early_stopping, epochs: 9, ..config() }, false);
        // No epoch gains 10, so the first is the reference and two more are patience.
        assert_eq!((summary.stopped, summary.epochs), (Stopped::EarlyStopping, 3));
        let values: Vec<f64> = summary.history.epochs.iter().map(|e| e.metrics["one_minus"]).collect();
        assert_eq!(summary.best.expect("best").value, values.iter().copied().fold(f64::MIN, f64::max));
    }

    #[test]
    fn a_metric_that_is_not_measured_is_named() {
        let early_stopping = EarlyStopping { metric: "accuracy".into(), ..EarlyStopping::default() };
        let dir = tempfile::tempdir().expect("dir");
        let config = TrainConfig { early_stopping, ..config() };
        let trainer = Trainer::new(config.clone(), options(dir.path(), false)).expect("valid");
        let error = train(&trainer, &config).1.expect_err("no such metric").to_string();
        assert!(error.contains("`accuracy` is not measured here; available: epoch_error, loss, one_minus"), "{error}");
    }

    #[test]
    fn the_time_limit_stops_with_a_checkpoint_to_resume_from() {
        let config = TrainConfig { checkpoint_every: rarely(), ..config() };
        let (bits, lines) = uninterrupted(&config);
        let dir = tempfile::tempdir().expect("dir");
        let hurried = RunOptions { time_limit: Some(Duration::ZERO), ..options(dir.path(), false) };
        let (_, summary) = train(&Trainer::new(config.clone(), hurried).expect("valid"), &config);
        let summary = summary.expect("stops cleanly");
        assert_eq!((summary.stopped, summary.steps), (Stopped::TimeLimit, 1));
        assert_eq!(summary.best.expect("judged at the end").step, 1);
        assert_eq!(run(dir.path(), &config, true).0.bits(), bits);
        assert_eq!(log_lines(dir.path()), lines);
    }

    #[test]
    fn a_run_is_not_overwritten_and_not_resumed_under_other_settings() {
        let dir = tempfile::tempdir().expect("dir");
        run(dir.path(), &config(), false);
        let attempt = |config: TrainConfig, resume, identity: &str| {
            let options = RunOptions { identity: identity.into(), ..options(dir.path(), resume) };
            train(&Trainer::new(config.clone(), options).expect("valid"), &config).1
        };
        assert!(matches!(attempt(config(), false, ""), Err(TrainError::RunExists { .. })));
        for (changed, key) in [
            (TrainConfig { seed: 9, ..config() }, "train.seed was 0, is now 9"),
            (TrainConfig { batch_size: 4, ..config() }, "train.batch_size was 8, is now 4"),
            (TrainConfig { lr: 0.5, ..config() }, "train.lr was 0.02, is now 0.5"),
            (TrainConfig { schedule: ScheduleKind::Linear, ..config() }, "train.schedule"),
        ] {
            let error = attempt(changed, true, "").expect_err(key).to_string();
            assert!(error.contains(key), "{error}");
        }
        assert!(matches!(attempt(config(), true, "other data"), Err(TrainError::Changed { .. })));
        let mut other = Net::new(0, 21);
        let trainer = Trainer::new(config(), options(dir.path(), true)).expect("valid");
        let error = trainer.run(&mut other, &Data::new(&config(), SAMPLES), &mut NoJudge, &mut ());
        assert!(
            error.expect_err("other shapes").to_string().contains("model.encoder.layer.0.bias was [20], is now [21]")
        );
        let (_, summary) = run(dir.path(), &TrainConfig { epochs: 5, ..config() }, true);
        assert_eq!(summary.epochs, 5);
    }

    #[test]
    fn a_checkpoint_damaged_later_is_passed_over_for_the_one_before() {
        struct Heard(usize);
        impl Observer for Heard {
            fn event(&mut self, event: &Event<'_>) {
                self.0 += usize::from(matches!(event, Event::DamagedCheckpoint { .. }));
            }
        }
        let (bits, lines) = uninterrupted(&config());
        let dir = tempfile::tempdir().expect("dir");
        run(dir.path(), &config(), false);
        let root = checkpoints_dir(dir.path());
        let newest = root.join(std::fs::read_to_string(root.join("latest")).expect("latest"));
        std::fs::write(newest.join("optimizer.safetensors"), b"torn").expect("write");
        let trainer = Trainer::new(config(), options(dir.path(), true)).expect("valid");
        let (mut net, mut heard) = (Net::new(0, 20), Heard(0));
        trainer
            .run(&mut net, &Data::new(&config(), SAMPLES), &mut Validation(SAMPLES), &mut heard)
            .expect("goes on from the one before");
        assert_eq!((net.bits(), log_lines(dir.path()), heard.0), (bits, lines, 1));
    }
}
