//! The folders that a run leaves: each a checkpoint of a known family, for
//! `text.encoder` or `image.encoder` of a fit and for whatever else reads that
//! family.

use super::Structures;
use super::captioning::Captioning;
use super::classes::ImageClass;
use super::columns::Columns;
use super::fusion::Fusion;
use super::network::{IMAGE_HEAD, Network, TEXT_HEAD};
use super::pictures::{FrameStructure, ImageStructure, preprocessor};
use super::sounds::AudioStructure;
use super::start::below;
use super::structure::{TextModel, TextStructure};
use super::together::Together;
use crate::retrieve::{evaluate_rows, write_card};
use crate::saved::write;
use crate::{Error, Result};
use sensorium_data::{DataPlan, Processor, Tokenizer};
use sensorium_engine::Params;
use sensorium_model::Pooling;
use sensorium_model::checkpoint::write_safetensors;
use sensorium_model::towers::TextTowerConfig;
use sensorium_train::Summary;
use serde_json::{Value, json};
use std::path::Path;

/// The weights' file in it.
pub(super) const WEIGHTS_FILE: &str = "model.safetensors";
/// The text model's folder within that of a run.
pub const TEXT_FOLDER: &str = "text";
/// The image model's.
pub const IMAGE_FOLDER: &str = "image";
/// That of the model of sounds.
pub const AUDIO_FOLDER: &str = "audio";
/// That of the model of the frames of videos.
pub const VIDEO_FOLDER: &str = "video";
/// That of columns that meet in one space.
pub const PAIR_FOLDER: &str = "pair";
/// That of a language model over texts and pictures.
pub const FUSION_FOLDER: &str = "fusion";
/// That of a decoder that writes about pictures, with its encoder.
pub const CAPTION_FOLDER: &str = "caption";

/// Classes that other libraries know the families' language models by.
const CLASSES: [(&str, &str, &str); 12] = [
    ("bert", "BertForMaskedLM", "masked"),
    ("roberta", "RobertaForMaskedLM", "masked"),
    ("xlm-roberta", "XLMRobertaForMaskedLM", "masked"),
    ("camembert", "CamembertForMaskedLM", "masked"),
    ("distilbert", "DistilBertForMaskedLM", "masked"),
    ("mpnet", "MPNetForMaskedLM", "masked"),
    ("albert", "AlbertForMaskedLM", "masked"),
    ("electra", "ElectraForMaskedLM", "masked"),
    ("gpt2", "GPT2LMHeadModel", "causal"),
    ("llama", "LlamaForCausalLM", "causal"),
    ("mistral", "MistralForCausalLM", "causal"),
    ("qwen2", "Qwen2ForCausalLM", "causal"),
];

/// Writes what is known of every tower before training; `guesses` says whether
/// tokens are guessed.
///
/// # Errors
/// When a file cannot be written.
pub(super) fn save_structures(out: &Path, structures: &Structures, guesses: bool) -> Result<()> {
    if let Some(text) = &structures.text {
        save_text_structure(out, text, guesses)?;
    }
    if let Some(image) = &structures.image {
        save_image_structure(out, image)?;
    }
    if let Some(audio) = &structures.audio {
        save_audio_structure(out, audio)?;
    }
    if let Some(frames) = &structures.video {
        save_frame_structure(out, frames)?;
    }
    Ok(())
}

/// Writes what is known before training: configuration and tokenizer. `guesses`
/// says whether there is a head over the tokens.
///
/// # Errors
/// When a file cannot be written.
fn save_text_structure(out: &Path, structure: &TextStructure, guesses: bool) -> Result<()> {
    let folder = out.join(TEXT_FOLDER);
    std::fs::create_dir_all(&folder).map_err(|e| Error::io("create", &folder, e))?;
    let mut config = structure.config.clone();
    let model_type = config["model_type"].as_str().unwrap_or_default();
    let way = match structure.model {
        TextModel::Masked { .. } => "masked",
        TextModel::Causal(_) => "causal",
    };
    let class = CLASSES.iter().find(|(family, _, kind)| *family == model_type && *kind == way);
    if let Some((_, class, _)) = class {
        config["architectures"] = json!([if guesses { *class } else { "BertModel" }]);
    }
    let json = |value: &Value| serde_json::to_vec_pretty(value).map_err(|e| Error::model(&folder, e.to_string()));
    write(&folder.join("config.json"), &json(&config)?)?;
    save_tokenizer(&folder, &structure.tokenizer, structure.max_tokens)?;
    if let (Some(_), TextModel::Masked { tower, .. }) = (structure.pooling(), &structure.model) {
        write_pooling(&folder, tower, structure.max_tokens)?;
    }
    Ok(())
}

/// As [`save_text_structure`]: configuration and processor.
///
/// # Errors
/// When a file cannot be written.
fn save_image_structure(out: &Path, structure: &ImageStructure) -> Result<()> {
    save_described(&out.join(IMAGE_FOLDER), &structure.config, &structure.preprocessor())
}

/// As [`save_text_structure`]: configuration and processor.
///
/// # Errors
/// When a file cannot be written.
fn save_audio_structure(out: &Path, structure: &AudioStructure) -> Result<()> {
    save_described(&out.join(AUDIO_FOLDER), &structure.config, &structure.preprocessor())
}

/// As [`save_text_structure`]: configuration and processor.
///
/// # Errors
/// When a file cannot be written.
fn save_frame_structure(out: &Path, structure: &FrameStructure) -> Result<()> {
    save_described(&out.join(VIDEO_FOLDER), &structure.config, &structure.preprocessor())
}

fn save_described(folder: &Path, config: &Value, preprocessor: &Value) -> Result<()> {
    std::fs::create_dir_all(folder).map_err(|e| Error::io("create", folder, e))?;
    let json = |value: &Value| serde_json::to_vec_pretty(value).map_err(|e| Error::model(folder, e.to_string()));
    write(&folder.join("config.json"), &json(config)?)?;
    write(&folder.join("preprocessor_config.json"), &json(preprocessor)?)
}

/// What the tokenizer's special tokens are for.
fn tokenizer_config(tokenizer: &Tokenizer, max_tokens: usize) -> Value {
    let mut config = json!({ "tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": max_tokens });
    let roles: [(&str, &[&str]); 7] = [
        ("unk_token", &["[UNK]", "<unk>"]),
        ("pad_token", &["[PAD]", "<pad>"]),
        ("cls_token", &["[CLS]", "<s>"]),
        ("sep_token", &["[SEP]", "</s>"]),
        ("mask_token", &["[MASK]", "<mask>"]),
        ("bos_token", &["<s>", "<|endoftext|>", "[CLS]"]),
        ("eos_token", &["</s>", "<|endoftext|>", "[SEP]"]),
    ];
    for (role, names) in roles {
        if let Some(name) = names.iter().find(|name| tokenizer.token_id(name).is_some()) {
            config[role] = json!(name);
        }
    }
    config
}

/// Says how tokens become one vector, in the files of sentence-transformers:
/// `extract`, `index` and a fit read them too.
///
/// # Errors
/// When a file cannot be written.
pub(super) fn write_pooling(folder: &Path, tower: &TextTowerConfig, max_tokens: usize) -> Result<()> {
    let mode = match tower.pooling {
        Pooling::Mean => "mean",
        Pooling::First | Pooling::FirstTwo => "cls",
        Pooling::Max => "max",
        Pooling::Last => "lasttoken",
    };
    let mut modules = vec![
        json!({ "idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer" }),
        json!({ "idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling" }),
    ];
    if tower.normalize {
        let normalize = "sentence_transformers.models.Normalize";
        modules.push(json!({ "idx": 2, "name": "2", "path": "2_Normalize", "type": normalize }));
    }
    let settings = json!({
        "word_embedding_dimension": tower.transformer.block.hidden,
        "pooling_mode_cls_token": mode == "cls",
        "pooling_mode_mean_tokens": mode == "mean",
        "pooling_mode_max_tokens": mode == "max",
        "pooling_mode_lasttoken": mode == "lasttoken",
    });
    let within = folder.join("1_Pooling");
    std::fs::create_dir_all(&within).map_err(|e| Error::io("create", &within, e))?;
    write(&folder.join("modules.json"), json!(modules).to_string().as_bytes())?;
    let length = json!({ "max_seq_length": max_tokens, "do_lower_case": false });
    write(&folder.join("sentence_bert_config.json"), length.to_string().as_bytes())?;
    write(&within.join("config.json"), settings.to_string().as_bytes())
}

/// Writes the weights under the family's names.
///
/// # Errors
/// When a name is not known or the file cannot be written.
pub(super) fn save_text(out: &Path, structure: &TextStructure, network: &Network) -> Result<()> {
    let mut tensors = structure.keys.export(below(&network.params, &network.scopes.text))?;
    if let (TextModel::Masked { head_keys, .. }, true) = (&structure.model, network.learns_text()) {
        tensors.extend(head_keys.export(below(&network.params, TEXT_HEAD))?);
    }
    let path = out.join(TEXT_FOLDER).join(WEIGHTS_FILE);
    Ok(write_safetensors(&path, tensors.iter().map(|(name, tensor)| (name.as_str(), tensor)))?)
}

/// As [`save_text`], of pictures.
///
/// # Errors
/// When a name is not known or the file cannot be written.
pub(super) fn save_image(out: &Path, structure: &ImageStructure, network: &Network) -> Result<()> {
    let mut tensors = structure.keys.export(below(&network.params, &network.scopes.image))?;
    if network.learns_images() {
        tensors.extend(structure.head_keys.export(below(&network.params, IMAGE_HEAD))?);
    } else if network.together.as_ref().is_some_and(|t| t.classes().is_some()) {
        // What name_classes has announced.
        let named =
            ImageClass::tensors(&network.params).map(|(name, tensor)| (name.replace("output", "classifier"), tensor));
        tensors.extend(named.map(|(name, tensor)| (name, tensor.clone())));
    }
    let path = out.join(IMAGE_FOLDER).join(WEIGHTS_FILE);
    Ok(write_safetensors(&path, tensors.iter().map(|(name, tensor)| (name.as_str(), tensor)))?)
}

/// As [`save_text`], of sounds.
///
/// # Errors
/// When a name is not known or the file cannot be written.
pub(super) fn save_audio(out: &Path, structure: &AudioStructure, network: &Network) -> Result<()> {
    let tensors = structure.keys.export(below(&network.params, &network.scopes.audio))?;
    let path = out.join(AUDIO_FOLDER).join(WEIGHTS_FILE);
    Ok(write_safetensors(&path, tensors.iter().map(|(name, tensor)| (name.as_str(), tensor)))?)
}

/// As [`save_text`], of the frames of videos.
///
/// # Errors
/// When a name is not known or the file cannot be written.
pub(super) fn save_frames(out: &Path, structure: &FrameStructure, network: &Network) -> Result<()> {
    let tensors = structure.keys.export(below(&network.params, &network.scopes.frames))?;
    let path = out.join(VIDEO_FOLDER).join(WEIGHTS_FILE);
    Ok(write_safetensors(&path, tensors.iter().map(|(name, tensor)| (name.as_str(), tensor)))?)
}

/// Writes the columns that meet in one space, with how they do on the rows that
/// are held out, as a fit with `task = "retrieve"` writes its model.
///
/// # Errors
/// When a file cannot be written.
pub(super) fn save_pair(
    out: &Path,
    columns: &Columns,
    together: &Together,
    params: &Params,
    summary: &Summary,
) -> Result<()> {
    let Some(retriever) = together.retriever(params, &columns.plan, &columns.fit)? else { return Ok(()) };
    let folder = out.join(PAIR_FOLDER);
    std::fs::create_dir_all(&folder).map_err(|e| Error::io("create", &folder, e))?;
    retriever.save_structure(&folder)?;
    retriever.save_weights(&folder)?;
    let rows = &columns.dataset.splits.val;
    let evaluated = match rows.is_empty() {
        true => None,
        false => Some(evaluate_rows(&retriever, &columns.dataset, rows)?),
    };
    write_card(&folder, &retriever, evaluated.as_ref(), summary, "val")
}

/// Writes the decoder of captions and its encoder as one model of the reference
/// library, with tokenizer and processor.
///
/// # Errors
/// When a name is not known or a file cannot be written.
pub(super) fn save_captioning(
    out: &Path,
    captioning: &Captioning,
    image: &ImageStructure,
    network: &Network,
) -> Result<()> {
    let folder = out.join(CAPTION_FOLDER);
    let (config, tensors) = captioning.export(&network.params, &network.scopes.image)?;
    save_described(&folder, config, &image.preprocessor())?;
    save_tokenizer(&folder, &captioning.tokenizer, positions(&config["decoder"]))?;
    let path = folder.join(WEIGHTS_FILE);
    Ok(write_safetensors(&path, tensors.iter().map(|(name, tensor)| (name.as_str(), tensor)))?)
}

/// The positions of a GPT-2.
fn positions(decoder: &Value) -> usize {
    decoder["n_positions"].as_u64().unwrap_or_default() as usize
}

/// A tokenizer beside a model of texts of so many tokens.
///
/// # Errors
/// When a file cannot be written.
pub(super) fn save_tokenizer(folder: &Path, tokenizer: &Tokenizer, longest: usize) -> Result<()> {
    tokenizer.save(&folder.join("tokenizer.json"))?;
    let described = serde_json::to_vec_pretty(&tokenizer_config(tokenizer, longest));
    let described = described.map_err(|e| Error::model(folder, e.to_string()))?;
    write(&folder.join("tokenizer_config.json"), &described)
}

/// Writes the language model over texts and pictures as a GPT-2, with
/// tokenizer, processor, and in a file of their own the centres of the codes
/// that patches become.
///
/// # Errors
/// When a name is not known or a file cannot be written.
pub(super) fn save_fusion(out: &Path, fusion: &Fusion, plan: &DataPlan, params: &Params) -> Result<()> {
    let folder = out.join(FUSION_FOLDER);
    let (config, tensors) = fusion.export(params)?;
    let Processor::Image(processor) = &plan.columns[fusion.image].processor else { return Ok(()) };
    save_described(&folder, config, &preprocessor(processor))?;
    save_tokenizer(&folder, &fusion.tokenizer, positions(config))?;
    write_safetensors(&folder.join("codebook.safetensors"), fusion.codes().tensors())?;
    let path = folder.join(WEIGHTS_FILE);
    Ok(write_safetensors(&path, tensors.iter().map(|(name, tensor)| (name.as_str(), tensor)))?)
}
