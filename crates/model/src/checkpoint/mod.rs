//! Checkpoints: the weights of other people's models, and of ours, in files.
//!
//! [`Checkpoint::open`] takes a folder or a file, finds out what it is by its
//! contents and reads the description of its tensors, never more; a tensor is
//! read when it is asked for, as `f32`, whatever its format in the file.
//! PyTorch's pickles are read without running anything ([`Checkpoint::notes`]
//! says what of them was left out). Everything that a file says about itself is checked against the file before
//! memory is spent on it. [`write_safetensors`], [`convert`] and the
//! [`SafetensorsWriter`] beneath them write.

mod dtype;
mod file;
mod folder;
mod place;
mod safetensors;
#[cfg(test)]
mod tests;
mod torch;
mod write;

pub use dtype::DType;
pub use place::TensorInfo;
pub use write::{SafetensorsWriter, TensorPlan, convert, write_safetensors};

use crate::{ModelError, Result};
use file::Source;
use folder::Index;
use sensorium_engine::{EngineError, Tensor, Weights};
use serde::Serialize;
use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

/// The kind of file that weights lie in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Format {
    /// safetensors
    Safetensors,
    /// A pickle and its numbers in a zip archive (PyTorch 1.6 and later).
    #[serde(rename = "pytorch")]
    PyTorch,
    /// Pickles and numbers one after the other (PyTorch before 1.6).
    #[serde(rename = "pytorch_legacy")]
    PyTorchLegacy,
}

impl std::fmt::Display for Format {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Safetensors => "safetensors",
            Self::PyTorch => "PyTorch",
            Self::PyTorchLegacy => "PyTorch (legacy)",
        })
    }
}

/// A file of a checkpoint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CheckpointFile {
    /// Where it lies.
    pub path: PathBuf,
    /// Its size.
    pub bytes: u64,
    /// What kind of file it is.
    pub format: Format,
}

/// An opened checkpoint: its tensors are known by name, format and dimensions,
/// none is read yet.
#[derive(Debug)]
pub struct Checkpoint {
    path: PathBuf,
    sources: Vec<(Source, Format)>,
    /// In the order of the files.
    tensors: Vec<(String, TensorInfo)>,
    by_name: HashMap<String, usize>,
    metadata: BTreeMap<String, String>,
    notes: Vec<String>,
}

/// Some of a tensor's numbers as they stand in the file, in row-major order.
pub(crate) struct Piece<'a> {
    pub(crate) dtype: DType,
    pub(crate) bytes: &'a [u8],
}

impl Checkpoint {
    /// Opens a folder (`model.safetensors`, or its index and shards, or
    /// `pytorch_model.bin`, or its index and shards, or the only weights file
    /// there), an index, or one weights file. Reads headers only.
    ///
    /// # Errors
    /// When there are no weights, or what a file says about itself is not true.
    pub fn open(path: &Path) -> Result<Self> {
        let weights = if path.is_dir() { folder::weights_of(path)? } else { path.to_owned() };
        let mut checkpoint = Self {
            path: weights.clone(),
            sources: Vec::new(),
            tensors: Vec::new(),
            by_name: HashMap::new(),
            metadata: BTreeMap::new(),
            notes: Vec::new(),
        };
        if folder::is_index(&weights) {
            checkpoint.add_shards(&weights)?;
        } else {
            checkpoint.add_file(&weights, None)?;
        }
        Ok(checkpoint)
    }

    fn add_shards(&mut self, path: &Path) -> Result<()> {
        let index = Index::read(path)?;
        for file in index.files() {
            let shard = path.with_file_name(file);
            if !shard.is_file() {
                let problem = format!("names the file {file:?}, which is not beside it: the checkpoint is not whole");
                return Err(ModelError::checkpoint(path, problem));
            }
            self.add_file(&shard, Some((file, &index)))?;
        }
        match index.weight_map.iter().find(|(name, _)| !self.by_name.contains_key(*name)) {
            Some((name, file)) => {
                let problem = format!("says that tensor {name:?} is in {file:?}, and it is not");
                Err(ModelError::checkpoint(path, problem))
            }
            None => Ok(()),
        }
    }

    /// Adds a file's tensors; of a shard those that the index does not place
    /// in another one.
    fn add_file(&mut self, path: &Path, shard: Option<(&str, &Index)>) -> Result<()> {
        let source = Source::open(path)?;
        let format = format_of(&source)?;
        let file = self.sources.len();
        let tensors = match format {
            Format::Safetensors => {
                let header = safetensors::read_header(&source, file)?;
                self.metadata.extend(header.metadata);
                header.tensors
            }
            Format::PyTorch => self.take(torch::read_archive(&source, file)?),
            Format::PyTorchLegacy => self.take(torch::read_legacy(&source, file)?),
        };
        for (name, info) in tensors {
            if shard.is_some_and(|(file, index)| index.weight_map.get(&name).is_some_and(|f| f != file)) {
                continue;
            }
            if self.by_name.insert(name.clone(), self.tensors.len()).is_some() {
                return Err(source.broken(format!("has the tensor {name:?}, which another file has too")));
            }
            self.tensors.push((name, info));
        }
        self.sources.push((source, format));
        Ok(())
    }

    fn take(&mut self, contents: torch::Contents) -> Vec<(String, TensorInfo)> {
        self.metadata.extend(contents.metadata);
        self.notes.extend(contents.notes);
        contents.tensors
    }

    /// The weights file, or the index of several.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The weights files.
    pub fn files(&self) -> impl Iterator<Item = CheckpointFile> {
        self.sources.iter().map(|(source, format)| CheckpointFile {
            path: source.path.clone(),
            bytes: source.bytes,
            format: *format,
        })
    }

    /// What stands beside the tensors: the text of a safetensors header, the
    /// numbers and text of a pickle by dotted names (`dims.n_mels`).
    pub fn metadata(&self) -> &BTreeMap<String, String> {
        &self.metadata
    }

    /// What a person should know about how the files were read.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// The names of the tensors, in the order of the files.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.iter().map(|(name, _)| name.as_str())
    }

    /// The tensors' names and descriptions, in the order of the files.
    pub fn infos(&self) -> impl Iterator<Item = (&str, &TensorInfo)> {
        self.tensors.iter().map(|(name, info)| (name.as_str(), info))
    }

    /// What is known of a tensor before it is read.
    pub fn info(&self, name: &str) -> Option<&TensorInfo> {
        self.by_name.get(name).map(|i| &self.tensors[*i].1)
    }

    /// The tensor as `f32`; other formats are converted, f64 and integers
    /// rounded to the nearest.
    ///
    /// # Errors
    /// When there is no such tensor, it has more than four dimensions (see
    /// [`Checkpoint::read_as`]), or it cannot be read.
    pub fn read(&self, name: &str) -> Result<Tensor> {
        let info = self.known(name)?;
        if info.dims.len() > 4 {
            let problem = format!("tensor {name:?} has {} dimensions, more than four", info.dims.len());
            return Err(ModelError::checkpoint(&self.path, problem));
        }
        self.read_as(name, &info.dims)
    }

    /// The tensor as `f32` under other dimensions (at most four) with the same
    /// number of elements, as `[768, 1536]` for a kernel of `[768, 3, 2, 16, 16]`.
    ///
    /// # Errors
    /// When there is no such tensor, it has another number of elements, or it
    /// cannot be read.
    pub fn read_as(&self, name: &str, dims: &[usize]) -> Result<Tensor> {
        let info = self.known(name)?;
        let len = dims.iter().try_fold(1usize, |n, d| n.checked_mul(*d));
        if dims.len() > 4 || len != Some(info.len()) {
            let problem = format!("tensor {name:?} has dimensions {:?}, expected {dims:?}", info.dims);
            return Err(ModelError::checkpoint(&self.path, problem));
        }
        let mut tensor = Tensor::any(dims);
        info.read_into(&self.sources[info.file].0, tensor.data_mut())?;
        Ok(tensor)
    }

    /// Hands a tensor's bytes over piece by piece.
    pub(crate) fn pieces(&self, name: &str, mut take: impl FnMut(Piece<'_>) -> Result<()>) -> Result<()> {
        let info = self.known(name)?;
        info.pieces(&self.sources[info.file].0, |bytes| take(Piece { dtype: info.dtype, bytes }))
    }

    fn known(&self, name: &str) -> Result<&TensorInfo> {
        self.info(name).ok_or_else(|| ModelError::checkpoint(&self.path, format!("has no tensor {name:?}")))
    }
}

impl Weights for Checkpoint {
    fn tensor(&self, name: &str, dims: &[usize]) -> sensorium_engine::Result<Tensor> {
        let wrong = |problem: String| EngineError::setting("load", problem);
        match self.info(name) {
            Some(info) if info.dims != dims => {
                Err(wrong(format!("tensor {name} has dimensions {:?}, expected {dims:?}", info.dims)))
            }
            _ => self.read(name).map_err(|e| wrong(e.to_string())),
        }
    }
}

/// Finds out what a file is by how it begins.
fn format_of(source: &Source) -> Result<Format> {
    let head = source.head(64)?;
    let refused = |what: &str| Err(source.broken(what));
    match head.as_slice() {
        [] => refused("is empty"),
        head if safetensors::recognises(head) => Ok(Format::Safetensors),
        head if head.starts_with(b"PK\x03\x04") => Ok(Format::PyTorch),
        head if torch::recognises_legacy(head) => Ok(Format::PyTorchLegacy),
        head if head.starts_with(b"version https://git-lfs") => refused(
            "is a Git LFS pointer, not the weights themselves: run `git lfs pull` in its repository, or download the file",
        ),
        head if head.starts_with(b"GGUF") => {
            refused("is a GGUF file, which is not read; expected safetensors or PyTorch")
        }
        head if head.starts_with(b"\x89HDF") => {
            refused("is an HDF5 file (TensorFlow, Keras), which is not read; expected safetensors or PyTorch")
        }
        _ => refused("is neither a safetensors nor a PyTorch file"),
    }
}
