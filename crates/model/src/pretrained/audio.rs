//! Audio models: Whisper, wav2vec 2.0, HuBERT and WavLM, AST.
//!
//! What their configurations say of training alone (masking, layer drop,
//! dropout inside the feed-forward part, the loss) changes no number that a
//! model gives and is left to the training configuration here.

use super::{Config, Family, Form, KeyMap, Part};
use crate::checkpoint::Checkpoint;
use crate::heads::{HeadConfig, HeadInput};
use crate::layers::{ActivationName, AttentionBias, BlockConfig, NormPlace, RelativePositionsConfig};
use crate::towers::{
    AudioPositions, AudioStem, AudioTowerConfig, Pooling, SpectrogramPatchesConfig, WaveformConfig, WaveformNorm,
};
use crate::{DecoderConfig, DecoderOutput, Result, TowerConfig, TransformerConfig};
use serde_json::{Value, json};

/// Whisper (Radford et al. 2022), encoder and decoder.
pub(super) const WHISPER: Family = Family { name: "Whisper", model_types: &["whisper"], parts: whisper };

/// Whisper under the names of its authors' own files.
pub(super) const OPENAI_WHISPER: Family =
    Family { name: "Whisper", model_types: &[OPENAI_MODEL_TYPE], parts: openai_whisper };

/// wav2vec 2.0 (Baevski et al. 2020) and HuBERT (Hsu et al. 2021).
pub(super) const WAV2VEC2: Family =
    Family { name: "wav2vec 2.0", model_types: &["wav2vec2", "hubert"], parts: wav2vec2 };

/// WavLM (Chen et al. 2022): wav2vec 2.0 with gated biases by distance.
pub(super) const WAVLM: Family = Family { name: "WavLM", model_types: &[WAVLM_MODEL_TYPE], parts: wav2vec2 };

/// The Audio Spectrogram Transformer (Gong et al. 2021).
pub(super) const AST: Family = Family { name: "AST", model_types: &["audio-spectrogram-transformer"], parts: ast };

const OPENAI_MODEL_TYPE: &str = "openai-whisper";
const WAVLM_MODEL_TYPE: &str = "wavlm";

/// Width of an attention head in every Whisper.
const WHISPER_HEAD: usize = 64;

/// The configuration of a checkpoint under the names of Whisper's authors,
/// which has no file for it: everything follows from the shapes. None if it is
/// not one.
pub(super) fn openai_config(checkpoint: &Checkpoint) -> Option<Value> {
    let dim = |name: &str, at: usize| checkpoint.info(name)?.dims.get(at).copied();
    let layers = |part: &str| {
        (0..).take_while(|i| checkpoint.info(&format!("{part}.blocks.{i}.attn.query.weight")).is_some()).count()
    };
    let hidden = dim("encoder.positional_embedding", 1)?;
    Some(json!({
        "model_type": OPENAI_MODEL_TYPE,
        "num_mel_bins": dim("encoder.conv1.weight", 1)?,
        "d_model": hidden,
        "max_source_positions": dim("encoder.positional_embedding", 0)?,
        "encoder_layers": layers("encoder"),
        "encoder_attention_heads": hidden / WHISPER_HEAD,
        "encoder_ffn_dim": dim("encoder.blocks.0.mlp.0.weight", 0)?,
        "vocab_size": dim("decoder.token_embedding.weight", 0)?,
        "max_target_positions": dim("decoder.positional_embedding", 0)?,
        "decoder_layers": layers("decoder"),
        "decoder_attention_heads": hidden / WHISPER_HEAD,
        "decoder_ffn_dim": dim("decoder.blocks.0.mlp.0.weight", 0)?,
    }))
}

/// The block of the encoder or the decoder.
fn whisper_block(c: &Config, stack: &str) -> Result<BlockConfig> {
    c.only("scale_embedding", &[json!(false)])?;
    Ok(BlockConfig {
        hidden: c.usize("d_model")?,
        heads: c.usize(&format!("{stack}_attention_heads"))?,
        intermediate: c.usize(&format!("{stack}_ffn_dim"))?,
        activation: c.activation_or("activation_function", "gelu")?,
        attention_bias: Some(AttentionBias { key: false, ..AttentionBias::all(true) }),
        dropout: c.f64_or("dropout", 0.0)?,
        attention_dropout: c.f64_or("attention_dropout", 0.0)?,
        ..BlockConfig::default()
    })
}

fn whisper_encoder(c: &Config) -> Result<AudioTowerConfig> {
    let block = whisper_block(c, "encoder")?;
    Ok(AudioTowerConfig {
        mels: c.usize_or("num_mel_bins", 80)?,
        kernel: 3,
        strides: vec![1, 2],
        max_positions: c.usize_or("max_source_positions", 1500)?,
        positions: AudioPositions::Sinusoids,
        pooling: Pooling::Mean,
        transformer: TransformerConfig { layers: c.usize("encoder_layers")?, block, ..TransformerConfig::default() },
        ..AudioTowerConfig::default()
    })
}

fn whisper_decoder(c: &Config) -> Result<DecoderConfig> {
    let block = BlockConfig { causal: true, cross_attention: true, ..whisper_block(c, "decoder")? };
    let tied = c.bool_or("tie_word_embeddings", true)?;
    Ok(DecoderConfig {
        vocab_size: c.usize("vocab_size")?,
        learned_positions: Some(c.usize_or("max_target_positions", 448)?),
        output: if tied { DecoderOutput::Tied } else { DecoderOutput::Untied },
        output_scale: None,
        transformer: TransformerConfig { layers: c.usize("decoder_layers")?, block, ..TransformerConfig::default() },
    })
}

/// The names of a stack of blocks, and of the decoder's attention to the
/// encoder.
fn whisper_stack(keys: KeyMap, stack: &str) -> KeyMap {
    let ours = |name: &str| format!("{stack}.layer.*.{name}");
    let theirs = |name: &str| format!("{stack}.layers.*.{name}");
    let mut keys = keys;
    for (mine, other) in [("attention", "self_attn"), ("cross", "encoder_attn")] {
        for (part, name) in [("query", "q_proj"), ("key", "k_proj"), ("value", "v_proj"), ("output", "out_proj")] {
            keys = keys.map(&ours(&format!("{mine}.{part}.*")), &theirs(&format!("{other}.{name}.*")));
        }
        keys = keys.map(&ours(&format!("{mine}_norm.*")), &theirs(&format!("{other}_layer_norm.*")));
    }
    keys.map(&ours("mlp.up.*"), &theirs("fc1.*"))
        .map(&ours("mlp.down.*"), &theirs("fc2.*"))
        .map(&ours("mlp_norm.*"), &theirs("final_layer_norm.*"))
        .map(&format!("{stack}.norm.*"), &format!("{stack}.layer_norm.*"))
}

fn whisper(c: &Config) -> Result<Vec<Part>> {
    let encoder = whisper_encoder(c)?;
    let hidden = encoder.transformer.block.hidden;
    let encoder_keys = KeyMap::new()
        .map("conv.0.*", "encoder.conv1.*")
        .map("conv.1.*", "encoder.conv2.*")
        .map("positions", "encoder.embed_positions.weight");
    let decoder = whisper_decoder(c)?;
    let mut decoder_keys = whisper_stack(KeyMap::new(), "decoder")
        .map("decoder.embeddings.word", "decoder.embed_tokens.weight")
        .map("decoder.embeddings.positions", "decoder.embed_positions.weight");
    decoder_keys = match decoder.output {
        DecoderOutput::Untied => decoder_keys.rooted("decoder.output.weight", "proj_out.weight"),
        _ => decoder_keys.ignore(&["proj_out.weight"]),
    };
    let under = &["", "model."];
    let mut parts = vec![
        Part::tower("audio", TowerConfig::Audio(encoder), whisper_stack(encoder_keys, "encoder").under(under)),
        Part::decoder("decoder", decoder, decoder_keys.under(under)),
    ];
    parts.extend(projected_classifier(c, hidden)?);
    Ok(parts)
}

/// As [`whisper_stack`], in the authors' own names.
fn openai_stack(keys: KeyMap, stack: &str) -> KeyMap {
    let ours = |name: &str| format!("{stack}.layer.*.{name}");
    let theirs = |name: &str| format!("{stack}.blocks.*.{name}");
    let mut keys = keys;
    for (mine, other) in [("attention", "attn"), ("cross", "cross_attn")] {
        keys = keys
            .map(&ours(&format!("{mine}.output.*")), &theirs(&format!("{other}.out.*")))
            .map(&ours(&format!("{mine}.*.*")), &theirs(&format!("{other}.*.*")))
            .map(&ours(&format!("{mine}_norm.*")), &theirs(&format!("{other}_ln.*")));
    }
    keys.map(&ours("mlp.up.*"), &theirs("mlp.0.*"))
        .map(&ours("mlp.down.*"), &theirs("mlp.2.*"))
        .map(&ours("mlp_norm.*"), &theirs("mlp_ln.*"))
}

fn openai_whisper(c: &Config) -> Result<Vec<Part>> {
    let encoder = KeyMap::new()
        .map("conv.0.*", "encoder.conv1.*")
        .map("conv.1.*", "encoder.conv2.*")
        .map("positions", "encoder.positional_embedding")
        .map("encoder.norm.*", "encoder.ln_post.*");
    let decoder = KeyMap::new()
        .map("decoder.embeddings.word", "decoder.token_embedding.weight")
        .map("decoder.embeddings.positions", "decoder.positional_embedding")
        .map("decoder.norm.*", "decoder.ln.*");
    Ok(vec![
        Part::tower("audio", TowerConfig::Audio(whisper_encoder(c)?), openai_stack(encoder, "encoder")),
        Part::decoder("decoder", whisper_decoder(c)?, openai_stack(decoder, "decoder")),
    ])
}

/// The number of classes, told by their labels.
fn labels(c: &Config) -> Result<usize> {
    c.get("id2label").and_then(Value::as_object).map_or_else(|| c.usize_or("num_labels", 2), |l| Ok(l.len()))
}

fn is_for(c: &Config, architecture: &str) -> bool {
    c.get("architectures").is_some_and(|a| a.to_string().contains(architecture))
}

/// A projection, the mean over the tokens, a linear classifier. The first two
/// may change places: both are linear.
fn projected_classifier(c: &Config, hidden: usize) -> Result<Option<Part>> {
    if !is_for(c, "ForAudioClassification") && !is_for(c, "ForSequenceClassification") {
        return Ok(None);
    }
    c.only("use_weighted_layer_sum", &[json!(false)])?;
    let head = HeadConfig {
        dense: Some(ActivationName::Identity),
        dense_width: Some(c.usize_or("classifier_proj_size", 256)?),
        ..HeadConfig::linear(HeadInput::Mean, hidden, labels(c)?)
    };
    let keys = KeyMap::new().map("dense.*", "projector.*").map("output.*", "classifier.*");
    Ok(Some(Part::head("classifier", head, keys)))
}

fn wav2vec2(c: &Config) -> Result<Vec<Part>> {
    c.only("add_adapter", &[json!(false)])?;
    c.only("adapter_attn_dim", &[])?;
    c.only("conv_pos_batch_norm", &[json!(false)])?;
    c.only("feat_extract_norm", &[json!("group"), json!("layer")])?;
    let stable = c.bool_or("do_stable_layer_norm", false)?;
    let wavlm = c.str_or("model_type", "")? == WAVLM_MODEL_TYPE;
    let hidden = c.usize("hidden_size")?;
    let activation = c.activation_or("feat_extract_activation", "gelu")?;
    let waveform = WaveformConfig {
        channels: c.list_or("conv_dim", &[512; 7])?,
        kernels: c.list_or("conv_kernel", &[10, 3, 3, 3, 3, 2, 2])?,
        strides: c.list_or("conv_stride", &[5, 2, 2, 2, 2, 2, 2])?,
        bias: c.bool_or("conv_bias", false)?,
        norm: match c.str_or("feat_extract_norm", "group")? {
            "layer" => WaveformNorm::Each,
            _ => WaveformNorm::First,
        },
        activation,
        projection_norm: c.bool_or("feat_proj_layer_norm", true)?,
        projection_dropout: c.f64_or("feat_proj_dropout", 0.0)?,
    };
    let block = BlockConfig {
        hidden,
        heads: c.usize("num_attention_heads")?,
        intermediate: c.usize("intermediate_size")?,
        activation: c.activation_or("hidden_act", "gelu")?,
        norm_place: if stable { NormPlace::Pre } else { NormPlace::Post },
        norm_eps: c.f64_or("layer_norm_eps", 1e-5)?,
        position_gate: wavlm,
        dropout: c.f64_or("hidden_dropout", 0.1)?,
        attention_dropout: c.f64_or("attention_dropout", 0.1)?,
        ..BlockConfig::default()
    };
    let relative_positions = match wavlm {
        true => Some(RelativePositionsConfig {
            buckets: c.usize_or("num_buckets", 320)?,
            max_distance: c.usize_or("max_bucket_distance", 800)?,
            bidirectional: true,
        }),
        false => None,
    };
    let layers = c.usize("num_hidden_layers")?;
    let tower = AudioTowerConfig {
        mels: 1,
        stem: AudioStem::Waveform(waveform),
        max_positions: 0,
        positions: AudioPositions::Convolution {
            kernel: c.usize_or("num_conv_pos_embeddings", 128)?,
            groups: c.usize_or("num_conv_pos_embedding_groups", 16)?,
            activation,
        },
        embedding_norm: !stable,
        pooling: Pooling::Mean,
        transformer: TransformerConfig { layers, block, relative_positions, ..TransformerConfig::default() },
        ..AudioTowerConfig::default()
    };
    let convolution = "encoder.pos_conv_embed.conv";
    let keys = KeyMap::new()
        .map("conv.*.norm.*", "feature_extractor.conv_layers.*.layer_norm.*")
        .map("conv.*.*", "feature_extractor.conv_layers.*.conv.*")
        .map("projection_norm.*", "feature_projection.layer_norm.*")
        .map("projection.*", "feature_projection.projection.*")
        .map("positions.length", &format!("{convolution}.parametrizations.weight.original0"))
        .map("positions.length", &format!("{convolution}.weight_g"))
        .map("positions.direction", &format!("{convolution}.parametrizations.weight.original1"))
        .map("positions.direction", &format!("{convolution}.weight_v"))
        .map("positions.bias", &format!("{convolution}.bias"))
        .map(if stable { "encoder.norm.*" } else { "norm.*" }, "encoder.layer_norm.*")
        .map("encoder.layer.*.attention.query.*", "encoder.layers.*.attention.q_proj.*")
        .map("encoder.layer.*.attention.key.*", "encoder.layers.*.attention.k_proj.*")
        .map("encoder.layer.*.attention.value.*", "encoder.layers.*.attention.v_proj.*")
        .map("encoder.layer.*.attention.output.*", "encoder.layers.*.attention.out_proj.*")
        .map("encoder.layer.*.attention.position_gate.scale", "encoder.layers.*.attention.gru_rel_pos_const")
        .map("encoder.layer.*.attention.position_gate.*", "encoder.layers.*.attention.gru_rel_pos_linear.*")
        .map("encoder.relative_positions", "encoder.layers.0.attention.rel_attn_embed.weight")
        .map("encoder.layer.*.attention_norm.*", "encoder.layers.*.layer_norm.*")
        .map("encoder.layer.*.mlp.up.*", "encoder.layers.*.feed_forward.intermediate_dense.*")
        .map("encoder.layer.*.mlp.down.*", "encoder.layers.*.feed_forward.output_dense.*")
        .map("encoder.layer.*.mlp_norm.*", "encoder.layers.*.final_layer_norm.*")
        .ignore(&["masked_spec_embed"]);
    let mut parts =
        vec![Part::tower("audio", TowerConfig::Audio(tower), keys.under(&["", "wav2vec2.", "hubert.", "wavlm."]))];
    let per_token = |outputs| HeadConfig::linear(HeadInput::Tokens, hidden, outputs);
    if is_for(c, "ForCTC") {
        let keys = KeyMap::new().map("output.*", "lm_head.*");
        parts.push(Part::head("ctc", per_token(c.usize_or("vocab_size", 32)?), keys));
    }
    if is_for(c, "ForAudioFrameClassification") {
        c.only("use_weighted_layer_sum", &[json!(false)])?;
        let keys = KeyMap::new().map("output.*", "classifier.*");
        parts.push(Part::head("classifier", per_token(labels(c)?), keys));
    }
    parts.extend(projected_classifier(c, hidden)?);
    Ok(parts)
}

fn ast(c: &Config) -> Result<Vec<Part>> {
    let hidden = c.usize("hidden_size")?;
    let eps = c.f64_or("layer_norm_eps", 1e-12)?;
    let block = BlockConfig {
        hidden,
        heads: c.usize("num_attention_heads")?,
        head_dim: c.has("head_dim").then(|| c.usize("head_dim")).transpose()?,
        intermediate: c.usize("intermediate_size")?,
        activation: c.activation_or("hidden_act", "gelu")?,
        norm_eps: eps,
        attention_bias: (!c.bool_or("qkv_bias", true)?)
            .then_some(AttentionBias { output: true, ..AttentionBias::all(false) }),
        dropout: c.f64_or("hidden_dropout_prob", 0.0)?,
        attention_dropout: c.f64_or("attention_probs_dropout_prob", 0.0)?,
        ..BlockConfig::default()
    };
    let tower = AudioTowerConfig {
        mels: c.usize_or("num_mel_bins", 128)?,
        stem: AudioStem::Patches(SpectrogramPatchesConfig {
            size: c.usize_or("patch_size", 16)?,
            frequency_stride: c.usize_or("frequency_stride", 10)?,
            time_stride: c.usize_or("time_stride", 10)?,
        }),
        max_positions: c.usize_or("max_length", 1024)?,
        pooling: Pooling::FirstTwo,
        transformer: TransformerConfig { layers: c.usize("num_hidden_layers")?, block, ..TransformerConfig::default() },
        ..AudioTowerConfig::default()
    };
    let keys = KeyMap::new()
        .map("projection.*", "embeddings.patch_embeddings.projection.*")
        .map("class_token", "embeddings.cls_token")
        .map("distillation_token", "embeddings.distillation_token")
        .map("positions", "embeddings.position_embeddings")
        .map("encoder.layer.*.attention.output.*", "encoder.layer.*.attention.output.dense.*")
        .map("encoder.layer.*.attention.*.*", "encoder.layer.*.attention.attention.*.*")
        .map("encoder.layer.*.attention_norm.*", "encoder.layer.*.layernorm_before.*")
        .map("encoder.layer.*.mlp.up.*", "encoder.layer.*.intermediate.dense.*")
        .map("encoder.layer.*.mlp.down.*", "encoder.layer.*.output.dense.*")
        .map("encoder.layer.*.mlp_norm.*", "encoder.layer.*.layernorm_after.*")
        .map("encoder.norm.*", "layernorm.*")
        .form("embeddings.patch_embeddings.projection.weight", Form::Kernel { channels: 1 })
        .form("embeddings.cls_token", Form::Rank(3))
        .form("embeddings.distillation_token", Form::Rank(3))
        .form("embeddings.position_embeddings", Form::Rank(3));
    let head = HeadConfig { norm_eps: Some(eps), ..HeadConfig::linear(HeadInput::Pooled, hidden, labels(c)?) };
    let head_keys = KeyMap::new().map("output.*", "classifier.dense.*").map("norm.*", "classifier.layernorm.*");
    Ok(vec![
        Part::tower("audio", TowerConfig::Audio(tower), keys.under(&["", "audio_spectrogram_transformer."])),
        Part::head("classifier", head, head_keys),
    ])
}
