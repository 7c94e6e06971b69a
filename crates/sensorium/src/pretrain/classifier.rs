//! A classifier over an encoder that a column of pictures began with, as an
//! image-classification checkpoint of the encoder's own family.

use super::columns::Columns;
use super::pictures::name_classes;
use super::save::{IMAGE_FOLDER, WEIGHTS_FILE};
use super::together::Together;
use crate::{Error, Result};
use sensorium_engine::Params;
use sensorium_model::checkpoint::write_safetensors;
use sensorium_model::heads::HeadConfig;
use sensorium_model::pretrained::{Config, KeyMap, PartConfig, describe};
use serde_json::Value;
use std::path::Path;

/// Families whose pictures other libraries sort into classes: the class that
/// they do it with, and what the names of the encoder's tensors begin with in it.
const FAMILIES: [(&str, &str, &str); 8] = [
    ("vit", "ViTForImageClassification", "vit."),
    ("deit", "DeiTForImageClassification", "deit."),
    ("dinov2", "Dinov2ForImageClassification", "dinov2."),
    ("dinov2_with_registers", "Dinov2WithRegistersForImageClassification", "dinov2_with_registers."),
    ("beit", "BeitForImageClassification", "beit."),
    ("swin", "SwinForImageClassification", "swin."),
    ("clip", "CLIPForImageClassification", "vision_model."),
    ("siglip", "SiglipForImageClassification", "vision_model."),
];

/// Such a checkpoint, before it is written.
pub(super) struct Classifier {
    config: Value,
    /// What the family's classifier reads.
    pub head: HeadConfig,
    keys: KeyMap,
    prefix: &'static str,
}

impl Classifier {
    /// Over the encoder of a column; None where it began with none, or its
    /// family knows no such classifier.
    ///
    /// # Errors
    /// When the configuration of the encoder cannot be read.
    pub(super) fn of(columns: &Columns, column: usize, id2label: Value) -> Result<Option<Self>> {
        let Some((source, ..)) = columns.encoder(column) else { return Ok(None) };
        let mut config = source.config().to_value();
        let family = FAMILIES.iter().find(|(family, ..)| config["model_type"] == *family);
        let Some((_, class, prefix)) = family else { return Ok(None) };
        name_classes(&mut config, class, id2label);
        let (_, parts) = describe(&Config::new("image.encoder", config.clone())?, source.folder())?;
        let head = parts.into_iter().find_map(|part| match part.config {
            PartConfig::Head(head) if part.name == "classifier" => Some((head, part.keys)),
            _ => None,
        });
        Ok(head.map(|(head, keys)| Self { config, head, keys, prefix }))
    }

    /// Writes the encoder as it is now, with the head whose parameters stand
    /// below `scope`, and what prepares pictures.
    ///
    /// # Errors
    /// When a file cannot be read or written.
    pub(super) fn save(
        &self,
        out: &Path,
        (columns, column): (&Columns, usize),
        together: &Together,
        (params, scope): (&Params, &str),
    ) -> Result<()> {
        let Some((source, part, _)) = columns.encoder(column) else { return Ok(()) };
        let folder = out.join(IMAGE_FOLDER);
        columns.describe_encoder(column, &folder, &self.config)?;
        let beneath = |scope: &str| {
            let scope = format!("{scope}.");
            params.iter().filter_map(move |(_, p)| Some((p.name.strip_prefix(&scope)?, &p.value))).collect::<Vec<_>>()
        };
        // The way into the space of a pair is no part of the classifier.
        let tower = beneath(together.scope(column)).into_iter().filter(|(name, _)| !name.starts_with("projection."));
        let encoder = source.export(part, tower)?.into_iter();
        // A checkpoint of the encoder alone may do without what its names begin with there.
        let full = |name: String| if name.starts_with(self.prefix) { name } else { format!("{}{name}", self.prefix) };
        let mut tensors: Vec<_> = encoder.map(|(name, tensor)| (full(name), tensor)).collect();
        tensors.extend(self.keys.export(beneath(scope))?);
        let path = folder.join(WEIGHTS_FILE);
        write_safetensors(&path, tensors.iter().map(|(name, tensor)| (name.as_str(), tensor)))
            .map_err(|e| Error::model(&path, e.to_string()))
    }
}
