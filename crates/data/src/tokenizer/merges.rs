//! Byte-pair merges: the most frequent pair of neighbours becomes one symbol, again and again.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, HashSet};

/// A word as symbols, and how often it occurs.
pub(super) struct Word {
    pub(super) symbols: Vec<u32>,
    pub(super) count: u64,
}

type Pair = (u32, u32);

/// Learns up to `limit` merges of pairs that occur at least `min_count` times.
///
/// `join` names the symbol of a merged pair; two pairs may give the same symbol. Returns the merges
/// in order. Equally frequent pairs are taken by the numbers of their symbols, so that the result
/// depends on the words alone.
pub(super) fn learn(
    words: &mut [Word],
    limit: usize,
    min_count: u64,
    mut join: impl FnMut(u32, u32) -> u32,
) -> Vec<Pair> {
    let mut counts: HashMap<Pair, u64> = HashMap::new();
    let mut places: HashMap<Pair, HashSet<u32>> = HashMap::new();
    for (at, word) in words.iter().enumerate() {
        for pair in word.symbols.windows(2) {
            let pair = (pair[0], pair[1]);
            *counts.entry(pair).or_insert(0) += word.count;
            places.entry(pair).or_default().insert(at as u32);
        }
    }
    let mut queue: BinaryHeap<(u64, Reverse<Pair>)> =
        counts.iter().map(|(pair, count)| (*count, Reverse(*pair))).collect();
    let mut merges = Vec::new();
    let mut new_symbols = HashSet::new();
    while new_symbols.len() < limit {
        let Some((count, Reverse(pair))) = queue.pop() else { break };
        let current = counts.get(&pair).copied().unwrap_or(0);
        if current != count {
            // Counts only fall between visits; a pair that still occurs waits its new turn.
            if current >= min_count {
                queue.push((current, Reverse(pair)));
            }
            continue;
        }
        if count < min_count {
            break;
        }
        let symbol = join(pair.0, pair.1);
        merges.push(pair);
        new_symbols.insert(symbol);
        let mut risen = HashSet::new();
        for at in places.remove(&pair).unwrap_or_default() {
            let word = &mut words[at as usize];
            let merged = merge(&word.symbols, pair, symbol);
            for old in word.symbols.windows(2) {
                if let Some(count) = counts.get_mut(&(old[0], old[1])) {
                    *count -= word.count;
                }
            }
            for new in merged.windows(2) {
                let new = (new[0], new[1]);
                *counts.entry(new).or_insert(0) += word.count;
                places.entry(new).or_default().insert(at);
                if new.0 == symbol || new.1 == symbol {
                    risen.insert(new);
                }
            }
            word.symbols = merged;
        }
        counts.remove(&pair);
        queue.extend(risen.into_iter().map(|pair| (counts[&pair], Reverse(pair))));
    }
    merges
}

fn merge(symbols: &[u32], pair: Pair, symbol: u32) -> Vec<u32> {
    let mut merged = Vec::with_capacity(symbols.len());
    let mut i = 0;
    while i < symbols.len() {
        if i + 1 < symbols.len() && (symbols[i], symbols[i + 1]) == pair {
            merged.push(symbol);
            i += 2;
        } else {
            merged.push(symbols[i]);
            i += 1;
        }
    }
    merged
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Counts everything anew before each merge.
    fn learn_slowly(words: &mut [Word], limit: usize, min_count: u64) -> Vec<Pair> {
        let mut merges = Vec::new();
        while merges.len() < limit {
            let mut counts: HashMap<Pair, u64> = HashMap::new();
            for word in words.iter() {
                for pair in word.symbols.windows(2) {
                    *counts.entry((pair[0], pair[1])).or_insert(0) += word.count;
                }
            }
            let best = counts.into_iter().max_by_key(|(pair, count)| (*count, Reverse(*pair)));
            let Some((pair, _)) = best.filter(|(_, count)| *count >= min_count) else { break };
            let symbol = 100 + merges.len() as u32;
            merges.push(pair);
            for word in words.iter_mut() {
                word.symbols = merge(&word.symbols, pair, symbol);
            }
        }
        merges
    }

    proptest! {
        #[test]
        fn incremental_counts_agree_with_counting_anew(
            texts in proptest::collection::vec((proptest::collection::vec(0u32..4, 1..12), 1u64..5), 1..12),
        ) {
            let words = || -> Vec<Word> {
                texts.iter().map(|(symbols, count)| Word { symbols: symbols.clone(), count: *count }).collect()
            };
            let mut next = 99;
            let fast = learn(&mut words(), 20, 2, |_, _| { next += 1; next });
            prop_assert_eq!(fast, learn_slowly(&mut words(), 20, 2));
        }
    }
}
