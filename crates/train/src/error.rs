//! What can go wrong in training.

use sensorium_engine::EngineError;
use sensorium_engine::pattern::near;
use std::collections::BTreeMap;
use std::path::PathBuf;

/// The result of this crate.
pub type Result<T> = std::result::Result<T, TrainError>;

/// An error of the caller's own: of the model, the data or the validation.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Training cannot start, go on or be resumed.
#[derive(Debug, thiserror::Error)]
pub enum TrainError {
    /// A setting is out of range.
    #[error("train.{key}: {problem}")]
    Config {
        /// The key within `[train]`.
        key: String,
        /// What is wrong and what was expected.
        problem: String,
    },
    /// A pattern names no parameter.
    #[error("train.{key}: no parameter matches `{pattern}`{}", near_text(near))]
    Pattern {
        /// The key within `[train]`.
        key: &'static str,
        /// The pattern.
        pattern: String,
        /// The names that come nearest.
        near: Vec<String>,
    },
    /// The model, the data or the validation failed.
    #[error("{what} failed at epoch {epoch}, step {step}")]
    Caller {
        /// Which of them.
        what: &'static str,
        /// The epoch, counted from 1.
        epoch: u64,
        /// The number of optimizer steps already taken.
        step: u64,
        /// Its own error.
        source: BoxError,
    },
    /// The engine refused an operation of the loop.
    #[error("training step {step}: {source}")]
    Engine {
        /// The number of optimizer steps already taken.
        step: u64,
        /// Why.
        source: EngineError,
    },
    /// A file or directory could not be read or written.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was tried, such as "write".
        action: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// The system's answer.
        source: std::io::Error,
    },
    /// The training data is empty.
    #[error("there are no training batches: check the split and the limits on samples")]
    NoBatches,
    /// The metric to watch is not among those that validation gives.
    #[error("train.early_stopping.metric: `{wanted}` is not measured here; available: {}{}", available.join(", "), near_text(near))]
    Metric {
        /// The metric asked for.
        wanted: String,
        /// Those there are.
        available: Vec<String>,
        /// Those that come nearest.
        near: Vec<String>,
    },
    /// Losses or gradients were not finite too often in a row.
    #[error(
        "training diverged: {in_a_row} steps in a row were skipped up to step {step}; the last one because {cause}. \
         Lower train.lr, lengthen train.warmup or tighten train.clip_norm{}",
        if *saved { "; the checkpoint before holds finite weights" } else { "" }
    )]
    Diverged {
        /// The step of the last skip.
        step: u64,
        /// How many steps were skipped.
        in_a_row: u32,
        /// What was not finite.
        cause: String,
        /// Whether a checkpoint was written before.
        saved: bool,
    },
    /// The directory already holds a run.
    #[error("{} already holds a training run: resume it (--resume) or choose another directory", path.display())]
    RunExists {
        /// The directory of the run.
        path: PathBuf,
    },
    /// What determines the run has changed since the checkpoint was written.
    #[error(
        "cannot resume from {}: it was written under other settings ({}); restore them or start a new run",
        path.display(), differences.join("; ")
    )]
    Changed {
        /// The checkpoint.
        path: PathBuf,
        /// Each difference: the key, the value in the checkpoint, the value now.
        differences: Vec<String>,
    },
    /// Checkpoints exist, but none of them is whole.
    #[error("no checkpoint in {} can be read: {}", path.display(), problems.join("; "))]
    NoWholeCheckpoint {
        /// The directory of the checkpoints.
        path: PathBuf,
        /// What is wrong with each.
        problems: Vec<String>,
    },
}

impl TrainError {
    pub(crate) fn config(key: impl Into<String>, problem: impl Into<String>) -> Self {
        Self::Config { key: key.into(), problem: problem.into() }
    }

    pub(crate) fn metric(wanted: &str, metrics: &BTreeMap<String, f64>) -> Self {
        let near = near(wanted, metrics.keys().map(String::as_str));
        Self::Metric { wanted: wanted.into(), available: metrics.keys().cloned().collect(), near }
    }

    pub(crate) fn io(action: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { action, path, source }
    }
}

fn near_text(near: &[String]) -> String {
    if near.is_empty() { String::new() } else { format!("; near names: {}", near.join(", ")) }
}
