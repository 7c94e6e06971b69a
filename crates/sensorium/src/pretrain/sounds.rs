//! What is learnt of sounds: the structure of an Audio Spectrogram Transformer,
//! from scratch or from a checkpoint, and the sounds of a table.

use super::config::PretrainConfig;
use super::going_on;
use super::pictures::sizes;
use super::start::START;
use crate::{Dataset, Error, Result};
use sensorium_data::processor::{AudioFeatures, AudioProcessor};
use sensorium_data::{DataPlan, PlanOptions, Processor};
use sensorium_media::audio::log_mel::Window;
use sensorium_model::TowerConfig;
use sensorium_model::pretrained::{Config, KeyMap, PartConfig, Pretrained, describe};
use sensorium_model::towers::AudioTowerConfig;
use serde_json::{Value, json};
use std::path::Path;
use std::sync::Arc;

/// Frames of a spectrogram in a second.
const FRAMES_PER_SECOND: f64 = 100.0;
/// What a second of frames needs more of samples: the last window reaches further.
const WINDOW_SECONDS: f64 = 0.015;
/// Bands and frames of a square.
const SQUARE: usize = 16;

/// The model of sounds.
pub(super) struct AudioStructure {
    /// The family's `config.json`.
    pub config: Value,
    /// The family's name among people.
    pub family: &'static str,
    /// The encoder.
    pub tower: AudioTowerConfig,
    /// The names of its tensors.
    pub keys: KeyMap,
    /// Where it goes on from.
    pub source: Option<Pretrained>,
    /// How sounds are prepared.
    pub processor: AudioProcessor,
    /// How rows become sounds.
    pub plan: Arc<DataPlan>,
}

impl AudioStructure {
    /// Decides on the structure, and how the sounds of a table are prepared.
    ///
    /// # Errors
    /// When a checkpoint is not an AST, sizes do not fit, or no training row
    /// has a sound.
    pub(super) fn new(config: &mut PretrainConfig, dataset: &Dataset) -> Result<Self> {
        let wrong = |key: &str, problem: String| Error::Config { place: format!("audio.{key}"), problem };
        let (json, source, given) = match config.audio.encoder.clone() {
            Some(folder) => {
                let (source, processor) = going_on(config, &folder)?;
                (source.config().to_value(), Some(source), Some(processor))
            }
            None => (ast(config, dataset.splits.train.len())?, None, None),
        };
        let described = Config::new("audio.tower", json.clone())?;
        let (family, parts) = describe(&described, Path::new("audio.tower"))?;
        let part = parts.iter().find(|p| p.name == "audio");
        let Some((part, PartConfig::Tower(tower))) = part.map(|p| (p, &p.config)) else {
            return Err(wrong("encoder", format!("{} has no audio tower", family.name)));
        };
        let TowerConfig::Audio(tower) = (**tower).clone() else {
            return Err(wrong("encoder", format!("{} has no audio tower", family.name)));
        };
        tower.transformer.block.validate("audio.tower")?;
        let wanted = given.unwrap_or_else(|| AudioProcessor {
            sample_rate: config.audio.sample_rate,
            features: AudioFeatures::Kaldi,
            mels: tower.mels,
            window: Window::Hann,
            max_seconds: tower.max_positions as f64 / FRAMES_PER_SECOND + WINDOW_SECONDS,
            ..AudioProcessor::default()
        });
        let how = PlanOptions {
            // A sound costs as much as it is long.
            audio: AudioProcessor { pad_seconds: None, ..wanted },
            limits: config.limits.clone(),
            ..PlanOptions::default()
        };
        let plan = DataPlan::fit(&dataset.table, &dataset.schema, &dataset.splits.train, &how)?;
        let mut processors = plan.columns.iter().filter_map(|c| match &c.processor {
            Processor::Audio(p) => Some(p.clone()),
            _ => None,
        });
        let (Some(processor), None) = (processors.next(), processors.next()) else {
            let problem = "sounds are learnt from one column; leave the others out with data.ignore";
            return Err(Error::Request(problem.into()));
        };
        Ok(Self {
            config: json,
            family: family.name,
            tower,
            keys: part.keys.clone(),
            source,
            processor,
            plan: Arc::new(plan),
        })
    }

    /// The fewest frames of a sound that it can hear.
    pub(super) fn shortest(&self) -> usize {
        self.tower.least_frames()
    }

    /// The `preprocessor_config.json` that says how sounds are prepared.
    pub(super) fn preprocessor(&self) -> Value {
        let p = &self.processor;
        json!({
            "feature_extractor_type": "ASTFeatureExtractor",
            "feature_size": 1,
            "sampling_rate": p.sample_rate,
            "num_mel_bins": p.mels,
            "max_length": self.tower.max_positions,
            "do_normalize": true,
            "mean": p.mean,
            // The extractor divides by twice the deviation.
            "std": f64::from(p.std) / 2.0,
            "padding_side": "right",
            "padding_value": 0.0,
            "return_attention_mask": false,
        })
    }
}

fn going_on(config: &PretrainConfig, folder: &Path) -> Result<(Pretrained, AudioProcessor)> {
    let source = going_on::checkpoint("audio", &config.audio.tower, folder)?;
    let what = "masked spectrogram modelling goes on from AST";
    going_on::of_family("audio", &source, &["audio-spectrogram-transformer"], what)?;
    let processor = AudioProcessor::from_folder(source.folder())?.ok_or_else(|| {
        let problem = "has no preprocessor_config.json, which says how sounds become what it hears";
        going_on::wrong("audio", problem.into())
    })?;
    Ok((source, processor))
}

fn ast(config: &mut PretrainConfig, rows: usize) -> Result<Value> {
    let audio = &mut config.audio;
    let wrong = |key: &str, problem: String| Err(Error::Config { place: format!("audio.{key}"), problem });
    if audio.features != AudioFeatures::Kaldi {
        return wrong("features", "an AST hears Kaldi's; expected \"kaldi\"".into());
    }
    if !audio.mels.is_multiple_of(SQUARE) {
        return wrong("mels", format!("{} is not a multiple of the {SQUARE} bands of a square", audio.mels));
    }
    let frames = (audio.max_seconds * FRAMES_PER_SECOND).round() as usize;
    if frames < SQUARE {
        return wrong("max_seconds", format!("{} s are less than a square of {SQUARE} frames", audio.max_seconds));
    }
    let tower = &mut audio.tower;
    let [hidden, layers, heads] = sizes(tower, rows);
    Ok(json!({
        "architectures": ["ASTModel"],
        "model_type": "audio-spectrogram-transformer",
        "dtype": "float32",
        "hidden_size": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "intermediate_size": 4 * hidden,
        "hidden_act": "gelu",
        "hidden_dropout_prob": tower.dropout,
        "attention_probs_dropout_prob": tower.attention_dropout,
        "patch_size": SQUARE,
        "frequency_stride": SQUARE,
        "time_stride": SQUARE,
        "max_length": frames,
        "num_mel_bins": audio.mels,
        "qkv_bias": true,
        "layer_norm_eps": 1e-12,
        "initializer_range": START,
    }))
}
