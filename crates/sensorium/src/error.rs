//! What can go wrong between a table and a model.

use std::path::PathBuf;

/// The library's result.
pub type Result<T> = std::result::Result<T, Error>;

/// An error of any room of the house, or of their assembly.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A configuration does not say something that can be done.
    #[error("{place}: {problem}")]
    Config {
        /// The file, or where else the setting came from, and the key.
        place: String,
        /// What is wrong, what was expected and how to mend it.
        problem: String,
    },
    /// A file could not be read or written.
    #[error("cannot {action} {path:?}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// A folder is not a saved model, or not one that this program can use.
    #[error("model {path:?}: {problem}")]
    Model {
        /// The folder.
        path: PathBuf,
        /// What is wrong and how to mend it.
        problem: String,
    },
    /// The request makes no sense for this model or table.
    #[error("{0}")]
    Request(String),
    /// The table or its media.
    #[error(transparent)]
    Data(#[from] sensorium_data::DataError),
    /// The model.
    #[error(transparent)]
    Network(#[from] sensorium_model::ModelError),
    /// An operation of the engine.
    #[error(transparent)]
    Engine(#[from] sensorium_engine::EngineError),
    /// Training.
    #[error(transparent)]
    Train(#[from] sensorium_train::TrainError),
    /// An index.
    #[error(transparent)]
    Index(#[from] sensorium_index::IndexError),
    /// Metrics.
    #[error(transparent)]
    Eval(#[from] sensorium_eval::EvalError),
}

impl Error {
    pub(crate) fn io(action: &'static str, path: impl Into<PathBuf>, source: std::io::Error) -> Self {
        Self::Io { action, path: path.into(), source }
    }

    pub(crate) fn model(path: impl Into<PathBuf>, problem: impl Into<String>) -> Self {
        Self::Model { path: path.into(), problem: problem.into() }
    }
}
