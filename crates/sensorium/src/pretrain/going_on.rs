//! Going on from a checkpoint: it decides about sizes, and only some families
//! have what is to be learnt.

use crate::config::TowerSection;
use crate::{Error, Result, hub};
use sensorium_model::pretrained::Pretrained;
use std::path::Path;

/// Opens the checkpoint that a section of the configuration names as
/// `SECTION.encoder`.
///
/// # Errors
/// When sizes are set beside it, or it is no checkpoint that is known.
pub(super) fn checkpoint(section: &str, tower: &TowerSection, folder: &Path) -> Result<Pretrained> {
    if tower.hidden.is_some() || tower.layers.is_some() || tower.heads.is_some() {
        return Err(Error::Config {
            place: format!("{section}.tower"),
            problem: format!("sizes are decided by {section}.encoder; leave hidden, layers and heads out"),
        });
    }
    let folder = hub::resolve(&folder.to_string_lossy(), &mut |_| {});
    let folder = folder.map_err(|e| wrong(section, e.to_string()))?;
    Pretrained::open(&folder).map_err(|e| wrong(section, e.to_string()))
}

/// Refuses a checkpoint of another family; `what` goes on from those of these
/// names in their `config.json`.
///
/// # Errors
/// When it is of another.
pub(super) fn of_family(section: &str, source: &Pretrained, known: &[&str], what: &str) -> Result<()> {
    match known.contains(&source.config().str_or("model_type", "")?) {
        true => Ok(()),
        false => Err(wrong(section, format!("{what}; this is a {} checkpoint", source.family().name))),
    }
}

/// A fault of the checkpoint that a section names.
pub(super) fn wrong(section: &str, problem: String) -> Error {
    Error::Config { place: format!("{section}.encoder"), problem }
}
