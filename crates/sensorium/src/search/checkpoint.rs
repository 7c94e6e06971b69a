//! The space of a checkpoint: its towers, which must be equally wide.

use super::space::{Similarity, Space};
use crate::{Error, Result, processors};
use sensorium_data::{ColumnPlan, DataPlan, Modality, PlanOptions, Processor};
use sensorium_engine::{Init, Params, Tape};
use sensorium_model::pretrained::{PartConfig, Pretrained};
use sensorium_model::{ColumnInput, Context, Tower, TowerConfig};
use std::path::Path;

/// What cosines are multiplied with where a checkpoint has no scale of its
/// own: sentence-transformers' usual one.
const SCALE: f32 = 20.0;

/// The towers of a checkpoint.
pub(super) struct CheckpointSpace {
    plan: DataPlan,
    towers: Vec<(TowerConfig, Tower, Params)>,
    similarity: Similarity,
}

impl CheckpointSpace {
    /// Opens a checkpoint's folder.
    pub(super) fn open(source: &Path) -> Result<Self> {
        let checkpoint = Pretrained::open(source)?;
        let mut options = PlanOptions::default();
        let mut towers: Vec<(TowerConfig, Tower, Params)> = Vec::new();
        let mut modalities = Vec::new();
        for part in checkpoint.parts() {
            let PartConfig::Tower(config) = &part.config else { continue };
            let Some(modality) = reads(config).filter(|m| !modalities.contains(m)) else { continue };
            processors::prepare(&checkpoint, config, &mut options)?;
            let (tower, params) = checkpoint.load_tower(part.name)?;
            towers.push((TowerConfig::clone(config), tower, params));
            modalities.push(modality);
        }
        let parts = || checkpoint.parts().iter().map(|p| p.name).collect::<Vec<_>>().join(", ");
        let Some(first) = towers.first() else {
            return Err(Error::model(
                source,
                format!(
                    "is a {} checkpoint without an encoder (it holds: {}); search needs encoders of text, pictures, sound or video",
                    checkpoint.family().name,
                    parts()
                ),
            ));
        };
        let dim = first.0.dim();
        if let Some(other) = towers.iter().find(|t| t.0.dim() != dim) {
            return Err(Error::model(
                source,
                format!("its towers do not meet in one space: one makes {dim} numbers, another {}", other.0.dim()),
            ));
        }
        let columns = modalities.into_iter().map(|modality| {
            let processor = match modality {
                Modality::Image => Processor::Image(options.image.clone()),
                Modality::Audio => Processor::Audio(options.audio.clone()),
                Modality::Video => Processor::Video(options.video.clone()),
                _ => Processor::Text(options.text.clone()),
            };
            let name = modality.name().to_owned();
            ColumnPlan { source: name.clone(), name, modality, processor, sound_track: false }
        });
        let plan = DataPlan {
            version: sensorium_data::plan::VERSION,
            columns: columns.collect(),
            label: None,
            limits: options.limits.clone(),
            tokenizer: options.tokenizer,
        };
        Ok(Self { plan, towers, similarity: similarity(&checkpoint)? })
    }
}

/// The learned scale and bias of a pair of towers.
pub(crate) fn similarity(checkpoint: &Pretrained) -> Result<Similarity> {
    // Texts are compared with what they are looked up for: the scale of pictures, or of sounds.
    let pair = checkpoint.parts().iter().find_map(|part| match &part.config {
        PartConfig::ImageText(config) => Some((part.name, "logit_scale", config.logit_bias)),
        PartConfig::AudioText(_) => Some((part.name, "logit_scale_audio", false)),
        _ => None,
    });
    let Some((name, scale, has_bias)) = pair else { return Ok(Similarity { scale: SCALE, bias: None }) };
    let mut params = Params::new();
    let (scale, bias) = checkpoint.load_into(&mut params, name, |b| {
        let scale = b.param(scale, &[1, 1], Init::Constant(0.0))?;
        let bias = if has_bias { Some(b.param("logit_bias", &[1, 1], Init::Constant(0.0))?) } else { None };
        Ok((scale, bias))
    })?;
    let number = |id| params.get(id).value.data()[0];
    Ok(Similarity { scale: number(scale).exp(), bias: bias.map(number) })
}

fn reads(config: &TowerConfig) -> Option<Modality> {
    match config {
        TowerConfig::Text(_) => Some(Modality::Text),
        TowerConfig::Image(_) => Some(Modality::Image),
        TowerConfig::Audio(_) => Some(Modality::Audio),
        TowerConfig::Video(_) | TowerConfig::SpaceTime(_) => Some(Modality::Video),
        TowerConfig::Features(_) | TowerConfig::Tabular(_) => None,
    }
}

impl Space for CheckpointSpace {
    fn inputs(&self) -> &DataPlan {
        &self.plan
    }

    fn dim(&self) -> usize {
        self.towers[0].0.dim()
    }

    fn fingerprint(&self) -> String {
        let mut hasher = blake3::Hasher::new();
        let configs: Vec<&TowerConfig> = self.towers.iter().map(|t| &t.0).collect();
        // Both are plain data, which always has a JSON.
        hasher.update(serde_json::json!([&self.plan, configs]).to_string().as_bytes());
        if let Some(tokenizer) = &self.plan.tokenizer {
            hasher.update(tokenizer.json());
        }
        for (_, _, params) in &self.towers {
            for (_, p) in params.iter() {
                hasher.update(p.name.as_bytes());
                for chunk in p.value.data().chunks(1 << 14) {
                    let bytes: Vec<u8> = chunk.iter().flat_map(|x| x.to_le_bytes()).collect();
                    hasher.update(&bytes);
                }
            }
        }
        hasher.finalize().to_hex().to_string()
    }

    fn embed(&self, way: usize, input: &ColumnInput, samples: usize) -> Result<Vec<Option<Vec<f32>>>> {
        if input.sample_of().is_empty() {
            return Ok(vec![None; samples]);
        }
        let (_, tower, params) = &self.towers[way];
        let tape = Tape::inference();
        let cx = Context::inference(&tape, params);
        let features = tower.forward(&cx, input)?;
        let (vectors, of) = features.sample_vectors(&cx, samples)?;
        let (values, dim) = (vectors.value().data(), self.dim());
        Ok(of.into_iter().map(|at| at.map(|at| values[at as usize * dim..][..dim].to_vec())).collect())
    }

    fn similarity(&self) -> Similarity {
        self.similarity
    }
}
