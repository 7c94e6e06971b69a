//! Llama (Touvron et al. 2023) and those after it: RMS norms, gated
//! feed-forward parts, rotary positions, shared key heads.

use super::bert::classifier;
use super::{Config, Family, KeyMap, Part};
use crate::heads::{HeadConfig, HeadInput};
use crate::layers::{AttentionBias, BlockConfig, NormKind, RotaryScaling};
use crate::towers::{Pooling, TextTowerConfig};
use crate::{DecoderConfig, DecoderOutput, ModelError, Result, TowerConfig, TransformerConfig};
use serde_json::{Value, json};

/// Llama 1 to 3, SmolLM 1 and 2, Yi, and whatever else has its layout.
pub(super) const LLAMA: Family = Family { name: "Llama", model_types: &["llama"], parts: llama };

/// Mistral 7B (Jiang et al. 2023): attention within a window.
pub(super) const MISTRAL: Family = Family { name: "Mistral", model_types: &["mistral"], parts: mistral };

/// Qwen2 and 2.5: biases on queries, keys and values.
pub(super) const QWEN2: Family = Family { name: "Qwen2", model_types: &["qwen2"], parts: qwen2 };

/// Qwen3: each head of queries and keys normalised.
pub(super) const QWEN3: Family = Family { name: "Qwen3", model_types: &["qwen3"], parts: qwen3 };

/// SmolLM3: no positions in one layer of four.
pub(super) const SMOLLM3: Family = Family { name: "SmolLM3", model_types: &["smollm3"], parts: smollm3 };

fn llama(c: &Config) -> Result<Vec<Part>> {
    c.only("pretraining_tp", &[json!(1)])?;
    c.only("rope_interleaved", &[json!(false)])?;
    let mut transformer = transformer(c, c.usize("num_attention_heads")?)?;
    transformer.block.attention_bias = Some(AttentionBias::all(c.bool_or("attention_bias", false)?));
    transformer.block.bias = c.bool_or("mlp_bias", false)?;
    parts(c, transformer, false)
}

fn mistral(c: &Config) -> Result<Vec<Part>> {
    c.only("layer_types", &[])?;
    let mut transformer = transformer(c, 8)?;
    transformer.block.window = if c.has("sliding_window") { window(c)? } else { None };
    parts(c, transformer, false)
}

fn qwen2(c: &Config) -> Result<Vec<Part>> {
    let mut transformer = transformer(c, 32)?;
    transformer.block.attention_bias = Some(AttentionBias { output: false, ..AttentionBias::all(true) });
    windows(c, &mut transformer)?;
    parts(c, transformer, false)
}

fn qwen3(c: &Config) -> Result<Vec<Part>> {
    let mut transformer = transformer(c, 32)?;
    transformer.block.head_dim = Some(c.usize_or("head_dim", 128)?);
    transformer.block.attention_bias = Some(AttentionBias::all(c.bool_or("attention_bias", false)?));
    transformer.block.qk_norm = true;
    windows(c, &mut transformer)?;
    parts(c, transformer, false)
}

fn smollm3(c: &Config) -> Result<Vec<Part>> {
    c.only("use_sliding_window", &[json!(false)])?;
    let mut transformer = transformer(c, 4)?;
    transformer.block.attention_bias = Some(AttentionBias::all(c.bool_or("attention_bias", false)?));
    transformer.block.bias = c.bool_or("mlp_bias", false)?;
    let layers = transformer.layers;
    let every = c.usize_or("no_rope_layer_interval", 4)?;
    // The list says of each layer whether it has positions.
    let usual: Vec<usize> = (1..=layers).map(|layer| usize::from(!layer.is_multiple_of(every))).collect();
    let rotary = c.list_or("no_rope_layers", &usual)?;
    if rotary.len() != layers {
        let problem = format!("expected 0 or 1 for each of {layers} layers, got {}", rotary.len());
        return Err(ModelError::config("config.json, no_rope_layers", problem));
    }
    transformer.no_rotary_layers = (0..layers).filter(|layer| rotary[*layer] == 0).collect();
    parts(c, transformer, true)
}

/// The settings that all of them share.
fn transformer(c: &Config, kv_heads: usize) -> Result<TransformerConfig> {
    c.only("quantization_config", &[])?;
    c.only("use_mrope", &[json!(false)])?;
    let (rotary_base, rotary_scaling) = rotary(c)?;
    let block = BlockConfig {
        hidden: c.usize("hidden_size")?,
        heads: c.usize("num_attention_heads")?,
        head_dim: if c.has("head_dim") { Some(c.usize("head_dim")?) } else { None },
        kv_heads: c.usize_or("num_key_value_heads", kv_heads)?,
        intermediate: c.usize("intermediate_size")?,
        activation: c.activation_or("hidden_act", "silu")?,
        gated: true,
        norm: NormKind::RmsNorm,
        norm_eps: c.f64_or("rms_norm_eps", 1e-6)?,
        bias: false,
        causal: true,
        rotary_base: Some(rotary_base),
        rotary_scaling,
        dropout: 0.0,
        attention_dropout: c.f64_or("attention_dropout", 0.0)?,
        ..BlockConfig::default()
    };
    Ok(TransformerConfig { layers: c.usize("num_hidden_layers")?, block, ..TransformerConfig::default() })
}

/// Base and scaling of rotary positions: `rope_parameters`, or in older
/// configurations `rope_theta` and `rope_scaling`.
pub(super) fn rotary(c: &Config) -> Result<(f64, Option<RotaryScaling>)> {
    let scaling = match (c.has("rope_parameters"), c.has("rope_scaling")) {
        (true, _) => Some(c.object("rope_parameters")?),
        (false, true) => Some(c.object("rope_scaling")?),
        (false, false) => None,
    };
    let base = c.f64_or("rope_theta", 1e4)?;
    let whole = [json!(1.0), json!(1)];
    c.only("partial_rotary_factor", &whole)?;
    let Some(s) = scaling else { return Ok((base, None)) };
    s.only("partial_rotary_factor", &whole)?;
    let kind = if s.has("rope_type") { "rope_type" } else { "type" };
    s.only(kind, &[json!("default"), json!("linear"), json!("llama3"), json!("yarn")])?;
    let original = || s.usize("original_max_position_embeddings");
    let scaling = match s.str_or(kind, "default")? {
        "linear" => Some(RotaryScaling::Linear { factor: s.f64("factor")? }),
        "llama3" => Some(RotaryScaling::Llama3 {
            factor: s.f64("factor")?,
            low_freq_factor: s.f64("low_freq_factor")?,
            high_freq_factor: s.f64("high_freq_factor")?,
            original_max_positions: original()?,
        }),
        "yarn" => {
            let factor = s.f64("factor")?;
            let sharper = |by: f64| if factor <= 1.0 { 1.0 } else { 0.1 * by * factor.ln() + 1.0 };
            let inferred = match (s.f64_or("mscale", 0.0)?, s.f64_or("mscale_all_dim", 0.0)?) {
                (some, all) if some != 0.0 && all != 0.0 => sharper(some) / sharper(all),
                _ => sharper(1.0),
            };
            Some(RotaryScaling::Yarn {
                factor,
                original_max_positions: original()?,
                attention_factor: s.f64_or("attention_factor", inferred)?,
                beta_fast: s.f64_or("beta_fast", 32.0)?,
                beta_slow: s.f64_or("beta_slow", 1.0)?,
                truncate: s.bool_or("truncate", true)?,
            })
        }
        _ => None,
    };
    Ok((s.f64_or("rope_theta", base)?, scaling))
}

/// A token sees this many, itself included: how far away the last of them is.
fn window(c: &Config) -> Result<Option<usize>> {
    let last = c.usize("sliding_window")?.checked_sub(1);
    last.map(Some).ok_or_else(|| ModelError::config("config.json, sliding_window", "expected at least 1, got 0"))
}

/// Windows in some of the layers.
fn windows(c: &Config, transformer: &mut TransformerConfig) -> Result<()> {
    let layers = transformer.layers;
    let slides: Vec<bool> = match c.get("layer_types") {
        None => {
            let (on, first) = (c.bool_or("use_sliding_window", false)?, c.usize_or("max_window_layers", 28)?);
            (0..layers).map(|layer| on && layer >= first).collect()
        }
        Some(types) => layer_types(types, layers)?,
    };
    if slides.contains(&true) {
        transformer.block.window = window(c)?;
        transformer.global_layers = (0..layers).filter(|layer| !slides[*layer]).collect();
    }
    Ok(())
}

/// Whether each layer sees within a window, from the names of their kinds.
pub(super) fn layer_types(types: &Value, layers: usize) -> Result<Vec<bool>> {
    let slides = |kind: &Value| match kind.as_str() {
        Some("full_attention") => Some(false),
        Some("sliding_attention") => Some(true),
        _ => None,
    };
    let slides: Option<Vec<bool>> = types.as_array().and_then(|t| t.iter().map(slides).collect());
    slides.filter(|s| s.len() == layers).ok_or_else(|| {
        let expected = format!("expected full_attention or sliding_attention for each of {layers} layers, got {types}");
        ModelError::config("config.json, layer_types", expected)
    })
}

fn parts(c: &Config, transformer: TransformerConfig, tied: bool) -> Result<Vec<Part>> {
    let (vocab_size, hidden) = (c.usize("vocab_size")?, transformer.block.hidden);
    let tied = c.bool_or("tie_word_embeddings", tied)?;
    let decoder = DecoderConfig {
        vocab_size,
        learned_positions: None,
        output: if tied { DecoderOutput::Tied } else { DecoderOutput::Untied },
        output_scale: None,
        transformer: transformer.clone(),
    };
    let text = TextTowerConfig {
        vocab_size,
        max_positions: c.usize_or("max_position_embeddings", 2048)?,
        learned_positions: false,
        embedding_norm: false,
        pooling: Pooling::Last,
        transformer,
        ..TextTowerConfig::default()
    };
    let under = &["", "model."];
    let mut keys = keys("decoder", "decoder.embeddings.word");
    keys = if tied { keys.ignore(&["lm_head.weight"]) } else { keys.rooted("decoder.output.weight", "lm_head.weight") };
    let classes = HeadConfig { bias: false, ..classifier(c, HeadInput::Pooled, hidden, None)? };
    Ok(vec![
        Part::tower("text", TowerConfig::Text(text), self::keys("encoder", "embeddings.word").under(under)),
        Part::decoder("decoder", decoder, keys.under(under)),
        Part::head("classifier", classes, KeyMap::new().map("output.*", "score.*")),
    ])
}

/// The tensors' names, ours those of a decoder or of a text tower.
fn keys(stack: &str, word: &str) -> KeyMap {
    let layer = |name: &str| format!("{stack}.layer.*.{name}.*");
    KeyMap::new()
        .map(&layer("attention.query"), "layers.*.self_attn.q_proj.*")
        .map(&layer("attention.key"), "layers.*.self_attn.k_proj.*")
        .map(&layer("attention.value"), "layers.*.self_attn.v_proj.*")
        .map(&layer("attention.output"), "layers.*.self_attn.o_proj.*")
        .map(&layer("attention.query_norm"), "layers.*.self_attn.q_norm.*")
        .map(&layer("attention.key_norm"), "layers.*.self_attn.k_norm.*")
        .map(&layer("attention_norm"), "layers.*.input_layernorm.*")
        .map(&layer("mlp.gate"), "layers.*.mlp.gate_proj.*")
        .map(&layer("mlp.up"), "layers.*.mlp.up_proj.*")
        .map(&layer("mlp.down"), "layers.*.mlp.down_proj.*")
        .map(&layer("mlp_norm"), "layers.*.post_attention_layernorm.*")
        .map(&format!("{stack}.norm.*"), "norm.*")
        .map(word, "embed_tokens.weight")
        .ignore(&["layers.*.self_attn.rotary_emb.inv_freq", "rotary_emb.inv_freq"])
}
