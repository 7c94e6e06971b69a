//! Where vectors are kept: one interface for a folder and for a database.

use crate::folder::FolderWriter;
use crate::{Entry, Finish, Finished, Hit, Index, IndexError, Manifest, Result, Settings, postgres};
use serde::{Deserialize, Serialize};
use std::path::Path;

/// What is wanted of a search.
#[derive(Debug, Clone, Copy)]
pub struct Wanted<'a> {
    /// Hits at most.
    pub top: usize,
    /// Compare every vector, also where an approximate search is possible.
    pub exact: bool,
    /// Only entries whose fields have these values; they are compared exactly.
    pub filters: &'a [(String, String)],
    /// Only entries of these columns; empty for all.
    pub columns: &'a [String],
}

/// Vectors that can be searched. A position names a vector for as long as the
/// store is open.
pub trait Store: Send {
    /// Where it is, for a person to read: without a password.
    fn place(&self) -> String;

    /// Numbers per vector.
    fn dim(&self) -> usize;

    /// What made the vectors.
    fn model(&self) -> &str;

    /// What the writer said of it.
    fn about(&self) -> &serde_json::Value;

    /// Vectors that can be found.
    ///
    /// # Errors
    /// When a database does not answer.
    fn count(&mut self) -> Result<usize>;

    /// The vectors most similar to `query` `[dim]`, the best first.
    ///
    /// # Errors
    /// When the query is of another width or not finite, a filter names a
    /// column that no entry has, or the store cannot be read.
    fn nearest(&mut self, query: &[f32], wanted: &Wanted<'_>) -> Result<Vec<Hit>>;

    /// What the vectors at these positions stand for, in their order.
    ///
    /// # Errors
    /// When one cannot be read, or is no longer there.
    fn entries(&mut self, positions: &[usize]) -> Result<Vec<Entry>>;

    /// The vectors at these positions `[positions, dim]`, in their order.
    ///
    /// # Errors
    /// When one cannot be read, or is no longer there.
    fn vectors(&mut self, positions: &[usize]) -> Result<Vec<f32>>;

    /// Positions of rows with these names, and the name of each; of these
    /// columns only, unless there are none.
    ///
    /// # Errors
    /// When the store cannot be read.
    fn named(&mut self, names: &[String], columns: &[String]) -> Result<Vec<(usize, String)>>;

    /// The name of some row, to show what names look like.
    ///
    /// # Errors
    /// When the store cannot be read.
    fn example(&mut self) -> Result<Option<String>>;
}

/// A store that is open for changes: what [`StoreWriter::commit`] has not made
/// part of it is as if it had not been.
pub trait StoreWriter {
    /// Calls `each` with the position and the entry of every vector that was
    /// there when the store was opened.
    ///
    /// # Errors
    /// When an entry cannot be read.
    fn known(&mut self, each: &mut dyn FnMut(usize, Entry) -> Result<()>) -> Result<()>;

    /// A vector `[dim]` that was there when the store was opened.
    ///
    /// # Errors
    /// When it cannot be read.
    fn vector(&mut self, position: usize) -> Result<Vec<f32>>;

    /// Adds a vector.
    ///
    /// # Errors
    /// When it is of another width, not finite, or without direction, or the
    /// store cannot be written.
    fn add(&mut self, vector: &[f32], entry: &Entry) -> Result<()>;

    /// Deletes a position.
    fn delete(&mut self, position: usize);

    /// Makes what was added and deleted part of the store, at once.
    ///
    /// # Errors
    /// When the store cannot be written: then it is what it was.
    fn commit(&mut self) -> Result<()>;

    /// Commits, and makes a large store ready for approximate search; `watch`
    /// is told how many vectors of how many are ready.
    ///
    /// # Errors
    /// When the store cannot be read or written.
    fn finish(&mut self, finish: &Finish, watch: &mut dyn FnMut(usize, usize)) -> Result<Finished>;
}

/// Whether this is the address of a database, and not a path.
pub fn is_address(place: &Path) -> bool {
    place.to_str().is_some_and(|p| p.starts_with("postgres://") || p.starts_with("postgresql://"))
}

/// Opens a store for searching: a folder, a folder that names a database, or
/// an address.
///
/// # Errors
/// When there is no index, or it cannot be read.
pub fn open(place: &Path) -> Result<Box<dyn Store>> {
    match address(place)? {
        Some(address) => postgres::open(&address),
        None => Ok(Box::new(Index::open(place)?)),
    }
}

/// Opens a store for writing, or begins one: in the folder `out`, or at an
/// address: then the folder `out` will name it, without the password. A folder
/// that names a database needs no address.
///
/// # Errors
/// When another writer is at work, the store is of another model or width, or
/// `out` holds something else.
pub fn write(out: &Path, at: Option<&str>, settings: &Settings) -> Result<Box<dyn StoreWriter>> {
    let kept = address(out)?;
    let Some(at) = at else {
        return match kept {
            Some(address) => postgres::write(&address, None, settings),
            None => Ok(Box::new(FolderWriter::open(out, settings)?)),
        };
    };
    if !is_address(Path::new(at)) || is_address(out) {
        return Err(IndexError::address("--store is the address of a database, and --out a folder that will name it"));
    }
    if Manifest::read(out)?.is_some() {
        let problem = "its vectors are in the folder; give another --out for those in a database";
        return Err(IndexError::Mismatch { path: out.to_owned(), problem: problem.into() });
    }
    postgres::write(at, Some(out), settings)
}

/// The longest file that names a store, in bytes.
const MAX_BYTES: u64 = 1 << 16;
/// The file by which a folder names a store.
pub(crate) const STORE_FILE: &str = "store.json";

/// What `store.json` says.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Named {
    /// The version of the format.
    pub format: u32,
    /// The address, without a password.
    pub store: String,
}

/// The address of a store in a database; None for one in a folder.
fn address(place: &Path) -> Result<Option<String>> {
    if is_address(place) {
        return Ok(place.to_str().map(str::to_owned));
    }
    let path = place.join(STORE_FILE);
    let file = match std::fs::File::open(&path) {
        Ok(file) => file,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(IndexError::io("read", &path)(e)),
    };
    let named: Named = serde_json::from_reader(std::io::Read::take(file, MAX_BYTES))
        .map_err(|e| IndexError::damaged(&path, e.to_string()))?;
    match named.format {
        1 if is_address(Path::new(&named.store)) => Ok(Some(named.store)),
        1 => Err(IndexError::damaged(&path, "it names no store")),
        found => Err(IndexError::Newer { path, found, known: 1 }),
    }
}
