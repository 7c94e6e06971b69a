//! DINOv2: Vision Transformers with layer scale, learned without labels.

use super::vit::{classifier, image_config, image_keys};
use super::{Config, Convert, Family, KeyMap, Part};
use crate::heads::HeadInput;
use crate::layers::ActivationName;
use crate::{Result, TowerConfig};

/// DINOv2 (Oquab et al. 2023), with registers too (Darcet et al. 2024).
pub(super) const DINOV2: Family =
    Family { name: "DINOv2", model_types: &["dinov2", "dinov2_with_registers"], parts: dinov2 };

fn dinov2(c: &Config) -> Result<Vec<Part>> {
    let with_registers = c.str_or("model_type", "")? == "dinov2_with_registers";
    let mut image = image_config(c)?;
    image.patch_size = c.square_or("patch_size", if with_registers { 16 } else { 14 })?;
    if with_registers {
        image.register_tokens = c.usize_or("num_register_tokens", 4)?;
    }
    let block = &mut image.transformer.block;
    block.norm_eps = c.f64_or("layer_norm_eps", 1e-6)?;
    block.layer_scale = Some(c.f64_or("layerscale_value", 1.0)?);
    block.intermediate = (block.hidden as f64 * c.f64_or("mlp_ratio", 4.0)?) as usize;
    let mut keys = image_keys(Convert::Grid { first: 1, antialias: with_registers })
        .map("encoder.layer.*.attention_norm.*", "encoder.layer.*.norm1.*")
        .map("encoder.layer.*.attention_scale", "encoder.layer.*.layer_scale1.lambda1")
        .map("encoder.layer.*.mlp_norm.*", "encoder.layer.*.norm2.*")
        .map("encoder.layer.*.mlp_scale", "encoder.layer.*.layer_scale2.lambda1");
    if c.bool_or("use_swiglu_ffn", false)? {
        // Two thirds of the width, in multiples of eight.
        block.intermediate = (block.intermediate * 2 / 3).div_ceil(8) * 8;
        (block.gated, block.activation) = (true, ActivationName::Silu);
        let half = |part| Convert::Rows { part, of: 2 };
        keys = keys
            .convert("encoder.layer.*.mlp.gate.*", "encoder.layer.*.mlp.weights_in.*", half(0))
            .convert("encoder.layer.*.mlp.up.*", "encoder.layer.*.mlp.weights_in.*", half(1))
            .map("encoder.layer.*.mlp.down.*", "encoder.layer.*.mlp.weights_out.*");
    } else {
        keys = keys
            .map("encoder.layer.*.mlp.up.*", "encoder.layer.*.mlp.fc1.*")
            .map("encoder.layer.*.mlp.down.*", "encoder.layer.*.mlp.fc2.*");
    }
    let (hidden, special) = (image.transformer.block.hidden, image.special_tokens());
    Ok(vec![
        Part::tower(
            "image",
            TowerConfig::Image(image),
            keys.under(&["", if with_registers { "dinov2_with_registers." } else { "dinov2." }]),
        ),
        Part::head(
            "classifier",
            classifier(c, HeadInput::FirstAndMeanAfter(special), 2 * hidden)?,
            KeyMap::new().map("output.*", "classifier.*"),
        ),
    ])
}
