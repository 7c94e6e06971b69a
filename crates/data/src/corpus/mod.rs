//! Running text as token numbers on disk: what a language model learns from.
//!
//! Text files and shards are read once, as a stream, and tokenised in parallel; the
//! numbers go into a file, from which pieces are read by their number in any
//! order. The memory that this takes does not grow with the text, but for
//! eight bytes a line where lines are the pieces. A second run over the same
//! text finds the file made.

mod lines;
mod shards;
mod store;

pub use lines::files_of;

use std::path::{Path, PathBuf};

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::error::{DataError, Result};
use crate::tokenizer::{Tokenizer, WordsBy};
use lines::Texts;
use store::{Store, StoreWriter};

/// What one piece of a corpus is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Unit {
    /// So many tokens of the running text, lines joined.
    #[default]
    Block,
    /// A line; longer ones in parts.
    Line,
    /// Lines up to an empty one; longer ones in parts.
    Document,
}

/// How a corpus is cut.
#[derive(Clone, Debug, PartialEq)]
pub struct CorpusOptions {
    /// What one piece is.
    pub unit: Unit,
    /// The most tokens of a piece.
    pub max_tokens: usize,
    /// What a word is.
    pub words: WordsBy,
    /// The column of shards that holds the texts; None for the one with a usual name.
    pub column: Option<String>,
}

/// A corpus of token numbers.
#[derive(Debug)]
pub struct Corpus {
    store: Store,
    pieces: Pieces,
    max_tokens: usize,
}

/// Where pieces begin and end.
#[derive(Debug)]
enum Pieces {
    /// Every so many tokens.
    Even,
    /// Ends of the pieces, ascending.
    Ends(Vec<u64>),
}

/// One piece.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Piece {
    /// Token numbers.
    pub ids: Vec<u32>,
    /// For each token whether it belongs to the word of the one before.
    pub continues: Vec<bool>,
}

/// Texts tokenised together, to feed the threads.
const TEXTS_AT_ONCE: usize = 2048;

impl Corpus {
    /// Tokenises text files, or opens what an earlier run has made of them;
    /// the numbers lie in `folder` under `name`.
    ///
    /// # Errors
    /// When a file cannot be read, is not UTF-8, or there is no text in any.
    pub fn open(
        files: &[PathBuf],
        tokenizer: &Tokenizer,
        options: &CorpusOptions,
        folder: &Path,
        name: &str,
    ) -> Result<Corpus> {
        let fingerprint = fingerprint(files, tokenizer, options)?;
        Self::made(files, tokenizer, options, (folder, name), &fingerprint)
    }

    /// Opens what was made for a fingerprint, or makes it.
    fn made(
        files: &[PathBuf],
        tokenizer: &Tokenizer,
        options: &CorpusOptions,
        (folder, name): (&Path, &str),
        fingerprint: &str,
    ) -> Result<Corpus> {
        std::fs::create_dir_all(folder).map_err(|e| DataError::io("create", folder, e))?;
        let store = match Store::open(folder, name, fingerprint)? {
            Some(store) => store,
            None => tokenise(files, tokenizer, options, folder, name, fingerprint)?,
        };
        let pieces = match options.unit {
            Unit::Block => Pieces::Even,
            Unit::Line | Unit::Document => Pieces::Ends(ends(&store.ends()?, options.max_tokens as u64)),
        };
        Ok(Corpus { store, pieces, max_tokens: options.max_tokens })
    }

    /// Opens as [`Corpus::open`] what a run goes on with: numbers of another text stay as they
    /// are.
    ///
    /// # Errors
    /// As there, and when the numbers under `name` are those of another text.
    pub fn reopen(
        files: &[PathBuf],
        tokenizer: &Tokenizer,
        options: &CorpusOptions,
        folder: &Path,
        name: &str,
    ) -> Result<Corpus> {
        let fingerprint = fingerprint(files, tokenizer, options)?;
        if store::fingerprint(folder, name).is_some_and(|then| then != fingerprint) {
            let listed: Vec<String> = files.iter().map(|f| f.display().to_string()).collect();
            return Err(DataError::Options(format!(
                "cannot resume: {} is not the text that the run began with, or corpus.unit, corpus.words or \
                 corpus.column is another; restore it, or train anew in another folder",
                listed.join(", ")
            )));
        }
        Self::made(files, tokenizer, options, (folder, name), &fingerprint)
    }

    /// The number of pieces. Of blocks the last one is left out where it is
    /// not full.
    pub fn len(&self) -> usize {
        match &self.pieces {
            Pieces::Even if self.store.tokens() < self.max_tokens as u64 => usize::from(self.store.tokens() > 1),
            Pieces::Even => (self.store.tokens() / self.max_tokens as u64) as usize,
            Pieces::Ends(ends) => ends.len(),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The number of all tokens.
    pub fn tokens(&self) -> u64 {
        self.store.tokens()
    }

    /// The number of lines, or documents, that the text had.
    pub fn texts(&self) -> u64 {
        self.store.texts()
    }

    /// The number of characters of the text.
    pub fn characters(&self) -> u64 {
        self.store.characters()
    }

    /// What the numbers follow from: text, tokenizer and ways of cutting.
    pub fn fingerprint(&self) -> &str {
        self.store.fingerprint()
    }

    /// The tokens of a piece.
    pub fn length(&self, piece: usize) -> usize {
        let (start, end) = self.range(piece);
        (end - start) as usize
    }

    fn range(&self, piece: usize) -> (u64, u64) {
        match &self.pieces {
            Pieces::Even => {
                let start = piece as u64 * self.max_tokens as u64;
                (start, (start + self.max_tokens as u64).min(self.store.tokens()))
            }
            Pieces::Ends(ends) => (piece.checked_sub(1).map_or(0, |before| ends[before]), ends[piece]),
        }
    }

    /// Reads a piece, which must be below [`Corpus::len`].
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn read(&self, piece: usize) -> Result<Piece> {
        let (start, end) = self.range(piece);
        self.store.read(start, end)
    }
}

/// Ends of pieces of at most `most` tokens.
fn ends(texts: &[u64], most: u64) -> Vec<u64> {
    let mut ends = Vec::with_capacity(texts.len());
    let mut start = 0;
    for &end in texts {
        while end - start > most {
            start += most;
            ends.push(start);
        }
        ends.push(end);
        start = end;
    }
    ends
}

/// What the numbers follow from.
fn fingerprint(files: &[PathBuf], tokenizer: &Tokenizer, options: &CorpusOptions) -> Result<String> {
    let mut hasher = blake3::Hasher::new();
    hasher.update(b"corpus 1");
    hasher.update(blake3::hash(tokenizer.json()).as_bytes());
    hasher.update(&[u8::from(options.unit == Unit::Document), u8::from(options.words == WordsBy::Blanks)]);
    if let Some(column) = &options.column {
        hasher.update(column.as_bytes());
    }
    for path in files {
        let mut file = std::fs::File::open(path).map_err(|e| DataError::io("open", path, e))?;
        let mut own = blake3::Hasher::new();
        std::io::copy(&mut file, &mut own).map_err(|e| DataError::io("read", path, e))?;
        hasher.update(own.finalize().as_bytes());
    }
    Ok(hasher.finalize().to_hex().to_string())
}

fn tokenise(
    files: &[PathBuf],
    tokenizer: &Tokenizer,
    options: &CorpusOptions,
    folder: &Path,
    name: &str,
    fingerprint: &str,
) -> Result<Store> {
    let mut writer = StoreWriter::create(folder, name)?;
    let mut texts = Texts::of(files.to_vec(), options.column.as_deref(), options.unit == Unit::Document);
    // Where the tokenizer marks no ends, the token for the end of a text does.
    let end = if tokenizer.adds_special_tokens() { None } else { tokenizer.end_of_text() };
    loop {
        let batch: Vec<String> = texts.by_ref().take(TEXTS_AT_ONCE).collect::<Result<_>>()?;
        if batch.is_empty() {
            break;
        }
        let tokens: Vec<Vec<(u32, bool)>> =
            batch.par_iter().map(|text| tokenizer.encode_words(text, options.words)).collect::<Result<_>>()?;
        for (text, mut tokens) in batch.iter().zip(tokens) {
            tokens.extend(end.map(|id| (id, false)));
            writer.append(&tokens, text.chars().count() as u64)?;
        }
    }
    if writer.is_empty() {
        let listed: Vec<String> = files.iter().map(|f| f.display().to_string()).collect();
        return Err(DataError::Options(format!("there is no text in {}", listed.join(", "))));
    }
    writer.finish(fingerprint)
}

/// The texts of files one after another, of shards those of `column`, to learn
/// a vocabulary from.
pub fn texts(files: &[PathBuf], column: Option<&str>) -> impl Iterator<Item = Result<String>> + use<> {
    Texts::of(files.to_vec(), column, false)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tokenizer::TokenizerOptions;

    const TEXT: &str = "The cat sat on the mat.\nA dog ate the cat food today.\n\n猫 坐在 垫子 上。\nThe end\n";

    fn corpus(folder: &Path, text: &str, unit: Unit, max_tokens: usize) -> Result<(Corpus, Tokenizer)> {
        let file = folder.join("text.txt");
        std::fs::write(&file, text).map_err(|e| DataError::io("write", &file, e))?;
        let files = [file];
        let tokenizer = Tokenizer::train(texts(&files, None), &TokenizerOptions::default())?;
        let options = CorpusOptions { unit, max_tokens, words: WordsBy::Pieces, column: None };
        Ok((Corpus::open(&files, &tokenizer, &options, &folder.join("tokens"), "train")?, tokenizer))
    }

    #[test]
    fn blocks_are_the_lines_end_to_end() -> Result<()> {
        let folder = tempfile::tempdir().expect("folder");
        let (corpus, tokenizer) = corpus(folder.path(), TEXT, Unit::Block, 8)?;
        let all: Vec<u32> = TEXT
            .lines()
            .filter(|line| !line.is_empty())
            .flat_map(|line| tokenizer.encode(line, 100).expect("tokens").ids)
            .collect();
        assert_eq!(corpus.tokens(), all.len() as u64);
        assert_eq!(corpus.len(), all.len() / 8);
        let read: Vec<u32> = (0..corpus.len()).flat_map(|i| corpus.read(i).expect("piece").ids).collect();
        assert_eq!(read, all[..corpus.len() * 8]);
        assert_eq!(corpus.texts(), 4);
        Ok(())
    }

    #[test]
    fn lines_and_documents_are_pieces_of_their_own() -> Result<()> {
        let folder = tempfile::tempdir().expect("folder");
        let (lines, tokenizer) = corpus(folder.path(), TEXT, Unit::Line, 100)?;
        assert_eq!(lines.len(), 4);
        assert_eq!(lines.read(2)?.ids, tokenizer.encode("猫 坐在 垫子 上。", 100)?.ids);
        let (documents, _) = corpus(folder.path(), TEXT, Unit::Document, 100)?;
        assert_eq!(documents.len(), 2);
        let (parts, _) = corpus(folder.path(), TEXT, Unit::Line, 5)?;
        assert!(parts.len() > 4 && (0..parts.len()).all(|i| (1..=5).contains(&parts.length(i))));
        let total: usize = (0..parts.len()).map(|i| parts.length(i)).sum();
        assert_eq!(total as u64, parts.tokens());
        Ok(())
    }

    #[test]
    fn the_same_text_is_tokenised_once() -> Result<()> {
        let folder = tempfile::tempdir().expect("folder");
        corpus(folder.path(), TEXT, Unit::Block, 8)?;
        let file = folder.path().join("tokens/train.tokens");
        let written = |file: &Path| std::fs::metadata(file).and_then(|m| m.modified()).expect("time");
        let before = written(&file);
        corpus(folder.path(), TEXT, Unit::Block, 16)?;
        assert_eq!(written(&file), before, "another length of blocks needs no other tokens");
        let (other, tokenizer) = corpus(folder.path(), "Something else entirely\n", Unit::Block, 4)?;
        let expected = tokenizer.encode("Something else entirely", 100)?.ids.len();
        assert!(other.tokens() == expected as u64 && written(&file) >= before);
        // A file that lost its end is made again.
        std::fs::write(&file, [0; 8]).expect("written");
        let (again, _) = corpus(folder.path(), "Something else entirely\n", Unit::Block, 4)?;
        assert_eq!(again.tokens(), other.tokens());
        Ok(())
    }

    #[test]
    fn words_are_those_of_the_tokenizer_or_those_between_blanks() -> Result<()> {
        let folder = tempfile::tempdir().expect("folder");
        let file = folder.path().join("text.txt");
        std::fs::write(&file, "猫 坐在 垫子 上\n").expect("written");
        let files = [file];
        let tokenizer = Tokenizer::train(texts(&files, None), &TokenizerOptions::default())?;
        let words = |words: WordsBy| -> Result<Vec<bool>> {
            let options = CorpusOptions { unit: Unit::Line, max_tokens: 100, words, column: None };
            Ok(Corpus::open(&files, &tokenizer, &options, folder.path(), "train")?.read(0)?.continues)
        };
        // [CLS] 猫 坐 在 垫 子 上 [SEP]
        assert_eq!(words(WordsBy::Blanks)?, [false, false, false, true, false, true, false, false]);
        assert_eq!(words(WordsBy::Pieces)?, [false; 8], "each character is a word of the tokenizer");
        Ok(())
    }

    #[test]
    fn files_without_text_and_of_other_encodings_are_refused() {
        let folder = tempfile::tempdir().expect("folder");
        let file = folder.path().join("text.txt");
        let tokenizer = Tokenizer::train([Ok("a b".to_owned())], &TokenizerOptions::default()).expect("words");
        let options = CorpusOptions { unit: Unit::Line, max_tokens: 9, words: WordsBy::Pieces, column: None };
        let error = |bytes: &[u8]| {
            std::fs::write(&file, bytes).expect("written");
            let files = [file.clone()];
            Corpus::open(&files, &tokenizer, &options, folder.path(), "train").expect_err("refused").to_string()
        };
        assert!(error(b"\n \n").contains("there is no text in"));
        let latin = error(b"fine\nna\xEFve\n");
        assert!(latin.contains("line 2") && latin.contains("iconv"), "{latin}");
    }
}
