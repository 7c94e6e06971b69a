//! BEiT: a Vision Transformer whose patches know their way to each other.

use super::vit::{classifier, image_config, image_keys};
use super::{Config, Convert, Family, KeyMap, Part};
use crate::heads::HeadInput;
use crate::layers::{AttentionBias, GridPositionsConfig};
use crate::towers::Pooling;
use crate::{Result, TowerConfig};
use serde_json::json;

/// BEiT (Bao et al. 2022).
pub(super) const BEIT: Family = Family { name: "BEiT", model_types: &["beit"], parts: beit };

fn beit(c: &Config) -> Result<Vec<Part>> {
    let mut image = image_config(c)?;
    let (patches, block) = (image.patches(), &mut image.transformer.block);
    block.intermediate = c.usize_or("intermediate_size", 3072)?;
    block.norm_eps = c.f64_or("layer_norm_eps", 1e-12)?;
    // Keys have no bias.
    block.attention_bias = Some(AttentionBias { key: false, ..AttentionBias::all(true) });
    block.drop_path = c.f64_or("drop_path_rate", 0.1)?;
    block.layer_scale = Some(c.f64_or("layer_scale_init_value", 0.1)?).filter(|start| *start > 0.0);
    let hidden = block.hidden;
    let (shared, per_layer) =
        (c.bool_or("use_shared_relative_position_bias", false)?, c.bool_or("use_relative_position_bias", false)?);
    if shared {
        c.only("use_relative_position_bias", &[json!(false)])?;
    }
    if shared || per_layer {
        image.transformer.grid_positions = Some(GridPositionsConfig { side: patches.isqrt(), per_layer });
    }
    image.learned_positions = c.bool_or("use_absolute_position_embeddings", false)?;
    let mean = c.bool_or("use_mean_pooling", true)?;
    image.pooling = if mean { Pooling::Mean } else { Pooling::First };
    // The norm at the end is that of the mean, where there is one.
    image.pooled_norm = mean;
    image.transformer.final_norm = Some(!mean);
    let keys = image_keys(Convert::Grid { first: 1, antialias: false })
        .map("encoder.layer.*.attention_norm.*", "encoder.layer.*.layernorm_before.*")
        .map("encoder.layer.*.attention_scale", "encoder.layer.*.lambda_1")
        .map("encoder.layer.*.mlp.up.*", "encoder.layer.*.intermediate.dense.*")
        .map("encoder.layer.*.mlp.down.*", "encoder.layer.*.output.dense.*")
        .map("encoder.layer.*.mlp_norm.*", "encoder.layer.*.layernorm_after.*")
        .map("encoder.layer.*.mlp_scale", "encoder.layer.*.lambda_2")
        .map(
            "encoder.layer.*.relative_positions",
            "encoder.layer.*.attention.attention.relative_position_bias.relative_position_bias_table",
        )
        .map("encoder.relative_positions", "encoder.relative_position_bias.relative_position_bias_table")
        .map("pooled_norm.*", "pooler.layernorm.*")
        .ignore(&[
            "encoder.layer.*.attention.attention.relative_position_bias.relative_position_index",
            "encoder.relative_position_bias.relative_position_index",
        ]);
    Ok(vec![
        Part::tower("image", TowerConfig::Image(image), keys.under(&["", "beit."])),
        Part::head(
            "classifier",
            classifier(c, HeadInput::Pooled, hidden)?,
            KeyMap::new().map("output.*", "classifier.*"),
        ),
    ])
}
