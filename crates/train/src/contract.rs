//! What the loop asks of the model, the data, the validation and whoever watches.

use crate::error::BoxError;
use crate::record::{EpochRecord, SkipRecord, StepRecord};
use sensorium_engine::{Params, Random, Tape, Var};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Where in the run a forward pass happens.
#[derive(Debug, Clone, Copy)]
pub struct StepContext {
    /// The random stream of this pass, a function of (seed, step, batch within the step):
    /// draw dropout and the like from named purposes of it and from nothing else, then a
    /// resumed run repeats them.
    pub random: Random,
    /// Whether dropout and the like are on.
    pub training: bool,
    /// Optimizer steps taken before this one.
    pub step: u64,
    /// The epoch, counted from 0.
    pub epoch: u64,
}

impl StepContext {
    /// The context of batch `micro` within a training step.
    pub fn training(seed: u64, epoch: u64, step: u64, micro: u64) -> Self {
        let random = Random::new(seed).purpose("step").at_step(step).at_step(micro);
        Self { random, training: true, step, epoch }
    }
}

/// The loss of one batch.
#[derive(Debug)]
pub struct StepLoss {
    /// The loss to descend: one number, the mean over `weight`.
    pub loss: Var,
    /// Named parts of it, or anything else worth a curve, each a mean over `weight`.
    pub parts: Vec<(String, f64)>,
    /// What the mean is over: usually the samples with a label, or the target tokens, or
    /// the sum of their class weights. Accumulated batches are averaged by it.
    pub weight: f64,
    /// Samples in the batch.
    pub samples: usize,
    /// Tokens (patches, frames) in the batch.
    pub tokens: usize,
}

/// A model with a loss.
pub trait Trainable {
    /// What one forward pass takes.
    type Batch;
    /// All parameters.
    fn params(&self) -> &Params;
    /// All parameters, for the optimizer.
    fn params_mut(&mut self) -> &mut Params;
    /// The loss of a batch.
    ///
    /// # Errors
    /// The model's own.
    fn loss(&self, tape: &Tape, batch: &Self::Batch, cx: &StepContext) -> Result<StepLoss, BoxError>;

    /// Called after each update of the parameters: keeps those within bounds that have some.
    fn after_update(&mut self) {}
}

/// Batches of an epoch, each with its own error.
pub type Batches<'a, B> = Box<dyn Iterator<Item = Result<B, BoxError>> + 'a>;

/// Training data: the same batches in the same order for the same epoch, always.
pub trait Source<B> {
    /// The number of batches in an epoch, counted from 0. Called often: keep it cheap.
    fn batches(&self, epoch: u64) -> usize;
    /// The batches of an epoch from `start_batch` on.
    fn epoch(&self, epoch: u64, start_batch: usize) -> Batches<'_, B>;
}

/// Validation at the end of each epoch.
pub trait Judge<M> {
    /// The metrics of a model by name; `loss` by convention the loss. None at all where
    /// there is nothing to validate on.
    ///
    /// # Errors
    /// The caller's own.
    fn judge(&mut self, model: &M, epoch: u64) -> Result<BTreeMap<String, f64>, BoxError>;

    /// The last validation in full, for a person to read, one or more lines; asked for with
    /// `report_every_epoch`. None where there is no more to say than the metrics.
    fn report(&self) -> Option<String> {
        None
    }
}

/// No validation: the last weights are the result.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoJudge;

impl<M> Judge<M> for NoJudge {
    fn judge(&mut self, _model: &M, _epoch: u64) -> Result<BTreeMap<String, f64>, BoxError> {
        Ok(BTreeMap::new())
    }
}

/// Something that happened in the run. Epochs are counted from 1.
#[derive(Debug)]
#[non_exhaustive]
pub enum Event<'a> {
    /// The loop begins.
    Start {
        /// Epochs in all.
        epochs: u64,
        /// Steps in an epoch, going by the first.
        steps_per_epoch: u64,
        /// The step that the run was resumed from, or None for a new one.
        resumed: Option<u64>,
    },
    /// A checkpoint was found damaged and an older one is tried.
    DamagedCheckpoint {
        /// The checkpoint.
        path: &'a Path,
        /// What is wrong with it.
        problem: &'a str,
    },
    /// A step was taken.
    Step(&'a StepRecord),
    /// A step was skipped because the loss or a gradient was not finite, or nothing in it has a
    /// target.
    Skip(&'a SkipRecord),
    /// Validation begins.
    Validating {
        /// The epoch that ends.
        epoch: u64,
    },
    /// An epoch ended.
    Epoch(&'a EpochRecord),
    /// The validation of the epoch that ended, in full.
    Report(&'a str),
    /// A checkpoint was written.
    Checkpoint {
        /// Where.
        path: &'a Path,
        /// The step it stands at.
        step: u64,
    },
    /// The loop is over.
    Stop(Stopped),
}

/// Watches a run.
pub trait Observer {
    /// Called with each event as it happens.
    fn event(&mut self, event: &Event<'_>);
}

/// Watches nothing.
impl Observer for () {
    fn event(&mut self, _event: &Event<'_>) {}
}

/// Why a run stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stopped {
    /// The last epoch is done.
    Finished,
    /// The watched metric gained nothing for as long as the patience lasts.
    EarlyStopping,
    /// The time is up.
    TimeLimit,
    /// Someone asked for it.
    Interrupted,
}

/// Asks a running loop to stop after the current step; clones are the same flag.
#[derive(Debug, Clone, Default)]
pub struct StopFlag(Arc<AtomicBool>);

impl StopFlag {
    /// A flag that is not raised.
    pub fn new() -> Self {
        Self::default()
    }

    /// Raises the flag, from any thread.
    pub fn raise(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Whether the flag is raised.
    pub fn is_raised(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}
