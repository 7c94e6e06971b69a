//! Tokenizers from the vocabulary files that came before `tokenizer.json`.

use super::Tokenizer;
use crate::error::{DataError, Result};
use serde_json::{Value, json};
use std::path::Path;

/// Puts a tokenizer together from `vocab.txt` (WordPiece), or `vocab.json` and
/// `merges.txt` (byte-level BPE).
pub(super) fn from_vocabulary(folder: &Path) -> Result<Tokenizer> {
    let settings = match std::fs::read(folder.join("tokenizer_config.json")) {
        Ok(bytes) => serde_json::from_slice(&bytes)
            .map_err(|e| DataError::Tokenizer(format!("{:?}: {e}", folder.join("tokenizer_config.json"))))?,
        Err(_) => Value::Null,
    };
    let json = if folder.join("vocab.txt").is_file() {
        word_piece(folder, &settings)?
    } else if folder.join("vocab.json").is_file() && folder.join("merges.txt").is_file() {
        byte_level(folder, &settings)?
    } else {
        return Err(DataError::Tokenizer(format!(
            "{folder:?} has no tokenizer.json, vocab.txt, or vocab.json with merges.txt; save the tokenizer in its \
             fast form with the tool that made it"
        )));
    };
    Tokenizer::from_json(json.to_string().into_bytes())
}

fn read(folder: &Path, name: &str) -> Result<String> {
    let path = folder.join(name);
    std::fs::read_to_string(&path).map_err(|source| DataError::io("read", &path, source))
}

/// A special token as the settings name it: a string, or an object with its content.
fn special<'a>(settings: &'a Value, key: &str, default: &'a str) -> &'a str {
    settings[key].as_str().or(settings[key]["content"].as_str()).unwrap_or(default)
}

fn added(tokens: &[(&str, u32)]) -> Vec<Value> {
    tokens
        .iter()
        .map(|(token, id)| {
            json!({"id": id, "content": token, "single_word": false, "lstrip": false, "rstrip": false,
                   "normalized": false, "special": true})
        })
        .collect()
}

/// BERT's: split at blanks, punctuation and Chinese characters, then the longest pieces first.
fn word_piece(folder: &Path, settings: &Value) -> Result<Value> {
    let text = read(folder, "vocab.txt")?;
    let vocabulary: serde_json::Map<String, Value> =
        text.lines().enumerate().map(|(id, token)| (token.trim_end_matches('\r').to_owned(), json!(id))).collect();
    let id = |token: &str| {
        let id = vocabulary.get(token).and_then(Value::as_u64);
        id.map(|id| id as u32).ok_or_else(|| DataError::Tokenizer(format!("{folder:?}: vocab.txt has no {token}")))
    };
    let [unknown, first, last] = [("unk_token", "[UNK]"), ("cls_token", "[CLS]"), ("sep_token", "[SEP]")]
        .map(|(key, default)| special(settings, key, default).to_owned());
    let (unknown_id, first_id, last_id) = (id(&unknown)?, id(&first)?, id(&last)?);
    let mut tokens = vec![(unknown.as_str(), unknown_id), (&first, first_id), (&last, last_id)];
    for extra in ["[PAD]", "[MASK]"] {
        if let Ok(id) = id(extra) {
            tokens.push((extra, id));
        }
    }
    tokens.sort_by_key(|t| t.1);
    Ok(json!({
        "version": "1.0",
        "added_tokens": added(&tokens),
        "normalizer": {
            "type": "BertNormalizer",
            "clean_text": true,
            "handle_chinese_chars": settings["tokenize_chinese_chars"].as_bool().unwrap_or(true),
            "strip_accents": settings["strip_accents"],
            "lowercase": settings["do_lower_case"].as_bool().unwrap_or(true),
        },
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": {"type": "BertProcessing", "sep": [last, last_id], "cls": [first, first_id]},
        "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": true},
        "model": {
            "type": "WordPiece",
            "unk_token": unknown,
            "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 100,
            "vocab": vocabulary,
        },
    }))
}

/// GPT-2's and RoBERTa's: bytes as characters, then merges.
fn byte_level(folder: &Path, settings: &Value) -> Result<Value> {
    let vocabulary: Value = serde_json::from_str(&read(folder, "vocab.json")?)
        .map_err(|e| DataError::Tokenizer(format!("{:?}: {e}", folder.join("vocab.json"))))?;
    let merges = read(folder, "merges.txt")?;
    let merges: Vec<Vec<&str>> = merges
        .lines()
        .filter(|line| !line.starts_with("#version") && !line.trim().is_empty())
        .map(|line| line.split(' ').collect())
        .collect();
    let id = |token: &str| vocabulary[token].as_u64().map(|id| id as u32);
    let prefix_space = settings["add_prefix_space"].as_bool().unwrap_or(false);
    let mut tokens = Vec::new();
    let roberta = id("<s>").zip(id("</s>"));
    for token in ["<s>", "<pad>", "</s>", "<unk>", "<mask>", "<|startoftext|>", "<|endoftext|>"] {
        if let Some(id) = id(token) {
            tokens.push((token, id));
        }
    }
    let post_processor = match roberta {
        Some((first, last)) => json!({"type": "RobertaProcessing", "sep": ["</s>", last], "cls": ["<s>", first],
                                      "trim_offsets": true, "add_prefix_space": prefix_space}),
        None => json!({"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": false, "use_regex": true}),
    };
    Ok(json!({
        "version": "1.0",
        "added_tokens": added(&tokens),
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": prefix_space, "trim_offsets": true, "use_regex": true},
        "post_processor": post_processor,
        "decoder": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true},
        "model": {"type": "BPE", "vocab": vocabulary, "merges": merges},
    }))
}
