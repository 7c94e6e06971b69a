//! From a configuration and a fitted data plan to a model: sizes left
//! automatic are chosen here, and written back into the configuration.

use crate::config::{FitConfig, TowerSection};
use crate::encoders::Encoders;
use crate::{Error, Result};
use sensorium_data::processor::{AudioFeatures, AudioProcessor, ImageProcessor, TextProcessor, VideoProcessor};
use sensorium_data::{Augmentation, DataPlan, LabelOptions, PlanOptions, Processor, Tokenizer, TokenizerOptions};
use sensorium_model::towers::{
    AudioTowerConfig, FeaturesTowerConfig, ImageTowerConfig, TabularTowerConfig, TextTowerConfig, VideoTowerConfig,
};
use sensorium_model::{BlockConfig, ColumnTower, FusionConfig, ModelConfig, TowerConfig, TransformerConfig};

/// Chooses every automatic size by the number of training rows: small data
/// gets small towers and many epochs.
pub(crate) fn resolve(config: &mut FitConfig, train_rows: usize) {
    let (hidden, text, other, epochs) = match train_rows {
        0..500 => (64, 2, 2, 60),
        500..5_000 => (96, 2, 3, 40),
        5_000..50_000 => (192, 3, 4, 12),
        _ => (256, 4, 6, 4),
    };
    let size = |tower: &mut TowerSection, layers| {
        let hidden = *tower.hidden.get_or_insert(hidden);
        tower.layers.get_or_insert(layers);
        tower.heads.get_or_insert((hidden / 32).max(1));
    };
    size(&mut config.text.tower, text);
    size(&mut config.image.tower, other);
    size(&mut config.audio.tower, other);
    size(&mut config.video.tower, other);
    size(&mut config.features.tower, 1);
    let patch = *config.image.patch_size.get_or_insert((config.image.size / 8).max(1));
    config.image.patch_stride.get_or_insert(patch);
    config.video.patch_size.get_or_insert((config.video.size / 8).max(1));
    config.fusion.dim.get_or_insert(hidden);
    config.data.seed.get_or_insert(0);
    if config.train.epochs == 0 {
        config.train.epochs = epochs;
        if config.train.early_stopping.patience == 0 {
            config.train.early_stopping.patience = (epochs as u32 / 4).max(3);
        }
    }
}

/// How the data are fitted under a configuration.
///
/// # Errors
/// When the tokenizer cannot be loaded.
pub(crate) fn plan_options(config: &FitConfig) -> Result<PlanOptions> {
    let tokenizer = config.text.tokenizer.as_deref().map(Tokenizer::load).transpose()?;
    let mut train_tokenizer = TokenizerOptions { lowercase: config.text.lowercase, ..TokenizerOptions::default() };
    if let Some(size) = config.text.vocab_size {
        train_tokenizer.vocab_size = Some(size);
    }
    Ok(PlanOptions {
        text: TextProcessor { max_tokens: config.text.max_tokens },
        image: ImageProcessor { size: config.image.size, crop: config.image.crop, ..ImageProcessor::default() },
        audio: AudioProcessor {
            sample_rate: config.audio.sample_rate,
            features: config.audio.features,
            mels: config.audio.mels,
            max_seconds: config.audio.max_seconds,
            ..AudioProcessor::default()
        },
        video: VideoProcessor {
            frames: config.video.frames.unwrap_or(VideoProcessor::default().frames),
            size: config.video.size,
            crop: config.video.crop,
            ..VideoProcessor::default()
        },
        tokenizer,
        train_tokenizer,
        label: LabelOptions { task: config.label.task, classes: config.label.classes.clone() },
        sound_tracks: config.data.sound_tracks,
        limits: config.limits.clone(),
    })
}

/// The variation of training samples under a configuration.
pub(crate) fn augmentation(config: &FitConfig) -> Option<Augmentation> {
    let mut augmentation = Augmentation::standard();
    if !config.image.augment {
        augmentation.image = None;
    }
    if !config.video.augment {
        augmentation.video = None;
    }
    if !config.audio.augment {
        augmentation.waveform = None;
        augmentation.spectrogram = None;
    }
    (config.image.augment || config.video.augment || config.audio.augment).then_some(augmentation)
}

/// The model for a plan, every size known.
///
/// # Errors
/// When sizes do not fit each other.
pub(crate) fn model_config(
    plan: &DataPlan,
    config: &FitConfig,
    encoders: &Encoders,
    outputs: usize,
) -> Result<ModelConfig> {
    let dim = fusion_dim(config);
    let fusion = FusionConfig {
        kind: config.fusion.kind,
        dim,
        dropout: config.fusion.dropout,
        modality_dropout: config.fusion.modality_dropout,
        unimodal_loss: config.fusion.unimodal_loss,
        layers: config.fusion.layers,
        heads: (dim / 32).max(1),
        bottleneck: config.fusion.bottleneck,
    };
    Ok(ModelConfig { columns: column_towers(plan, config, encoders)?, fusion, outputs })
}

/// The tower of each column of a plan, every size known.
///
/// # Errors
/// When sizes do not fit each other.
pub(crate) fn column_towers(plan: &DataPlan, config: &FitConfig, encoders: &Encoders) -> Result<Vec<ColumnTower>> {
    plan.columns
        .iter()
        .map(|column| {
            let temporal = |hidden: usize| {
                let mut temporal = transformer("video.tower", &config.video.tower)?;
                (temporal.layers, temporal.block.hidden) = (config.video.temporal_layers, hidden);
                temporal.block.heads = (hidden / 64).max(1);
                Ok(temporal)
            };
            if let Some(tower) = encoders.tower(&column.processor, temporal)? {
                return Ok(ColumnTower { name: column.name.clone(), tower });
            }
            let tower = match &column.processor {
                Processor::Text(p) => TowerConfig::Text(TextTowerConfig {
                    vocab_size: plan.tokenizer.as_ref().map_or(0, Tokenizer::vocab_size),
                    max_positions: p.max_tokens,
                    pooling: config.text.tower.pooling,
                    transformer: transformer("text.tower", &config.text.tower)?,
                    ..TextTowerConfig::default()
                }),
                Processor::Image(p) => TowerConfig::Image(ImageTowerConfig {
                    image_size: p.size,
                    stem: config.image.stem,
                    patch_size: config.image.patch_size.unwrap_or(p.size),
                    patch_stride: config.image.patch_stride.unwrap_or(0),
                    pooling: config.image.tower.pooling,
                    transformer: transformer("image.tower", &config.image.tower)?,
                    ..ImageTowerConfig::default()
                }),
                Processor::Audio(p) if p.features == AudioFeatures::Waveform => {
                    return Err(Error::Config {
                        place: "audio.features".into(),
                        problem: "waveform is for pretrained encoders that read samples; a tower from scratch reads \
                                  whisper or kaldi"
                            .into(),
                    });
                }
                Processor::Audio(p) => TowerConfig::Audio(AudioTowerConfig {
                    mels: p.mels,
                    kernel: 3,
                    strides: config.audio.strides.clone(),
                    max_positions: tokens_of_sound(p, &config.audio.strides),
                    pooling: config.audio.tower.pooling,
                    transformer: transformer("audio.tower", &config.audio.tower)?,
                    ..AudioTowerConfig::default()
                }),
                Processor::Video(p) => {
                    let tower = &config.video.tower;
                    let block = transformer("video.tower", tower)?;
                    TowerConfig::Video(VideoTowerConfig {
                        image: ImageTowerConfig {
                            image_size: p.size,
                            stem: config.video.stem,
                            patch_size: config.video.patch_size.unwrap_or(p.size),
                            patch_stride: 0,
                            pooling: tower.pooling,
                            transformer: block.clone(),
                            ..ImageTowerConfig::default()
                        },
                        max_positions: p.frames,
                        pooling: tower.pooling,
                        temporal: TransformerConfig { layers: config.video.temporal_layers, ..block },
                    })
                }
                Processor::Features(p) => TowerConfig::Features(FeaturesTowerConfig {
                    dim: p.dim,
                    max_positions: p.max_rows,
                    pooling: config.features.tower.pooling,
                    input_dropout: config.features.input_dropout,
                    transformer: transformer("features.tower", &config.features.tower)?,
                }),
                Processor::Number(_) => {
                    TowerConfig::Tabular(TabularTowerConfig { categories: 0, dim: fusion_dim(config) })
                }
                Processor::Category(p) => {
                    TowerConfig::Tabular(TabularTowerConfig { categories: p.len(), dim: fusion_dim(config) })
                }
            };
            Ok(ColumnTower { name: column.name.clone(), tower })
        })
        .collect()
}

fn fusion_dim(config: &FitConfig) -> usize {
    config.fusion.dim.unwrap_or(FusionConfig::default().dim)
}

/// The most tokens that the convolutions leave of the longest sound.
fn tokens_of_sound(p: &AudioProcessor, strides: &[usize]) -> usize {
    // One frame more than whole seconds give, and each convolution rounds up.
    let frames = (p.max_seconds * p.frames_per_second()).ceil() as usize + 1;
    strides.iter().fold(frames, |n, s| n.div_ceil((*s).max(1)))
}

fn transformer(place: &str, tower: &TowerSection) -> Result<TransformerConfig> {
    let missing = |key: &str| Error::Config { place: format!("{place}.{key}"), problem: "not resolved".into() };
    let block = BlockConfig {
        hidden: tower.hidden.ok_or_else(|| missing("hidden"))?,
        heads: tower.heads.ok_or_else(|| missing("heads"))?,
        dropout: tower.dropout,
        attention_dropout: tower.attention_dropout,
        drop_path: tower.drop_path,
        ..BlockConfig::default()
    };
    block.validate(place)?;
    Ok(TransformerConfig {
        layers: tower.layers.ok_or_else(|| missing("layers"))?,
        block,
        ..TransformerConfig::default()
    })
}
