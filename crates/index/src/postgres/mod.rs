//! The store that is a table of PostgreSQL with pgvector (feature `postgres`).
//!
//! `sensorium_indexes` has a row for each index of a database; the vectors and
//! entries of index NAME are the rows of `sensorium_NAME`. A commit is a
//! transaction; a writer holds an advisory lock. Where `sensorium_NAME` was made
//! beforehand as a partitioned table with foreign tables in it, the index is
//! spread over several servers (docs/retrieval.md).

#[cfg(feature = "postgres")]
mod address;
#[cfg(feature = "postgres")]
mod catalog;
#[cfg(feature = "postgres")]
mod read;
#[cfg(feature = "postgres")]
mod vector;
#[cfg(feature = "postgres")]
mod write;

#[cfg(feature = "postgres")]
pub(crate) use {read::open, write::write};

#[cfg(not(feature = "postgres"))]
mod absent {
    use crate::store::{Store, StoreWriter};
    use crate::{IndexError, Result, Settings};
    use std::path::Path;

    pub(crate) fn open(_: &str) -> Result<Box<dyn Store>> {
        Err(IndexError::NoPostgres)
    }

    pub(crate) fn write(_: &str, _: Option<&Path>, _: &Settings) -> Result<Box<dyn StoreWriter>> {
        Err(IndexError::NoPostgres)
    }
}
#[cfg(not(feature = "postgres"))]
pub(crate) use absent::{open, write};
