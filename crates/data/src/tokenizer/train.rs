//! Learning a vocabulary from texts.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value as Json, json};
use tokenizers::{
    NormalizedString, Normalizer, NormalizerWrapper, OffsetReferential, OffsetType, PreTokenizedString, PreTokenizer,
    PreTokenizerWrapper,
};

use super::merges::{self, Word};
use crate::error::{DataError, Result};

/// What kind of vocabulary is learnt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TokenizerKind {
    /// Words and their pieces, as BERT has them; unknown characters become `[UNK]`.
    WordPiece,
    /// Pieces of bytes, as GPT-2 has them; every text is representable and can be restored.
    Bpe,
}

/// How to learn a tokenizer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TokenizerOptions {
    /// The kind (default `wordpiece`).
    pub kind: TokenizerKind,
    /// Whether capitals become small letters (default true).
    pub lowercase: bool,
    /// The most tokens; by default a tenth of the words of the texts, at least 512 and at most
    /// 30,000, beside the single characters.
    pub vocab_size: Option<usize>,
    /// Pieces that occur less often are not learnt (default 2).
    pub min_count: u64,
}

impl Default for TokenizerOptions {
    fn default() -> Self {
        TokenizerOptions { kind: TokenizerKind::WordPiece, lowercase: true, vocab_size: None, min_count: 2 }
    }
}

/// The tokens that every learnt vocabulary begins with, numbered from 0.
const SPECIAL: [&str; 5] = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"];

/// Different characters kept; rarer ones become `[UNK]`.
const MAX_CHARACTERS: usize = 8_000;

/// Longer words are cut by no tokenizer here; they become `[UNK]` (WordPiece) or stay bytes.
const MAX_WORD_CHARS: usize = 100;

/// Texts normalised together, to bound the memory and feed the threads.
const TEXTS_AT_ONCE: usize = 4096;

/// The bytes of the `tokenizer.json` learnt from the texts.
pub(super) fn train<I>(texts: I, options: &TokenizerOptions) -> Result<Vec<u8>>
where
    I: IntoIterator<Item = Result<String>>,
{
    let (normalizer, pre_tokenizer) = (normalizer(options), pre_tokenizer(options));
    let words = count_words(texts, &normalizer, &pre_tokenizer)?;
    if words.is_empty() {
        return Err(DataError::Tokenizer(
            "there is not a single word in the training texts to learn a vocabulary from".into(),
        ));
    }
    let total: u64 = words.values().sum();
    let pieces = match options.kind {
        TokenizerKind::WordPiece => "##",
        TokenizerKind::Bpe => "",
    };
    let mut vocabulary = Vocabulary::new(options.kind, &words, pieces);
    let size = options.vocab_size.unwrap_or((total / 10).clamp(512, 30_000) as usize + vocabulary.tokens.len());
    let mut symbols: Vec<Word> = words
        .iter()
        .filter(|(word, _)| word.chars().count() <= MAX_WORD_CHARS)
        .filter_map(|(word, count)| Some(Word { symbols: vocabulary.characters(word, pieces)?, count: *count }))
        .collect();
    let room = size.saturating_sub(vocabulary.tokens.len());
    let min_count = options.min_count.max(1);
    let merges = merges::learn(&mut symbols, room, min_count, |left, right| {
        let right = &vocabulary.tokens[right as usize];
        let right = right.strip_prefix(pieces).unwrap_or(right);
        let joined = format!("{}{right}", vocabulary.tokens[left as usize]);
        vocabulary.id(joined)
    });
    let name = |id: u32| vocabulary.tokens[id as usize].clone();
    let merges: Vec<Json> = merges.into_iter().map(|(left, right)| json!([name(left), name(right)])).collect();
    let text = serde_json::to_string_pretty(&tokenizer_json(options, &vocabulary, merges, &normalizer, &pre_tokenizer))
        .map_err(|error| DataError::Tokenizer(error.to_string()))?;
    Ok(text.into_bytes())
}

fn normalizer(options: &TokenizerOptions) -> Json {
    // NFKC first: full-width letters and ligatures become the usual ones.
    let mut steps = vec![json!({"type": "NFKC"})];
    match options.kind {
        TokenizerKind::WordPiece => steps.push(json!({
            "type": "BertNormalizer",
            "clean_text": true,
            "handle_chinese_chars": true,
            "strip_accents": false,
            "lowercase": options.lowercase,
        })),
        TokenizerKind::Bpe if options.lowercase => steps.push(json!({"type": "Lowercase"})),
        TokenizerKind::Bpe => {}
    }
    json!({"type": "Sequence", "normalizers": steps})
}

fn pre_tokenizer(options: &TokenizerOptions) -> Json {
    match options.kind {
        TokenizerKind::WordPiece => json!({"type": "BertPreTokenizer"}),
        TokenizerKind::Bpe => json!({
            "type": "Sequence",
            "pretokenizers": [
                {
                    "type": "Split",
                    "pattern": {"Regex": "\\p{Han}"},
                    "behavior": "Isolated",
                    "invert": false,
                },
                {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
            ],
        }),
    }
}

fn count_words<I>(texts: I, normalizer: &Json, pre_tokenizer: &Json) -> Result<BTreeMap<String, u64>>
where
    I: IntoIterator<Item = Result<String>>,
{
    let problem = |error: &dyn std::fmt::Display| DataError::Tokenizer(error.to_string());
    let normalizer: NormalizerWrapper = serde_json::from_value(normalizer.clone()).map_err(|error| problem(&error))?;
    let pre_tokenizer: PreTokenizerWrapper =
        serde_json::from_value(pre_tokenizer.clone()).map_err(|error| problem(&error))?;
    let count = |text: &String| -> std::result::Result<HashMap<String, u64>, tokenizers::Error> {
        let mut normalized = NormalizedString::from(text.as_str());
        normalizer.normalize(&mut normalized)?;
        let mut split = PreTokenizedString::from(normalized);
        pre_tokenizer.pre_tokenize(&mut split)?;
        let mut words = HashMap::new();
        for (word, _, _) in split.get_splits(OffsetReferential::Normalized, OffsetType::Byte) {
            if !word.is_empty() {
                *words.entry(word.to_string()).or_insert(0) += 1;
            }
        }
        Ok(words)
    };
    let mut words = BTreeMap::new();
    let mut texts = texts.into_iter();
    loop {
        let batch: Vec<String> = texts.by_ref().take(TEXTS_AT_ONCE).collect::<Result<_>>()?;
        if batch.is_empty() {
            return Ok(words);
        }
        let counted: Vec<HashMap<String, u64>> =
            batch.par_iter().map(count).collect::<std::result::Result<_, _>>().map_err(|e| problem(&e))?;
        for (word, count) in counted.into_iter().flatten() {
            *words.entry(word).or_insert(0) += count;
        }
    }
}

/// The tokens in the order of their numbers.
struct Vocabulary {
    tokens: Vec<String>,
    ids: HashMap<String, u32>,
}

impl Vocabulary {
    /// Special tokens, then the single characters in their order.
    fn new(kind: TokenizerKind, words: &BTreeMap<String, u64>, pieces: &str) -> Self {
        let mut counts: BTreeMap<char, u64> = BTreeMap::new();
        for (word, count) in words {
            word.chars().for_each(|character| *counts.entry(character).or_insert(0) += count);
        }
        let mut characters: Vec<(char, u64)> = counts.into_iter().collect();
        characters.sort_by(|a, b| b.1.cmp(&a.1).then(a.0.cmp(&b.0)));
        characters.truncate(MAX_CHARACTERS);
        let mut characters: BTreeSet<char> = characters.into_iter().map(|(c, _)| c).collect();
        if kind == TokenizerKind::Bpe {
            characters.extend(tokenizers::pre_tokenizers::byte_level::ByteLevel::alphabet());
        }
        let mut vocabulary = Vocabulary { tokens: Vec::new(), ids: HashMap::new() };
        SPECIAL.iter().for_each(|token| _ = vocabulary.id(token.to_string()));
        for character in &characters {
            vocabulary.id(character.to_string());
        }
        if !pieces.is_empty() {
            // A letter that only begins words here will be inside others. Chinese characters and
            // punctuation stand alone, so they need no second form.
            for character in characters.iter().filter(|c| c.is_alphanumeric() && !is_han(**c)) {
                vocabulary.id(format!("{pieces}{character}"));
            }
        }
        vocabulary
    }

    /// The number of a token, a new one if need be.
    fn id(&mut self, token: String) -> u32 {
        if let Some(id) = self.ids.get(&token) {
            return *id;
        }
        let id = self.tokens.len() as u32;
        self.tokens.push(token.clone());
        self.ids.insert(token, id);
        id
    }

    /// A word as single characters; `None` where one of them is not kept.
    fn characters(&mut self, word: &str, pieces: &str) -> Option<Vec<u32>> {
        let mut ids = Vec::new();
        for (i, character) in word.chars().enumerate() {
            self.ids.get(character.encode_utf8(&mut [0; 4]) as &str)?;
            let token = if i == 0 { character.to_string() } else { format!("{pieces}{character}") };
            ids.push(self.id(token));
        }
        Some(ids)
    }
}

fn is_han(character: char) -> bool {
    matches!(u32::from(character),
        0x3400..=0x4DBF | 0x4E00..=0x9FFF | 0xF900..=0xFAFF | 0x20000..=0x2FA1F | 0x30000..=0x323AF)
}

fn tokenizer_json(
    options: &TokenizerOptions,
    vocabulary: &Vocabulary,
    merges: Vec<Json>,
    normalizer: &Json,
    pre_tokenizer: &Json,
) -> Json {
    let vocab: Map<String, Json> =
        vocabulary.tokens.iter().enumerate().map(|(id, token)| (token.clone(), json!(id))).collect();
    let (model, decoder) = match options.kind {
        TokenizerKind::WordPiece => (
            json!({
                "type": "WordPiece",
                "unk_token": "[UNK]",
                "continuing_subword_prefix": "##",
                "max_input_chars_per_word": MAX_WORD_CHARS,
                "vocab": vocab,
            }),
            json!({"type": "WordPiece", "prefix": "##", "cleanup": true}),
        ),
        TokenizerKind::Bpe => (
            json!({
                "type": "BPE",
                "dropout": null,
                "unk_token": null,
                "continuing_subword_prefix": null,
                "end_of_word_suffix": null,
                "fuse_unk": false,
                "byte_fallback": false,
                "ignore_merges": false,
                "vocab": vocab,
                "merges": merges,
            }),
            json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true}),
        ),
    };
    let added: Vec<Json> = SPECIAL
        .iter()
        .enumerate()
        .map(|(id, content)| {
            json!({
                "id": id,
                "content": content,
                "single_word": false,
                "lstrip": false,
                "rstrip": false,
                "normalized": false,
                "special": true,
            })
        })
        .collect();
    let special = |token: &str| {
        let id = SPECIAL.iter().position(|special| *special == token);
        json!({"id": token, "ids": [id], "tokens": [token]})
    };
    let piece = |token: &str, kind: u32| json!({"SpecialToken": {"id": token, "type_id": kind}});
    let text = |name: &str, kind: u32| json!({"Sequence": {"id": name, "type_id": kind}});
    json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": added,
        "normalizer": normalizer,
        "pre_tokenizer": pre_tokenizer,
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [piece("[CLS]", 0), text("A", 0), piece("[SEP]", 0)],
            "pair": [piece("[CLS]", 0), text("A", 0), piece("[SEP]", 0), text("B", 1), piece("[SEP]", 1)],
            "special_tokens": {"[CLS]": special("[CLS]"), "[SEP]": special("[SEP]")},
        },
        "decoder": decoder,
        "model": model,
    })
}
