//! Metrics and reports: pure functions over predictions and truths.
//!
//! Nothing here knows of models or tensors, and nothing reads or writes a file: truths and
//! predictions come in as slices, numbers and finished text (terminal, JSON, SVG, HTML) go out.
//! [`Confusion`], [`Probabilities`], [`Ranking`], [`MultiLabel`] and [`Regression`] hold the
//! metrics, each defined as in scikit-learn and SciPy and tested against them.

mod bootstrap;
mod confusion;
mod error;
mod multilabel;
mod probabilities;
mod ranking;
mod regression;
mod significance;

pub use bootstrap::{Bootstrap, Interval, Units, group_numbers};
pub use confusion::{Average, ClassMetrics, Confusion, KappaWeights};
pub use error::EvalError;
pub use multilabel::MultiLabel;
pub use probabilities::{
    CALIBRATION_BINS, Calibration, CalibrationBin, Probabilities, brier_score, calibration,
    log_loss, top_k_accuracy,
};
pub use ranking::{Curve, Ranking, thin};
pub use regression::Regression;
pub use significance::{McNemar, bootstrap_p_value, normal_quantile, wilson};
