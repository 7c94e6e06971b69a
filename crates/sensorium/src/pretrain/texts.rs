//! The texts of a table as what a language model learns from.

use super::source::{Batch, TextBatch};
use crate::Result;
use sensorium_data::{Loader, Pack, Table, Tokenizer, WordsBy};
use sensorium_engine::Offsets;
use sensorium_model::{ColumnInput, Values};
use sensorium_train::{Batches, BoxError, Source};
use std::sync::Arc;

/// What the words of a table's texts are.
pub(super) struct Words {
    table: Arc<Table>,
    /// The place of each column in the table.
    at: Vec<usize>,
    tokenizer: Tokenizer,
    /// None where tokens are hidden one by one.
    by: Option<WordsBy>,
}

impl Words {
    /// Of the columns of a plan, all of them texts.
    ///
    /// # Errors
    /// When the table lacks one.
    pub(super) fn new(
        table: &Arc<Table>,
        columns: &[String],
        tokenizer: &Tokenizer,
        by: Option<WordsBy>,
    ) -> Result<Self> {
        let at = columns.iter().map(|c| Ok(table.column_index(c)?)).collect::<Result<_>>()?;
        Ok(Self { table: Arc::clone(table), at, tokenizer: tokenizer.clone(), by })
    }

    /// The texts of these columns, those of all of them one after another; None
    /// where there are none. `rows` are the table's of the samples.
    ///
    /// # Errors
    /// When a row cannot be read.
    pub(super) fn batch(&self, columns: &[ColumnInput], rows: &[u64]) -> Result<Option<TextBatch>> {
        let (mut ids, mut continues, mut lengths) = (Vec::new(), Vec::new(), Vec::new());
        for (column, at) in columns.iter().zip(&self.at) {
            let Values::Tokens(tokens) = column.values() else { continue };
            for (segment, range) in column.offsets().ranges().enumerate() {
                let text = &tokens[range];
                continues.extend(match self.by {
                    None => vec![false; text.len()],
                    Some(by) => self.continues(text, rows[column.sample_of()[segment] as usize], *at, by)?,
                });
                ids.extend(text);
                lengths.push(text.len());
            }
        }
        let segments = Offsets::from_lengths(lengths);
        Ok((!ids.is_empty()).then_some(TextBatch { ids, continues, segments }))
    }

    /// Of each token of a text of a cell whether it belongs to the word of the
    /// one before it. A text that was cut is known by its beginning.
    fn continues(&self, text: &[u32], row: u64, at: usize, by: WordsBy) -> Result<Vec<bool>> {
        let value = self.table.row(row)?.values.swap_remove(at);
        let mut longest: Vec<(u32, bool)> = Vec::new();
        let mut same = 0;
        for whole in value.texts() {
            let tokens = self.tokenizer.encode_words(&whole, by)?;
            let shared = tokens.iter().zip(text).take_while(|((id, _), own)| id == *own).count();
            if shared > same || longest.is_empty() {
                (same, longest) = (shared, tokens);
            }
        }
        // What follows the cut is the token of the end.
        Ok((0..text.len()).map(|i| i < same && longest[i].1).collect())
    }
}

/// The texts of all columns of a loader's plan; an epoch is a pass over the
/// rows.
pub(super) struct RowTexts {
    pub loader: Loader,
    pub words: Arc<Words>,
}

impl RowTexts {
    pub(super) fn read(&self, pack: Pack) -> Result<Option<TextBatch>> {
        let batch = crate::Batch::new(pack)?;
        self.words.batch(&batch.inputs.columns, &batch.rows)
    }
}

impl Source<Batch> for RowTexts {
    fn batches(&self, epoch: u64) -> usize {
        self.loader.batches(epoch)
    }

    fn epoch(&self, epoch: u64, start_batch: usize) -> Batches<'_, Batch> {
        let batch =
            |pack| -> std::result::Result<Batch, BoxError> { Ok(Batch { text: self.read(pack)?, ..Batch::default() }) };
        Box::new(self.loader.epoch(epoch, start_batch).map(move |pack| batch(pack?)))
    }
}
