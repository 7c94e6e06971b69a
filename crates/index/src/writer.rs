//! Writing an index: adding, deleting, and making it whole.

use crate::files;
use crate::graph::Graph;
use crate::index::prepare;
use crate::segment::Pending;
use crate::{Entry, Index, IndexError, Manifest, Metric, Result, RowSet, Settings};
use std::collections::HashSet;
use std::fs::File;
use std::path::{Path, PathBuf};

/// A segment has at most so many bytes of vectors: what a writer holds.
const SEGMENT_BYTES: usize = 64 << 20;
const LOCK_FILE: &str = "lock";

/// Adds to an index, or begins one. What was committed stays; what was not is
/// as if it had not been.
#[derive(Debug)]
pub struct Writer {
    folder: PathBuf,
    manifest: Manifest,
    deleted: RowSet,
    /// Whether deletions have come since the last commit.
    stale: bool,
    pending: Pending,
    /// Held while this lives: one writer at a time.
    _lock: File,
}

/// How an index is made whole.
#[derive(Debug, Clone, Copy)]
pub struct Finish {
    /// Vectors from which on there is a graph; None for never.
    pub graph_from: Option<usize>,
}

impl Default for Finish {
    fn default() -> Self {
        // Below it an exact search takes a few milliseconds.
        Self { graph_from: Some(50_000) }
    }
}

/// What became of an index.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Finished {
    /// Vectors that can be found.
    pub rows: usize,
    /// Vectors in the graph, if there is one.
    pub graph: Option<usize>,
}

impl Writer {
    /// Opens an index for writing, or begins one in a new folder.
    ///
    /// # Errors
    /// When another writer is at work, the index is of another model or width,
    /// or the folder holds something else.
    pub fn open(folder: &Path, settings: &Settings) -> Result<Self> {
        let fresh = Manifest::new(settings)?;
        std::fs::create_dir_all(folder).map_err(IndexError::io("create", folder))?;
        let path = folder.join(LOCK_FILE);
        let found = Manifest::read(folder)?;
        if found.is_none() {
            refuse_others(folder)?;
        }
        let lock = File::create(&path).map_err(IndexError::io("create", &path))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(std::fs::TryLockError::WouldBlock) => return Err(IndexError::Busy { path: folder.to_owned() }),
            Err(std::fs::TryLockError::Error(e)) => return Err(IndexError::io("lock", &path)(e)),
        }
        // What another writer has done until it let go.
        let found = Manifest::read(folder)?;
        let mut this = Self {
            folder: folder.to_owned(),
            deleted: RowSet::default(),
            stale: false,
            pending: Pending::default(),
            _lock: lock,
            manifest: fresh,
        };
        match found {
            None => this.manifest.save(folder)?,
            Some(found) => {
                let kind = (found.model.as_str(), found.dim, found.metric);
                settings.accept(kind, &this.folder, "index into another folder, or remove this one")?;
                this.manifest = Manifest { about: settings.about.clone(), ..found };
                this.sweep()?;
            }
        }
        Ok(this)
    }

    /// Removes what a killed writer has left behind.
    fn sweep(&self) -> Result<()> {
        let m = &self.manifest;
        let known: HashSet<&str> =
            m.segments.iter().chain(&m.deleted).chain(&m.graph).map(|f| f.file.as_str()).collect();
        let list = std::fs::read_dir(&self.folder).map_err(IndexError::io("read", &self.folder))?;
        for entry in list {
            let entry = entry.map_err(IndexError::io("read", &self.folder))?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if is_ours(&name) && !known.contains(name.as_str()) {
                std::fs::remove_file(entry.path()).map_err(IndexError::io("remove", &entry.path()))?;
            }
        }
        Ok(())
    }

    /// The index as it was committed last.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn committed(&mut self) -> Result<Index> {
        let index = Index::with(&self.folder, self.manifest.clone())?;
        if !self.stale {
            self.deleted = index.deleted.clone();
        }
        Ok(index)
    }

    /// Adds a vector. It is part of the index from the next commit on.
    ///
    /// # Errors
    /// When it is of another width, not finite, or without direction, or a
    /// full segment cannot be written.
    pub fn add(&mut self, vector: &[f32], entry: &Entry) -> Result<()> {
        let dim = self.manifest.dim;
        if vector.len() != dim {
            return Err(IndexError::Vector { problem: format!("has {} numbers, expected {dim}", vector.len()) });
        }
        let vector = prepare(vector, self.manifest.metric)?;
        self.pending.add(&vector, entry)?;
        if self.pending.rows() * dim * 4 >= SEGMENT_BYTES {
            self.commit()?;
        }
        Ok(())
    }

    /// Deletes a position. It is gone from the next commit on.
    pub fn delete(&mut self, position: usize) {
        if position < self.manifest.rows() {
            self.stale |= self.deleted.insert(position);
        }
    }

    /// Makes what was added and deleted part of the index, at once.
    ///
    /// # Errors
    /// When a file cannot be written: then the index is what it was.
    pub fn commit(&mut self) -> Result<()> {
        if self.pending.rows() == 0 && !self.stale {
            return Ok(());
        }
        let mut manifest = self.manifest.clone();
        if self.pending.rows() > 0 {
            let name = numbered(&mut manifest, "segment");
            manifest.segments.push(self.pending.write(&self.folder, &name, manifest.dim)?);
        }
        if self.stale {
            let name = numbered(&mut manifest, "deleted");
            let bytes = self.deleted.to_bytes();
            let rows = manifest.rows();
            manifest.deleted = Some(files::write(&self.folder, &name, rows, |out| out.write_all(&bytes))?);
        }
        self.replace(manifest)?;
        (self.pending, self.stale) = (Pending::default(), false);
        Ok(())
    }

    fn replace(&mut self, manifest: Manifest) -> Result<()> {
        manifest.save(&self.folder)?;
        self.manifest = manifest;
        self.sweep()
    }

    /// Commits, drops deleted vectors where they are the greater part, and
    /// makes or extends the graph where the index is large.
    ///
    /// # Errors
    /// When a file cannot be read or written.
    pub fn finish(&mut self, finish: &Finish) -> Result<Finished> {
        self.finish_watched(finish, &mut |_, _| {})
    }

    /// As [`Writer::finish`]; `watch` is told how many vectors of how many are
    /// in the graph.
    ///
    /// # Errors
    /// As there.
    pub fn finish_watched(&mut self, finish: &Finish, watch: &mut dyn FnMut(usize, usize)) -> Result<Finished> {
        self.commit()?;
        let mut index = self.committed()?;
        if index.deleted.len() > index.len() {
            self.compact(&index)?;
            // Before the new one is read, so that not both stand in memory.
            drop(index);
            index = self.committed()?;
        }
        let rows = index.rows();
        let large = finish.graph_from.is_some_and(|from| index.len() >= from.max(1));
        let mut manifest = self.manifest.clone();
        if large && manifest.metric == Metric::Cosine && index.graph_rows() != Some(rows) {
            let mut watch = |done| watch(done, rows);
            let graph = match index.graph.take() {
                Some(mut graph) => {
                    graph.extend(&index.vectors, manifest.dim, &mut watch);
                    graph
                }
                None => Graph::build(&index.vectors, manifest.dim, &mut watch),
            };
            let name = numbered(&mut manifest, "graph");
            manifest.graph = Some(files::write(&self.folder, &name, rows, |mut out| graph.write(&mut out))?);
        } else if !large {
            manifest.graph = None;
        }
        if manifest != self.manifest {
            self.replace(manifest)?;
        } else {
            // The caller's words may be new.
            self.manifest.save(&self.folder)?;
        }
        Ok(Finished { rows: index.len(), graph: self.manifest.graph.as_ref().map(|g| g.rows as usize) })
    }

    /// Writes what is not deleted anew, and then counts that.
    fn compact(&mut self, index: &Index) -> Result<()> {
        let mut manifest = Manifest { segments: Vec::new(), deleted: None, graph: None, ..self.manifest.clone() };
        let (folder, dim) = (self.folder.clone(), manifest.dim);
        let mut pending = Pending::default();
        let mut seal = |pending: &mut Pending| -> Result<()> {
            if pending.rows() > 0 {
                let name = numbered(&mut manifest, "segment");
                manifest.segments.push(std::mem::take(pending).write(&folder, &name, dim)?);
            }
            Ok(())
        };
        index.each_entry(|position, entry| {
            pending.add(index.vector(position), &entry)?;
            if pending.rows() * dim * 4 >= SEGMENT_BYTES { seal(&mut pending) } else { Ok(()) }
        })?;
        seal(&mut pending)?;
        self.deleted = RowSet::default();
        self.replace(manifest)
    }
}

/// The name of the next file of a kind.
fn numbered(manifest: &mut Manifest, kind: &str) -> String {
    let name = format!("{kind}-{:06}.bin", manifest.next);
    manifest.next += 1;
    name
}

fn is_ours(name: &str) -> bool {
    let whole = name.strip_suffix(".partial").unwrap_or(name);
    ["segment-", "deleted-", "graph-"].iter().any(|kind| whole.starts_with(kind)) && whole.ends_with(".bin")
}

/// Keeps an index from growing into a folder of other things.
fn refuse_others(folder: &Path) -> Result<()> {
    let list = std::fs::read_dir(folder).map_err(IndexError::io("read", folder))?;
    for entry in list {
        let name = entry.map_err(IndexError::io("read", folder))?.file_name().to_string_lossy().into_owned();
        if name != LOCK_FILE && !is_ours(&name) && !name.ends_with(".partial") {
            return Err(IndexError::Mismatch {
                path: folder.to_owned(),
                problem: format!("the folder holds {name:?} and no index; give a new or empty folder"),
            });
        }
    }
    Ok(())
}
