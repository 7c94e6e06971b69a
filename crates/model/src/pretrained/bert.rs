//! Text encoders after BERT: post-norm Transformers over learned positions.

use super::{Config, Family, KeyMap, Part};
use crate::heads::{HeadConfig, HeadInput};
use crate::layers::{ActivationName, BlockConfig, NormPlace, RelativePositionsConfig};
use crate::towers::{Pooling, TextTowerConfig};
use crate::{Result, TowerConfig, TransformerConfig};
use serde_json::json;

/// BERT (Devlin et al. 2019), Chinese ones too.
pub(super) const BERT: Family = Family { name: "BERT", model_types: &["bert"], parts: bert };

/// RoBERTa (Liu et al. 2019), XLM-RoBERTa, CamemBERT.
pub(super) const ROBERTA: Family =
    Family { name: "RoBERTa", model_types: &["roberta", "xlm-roberta", "camembert"], parts: roberta };

/// DistilBERT (Sanh et al. 2019).
pub(super) const DISTILBERT: Family = Family { name: "DistilBERT", model_types: &["distilbert"], parts: distilbert };

/// MPNet (Song et al. 2020): relative positions beside the learned ones.
pub(super) const MPNET: Family = Family { name: "MPNet", model_types: &["mpnet"], parts: mpnet };

/// ALBERT (Lan et al. 2020): one block for all layers, narrow embeddings.
pub(super) const ALBERT: Family = Family { name: "ALBERT", model_types: &["albert"], parts: albert };

/// ELECTRA (Clark et al. 2020): narrow embeddings.
pub(super) const ELECTRA: Family = Family { name: "ELECTRA", model_types: &["electra"], parts: electra };

/// The settings that all of them share, under BERT's names for them.
pub(super) fn text_config(c: &Config) -> Result<TextTowerConfig> {
    c.only("position_embedding_type", &[json!("absolute")])?;
    c.only("is_decoder", &[json!(false)])?;
    encoder_config(c)
}

/// As [`text_config`], for configurations that also speak of a decoder.
pub(super) fn encoder_config(c: &Config) -> Result<TextTowerConfig> {
    let hidden = c.usize("hidden_size")?;
    let block = BlockConfig {
        hidden,
        heads: c.usize("num_attention_heads")?,
        intermediate: c.usize("intermediate_size")?,
        activation: c.activation_or("hidden_act", "gelu")?,
        norm_place: NormPlace::Post,
        norm_eps: c.f64_or("layer_norm_eps", 1e-12)?,
        dropout: c.f64_or("hidden_dropout_prob", 0.1)?,
        attention_dropout: c.f64_or("attention_probs_dropout_prob", 0.1)?,
        ..BlockConfig::default()
    };
    let layers = c.usize("num_hidden_layers")?;
    Ok(TextTowerConfig {
        vocab_size: c.usize("vocab_size")?,
        max_positions: c.usize("max_position_embeddings")?,
        token_types: c.usize_or("type_vocab_size", 2)?,
        pooling: Pooling::First,
        pooler: Some(ActivationName::Tanh),
        transformer: TransformerConfig { layers, block, ..TransformerConfig::default() },
        ..TextTowerConfig::default()
    })
}

/// The tensors' names in BERT and its closest kin.
pub(super) fn text_keys() -> KeyMap {
    embeddings()
        .map("encoder.layer.*.attention.output.*", "encoder.layer.*.attention.output.dense.*")
        .map("encoder.layer.*.attention.*.*", "encoder.layer.*.attention.self.*.*")
        .map("encoder.layer.*.attention_norm.*", "encoder.layer.*.attention.output.LayerNorm.*")
        .map("encoder.layer.*.mlp.up.*", "encoder.layer.*.intermediate.dense.*")
        .map("encoder.layer.*.mlp.down.*", "encoder.layer.*.output.dense.*")
        .map("encoder.layer.*.mlp_norm.*", "encoder.layer.*.output.LayerNorm.*")
        .map("pooler.*", "pooler.dense.*")
}

fn embeddings() -> KeyMap {
    KeyMap::new()
        .map("embeddings.word", "embeddings.word_embeddings.weight")
        .map("embeddings.positions", "embeddings.position_embeddings.weight")
        .map("embeddings.token_types", "embeddings.token_type_embeddings.weight")
        .map("embeddings.norm.*", "embeddings.LayerNorm.*")
        .ignore(&["embeddings.position_ids", "embeddings.token_type_ids"])
}

/// A masked language model's head, its output tied to the word embeddings.
fn masked_lm(c: &Config, hidden: usize, width: usize) -> Result<HeadConfig> {
    Ok(HeadConfig {
        input: HeadInput::Tokens,
        inputs: hidden,
        dense: Some(c.activation_or("hidden_act", "gelu")?),
        dense_width: Some(width),
        dense_bias: true,
        norm_eps: Some(c.f64_or("layer_norm_eps", 1e-12)?),
        norm_bias: true,
        outputs: c.usize("vocab_size")?,
        bias: true,
    })
}

/// Whether a classifier answers for every token; taggers share the names of
/// classifiers.
pub(super) fn is_tagger(c: &Config) -> bool {
    c.get("architectures").is_some_and(|a| a.to_string().contains("ForTokenClassification"))
}

/// A linear classifier; the number of classes is told by its labels.
pub(super) fn classifier(
    c: &Config,
    input: HeadInput,
    inputs: usize,
    dense: Option<ActivationName>,
) -> Result<HeadConfig> {
    let (input, dense) = if is_tagger(c) { (HeadInput::Tokens, None) } else { (input, dense) };
    Ok(HeadConfig { dense, ..HeadConfig::linear(input, inputs, c.classes()?) })
}

fn bert(c: &Config) -> Result<Vec<Part>> {
    let text = text_config(c)?;
    let hidden = text.transformer.block.hidden;
    let under = &["", "bert."];
    Ok(vec![
        Part::tower("text", TowerConfig::Text(text), text_keys().under(under)),
        Part::head(
            "masked_lm",
            masked_lm(c, hidden, hidden)?,
            KeyMap::new()
                .map("dense.*", "cls.predictions.transform.dense.*")
                .map("norm.*", "cls.predictions.transform.LayerNorm.*")
                .map("output.bias", "cls.predictions.bias")
                .map("output.weight", "bert.embeddings.word_embeddings.weight")
                .ignore(&["cls.predictions.decoder.*", "cls.seq_relationship.*"]),
        ),
        Part::head(
            "classifier",
            classifier(c, HeadInput::Pooled, hidden, None)?,
            KeyMap::new().map("output.*", "classifier.*"),
        ),
    ])
}

/// The heads of RoBERTa, which MPNet took over: a masked language model's and
/// a classifier over the first token. `root` stands before the tower's names.
fn roberta_heads(c: &Config, hidden: usize, root: &str) -> Result<[Part; 2]> {
    Ok([
        Part::head(
            "masked_lm",
            HeadConfig { dense: Some(ActivationName::Gelu), ..masked_lm(c, hidden, hidden)? },
            KeyMap::new()
                .map("dense.*", "lm_head.dense.*")
                .map("norm.*", "lm_head.layer_norm.*")
                .map("output.bias", "lm_head.bias")
                .map("output.weight", &format!("{root}.embeddings.word_embeddings.weight"))
                .ignore(&["lm_head.decoder.*"]),
        ),
        Part::head(
            "classifier",
            classifier(c, HeadInput::First, hidden, Some(ActivationName::Tanh))?,
            KeyMap::new().map("dense.*", "classifier.dense.*").map("output.*", "classifier.out_proj.*"),
        ),
    ])
}

fn roberta(c: &Config) -> Result<Vec<Part>> {
    let mut text = text_config(c)?;
    let hidden = text.transformer.block.hidden;
    // Positions are counted from the padding token's number on.
    text.position_offset = c.usize_or("pad_token_id", 1)? + 1;
    text.max_positions = text.max_positions.saturating_sub(text.position_offset);
    let tower = Part::tower("text", TowerConfig::Text(text), text_keys().under(&["", "roberta."]));
    let [masked_lm, classifier] = roberta_heads(c, hidden, "roberta")?;
    Ok(vec![tower, masked_lm, classifier])
}

fn distilbert(c: &Config) -> Result<Vec<Part>> {
    c.only("sinusoidal_pos_embds", &[json!(false), json!(true)])?;
    let hidden = c.usize("dim")?;
    let block = BlockConfig {
        hidden,
        heads: c.usize("n_heads")?,
        intermediate: c.usize("hidden_dim")?,
        activation: c.activation_or("activation", "gelu")?,
        norm_place: NormPlace::Post,
        norm_eps: 1e-12,
        dropout: c.f64_or("dropout", 0.1)?,
        attention_dropout: c.f64_or("attention_dropout", 0.1)?,
        ..BlockConfig::default()
    };
    let layers = c.usize("n_layers")?;
    let text = TextTowerConfig {
        vocab_size: c.usize("vocab_size")?,
        max_positions: c.usize("max_position_embeddings")?,
        pooling: Pooling::First,
        transformer: TransformerConfig { layers, block, ..TransformerConfig::default() },
        ..TextTowerConfig::default()
    };
    let keys = embeddings()
        .map("encoder.layer.*.attention.query.*", "transformer.layer.*.attention.q_lin.*")
        .map("encoder.layer.*.attention.key.*", "transformer.layer.*.attention.k_lin.*")
        .map("encoder.layer.*.attention.value.*", "transformer.layer.*.attention.v_lin.*")
        .map("encoder.layer.*.attention.output.*", "transformer.layer.*.attention.out_lin.*")
        .map("encoder.layer.*.attention_norm.*", "transformer.layer.*.sa_layer_norm.*")
        .map("encoder.layer.*.mlp.up.*", "transformer.layer.*.ffn.lin1.*")
        .map("encoder.layer.*.mlp.down.*", "transformer.layer.*.ffn.lin2.*")
        .map("encoder.layer.*.mlp_norm.*", "transformer.layer.*.output_layer_norm.*");
    let masked = HeadConfig {
        input: HeadInput::Tokens,
        inputs: hidden,
        dense: Some(text.transformer.block.activation),
        dense_width: Some(hidden),
        dense_bias: true,
        norm_eps: Some(1e-12),
        norm_bias: true,
        outputs: text.vocab_size,
        bias: true,
    };
    Ok(vec![
        Part::tower("text", TowerConfig::Text(text), keys.under(&["", "distilbert."])),
        Part::head(
            "masked_lm",
            masked,
            KeyMap::new()
                .map("dense.*", "vocab_transform.*")
                .map("norm.*", "vocab_layer_norm.*")
                .map("output.bias", "vocab_projector.bias")
                .map("output.weight", "distilbert.embeddings.word_embeddings.weight")
                .ignore(&["vocab_projector.weight"]),
        ),
        Part::head(
            "classifier",
            classifier(c, HeadInput::First, hidden, Some(ActivationName::Relu))?,
            KeyMap::new().map("dense.*", "pre_classifier.*").map("output.*", "classifier.*"),
        ),
    ])
}

fn mpnet(c: &Config) -> Result<Vec<Part>> {
    let mut text = text_config(c)?;
    text.token_types = 0;
    text.position_offset = c.usize_or("pad_token_id", 1)? + 1;
    text.max_positions = text.max_positions.saturating_sub(text.position_offset);
    text.transformer.relative_positions = Some(RelativePositionsConfig {
        buckets: c.usize_or("relative_attention_num_buckets", 32)?,
        max_distance: 128,
        bidirectional: true,
    });
    let hidden = text.transformer.block.hidden;
    let keys = embeddings()
        .map("encoder.relative_positions", "encoder.relative_attention_bias.weight")
        .map("encoder.layer.*.attention.query.*", "encoder.layer.*.attention.attn.q.*")
        .map("encoder.layer.*.attention.key.*", "encoder.layer.*.attention.attn.k.*")
        .map("encoder.layer.*.attention.value.*", "encoder.layer.*.attention.attn.v.*")
        .map("encoder.layer.*.attention.output.*", "encoder.layer.*.attention.attn.o.*")
        .map("encoder.layer.*.attention_norm.*", "encoder.layer.*.attention.LayerNorm.*")
        .map("encoder.layer.*.mlp.up.*", "encoder.layer.*.intermediate.dense.*")
        .map("encoder.layer.*.mlp.down.*", "encoder.layer.*.output.dense.*")
        .map("encoder.layer.*.mlp_norm.*", "encoder.layer.*.output.LayerNorm.*")
        .map("pooler.*", "pooler.dense.*");
    let tower = Part::tower("text", TowerConfig::Text(text), keys.under(&["", "mpnet."]));
    let [masked_lm, classifier] = roberta_heads(c, hidden, "mpnet")?;
    Ok(vec![tower, masked_lm, classifier])
}

fn albert(c: &Config) -> Result<Vec<Part>> {
    c.only("num_hidden_groups", &[json!(1)])?;
    c.only("inner_group_num", &[json!(1)])?;
    let mut text = text_config(c)?;
    text.embedding_size = Some(c.usize("embedding_size")?);
    text.transformer.shared = true;
    let hidden = text.transformer.block.hidden;
    let group = "encoder.albert_layer_groups.0.albert_layers.0";
    let theirs = |name: &str| format!("{group}.{name}");
    let keys = embeddings()
        .map("embeddings.projection.*", "encoder.embedding_hidden_mapping_in.*")
        .map("encoder.layer.0.attention.output.*", &theirs("attention.dense.*"))
        .map("encoder.layer.0.attention.*.*", &theirs("attention.*.*"))
        .map("encoder.layer.0.attention_norm.*", &theirs("attention.LayerNorm.*"))
        .map("encoder.layer.0.mlp.up.*", &theirs("ffn.*"))
        .map("encoder.layer.0.mlp.down.*", &theirs("ffn_output.*"))
        .map("encoder.layer.0.mlp_norm.*", &theirs("full_layer_layer_norm.*"))
        .map("pooler.*", "pooler.*");
    let width = text.embedding_size.unwrap_or(hidden);
    Ok(vec![
        Part::tower("text", TowerConfig::Text(text), keys.under(&["", "albert."])),
        Part::head(
            "masked_lm",
            masked_lm(c, hidden, width)?,
            KeyMap::new()
                .map("dense.*", "predictions.dense.*")
                .map("norm.*", "predictions.LayerNorm.*")
                .map("output.bias", "predictions.bias")
                .map("output.weight", "albert.embeddings.word_embeddings.weight")
                .ignore(&["predictions.decoder.*"]),
        ),
        Part::head(
            "classifier",
            classifier(c, HeadInput::Pooled, hidden, None)?,
            KeyMap::new().map("output.*", "classifier.*"),
        ),
    ])
}

fn electra(c: &Config) -> Result<Vec<Part>> {
    let mut text = text_config(c)?;
    let hidden = text.transformer.block.hidden;
    let width = c.usize_or("embedding_size", hidden)?;
    text.embedding_size = (width != hidden).then_some(width);
    text.pooler = None;
    let keys = text_keys().map("embeddings.projection.*", "embeddings_project.*");
    Ok(vec![
        Part::tower("text", TowerConfig::Text(text), keys.under(&["", "electra."])),
        Part::head(
            "masked_lm",
            HeadConfig { dense: Some(ActivationName::Gelu), ..masked_lm(c, hidden, width)? },
            KeyMap::new()
                .map("dense.*", "generator_predictions.dense.*")
                .map("norm.*", "generator_predictions.LayerNorm.*")
                .map("output.bias", "generator_lm_head.bias")
                .map("output.weight", "electra.embeddings.word_embeddings.weight")
                .ignore(&["generator_lm_head.weight", "discriminator_predictions.**"]),
        ),
        Part::head(
            "classifier",
            classifier(c, HeadInput::First, hidden, Some(ActivationName::Gelu))?,
            KeyMap::new().map("dense.*", "classifier.dense.*").map("output.*", "classifier.out_proj.*"),
        ),
    ])
}
