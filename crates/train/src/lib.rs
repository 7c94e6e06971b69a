//! The training loop, for any model with a loss.
//!
//! A [`Trainable`] model, a [`Source`] of batches and a [`Judge`] for validation go into
//! [`Trainer::run`]; it takes care of the rest: groups of parameters and schedules of the
//! learning rate ([`TrainConfig`]), accumulation, clipping, steps that must be skipped,
//! early stopping, the best weights, logs ([`History`]) and checkpoints from which a run
//! resumes to the bit. Whoever watches is an [`Observer`].
//!
//! Resuming is exact because everything that a step depends on is either in the
//! checkpoint (weights, moments, counters) or a function of the seed and the position:
//! the order of batches of the epoch, dropout and augmentation of the step.
//!
//! ```
//! use sensorium_engine::{Activation, Builder, Init, ParamId, Params, Tape, Tensor, Var, ops};
//! use sensorium_train::{
//!     Batches, BoxError, NoJudge, RunOptions, Source, StepContext, StepLoss, TrainConfig, Trainable, Trainer,
//! };
//!
//! /// y = 2x, to be learned.
//! struct Line {
//!     params: Params,
//!     weight: ParamId,
//! }
//!
//! impl Trainable for Line {
//!     type Batch = Tensor;
//!     fn params(&self) -> &Params {
//!         &self.params
//!     }
//!     fn params_mut(&mut self) -> &mut Params {
//!         &mut self.params
//!     }
//!     fn loss(&self, tape: &Tape, x: &Tensor, _cx: &StepContext) -> Result<StepLoss, BoxError> {
//!         let x = Var::constant(x.clone());
//!         let y = ops::linear(tape, &x, &tape.param(&self.params, self.weight), None, Activation::Identity)?;
//!         let error = ops::sub(tape, &y, &ops::scale(tape, &x, 2.0)?)?;
//!         let loss = ops::mean(tape, &ops::mul(tape, &error, &error)?)?;
//!         let samples = x.rows();
//!         Ok(StepLoss { loss, parts: Vec::new(), weight: samples as f64, samples, tokens: samples })
//!     }
//! }
//!
//! struct Points;
//!
//! impl Source<Tensor> for Points {
//!     fn batches(&self, _epoch: u64) -> usize {
//!         8
//!     }
//!     fn epoch(&self, _epoch: u64, start_batch: usize) -> Batches<'_, Tensor> {
//!         Box::new((start_batch..8).map(|n| Ok(Tensor::full(&[4, 1], n as f32 - 3.5))))
//!     }
//! }
//!
//! # fn main() -> Result<(), BoxError> {
//! let mut params = Params::new();
//! let weight = Builder::new(&mut params, 0).param("weight", &[1, 1], Init::Xavier)?;
//! let mut model = Line { params, weight };
//! let dir = tempfile::tempdir()?;
//! let config = TrainConfig { lr: 0.1, epochs: 20, ..TrainConfig::default() };
//! let options = RunOptions { dir: dir.path().into(), ..RunOptions::default() };
//! let summary = Trainer::new(config, options)?.run(&mut model, &Points, &mut NoJudge, &mut ())?;
//! assert_eq!(summary.steps, 160);
//! assert!((model.params.get(weight).value.scalar()? - 2.0).abs() < 0.05);
//! # Ok(())
//! # }
//! ```

// The tests beside the code share their small model with those in `tests/`, which name
// this crate from outside.
#[cfg(test)]
extern crate self as sensorium_train;
#[cfg(test)]
#[path = "../tests/common/mod.rs"]
mod fixture;

mod checkpoint;
mod config;
mod contract;
mod disk;
mod error;
mod groups;
mod inventory;
mod log;
mod progress;
mod record;
mod schedule;
mod state;
pub mod tensorboard;
pub mod testing;
mod trainer;

pub use config::{CheckpointEvery, EarlyStopping, OptimizerKind, ScheduleKind, TrainConfig};
pub use contract::{
    Batches, Event, Judge, NoJudge, Observer, Source, StepContext, StepLoss, StopFlag, Stopped, Trainable,
};
pub use error::{BoxError, Result, TrainError};
pub use groups::{Group, assign};
pub use inventory::{Inventory, Memory, Part};
pub use progress::Progress;
pub use record::{EpochRecord, History, Record, SkipRecord, StepRecord};
pub use schedule::Schedule;
pub use state::{Best, lower_is_better};
pub use trainer::{RunOptions, Summary, Trainer, checkpoints_dir, has_checkpoint};
