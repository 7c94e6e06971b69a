//! Metrics and reports: pure functions over predictions and truths.
//!
//! Nothing here knows of models or tensors, and nothing reads or writes a file: truths and
//! predictions come in as slices, numbers and finished text (terminal, JSON, SVG, HTML) go out.
//!
//! - [`Confusion`], [`Probabilities`], [`Ranking`], [`MultiLabel`] and [`Regression`] hold the
//!   metrics, each defined as in scikit-learn and SciPy and tested against them.
//! - [`Retrieval`] says how far up relevant items stand, as ranx has it.
//! - [`Bootstrap`] draws intervals; [`McNemar`] and [`wilson`] are exact.
//! - [`Evaluation`] gathers them for a task, [`Comparison`] for two models on the same rows.
//! - [`plot`] draws them, [`Page`] tells them.
//!
//! ```
//! use sensorium_eval::{Bootstrap, Classification, Evaluation, Options, Page, Probabilities};
//!
//! let classes = ["cat", "dog"].map(String::from);
//! let truths = [0, 1, 1];
//! let probabilities = vec![vec![0.9f32, 0.1], vec![0.2, 0.8], vec![0.6, 0.4]];
//! let judged = Classification::new(&classes, &truths, Probabilities::from_rows(&probabilities, 2)?)?;
//! let options = Options { bootstrap: Some(Bootstrap::default()), ..Options::default() };
//! let evaluation = Evaluation::new(&judged, &options)?;
//!
//! assert_eq!(evaluation.metric("accuracy"), Some(2.0 / 3.0));
//! println!("{}", evaluation.to_text());
//! let json = serde_json::to_string(&evaluation).unwrap();
//! let html = Page::new("Cats and dogs", &evaluation).to_html();
//! # assert!(json.starts_with("{\"task\":\"classification\",\"rows\":3,\"accuracy\":"));
//! # assert!(html.contains("2 of 3"));
//! # Ok::<(), sensorium_eval::EvalError>(())
//! ```

mod averages;
mod bootstrap;
mod confusion;
mod error;
mod evaluation;
mod gain;
mod html;
mod multilabel;
mod names;
pub mod plot;
mod probabilities;
mod ranking;
mod regression;
mod retrieval;
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
pub use gain::{Gain, compare_gains};
pub use html::{Example, Page, RunPage};
pub use multilabel::MultiLabel;
pub use names::{Lang, higher_is_better, metric_label};
pub use probabilities::{
    CALIBRATION_BINS, Calibration, CalibrationBin, Probabilities, brier_score, calibration, log_loss, top_k_accuracy,
};
pub use ranking::{Curve, Ranking, thin};
pub use regression::Regression;
pub use retrieval::{Retrieval, RetrievalMetrics};
pub use significance::{McNemar, bootstrap_p_value, normal_quantile, wilson};
pub use table::{Align, Table};
pub use terminal::compare_models;
