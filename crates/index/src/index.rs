//! An index that is open for searching.

use crate::graph::Graph;
use crate::segment::Segment;
use crate::{Entry, Hit, IndexError, Manifest, Metric, Result, RowSet, Top, exact, files};
use rayon::prelude::*;
use sensorium_engine::huge_pages;
use std::path::{Path, PathBuf};

/// Vectors, and where their entries are.
#[derive(Debug)]
pub struct Index {
    pub(crate) folder: PathBuf,
    pub(crate) manifest: Manifest,
    /// `[rows, dim]`, deleted ones too.
    pub(crate) vectors: Vec<f32>,
    segments: Vec<Segment>,
    pub(crate) deleted: RowSet,
    pub(crate) graph: Option<Graph>,
}

/// What to search, and how.
#[derive(Debug, Clone)]
pub struct Search<'a> {
    /// Hits per query, at most.
    pub top: usize,
    /// Compare every vector, also where there is a graph.
    pub exact: bool,
    /// How many vectors a walk through the graph keeps in view: the more, the
    /// surer and slower; None for a number that finds more than 95 % of the
    /// nearest ten on embeddings.
    pub beam: Option<usize>,
    /// Only these positions; they are searched exactly.
    pub only: Option<&'a RowSet>,
}

impl Default for Search<'_> {
    fn default() -> Self {
        Self { top: 10, exact: false, beam: None, only: None }
    }
}

/// The automatic beam, at least.
const BEAM: usize = 96;

impl Index {
    /// Opens an index. Sizes are checked before memory is spent, hashes after
    /// everything is read.
    ///
    /// # Errors
    /// When the folder is not an index, or a file of it is damaged.
    pub fn open(folder: &Path) -> Result<Self> {
        let manifest = Manifest::read(folder)?.ok_or_else(|| IndexError::NoIndex { path: folder.to_owned() })?;
        Self::with(folder, manifest)
    }

    pub(crate) fn with(folder: &Path, manifest: Manifest) -> Result<Self> {
        let dim = manifest.dim;
        for record in &manifest.segments {
            let path = folder.join(&record.file);
            let length = std::fs::metadata(&path).map_err(IndexError::io("read", &path))?.len();
            if Segment::least_bytes(record, dim).is_none_or(|least| least > length) {
                return Err(IndexError::damaged(&path, format!("{length} bytes do not hold {} vectors", record.rows)));
            }
        }
        let rows = manifest.rows();
        let mut vectors = vec![0.0; rows * dim];
        huge_pages(&mut vectors);
        let mut rest = &mut vectors[..];
        let mut parts = Vec::new();
        for record in &manifest.segments {
            let (part, tail) = std::mem::take(&mut rest).split_at_mut(record.rows as usize * dim);
            parts.push((record, part));
            rest = tail;
        }
        let segments: Result<Vec<Segment>> =
            parts.into_par_iter().map(|(record, part)| Segment::read(folder, record, dim, part)).collect();
        let segments = segments?;
        let deleted = manifest.deleted.as_ref().map(|record| read_deleted(folder, record, rows)).transpose()?;
        let graph = manifest
            .graph
            .as_ref()
            .map(|record| files::read(folder, record, |path, from| Graph::read(path, from, record.bytes, rows)))
            .transpose()?;
        Ok(Self { folder: folder.to_owned(), manifest, vectors, segments, deleted: deleted.unwrap_or_default(), graph })
    }

    /// What belongs to it.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// The folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Vectors that can be found.
    pub fn len(&self) -> usize {
        self.rows() - self.deleted.len()
    }

    /// True where nothing can be found.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Numbers per vector.
    pub fn dim(&self) -> usize {
        self.manifest.dim
    }

    /// Positions, deleted ones too.
    pub fn rows(&self) -> usize {
        self.vectors.len() / self.manifest.dim
    }

    /// Vectors that the graph covers, if there is one.
    pub fn graph_rows(&self) -> Option<usize> {
        self.graph.as_ref().map(Graph::len)
    }

    /// Whether a position is there and not deleted.
    pub fn holds(&self, position: usize) -> bool {
        position < self.rows() && !self.deleted.contains(position)
    }

    /// The vector at a position `[dim]`.
    pub fn vector(&self, position: usize) -> &[f32] {
        &self.vectors[position * self.dim()..][..self.dim()]
    }

    /// What the vector at a position stands for.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn entry(&self, mut position: usize) -> Result<Entry> {
        for segment in &self.segments {
            if position < segment.rows() {
                return segment.entry(position);
            }
            position -= segment.rows();
        }
        Err(IndexError::Vector { problem: format!("at position {position} is beyond the index") })
    }

    /// Calls `each` with every position that is not deleted and its entry.
    ///
    /// # Errors
    /// When an entry cannot be read, or `each` fails.
    pub fn each_entry<E: From<IndexError>>(
        &self,
        mut each: impl FnMut(usize, Entry) -> std::result::Result<(), E>,
    ) -> std::result::Result<(), E> {
        let mut position = 0;
        for segment in &self.segments {
            for entry in segment.entries()? {
                let entry = entry?;
                if !self.deleted.contains(position) {
                    each(position, entry)?;
                }
                position += 1;
            }
        }
        Ok(())
    }

    /// The vectors most similar to each query of `[queries, dim]`, the best
    /// first, equal ones by position.
    ///
    /// # Errors
    /// When a query is of another width, not finite, or without direction
    /// where angles are compared.
    pub fn search(&self, queries: &[f32], search: &Search<'_>) -> Result<Vec<Vec<Hit>>> {
        let dim = self.dim();
        if queries.is_empty() || !queries.len().is_multiple_of(dim) {
            return Err(IndexError::Vector {
                problem: format!("of {} numbers was given where this index has {dim}", queries.len()),
            });
        }
        let mut prepared = Vec::with_capacity(queries.len());
        for query in queries.chunks_exact(dim) {
            prepared.extend(prepare(query, self.manifest.metric)?);
        }
        let wanted = |position: usize| !self.deleted.contains(position);
        if let Some(only) = search.only {
            let positions = exact::positions(self.rows(), only, &self.deleted);
            let one = |query| exact::search_among(&self.vectors, dim, query, search.top, &positions);
            return Ok(prepared.chunks_exact(dim).map(one).collect());
        }
        let Some(graph) = self.graph.as_ref().filter(|_| !search.exact) else {
            return Ok(exact::search(&self.vectors, dim, &prepared, search.top, wanted));
        };
        // Deleted vectors take room in the beam.
        let beam = search.beam.unwrap_or(BEAM.max(2 * search.top));
        let beam = beam.saturating_mul(self.rows()).div_ceil(self.len().max(1)).min(self.rows());
        let mut found = graph.search(&self.vectors, dim, &prepared, (search.top, beam), wanted);
        let covered = graph.len();
        if covered < self.rows() {
            let rest = &self.vectors[covered * dim..];
            let late = exact::search(rest, dim, &prepared, search.top, |p| wanted(p + covered));
            for (hits, late) in found.iter_mut().zip(late) {
                let mut top = Top::new(search.top);
                hits.drain(..).for_each(|hit| top.offer(hit));
                late.into_iter().for_each(|hit| top.offer(Hit { position: hit.position + covered, ..hit }));
                *hits = top.into_sorted();
            }
        }
        Ok(found)
    }
}

fn read_deleted(folder: &Path, record: &files::FileRecord, rows: usize) -> Result<RowSet> {
    files::read(folder, record, |path, from| {
        let most = rows.div_ceil(64) * 8;
        if record.bytes > most as u64 {
            return Err(IndexError::damaged(path, "it deletes more than there is"));
        }
        let mut bytes = Vec::new();
        std::io::Read::read_to_end(from, &mut bytes).map_err(IndexError::io("read", path))?;
        let set = RowSet::from_bytes(&bytes);
        if (rows..most * 8).any(|p| set.contains(p)) {
            return Err(IndexError::damaged(path, "it deletes more than there is"));
        }
        Ok(set)
    })
}

/// A vector as it is stored and compared.
pub(crate) fn prepare(vector: &[f32], metric: Metric) -> Result<Vec<f32>> {
    if !vector.iter().all(|x| x.is_finite()) {
        return Err(IndexError::Vector { problem: "holds a number that is not finite".into() });
    }
    if metric == Metric::InnerProduct {
        return Ok(vector.to_vec());
    }
    let norm = vector.iter().map(|x| f64::from(*x) * f64::from(*x)).sum::<f64>().sqrt();
    if norm == 0.0 {
        return Err(IndexError::Vector { problem: "of zeros has no direction to compare".into() });
    }
    Ok(vector.iter().map(|x| (f64::from(*x) / norm) as f32).collect())
}
