//! Metrics and reports: pure functions over predictions and truths.
//!
//! Nothing here knows of models or tensors, and nothing reads or writes a file: truths and
//! predictions come in as slices, numbers and finished text (terminal, JSON, SVG, HTML) go out.
//! [`Confusion`], [`Probabilities`], [`Ranking`], [`MultiLabel`] and [`Regression`] hold the
//! metrics, each defined as in scikit-learn and SciPy and tested against them.

mod averages;
mod bootstrap;
mod confusion;
mod error;
mod evaluation;
mod html;
mod multilabel;
mod names;
pub mod plot;
mod probabilities;
mod ranking;
mod regression;
mod significance;
mod table;
mod terminal;

pub use averages::{Average, ClassMetrics, Tally};
pub use bootstrap::{Bootstrap, Interval, Units, group_numbers};
pub use confusion::{Confusion, KappaWeights};
pub use error::EvalError;
pub use evaluation::{
    Change, ChangedRow, Classification, Comparison, Curves, Difference, Evaluation, Judged, Metrics, MultiLabelled,
    Options, Regressed, Subset, Task,
};
pub use html::{Example, Page};
pub use multilabel::MultiLabel;
pub use names::{Lang, higher_is_better, metric_label};
pub use probabilities::{
    CALIBRATION_BINS, Calibration, CalibrationBin, Probabilities, brier_score, calibration, log_loss, top_k_accuracy,
};
pub use ranking::{Curve, Ranking, thin};
pub use regression::Regression;
pub use significance::{McNemar, bootstrap_p_value, normal_quantile, wilson};
pub use table::{Align, Table};
pub use terminal::compare_models;
