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
mod pattern;
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
pub use pattern::matches;
pub use progress::Progress;
pub use record::{EpochRecord, History, Record, SkipRecord, StepRecord};
pub use schedule::Schedule;
pub use state::{Best, lower_is_better};
pub use trainer::{RunOptions, Summary, Trainer, checkpoints_dir};
