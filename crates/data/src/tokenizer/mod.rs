//! Text to tokens and back.
//!
//! Any `tokenizer.json` in the format of the `tokenizers` library is used as it is. Without one, a
//! vocabulary is learnt from the training texts. Learning is our own and short: the
//! library's depends on the order of a hash map, and the same texts must always give the same
//! tokenizer, to the byte.

mod folder;
mod merges;
mod train;

use std::path::Path;

use serde::{Deserialize, Serialize};
use tokenizers::PostProcessor;
use tokenizers::utils::truncation::TruncationDirection;

use crate::error::{DataError, Result};
use crate::files::write_atomically;

pub use train::{TokenizerKind, TokenizerOptions};

/// Text longer than this many characters per token asked for is cut before it is tokenized.
const MAX_CHARS_PER_TOKEN: usize = 256;

/// Turns text into token numbers.
#[derive(Clone)]
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    json: Vec<u8>,
    added: usize,
}

impl std::fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tokenizer").field("vocab_size", &self.vocab_size()).finish_non_exhaustive()
    }
}

impl PartialEq for Tokenizer {
    fn eq(&self, other: &Self) -> bool {
        self.json == other.json
    }
}

/// What belongs to one word.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WordsBy {
    /// What the tokenizer splits no further but into pieces: words and
    /// punctuation, and of Chinese each character.
    #[default]
    Pieces,
    /// What stands between blanks, for text that was segmented so.
    Blanks,
}

/// The tokens of one text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tokens {
    /// Token numbers, special tokens included.
    pub ids: Vec<u32>,
    /// Whether the text was longer and lost its end.
    pub truncated: bool,
}

impl Tokenizer {
    /// Loads a `tokenizer.json`.
    pub fn load(path: &Path) -> Result<Tokenizer> {
        let json = std::fs::read(path).map_err(|source| DataError::io("read", path, source))?;
        Self::from_json(json).map_err(|error| match error {
            DataError::Tokenizer(problem) => DataError::Tokenizer(format!("{path:?}: {problem}")),
            other => other,
        })
    }

    /// The tokenizer of a pretrained model's folder: its `tokenizer.json`, or one put together from
    /// the older files (`vocab.txt` of BERT, `vocab.json` and `merges.txt` of GPT-2 and RoBERTa).
    ///
    /// # Errors
    /// A folder with none of them.
    pub fn from_folder(folder: &Path) -> Result<Tokenizer> {
        let path = folder.join("tokenizer.json");
        if path.is_file() { Self::load(&path) } else { folder::from_vocabulary(folder) }
    }

    /// Reads the contents of a `tokenizer.json`.
    pub fn from_json(json: Vec<u8>) -> Result<Tokenizer> {
        let mut inner = tokenizers::Tokenizer::from_bytes(&json)
            .map_err(|error| DataError::Tokenizer(format!("is not a tokenizer.json: {error}")))?;
        // Nothing is padded, and length is each column's business.
        inner.with_padding(None);
        inner.with_truncation(None).map_err(|error| DataError::Tokenizer(error.to_string()))?;
        // "[CLS]" in a person's text is text.
        inner.set_encode_special_tokens(true);
        let added = inner.get_post_processor().map_or(0, |post| post.added_tokens(false));
        Ok(Tokenizer { inner, json, added })
    }

    /// Learns a tokenizer from texts; the same texts, in any order, give the same bytes.
    ///
    /// # Errors
    /// Texts without a single word.
    pub fn train<I>(texts: I, options: &TokenizerOptions) -> Result<Tokenizer>
    where
        I: IntoIterator<Item = Result<String>>,
    {
        Self::from_json(train::train(texts, options)?)
    }

    /// Writes the `tokenizer.json`: the bytes that were loaded or learnt.
    pub fn save(&self, path: &Path) -> Result<()> {
        write_atomically(path, &self.json)
    }

    /// The `tokenizer.json`: the bytes that were loaded or learnt.
    pub fn json(&self) -> &[u8] {
        &self.json
    }

    /// The tokens of a text, at most `max_tokens`; the special tokens of both ends are kept.
    pub fn encode(&self, text: &str, max_tokens: usize) -> Result<Tokens> {
        let problem = |error: tokenizers::Error| DataError::Tokenizer(error.to_string());
        let longest = max_tokens.saturating_mul(MAX_CHARS_PER_TOKEN);
        let cut = text.char_indices().nth(longest).map_or(text.len(), |(at, _)| at);
        let mut encoding = self.inner.encode_fast(&text[..cut], false).map_err(problem)?;
        let room = max_tokens.saturating_sub(self.added).max(1);
        let truncated = cut < text.len() || encoding.len() > room;
        if encoding.len() > room {
            encoding.truncate(room, 0, TruncationDirection::Right);
        }
        let encoding = self.inner.post_process(encoding, None, true).map_err(problem)?;
        Ok(Tokens { ids: encoding.get_ids().to_vec(), truncated })
    }

    /// All tokens of a text, special ones included, and of each whether it belongs to the word of the one
    /// before it.
    ///
    /// # Errors
    /// Those of the tokenizer's own model.
    pub fn encode_words(&self, text: &str, words: WordsBy) -> Result<Vec<(u32, bool)>> {
        let encoding = self.inner.encode(text, true).map_err(|error| DataError::Tokenizer(error.to_string()))?;
        let (ids, offsets, numbers) = (encoding.get_ids(), encoding.get_offsets(), encoding.get_word_ids());
        let continues = |at: usize| {
            let Some((before, here)) = at.checked_sub(1).map(|before| (numbers[before], numbers[at])) else {
                return false;
            };
            match (before, here, words) {
                (Some(before), Some(here), WordsBy::Pieces) => before == here,
                // Some tokenizers count the blank to the word behind it.
                (Some(_), Some(_), WordsBy::Blanks) => {
                    let from = offsets[at - 1].1.min(offsets[at].0);
                    let to = offsets[at].0 + text[offsets[at].0..].chars().next().map_or(0, char::len_utf8);
                    !text[from..to].contains(char::is_whitespace)
                }
                _ => false,
            }
        };
        Ok(ids.iter().enumerate().map(|(at, id)| (*id, continues(at))).collect())
    }

    /// Whether it puts tokens of its own before or behind a text.
    pub fn adds_special_tokens(&self) -> bool {
        self.added > 0
    }

    /// The token that ends a text, where the vocabulary has one.
    pub fn end_of_text(&self) -> Option<u32> {
        ["<|endoftext|>", "</s>", "<|end_of_text|>", "<eos>", "[SEP]"].iter().find_map(|token| self.token_id(token))
    }

    /// The token that hides others, where the vocabulary has one.
    pub fn mask_token(&self) -> Option<u32> {
        ["[MASK]", "<mask>"].iter().find_map(|token| self.token_id(token))
    }

    /// For each number whether it is that of a special token.
    pub fn special_tokens(&self) -> Vec<bool> {
        let mut special = vec![false; self.vocab_size()];
        for (id, token) in self.inner.get_added_tokens_decoder() {
            if let Some(place) = special.get_mut(id as usize) {
                *place = token.special;
            }
        }
        special
    }

    /// The text of tokens, without the special ones.
    pub fn decode(&self, ids: &[u32]) -> Result<String> {
        self.inner.decode(ids, true).map_err(|error| DataError::Tokenizer(error.to_string()))
    }

    /// One more than the largest token number: the rows of an embedding table.
    pub fn vocab_size(&self) -> usize {
        let largest = self.inner.get_vocab(true).into_values().max();
        largest.map_or(0, |id| id as usize + 1)
    }

    /// The number of a token such as `[CLS]`.
    pub fn token_id(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    /// The token of a number.
    pub fn token(&self, id: u32) -> Option<String> {
        self.inner.id_to_token(id)
    }
}

#[cfg(test)]
mod tests;
