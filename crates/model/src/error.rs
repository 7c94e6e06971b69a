//! What can go wrong in a model.

use sensorium_engine::EngineError;
use std::path::PathBuf;

/// The model crate's result.
pub type Result<T> = std::result::Result<T, ModelError>;

/// A model cannot be built or cannot take an input.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum ModelError {
    /// A configuration makes no sense.
    #[error("{part}: {problem}")]
    Config {
        /// Which part of the model.
        part: String,
        /// What is wrong and what was expected.
        problem: String,
    },
    /// A column's values are not of the kind its tower takes.
    #[error("column {column:?}: expected {expected}, got {got}")]
    Input {
        /// The column.
        column: String,
        /// What its tower takes.
        expected: String,
        /// What came.
        got: String,
    },
    /// A checkpoint cannot be read or written.
    #[error("checkpoint {}: {problem}", path.display())]
    Checkpoint {
        /// The file or folder.
        path: PathBuf,
        /// What is wrong, what was expected and how to mend it.
        problem: String,
    },
    /// The engine refused an operation.
    #[error(transparent)]
    Engine(#[from] EngineError),
}

impl ModelError {
    pub(crate) fn config(part: impl Into<String>, problem: impl Into<String>) -> Self {
        Self::Config { part: part.into(), problem: problem.into() }
    }

    pub(crate) fn checkpoint(path: impl Into<PathBuf>, problem: impl Into<String>) -> Self {
        Self::Checkpoint { path: path.into(), problem: problem.into() }
    }
}
