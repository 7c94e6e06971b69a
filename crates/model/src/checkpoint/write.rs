//! Writes safetensors files, tensor by tensor: memory does not grow with the file.
//!
//! The header needs every name, format and size first, so writing takes two
//! steps: a [`SafetensorsWriter`] is made from the plans of all tensors, then
//! gets their values in the order it says. The file stands under a temporary
//! name until it is whole and synced.

use super::{Checkpoint, DType, Piece};
use crate::{ModelError, Result};
use sensorium_engine::Tensor;
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, HashSet};
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

/// The numbers that are converted at a time.
const CHUNK: usize = 1 << 18;

/// A tensor to be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorPlan {
    /// The name.
    pub name: String,
    /// The dimensions, outermost first.
    pub dims: Vec<usize>,
    /// How its numbers are to be stored.
    pub dtype: DType,
}

/// A safetensors file that is being written. Dropped before it is finished, it
/// leaves nothing behind.
#[derive(Debug)]
pub struct SafetensorsWriter {
    path: PathBuf,
    partial: PathBuf,
    file: Option<BufWriter<File>>,
    /// In the order of the file.
    plans: Vec<TensorPlan>,
    next: usize,
    /// Bytes of the tensor being written that are still to come.
    missing: u64,
}

impl SafetensorsWriter {
    /// Begins the file `path` of these tensors. `metadata` stands in the
    /// header; `format = pt`, which other tools ask for, is added.
    ///
    /// # Errors
    /// When two tensors have the same name, or the file cannot be written.
    pub fn create(path: &Path, mut plans: Vec<TensorPlan>, metadata: &BTreeMap<String, String>) -> Result<Self> {
        // Wide formats first keeps every tensor at a multiple of its numbers' size.
        plans.sort_by(|a, b| b.dtype.size().cmp(&a.dtype.size()).then_with(|| a.name.cmp(&b.name)));
        let header = header(path, &plans, metadata)?;
        let mut name = path.file_name().unwrap_or_default().to_os_string();
        name.push(".partial");
        let partial = path.with_file_name(name);
        let file = File::create(&partial).map_err(|e| cannot_write(path, &e))?;
        let mut writer =
            Self { path: path.into(), partial, file: Some(BufWriter::new(file)), plans, next: 0, missing: 0 };
        writer.put(&(header.len() as u64).to_le_bytes())?;
        writer.put(&header)?;
        Ok(writer)
    }

    /// The tensors in the order in which their values are expected.
    pub fn plans(&self) -> &[TensorPlan] {
        &self.plans
    }

    /// Writes the values of the next tensor, converted to its format.
    ///
    /// # Errors
    /// When they are not as many as planned, or the file cannot be written.
    pub fn values(&mut self, values: &[f32]) -> Result<()> {
        let dtype = self.begin(values.len())?;
        if !dtype.is_float() {
            return Err(self.wrong("is planned as integers: copy its bytes"));
        }
        let mut bytes = Vec::with_capacity(CHUNK.min(values.len()) * dtype.size());
        for chunk in values.chunks(CHUNK) {
            bytes.clear();
            dtype.encode(chunk, &mut bytes);
            self.more(&bytes)?;
        }
        self.next += 1;
        Ok(())
    }

    /// Writes the next tensor from a checkpoint: its bytes as they are where
    /// the format stays the same, else converted.
    ///
    /// # Errors
    /// When the checkpoint has no tensor of that name, or one of another size.
    pub fn copy(&mut self, from: &Checkpoint, name: &str) -> Result<()> {
        let to = self.begin(from.known(name)?.len())?;
        let mut converted = Vec::new();
        let mut values = Vec::new();
        from.pieces(name, |Piece { dtype, bytes }| {
            if dtype == to {
                return self.more(bytes);
            }
            if !to.is_float() {
                return Err(self.wrong(&format!("is planned as {to}, and the checkpoint has {dtype}")));
            }
            values.resize(bytes.len() / dtype.size(), 0.0);
            dtype.decode(bytes, &mut values);
            converted.clear();
            to.encode(&values, &mut converted);
            self.more(&converted)
        })?;
        self.next += 1;
        Ok(())
    }

    /// Syncs the file and gives it its name.
    ///
    /// # Errors
    /// When tensors are missing, or the file cannot be written.
    pub fn finish(mut self) -> Result<()> {
        if let Some(plan) = self.plans.get(self.next) {
            let problem = format!("cannot be finished: tensor {:?} has no values yet", plan.name);
            return Err(ModelError::checkpoint(&self.path, problem));
        }
        let Some(file) = self.file.take() else { return Ok(()) };
        let work = || -> io::Result<()> {
            let file = file.into_inner().map_err(io::IntoInnerError::into_error)?;
            file.sync_all()?;
            std::fs::rename(&self.partial, &self.path)
        };
        work().map_err(|e| {
            // The error that is told is the first one.
            let _ = std::fs::remove_file(&self.partial);
            cannot_write(&self.path, &e)
        })
    }

    /// Begins the next tensor with so many numbers.
    fn begin(&mut self, len: usize) -> Result<DType> {
        if self.missing > 0 {
            return Err(self.wrong("broke off before"));
        }
        let Some(plan) = self.plans.get(self.next) else {
            return Err(ModelError::checkpoint(&self.path, "every planned tensor is already written"));
        };
        let planned = plan.dims.iter().product::<usize>();
        if planned != len {
            return Err(self.wrong(&format!("has {len} values, {planned} are planned")));
        }
        self.missing = planned as u64 * plan.dtype.size() as u64;
        Ok(plan.dtype)
    }

    fn more(&mut self, bytes: &[u8]) -> Result<()> {
        self.put(bytes)?;
        self.missing = self.missing.saturating_sub(bytes.len() as u64);
        Ok(())
    }

    fn put(&mut self, bytes: &[u8]) -> Result<()> {
        match &mut self.file {
            Some(file) => file.write_all(bytes).map_err(|e| cannot_write(&self.path, &e)),
            None => Ok(()),
        }
    }

    fn wrong(&self, problem: &str) -> ModelError {
        let name = self.plans.get(self.next).map_or("", |plan| plan.name.as_str());
        ModelError::checkpoint(&self.path, format!("cannot be written: tensor {name:?} {problem}"))
    }
}

impl Drop for SafetensorsWriter {
    fn drop(&mut self) {
        if self.file.take().is_some() {
            // Half a file is of no use; that it cannot be removed, of no harm.
            let _ = std::fs::remove_file(&self.partial);
        }
    }
}

fn cannot_write(path: &Path, error: &io::Error) -> ModelError {
    ModelError::checkpoint(path, format!("cannot be written: {error}"))
}

fn header(path: &Path, plans: &[TensorPlan], metadata: &BTreeMap<String, String>) -> Result<Vec<u8>> {
    let mut described: Map<String, Value> = metadata.iter().map(|(k, v)| (k.clone(), json!(v))).collect();
    described.entry("format").or_insert(json!("pt"));
    let mut object = Map::from_iter([("__metadata__".to_owned(), Value::Object(described))]);
    let mut at = 0u64;
    let mut names = HashSet::new();
    for plan in plans {
        let wrong =
            |what: &str| ModelError::checkpoint(path, format!("cannot be written: tensor {:?} {what}", plan.name));
        if !names.insert(&plan.name) || plan.name == "__metadata__" {
            return Err(wrong("has a name that is already used"));
        }
        let size = plan.dims.iter().try_fold(plan.dtype.size(), |n, d| n.checked_mul(*d));
        let end = size.and_then(|n| at.checked_add(n as u64)).ok_or_else(|| wrong("is too large"))?;
        let entry = json!({
            "dtype": plan.dtype.safetensors_name(), "shape": plan.dims, "data_offsets": [at, end],
        });
        object.insert(plan.name.clone(), entry);
        at = end;
    }
    let mut bytes = Value::Object(object).to_string().into_bytes();
    // Padded, so that the numbers begin at a multiple of eight bytes.
    bytes.resize(bytes.len().next_multiple_of(8), b' ');
    Ok(bytes)
}

/// Writes tensors as a safetensors file in f32.
///
/// # Errors
/// When two have the same name, or the file cannot be written.
pub fn write_safetensors<'a>(path: &Path, tensors: impl IntoIterator<Item = (&'a str, &'a Tensor)>) -> Result<()> {
    let tensors: BTreeMap<&str, &Tensor> = tensors.into_iter().collect();
    let plan = |(name, tensor): (&&str, &&Tensor)| TensorPlan {
        name: (*name).to_owned(),
        dims: tensor.dims().to_vec(),
        dtype: DType::F32,
    };
    let mut writer = SafetensorsWriter::create(path, tensors.iter().map(plan).collect(), &BTreeMap::new())?;
    // Of one format, they stand in the order of their names.
    for tensor in tensors.values() {
        writer.values(tensor.data())?;
    }
    writer.finish()
}

/// Writes a whole checkpoint as one safetensors file; `dtype` is what its
/// floating-point tensors become, integers stay as they are.
///
/// # Errors
/// When a tensor cannot be read or the file cannot be written.
pub fn convert(from: &Checkpoint, path: &Path, dtype: Option<DType>) -> Result<()> {
    let plans = from
        .infos()
        .map(|(name, info)| TensorPlan {
            name: name.to_owned(),
            dims: info.dims.clone(),
            dtype: dtype.filter(|_| info.dtype.is_float()).unwrap_or(info.dtype),
        })
        .collect();
    let mut writer = SafetensorsWriter::create(path, plans, from.metadata())?;
    let names: Vec<String> = writer.plans().iter().map(|plan| plan.name.clone()).collect();
    for name in names {
        writer.copy(from, &name)?;
    }
    writer.finish()
}
