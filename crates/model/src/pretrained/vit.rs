//! Vision Transformers: ViT and DeiT.

use super::{Config, Convert, Family, Form, KeyMap, Part, read_json};
use crate::heads::{HeadConfig, HeadInput};
use crate::layers::{AttentionBias, BlockConfig};
use crate::towers::{EmbeddingNorm, ImageTowerConfig, Pooling};
use crate::{Result, TowerConfig, TransformerConfig};
use serde_json::json;
use std::path::Path;

/// ViT (Dosovitskiy et al. 2021).
pub(super) const VIT: Family = Family { name: "ViT", model_types: &["vit"], parts: vit };

/// ViT as a masked autoencoder leaves it (He et al. 2022), with its decoder.
pub(super) const VIT_MAE: Family = Family { name: "ViT (MAE)", model_types: &["vit_mae"], parts: vit_mae };

/// DeiT (Touvron et al. 2021): a distillation token beside the class token.
pub(super) const DEIT: Family = Family { name: "DeiT", model_types: &["deit"], parts: deit };

/// The settings that ViT and its kin share, under ViT's names for them.
pub(super) fn image_config(c: &Config) -> Result<ImageTowerConfig> {
    c.only("num_channels", &[json!(3)])?;
    let qkv = c.bool_or("qkv_bias", true)?;
    let hidden = c.usize_or("hidden_size", 768)?;
    let block = BlockConfig {
        hidden,
        heads: c.usize_or("num_attention_heads", 12)?,
        activation: c.activation_or("hidden_act", "gelu")?,
        attention_bias: (!qkv).then_some(AttentionBias { query: false, key: false, value: false, output: true }),
        dropout: c.f64_or("hidden_dropout_prob", 0.0)?,
        attention_dropout: c.f64_or("attention_probs_dropout_prob", 0.0)?,
        drop_path: c.f64_or("drop_path_rate", 0.0)?,
        ..BlockConfig::default()
    };
    Ok(ImageTowerConfig {
        image_size: c.square_or("image_size", 224)?,
        patch_size: c.square_or("patch_size", 16)?,
        embedding_norm: EmbeddingNorm::None,
        class_token: true,
        pooling: Pooling::First,
        transformer: TransformerConfig {
            layers: c.usize_or("num_hidden_layers", 12)?,
            block,
            ..TransformerConfig::default()
        },
        ..ImageTowerConfig::default()
    })
}

/// The names of what stands before the blocks, and of attention in them.
pub(super) fn image_keys(positions: Convert) -> KeyMap {
    KeyMap::new()
        .map("embeddings.projection.*", "embeddings.patch_embeddings.projection.*")
        .map("embeddings.class_token", "embeddings.cls_token")
        .map("embeddings.distillation_token", "embeddings.distillation_token")
        .map("embeddings.register_tokens", "embeddings.register_tokens")
        .convert("embeddings.positions", "embeddings.position_embeddings", positions)
        .map("encoder.layer.*.attention.output.*", "encoder.layer.*.attention.output.dense.*")
        .map("encoder.layer.*.attention.*.*", "encoder.layer.*.attention.attention.*.*")
        .map("encoder.norm.*", "layernorm.*")
        .map("pooler.*", "pooler.dense.*")
        .form("embeddings.patch_embeddings.projection.weight", Form::Kernel { channels: 3 })
        .form("embeddings.cls_token", Form::Rank(3))
        .form("embeddings.distillation_token", Form::Rank(3))
        .form("embeddings.register_tokens", Form::Rank(3))
        .form("embeddings.position_embeddings", Form::Rank(3))
        .ignore(&["embeddings.mask_token"])
}

/// Takes pictures of the size that the folder's processor makes, where it has
/// one: DINOv2 learned positions for larger ones than it is used with. Loading
/// interpolates them then.
///
/// # Errors
/// When the processor's file is not JSON.
pub(super) fn settle_size(image: &mut ImageTowerConfig, folder: &Path) -> Result<()> {
    let path = folder.join("preprocessor_config.json");
    if !path.is_file() {
        return Ok(());
    }
    let processor = read_json(&path)?;
    let cropped = processor["do_center_crop"].as_bool() != Some(false) && !processor["crop_size"].is_null();
    let size = &processor[if cropped { "crop_size" } else { "size" }];
    let side = |name: &str| size[name].as_u64();
    let square = if side("height") == side("width") { side("height") } else { None };
    if let Some(size) = size.as_u64().or(square).or(side("shortest_edge")).filter(|size| *size <= 4096) {
        image.image_size = size as usize;
    }
    Ok(())
}

/// A linear classifier over some of a tower's features.
pub(super) fn classifier(c: &Config, input: HeadInput, inputs: usize) -> Result<HeadConfig> {
    Ok(HeadConfig::linear(input, inputs, c.classes()?))
}

/// The tower of a configuration, with a pooler.
///
/// # Errors
/// When a setting is not known.
pub(super) fn tower(c: &Config) -> Result<ImageTowerConfig> {
    let mut image = image_config(c)?;
    let block = &mut image.transformer.block;
    c.only("pooler_output_size", &[json!(block.hidden)])?;
    block.intermediate = c.usize_or("intermediate_size", 3072)?;
    block.norm_eps = c.f64_or("layer_norm_eps", 1e-12)?;
    image.pooler = Some(c.activation_or("pooler_act", "tanh")?);
    Ok(image)
}

/// The names of all its tensors.
pub(super) fn keys(first: usize) -> KeyMap {
    image_keys(Convert::Grid { first, antialias: false })
        .map("encoder.layer.*.attention_norm.*", "encoder.layer.*.layernorm_before.*")
        .map("encoder.layer.*.mlp.up.*", "encoder.layer.*.intermediate.dense.*")
        .map("encoder.layer.*.mlp.down.*", "encoder.layer.*.output.dense.*")
        .map("encoder.layer.*.mlp_norm.*", "encoder.layer.*.layernorm_after.*")
}

fn vit(c: &Config) -> Result<Vec<Part>> {
    let image = tower(c)?;
    let head = classifier(c, HeadInput::First, image.transformer.block.hidden)?;
    let pixels = pixel_head(&image, image.transformer.block.hidden);
    let hidden = image.transformer.block.hidden;
    Ok(vec![
        Part::tower("image", TowerConfig::Image(image), keys(1).under(&["", "vit."])),
        Part::head("classifier", head, KeyMap::new().map("output.*", "classifier.*")),
        // SimMIM's, whose mask token stands among the embeddings.
        Part::head(
            "masked_image",
            pixels,
            KeyMap::new()
                .map("output.*", "decoder.0.*")
                .map("mask_token", "vit.embeddings.mask_token")
                .form("decoder.0.weight", Form::Kernel { channels: hidden })
                .form("vit.embeddings.mask_token", Form::Rank(3)),
        ),
    ])
}

/// The last layer of masked image modelling: tokens to the pixels of a patch.
fn pixel_head(image: &ImageTowerConfig, inputs: usize) -> HeadConfig {
    HeadConfig::linear(HeadInput::Tokens, inputs, 3 * image.patch_size * image.patch_size)
}

fn vit_mae(c: &Config) -> Result<Vec<Part>> {
    let mut image = tower(c)?;
    image.pooler = None;
    let pixels = pixel_head(&image, c.usize_or("decoder_hidden_size", 512)?);
    let mut decoder = KeyMap::new()
        .map("output.*", "decoder.decoder_pred.*")
        .map("embed.*", "decoder.decoder_embed.*")
        .map("mask_token", "decoder.mask_token")
        .map("positions", "decoder.decoder_pos_embed")
        .map("norm.*", "decoder.decoder_norm.*")
        .form("decoder.mask_token", Form::Rank(3))
        .form("decoder.decoder_pos_embed", Form::Rank(3));
    // As published, and as version 5 of the reference library writes it.
    for layer in ["decoder.decoder_layers.*", "decoder.decoder_encoder.layer.*"] {
        for (ours, theirs) in [
            ("attention.output.*", "attention.output.dense.*"),
            ("attention.*.*", "attention.attention.*.*"),
            ("attention_norm.*", "layernorm_before.*"),
            ("mlp.up.*", "intermediate.dense.*"),
            ("mlp.down.*", "output.dense.*"),
            ("mlp_norm.*", "layernorm_after.*"),
        ] {
            decoder = decoder.map(&format!("layer.*.{ours}"), &format!("{layer}.{theirs}"));
        }
    }
    Ok(vec![
        Part::tower("image", TowerConfig::Image(image), keys(1).under(&["", "vit."])),
        // Of the decoder a head here is the last layer; the rest of it is for
        // going on with pretraining.
        Part::head("masked_image", pixels, decoder),
    ])
}

fn deit(c: &Config) -> Result<Vec<Part>> {
    let mut image = tower(c)?;
    image.distillation_token = true;
    let hidden = image.transformer.block.hidden;
    Ok(vec![
        Part::tower("image", TowerConfig::Image(image), keys(2).under(&["", "deit."])),
        // A checkpoint has one of the two.
        Part::head(
            "classifier",
            classifier(c, HeadInput::First, hidden)?,
            KeyMap::new().map("output.*", "classifier.*"),
        ),
        Part::head(
            "classifier",
            classifier(c, HeadInput::FirstTwo, hidden)?,
            KeyMap::new().map("output.*", "cls_classifier.*").map("second.*", "distillation_classifier.*"),
        ),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pictures_have_the_size_that_the_processor_makes() {
        let folder = tempfile::tempdir().expect("folder");
        let settled = |file: Option<serde_json::Value>| {
            if let Some(file) = file {
                std::fs::write(folder.path().join("preprocessor_config.json"), file.to_string()).expect("file");
            }
            let mut image = ImageTowerConfig { image_size: 518, ..ImageTowerConfig::default() };
            settle_size(&mut image, folder.path()).expect("JSON");
            image.image_size
        };
        assert_eq!(settled(None), 518);
        let dinov2 = json!({"crop_size": {"height": 224, "width": 224}, "size": {"shortest_edge": 256}});
        assert_eq!(settled(Some(dinov2)), 224);
        assert_eq!(settled(Some(json!({"crop_size": 224, "do_center_crop": false, "size": 384}))), 384);
        assert_eq!(settled(Some(json!({"size": {"height": 96, "width": 96}}))), 96);
    }
}
