//! Metrics and reports: pure functions over predictions and truths.
//!
//! Nothing here knows of models or tensors, and nothing reads or writes a file: truths and
//! predictions come in as slices, numbers and finished text (terminal, JSON, SVG, HTML) go out.
//! [`Confusion`], [`Probabilities`], [`Ranking`], [`MultiLabel`] and [`Regression`] hold the
//! metrics, each defined as in scikit-learn and SciPy and tested against them.

mod confusion;
mod error;
mod multilabel;
mod probabilities;
mod ranking;
mod regression;

pub use confusion::{Average, ClassMetrics, Confusion, KappaWeights};
pub use error::EvalError;
pub use multilabel::MultiLabel;
pub use probabilities::{
    CALIBRATION_BINS, Calibration, CalibrationBin, Probabilities, brier_score, calibration,
    log_loss, top_k_accuracy,
};
pub use ranking::{Curve, Ranking, thin};
pub use regression::Regression;
