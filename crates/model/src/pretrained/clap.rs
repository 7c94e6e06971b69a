//! CLAP: sounds and texts in one space.

use super::bert::{text_config, text_keys};
use super::swin::{last_stage, stage_keys, stages};
use super::{Config, Convert, Family, KeyMap, Part};
use crate::audio_text::AudioTextConfig;
use crate::towers::{AudioPositions, AudioStem, AudioTowerConfig, Pooling, SpectrogramGridConfig, TextTowerConfig};
use crate::{ModelError, Result, TowerConfig};
use serde_json::json;

/// CLAP (Wu et al. 2023) without fusion of long sounds, and its towers alone.
pub(super) const CLAP: Family =
    Family { name: "CLAP", model_types: &["clap", "clap_audio_model", "clap_text_model"], parts: clap };

/// The tower of sounds: HTSAT (Chen et al. 2022), a Swin Transformer over a
/// folded spectrogram.
fn audio_tower(c: &Config, projection: usize) -> Result<AudioTowerConfig> {
    // Fused checkpoints hear four views of a sound at once.
    c.only("enable_fusion", &[json!(false)])?;
    c.only("enable_patch_layer_norm", &[json!(true)])?;
    c.only("flatten_patch_embeds", &[json!(true)])?;
    c.only("patch_embed_input_channels", &[json!(1)])?;
    // The norm at the end has another in the reference.
    c.only("layer_norm_eps", &[json!(1e-5)])?;
    let stages = stages(c, ("num_attention_heads", &[4, 8, 16, 32]), 8)?;
    let mut transformer = last_stage(c, &stages, c.usize_or("patch_embeds_hidden_size", 96)?)?;
    transformer.block.dropout = c.f64_or("hidden_dropout_prob", 0.1)?;
    transformer.block.drop_path = c.f64_or("drop_path_rate", 0.0)?;
    let patch = c.square_or("patch_size", 4)?;
    if c.square_or("patch_stride", 4)? != patch {
        let problem = format!("expected {patch}, the patch_size (overlapping patches are not computed here)");
        return Err(ModelError::config("config.json, patch_stride", problem));
    }
    Ok(AudioTowerConfig {
        mels: c.usize_or("num_mel_bins", 64)?,
        stem: AudioStem::Grid(SpectrogramGridConfig { patch, side: c.usize_or("spec_size", 256)? }),
        positions: AudioPositions::None,
        max_positions: 0,
        pooling: Pooling::Mean,
        projection: Some(projection),
        projection_activation: Some(c.activation_or("projection_hidden_act", "relu")?),
        transformer,
        stages: Some(stages),
        ..AudioTowerConfig::default()
    })
}

fn audio_keys() -> KeyMap {
    stage_keys("layers")
        .map("bands.mean", "batch_norm.running_mean")
        .map("bands.variance", "batch_norm.running_var")
        .map("bands.*", "batch_norm.*")
        .convert("projection.weight", "patch_embed.proj.weight", Convert::Convolution1d)
        .map("projection.bias", "patch_embed.proj.bias")
        .map("projection_norm.*", "patch_embed.norm.*")
        .map("encoder.norm.*", "norm.*")
}

fn text_tower(c: &Config, projection: usize) -> Result<TextTowerConfig> {
    let mut text = text_config(c)?;
    // The first position stands behind that of the padding token.
    text.position_offset = c.usize_or("pad_token_id", 1)? + 1;
    text.max_positions = text.max_positions.saturating_sub(text.position_offset);
    text.projection = Some(projection);
    text.projection_bias = true;
    text.projection_activation = Some(c.activation_or("projection_hidden_act", "relu")?);
    Ok(text)
}

/// A tower's names where it stands beside its projection of two layers.
fn beside(tower: &KeyMap, name: &str, ours: &str, theirs: &str) -> KeyMap {
    KeyMap::new()
        .nest("", name, tower)
        .map(&format!("{ours}.inner.*"), &format!("{theirs}.linear1.*"))
        .map(&format!("{ours}.*"), &format!("{theirs}.linear2.*"))
}

fn clap(c: &Config) -> Result<Vec<Part>> {
    let projection = c.usize_or("projection_dim", 512)?;
    let audio_keys = || beside(&audio_keys(), "audio_model.audio_encoder.", "pooled_projection", "audio_projection");
    let text_keys = || beside(&text_keys(), "text_model.", "projection", "text_projection");
    match c.str_or("model_type", "")? {
        "clap_audio_model" => {
            let mut audio = audio_tower(c, projection)?;
            let with = Part::tower("audio", TowerConfig::Audio(audio.clone()), audio_keys());
            (audio.projection, audio.projection_activation) = (None, None);
            let alone = KeyMap::new().nest("", "audio_encoder.", &self::audio_keys());
            return Ok(vec![with, Part::tower("audio", TowerConfig::Audio(audio), alone)]);
        }
        "clap_text_model" => {
            let mut text = text_tower(c, projection)?;
            let with = Part::tower("text", TowerConfig::Text(text.clone()), text_keys());
            (text.projection, text.projection_bias, text.projection_activation) = (None, false, None);
            return Ok(vec![with, Part::tower("text", TowerConfig::Text(text), self::text_keys())]);
        }
        _ => {}
    }
    // The pair decides for its towers.
    let within = |tower: &str| c.object_or_empty(&format!("{tower}_config"));
    let activation = Some(c.activation_or("projection_hidden_act", "relu")?);
    let mut audio = audio_tower(&within("audio")?, projection)?;
    let mut text = text_tower(&within("text")?, projection)?;
    (audio.projection_activation, text.projection_activation) = (activation, activation);
    let pair = AudioTextConfig { text: text.clone(), audio: audio.clone() };
    let pair_keys = KeyMap::new()
        .map("logit_scale_audio", "logit_scale_a")
        .map("logit_scale_text", "logit_scale_t")
        .nest("text.", "", &text_keys())
        .nest("audio.", "", &audio_keys());
    Ok(vec![
        Part::tower("text", TowerConfig::Text(text), text_keys()),
        Part::tower("audio", TowerConfig::Audio(audio), audio_keys()),
        Part::audio_text("audio_text", pair, pair_keys),
    ])
}
