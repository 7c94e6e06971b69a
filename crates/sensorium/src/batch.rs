//! From the data's packs to the model's inputs.

use crate::Result;
use sensorium_data::{ColumnPack, Pack, SegmentKind, Target};
use sensorium_engine::{Offsets, Tensor};
use sensorium_model::{ColumnInput, Inputs, Values};

/// One batch, ready for the model.
#[derive(Debug, Clone)]
pub struct Batch {
    /// The segments of all samples.
    pub inputs: Inputs,
    /// The target of each sample.
    pub targets: Vec<Option<Target>>,
    /// The table row of each sample.
    pub rows: Vec<u64>,
}

impl Batch {
    /// Takes a pack over; pixels and frames are copied once.
    ///
    /// # Errors
    /// When the pack's parts do not fit each other.
    pub fn new(pack: Pack) -> Result<Self> {
        let samples = pack.len();
        let columns = pack.columns.into_iter().map(column).collect::<Result<_>>()?;
        Ok(Self { inputs: Inputs { samples, columns }, targets: pack.targets, rows: pack.rows })
    }
}

fn column(pack: ColumnPack) -> Result<ColumnInput> {
    let (segments, total) = (pack.segments(), pack.total());
    let tensor = |dims: &[usize]| Tensor::from_slice(dims, &pack.values);
    let values = match pack.kind {
        SegmentKind::Tokens => Values::Tokens(pack.ids),
        SegmentKind::Category => Values::Categories(pack.ids),
        SegmentKind::Image => Values::Images(tensor(&[segments, 3, pack.height, pack.width])?),
        SegmentKind::Video => Values::Video(tensor(&[total, 3, pack.height, pack.width])?),
        SegmentKind::Audio => Values::Audio(tensor(&[total, pack.dim])?),
        SegmentKind::Features => Values::Features(tensor(&[total, pack.dim])?),
        SegmentKind::Number => Values::Numbers(tensor(&[segments, 1])?),
    };
    let offsets = Offsets::new(pack.offsets.iter().map(|o| *o as usize).collect::<Vec<_>>())?;
    Ok(ColumnInput::new(pack.sample_of, offsets, values)?)
}
