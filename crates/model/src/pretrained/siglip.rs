//! SigLIP: pictures and texts compared pair by pair.
//!
//! The reference fills every text up to the longest with padding tokens, which
//! are attended to like words, and takes the vector of the last of them. The
//! model was trained so, hence the tower here does the same.

use super::clip::{block_keys, clip_text_keys, pair_keys, transformer, within};
use super::vit::classifier;
use super::{Config, Convert, Family, KeyMap, Part, read_json};
use crate::heads::HeadInput;
use crate::towers::{EmbeddingNorm, ImageTowerConfig, Pooling, TextTowerConfig};
use crate::{ImageTextConfig, Result, TowerConfig};
use serde_json::{Value, json};
use std::path::Path;

/// SigLIP (Zhai et al. 2023), the models of fixed size of SigLIP 2 (Tschannen
/// et al. 2025), and their towers alone.
pub(super) const SIGLIP: Family =
    Family { name: "SigLIP", model_types: &["siglip", "siglip_vision_model", "siglip_text_model"], parts: siglip };

fn image_tower(c: &Config) -> Result<ImageTowerConfig> {
    c.only("num_channels", &[json!(3)])?;
    Ok(ImageTowerConfig {
        image_size: c.square_or("image_size", 224)?,
        patch_size: c.square_or("patch_size", 16)?,
        embedding_norm: EmbeddingNorm::None,
        attention_pool: c.bool_or("vision_use_head", true)?,
        transformer: transformer(c, (768, 3072, 12), "gelu_pytorch_tanh", 1e-6)?,
        ..ImageTowerConfig::default()
    })
}

fn image_keys() -> KeyMap {
    let mut keys = KeyMap::new()
        .map("embeddings.projection.*", "embeddings.patch_embedding.*")
        .convert(
            "embeddings.positions",
            "embeddings.position_embedding.weight",
            Convert::Grid { first: 0, antialias: false },
        )
        .nest("", "", &block_keys())
        .map("encoder.norm.*", "post_layernorm.*")
        .map("attention_pool.probe", "head.probe")
        .map("attention_pool.attention.output.*", "head.attention.out_proj.*")
        .map("attention_pool.norm.*", "head.layernorm.*")
        .map("attention_pool.mlp.up.*", "head.mlp.fc1.*")
        .map("attention_pool.mlp.down.*", "head.mlp.fc2.*")
        .ignore(&["embeddings.position_ids"]);
    for (part, name) in ["query", "key", "value"].iter().enumerate() {
        let third = Convert::Rows { part, of: 3 };
        keys = keys
            .convert(&format!("attention_pool.attention.{name}.weight"), "head.attention.in_proj_weight", third)
            .convert(&format!("attention_pool.attention.{name}.bias"), "head.attention.in_proj_bias", third);
    }
    keys
}

fn text_tower(c: &Config) -> Result<TextTowerConfig> {
    let transformer = transformer(c, (768, 3072, 12), "gelu_pytorch_tanh", 1e-6)?;
    Ok(TextTowerConfig {
        vocab_size: c.usize_or("vocab_size", 32000)?,
        max_positions: c.usize_or("max_position_embeddings", 64)?,
        embedding_norm: false,
        pooling: Pooling::Last,
        projection: Some(c.usize_or("projection_size", transformer.block.hidden)?),
        projection_bias: true,
        pad_token: Some(c.usize_or("pad_token_id", 1)? as u32),
        transformer,
        ..TextTowerConfig::default()
    })
}

fn text_keys() -> KeyMap {
    clip_text_keys().map("projection.*", "head.*")
}

fn siglip(c: &Config) -> Result<Vec<Part>> {
    match c.str_or("model_type", "")? {
        "siglip_vision_model" => {
            let keys = image_keys().under(&["", "vision_model."]);
            return Ok(vec![Part::tower("image", TowerConfig::Image(image_tower(c)?), keys)]);
        }
        "siglip_text_model" => {
            let keys = text_keys().under(&["", "text_model."]);
            return Ok(vec![Part::tower("text", TowerConfig::Text(text_tower(c)?), keys)]);
        }
        _ => {}
    }
    let (text, image) = (text_tower(&within(c, "text")?)?, image_tower(&within(c, "vision")?)?);
    let text_beside = KeyMap::new().nest("", "text_model.", &text_keys());
    let image_beside = KeyMap::new().nest("", "vision_model.", &image_keys());
    let head = classifier(c, HeadInput::Mean, image.transformer.block.hidden)?;
    let pair = ImageTextConfig { text: text.clone(), image: image.clone(), logit_bias: true };
    let pair = Part::image_text("image_text", pair, pair_keys(&text_beside, &image_beside));
    Ok(vec![
        Part::tower("text", TowerConfig::Text(text), text_beside),
        Part::tower("image", TowerConfig::Image(image), image_beside),
        pair,
        Part::head("classifier", head, KeyMap::new().map("output.*", "classifier.*")),
    ])
}

/// The padding token of a tower that has one, as the folder's tokenizer says;
/// configurations leave it out or repeat that of another model.
///
/// # Errors
/// When a file of the tokenizer is not JSON.
pub(super) fn settle_padding(text: &mut TextTowerConfig, folder: &Path) -> Result<()> {
    if text.pad_token.is_none() || !folder.join("tokenizer.json").is_file() {
        return Ok(());
    }
    let tokenizer = read_json(&folder.join("tokenizer.json"))?;
    let settings = folder.join("tokenizer_config.json");
    let settings = if settings.is_file() { read_json(&settings)? } else { Value::Null };
    let pad = &settings["pad_token"];
    let named = pad.as_str().or(pad["content"].as_str());
    let added = tokenizer["added_tokens"].as_array().into_iter().flatten();
    let id = added.filter(|t| t["content"].as_str().is_some_and(|c| Some(c) == named)).find_map(|t| t["id"].as_u64());
    let id = id.or(tokenizer["padding"]["pad_id"].as_u64());
    if let Some(id) = id.and_then(|id| u32::try_from(id).ok()) {
        text.pad_token = Some(id);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_padding_token_is_the_tokenizers() {
        let folder = tempfile::tempdir().expect("folder");
        let settled = |pad: Option<u32>| {
            let mut text = TextTowerConfig { pad_token: pad, ..TextTowerConfig::default() };
            settle_padding(&mut text, folder.path()).expect("JSON");
            text.pad_token
        };
        let write =
            |name: &str, value: Value| std::fs::write(folder.path().join(name), value.to_string()).expect("file");
        assert_eq!(settled(Some(1)), Some(1));
        let tokens = json!([{"id": 0, "content": "<pad>"}, {"id": 7, "content": "</s>"}]);
        write("tokenizer.json", json!({"added_tokens": tokens, "padding": {"pad_id": 0}}));
        assert_eq!((settled(Some(1)), settled(None)), (Some(0), None));
        write("tokenizer_config.json", json!({"pad_token": {"content": "</s>"}}));
        assert_eq!(settled(Some(1)), Some(7));
    }
}
