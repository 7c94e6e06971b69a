//! Finding equal contents by their hashes, in 16 bytes per row.

use std::collections::BTreeSet;

use super::Repeat;
use crate::split::Split;

/// Groups listed in a report.
const LISTED_GROUPS: usize = 5;
/// Rows listed of a group.
const LISTED_ROWS: usize = 5;

/// The hashes of one kind of content.
pub(super) struct Contents {
    what: String,
    column: Option<String>,
    /// Hash and row, sorted.
    hashes: Vec<(u64, u64)>,
}

/// The first eight bytes of a hash.
pub(super) fn short(hash: &blake3::Hash) -> u64 {
    u64::from_le_bytes(hash.as_bytes()[..8].try_into().unwrap_or_default())
}

impl Contents {
    pub(super) fn new(what: String, column: Option<String>, mut hashes: Vec<(u64, u64)>) -> Self {
        hashes.sort_unstable();
        hashes.dedup();
        Contents { what, column, hashes }
    }

    /// Rows with the same content, for each content of several rows.
    fn groups(&self) -> impl Iterator<Item = &[(u64, u64)]> {
        self.hashes.chunk_by(|a, b| a.0 == b.0).filter(|group| group.len() > 1)
    }

    pub(super) fn duplicates(&self) -> Option<Repeat> {
        self.repeat(self.what.clone(), |_| true)
    }

    /// Contents found in more than one split.
    pub(super) fn leakage(&self, split_of: &[Option<Split>]) -> Option<Repeat> {
        let split = |row: u64| split_of.get(row as usize).copied().flatten();
        let mut pairs = BTreeSet::new();
        let repeat = self.repeat(String::new(), |group| {
            let splits: BTreeSet<Split> = group.iter().filter_map(|(_, row)| split(*row)).collect();
            let leaks = splits.len() > 1;
            if leaks {
                pairs.insert(splits.iter().map(|split| split.name()).collect::<Vec<_>>().join(" and "));
            }
            leaks
        })?;
        let where_found = pairs.into_iter().collect::<Vec<_>>().join(", ");
        Some(Repeat { what: format!("{} in {where_found}", self.what), ..repeat })
    }

    /// The groups that pass, summed up.
    pub(super) fn repeat(&self, what: String, mut counts: impl FnMut(&[(u64, u64)]) -> bool) -> Option<Repeat> {
        let mut repeat = Repeat { what, column: self.column.clone(), groups: 0, rows: 0, examples: Vec::new() };
        for group in self.groups() {
            if !counts(group) {
                continue;
            }
            repeat.groups += 1;
            repeat.rows += group.len() as u64;
            repeat.examples.push(group.iter().take(LISTED_ROWS).map(|(_, row)| row + 1).collect());
            // The smallest rows are the ones to show, whatever their hashes.
            if repeat.examples.len() > 4 * LISTED_GROUPS {
                repeat.examples.sort();
                repeat.examples.truncate(LISTED_GROUPS);
            }
        }
        repeat.examples.sort();
        repeat.examples.truncate(LISTED_GROUPS);
        (repeat.groups > 0).then_some(repeat)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repeats_are_counted_and_leaks_are_told_apart() {
        let contents = Contents::new("text".into(), None, vec![(9, 0), (5, 1), (9, 2), (5, 3), (9, 4), (7, 5)]);
        let duplicates = contents.duplicates().expect("duplicates");
        assert_eq!((duplicates.groups, duplicates.rows), (2, 5));
        assert_eq!(duplicates.examples, [vec![1, 3, 5], vec![2, 4]]);
        let (train, test) = (Some(Split::Train), Some(Split::Test));
        let leakage = contents.leakage(&[train, test, train, test, None, None]);
        assert_eq!(leakage, None);
        let leakage = contents.leakage(&[train, test, test, test, None, None]).expect("leak");
        assert_eq!((leakage.groups, leakage.rows), (1, 3));
        assert!(leakage.what.contains("train and test"), "{}", leakage.what);
    }
}
