//! Samples laid end to end, without padding.

use crate::label::Target;
use crate::plan::DataPlan;
use crate::segment::{Modality, Sample, Segment, SegmentKind};

/// All segments of one column in a batch.
#[derive(Clone, Debug, PartialEq)]
pub struct ColumnPack {
    /// Position in [`DataPlan::columns`].
    pub column: usize,
    /// What the column is about.
    pub modality: Modality,
    /// The form of its segments.
    pub kind: SegmentKind,
    /// The sample of each segment, ascending: `[segments]`.
    pub sample_of: Vec<u32>,
    /// Where each segment starts, and where the last one ends, in tokens, frames or rows:
    /// `[segments + 1]`. Pictures, numbers and categories have length 1.
    pub offsets: Vec<u32>,
    /// Tokens or categories: `[total]`; otherwise empty.
    pub ids: Vec<u32>,
    /// Pictures `[segments, 3, height, width]`, videos `[frames, 3, height, width]`, sound
    /// `[frames, dim]`, features `[rows, dim]`, numbers `[segments]`; otherwise empty.
    pub values: Vec<f32>,
    /// Rows of pixels of pictures and videos; otherwise 0.
    pub height: usize,
    /// Pixels per row of pictures and videos; otherwise 0.
    pub width: usize,
    /// Mel bands of sound, numbers per row of features; otherwise 0.
    pub dim: usize,
}

impl ColumnPack {
    /// Number of segments.
    pub fn segments(&self) -> usize {
        self.sample_of.len()
    }

    /// Tokens, frames or rows of all segments together.
    pub fn total(&self) -> usize {
        self.offsets.last().copied().unwrap_or(0) as usize
    }

    fn new(column: usize, modality: Modality, kind: SegmentKind) -> Self {
        ColumnPack {
            column,
            modality,
            kind,
            sample_of: Vec::new(),
            offsets: vec![0],
            ids: Vec::new(),
            values: Vec::new(),
            height: 0,
            width: 0,
            dim: 0,
        }
    }

    fn push(&mut self, sample: u32, segment: Segment) {
        let end = self.total() as u32 + segment.len() as u32;
        self.sample_of.push(sample);
        self.offsets.push(end);
        match segment {
            Segment::Tokens(ids) => self.ids.extend(ids),
            Segment::Category(id) => self.ids.push(id),
            Segment::Number(number) => self.values.push(number),
            Segment::Image { height, width, data } | Segment::Video { height, width, data, .. } => {
                (self.height, self.width) = (height, width);
                self.append(data);
            }
            Segment::Audio { mels: dim, data, .. } | Segment::Features { dim, data, .. } => {
                self.dim = dim;
                self.append(data);
            }
        }
    }

    fn append(&mut self, mut data: Vec<f32>) {
        if self.values.is_empty() {
            self.values = data;
        } else {
            self.values.append(&mut data);
        }
    }
}

/// A batch.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Pack {
    /// The table row of each sample: `[samples]`.
    pub rows: Vec<u64>,
    /// One entry for every column of the plan, in its order; a column that no sample has is there
    /// with no segments.
    pub columns: Vec<ColumnPack>,
    /// The target of each sample: `[samples]`.
    pub targets: Vec<Option<Target>>,
    /// Rows that were left out because nothing of them could be used.
    pub skipped: u32,
    /// Texts that were longer than `max_tokens`.
    pub truncated: u32,
}

impl Pack {
    /// Lays samples end to end in their order.
    pub fn new(plan: &DataPlan, samples: Vec<Sample>) -> Pack {
        let mut pack = Pack {
            columns: plan
                .columns
                .iter()
                .enumerate()
                .map(|(i, column)| ColumnPack::new(i, column.modality, column.segment_kind()))
                .collect(),
            ..Default::default()
        };
        for (i, sample) in samples.into_iter().enumerate() {
            pack.rows.push(sample.row);
            pack.targets.push(sample.target);
            pack.truncated += sample.truncated;
            for (column, segment) in sample.segments {
                pack.columns[column].push(i as u32, segment);
            }
        }
        pack
    }

    /// Number of samples.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// True where every row of the batch was left out.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Tokens of all texts.
    pub fn text_tokens(&self) -> usize {
        let texts = self.columns.iter().filter(|column| column.kind == SegmentKind::Tokens);
        texts.map(ColumnPack::total).sum()
    }

    /// For each sample, whether it has the column: `[samples]`.
    pub fn present(&self, column: usize) -> Vec<bool> {
        let mut present = vec![false; self.len()];
        self.columns[column].sample_of.iter().for_each(|sample| present[*sample as usize] = true);
        present
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::ColumnPlan;
    use crate::processor::{CategoryProcessor, FeaturesProcessor, NumberProcessor, Processor, TextProcessor};
    use proptest::prelude::*;

    fn plan() -> DataPlan {
        let column = |name: &str, modality, processor| ColumnPlan {
            name: name.into(),
            source: name.into(),
            modality,
            processor,
            sound_track: false,
        };
        let features = FeaturesProcessor { dim: 2, max_rows: 9, mean: vec![0.0; 2], std: vec![1.0; 2] };
        DataPlan {
            version: 1,
            columns: vec![
                column("text", Modality::Text, Processor::Text(TextProcessor::default())),
                column("sound", Modality::Audio, Processor::Features(features)),
                column("size", Modality::Tabular, Processor::Number(NumberProcessor { mean: 0.0, std: 1.0 })),
                column("colour", Modality::Tabular, Processor::Category(CategoryProcessor { vocabulary: vec![] })),
            ],
            label: None,
            limits: Default::default(),
            tokenizer: None,
        }
    }

    fn segment() -> impl Strategy<Value = (usize, Segment)> {
        prop_oneof![
            proptest::collection::vec(any::<u32>(), 1..9).prop_map(|ids| (0, Segment::Tokens(ids))),
            (1usize..5).prop_map(|rows| {
                let data = (0..rows * 2).map(|x| x as f32).collect();
                (1, Segment::Features { rows, dim: 2, data })
            }),
            any::<u16>().prop_map(|x| (2, Segment::Number(f32::from(x)))),
            any::<u32>().prop_map(|id| (3, Segment::Category(id))),
        ]
    }

    /// The segments of one sample, cut out of a pack again.
    fn unpack(pack: &Pack, sample: u32) -> Vec<(usize, Segment)> {
        let mut segments = Vec::new();
        for column in &pack.columns {
            for s in (0..column.segments()).filter(|s| column.sample_of[*s] == sample) {
                let (start, end) = (column.offsets[s] as usize, column.offsets[s + 1] as usize);
                segments.push((
                    column.column,
                    match column.kind {
                        SegmentKind::Tokens => Segment::Tokens(column.ids[start..end].to_vec()),
                        SegmentKind::Category => Segment::Category(column.ids[start]),
                        SegmentKind::Number => Segment::Number(column.values[start]),
                        _ => Segment::Features {
                            rows: end - start,
                            dim: column.dim,
                            data: column.values[start * column.dim..end * column.dim].to_vec(),
                        },
                    },
                ));
            }
        }
        segments
    }

    proptest! {
        #[test]
        fn nothing_is_lost_or_padded(
            samples in proptest::collection::vec(proptest::collection::vec(segment(), 0..6), 0..12),
        ) {
            let samples: Vec<Sample> = samples
                .into_iter()
                .enumerate()
                .map(|(row, mut segments)| {
                    // The plan's order, as the sampler gives it.
                    segments.sort_by_key(|(column, _)| *column);
                    Sample { row: row as u64, segments, ..Default::default() }
                })
                .collect();
            let pack = Pack::new(&plan(), samples.clone());
            prop_assert_eq!(pack.len(), samples.len());
            for (i, sample) in samples.iter().enumerate() {
                prop_assert_eq!(&unpack(&pack, i as u32), &sample.segments);
                for column in 0..4 {
                    let has = sample.segments.iter().any(|(at, _)| *at == column);
                    prop_assert_eq!(pack.present(column)[i], has);
                }
            }
            let tokens: usize = samples.iter().flat_map(|s| &s.segments).map(|(column, segment)| {
                if *column == 0 { segment.len() } else { 0 }
            }).sum();
            prop_assert_eq!(pack.text_tokens(), tokens);
        }
    }
}
