//! The store that is a folder.

use crate::store::{Store, StoreWriter, Wanted};
use crate::{Entry, Finish, Finished, Hit, Index, IndexError, Result, RowSet, Search, Settings, Writer};
use std::collections::BTreeSet;
use std::path::Path;

impl Store for Index {
    fn place(&self) -> String {
        self.folder().display().to_string()
    }

    fn dim(&self) -> usize {
        self.manifest.dim
    }

    fn model(&self) -> &str {
        &self.manifest.model
    }

    fn about(&self) -> &serde_json::Value {
        &self.manifest.about
    }

    fn count(&mut self) -> Result<usize> {
        Ok(self.len())
    }

    fn nearest(&mut self, query: &[f32], wanted: &Wanted<'_>) -> Result<Vec<Hit>> {
        let only = chosen(self, wanted)?;
        let search = Search { top: wanted.top, exact: wanted.exact, only: only.as_ref(), beam: None };
        Ok(self.search(query, &search)?.remove(0))
    }

    fn entries(&mut self, positions: &[usize]) -> Result<Vec<Entry>> {
        positions.iter().map(|p| self.entry(*p)).collect()
    }

    fn vectors(&mut self, positions: &[usize]) -> Result<Vec<f32>> {
        Ok(positions.iter().flat_map(|p| self.vector(*p)).copied().collect())
    }

    fn named(&mut self, names: &[String], columns: &[String]) -> Result<Vec<(usize, String)>> {
        let mut found = Vec::new();
        self.each_entry(|position, entry| {
            if names.contains(&entry.id) && (columns.is_empty() || columns.contains(&entry.column)) {
                found.push((position, entry.id));
            }
            Ok::<(), IndexError>(())
        })?;
        Ok(found)
    }

    fn example(&mut self) -> Result<Option<String>> {
        let first = (0..self.rows()).find(|p| self.holds(*p));
        first.map(|p| self.entry(p).map(|e| e.id)).transpose()
    }
}

/// The positions that the filters leave; None for all.
fn chosen(index: &Index, wanted: &Wanted<'_>) -> Result<Option<RowSet>> {
    if wanted.filters.is_empty() && wanted.columns.is_empty() {
        return Ok(None);
    }
    let (mut set, mut fields, mut columns) = (RowSet::default(), BTreeSet::new(), BTreeSet::new());
    index.each_entry(|position, entry| {
        let has = |(name, value): &(String, String)| entry.fields.get(name) == Some(value);
        if (wanted.columns.is_empty() || wanted.columns.contains(&entry.column)) && wanted.filters.iter().all(has) {
            set.insert(position);
        }
        // Columns are few; their names are gathered for the message.
        for name in entry.fields.into_keys() {
            fields.insert(name);
        }
        columns.insert(entry.column);
        Ok::<(), IndexError>(())
    })?;
    let asked = wanted.filters.iter().map(|f| (&f.0, &fields)).chain(wanted.columns.iter().map(|c| (c, &columns)));
    for (name, known) in asked {
        if !known.contains(name) {
            return Err(IndexError::NoColumn { name: name.clone(), known: known.iter().cloned().collect() });
        }
    }
    Ok(Some(set))
}

/// A writer, and what was there before.
pub(crate) struct FolderWriter {
    writer: Writer,
    /// None once it was finished: a large index does not stand in memory twice.
    before: Option<Index>,
}

impl FolderWriter {
    pub(crate) fn open(folder: &Path, settings: &Settings) -> Result<Self> {
        let mut writer = Writer::open(folder, settings)?;
        let before = writer.committed()?;
        Ok(Self { writer, before: Some(before) })
    }

    fn before(&self) -> Result<&Index> {
        let ended = || IndexError::Vector { problem: "is asked for after the index was finished".into() };
        self.before.as_ref().ok_or_else(ended)
    }
}

impl StoreWriter for FolderWriter {
    fn known(&mut self, each: &mut dyn FnMut(usize, Entry) -> Result<()>) -> Result<()> {
        self.before()?.each_entry(each)
    }

    fn vector(&mut self, position: usize) -> Result<Vec<f32>> {
        Ok(self.before()?.vector(position).to_vec())
    }

    fn add(&mut self, vector: &[f32], entry: &Entry) -> Result<()> {
        self.writer.add(vector, entry)
    }

    fn delete(&mut self, position: usize) {
        self.writer.delete(position);
    }

    fn commit(&mut self) -> Result<()> {
        self.writer.commit()
    }

    fn finish(&mut self, finish: &Finish, watch: &mut dyn FnMut(usize, usize)) -> Result<Finished> {
        self.before = None;
        self.writer.finish_watched(finish, watch)
    }
}
