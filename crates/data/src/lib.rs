//! Tables, column types, splits, samples, tokenizers and packs.
//!
//! The way of a row, and the room of each step:
//!
//! ```text
//! file ──table──▶ Row ──schema──▶ column types ──plan──▶ DataPlan (fitted on the training rows, saved with the model)
//!                  │                    split──▶ rows of train, val, test
//!                  └──sampler──▶ Sample: segments and target ──loader──▶ Pack: a batch without padding
//!                        │  └── prepare, cache: media decoded and resized once
//!                        └── augment: variation by (seed, epoch, row)
//! ```
//!
//! A missing cell is a segment that is not there; nothing is padded, and nothing stands in for what
//! is missing. Everything random follows from explicit seeds, never from threads or their order.
//!
//! Rows count from 0 in the interface and from 1 (without the header) in messages.

pub mod augment;
pub mod cache;
pub mod corpus;
pub mod error;
pub mod features;
mod files;
pub mod inspect;
pub mod label;
pub mod loader;
pub mod media_ref;
pub mod pack;
pub mod plan;
pub mod prepare;
pub mod processor;
pub mod sampler;
pub mod schema;
pub mod segment;
pub mod split;
mod statistics;
pub mod table;
#[cfg(test)]
mod test_support;
pub mod tokenizer;

pub use augment::{AugmentKey, Augmentation};
pub use cache::{Cache, CacheKey};
pub use corpus::{Corpus, CorpusOptions, Piece, Unit};
pub use error::{DataError, Result};
pub use inspect::{InspectOptions, Inspection, inspect};
pub use label::{LabelOptions, LabelSpec, LabelTask, Target};
pub use loader::{BadCells, BatchSize, Epoch, Loader, LoaderOptions, LoaderStatistics, OnBad};
pub use pack::{ColumnPack, Pack};
pub use plan::{ColumnPlan, DataPlan, PlanOptions};
pub use processor::Processor;
pub use sampler::{Binding, Sampler};
pub use schema::{ColumnSchema, ColumnType, Schema, SchemaOptions};
pub use segment::{Modality, Problem, Sample, Segment, SegmentKind};
pub use split::{Split, SplitOptions, Splits};
pub use table::{Row, Table, TableOptions, Value};
pub use tokenizer::{Tokenizer, TokenizerKind, TokenizerOptions, WordsBy};
