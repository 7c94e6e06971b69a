//! The verbs: what a person does with a table and a model.

mod dataset;
mod describe;
pub mod evaluate;
pub mod fit;
pub mod predict;
pub mod quantize;
mod report;
mod run_folder;

pub(crate) use dataset::open_cache;
pub use dataset::{Dataset, cache_folder};
pub(crate) use describe::{describe_model, duration, measure_step};
pub(crate) use report::{learning_curves, training_facts};
pub(crate) use run_folder::{RunFolder, in_words};
