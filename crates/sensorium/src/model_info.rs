//! What a checkpoint is, before anything is done with it: its files, tensors
//! and architecture, the family it belongs to, and what of it can be used.

use crate::retrieve::Retriever;
use crate::{Error, Result, saved};
use sensorium_model::checkpoint::{Checkpoint, CheckpointFile, DType};
use sensorium_model::pretrained::Pretrained;
use serde::Serialize;
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::{Path, PathBuf};

/// The settings of a `config.json` that tell an architecture's size, as
/// families name them.
const SIZES: [&str; 34] = [
    "hidden_size",
    "d_model",
    "dim",
    "n_embd",
    "num_hidden_layers",
    "n_layers",
    "n_layer",
    "encoder_layers",
    "decoder_layers",
    "num_attention_heads",
    "n_heads",
    "n_head",
    "num_key_value_heads",
    "encoder_attention_heads",
    "intermediate_size",
    "hidden_dim",
    "encoder_ffn_dim",
    "hidden_act",
    "vocab_size",
    "max_position_embeddings",
    "image_size",
    "patch_size",
    "embed_dim",
    "depths",
    "num_heads",
    "window_size",
    "num_frames",
    "tubelet_size",
    "num_channels",
    "num_mel_bins",
    "projection_dim",
    "type_vocab_size",
    "pad_token_id",
    "num_labels",
];
/// Configurations of parts within one, as CLIP has.
const WITHIN: [&str; 3] = ["text_config", "vision_config", "audio_config"];
/// Files beside the weights that say how inputs are prepared.
const PREPARATION: [&str; 17] = [
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "spiece.model",
    "sentencepiece.bpe.model",
    "tokenizer.model",
    "preprocessor_config.json",
    "video_preprocessor_config.json",
    "processor_config.json",
    "modules.json",
    "sentence_bert_config.json",
    "generation_config.json",
    "adapter_config.json",
    "data.json",
];
/// Weights up to this size are loaded to see whether they fit.
const LARGEST_TRIED: u64 = 4 << 30;
/// How many names are shown of a list.
const SHOWN: usize = 20;

/// What a checkpoint is.
#[derive(Debug, Serialize)]
pub struct ModelInfo {
    /// The weights file, or the index of several.
    pub path: PathBuf,
    /// The files of weights.
    pub files: Vec<CheckpointFile>,
    /// Their size together.
    pub bytes: u64,
    /// The number of tensors.
    pub tensors: usize,
    /// The number of their elements, without integers.
    pub parameters: u64,
    /// Tensors and elements by number format.
    pub dtypes: BTreeMap<String, Count>,
    /// What was found beside the tensors in the weights' files.
    pub metadata: BTreeMap<String, String>,
    /// What a person should know about how the files were read.
    pub notes: Vec<String>,
    /// What `config.json` says of the architecture.
    pub architecture: Map<String, Value>,
    /// Tokenizer and processor files.
    pub preparation: Vec<String>,
    /// What can be used of it.
    pub usable: Usable,
    /// Every tensor, when asked for.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub all_tensors: Vec<Entry>,
}

/// Some tensors.
#[derive(Debug, Default, Serialize)]
pub struct Count {
    /// How many.
    pub tensors: usize,
    /// Their elements.
    pub elements: u64,
}

/// A tensor.
#[derive(Debug, Serialize)]
pub struct Entry {
    /// The name.
    pub name: String,
    /// How its numbers are stored.
    pub dtype: DType,
    /// The dimensions.
    pub dims: Vec<usize>,
}

/// What of a checkpoint can be used here.
#[derive(Debug, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Usable {
    /// A model that `sensorium fit` wrote.
    Model {
        /// Its input columns and their kinds.
        columns: Vec<String>,
        /// What it predicts.
        label: String,
        /// How its weights are stored, where they are quantised.
        #[serde(skip_serializing_if = "Option::is_none")]
        quantization: Option<String>,
    },
    /// A model whose columns meet in one space.
    Space {
        /// Its columns.
        columns: Vec<String>,
        /// Numbers per vector.
        dim: usize,
    },
    /// A family that is known.
    Pretrained {
        /// The family's name.
        family: String,
        /// Its parts.
        parts: Vec<PartInfo>,
        /// Tensors that no part knows.
        unexpected: Vec<String>,
    },
    /// Neither.
    Unknown {
        /// Why not, and what would be.
        problem: String,
    },
}

/// A part of a pretrained model.
#[derive(Debug, Serialize)]
pub struct PartInfo {
    /// `text`, `image`, `audio`, …
    pub name: String,
    /// `tower`, `head`, `decoder`, …
    pub kind: &'static str,
    /// Its parameters, where it was loaded.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parameters: Option<usize>,
    /// Why it cannot be loaded: missing and mis-shaped tensors by name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
}

impl ModelInfo {
    /// Looks at a folder or file; `every_tensor` lists all of them.
    ///
    /// # Errors
    /// When there are no weights, or a file is broken.
    pub fn of(path: &Path, every_tensor: bool) -> Result<Self> {
        let checkpoint = Checkpoint::open(path)?;
        let folder = if path.is_dir() { path } else { path.parent().unwrap_or(Path::new(".")) };
        // Settings of a folder are about its weights, not about any file there.
        let config = if path.is_dir() { config_of(folder)? } else { Map::new() };
        let files: Vec<_> = checkpoint.files().collect();
        let mut info = Self {
            path: checkpoint.path().to_owned(),
            bytes: files.iter().map(|f| f.bytes).sum(),
            files,
            tensors: checkpoint.names().count(),
            parameters: 0,
            dtypes: BTreeMap::new(),
            metadata: checkpoint.metadata().clone(),
            notes: checkpoint.notes().to_vec(),
            architecture: architecture(&config),
            preparation: match path.is_dir() {
                true => PREPARATION.iter().filter(|f| folder.join(f).is_file()).map(|f| (*f).to_owned()).collect(),
                false => Vec::new(),
            },
            usable: Usable::Unknown { problem: String::new() },
            all_tensors: Vec::new(),
        };
        let quantized = config.get("quantization").is_some_and(|q| !q.is_null());
        for (name, tensor) in checkpoint.infos() {
            let count = info.dtypes.entry(tensor.dtype.to_string()).or_default();
            count.tensors += 1;
            count.elements += tensor.len() as u64;
            // The codes of a quantised model are its parameters, their scales are not.
            let counts = match quantized {
                true => !(name.ends_with(saved::SCALE) || name.ends_with(saved::RANGE)),
                false => tensor.dtype.is_float(),
            };
            if counts {
                info.parameters += tensor.len() as u64;
            }
            if every_tensor {
                info.all_tensors.push(Entry { name: name.into(), dtype: tensor.dtype, dims: tensor.dims.clone() });
            }
        }
        info.usable = usable(path, &config, info.bytes);
        Ok(info)
    }

    /// The information as text for people.
    pub fn render(&self) -> String {
        let mut out = String::new();
        // Writing to a string cannot fail.
        let _ = self.write(&mut out);
        out
    }

    fn write(&self, out: &mut String) -> std::fmt::Result {
        writeln!(out, "{}", self.path.display())?;
        match &self.usable {
            Usable::Model { columns, label, quantization } => {
                writeln!(out, "a sensorium model: {} → {label}", columns.join(" + "))?;
                if let Some(quantization) = quantization {
                    writeln!(out, "  quantised, for inference only: {quantization}")?;
                }
            }
            Usable::Space { columns, dim } => {
                let columns = columns.join(" + ");
                writeln!(out, "a sensorium model: {columns} meet in a space of {dim} numbers (index, search)")?;
            }
            Usable::Pretrained { family, parts, .. } => {
                writeln!(out, "{family}")?;
                for part in parts {
                    write!(out, "  {} {}", part.name, part.kind)?;
                    match (part.parameters, &part.problem) {
                        (Some(n), _) => writeln!(out, ": {} parameters, complete", grouped(n as u64))?,
                        (None, Some(problem)) => writeln!(out, ": cannot be loaded: {problem}")?,
                        (None, None) => writeln!(out)?,
                    }
                }
            }
            Usable::Unknown { problem } => writeln!(out, "the weights can be read and converted; {problem}")?,
        }
        writeln!(out, "\nweights")?;
        for file in &self.files {
            let name = file.path.file_name().unwrap_or_default().to_string_lossy();
            writeln!(out, "  {name}  {}  {}", file.format, size(file.bytes))?;
        }
        let formats: Vec<String> =
            self.dtypes.iter().map(|(dtype, n)| format!("{dtype} in {} tensors", grouped(n.tensors as u64))).collect();
        let parameters = grouped(self.parameters);
        writeln!(out, "  {} tensors, {parameters} parameters: {}", grouped(self.tensors as u64), formats.join(", "))?;
        for note in &self.notes {
            writeln!(out, "  note: {note}")?;
        }
        if let Usable::Pretrained { unexpected, .. } = &self.usable
            && !unexpected.is_empty()
        {
            let shown = unexpected.iter().take(SHOWN).map(String::as_str).collect::<Vec<_>>().join(", ");
            let more = unexpected.len().saturating_sub(SHOWN);
            let more = if more > 0 { format!(" and {more} more") } else { String::new() };
            writeln!(out, "  {} tensors are not used: {shown}{more}", unexpected.len())?;
        }
        let section = |out: &mut String, title: &str, lines: &[String]| match lines {
            [] => Ok(()),
            lines => writeln!(out, "\n{title}\n  {}", lines.join("\n  ")),
        };
        let settings: Vec<String> = self.architecture.iter().map(|(k, v)| format!("{k} = {}", setting(v))).collect();
        section(out, "config.json", &settings)?;
        let beside: Vec<String> =
            self.metadata.iter().filter(|(k, _)| *k != "format").map(|(k, v)| format!("{k} = {v}")).collect();
        section(out, "in the weights' files", &beside)?;
        section(out, "tokenizer and processors", &self.preparation)?;
        let tensors: Vec<String> =
            self.all_tensors.iter().map(|t| format!("{}  {}  {:?}", t.name, t.dtype, t.dims)).collect();
        section(out, "tensors", &tensors)
    }
}

fn config_of(folder: &Path) -> Result<Map<String, Value>> {
    let path = folder.join("config.json");
    if !path.is_file() {
        return Ok(Map::new());
    }
    let text = std::fs::read(&path).map_err(|e| Error::io("read", &path, e))?;
    serde_json::from_slice(&text).map_err(|e| Error::model(folder, format!("config.json is not a JSON object: {e}")))
}

/// What tells an architecture and its size, of all that a configuration says.
fn architecture(config: &Map<String, Value>) -> Map<String, Value> {
    let mut found = Map::new();
    for key in ["model_type", "architectures"].iter().chain(&SIZES) {
        if let Some(value) = config.get(*key) {
            found.insert((*key).to_owned(), value.clone());
        }
    }
    for part in WITHIN {
        if let Some(Value::Object(within)) = config.get(part) {
            for (key, value) in architecture(within) {
                found.insert(format!("{part}.{key}"), value);
            }
        }
    }
    found
}

fn usable(path: &Path, config: &Map<String, Value>, bytes: u64) -> Usable {
    if config.contains_key("written_by") && config.contains_key("objective") {
        return match crate::Model::load(path) {
            Ok(model) => Usable::Model {
                columns: model.plan.columns.iter().map(|c| c.name.clone()).collect(),
                label: model.learner.objective.label.column.clone(),
                quantization: config.get("quantization").map(|q| {
                    let of = |key: &str| q.get(key).map(setting).unwrap_or_default();
                    format!("{} weights, {} activations", of("weights"), of("activations"))
                }),
            },
            Err(e) => Usable::Unknown { problem: e.to_string() },
        };
    }
    if Retriever::is_in(path) {
        return match Retriever::load(path) {
            Ok(model) => Usable::Space {
                columns: model.plan.columns.iter().map(|c| c.name.clone()).collect(),
                dim: model.learner.model.config().dim,
            },
            Err(e) => Usable::Unknown { problem: e.to_string() },
        };
    }
    match Pretrained::open(path) {
        Ok(model) => {
            let parts = model.parts().iter().map(|part| {
                let tried = (bytes <= LARGEST_TRIED).then(|| model.try_part(part.name));
                let (parameters, problem) = match tried {
                    Some(Ok(n)) => (Some(n), None),
                    Some(Err(e)) => (None, Some(e.to_string())),
                    None => (None, None),
                };
                PartInfo { name: part.name.to_owned(), kind: part.kind(), parameters, problem }
            });
            Usable::Pretrained {
                family: model.family().name.to_owned(),
                parts: parts.collect(),
                unexpected: model.unexpected().into_iter().map(str::to_owned).collect(),
            }
        }
        Err(e) if path.is_dir() => Usable::Unknown { problem: e.to_string() },
        Err(_) => Usable::Unknown {
            problem: "its family is told by a config.json: give the folder that holds both".to_owned(),
        },
    }
}

fn setting(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Array(all) => all.iter().map(setting).collect::<Vec<_>>().join(", "),
        other => other.to_string(),
    }
}

/// `22713216` as `22,713,216`.
fn grouped(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// Bytes in the unit that suits them.
fn size(bytes: u64) -> String {
    let units = [("GB", 1e9), ("MB", 1e6), ("kB", 1e3)];
    match units.iter().find(|(_, unit)| bytes as f64 >= *unit) {
        Some((name, unit)) => format!("{:.1} {name}", bytes as f64 / unit),
        None => format!("{bytes} bytes"),
    }
}
