//! ModernBERT (Warner et al. 2024): rotary positions, and attention within a
//! window in two layers of three.

use super::bert::is_tagger;
use super::llama::layer_types;
use super::{Config, Convert, Family, KeyMap, Part};
use crate::heads::{HeadConfig, HeadInput};
use crate::layers::{AttentionBias, BlockConfig};
use crate::towers::{Pooling, TextTowerConfig};
use crate::{ModelError, Result, TowerConfig, TransformerConfig};
use serde_json::json;

/// ModernBERT.
pub(super) const MODERNBERT: Family = Family { name: "ModernBERT", model_types: &["modernbert"], parts };

fn parts(c: &Config) -> Result<Vec<Part>> {
    c.only("position_embedding_type", &[json!("absolute"), json!("sans_pos"), json!("rope")])?;
    c.only("quantization_config", &[])?;
    let layers = c.usize("num_hidden_layers")?;
    let slides: Vec<bool> = match c.get("layer_types") {
        Some(types) => layer_types(types, layers)?,
        None => match c.usize_or("global_attn_every_n_layers", 3)? {
            0 => return Err(ModelError::config("config.json, global_attn_every_n_layers", "expected at least 1")),
            every => (0..layers).map(|layer| layer % every != 0).collect(),
        },
    };
    let hidden = c.usize("hidden_size")?;
    let block = BlockConfig {
        hidden,
        heads: c.usize("num_attention_heads")?,
        intermediate: c.usize("intermediate_size")?,
        activation: c.activation_or("hidden_activation", "gelu")?,
        gated: true,
        norm_eps: c.f64_or("norm_eps", 1e-5)?,
        norm_bias: c.bool_or("norm_bias", false)?,
        bias: c.bool_or("mlp_bias", false)?,
        attention_bias: Some(AttentionBias::all(c.bool_or("attention_bias", false)?)),
        rotary_base: Some(theta(c, "full_attention", "global_rope_theta", 160_000.0)?),
        window: slides.contains(&true).then_some(c.usize_or("local_attention", 128)? / 2),
        dropout: c.f64_or("mlp_dropout", 0.0)?,
        attention_dropout: c.f64_or("attention_dropout", 0.0)?,
        ..BlockConfig::default()
    };
    let (norm_eps, norm_bias) = (block.norm_eps, block.norm_bias);
    let transformer = TransformerConfig {
        layers,
        block,
        first_norm: false,
        global_layers: (0..layers).filter(|layer| !slides[*layer]).collect(),
        local_rotary_base: Some(theta(c, "sliding_attention", "local_rope_theta", 10_000.0)?),
        ..TransformerConfig::default()
    };
    let text = TextTowerConfig {
        vocab_size: c.usize("vocab_size")?,
        max_positions: c.usize_or("max_position_embeddings", 8192)?,
        learned_positions: false,
        pooling: Pooling::First,
        transformer,
        ..TextTowerConfig::default()
    };
    c.only("classifier_pooling", &[json!("cls"), json!("mean")])?;
    let pooled = match c.str_or("classifier_pooling", "cls")? {
        "mean" => HeadInput::Mean,
        _ => HeadInput::First,
    };
    let classifier = HeadConfig {
        input: if is_tagger(c) { HeadInput::Tokens } else { pooled },
        inputs: hidden,
        dense: Some(c.activation_or("classifier_activation", "gelu")?),
        dense_width: None,
        dense_bias: c.bool_or("classifier_bias", false)?,
        norm_eps: Some(norm_eps),
        norm_bias,
        outputs: c.classes()?,
        bias: true,
    };
    let masked = HeadConfig { input: HeadInput::Tokens, outputs: text.vocab_size, ..classifier.clone() };
    let tied = c.bool_or("tie_word_embeddings", true)?;
    let head = |keys: KeyMap| keys.map("dense.*", "head.dense.*").map("norm.*", "head.norm.*");
    let masked_keys = head(KeyMap::new().map("output.bias", "decoder.bias"));
    let masked_keys = if tied {
        masked_keys.map("output.weight", "model.embeddings.tok_embeddings.weight").ignore(&["decoder.weight"])
    } else {
        masked_keys.map("output.weight", "decoder.weight")
    };
    Ok(vec![
        Part::tower("text", TowerConfig::Text(text), keys()),
        Part::head("masked_lm", masked, masked_keys),
        Part::head("classifier", classifier, head(KeyMap::new().map("output.*", "classifier.*"))),
    ])
}

/// The base of rotary positions of a kind of layers, under its newer or its
/// older name.
fn theta(c: &Config, kind: &str, older: &str, default: f64) -> Result<f64> {
    c.only("rope_scaling", &[])?;
    let base = c.f64_or(older, default)?;
    if !c.has("rope_parameters") {
        return Ok(base);
    }
    let all = c.object("rope_parameters")?;
    if !all.has(kind) {
        return Ok(base);
    }
    let rope = all.object(kind)?;
    rope.only("rope_type", &[json!("default")])?;
    rope.only("partial_rotary_factor", &[json!(1.0), json!(1)])?;
    rope.f64_or("rope_theta", base)
}

fn keys() -> KeyMap {
    let third = |part| Convert::Rows { part, of: 3 };
    let half = |part| Convert::Rows { part, of: 2 };
    KeyMap::new()
        .convert("encoder.layer.*.attention.query.*", "layers.*.attn.Wqkv.*", third(0))
        .convert("encoder.layer.*.attention.key.*", "layers.*.attn.Wqkv.*", third(1))
        .convert("encoder.layer.*.attention.value.*", "layers.*.attn.Wqkv.*", third(2))
        .map("encoder.layer.*.attention.output.*", "layers.*.attn.Wo.*")
        .map("encoder.layer.*.attention_norm.*", "layers.*.attn_norm.*")
        .convert("encoder.layer.*.mlp.gate.*", "layers.*.mlp.Wi.*", half(0))
        .convert("encoder.layer.*.mlp.up.*", "layers.*.mlp.Wi.*", half(1))
        .map("encoder.layer.*.mlp.down.*", "layers.*.mlp.Wo.*")
        .map("encoder.layer.*.mlp_norm.*", "layers.*.mlp_norm.*")
        .map("encoder.norm.*", "final_norm.*")
        .map("embeddings.word", "embeddings.tok_embeddings.weight")
        .map("embeddings.norm.*", "embeddings.norm.*")
        .under(&["", "model."])
}
