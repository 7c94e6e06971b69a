//! What is trained: the structure of a known family, from scratch or from a
//! checkpoint, so that whatever reads the family reads the result.

use super::config::PretrainConfig;
use super::corpora::TextSource;
use super::going_on;
use super::sections::CausalStructure;
use super::start::{START, fill};
use crate::{Dataset, Error, Result};
use sensorium_data::processor::TextProcessor;
use sensorium_data::{DataPlan, PlanOptions, Tokenizer, TokenizerKind, TokenizerOptions};
use sensorium_engine::Params;
use sensorium_model::heads::HeadConfig;
use sensorium_model::pretrained::{Config, KeyMap, Part, PartConfig, Pretrained, describe};
use sensorium_model::towers::{TextTower, TextTowerConfig};
use sensorium_model::{DecoderConfig, DecoderOutput, Pooling, TowerConfig};
use serde_json::{Value, json};
use std::path::Path;
use std::sync::Arc;

/// The model of a text.
pub(super) struct TextStructure {
    /// The family's `config.json`.
    pub config: Value,
    /// The family's name among people.
    pub family: &'static str,
    /// What is learnt with it.
    pub model: TextModel,
    /// The names of its tensors.
    pub keys: KeyMap,
    /// Where it goes on from.
    pub source: Option<Pretrained>,
    /// Its tokens.
    pub tokenizer: Tokenizer,
    /// The most tokens it sees together.
    pub max_tokens: usize,
}

/// Texts of files and cells of a table.
#[derive(Clone, Copy, Default)]
pub(super) struct Texts<'a> {
    pub sources: &'a [TextSource],
    pub cells: &'a [String],
}

impl<'a> Texts<'a> {
    /// One after another.
    fn all(self) -> impl Iterator<Item = sensorium_data::Result<String>> + use<'a> {
        TextSource::texts(self.sources).chain(self.cells.iter().cloned().map(Ok))
    }

    /// How much text there is.
    fn bytes(self) -> u64 {
        let files =
            self.sources.iter().flat_map(|s| &s.files).filter_map(|f| std::fs::metadata(f).ok()).map(|m| m.len());
        files.chain(self.cells.iter().map(|c| c.len() as u64)).sum()
    }
}

/// A model of a text, by what it sees.
pub(super) enum TextModel {
    /// Both sides of a token.
    Masked {
        /// The encoder.
        tower: Box<TextTowerConfig>,
        /// The head over it.
        head: HeadConfig,
        /// The names of its tensors.
        head_keys: KeyMap,
    },
    /// What stands before a token.
    Causal(Box<DecoderConfig>),
}

impl TextStructure {
    /// Decides on the structure and the tokenizer. `texts` are what a vocabulary
    /// is learnt from, `kept` is the tokenizer that a run has begun with, where
    /// it is resumed.
    ///
    /// # Errors
    /// When a checkpoint cannot be learnt with, sizes do not fit, or there is
    /// no text to learn a vocabulary from.
    pub(super) fn new(config: &mut PretrainConfig, texts: Texts<'_>, kept: Option<&Path>) -> Result<Self> {
        match config.text.encoder.clone() {
            Some(folder) => Self::going_on(config, &folder),
            None => Self::from_scratch(config, texts, kept),
        }
    }

    fn going_on(config: &mut PretrainConfig, folder: &Path) -> Result<Self> {
        let wrong = |problem: String| going_on::wrong("text", problem);
        if config.text.tokenizer.is_some() || config.text.vocab_size.is_some() {
            return Err(Error::Config {
                place: "text".into(),
                problem: "an encoder comes with its own tokenizer; leave tokenizer and vocab_size out".into(),
            });
        }
        let source = going_on::checkpoint("text", &config.text.tower, folder)?;
        let (family, described) = describe(source.config(), source.folder())?;
        let part = |name: &str| described.iter().find(|p| p.name == name);
        let causal = config.pretrain.clm.weight > 0.0;
        let (model, keys) = if causal {
            let decoder = source.decoder_config("decoder").map_err(|e| wrong(e.to_string()))?;
            if decoder.output == DecoderOutput::None || decoder.transformer.block.cross_attention {
                return Err(wrong(format!("a {} checkpoint is not a language model of its own", family.name)));
            }
            (TextModel::Causal(Box::new(decoder.clone())), source.part("decoder")?.keys.clone())
        } else {
            let TowerConfig::Text(tower) = source.tower_config("text").map_err(|e| wrong(e.to_string()))? else {
                return Err(wrong("its text part is not a text tower".into()));
            };
            let Some(Part { config: PartConfig::Head(head), keys: head_keys, .. }) = part("masked_lm") else {
                return Err(wrong(format!(
                    "{} has no masked language modelling here; BERT, RoBERTa, DistilBERT, MPNet, ALBERT and ELECTRA have",
                    family.name
                )));
            };
            let tower = TextTowerConfig { projection: None, projection_bias: false, normalize: false, ..tower.clone() };
            let model = TextModel::Masked { tower: Box::new(tower), head: head.clone(), head_keys: head_keys.clone() };
            (model, source.part("text")?.keys.clone())
        };
        let tokenizer = Tokenizer::from_folder(source.folder())?;
        let longest = match &model {
            TextModel::Masked { tower, .. } => Some(tower.max_positions),
            TextModel::Causal(decoder) => decoder.learned_positions,
        };
        let max_tokens = longest.map_or(config.text.max_tokens, |n| n.min(config.text.max_tokens));
        config.text.max_tokens = max_tokens;
        let (json, family) = (source.config().to_value(), family.name);
        Ok(Self { config: json, family, model, keys, source: Some(source), tokenizer, max_tokens })
    }

    fn from_scratch(config: &mut PretrainConfig, texts: Texts<'_>, kept: Option<&Path>) -> Result<Self> {
        let causal = config.pretrain.clm.weight > 0.0;
        let tokenizer = match (kept, &config.text.tokenizer) {
            (Some(kept), _) => Tokenizer::load(kept)?,
            (None, Some(path)) => Tokenizer::load(path)?,
            (None, None) => {
                let kind = if causal { TokenizerKind::Bpe } else { TokenizerKind::WordPiece };
                let (lowercase, vocab_size) = (config.text.lowercase, config.text.vocab_size);
                let options = TokenizerOptions { kind, lowercase, vocab_size, ..TokenizerOptions::default() };
                Tokenizer::train(texts.all(), &options)?
            }
        };
        config.text.vocab_size = Some(tokenizer.vocab_size());
        let (hidden, layers) = match texts.bytes() {
            0..3_000_000 => (128, 4),
            3_000_000..100_000_000 => (256, 6),
            _ => (512, 8),
        };
        let tower = &mut config.text.tower;
        let hidden = *tower.hidden.get_or_insert(hidden);
        let layers = *tower.layers.get_or_insert(layers);
        let heads = *tower.heads.get_or_insert((hidden / 32).max(1));
        let sizes = Sizes { hidden, layers, heads, max_tokens: config.text.max_tokens };
        let json = match (causal, config.pretrain.clm.structure) {
            (false, _) => bert(config, &sizes, &tokenizer),
            (true, CausalStructure::Gpt2) => gpt2(config, &sizes, &tokenizer),
            (true, CausalStructure::Llama) => llama(&sizes, &tokenizer),
        };
        let described = Config::new("text.tower", json.clone())?;
        let (family, parts) = describe(&described, Path::new("text.tower"))?;
        let mut parts: Vec<Option<Part>> = parts.into_iter().map(Some).collect();
        let mut take = |name: &str| {
            let found = parts.iter_mut().find(|p| p.as_ref().is_some_and(|p| p.name == name)).and_then(Option::take);
            found.ok_or_else(|| Error::Request(format!("a {} model has no {name} part", family.name)))
        };
        let (model, keys) = if causal {
            let part = take("decoder")?;
            let PartConfig::Decoder(mut decoder) = part.config else {
                return Err(Error::Request(format!("the decoder of {} is none", family.name)));
            };
            let block = &mut decoder.transformer.block;
            (block.dropout, block.attention_dropout) = (tower_dropout(config).0, tower_dropout(config).1);
            block.drop_path = config.text.tower.drop_path;
            block.validate("text.tower")?;
            (TextModel::Causal(decoder), part.keys)
        } else {
            let (part, head) = (take("text")?, take("masked_lm")?);
            let (PartConfig::Tower(tower), PartConfig::Head(head_config)) = (part.config, head.config) else {
                return Err(Error::Request(format!("the text tower of {} is none", family.name)));
            };
            let TowerConfig::Text(mut tower) = *tower else {
                return Err(Error::Request(format!("the text tower of {} is none", family.name)));
            };
            // Nothing here trains a pooler.
            (tower.pooler, tower.pooling) = (None, config.text.tower.pooling);
            tower.transformer.block.drop_path = config.text.tower.drop_path;
            tower.transformer.block.validate("text.tower")?;
            let model = TextModel::Masked { tower: Box::new(tower), head: head_config, head_keys: head.keys };
            (model, part.keys)
        };
        let max_tokens = config.text.max_tokens;
        Ok(Self { config: json, family: family.name, model, keys, source: None, tokenizer, max_tokens })
    }

    /// How rows become texts.
    ///
    /// # Errors
    /// When no training row has one.
    pub(super) fn plan(&self, config: &PretrainConfig, dataset: &Dataset) -> Result<Arc<DataPlan>> {
        let text = TextProcessor { max_tokens: self.max_tokens };
        let tokenizer = Some(self.tokenizer.clone());
        let how = PlanOptions { text, tokenizer, limits: config.limits.clone(), ..PlanOptions::default() };
        Ok(Arc::new(DataPlan::fit(&dataset.table, &dataset.schema, &dataset.splits.train, &how)?))
    }

    /// Starts an encoder of texts that stands below a scope, as [`fill`].
    ///
    /// # Errors
    /// As there.
    pub(super) fn fill(&self, params: &mut Params, scope: &str, seed: u64) -> Result<()> {
        let TextModel::Masked { tower, .. } = &self.model else { return Ok(()) };
        fill(params, scope, seed, self.source.as_ref(), "text", |b| TextTower::new(b, tower))
    }

    /// How the folder's vectors are pooled, where its files must say so: a
    /// BERT's pooler is not trained here.
    pub(super) fn pooling(&self) -> Option<Pooling> {
        match &self.model {
            TextModel::Masked { tower, .. } if tower.pooler.is_none() => Some(tower.pooling),
            TextModel::Masked { .. } | TextModel::Causal(_) => None,
        }
    }
}

fn tower_dropout(config: &PretrainConfig) -> (f64, f64) {
    (config.text.tower.dropout, config.text.tower.attention_dropout)
}

/// Sizes of a model from scratch.
pub(super) struct Sizes {
    pub hidden: usize,
    pub layers: usize,
    pub heads: usize,
    pub max_tokens: usize,
}

/// The number of a token that the configuration names, as JSON.
fn token(tokenizer: &Tokenizer, names: &[&str]) -> Value {
    names.iter().find_map(|name| tokenizer.token_id(name)).map_or(Value::Null, |id| json!(id))
}

fn bert(config: &PretrainConfig, s: &Sizes, tokenizer: &Tokenizer) -> Value {
    let (dropout, attention_dropout) = tower_dropout(config);
    json!({
        "architectures": ["BertForMaskedLM"],
        "model_type": "bert",
        "dtype": "float32",
        "vocab_size": tokenizer.vocab_size(),
        "hidden_size": s.hidden,
        "num_hidden_layers": s.layers,
        "num_attention_heads": s.heads,
        "intermediate_size": 4 * s.hidden,
        "hidden_act": "gelu",
        "hidden_dropout_prob": dropout,
        "attention_probs_dropout_prob": attention_dropout,
        "max_position_embeddings": s.max_tokens,
        "type_vocab_size": 2,
        "initializer_range": START,
        "layer_norm_eps": 1e-12,
        "pad_token_id": token(tokenizer, &["[PAD]", "<pad>"]),
        "tie_word_embeddings": true,
    })
}

pub(super) fn gpt2(config: &PretrainConfig, s: &Sizes, tokenizer: &Tokenizer) -> Value {
    let (dropout, attention_dropout) = tower_dropout(config);
    json!({
        "architectures": ["GPT2LMHeadModel"],
        "model_type": "gpt2",
        "dtype": "float32",
        "vocab_size": tokenizer.vocab_size(),
        "n_embd": s.hidden,
        "n_layer": s.layers,
        "n_head": s.heads,
        "n_positions": s.max_tokens,
        "activation_function": "gelu_new",
        "layer_norm_epsilon": 1e-5,
        "resid_pdrop": dropout,
        "embd_pdrop": dropout,
        "attn_pdrop": attention_dropout,
        "initializer_range": START,
        "bos_token_id": token(tokenizer, &["[CLS]", "<|endoftext|>", "<s>"]),
        "eos_token_id": token(tokenizer, &["[SEP]", "<|endoftext|>", "</s>"]),
        "tie_word_embeddings": true,
    })
}

fn llama(s: &Sizes, tokenizer: &Tokenizer) -> Value {
    // Two thirds of four times the width, since there are three matrices.
    let intermediate = (8 * s.hidden / 3).next_multiple_of(32);
    json!({
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "dtype": "float32",
        "vocab_size": tokenizer.vocab_size(),
        "hidden_size": s.hidden,
        "intermediate_size": intermediate,
        "num_hidden_layers": s.layers,
        "num_attention_heads": s.heads,
        "num_key_value_heads": s.heads,
        "hidden_act": "silu",
        "max_position_embeddings": s.max_tokens,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "initializer_range": START,
        "bos_token_id": token(tokenizer, &["[CLS]", "<s>"]),
        "eos_token_id": token(tokenizer, &["[SEP]", "</s>"]),
        "tie_word_embeddings": true,
    })
}
