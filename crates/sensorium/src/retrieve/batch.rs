//! Batches that know what is the same in two of their rows.

use crate::batch::Batch;
use crate::{Error, Result};
use sensorium_data::{DataPlan, Loader, Pack, Table, Value};
use sensorium_model::{ColumnInput, Values};
use sensorium_train::{Batches, BoxError, Source};
use std::sync::Arc;

/// A batch, and for each column a number of each sample's content.
#[derive(Debug, Clone)]
pub struct PairBatch {
    /// The segments of all samples.
    pub batch: Batch,
    /// `[columns][samples]`: equal numbers are equal cells of the table.
    pub cells: Vec<Vec<u64>>,
}

/// What a plan's columns hold in the table.
#[derive(Debug, Clone)]
pub(crate) struct Cells {
    table: Arc<Table>,
    /// The place of each column of the plan among the table's.
    at: Vec<usize>,
}

impl Cells {
    pub(crate) fn new(table: &Arc<Table>, plan: &DataPlan) -> Result<Self> {
        let at = plan.columns.iter().map(|c| Ok(table.column_index(&c.source)?)).collect::<Result<_>>()?;
        Ok(Self { table: Arc::clone(table), at })
    }

    /// A pack with the numbers of its cells.
    pub(crate) fn batch(&self, pack: Pack) -> Result<PairBatch> {
        let mut cells = vec![Vec::with_capacity(pack.len()); self.at.len()];
        for row in &pack.rows {
            let values = self.table.row(*row)?.values;
            for (column, at) in cells.iter_mut().zip(&self.at) {
                column.push(number(&values[*at]));
            }
        }
        Ok(PairBatch { batch: Batch::new(pack)?, cells })
    }
}

fn number(value: &Value) -> u64 {
    let mut hasher = blake3::Hasher::new();
    value.hash_into(&mut hasher);
    first_eight(&hasher)
}

fn first_eight(hasher: &blake3::Hasher) -> u64 {
    let mut bytes = [0; 8];
    bytes.copy_from_slice(&hasher.finalize().as_bytes()[..8]);
    u64::from_le_bytes(bytes)
}

/// A number for each segment of a column: equal for equal texts, and for equal
/// parts of equal cells.
pub(super) fn segment_contents(input: &ColumnInput, cells: &[u64]) -> Vec<u64> {
    let mut place = 0;
    let mut last = None;
    let of = |(segment, sample): (usize, &u32)| {
        place = if last == Some(*sample) { place + 1 } else { 0 };
        last = Some(*sample);
        let mut hasher = blake3::Hasher::new();
        match input.values() {
            Values::Tokens(ids) => {
                for id in &ids[input.offsets().range(segment)] {
                    hasher.update(&id.to_le_bytes());
                }
            }
            _ => {
                hasher.update(&cells[*sample as usize].to_le_bytes());
                hasher.update(&(place as u64).to_le_bytes());
            }
        }
        first_eight(&hasher)
    };
    input.sample_of().iter().enumerate().map(of).collect()
}

/// A loader as the training loop's source.
pub(super) struct PairRows<'a> {
    pub loader: &'a Loader,
    pub cells: &'a Cells,
}

impl Source<PairBatch> for PairRows<'_> {
    fn batches(&self, epoch: u64) -> usize {
        self.loader.batches(epoch)
    }

    fn epoch(&self, epoch: u64, start_batch: usize) -> Batches<'_, PairBatch> {
        let batches = self.loader.epoch(epoch, start_batch);
        let ready = |pack: sensorium_data::Result<Pack>| -> Result<PairBatch> { self.cells.batch(pack?) };
        Box::new(batches.map(move |pack| ready(pack).map_err(|e: Error| BoxError::from(e))))
    }
}
