//! Vector search: exact, approximate, kept on disk.
//!
//! Nothing here knows of models, tables or media: vectors and their [`Entry`]s
//! go in through a [`Writer`], an [`Index`] finds the nearest ones again.
//!
//! - [`exact`] compares a query with every vector; [`graph`] walks a graph of
//!   neighbours and sees a small part of them.
//! - An index is a folder: `index.json` says what belongs to it ([`Manifest`]);
//!   segments of vectors and entries are written once and never changed; what
//!   is deleted is listed beside them. A change counts from the moment that a
//!   new `index.json` takes the place of the old one, so a kill at any moment
//!   leaves the state before or the state after.
//! - Results are the same bits for any number of threads.
//! - [`store`] is one interface for an index in a folder and one in PostgreSQL
//!   with pgvector (feature `postgres`).
//!
//! ```
//! use sensorium_index::{Entry, Index, Metric, Search, Settings, Writer};
//!
//! # fn main() -> sensorium_index::Result<()> {
//! # let folder = tempfile::tempdir().unwrap();
//! # let folder = folder.path().join("index");
//! let settings = Settings { dim: 2, metric: Metric::Cosine, model: "none".into(), about: serde_json::Value::Null };
//! let mut writer = Writer::open(&folder, &settings)?;
//! writer.add(&[1.0, 0.1], &Entry { id: "东".into(), ..Entry::default() })?;
//! writer.add(&[0.1, 1.0], &Entry { id: "北".into(), ..Entry::default() })?;
//! writer.finish(&Default::default())?;
//!
//! let index = Index::open(&folder)?;
//! let hits = index.search(&[0.0, 3.0], &Search { top: 1, ..Search::default() })?;
//! assert_eq!(index.entry(hits[0][0].position)?.id, "北");
//! # Ok(())
//! # }
//! ```

mod entry;
mod error;
pub mod exact;
mod files;
mod folder;
pub mod graph;
mod index;
mod manifest;
mod postgres;
mod rows;
mod segment;
pub mod store;
mod taste;
mod top;
mod writer;

pub use entry::Entry;
pub use error::{IndexError, Result};
pub use index::{Index, Search};
pub use manifest::{Manifest, Metric, Settings};
pub use rows::RowSet;
pub use taste::{diverse, taste};
pub use top::{Hit, Top};
pub use writer::{Finish, Finished, Writer};
