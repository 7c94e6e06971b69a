//! How a checkpoint's inputs are prepared: what its files say of tokenizers,
//! pictures and sounds.

use crate::{Error, Result};
use sensorium_data::processor::{AudioProcessor, ImageProcessor};
use sensorium_data::{PlanOptions, Tokenizer};
use sensorium_model::TowerConfig;
use sensorium_model::pretrained::Pretrained;
use std::path::Path;

/// Sets the way of preparing inputs that a tower of a checkpoint was trained
/// with.
///
/// # Errors
/// When the checkpoint's files do not say how, or say what is not computed
/// here.
pub(crate) fn prepare(source: &Pretrained, tower: &TowerConfig, options: &mut PlanOptions) -> Result<()> {
    match tower {
        TowerConfig::Text(text) => {
            options.tokenizer = Some(Tokenizer::from_folder(source.folder())?);
            let longest = longest_sentence(source.folder())?.unwrap_or(text.max_positions);
            options.text.max_tokens = longest.min(text.max_positions);
        }
        TowerConfig::Image(_) => options.image = image(source)?,
        TowerConfig::Audio(_) => {
            options.audio = AudioProcessor::from_folder(source.folder())?.ok_or_else(|| {
                Error::model(
                    source.folder(),
                    "has no preprocessor_config.json, which says how sounds become what it hears; copy the model's",
                )
            })?;
        }
        TowerConfig::Video(_) | TowerConfig::Features(_) | TowerConfig::Tabular(_) => {}
    }
    Ok(())
}

/// How the pictures of a checkpoint are prepared.
///
/// # Errors
/// When its `preprocessor_config.json` is missing, or says what is not
/// computed here.
pub(crate) fn image(source: &Pretrained) -> Result<ImageProcessor> {
    let path = source.folder().join("preprocessor_config.json");
    let bytes = std::fs::read(&path).map_err(|e| Error::io("read", &path, e))?;
    let json = serde_json::from_slice(&bytes).map_err(|e| Error::model(&path, e.to_string()))?;
    Ok(ImageProcessor::from_preprocessor(&json)?)
}

/// The longest text in tokens that a sentence-transformers folder asks for.
fn longest_sentence(folder: &Path) -> Result<Option<usize>> {
    let path = folder.join("sentence_bert_config.json");
    if !path.is_file() {
        return Ok(None);
    }
    let bytes = std::fs::read(&path).map_err(|e| Error::io("read", &path, e))?;
    let json: serde_json::Value = serde_json::from_slice(&bytes).map_err(|e| Error::model(&path, e.to_string()))?;
    Ok(json["max_seq_length"].as_u64().map(|n| n as usize))
}
