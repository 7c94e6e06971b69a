//! A batch as the model sees it.

use crate::{ModelError, Result};
use sensorium_engine::{Offsets, Random, Tensor};

/// The values of one column's segments, laid end to end.
#[derive(Debug, Clone)]
pub enum Values {
    /// Token numbers `[tokens]`.
    Tokens(Vec<u32>),
    /// Pictures `[segments, 3, height, width]`.
    Images(Tensor),
    /// Log-mel frames `[frames, mels]`, or samples `[samples, 1]`.
    Audio(Tensor),
    /// Video frames `[frames, 3, height, width]`.
    Video(Tensor),
    /// Precomputed features `[rows, dim]`.
    Features(Tensor),
    /// Numbers `[segments, 1]`.
    Numbers(Tensor),
    /// Category numbers `[segments]`.
    Categories(Vec<u32>),
}

impl Values {
    /// What kind of values these are, in words.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Tokens(_) => "tokens",
            Self::Images(_) => "images",
            Self::Audio(_) => "log-mel frames",
            Self::Video(_) => "video frames",
            Self::Features(_) => "features",
            Self::Numbers(_) => "numbers",
            Self::Categories(_) => "categories",
        }
    }

    /// Rows along the offsets.
    fn rows(&self) -> usize {
        match self {
            Self::Tokens(ids) | Self::Categories(ids) => ids.len(),
            Self::Images(t) | Self::Audio(t) | Self::Video(t) | Self::Features(t) | Self::Numbers(t) => t.dims()[0],
        }
    }

    /// The rows of some segments, in order.
    fn select(&self, offsets: &Offsets, keep: &[usize]) -> Self {
        let ids = |ids: &[u32]| keep.iter().flat_map(|s| ids[offsets.range(*s)].iter().copied()).collect();
        let rows = |t: &Tensor| {
            let row = t.len() / t.dims()[0].max(1);
            let data: Vec<f32> = keep
                .iter()
                .flat_map(|s| {
                    let r = offsets.range(*s);
                    t.data()[r.start * row..r.end * row].iter().copied()
                })
                .collect();
            let mut dims = t.dims().to_vec();
            dims[0] = keep.iter().map(|s| offsets.length(*s)).sum();
            Tensor::from_slice(&dims, &data).expect("whole rows fill the shape")
        };
        match self {
            Self::Tokens(v) => Self::Tokens(ids(v)),
            Self::Categories(v) => Self::Categories(ids(v)),
            Self::Images(t) => Self::Images(rows(t)),
            Self::Audio(t) => Self::Audio(rows(t)),
            Self::Video(t) => Self::Video(rows(t)),
            Self::Features(t) => Self::Features(rows(t)),
            Self::Numbers(t) => Self::Numbers(rows(t)),
        }
    }
}

/// One column of a batch: its segments and whose they are.
#[derive(Debug, Clone)]
pub struct ColumnInput {
    sample_of: Vec<u32>,
    offsets: Offsets,
    values: Values,
}

impl ColumnInput {
    /// A column from its segments' samples (ascending), offsets and values.
    ///
    /// # Errors
    /// When the three do not fit each other.
    pub fn new(sample_of: Vec<u32>, offsets: Offsets, values: Values) -> Result<Self> {
        let problem = if sample_of.len() != offsets.segments() {
            format!("{} segments but samples for {}", offsets.segments(), sample_of.len())
        } else if offsets.total() != values.rows() {
            format!("offsets end at {} but there are {} {}", offsets.total(), values.rows(), values.kind())
        } else if !sample_of.is_sorted() {
            "segments are not in the order of their samples".to_owned()
        } else {
            return Ok(Self { sample_of, offsets, values });
        };
        Err(ModelError::config("input column", problem))
    }

    /// The sample of each segment, ascending: `[segments]`.
    pub fn sample_of(&self) -> &[u32] {
        &self.sample_of
    }

    /// Where the segments begin and end.
    pub fn offsets(&self) -> &Offsets {
        &self.offsets
    }

    /// The values.
    pub fn values(&self) -> &Values {
        &self.values
    }

    /// Whether no sample of the batch has the column. Its values then may have
    /// any width: nobody has seen one.
    pub fn is_empty(&self) -> bool {
        self.offsets.total() == 0
    }

    /// Some of the segments, by their numbers in ascending order.
    pub fn select(&self, segments: &[usize]) -> Self {
        if segments.len() == self.sample_of.len() {
            return self.clone();
        }
        Self {
            sample_of: segments.iter().map(|s| self.sample_of[*s]).collect(),
            values: self.values.select(&self.offsets, segments),
            offsets: Offsets::from_lengths(segments.iter().map(|s| self.offsets.length(*s))),
        }
    }

    fn retain(&self, keep: impl Fn(u32) -> bool) -> Self {
        let kept: Vec<usize> = (0..self.sample_of.len()).filter(|s| keep(self.sample_of[*s])).collect();
        self.select(&kept)
    }
}

/// A batch: the number of samples and one [`ColumnInput`] for each column of
/// the model, in its order. A missing modality is a segment that is not there.
#[derive(Debug, Clone)]
pub struct Inputs {
    /// How many samples.
    pub samples: usize,
    /// The columns.
    pub columns: Vec<ColumnInput>,
}

impl Inputs {
    /// The batch with only the columns for which `keep` holds.
    pub fn subset(&self, keep: impl Fn(usize) -> bool) -> Self {
        let columns = self.columns.iter().enumerate().map(|(c, x)| x.retain(|_| keep(c))).collect();
        Self { samples: self.samples, columns }
    }

    /// Which columns each sample has: `[samples][columns]`.
    pub fn presence(&self) -> Vec<Vec<bool>> {
        let mut present = vec![vec![false; self.columns.len()]; self.samples];
        for (c, column) in self.columns.iter().enumerate() {
            for s in &column.sample_of {
                present[*s as usize][c] = true;
            }
        }
        present
    }

    /// Of the several segments that a sample has in a column (the captions of a
    /// picture) one by chance.
    pub fn one_of_each(&self, random: Random) -> Self {
        let random = random.purpose("one of each");
        let columns = self.columns.iter().enumerate().map(|(c, column)| {
            let mut kept = Vec::new();
            for group in column.sample_of.chunk_by(|a, b| a == b) {
                let first = kept.last().map_or(0, |(next, _)| *next);
                let chosen = random.at_step(c as u64).below(u64::from(group[0]), group.len() as u64);
                kept.push((first + group.len(), first + chosen as usize));
            }
            column.select(&kept.into_iter().map(|(_, chosen)| chosen).collect::<Vec<_>>())
        });
        Self { samples: self.samples, columns: columns.collect() }
    }

    /// Modality dropout: leaves out each present column of each sample with
    /// the given probability, but never all of a sample's columns (Neverova
    /// et al., "ModDrop", 2016). What is left out costs nothing.
    pub fn drop_modalities(&self, probability: f64, random: Random) -> Self {
        let mut kept = self.presence();
        for (s, sample) in kept.iter_mut().enumerate() {
            let present: Vec<usize> = (0..sample.len()).filter(|c| sample[*c]).collect();
            if present.len() < 2 {
                continue;
            }
            for &c in &present {
                let place = (s * self.columns.len() + c) as u64;
                sample[c] = f64::from(random.uniform(place)) >= probability;
            }
            if !sample.contains(&true) {
                let spared = random.purpose("spared").below(s as u64, present.len() as u64);
                sample[present[spared as usize]] = true;
            }
        }
        let columns = self.columns.iter().enumerate().map(|(c, x)| x.retain(|s| kept[s as usize][c])).collect();
        Self { samples: self.samples, columns }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn two_columns() -> Result<Inputs> {
        let text =
            ColumnInput::new(vec![0, 1, 2], Offsets::from_lengths([2, 1, 3]), Values::Tokens(vec![1, 2, 3, 4, 5, 6]))?;
        let numbers = Tensor::from_slice(&[2, 1], &[0.5, 0.7])?;
        let number = ColumnInput::new(vec![0, 2], Offsets::from_lengths([1, 1]), Values::Numbers(numbers))?;
        Ok(Inputs { samples: 3, columns: vec![text, number] })
    }

    #[test]
    fn modality_dropout_leaves_each_sample_something() -> Result<()> {
        let inputs = two_columns()?;
        let mut dropped_any = false;
        for step in 0..50 {
            let kept = inputs.drop_modalities(0.9, Random::new(1).at_step(step));
            let presence = kept.presence();
            assert!(presence.iter().all(|s| s.contains(&true)));
            assert!(presence[1][0], "the only column of a sample stays");
            dropped_any |= presence != inputs.presence();
        }
        assert!(dropped_any);
        Ok(())
    }

    #[test]
    fn a_subset_keeps_the_right_rows() -> Result<()> {
        let inputs = two_columns()?;
        let kept = inputs.columns[0].retain(|s| s != 1);
        assert!(matches!(kept.values(), Values::Tokens(ids) if ids == &[1, 2, 4, 5, 6]));
        assert_eq!(kept.offsets().bounds(), [0, 2, 5]);
        assert_eq!(inputs.subset(|c| c == 1).columns[0].sample_of().len(), 0);
        Ok(())
    }

    #[test]
    fn each_of_several_segments_is_chosen_at_times() -> Result<()> {
        let ids = (0..6).collect();
        let captions = ColumnInput::new(vec![0, 0, 0, 2], Offsets::from_lengths([1, 2, 1, 2]), Values::Tokens(ids))?;
        let inputs = Inputs { samples: 3, columns: vec![captions] };
        let mut seen = std::collections::BTreeSet::new();
        for step in 0..40 {
            let one = &inputs.one_of_each(Random::new(3).at_step(step)).columns[0];
            assert_eq!(one.sample_of(), [0, 2]);
            let Values::Tokens(ids) = one.values() else { panic!("tokens stay tokens") };
            assert_eq!(&ids[ids.len() - 2..], [4, 5]);
            seen.insert(ids[..ids.len() - 2].to_vec());
        }
        assert_eq!(seen.into_iter().collect::<Vec<_>>(), [vec![0], vec![1, 2], vec![3]]);
        Ok(())
    }

    #[test]
    fn parts_that_do_not_fit_are_refused() {
        assert!(ColumnInput::new(vec![0], Offsets::from_lengths([2]), Values::Tokens(vec![1])).is_err());
        assert!(ColumnInput::new(vec![0, 1], Offsets::from_lengths([1]), Values::Tokens(vec![1])).is_err());
        assert!(ColumnInput::new(vec![1, 0], Offsets::from_lengths([1, 1]), Values::Tokens(vec![1, 2])).is_err());
    }
}
