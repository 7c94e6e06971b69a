//! Token numbers in a file: 32 bits each, the highest of them whether the
//! token goes on with the word before; beside it the ends of the texts, 64
//! bits each, and a description, written last.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::Piece;
use crate::error::{DataError, Result};
use crate::files::write_atomically;
use crate::table::RandomFile;

/// The bit of a token that goes on with the word before.
const CONTINUES: u32 = 1 << 31;

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Description {
    fingerprint: String,
    tokens: u64,
    texts: u64,
    characters: u64,
}

fn paths(folder: &Path, name: &str) -> [PathBuf; 3] {
    ["tokens", "ends", "json"].map(|kind| folder.join(format!("{name}.{kind}")))
}

fn described(path: &Path) -> Option<Description> {
    std::fs::read(path).ok().and_then(|json| serde_json::from_slice(&json).ok())
}

/// What the numbers under a name were written for; None if there are none that are whole.
pub(super) fn fingerprint(folder: &Path, name: &str) -> Option<String> {
    described(&paths(folder, name)[2]).map(|d| d.fingerprint)
}

/// The numbers, for reading.
#[derive(Debug)]
pub(super) struct Store {
    tokens: RandomFile,
    paths: [PathBuf; 3],
    description: Description,
}

impl Store {
    /// What was written for this fingerprint; None if there is nothing whole.
    pub(super) fn open(folder: &Path, name: &str, fingerprint: &str) -> Result<Option<Self>> {
        let paths = paths(folder, name);
        let Some(description) = described(&paths[2]).filter(|d| d.fingerprint == fingerprint) else {
            return Ok(None);
        };
        let size = |path: &Path| std::fs::metadata(path).map_or(0, |m| m.len());
        if size(&paths[0]) != description.tokens * 4 || size(&paths[1]) != description.texts * 8 {
            return Ok(None);
        }
        let file = File::open(&paths[0]).map_err(|e| DataError::io("open", &paths[0], e))?;
        Ok(Some(Self { tokens: RandomFile::new(file), paths, description }))
    }

    pub(super) fn tokens(&self) -> u64 {
        self.description.tokens
    }

    pub(super) fn fingerprint(&self) -> &str {
        &self.description.fingerprint
    }

    pub(super) fn texts(&self) -> u64 {
        self.description.texts
    }

    pub(super) fn characters(&self) -> u64 {
        self.description.characters
    }

    /// The end of each text.
    pub(super) fn ends(&self) -> Result<Vec<u64>> {
        let bytes = std::fs::read(&self.paths[1]).map_err(|e| DataError::io("read", &self.paths[1], e))?;
        Ok(bytes.as_chunks::<8>().0.iter().map(|b| u64::from_le_bytes(*b)).collect())
    }

    /// The tokens from `start` up to `end`.
    pub(super) fn read(&self, start: u64, end: u64) -> Result<Piece> {
        let bytes = self
            .tokens
            .read(start * 4, (end - start) as usize * 4)
            .map_err(|e| DataError::io("read", &self.paths[0], e))?;
        let stored = || bytes.as_chunks::<4>().0.iter().map(|b| u32::from_le_bytes(*b));
        Ok(Piece {
            ids: stored().map(|t| t & !CONTINUES).collect(),
            continues: stored().map(|t| t & CONTINUES != 0).collect(),
        })
    }
}

/// The numbers, being written.
pub(super) struct StoreWriter {
    folder: PathBuf,
    name: String,
    tokens: BufWriter<File>,
    ends: BufWriter<File>,
    description: Description,
}

impl StoreWriter {
    /// Begins anew: what was there is not valid any more.
    pub(super) fn create(folder: &Path, name: &str) -> Result<Self> {
        let [tokens, ends, json] = paths(folder, name);
        if json.exists() {
            std::fs::remove_file(&json).map_err(|e| DataError::io("remove", &json, e))?;
        }
        let create = |path: &Path| File::create(path).map(BufWriter::new).map_err(|e| DataError::io("create", path, e));
        Ok(Self {
            folder: folder.to_owned(),
            name: name.to_owned(),
            tokens: create(&tokens)?,
            ends: create(&ends)?,
            description: Description { fingerprint: String::new(), tokens: 0, texts: 0, characters: 0 },
        })
    }

    pub(super) fn is_empty(&self) -> bool {
        self.description.tokens == 0
    }

    /// Adds a text of so many characters.
    pub(super) fn append(&mut self, tokens: &[(u32, bool)], characters: u64) -> Result<()> {
        let path = &paths(&self.folder, &self.name)[0];
        let io = |e| DataError::io("write", path, e);
        for &(id, continues) in tokens {
            let stored = id | if continues { CONTINUES } else { 0 };
            self.tokens.write_all(&stored.to_le_bytes()).map_err(io)?;
        }
        self.description.tokens += tokens.len() as u64;
        self.description.texts += 1;
        self.description.characters += characters;
        self.ends.write_all(&self.description.tokens.to_le_bytes()).map_err(io)
    }

    /// Makes it durable and opens it.
    pub(super) fn finish(self, fingerprint: &str) -> Result<Store> {
        let [path, ends, json] = paths(&self.folder, &self.name);
        for (writer, path) in [(self.tokens, &path), (self.ends, &ends)] {
            let file = writer.into_inner().map_err(|e| DataError::io("write", path, e.into_error()))?;
            file.sync_all().map_err(|e| DataError::io("sync", path, e))?;
        }
        let description = Description { fingerprint: fingerprint.to_owned(), ..self.description };
        let text = serde_json::to_vec_pretty(&description).map_err(|e| DataError::Options(e.to_string()))?;
        write_atomically(&json, &text)?;
        Store::open(&self.folder, &self.name, fingerprint)?
            .ok_or_else(|| DataError::Options(format!("{path:?} is not as it was just written")))
    }
}
