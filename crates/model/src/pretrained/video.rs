//! Video encoders: VideoMAE and TimeSformer.

use super::vit::classifier;
use super::{Config, Convert, Family, KeyMap, Part};
use crate::heads::HeadInput;
use crate::layers::{AttentionBias, BlockConfig};
use crate::towers::{Pooling, SpaceTimeAttention, SpaceTimePositions, SpaceTimeTowerConfig};
use crate::{Result, TowerConfig, TransformerConfig};
use serde_json::json;

/// VideoMAE (Tong et al. 2022).
pub(super) const VIDEOMAE: Family = Family { name: "VideoMAE", model_types: &["videomae"], parts: videomae };

/// TimeSformer (Bertasius et al. 2021).
pub(super) const TIMESFORMER: Family =
    Family { name: "TimeSformer", model_types: &["timesformer"], parts: timesformer };

/// Added to the variance in the norm before VideoMAE's classifier; not
/// configurable in the reference.
const POOLED_EPS: f64 = 1e-5;

/// What both share, under their names for it.
fn tower(c: &Config, frames: usize, eps: f64) -> Result<SpaceTimeTowerConfig> {
    c.only("num_channels", &[json!(3)])?;
    let block = BlockConfig {
        hidden: c.usize_or("hidden_size", 768)?,
        heads: c.usize_or("num_attention_heads", 12)?,
        intermediate: c.usize_or("intermediate_size", 3072)?,
        activation: c.activation_or("hidden_act", "gelu")?,
        norm_eps: c.f64_or("layer_norm_eps", eps)?,
        dropout: c.f64_or("hidden_dropout_prob", 0.0)?,
        attention_dropout: c.f64_or("attention_probs_dropout_prob", 0.0)?,
        ..BlockConfig::default()
    };
    Ok(SpaceTimeTowerConfig {
        image_size: c.square_or("image_size", 224)?,
        frames: c.usize_or("num_frames", frames)?,
        patch_size: c.square_or("patch_size", 16)?,
        tubelet: 1,
        attention: SpaceTimeAttention::Joint,
        positions: SpaceTimePositions::Learned,
        pooling: Pooling::First,
        pooled_norm_eps: None,
        transformer: TransformerConfig {
            layers: c.usize_or("num_hidden_layers", 12)?,
            block,
            ..TransformerConfig::default()
        },
    })
}

fn block_keys() -> KeyMap {
    KeyMap::new()
        .map("encoder.layer.*.attention_norm.*", "encoder.layer.*.layernorm_before.*")
        .map("encoder.layer.*.mlp.up.*", "encoder.layer.*.intermediate.dense.*")
        .map("encoder.layer.*.mlp.down.*", "encoder.layer.*.output.dense.*")
        .map("encoder.layer.*.mlp_norm.*", "encoder.layer.*.layernorm_after.*")
        .map("encoder.norm.*", "layernorm.*")
}

fn videomae(c: &Config) -> Result<Vec<Part>> {
    let mut video = tower(c, 16, 1e-12)?;
    video.tubelet = c.usize_or("tubelet_size", 2)?;
    video.positions = SpaceTimePositions::Sinusoids;
    let bias = c.bool_or(if c.has("qkv_bias") { "qkv_bias" } else { "qv_bias" }, true)?;
    video.transformer.block.attention_bias = Some(AttentionBias { query: bias, key: false, value: bias, output: true });
    let mean = c.bool_or("use_mean_pooling", true)?;
    video.pooling = if mean { Pooling::Mean } else { Pooling::First };
    // The norm at the end is that of the mean, which only classifiers have.
    video.transformer.final_norm = Some(!mean);
    video.pooled_norm_eps = mean.then_some(POOLED_EPS);
    let hidden = video.transformer.block.hidden;
    let attention = "encoder.layer.*.attention";
    let keys = block_keys()
        .convert(
            "embeddings.projection.weight",
            "embeddings.patch_embeddings.projection.weight",
            Convert::Tubelets { frames: video.tubelet },
        )
        .map("embeddings.projection.bias", "embeddings.patch_embeddings.projection.bias")
        .map(&format!("{attention}.output.*"), &format!("{attention}.output.dense.*"))
        .map(&format!("{attention}.query.bias"), &format!("{attention}.attention.q_bias"))
        .map(&format!("{attention}.value.bias"), &format!("{attention}.attention.v_bias"))
        .map(&format!("{attention}.*.*"), &format!("{attention}.attention.*.*"))
        .rooted("pooled_norm.*", "fc_norm.*")
        // What fills in masked pixels in training.
        .ignore(&["mask_token", "encoder_to_decoder.*", "decoder.**"]);
    Ok(vec![
        Part::tower("video", TowerConfig::SpaceTime(video), keys.under(&["", "videomae."])),
        Part::head(
            "classifier",
            classifier(c, HeadInput::Pooled, hidden)?,
            KeyMap::new().map("output.*", "classifier.*"),
        ),
    ])
}

fn timesformer(c: &Config) -> Result<Vec<Part>> {
    let mut video = tower(c, 8, 1e-6)?;
    c.only("attention_type", &["divided_space_time", "joint_space_time", "space_only"].map(|name| json!(name)))?;
    video.attention = match c.str_or("attention_type", "divided_space_time")? {
        "joint_space_time" => SpaceTimeAttention::Joint,
        "space_only" => SpaceTimeAttention::Space,
        _ => SpaceTimeAttention::Divided,
    };
    let block = &mut video.transformer.block;
    block.attention_bias =
        (!c.bool_or("qkv_bias", true)?).then_some(AttentionBias { output: true, ..AttentionBias::all(false) });
    block.drop_path = c.f64_or("drop_path_rate", 0.0)?;
    let hidden = block.hidden;
    let mut keys = block_keys()
        .map("embeddings.projection.*", "embeddings.patch_embeddings.projection.*")
        .map("embeddings.class_token", "embeddings.cls_token")
        .map("embeddings.positions", "embeddings.position_embeddings")
        .map("embeddings.times", "embeddings.time_embeddings")
        .map("encoder.layer.*.time_norm.*", "encoder.layer.*.temporal_layernorm.*")
        .map("encoder.layer.*.time_dense.*", "encoder.layer.*.temporal_dense.*");
    for (ours, theirs) in [("attention", "attention"), ("time_attention", "temporal_attention")] {
        let (ours, theirs) = (format!("encoder.layer.*.{ours}"), format!("encoder.layer.*.{theirs}"));
        for (part, name) in ["query", "key", "value"].into_iter().enumerate() {
            keys = keys.convert(
                &format!("{ours}.{name}.*"),
                &format!("{theirs}.attention.qkv.*"),
                Convert::Rows { part, of: 3 },
            );
        }
        keys = keys.map(&format!("{ours}.output.*"), &format!("{theirs}.output.dense.*"));
    }
    Ok(vec![
        Part::tower("video", TowerConfig::SpaceTime(video), keys.under(&["", "timesformer."])),
        Part::head(
            "classifier",
            classifier(c, HeadInput::Pooled, hidden)?,
            KeyMap::new().map("output.*", "classifier.*"),
        ),
    ])
}
