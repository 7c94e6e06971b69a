//! Weights in the files of other tools. Opening one reads its header and
//! checks it; tensors are read when they are asked for, one at a time.

use crate::{ModelError, Result};
use safetensors::tensor::{Dtype, Metadata};
use sensorium_engine::Tensor;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

/// What is known of a tensor before it is read.
#[derive(Debug, Clone)]
pub struct TensorInfo {
    /// Its dimensions.
    pub dims: Vec<usize>,
    dtype: Dtype,
    file: usize,
    start: u64,
    bytes: usize,
}

/// Weights on disk.
#[derive(Debug)]
pub struct Checkpoint {
    files: Vec<PathBuf>,
    tensors: BTreeMap<String, TensorInfo>,
}

impl Checkpoint {
    /// Opens a folder with `model.safetensors`, whole or in shards with an
    /// index, or one such file.
    ///
    /// # Errors
    /// When there is none, or its header is broken.
    pub fn open(path: &Path) -> Result<Self> {
        let err = |problem: String| ModelError::config(path.display().to_string(), problem);
        let files = if path.is_file() {
            vec![path.to_owned()]
        } else {
            let list = std::fs::read_dir(path).map_err(|e| err(format!("cannot be listed: {e}")))?;
            let mut files: Vec<PathBuf> = list
                .filter_map(|e| Some(e.ok()?.path()))
                .filter(|p| p.extension().is_some_and(|e| e == "safetensors"))
                .collect();
            files.sort();
            files
        };
        if files.is_empty() {
            return Err(err("has no .safetensors file".into()));
        }
        let mut tensors = BTreeMap::new();
        for (file, path) in files.iter().enumerate() {
            let err = |problem: String| ModelError::config(path.display().to_string(), problem);
            let mut reader = File::open(path).map_err(|e| err(e.to_string()))?;
            let size = reader.metadata().map_err(|e| err(e.to_string()))?.len();
            let mut length = [0; 8];
            reader.read_exact(&mut length).map_err(|e| err(e.to_string()))?;
            let header = u64::from_le_bytes(length);
            if header > size.saturating_sub(8) || header > 100_000_000 {
                return Err(err(format!("a header of {header} bytes in a file of {size}")));
            }
            let mut bytes = vec![0; header as usize];
            reader.read_exact(&mut bytes).map_err(|e| err(e.to_string()))?;
            let metadata: Metadata = serde_json::from_slice(&bytes).map_err(|e| err(e.to_string()))?;
            for (name, info) in metadata.tensors() {
                let (start, end) = info.data_offsets;
                let start = 8 + header + start as u64;
                if start + (end - info.data_offsets.0) as u64 > size {
                    return Err(err(format!("ends before tensor {name}")));
                }
                let info = TensorInfo {
                    dims: info.shape.clone(),
                    dtype: info.dtype,
                    file,
                    start,
                    bytes: end - info.data_offsets.0,
                };
                tensors.insert(name, info);
            }
        }
        Ok(Self { files, tensors })
    }

    /// The names of all tensors.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// What is known of a tensor.
    pub fn info(&self, name: &str) -> Option<&TensorInfo> {
        self.tensors.get(name)
    }

    /// A tensor as f32.
    ///
    /// # Errors
    /// When there is none, it cannot be read, or holds no floats.
    pub fn read(&self, name: &str) -> Result<Tensor> {
        let info = self.info(name).ok_or_else(|| ModelError::config(name, "is not in the checkpoint"))?;
        let err = |problem: String| ModelError::config(self.files[info.file].display().to_string(), problem);
        let mut file = File::open(&self.files[info.file]).map_err(|e| err(e.to_string()))?;
        file.seek(SeekFrom::Start(info.start)).map_err(|e| err(e.to_string()))?;
        let mut bytes = vec![0; info.bytes];
        file.read_exact(&mut bytes).map_err(|e| err(e.to_string()))?;
        let values: Vec<f32> = match info.dtype {
            Dtype::F32 => bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect(),
            Dtype::BF16 => bytes.chunks_exact(2).map(|b| f32::from_le_bytes([0, 0, b[0], b[1]])).collect(),
            other => return Err(err(format!("{name} is of type {other:?}; F32 and BF16 are read"))),
        };
        Ok(Tensor::from_slice(&info.dims, &values)?)
    }
}
