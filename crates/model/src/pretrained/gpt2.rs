//! GPT-2 (Radford et al. 2019).

use super::bert::classifier;
use super::{Config, Convert, Family, KeyMap, Part};
use crate::heads::{HeadConfig, HeadInput};
use crate::layers::BlockConfig;
use crate::towers::{Pooling, TextTowerConfig};
use crate::{DecoderConfig, DecoderOutput, Result, TowerConfig, TransformerConfig};
use serde_json::json;

/// GPT-2, Chinese ones too.
pub(super) const GPT2: Family = Family { name: "GPT-2", model_types: &["gpt2"], parts };

/// The settings of a decoder, without what attends to an encoder.
pub(super) fn decoder(c: &Config) -> Result<DecoderConfig> {
    c.only("scale_attn_weights", &[json!(true)])?;
    c.only("scale_attn_by_inverse_layer_idx", &[json!(false)])?;
    c.only("quantization_config", &[])?;
    let block = BlockConfig {
        hidden: c.usize("n_embd")?,
        heads: c.usize("n_head")?,
        intermediate: c.usize_or("n_inner", 0)?,
        activation: c.activation_or("activation_function", "gelu_new")?,
        norm_eps: c.f64_or("layer_norm_epsilon", 1e-5)?,
        causal: true,
        dropout: c.f64_or("resid_pdrop", 0.1)?,
        attention_dropout: c.f64_or("attn_pdrop", 0.1)?,
        ..BlockConfig::default()
    };
    let transformer = TransformerConfig { layers: c.usize("n_layer")?, block, ..TransformerConfig::default() };
    let tied = c.bool_or("tie_word_embeddings", true)?;
    Ok(DecoderConfig {
        vocab_size: c.usize("vocab_size")?,
        learned_positions: Some(c.usize("n_positions")?),
        output: if tied { DecoderOutput::Tied } else { DecoderOutput::Untied },
        output_scale: None,
        transformer,
    })
}

fn parts(c: &Config) -> Result<Vec<Part>> {
    c.only("add_cross_attention", &[json!(false)])?;
    let decoder = decoder(c)?;
    let (hidden, tied) = (decoder.transformer.block.hidden, decoder.output == DecoderOutput::Tied);
    let text = TextTowerConfig {
        vocab_size: decoder.vocab_size,
        max_positions: c.usize("n_positions")?,
        embedding_norm: false,
        pooling: Pooling::Last,
        transformer: decoder.transformer.clone(),
        ..TextTowerConfig::default()
    };
    let under = &["", "transformer."];
    let mut keys = keys("decoder");
    keys = if tied { keys.ignore(&["lm_head.weight"]) } else { keys.rooted("decoder.output.weight", "lm_head.weight") };
    let classes = HeadConfig { bias: false, ..classifier(c, HeadInput::Pooled, hidden, None)? };
    Ok(vec![
        Part::tower("text", TowerConfig::Text(text), self::keys("encoder").under(under)),
        Part::decoder("decoder", decoder, keys.under(under)),
        Part::head("classifier", classes, KeyMap::new().map("output.*", "score.*")),
    ])
}

/// The tensors' names, ours those of a decoder or of a text tower. Matrices
/// are stored `[inputs, outputs]`, queries, keys and values side by side.
pub(super) fn keys(stack: &str) -> KeyMap {
    let mut keys = KeyMap::new();
    let layer = |name: &str| format!("{stack}.layer.*.{name}");
    for (part, name) in ["query", "key", "value"].into_iter().enumerate() {
        let third = Convert::TransposeRows { part, of: 3 };
        keys = keys.convert(&layer(&format!("attention.{name}.*")), "h.*.attn.c_attn.*", third);
    }
    for (ours, theirs) in [("attention.output", "attn.c_proj"), ("mlp.up", "mlp.c_fc"), ("mlp.down", "mlp.c_proj")] {
        let theirs = format!("h.*.{theirs}");
        keys = keys
            .convert(&layer(&format!("{ours}.weight")), &format!("{theirs}.weight"), Convert::Transpose)
            .map(&layer(&format!("{ours}.bias")), &format!("{theirs}.bias"));
    }
    let embeddings = if stack == "decoder" { "decoder.embeddings" } else { "embeddings" };
    keys.map(&layer("attention_norm.*"), "h.*.ln_1.*")
        .map(&layer("mlp_norm.*"), "h.*.ln_2.*")
        .map(&format!("{stack}.norm.*"), "ln_f.*")
        .map(&format!("{embeddings}.word"), "wte.weight")
        .map(&format!("{embeddings}.positions"), "wpe.weight")
        .ignore(&["h.*.attn.bias", "h.*.attn.masked_bias"])
}

/// With the names of what attends to an encoder: keys and values side by side.
pub(super) fn cross_keys(keys: KeyMap) -> KeyMap {
    let mut keys = keys;
    for (part, name) in ["key", "value"].into_iter().enumerate() {
        let half = Convert::TransposeRows { part, of: 2 };
        keys = keys.convert(&format!("decoder.layer.*.cross.{name}.*"), "h.*.crossattention.c_attn.*", half);
    }
    for (ours, theirs) in [("query", "q_attn"), ("output", "c_proj")] {
        let (ours, theirs) = (format!("decoder.layer.*.cross.{ours}"), format!("h.*.crossattention.{theirs}"));
        keys = keys
            .convert(&format!("{ours}.weight"), &format!("{theirs}.weight"), Convert::Transpose)
            .map(&format!("{ours}.bias"), &format!("{theirs}.bias"));
    }
    keys.map("decoder.layer.*.cross_norm.*", "h.*.ln_cross_attn.*")
        .ignore(&["h.*.crossattention.bias", "h.*.crossattention.masked_bias"])
}
