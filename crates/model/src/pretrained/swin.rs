//! Swin: attention within windows of a picture, in stages of coarser grids.

use super::vit::classifier;
use super::{Config, Convert, Family, KeyMap, Part};
use crate::heads::HeadInput;
use crate::layers::{AttentionBias, BlockConfig, StagesConfig};
use crate::towers::{EmbeddingNorm, ImageTowerConfig, Pooling};
use crate::{ModelError, Result, TowerConfig, TransformerConfig};
use serde_json::json;

/// Swin Transformers (Liu et al. 2021).
pub(super) const SWIN: Family = Family { name: "Swin", model_types: &["swin"], parts: swin };

/// Added to the variance in the norms over patches and merged tokens; not
/// configurable in the reference.
const MERGE_EPS: f64 = 1e-5;

/// The stages: the key of their heads with its default, and the default side
/// of their windows.
pub(super) fn stages(c: &Config, (key, heads): (&str, &[usize]), window: usize) -> Result<StagesConfig> {
    Ok(StagesConfig {
        layers: c.list_or("depths", &[2, 2, 6, 2])?,
        heads: c.list_or(key, heads)?,
        window: c.usize_or("window_size", window)?,
        merge_eps: MERGE_EPS,
    })
}

/// The settings of the last of such stages.
pub(super) fn last_stage(c: &Config, stages: &StagesConfig, first_width: usize) -> Result<TransformerConfig> {
    let halvings = stages.layers.len().clamp(1, 16) - 1;
    let inner = c.f64_or("mlp_ratio", 4.0)? * first_width as f64;
    if inner.fract() != 0.0 || inner < 1.0 {
        return Err(ModelError::config(
            "config.json, mlp_ratio",
            format!("expected what makes a whole width of {first_width}, got {inner}"),
        ));
    }
    let qkv = c.bool_or("qkv_bias", true)?;
    let block = BlockConfig {
        hidden: first_width << halvings,
        heads: stages.heads.last().copied().unwrap_or(0),
        intermediate: (inner as usize) << halvings,
        activation: c.activation_or("hidden_act", "gelu")?,
        norm_eps: c.f64_or("layer_norm_eps", 1e-5)?,
        attention_bias: (!qkv).then_some(AttentionBias { output: true, ..AttentionBias::all(false) }),
        dropout: c.f64_or("hidden_dropout_prob", 0.0)?,
        attention_dropout: c.f64_or("attention_probs_dropout_prob", 0.0)?,
        ..BlockConfig::default()
    };
    Ok(TransformerConfig { layers: stages.layers.iter().sum(), block, ..TransformerConfig::default() })
}

/// The names of the stages, which are called `layers` there.
pub(super) fn stage_keys(layers: &str) -> KeyMap {
    let ours = |name: &str| format!("encoder.stage.*.layer.*.{name}");
    let theirs = |name: &str| format!("{layers}.*.blocks.*.{name}");
    KeyMap::new()
        .map(&ours("attention.output.*"), &theirs("attention.output.dense.*"))
        .map(&ours("attention.*.*"), &theirs("attention.self.*.*"))
        .map(&ours("attention_norm.*"), &theirs("layernorm_before.*"))
        .map(&ours("mlp.up.*"), &theirs("intermediate.dense.*"))
        .map(&ours("mlp.down.*"), &theirs("output.dense.*"))
        .map(&ours("mlp_norm.*"), &theirs("layernorm_after.*"))
        .map(&ours("relative_positions"), &theirs("attention.self.relative_position_bias_table"))
        .map("encoder.stage.*.merge.*.*", &format!("{layers}.*.downsample.*.*"))
        .ignore(&[&theirs("attention.self.relative_position_index")])
}

fn swin(c: &Config) -> Result<Vec<Part>> {
    c.only("num_channels", &[json!(3)])?;
    let stages = stages(c, ("num_heads", &[3, 6, 12, 24]), 7)?;
    let mut transformer = last_stage(c, &stages, c.usize_or("embed_dim", 96)?)?;
    transformer.block.drop_path = c.f64_or("drop_path_rate", 0.1)?;
    let hidden = transformer.block.hidden;
    let image = ImageTowerConfig {
        image_size: c.square_or("image_size", 224)?,
        patch_size: c.square_or("patch_size", 4)?,
        embedding_norm: EmbeddingNorm::Patches,
        learned_positions: c.bool_or("use_absolute_embeddings", false)?,
        pooling: Pooling::Mean,
        transformer,
        stages: Some(stages),
        ..ImageTowerConfig::default()
    };
    let keys = stage_keys("encoder.layers")
        .map("embeddings.projection.*", "embeddings.patch_embeddings.projection.*")
        .map("embeddings.norm.*", "embeddings.norm.*")
        .convert("embeddings.positions", "embeddings.position_embeddings", Convert::Grid { first: 0, antialias: false })
        .map("encoder.norm.*", "layernorm.*")
        .ignore(&["embeddings.mask_token"]);
    Ok(vec![
        Part::tower("image", TowerConfig::Image(image), keys.under(&["", "swin."])),
        Part::head(
            "classifier",
            classifier(c, HeadInput::Pooled, hidden)?,
            KeyMap::new().map("output.*", "classifier.*"),
        ),
    ])
}
