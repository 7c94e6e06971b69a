//! The verbs: what a person does with a table and a model.

mod dataset;
pub mod evaluate;
pub mod fit;
pub mod predict;
pub mod quantize;
mod report;

pub(crate) use dataset::open_cache;
pub use dataset::{Dataset, cache_folder};
