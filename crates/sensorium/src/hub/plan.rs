//! Which files of a model are needed: its settings, its tokenizer and
//! processors, and its weights in one form.

/// Settings, tokenizers and processors, wherever they are there.
const SMALL: [&str; 19] = [
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "normalizer.json",
    "sentencepiece.bpe.model",
    "spiece.model",
    "tokenizer.model",
    "preprocessor_config.json",
    "processor_config.json",
    "modules.json",
    "sentence_bert_config.json",
    "config_sentence_transformers.json",
    "adapter_config.json",
];
/// Weights in one file, or the index of several, in the order of preference.
const WEIGHTS: [&str; 5] = [
    "model.safetensors",
    "model.safetensors.index.json",
    "adapter_model.safetensors",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
];

/// The files to fetch of those a model has, small ones first; an index stands
/// for its shards, which are known when it was read.
pub(super) fn needed(all: &[String]) -> Result<Vec<String>, String> {
    let mut files: Vec<String> = all.iter().filter(|f| SMALL.contains(&f.as_str()) || is_module(f)).cloned().collect();
    let weights = WEIGHTS.iter().find(|w| all.iter().any(|f| f == *w));
    match weights {
        Some(weights) => files.push((*weights).to_owned()),
        None => {
            let known = WEIGHTS.join(", ");
            return Err(format!("has no weights of a known name (one of {known})"));
        }
    }
    Ok(files)
}

/// The settings of a module of a sentence-transformers model, as
/// `1_Pooling/config.json`.
fn is_module(file: &str) -> bool {
    let numbered = |folder: &str| folder.starts_with(|c: char| c.is_ascii_digit()) && folder.contains('_');
    file.split_once('/').is_some_and(|(folder, name)| {
        numbered(folder) && ["config.json", "model.safetensors", "pytorch_model.bin"].contains(&name)
    })
}

/// The shards that an index names.
pub(super) fn shards(index: &[u8]) -> Result<Vec<String>, String> {
    #[derive(serde::Deserialize)]
    struct Index {
        weight_map: std::collections::BTreeMap<String, String>,
    }
    let index: Index = serde_json::from_slice(index).map_err(|e| format!("its index of weights is broken: {e}"))?;
    let mut files: Vec<String> = index.weight_map.into_values().collect();
    files.sort();
    files.dedup();
    match files.iter().find(|f| f.contains(['/', '\\', ':']) || f.starts_with('.')) {
        Some(outside) => Err(format!("its index of weights names {outside:?}; expected a name without folders")),
        None => Ok(files),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(files: &[&str]) -> Result<Vec<String>, String> {
        needed(&files.iter().map(|f| (*f).to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn one_form_of_the_weights_is_enough() {
        let files = of(&["README.md", "pytorch_model.bin", "config.json", "model.safetensors", "tf_model.h5"]);
        assert_eq!(files, Ok(vec!["config.json".into(), "model.safetensors".into()]));
        assert_eq!(of(&["pytorch_model.bin"]), Ok(vec!["pytorch_model.bin".into()]));
        let sentence = of(&["modules.json", "1_Pooling/config.json", "onnx/model.onnx", "model.safetensors"]);
        assert_eq!(sentence.map(|f| f.len()), Ok(3));
        assert!(of(&["flax_model.msgpack"]).is_err_and(|e| e.contains("pytorch_model.bin")));
    }

    #[test]
    fn shards_lie_beside_their_index() {
        assert_eq!(shards(br#"{"weight_map":{"a":"x","b":"y","c":"x"}}"#), Ok(vec!["x".into(), "y".into()]));
        assert!(shards(br#"{"weight_map":{"a":"../x"}}"#).is_err());
        assert!(shards(b"{}").is_err());
    }
}
