//! Audio encoders: Whisper, wav2vec 2.0 and HuBERT, AST.
//!
//! What their configurations say of training alone (masking, layer drop,
//! dropout inside the feed-forward part, the loss) changes no number that a
//! model gives and is left to the training configuration here.

use super::{Config, Family, KeyMap, Part};
use crate::checkpoint::Checkpoint;
use crate::heads::{HeadConfig, HeadInput};
use crate::layers::{ActivationName, AttentionBias, BlockConfig, NormPlace};
use crate::towers::{
    AudioPositions, AudioStem, AudioTowerConfig, Pooling, SpectrogramPatchesConfig, WaveformConfig, WaveformNorm,
};
use crate::{Result, TowerConfig, TransformerConfig};
use serde_json::{Value, json};

/// Whisper (Radford et al. 2022), its encoder.
pub(super) const WHISPER: Family = Family { name: "Whisper", model_types: &["whisper"], parts: whisper };

/// Whisper under the names of its authors' own files.
pub(super) const OPENAI_WHISPER: Family =
    Family { name: "Whisper", model_types: &[OPENAI_MODEL_TYPE], parts: openai_whisper };

/// wav2vec 2.0 (Baevski et al. 2020) and HuBERT (Hsu et al. 2021).
pub(super) const WAV2VEC2: Family =
    Family { name: "wav2vec 2.0", model_types: &["wav2vec2", "hubert"], parts: wav2vec2 };

/// The Audio Spectrogram Transformer (Gong et al. 2021).
pub(super) const AST: Family = Family { name: "AST", model_types: &["audio-spectrogram-transformer"], parts: ast };

const OPENAI_MODEL_TYPE: &str = "openai-whisper";

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
    }))
}

fn whisper_encoder(c: &Config) -> Result<AudioTowerConfig> {
    let block = BlockConfig {
        hidden: c.usize("d_model")?,
        heads: c.usize("encoder_attention_heads")?,
        intermediate: c.usize("encoder_ffn_dim")?,
        activation: c.activation_or("activation_function", "gelu")?,
        attention_bias: Some(AttentionBias { key: false, ..AttentionBias::all(true) }),
        dropout: c.f64_or("dropout", 0.0)?,
        attention_dropout: c.f64_or("attention_dropout", 0.0)?,
        ..BlockConfig::default()
    };
    c.only("scale_embedding", &[json!(false)])?;
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

fn whisper(c: &Config) -> Result<Vec<Part>> {
    let encoder = whisper_encoder(c)?;
    let hidden = encoder.transformer.block.hidden;
    let keys = KeyMap::new()
        .map("conv.0.*", "encoder.conv1.*")
        .map("conv.1.*", "encoder.conv2.*")
        .map("positions", "encoder.embed_positions.weight")
        .map("encoder.layer.*.attention.query.*", "encoder.layers.*.self_attn.q_proj.*")
        .map("encoder.layer.*.attention.key.*", "encoder.layers.*.self_attn.k_proj.*")
        .map("encoder.layer.*.attention.value.*", "encoder.layers.*.self_attn.v_proj.*")
        .map("encoder.layer.*.attention.output.*", "encoder.layers.*.self_attn.out_proj.*")
        .map("encoder.layer.*.attention_norm.*", "encoder.layers.*.self_attn_layer_norm.*")
        .map("encoder.layer.*.mlp.up.*", "encoder.layers.*.fc1.*")
        .map("encoder.layer.*.mlp.down.*", "encoder.layers.*.fc2.*")
        .map("encoder.layer.*.mlp_norm.*", "encoder.layers.*.final_layer_norm.*")
        .map("encoder.norm.*", "encoder.layer_norm.*")
        .ignore(&["decoder.**"]);
    let mut parts = vec![Part::tower("audio", TowerConfig::Audio(encoder), keys.under(&["", "model."]))];
    parts.extend(projected_classifier(c, hidden)?);
    Ok(parts)
}

fn openai_whisper(c: &Config) -> Result<Vec<Part>> {
    let keys = KeyMap::new()
        .map("conv.0.*", "encoder.conv1.*")
        .map("conv.1.*", "encoder.conv2.*")
        .map("positions", "encoder.positional_embedding")
        .map("encoder.layer.*.attention.output.*", "encoder.blocks.*.attn.out.*")
        .map("encoder.layer.*.attention.*.*", "encoder.blocks.*.attn.*.*")
        .map("encoder.layer.*.attention_norm.*", "encoder.blocks.*.attn_ln.*")
        .map("encoder.layer.*.mlp.up.*", "encoder.blocks.*.mlp.0.*")
        .map("encoder.layer.*.mlp.down.*", "encoder.blocks.*.mlp.2.*")
        .map("encoder.layer.*.mlp_norm.*", "encoder.blocks.*.mlp_ln.*")
        .map("encoder.norm.*", "encoder.ln_post.*");
    Ok(vec![Part::tower("audio", TowerConfig::Audio(whisper_encoder(c)?), keys)])
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
        input: HeadInput::Mean,
        inputs: hidden,
        dense: Some(ActivationName::Identity),
        dense_width: Some(c.usize_or("classifier_proj_size", 256)?),
        dense_bias: true,
        norm_eps: None,
        norm_bias: true,
        outputs: labels(c)?,
        bias: true,
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
        dropout: c.f64_or("hidden_dropout", 0.1)?,
        attention_dropout: c.f64_or("attention_dropout", 0.1)?,
        ..BlockConfig::default()
    };
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
        transformer: TransformerConfig { layers: c.usize("num_hidden_layers")?, block, ..TransformerConfig::default() },
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
        .map("encoder.layer.*.attention_norm.*", "encoder.layers.*.layer_norm.*")
        .map("encoder.layer.*.mlp.up.*", "encoder.layers.*.feed_forward.intermediate_dense.*")
        .map("encoder.layer.*.mlp.down.*", "encoder.layers.*.feed_forward.output_dense.*")
        .map("encoder.layer.*.mlp_norm.*", "encoder.layers.*.final_layer_norm.*")
        .ignore(&["masked_spec_embed"]);
    let mut parts = vec![Part::tower("audio", TowerConfig::Audio(tower), keys.under(&["", "wav2vec2.", "hubert."]))];
    let per_token = |outputs| HeadConfig {
        input: HeadInput::Tokens,
        inputs: hidden,
        dense: None,
        dense_width: None,
        dense_bias: true,
        norm_eps: None,
        norm_bias: true,
        outputs,
        bias: true,
    };
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
        .map("encoder.norm.*", "layernorm.*");
    let head = HeadConfig {
        input: HeadInput::Pooled,
        inputs: hidden,
        dense: None,
        dense_width: None,
        dense_bias: true,
        norm_eps: Some(eps),
        norm_bias: true,
        outputs: labels(c)?,
        bias: true,
    };
    let head_keys = KeyMap::new().map("output.*", "classifier.dense.*").map("norm.*", "classifier.layernorm.*");
    Ok(vec![
        Part::tower("audio", TowerConfig::Audio(tower), keys.under(&["", "audio_spectrogram_transformer."])),
        Part::head("classifier", head, head_keys),
    ])
}
