//! Tables, column types, splits, samples, tokenizers and packs.
pub mod error;
pub mod features;
pub mod label;
pub mod media_ref;
pub mod schema;
pub mod split;
mod statistics;
pub mod table;
pub use error::{DataError, Result};
