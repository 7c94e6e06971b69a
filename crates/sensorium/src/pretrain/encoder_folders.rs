//! Encoders that columns began with, as checkpoints of their own families: what
//! only the rows have taught them can be gone on from as well.

use super::columns::Columns;
use super::save::{AUDIO_FOLDER, IMAGE_FOLDER, TEXT_FOLDER, VIDEO_FOLDER, WEIGHTS_FILE, save_tokenizer, write_pooling};
use super::together::Together;
use crate::saved::write;
use crate::{Error, Result};
use sensorium_data::Modality;
use sensorium_engine::{Params, Tensor};
use sensorium_model::TowerConfig;
use sensorium_model::checkpoint::write_safetensors;
use sensorium_model::pretrained::{PartConfig, Pretrained};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::Path;

/// That of a pair that two columns began with.
pub const ENCODER_FOLDER: &str = "encoder";
/// Files that say how pictures, sounds and videos are prepared.
const PROCESSORS: [&str; 3] = ["preprocessor_config.json", "processor_config.json", "video_preprocessor_config.json"];

impl Columns {
    /// The checkpoint that a column began with, its part and the tower, where no
    /// objective over one modality has its structure.
    pub(super) fn encoder(&self, column: usize) -> Option<(&Pretrained, &'static str, &TowerConfig)> {
        self.encoders.source(&self.plan.columns[column].processor)
    }

    /// Begins a folder for a column's encoder: a configuration, and what
    /// prepares inputs.
    ///
    /// # Errors
    /// When a file cannot be read or written.
    pub(super) fn describe_encoder(&self, column: usize, folder: &Path, config: &Value) -> Result<()> {
        self.encoder(column).map_or(Ok(()), |(source, ..)| describe_as(source, folder, config))
    }

    /// Whether a column's encoder is of the single frames of its videos.
    fn frames_alone(&self, column: usize) -> bool {
        self.plan.columns[column].modality == Modality::Video
            && self.encoder(column).is_some_and(|(_, part, _)| part == "image")
    }
}

/// A checkpoint that a run leaves.
pub(super) struct EncoderFolder {
    name: &'static str,
    /// The part of the checkpoint that it began with.
    part: &'static str,
    /// Columns, and what their towers are called within that part.
    towers: Vec<(usize, &'static str)>,
    /// What the scale of the similarities is called there.
    scale: Option<&'static str>,
}

impl EncoderFolder {
    /// Those of a run. What cannot be written in the files of its family is left
    /// out, and `note` is told why.
    pub(super) fn of(columns: &Columns, together: &Together, params: &Params, note: &mut dyn FnMut(&str)) -> Vec<Self> {
        let mut folders = match Self::pair(columns) {
            Some(pair) => vec![pair],
            None => Self::alone(columns, note),
        };
        folders.retain(|folder| match folder.tensors(columns, together, params) {
            Ok(_) => folder.towers.iter().any(|(column, _)| !together.idle(*column)),
            Err(e) => {
                note(&format!("{}/ is not written, what it would hold stands in pair/ alone: {e}", folder.name));
                false
            }
        });
        folders
    }

    /// Both towers of a pair that meet as they did in it.
    fn pair(columns: &Columns) -> Option<Self> {
        columns.similarity?;
        let only = |modality: Modality| {
            let mut of = (0..columns.plan.columns.len()).filter(|c| columns.plan.columns[*c].modality == modality);
            of.next().filter(|_| of.next().is_none())
        };
        let text = only(Modality::Text)?;
        let (source, ..) = columns.encoder(text)?;
        source.parts().iter().find_map(|part| {
            let (modality, name, scale) = match &part.config {
                PartConfig::ImageText(_) => (Modality::Image, "image.", "logit_scale"),
                PartConfig::AudioText(_) => (Modality::Audio, "audio.", "logit_scale_audio"),
                _ => return None,
            };
            let towers = vec![(text, "text."), (only(modality)?, name)];
            Some(Self { name: ENCODER_FOLDER, part: part.name, towers, scale: Some(scale) })
        })
    }

    /// One for each encoder that a single column began with.
    fn alone(columns: &Columns, note: &mut dyn FnMut(&str)) -> Vec<Self> {
        let modalities = [
            (Modality::Text, TEXT_FOLDER),
            (Modality::Image, IMAGE_FOLDER),
            (Modality::Audio, AUDIO_FOLDER),
            (Modality::Video, VIDEO_FOLDER),
        ];
        let mut folders = Vec::new();
        for (modality, name) in modalities {
            let of = (0..columns.plan.columns.len()).filter(|c| columns.plan.columns[*c].modality == modality);
            let of: Vec<usize> = of.filter(|c| columns.encoder(*c).is_some()).collect();
            match of[..] {
                [] => {}
                [column] => {
                    let part = columns.encoder(column).map_or("", |(_, part, _)| part);
                    folders.push(Self { name, part, towers: vec![(column, "")], scale: None });
                }
                _ => note(&format!("{name}/ is not written: several columns began with that encoder; pair/ has each")),
            }
        }
        folders
    }

    fn source<'a>(&self, columns: &'a Columns) -> Result<(&'a Pretrained, &'a TowerConfig)> {
        let found = self.towers.first().and_then(|(column, _)| columns.encoder(*column));
        let (source, _, tower) = found.ok_or_else(|| Error::Request(format!("{} began with no encoder", self.name)))?;
        Ok((source, tower))
    }

    /// The weights under the names of the checkpoint.
    fn tensors(&self, columns: &Columns, together: &Together, params: &Params) -> Result<BTreeMap<String, Tensor>> {
        let (source, _) = self.source(columns)?;
        let mut ours: Vec<(String, &Tensor)> = Vec::new();
        for (column, name) in &self.towers {
            let scope = match columns.frames_alone(*column) {
                true => together.frames_scope(*column),
                false => together.scope(*column).to_owned(),
            };
            let beneath = params.iter().filter_map(|(_, p)| {
                let rest = p.name.strip_prefix(&scope)?.strip_prefix('.')?;
                Some((format!("{name}{rest}"), &p.value))
            });
            ours.extend(beneath);
        }
        let mut tensors = source.export(self.part, ours.iter().map(|(name, tensor)| (name.as_str(), *tensor)))?;
        if let Some(scale) = self.scale {
            let numbers = params.iter().filter(|(_, p)| ["logit_scale", "logit_bias"].contains(&p.name.as_str()));
            let numbers = numbers.map(|(_, p)| (if p.name == "logit_scale" { scale } else { "logit_bias" }, &p.value));
            let known = numbers.filter(|(name, _)| source.tensor_name(self.part, name).is_some());
            tensors.extend(source.export(self.part, known)?);
            // What the loss does not use stays as it was.
            for name in ["logit_bias", "logit_scale_text"] {
                let theirs = source.tensor_name(self.part, name);
                if let Some(theirs) =
                    theirs.filter(|n| source.checkpoint().info(n).is_some() && !tensors.contains_key(n))
                {
                    let tensor = source.checkpoint().read(&theirs)?;
                    tensors.insert(theirs, tensor);
                }
            }
        }
        Ok(tensors)
    }

    /// Writes weights, configuration, and what prepares inputs.
    ///
    /// # Errors
    /// When a file cannot be read or written.
    pub(super) fn save(&self, out: &Path, columns: &Columns, together: &Together, params: &Params) -> Result<()> {
        let folder = out.join(self.name);
        let (source, tower) = self.source(columns)?;
        describe_as(source, &folder, &source.config().to_value())?;
        if let (TowerConfig::Text(text), Some(tokenizer)) = (tower, &columns.plan.tokenizer) {
            let longest = columns.fit.text.max_tokens;
            save_tokenizer(&folder, tokenizer, longest)?;
            // A pooler or projection of its own says how tokens become one vector.
            if self.scale.is_none() && text.pooler.is_none() && text.projection.is_none() {
                write_pooling(&folder, text, longest)?;
            }
        }
        let tensors = self.tensors(columns, together, params)?;
        let path = folder.join(WEIGHTS_FILE);
        Ok(write_safetensors(&path, tensors.iter().map(|(name, tensor)| (name.as_str(), tensor)))?)
    }
}

/// Configuration, and the files of a checkpoint that say how inputs are prepared.
fn describe_as(source: &Pretrained, folder: &Path, config: &Value) -> Result<()> {
    std::fs::create_dir_all(folder).map_err(|e| Error::io("create", folder, e))?;
    let json = serde_json::to_vec_pretty(config).map_err(|e| Error::model(folder, e.to_string()))?;
    write(&folder.join("config.json"), &json)?;
    for name in PROCESSORS {
        let from = source.folder().join(name);
        if from.is_file() {
            let bytes = std::fs::read(&from).map_err(|e| Error::io("read", &from, e))?;
            write(&folder.join(name), &bytes)?;
        }
    }
    Ok(())
}
