//! Checkpoints: everything that the rest of a run follows from.
//!
//! A checkpoint is a directory `checkpoints/epoch-0002-step-00000150-batch-000004` (epochs
//! done, steps, batches of the epoch done) of safetensors files (`model`, `optimizer`, where
//! there is one `ema` and `best`), `state.json`, and `checksums.json` over all of them. It is written under another name and renamed when
//! whole, then `checkpoints/latest` is pointed at it, then older ones are removed: whatever
//! the moment of a crash, one whole checkpoint is there, and a damaged one is known by its
//! checksums.

use crate::disk::Disk;
use crate::error::{Result, TrainError};
use crate::state::State;
use safetensors::tensor::{Dtype, SafeTensors, View};
use sensorium_engine::{Params, Tensor};
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

/// Tensors by name.
pub(crate) type Named = BTreeMap<String, Tensor>;

/// The values of the parameters that train, by name; buffers are shared until
/// written. Frozen ones are the same at the end as at the start.
pub(crate) fn values(params: &Params) -> Named {
    params.iter().filter(|(_, p)| p.trainable).map(|(_, p)| (p.name.clone(), p.value.clone())).collect()
}

/// What a run stands at.
pub(crate) struct Checkpoint {
    pub(crate) state: State,
    pub(crate) model: Named,
    pub(crate) optimizer: Named,
    pub(crate) ema: Option<Named>,
    pub(crate) best: Option<Named>,
}

const LATEST: &str = "latest";
const CHECKSUMS: &str = "checksums.json";
const STATE: &str = "state.json";

impl Checkpoint {
    /// Writes the checkpoint below `root` and removes all but the newest `keep`.
    pub(crate) fn save(&self, disk: &Disk, root: &Path, keep: usize) -> Result<PathBuf> {
        let name = format!("epoch-{:04}-step-{:08}-batch-{:06}", self.state.epoch, self.state.step, self.state.batch);
        let temporary = root.join(format!("{name}.tmp"));
        disk.create_dir(root)?;
        for leftover in directories(root)?.iter().filter(|d| d.extension().is_some()) {
            disk.remove_dir(leftover)?;
        }
        disk.create_dir(&temporary)?;
        let mut checksums = BTreeMap::new();
        let mut add = |file: &str, fill: &dyn Fn(&Path) -> io::Result<()>| {
            let path = temporary.join(file);
            disk.write(&path, fill)?;
            checksums.insert(file.to_owned(), checksum(&path).map_err(TrainError::io("read", &path))?);
            Ok::<_, TrainError>(())
        };
        let tensors = [
            ("model", Some(&self.model)),
            ("optimizer", Some(&self.optimizer)),
            ("ema", self.ema.as_ref()),
            ("best", self.best.as_ref()),
        ];
        for (file, tensors) in tensors {
            if let Some(tensors) = tensors {
                add(&format!("{file}.safetensors"), &|path| write_tensors(path, tensors))?;
            }
        }
        add(STATE, &|path| fs::write(path, serde_json::to_vec_pretty(&self.state)?))?;
        disk.write(&temporary.join(CHECKSUMS), |path| fs::write(path, serde_json::to_vec_pretty(&checksums)?))?;
        disk.sync_dir(&temporary)?;
        let path = root.join(&name);
        if path.exists() {
            // Damaged, or left by a run that went on from an older one.
            disk.remove_dir(&path)?;
        }
        disk.rename(&temporary, &path)?;
        disk.replace(&root.join(LATEST), &name)?;
        for old in whole_names(root)?.iter().rev().filter(|d| **d != path).skip(keep.saturating_sub(1)) {
            disk.remove_dir(old)?;
        }
        Ok(path)
    }

    /// Reads a checkpoint, checking every file against its checksum.
    fn load(path: &Path) -> std::result::Result<Self, String> {
        let optional = |name: &str| -> std::result::Result<Option<Named>, String> {
            let file = format!("{name}.safetensors");
            checked(path, &file)?.map(|bytes| read_tensors(&bytes).map_err(|e| format!("{file}: {e}"))).transpose()
        };
        let required = |name: &str| optional(name)?.ok_or_else(|| format!("{name}.safetensors is missing"));
        Ok(Self {
            state: state(path)?,
            model: required("model")?,
            optimizer: required("optimizer")?,
            ema: optional("ema")?,
            best: optional("best")?,
        })
    }

    /// The newest checkpoint below `root` whose state is whole, and what determined its run;
    /// None if there is none at all. Tensors are not read.
    ///
    /// # Errors
    /// When there are checkpoints but the state of none is whole.
    pub(crate) fn settings(root: &Path) -> Result<Option<(PathBuf, serde_json::Value)>> {
        let mut problems = Vec::new();
        for path in candidates(root)? {
            match state(&path) {
                Ok(state) => return Ok(Some((path, state.settings))),
                Err(problem) => problems.push(format!("{}: {problem}", path.display())),
            }
        }
        if problems.is_empty() { Ok(None) } else { Err(TrainError::NoWholeCheckpoint { path: root.into(), problems }) }
    }

    /// The newest whole checkpoint below `root`, None if there is none at all.
    /// `damaged` hears of each that had to be passed over.
    ///
    /// # Errors
    /// When there are checkpoints but none is whole.
    pub(crate) fn newest(root: &Path, mut damaged: impl FnMut(&Path, &str)) -> Result<Option<(PathBuf, Self)>> {
        let mut problems = Vec::new();
        for path in candidates(root)? {
            match Self::load(&path) {
                Ok(checkpoint) => return Ok(Some((path, checkpoint))),
                Err(problem) => {
                    damaged(&path, &problem);
                    problems.push(format!("{}: {problem}", path.display()));
                }
            }
        }
        if problems.is_empty() { Ok(None) } else { Err(TrainError::NoWholeCheckpoint { path: root.into(), problems }) }
    }
}

/// A file of a checkpoint, checked against its checksum; None if the checkpoint has no such file.
fn checked(path: &Path, file: &str) -> std::result::Result<Option<Vec<u8>>, String> {
    let read = |file: &str| fs::read(path.join(file)).map_err(|e| format!("{file}: {e}"));
    let checksums: BTreeMap<String, String> =
        serde_json::from_slice(&read(CHECKSUMS)?).map_err(|e| format!("{CHECKSUMS}: {e}"))?;
    let Some(expected) = checksums.get(file) else { return Ok(None) };
    let bytes = read(file)?;
    if blake3::hash(&bytes).to_hex().as_str() != expected {
        return Err(format!("{file} does not have the checksum it was written with"));
    }
    Ok(Some(bytes))
}

/// The state of a checkpoint.
fn state(path: &Path) -> std::result::Result<State, String> {
    let state = checked(path, STATE)?.ok_or_else(|| format!("{STATE} is missing"))?;
    serde_json::from_slice(&state).map_err(|e| format!("{STATE}: {e}"))
}

/// Whether a directory of checkpoints holds any.
pub(crate) fn exists(root: &Path) -> Result<bool> {
    Ok(!whole_names(root)?.is_empty())
}

/// The checkpoints to try: the one `latest` names, then all from the newest down.
fn candidates(root: &Path) -> Result<Vec<PathBuf>> {
    let mut all = whole_names(root)?;
    all.reverse();
    if let Ok(latest) = fs::read_to_string(root.join(LATEST)) {
        let named = root.join(latest.trim());
        if let Some(at) = all.iter().position(|p| *p == named) {
            let named = all.remove(at);
            all.insert(0, named);
        }
    }
    Ok(all)
}

/// Directories that carry a checkpoint's final name, oldest first.
fn whole_names(root: &Path) -> Result<Vec<PathBuf>> {
    let mut all = directories(root)?;
    all.retain(|d| d.extension().is_none());
    all.sort();
    Ok(all)
}

fn directories(root: &Path) -> Result<Vec<PathBuf>> {
    let list = || -> io::Result<Vec<PathBuf>> {
        let mut found = Vec::new();
        for entry in fs::read_dir(root)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() && entry.file_name().to_string_lossy().starts_with("epoch-") {
                found.push(entry.path());
            }
        }
        Ok(found)
    };
    match list() {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        other => other.map_err(TrainError::io("list", root)),
    }
}

fn checksum(path: &Path) -> io::Result<String> {
    let mut hasher = blake3::Hasher::new();
    let mut file = fs::File::open(path)?;
    let mut chunk = vec![0; 1 << 20];
    loop {
        match file.read(&mut chunk)? {
            0 => return Ok(hasher.finalize().to_hex().to_string()),
            n => hasher.update(&chunk[..n]),
        };
    }
}

/// A tensor as safetensors writes it: little-endian f32, every bit kept.
struct Stored<'a>(&'a Tensor);

impl View for Stored<'_> {
    fn dtype(&self) -> Dtype {
        Dtype::F32
    }

    fn shape(&self) -> &[usize] {
        self.0.dims()
    }

    fn data(&self) -> Cow<'_, [u8]> {
        let mut bytes = vec![0; self.data_len()];
        for (out, x) in bytes.as_chunks_mut::<4>().0.iter_mut().zip(self.0.data()) {
            *out = x.to_le_bytes();
        }
        Cow::Owned(bytes)
    }

    fn data_len(&self) -> usize {
        self.0.len() * 4
    }
}

fn write_tensors(path: &Path, tensors: &Named) -> io::Result<()> {
    let views = tensors.iter().map(|(name, tensor)| (name, Stored(tensor)));
    safetensors::serialize_to_file(views, None, path).map_err(io::Error::other)
}

fn read_tensors(bytes: &[u8]) -> std::result::Result<Named, String> {
    let file = SafeTensors::deserialize(bytes).map_err(|e| e.to_string())?;
    file.iter()
        .map(|(name, view)| {
            if view.dtype() != Dtype::F32 || view.shape().len() > 4 {
                return Err(format!("{name} is {:?} {:?}, expected F32", view.dtype(), view.shape()));
            }
            let mut tensor = Tensor::any(view.shape());
            for (x, bytes) in tensor.data_mut().iter_mut().zip(view.data().as_chunks::<4>().0) {
                *x = f32::from_le_bytes(*bytes);
            }
            Ok((name.to_owned(), tensor))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checkpoint(step: u64) -> Checkpoint {
        let odd = [f32::MIN_POSITIVE / 3.0, -0.0, 1.0 + f32::EPSILON, f32::NAN];
        let named: Named = [("权重.weight".to_owned(), Tensor::from_slice(&[2, 2], &odd).expect("four"))].into();
        Checkpoint {
            state: State { step, ..State::default() },
            model: named.clone(),
            optimizer: named,
            ema: None,
            best: None,
        }
    }

    fn newest_step(root: &Path) -> (u64, usize) {
        let mut damaged = 0;
        let (_, found) = Checkpoint::newest(root, |_, _| damaged += 1).expect("readable").expect("one");
        (found.state.step, damaged)
    }

    #[test]
    fn every_bit_comes_back_and_old_ones_go() {
        let dir = tempfile::tempdir().expect("dir");
        let disk = Disk::default();
        for step in 1..=4 {
            checkpoint(step).save(&disk, dir.path(), 2).expect("save");
        }
        let (path, back) = Checkpoint::newest(dir.path(), |_, p| panic!("{p}")).expect("load").expect("one");
        assert_eq!(back.state.step, 4);
        let bits = |named: &Named| named["权重.weight"].data().iter().map(|x| x.to_bits()).collect::<Vec<_>>();
        assert_eq!(bits(&back.model), bits(&checkpoint(4).model));
        assert_eq!(whole_names(dir.path()).expect("list").len(), 2);
        assert_eq!(
            fs::read_to_string(dir.path().join(LATEST)).expect("latest"),
            path.file_name().unwrap().to_str().unwrap()
        );
    }

    #[test]
    fn a_damaged_checkpoint_is_passed_over() {
        let dir = tempfile::tempdir().expect("dir");
        for step in [1, 2] {
            checkpoint(step).save(&Disk::default(), dir.path(), 2).expect("save");
        }
        let newest = whole_names(dir.path()).expect("list").pop().expect("two");
        for (file, harm) in [("model.safetensors", true), (STATE, true), (CHECKSUMS, true), (STATE, false)] {
            let file = newest.join(file);
            let whole = fs::read(&file).expect("read");
            let mut harmed = whole.clone();
            if harm {
                let middle = harmed.len() / 2;
                harmed[middle] ^= 4;
            } else {
                harmed.truncate(10);
            }
            fs::write(&file, harmed).expect("write");
            assert_eq!(newest_step(dir.path()), (1, 1), "{}", file.display());
            fs::write(&file, whole).expect("write");
        }
        assert_eq!(newest_step(dir.path()), (2, 0));
        for path in whole_names(dir.path()).expect("list") {
            fs::remove_file(path.join("optimizer.safetensors")).expect("remove");
        }
        assert!(matches!(Checkpoint::newest(dir.path(), |_, _| {}), Err(TrainError::NoWholeCheckpoint { .. })));
    }

    #[test]
    fn nothing_there_is_not_an_error() {
        let dir = tempfile::tempdir().expect("dir");
        assert!(Checkpoint::newest(&dir.path().join("none"), |_, _| {}).expect("fine").is_none());
    }
}
