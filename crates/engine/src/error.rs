//! What can go wrong inside the engine.

use crate::Shape;

/// The engine's result.
pub type Result<T> = std::result::Result<T, EngineError>;

/// An operation was asked for something it cannot do.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum EngineError {
    /// The shapes of the inputs do not fit the operation.
    #[error("{op}: {what} has shape {got}, expected {expected}")]
    Shape {
        /// The operation.
        op: &'static str,
        /// Which input.
        what: &'static str,
        /// What the operation needs.
        expected: String,
        /// What it was given.
        got: Shape,
    },
    /// An index points outside the table it selects from.
    #[error("{op}: index {index} at position {position} is not below {limit}")]
    Index {
        /// The operation.
        op: &'static str,
        /// The offending index.
        index: usize,
        /// Where in the list of indices it stands.
        position: usize,
        /// The number of rows that can be selected.
        limit: usize,
    },
    /// Offsets do not cut the rows they are meant to cut.
    #[error("{op}: offsets {problem}")]
    Offsets {
        /// The operation.
        op: &'static str,
        /// What is wrong with them.
        problem: String,
    },
    /// A setting of the operation is out of range.
    #[error("{op}: {problem}")]
    Setting {
        /// The operation.
        op: &'static str,
        /// What is wrong and what was expected.
        problem: String,
    },
    /// Backward was asked of a value that no recorded operation produced.
    #[error("backward: {0}")]
    Backward(String),
}

impl EngineError {
    /// A shape error in one line.
    pub fn shape(op: &'static str, what: &'static str, expected: impl ToString, got: Shape) -> Self {
        Self::Shape { op, what, expected: expected.to_string(), got }
    }

    /// A setting error in one line.
    pub fn setting(op: &'static str, problem: impl Into<String>) -> Self {
        Self::Setting { op, problem: problem.into() }
    }
}
