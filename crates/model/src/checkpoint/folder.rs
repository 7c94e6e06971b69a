//! Which files of a folder hold the weights.

use crate::{ModelError, Result};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// What is looked for, in this order.
const KNOWN: [&str; 5] = [
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
    "adapter_model.safetensors",
];
/// The endings of weights files.
const ENDINGS: [&str; 4] = ["safetensors", "bin", "pt", "pth"];
/// Files of a training run that carry such an ending and are no weights.
const NO_WEIGHTS: [&str; 5] = ["training_args.bin", "optimizer.bin", "optimizer.pt", "scheduler.pt", "scaler.pt"];
/// The longest index that is read.
const LONGEST_INDEX: u64 = 100_000_000;

/// The weights file, or the index of several, that a folder holds.
pub(crate) fn weights_of(folder: &Path) -> Result<PathBuf> {
    if let Some(known) = KNOWN.iter().map(|name| folder.join(name)).find(|path| path.is_file()) {
        return Ok(known);
    }
    let listed = std::fs::read_dir(folder).and_then(Iterator::collect::<std::io::Result<Vec<_>>>);
    let listed = listed.map_err(|e| ModelError::checkpoint(folder, format!("cannot be listed: {e}")))?;
    let mut found: Vec<PathBuf> = listed.into_iter().map(|entry| entry.path()).filter(|p| holds_weights(p)).collect();
    found.sort();
    match found.as_slice() {
        [one] => Ok(one.clone()),
        [] => {
            let below = below(folder);
            let problem = match below.as_slice() {
                [] => format!(
                    "there are no weights in this folder; expected one of {}, or one file *.pt",
                    KNOWN[..4].join(", ")
                ),
                [one] => format!("there are no weights in this folder; did you mean {one}?"),
                several => format!("there are no weights in this folder; did you mean one of {}?", several.join(", ")),
            };
            Err(ModelError::checkpoint(folder, problem))
        }
        several => {
            let names: Vec<_> = several.iter().filter_map(|p| p.file_name()).map(|n| n.to_string_lossy()).collect();
            let problem = format!("there are several weights files, name one of them: {}", names.join(", "));
            Err(ModelError::checkpoint(folder, problem))
        }
    }
}

/// The folders in this one that hold weights.
fn below(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    let known = |path: &PathBuf| KNOWN.iter().any(|name| path.join(name).is_file());
    let mut below: Vec<String> = entries.filter(known).map(|path| path.display().to_string()).collect();
    below.sort();
    below
}

fn holds_weights(path: &Path) -> bool {
    let ending = path.extension().and_then(|e| e.to_str()).is_some_and(|e| ENDINGS.contains(&e));
    let name = path.file_name().and_then(|n| n.to_str()).unwrap_or_default();
    ending && path.is_file() && !NO_WEIGHTS.contains(&name) && !name.starts_with("rng_state")
}

/// Whether a file is an index of shards.
pub(crate) fn is_index(path: &Path) -> bool {
    path.extension().is_some_and(|e| e == "json")
}

/// The index of a checkpoint in several files.
#[derive(Deserialize)]
pub(crate) struct Index {
    /// The file of each tensor.
    pub(crate) weight_map: BTreeMap<String, String>,
}

impl Index {
    /// Reads an index; the files it names must lie beside it.
    pub(crate) fn read(path: &Path) -> Result<Self> {
        let broken = |problem: String| ModelError::checkpoint(path, problem);
        let length = std::fs::metadata(path).map_err(|e| broken(format!("cannot be opened: {e}")))?.len();
        if length > LONGEST_INDEX {
            return Err(broken(format!("is {length} bytes long; at most {LONGEST_INDEX} are read")));
        }
        let json = std::fs::read(path).map_err(|e| broken(format!("cannot be read: {e}")))?;
        let index: Self = serde_json::from_slice(&json)
            .map_err(|e| broken(format!("is not an index of weights files ({e}); expected a \"weight_map\"")))?;
        if let Some(outside) = index.weight_map.values().find(|name| !is_plain(name)) {
            return Err(broken(format!("names the file {outside:?}; expected a name without folders")));
        }
        Ok(index)
    }

    /// The names of the files, each once.
    pub(crate) fn files(&self) -> Vec<&str> {
        let mut files: Vec<&str> = self.weight_map.values().map(String::as_str).collect();
        files.sort_unstable();
        files.dedup();
        files
    }
}

fn is_plain(name: &str) -> bool {
    !name.is_empty() && name != "." && name != ".." && !name.contains(['/', '\\', ':', '\0'])
}
