//! T5 (Raffel et al. 2020): an encoder and a decoder with relative positions.

use super::{Config, Family, KeyMap, Part};
use crate::layers::{ActivationName, BlockConfig, NormKind, RelativePositionsConfig};
use crate::towers::{Pooling, TextTowerConfig};
use crate::{DecoderConfig, DecoderOutput, Result, TowerConfig, TransformerConfig};
use serde_json::json;

/// T5, T5 1.1 and Flan-T5.
pub(super) const T5: Family = Family { name: "T5", model_types: &["t5"], parts: t5 };

/// mT5 (Xue et al. 2021): T5 1.1 in many languages.
pub(super) const MT5: Family = Family { name: "mT5", model_types: &["mt5"], parts: mt5 };

fn t5(c: &Config) -> Result<Vec<Part>> {
    // The first T5 uses its embeddings for the output too, and scales what
    // goes into it; configurations say both in one word or in two.
    let tied = c.bool_or("tie_word_embeddings", true)?;
    parts(c, c.bool_or("scale_decoder_outputs", tied)?, "relu")
}

fn mt5(c: &Config) -> Result<Vec<Part>> {
    parts(c, false, "gated-gelu")
}

fn parts(c: &Config, first: bool, feed_forward: &str) -> Result<Vec<Part>> {
    let kinds = ["relu", "gated-gelu", "gated-silu", "gated-relu"];
    c.only("feed_forward_proj", &kinds.map(|k| json!(k)))?;
    c.only("quantization_config", &[])?;
    let (activation, gated) = match c.str_or("feed_forward_proj", feed_forward)? {
        "gated-gelu" => (ActivationName::GeluTanh, true),
        "gated-silu" => (ActivationName::Silu, true),
        "gated-relu" => (ActivationName::Relu, true),
        _ => (ActivationName::Relu, false),
    };
    let dropout = c.f64_or("dropout_rate", 0.1)?;
    let hidden = c.usize("d_model")?;
    let block = BlockConfig {
        hidden,
        heads: c.usize("num_heads")?,
        head_dim: Some(c.usize("d_kv")?),
        intermediate: c.usize("d_ff")?,
        activation,
        gated,
        norm: NormKind::RmsNorm,
        norm_eps: c.f64_or("layer_norm_epsilon", 1e-6)?,
        bias: false,
        attention_scale: Some(1.0),
        dropout,
        attention_dropout: dropout,
        ..BlockConfig::default()
    };
    let (buckets, max_distance) =
        (c.usize_or("relative_attention_num_buckets", 32)?, c.usize_or("relative_attention_max_distance", 128)?);
    let stack = |layers, block, bidirectional| TransformerConfig {
        layers,
        block,
        relative_positions: Some(RelativePositionsConfig { buckets, max_distance, bidirectional }),
        ..TransformerConfig::default()
    };
    let (vocab_size, layers) = (c.usize("vocab_size")?, c.usize("num_layers")?);
    let text = TextTowerConfig {
        vocab_size,
        max_positions: c.usize_or("n_positions", 512)?,
        learned_positions: false,
        embedding_norm: false,
        pooling: Pooling::Mean,
        transformer: stack(layers, block.clone(), true),
        ..TextTowerConfig::default()
    };
    let block = BlockConfig { causal: true, cross_attention: true, ..block };
    let decoder = DecoderConfig {
        vocab_size,
        learned_positions: None,
        output: if first { DecoderOutput::Tied } else { DecoderOutput::Untied },
        output_scale: first.then(|| (hidden as f64).powf(-0.5)),
        transformer: stack(c.usize_or("num_decoder_layers", layers)?, block, false),
    };
    let ignored = ["encoder.embed_tokens.weight", "decoder.embed_tokens.weight"];
    let encoder_keys = keys("encoder", 1, gated).map("embeddings.word", "shared.weight").ignore(&ignored);
    let decoder_keys = keys("decoder", 2, gated)
        .map("decoder.layer.*.cross.query.*", "decoder.block.*.layer.1.EncDecAttention.q.*")
        .map("decoder.layer.*.cross.key.*", "decoder.block.*.layer.1.EncDecAttention.k.*")
        .map("decoder.layer.*.cross.value.*", "decoder.block.*.layer.1.EncDecAttention.v.*")
        .map("decoder.layer.*.cross.output.*", "decoder.block.*.layer.1.EncDecAttention.o.*")
        .map("decoder.layer.*.cross_norm.*", "decoder.block.*.layer.1.layer_norm.*")
        .map("decoder.embeddings.word", "shared.weight")
        // An old file holds a table here that was never used.
        .ignore(&["decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight"]);
    let decoder_keys = if first {
        decoder_keys.ignore(&["lm_head.weight"])
    } else {
        decoder_keys.map("decoder.output.weight", "lm_head.weight")
    };
    Ok(vec![
        Part::tower("text", TowerConfig::Text(text), encoder_keys),
        Part::decoder("decoder", decoder, decoder_keys),
    ])
}

/// The tensors' names that both stacks share; the feed-forward part is the
/// sublayer of this number.
fn keys(stack: &str, feed_forward: usize, gated: bool) -> KeyMap {
    let layer = |name: &str| format!("{stack}.layer.*.{name}.*");
    let theirs = |sublayer: usize, name: &str| format!("{stack}.block.*.layer.{sublayer}.{name}.*");
    let up = if gated { "DenseReluDense.wi_1" } else { "DenseReluDense.wi" };
    KeyMap::new()
        .map(&layer("attention.query"), &theirs(0, "SelfAttention.q"))
        .map(&layer("attention.key"), &theirs(0, "SelfAttention.k"))
        .map(&layer("attention.value"), &theirs(0, "SelfAttention.v"))
        .map(&layer("attention.output"), &theirs(0, "SelfAttention.o"))
        .map(&layer("attention_norm"), &theirs(0, "layer_norm"))
        .map(&layer("mlp.gate"), &theirs(feed_forward, "DenseReluDense.wi_0"))
        .map(&layer("mlp.up"), &theirs(feed_forward, up))
        .map(&layer("mlp.down"), &theirs(feed_forward, "DenseReluDense.wo"))
        .map(&layer("mlp_norm"), &theirs(feed_forward, "layer_norm"))
        .map(
            &format!("{stack}.relative_positions"),
            &format!("{stack}.block.0.layer.0.SelfAttention.relative_attention_bias.weight"),
        )
        .map(&format!("{stack}.norm.*"), &format!("{stack}.final_layer_norm.*"))
}
