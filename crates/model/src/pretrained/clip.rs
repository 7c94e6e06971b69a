//! CLIP and Chinese-CLIP: pictures and texts in one space.
//!
//! The vector of a text is that of its last token. The reference takes the
//! first end-of-text token instead, because padding follows it there; here
//! nothing is padded, and the tokenizer of these models puts that token last,
//! also behind a text cut short. Only a text that spells the end-of-text token
//! out in its midst gets another vector.

use super::bert::{text_config, text_keys};
use super::vit::classifier;
use super::{Config, Convert, Family, KeyMap, Part};
use crate::heads::HeadInput;
use crate::layers::BlockConfig;
use crate::towers::{EmbeddingNorm, ImageTowerConfig, Pooling, TextTowerConfig};
use crate::{ImageTextConfig, Result, TowerConfig, TransformerConfig};
use serde_json::json;

/// CLIP (Radford et al. 2021), and its towers alone.
pub(super) const CLIP: Family =
    Family { name: "CLIP", model_types: &["clip", "clip_vision_model", "clip_text_model"], parts: clip };

/// Chinese-CLIP (Yang et al. 2022), whose texts go through BERT.
pub(super) const CHINESE_CLIP: Family =
    Family { name: "Chinese-CLIP", model_types: &["chinese_clip", "chinese_clip_vision_model"], parts: chinese_clip };

/// A stack of blocks with the settings that CLIP and SigLIP share; `small` are
/// the default width, width of the feed-forward part, and heads.
pub(super) fn transformer(
    c: &Config,
    small: (usize, usize, usize),
    activation: &str,
    eps: f64,
) -> Result<TransformerConfig> {
    let block = BlockConfig {
        hidden: c.usize_or("hidden_size", small.0)?,
        intermediate: c.usize_or("intermediate_size", small.1)?,
        heads: c.usize_or("num_attention_heads", small.2)?,
        activation: c.activation_or("hidden_act", activation)?,
        norm_eps: c.f64_or("layer_norm_eps", eps)?,
        dropout: c.f64_or("dropout", 0.0)?,
        attention_dropout: c.f64_or("attention_dropout", 0.0)?,
        ..BlockConfig::default()
    };
    Ok(TransformerConfig { layers: c.usize_or("num_hidden_layers", 12)?, block, ..TransformerConfig::default() })
}

/// The names of blocks in CLIP and SigLIP.
pub(super) fn block_keys() -> KeyMap {
    KeyMap::new()
        .map("encoder.layer.*.attention.query.*", "encoder.layers.*.self_attn.q_proj.*")
        .map("encoder.layer.*.attention.key.*", "encoder.layers.*.self_attn.k_proj.*")
        .map("encoder.layer.*.attention.value.*", "encoder.layers.*.self_attn.v_proj.*")
        .map("encoder.layer.*.attention.output.*", "encoder.layers.*.self_attn.out_proj.*")
        .map("encoder.layer.*.attention_norm.*", "encoder.layers.*.layer_norm1.*")
        .map("encoder.layer.*.mlp.up.*", "encoder.layers.*.mlp.fc1.*")
        .map("encoder.layer.*.mlp.down.*", "encoder.layers.*.mlp.fc2.*")
        .map("encoder.layer.*.mlp_norm.*", "encoder.layers.*.layer_norm2.*")
}

/// The two towers, each under its name, and the scale of their similarity.
pub(super) fn pair_keys(text: &KeyMap, image: &KeyMap) -> KeyMap {
    KeyMap::new()
        .map("logit_scale", "logit_scale")
        .map("logit_bias", "logit_bias")
        .nest("text.", "", text)
        .nest("image.", "", image)
}

/// The settings of a tower within those of the pair: old files hold them
/// twice, and there the second is what counts.
pub(super) fn within(c: &Config, tower: &str) -> Result<Config> {
    let full = format!("{tower}_config_dict");
    if c.has(&full) { c.object(&full) } else { c.object_or_empty(&format!("{tower}_config")) }
}

fn image_tower(c: &Config, projection: usize) -> Result<ImageTowerConfig> {
    c.only("num_channels", &[json!(3)])?;
    let transformer = transformer(c, (768, 3072, 12), "quick_gelu", 1e-5)?;
    Ok(ImageTowerConfig {
        image_size: c.square_or("image_size", 224)?,
        patch_size: c.square_or("patch_size", 32)?,
        patch_bias: false,
        embedding_norm: EmbeddingNorm::Tokens,
        class_token: true,
        pooling: Pooling::First,
        pooled_norm: true,
        projection: Some(projection),
        // The norm at the end is for the class token alone.
        transformer: TransformerConfig { final_norm: Some(false), ..transformer },
        ..ImageTowerConfig::default()
    })
}

fn image_keys() -> KeyMap {
    KeyMap::new()
        .map("embeddings.projection.*", "embeddings.patch_embedding.*")
        .map("embeddings.class_token", "embeddings.class_embedding")
        .convert(
            "embeddings.positions",
            "embeddings.position_embedding.weight",
            Convert::Grid { first: 1, antialias: false },
        )
        .map("embeddings.norm.*", "pre_layrnorm.*")
        .nest("", "", &block_keys())
        .map("pooled_norm.*", "post_layernorm.*")
        .ignore(&["embeddings.position_ids"])
}

fn text_tower(c: &Config, projection: usize) -> Result<TextTowerConfig> {
    let mut transformer = transformer(c, (512, 2048, 8), "quick_gelu", 1e-5)?;
    transformer.block.causal = true;
    Ok(TextTowerConfig {
        vocab_size: c.usize_or("vocab_size", 49408)?,
        max_positions: c.usize_or("max_position_embeddings", 77)?,
        embedding_norm: false,
        pooling: Pooling::Last,
        projection: Some(projection),
        transformer,
        ..TextTowerConfig::default()
    })
}

/// The names of a text tower in CLIP and SigLIP.
pub(super) fn clip_text_keys() -> KeyMap {
    KeyMap::new()
        .map("embeddings.word", "embeddings.token_embedding.weight")
        .map("embeddings.positions", "embeddings.position_embedding.weight")
        .nest("", "", &block_keys())
        .map("encoder.norm.*", "final_layer_norm.*")
        .ignore(&["embeddings.position_ids"])
}

/// A tower's names where it stands beside others, with its projection.
pub(super) fn beside(tower: &str, keys: &KeyMap, projection: &str) -> KeyMap {
    KeyMap::new().nest("", tower, keys).map("projection.*", projection)
}

fn image_beside() -> KeyMap {
    beside("vision_model.", &image_keys(), "visual_projection.*")
}

/// A tower that is a checkpoint of its own, with a projection or without.
fn alone(name: &'static str, config: &TowerConfig, with: KeyMap, without: KeyMap) -> Vec<Part> {
    vec![Part::tower(name, config.clone(), with), Part::tower(name, config.clone(), without)]
}

fn clip(c: &Config) -> Result<Vec<Part>> {
    let projection = c.usize_or("projection_dim", 512)?;
    let text_beside = || beside("text_model.", &clip_text_keys(), "text_projection.*");
    match c.str_or("model_type", "")? {
        "clip_vision_model" => {
            let image = TowerConfig::Image(image_tower(c, projection)?);
            return Ok(alone("image", &image, image_beside(), image_keys()));
        }
        "clip_text_model" => {
            let text = TowerConfig::Text(text_tower(c, projection)?);
            return Ok(alone("text", &text, text_beside(), clip_text_keys()));
        }
        _ => {}
    }
    let image = image_tower(&within(c, "vision")?, projection)?;
    let text = text_tower(&within(c, "text")?, projection)?;
    let head = classifier(c, HeadInput::MeanAfter(1), image.transformer.block.hidden)?;
    let pair = ImageTextConfig { text: text.clone(), image: image.clone(), logit_bias: false };
    Ok(vec![
        Part::tower("text", TowerConfig::Text(text), text_beside()),
        Part::tower("image", TowerConfig::Image(image), image_beside()),
        Part::image_text("image_text", pair, pair_keys(&text_beside(), &image_beside())),
        Part::head("classifier", head, KeyMap::new().map("output.*", "classifier.*")),
    ])
}

fn chinese_clip(c: &Config) -> Result<Vec<Part>> {
    let projection = c.usize_or("projection_dim", 512)?;
    if c.str_or("model_type", "")? == "chinese_clip_vision_model" {
        let image = TowerConfig::Image(image_tower(c, projection)?);
        return Ok(alone("image", &image, image_beside(), image_keys()));
    }
    let image = image_tower(&within(c, "vision")?, projection)?;
    let mut text = text_config(&within(c, "text")?)?;
    (text.pooler, text.projection) = (None, Some(projection));
    let text_beside = || beside("text_model.", &text_keys(), "text_projection.*");
    let pair = ImageTextConfig { text: text.clone(), image: image.clone(), logit_bias: false };
    Ok(vec![
        Part::tower("text", TowerConfig::Text(text), text_beside()),
        Part::tower("image", TowerConfig::Image(image), image_beside()),
        Part::image_text("image_text", pair, pair_keys(&text_beside(), &image_beside())),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_that_stand_twice_are_the_second_ones() -> Result<()> {
        let both = json!({"text_config": {"hidden_size": 8}, "text_config_dict": {"hidden_size": 16}});
        let both = Config::new("config.json", both)?;
        assert_eq!(within(&both, "text")?.usize("hidden_size")?, 16);
        // What a file leaves out is as in the reference.
        let image = image_tower(&within(&both, "vision")?, 512)?;
        assert_eq!((image.image_size, image.patch_size, image.transformer.block.hidden), (224, 32, 768));
        Ok(())
    }
}
