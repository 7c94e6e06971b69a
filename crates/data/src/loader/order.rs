//! Which rows share a batch, and in what order the batches come.

use std::ops::Range;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// How large batches are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BatchSize {
    /// So many samples.
    Samples(usize),
    /// As many samples as fit into so many tokens, at least one.
    Tokens(usize),
}

/// The batches of one epoch.
#[derive(Debug)]
pub(super) struct EpochOrder {
    rows: Arc<Vec<u64>>,
    /// Positions in `rows`.
    order: Vec<u32>,
    /// Each batch's part of `order`.
    batches: Vec<Range<u32>>,
}

impl EpochOrder {
    /// Orders `rows`: shuffled by (seed, epoch) if given; then, within windows of `window` batches,
    /// sorted by cost, cut into batches, and the batches shuffled again.
    pub(super) fn new(
        rows: Arc<Vec<u64>>,
        costs: &[u32],
        size: BatchSize,
        shuffle: Option<(u64, u64)>,
        window: usize,
    ) -> Self {
        let mut order: Vec<u32> = (0..rows.len() as u32).collect();
        let mut draws = shuffle.map(|(seed, epoch)| Draws::new(seed, epoch));
        if let Some(draws) = &mut draws {
            draws.shuffle(&mut order);
        }
        let mut batches = Vec::new();
        if window > 1 && !costs.is_empty() {
            let mut start = 0;
            while start < order.len() {
                let end = window_end(&order, costs, size, start, window);
                // Equal costs keep their shuffled order: the sort is stable.
                order[start..end].sort_by_key(|at| costs[*at as usize]);
                let first = batches.len();
                cut(&order, costs, size, start..end, &mut batches);
                if let Some(draws) = &mut draws {
                    draws.shuffle(&mut batches[first..]);
                }
                start = end;
            }
        } else {
            let all = 0..order.len();
            cut(&order, costs, size, all, &mut batches);
        }
        EpochOrder { rows, order, batches }
    }

    pub(super) fn batches(&self) -> usize {
        self.batches.len()
    }

    pub(super) fn len(&self) -> usize {
        self.order.len()
    }

    /// The table rows of a batch.
    pub(super) fn batch(&self, batch: usize) -> impl ExactSizeIterator<Item = u64> + '_ {
        let Range { start, end } = self.batches[batch];
        self.order[start as usize..end as usize].iter().map(|at| self.rows[*at as usize])
    }
}

fn window_end(order: &[u32], costs: &[u32], size: BatchSize, start: usize, window: usize) -> usize {
    match size {
        BatchSize::Samples(samples) => order.len().min(start + samples.saturating_mul(window)),
        BatchSize::Tokens(tokens) => {
            let budget = tokens as u64 * window as u64;
            let mut sum = 0;
            let fits = |at: &&u32| {
                sum += u64::from(costs[**at as usize]);
                sum <= budget
            };
            start + order[start..].iter().take_while(fits).count().max(1)
        }
    }
}

fn cut(order: &[u32], costs: &[u32], size: BatchSize, part: Range<usize>, batches: &mut Vec<Range<u32>>) {
    match size {
        BatchSize::Samples(samples) => {
            for start in part.clone().step_by(samples) {
                batches.push(start as u32..part.end.min(start + samples) as u32);
            }
        }
        BatchSize::Tokens(tokens) => {
            let (mut start, mut sum) = (part.start, 0u64);
            for at in part.clone() {
                let cost = u64::from(costs[order[at] as usize]);
                if at > start && sum + cost > tokens as u64 {
                    batches.push(start as u32..at as u32);
                    (start, sum) = (at, 0);
                }
                sum += cost;
            }
            if start < part.end {
                batches.push(start as u32..part.end as u32);
            }
        }
    }
}

/// Random numbers of one epoch: SplitMix64 from a hash of its seed and number.
struct Draws(u64);

impl Draws {
    fn new(seed: u64, epoch: u64) -> Self {
        let mut hasher = blake3::Hasher::new();
        hasher.update(b"epoch order");
        hasher.update(&seed.to_le_bytes());
        hasher.update(&epoch.to_le_bytes());
        let bytes = hasher.finalize();
        Draws(u64::from_le_bytes(bytes.as_bytes()[..8].try_into().unwrap_or_default()))
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// Fisher and Yates.
    fn shuffle<T>(&mut self, items: &mut [T]) {
        for i in (1..items.len()).rev() {
            let j = ((u128::from(self.next()) * (i as u128 + 1)) >> 64) as usize;
            items.swap(i, j);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn batches(order: &EpochOrder) -> Vec<Vec<u64>> {
        (0..order.batches()).map(|batch| order.batch(batch).collect()).collect()
    }

    proptest! {
        #[test]
        fn every_row_comes_once_and_budgets_hold(
            costs in proptest::collection::vec(1u32..50, 0..200),
            by_tokens in any::<bool>(),
            size in 1usize..60,
            shuffle in proptest::option::of((any::<u64>(), any::<u64>())),
            window in 0usize..5,
        ) {
            let rows: Vec<u64> = (0..costs.len() as u64).map(|row| row * 3).collect();
            let size = if by_tokens { BatchSize::Tokens(size) } else { BatchSize::Samples(size) };
            let order = EpochOrder::new(Arc::new(rows.clone()), &costs, size, shuffle, window);
            let batches = batches(&order);
            let mut all: Vec<u64> = batches.iter().flatten().copied().collect();
            if shuffle.is_none() && window < 2 {
                prop_assert_eq!(&all, &rows);
            }
            all.sort_unstable();
            prop_assert_eq!(all, rows);
            for batch in &batches {
                let sum: u64 = batch.iter().map(|row| u64::from(costs[*row as usize / 3])).sum();
                match size {
                    BatchSize::Samples(n) => prop_assert!((1..=n).contains(&batch.len())),
                    BatchSize::Tokens(n) => prop_assert!(batch.len() == 1 || sum <= n as u64),
                }
            }
        }
    }

    #[test]
    fn orders_depend_on_seed_and_epoch_alone() {
        let rows = Arc::new((0..100).collect::<Vec<u64>>());
        let of =
            |seed, epoch| batches(&EpochOrder::new(rows.clone(), &[], BatchSize::Samples(7), Some((seed, epoch)), 0));
        assert_eq!(of(1, 2), of(1, 2));
        assert_ne!(of(1, 2), of(1, 3));
        assert_ne!(of(1, 2), of(2, 2));
        assert_eq!(of(1, 2).len(), 15);
    }

    #[test]
    fn windows_gather_similar_lengths() {
        let rows = Arc::new((0..1000).collect::<Vec<u64>>());
        let costs: Vec<u32> = (0..1000).map(|i| (i * 7919) % 100 + 1).collect();
        let spread = |window| {
            let order = EpochOrder::new(rows.clone(), &costs, BatchSize::Samples(10), Some((0, 0)), window);
            let spread_of = |batch: &Vec<u64>| {
                let costs = batch.iter().map(|row| costs[*row as usize]);
                costs.clone().max().unwrap_or(0) - costs.min().unwrap_or(0)
            };
            batches(&order).iter().map(spread_of).sum::<u32>()
        };
        assert!(spread(20) * 4 < spread(0), "{} {}", spread(20), spread(0));
    }
}
