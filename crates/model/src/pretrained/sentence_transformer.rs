//! Folders of sentence-transformers: a Transformer, and beside it how its
//! tokens become one vector.

use super::{Config, read_json};
use crate::towers::Pooling;
use crate::{ModelError, Result};
use serde_json::Value;
use std::path::{Path, PathBuf};

/// What a sentence-transformers folder adds to its Transformer.
pub(super) struct SentenceTransformer {
    /// The folder of the Transformer.
    pub transformer: PathBuf,
    /// How its tokens become one vector.
    pub pooling: Pooling,
    /// Whether that vector gets unit length.
    pub normalize: bool,
}

impl SentenceTransformer {
    /// None where the folder is not one.
    ///
    /// # Errors
    /// When it has modules that are not computed here.
    pub fn of(folder: &Path) -> Result<Option<Self>> {
        let path = folder.join("modules.json");
        if !path.is_file() {
            return Ok(None);
        }
        let place = path.display().to_string();
        let modules = read_json(&path)?;
        let modules =
            modules.as_array().ok_or_else(|| ModelError::config(&place, "expected a list of modules".to_owned()))?;
        let mut found = Self { transformer: folder.to_owned(), pooling: Pooling::Mean, normalize: false };
        for module in modules {
            let kind = module["type"].as_str().unwrap_or_default().rsplit('.').next().unwrap_or_default();
            let within = folder.join(module["path"].as_str().unwrap_or_default());
            match kind {
                "Transformer" => found.transformer = within,
                "Normalize" => found.normalize = true,
                "Pooling" => found.pooling = pooling(&within.join("config.json"))?,
                "Dropout" => {}
                _ => {
                    return Err(ModelError::config(
                        place,
                        format!("module {kind:?} is not known; Transformer, Pooling, Normalize and Dropout are"),
                    ));
                }
            }
        }
        Ok(Some(found))
    }
}

fn pooling(path: &Path) -> Result<Pooling> {
    let config = Config::new(path.display().to_string(), read_json(path)?)?;
    let modes = [
        ("pooling_mode_cls_token", Pooling::First),
        ("pooling_mode_mean_tokens", Pooling::Mean),
        ("pooling_mode_max_tokens", Pooling::Max),
        ("pooling_mode_lasttoken", Pooling::Last),
    ];
    for other in ["pooling_mode_mean_sqrt_len_tokens", "pooling_mode_weightedmean_tokens"] {
        config.only(other, &[Value::Bool(false)])?;
    }
    let mut on = Vec::new();
    for (key, mode) in modes {
        if config.bool_or(key, false)? {
            on.push(mode);
        }
    }
    if let Some(name) = config.get("pooling_mode").and_then(Value::as_str) {
        on = match name {
            "cls" => vec![Pooling::First],
            "mean" => vec![Pooling::Mean],
            "max" => vec![Pooling::Max],
            "lasttoken" => vec![Pooling::Last],
            _ => Vec::new(),
        };
    }
    match on[..] {
        [mode] => Ok(mode),
        _ => Err(ModelError::config(
            path.display().to_string(),
            "expected one of the pooling modes cls, mean, max and lasttoken",
        )),
    }
}
