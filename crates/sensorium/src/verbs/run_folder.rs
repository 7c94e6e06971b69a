//! The folder that a run writes into: whether one may begin there or go on, and
//! what has changed when it may not.

use super::fit::{FitOptions, Follower};
use crate::saved::{FIT_FILE, WEIGHTS_FILE};
use crate::{Error, Result};
use sensorium_train::TrainError;
use std::io::Read;
use std::path::Path;

/// What a kind of run leaves in its folder.
pub(crate) struct RunFolder {
    /// The first line of its `config.toml`.
    pub head: &'static str,
    /// Folders in which weights mean that it is finished, "" for its own.
    pub finished: &'static [&'static str],
    /// What it writes before `config.toml`.
    pub before: &'static [&'static str],
}

impl RunFolder {
    /// Enters the folder of the options, writing nothing. A run that is to go
    /// on but has no checkpoint yet begins anew, with a line that says so:
    /// `resume` is off in what comes back.
    ///
    /// # Errors
    /// When a run is there already, or none to go on with, or files that no
    /// run has written.
    pub(crate) fn enter(&self, options: &FitOptions, follower: &mut dyn Follower) -> Result<FitOptions> {
        let out = &options.out;
        let finished = self.finished.iter().any(|folder| out.join(folder).join(WEIGHTS_FILE).exists());
        let foreign = self.foreign(out)?;
        let refuse = |problem: String| Err(Error::Request(format!("{out:?} {problem}")));
        if !options.resume {
            if finished || sensorium_train::checkpoints_dir(out).exists() {
                return refuse(
                    "already holds a run; go on with it with --resume, or choose another folder with --out".into(),
                );
            }
            return match foreign {
                Some(file) => refuse(format!(
                    "holds files that no run of this kind has written, such as {file:?}; choose another folder with --out"
                )),
                None => Ok(options.clone()),
            };
        }
        if sensorium_train::has_checkpoint(out)? {
            return Ok(options.clone());
        }
        if finished {
            return refuse(
                "holds a finished model, but no checkpoint to go on from; to train anew, leave --resume out and choose \
                 another folder with --out"
                    .into(),
            );
        }
        if foreign.is_some() || !std::fs::read_dir(out).is_ok_and(|mut entries| entries.next().is_some()) {
            return refuse(
                "holds no run to go on with; leave --resume out to train anew, or name the folder of the run with --out"
                    .into(),
            );
        }
        follower.note(&format!("{out:?} has no checkpoint yet: the run begins anew"));
        Ok(FitOptions { resume: false, ..options.clone() })
    }

    /// A file in a folder that no run of this kind has begun in; None in the
    /// folder of one, in an empty one, and where there is none.
    fn foreign(&self, out: &Path) -> Result<Option<String>> {
        let begins = |path: &Path| {
            let mut head = vec![0; self.head.len()];
            std::fs::File::open(path).and_then(|mut f| f.read_exact(&mut head)).is_ok() && head == self.head.as_bytes()
        };
        if begins(&out.join(FIT_FILE)) || !out.exists() {
            return Ok(None);
        }
        for entry in std::fs::read_dir(out).map_err(|e| Error::io("list", out, e))? {
            let name = entry.map_err(|e| Error::io("list", out, e))?.file_name().to_string_lossy().into_owned();
            // Hidden files come from whoever looks into folders, the others from a run that was killed.
            let passing = name.starts_with('.') || name.ends_with(".partial");
            if !passing && !self.before.contains(&name.as_str()) {
                return Ok(Some(name));
            }
        }
        Ok(None)
    }
}

/// Says of a run that cannot go on what has changed, in words that a person
/// knows: the table or the text in place of what is kept about them.
pub(crate) fn in_words(error: TrainError) -> Error {
    let TrainError::Changed { path, differences } = error else { return error.into() };
    let of_table =
        ["columns.", "texts ", "pictures ", "sounds ", "codebook ", "label.", "training_rows ", "validation_rows "];
    let mut told: Vec<String> = Vec::new();
    for difference in differences {
        let said = if difference.starts_with("corpora ") {
            "the text is another one".into()
        } else if of_table.iter().any(|key| difference.starts_with(key)) {
            "the table is another one, or its rows are split otherwise".into()
        } else {
            difference.strip_prefix("config.").unwrap_or(&difference).to_owned()
        };
        if !told.contains(&said) {
            told.push(said);
        }
    }
    TrainError::Changed { path, differences: told }.into()
}
