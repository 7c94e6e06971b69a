//! BLIP: a Vision Transformer and BERT in one space.

use super::bert::{encoder_config, text_keys};
use super::clip::{beside, block_keys, pair_keys, transformer, within};
use super::{Config, Convert, Family, KeyMap, Part};
use crate::towers::{EmbeddingNorm, ImageTowerConfig, Pooling};
use crate::{ImageTextConfig, Result, TowerConfig};
use serde_json::json;

/// BLIP (Li et al. 2022): the tower of pictures of any of its checkpoints, and
/// that of texts where it stands by itself.
pub(super) const BLIP: Family = Family { name: "BLIP", model_types: &["blip", "blip_vision_model"], parts: blip };

fn image_tower(c: &Config, projection: usize) -> Result<ImageTowerConfig> {
    c.only("num_channels", &[json!(3)])?;
    Ok(ImageTowerConfig {
        image_size: c.square_or("image_size", 384)?,
        patch_size: c.square_or("patch_size", 16)?,
        embedding_norm: EmbeddingNorm::None,
        class_token: true,
        pooling: Pooling::First,
        // The norm at the end, once more.
        pooled_norm: true,
        projection: Some(projection),
        transformer: transformer(c, (768, 3072, 12), "gelu", 1e-5)?,
        ..ImageTowerConfig::default()
    })
}

fn image_keys() -> KeyMap {
    let mut keys = KeyMap::new()
        .map("embeddings.projection.*", "embeddings.patch_embedding.*")
        .map("embeddings.class_token", "embeddings.class_embedding")
        .convert("embeddings.positions", "embeddings.position_embedding", Convert::Grid { first: 1, antialias: false })
        .map("encoder.layer.*.attention.output.*", "encoder.layers.*.self_attn.projection.*");
    for (part, name) in ["query", "key", "value"].iter().enumerate() {
        let ours = format!("encoder.layer.*.attention.{name}.*");
        keys = keys.convert(&ours, "encoder.layers.*.self_attn.qkv.*", Convert::Rows { part, of: 3 });
    }
    keys.nest("", "", &block_keys()).map("encoder.norm.*", "post_layernorm.*").map("pooled_norm.*", "post_layernorm.*")
}

fn blip(c: &Config) -> Result<Vec<Part>> {
    let projection = c.usize_or("projection_dim", 512)?;
    if c.str_or("model_type", "")? == "blip_vision_model" {
        let image = TowerConfig::Image(image_tower(c, projection)?);
        return Ok(vec![Part::tower("image", image, image_keys().under(&["", "vision_model."]))]);
    }
    let image = image_tower(&within(c, "vision")?, projection)?;
    let mut text = encoder_config(&within(c, "text")?)?;
    (text.token_types, text.projection) = (0, Some(projection));
    let image_beside = beside("vision_model.", &image_keys(), "visual_projection.*");
    // What attends to pictures is not asked where texts stand by themselves.
    let text_keys = text_keys().ignore(&["encoder.layer.*.crossattention.**"]);
    let text_beside = beside("text_model.", &text_keys, "text_projection.*");
    let pair = ImageTextConfig { text: text.clone(), image: image.clone(), logit_bias: false };
    let pair = Part::image_text("image_text", pair, pair_keys(&text_beside, &image_beside));
    Ok(vec![
        Part::tower("text", TowerConfig::Text(text), text_beside),
        Part::tower("image", TowerConfig::Image(image), image_beside),
        pair,
    ])
}
