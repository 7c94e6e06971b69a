//! Training, validation and test rows.
//!
//! Where the table does not say, a row's place follows from a hash of the seed and its key: the
//! group it belongs to, else its identifier, else the contents of the row. The hash is a number in
//! `[0, 1)`: below `test` is the test split, below `test + val` validation, the rest training. So a
//! row keeps its place whatever rows are added or removed, and equal rows share theirs.
//!
//! Small strata would miss their share by chance. Therefore, within a stratum of n keys, sorted by
//! hash, the two cuts are moved as little as needed for the counts to lie within 10 % (or half a
//! key) of the share asked for. Adding rows can then move only keys whose hash lies next to a cut.

use std::collections::HashMap;

use serde::Serialize;

use crate::error::{DataError, Result};
use crate::table::{Table, Value};

/// The three uses of rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Split {
    /// To learn from.
    Train,
    /// To choose by: early stopping, hyper-parameters.
    Val,
    /// To report.
    Test,
}

impl Split {
    /// Reads the name of a split: `train`/`training`, `val`/`valid`/`validation`/`dev`,
    /// `test`/`testing`/`eval`, in any case.
    pub fn from_name(name: &str) -> Option<Split> {
        match name.trim().to_lowercase().as_str() {
            "train" | "training" => Some(Split::Train),
            "val" | "valid" | "validation" | "dev" => Some(Split::Val),
            "test" | "testing" | "eval" => Some(Split::Test),
            _ => None,
        }
    }

    /// The name used in reports: `train`, `val` or `test`.
    pub fn name(self) -> &'static str {
        match self {
            Split::Train => "train",
            Split::Val => "val",
            Split::Test => "test",
        }
    }
}

pub(crate) fn is_split_name(name: &str) -> bool {
    Split::from_name(name).is_some()
}

/// How to split.
#[derive(Clone, Debug)]
pub struct SplitOptions {
    /// A column with the name of each row's split. Where it names no validation rows, `val` of the
    /// training rows become them. It need not name any training rows: a table may be there to be
    /// evaluated only.
    pub column: Option<String>,
    /// Rows with the same value here stay together.
    pub group: Option<String>,
    /// Each value here gets its share of every split; usually the label.
    pub stratify: Option<String>,
    /// The column that identifies rows, so that edits elsewhere in a row do not move it.
    pub identifier: Option<String>,
    /// Share of validation rows (default 0.1).
    pub val: f64,
    /// Share of test rows (default 0.1).
    pub test: f64,
    /// Another seed gives another split (default 0).
    pub seed: u64,
}

impl Default for SplitOptions {
    fn default() -> Self {
        SplitOptions { column: None, group: None, stratify: None, identifier: None, val: 0.1, test: 0.1, seed: 0 }
    }
}

/// The rows of each split, in the table's order.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Splits {
    /// Training rows.
    pub train: Vec<u64>,
    /// Validation rows.
    pub val: Vec<u64>,
    /// Test rows.
    pub test: Vec<u64>,
    /// Rows whose split column is empty; they are not used.
    pub unassigned: Vec<u64>,
    /// How the split was made, for the report.
    pub how: String,
}

impl Splits {
    /// The rows of one split.
    pub fn rows(&self, split: Split) -> &[u64] {
        match split {
            Split::Train => &self.train,
            Split::Val => &self.val,
            Split::Test => &self.test,
        }
    }

    /// One line with the sizes.
    pub fn summary(&self) -> String {
        let unused = match self.unassigned.len() {
            0 => String::new(),
            n => format!(", {n} rows without a split are not used"),
        };
        format!("{} train, {} val, {} test ({}){unused}", self.train.len(), self.val.len(), self.test.len(), self.how)
    }

    fn push(&mut self, row: u64, split: Split) {
        match split {
            Split::Train => self.train.push(row),
            Split::Val => self.val.push(row),
            Split::Test => self.test.push(row),
        }
    }

    /// Splits a table.
    ///
    /// # Errors
    /// Unknown columns, shares that leave no training rows, names that are no split.
    pub fn of(table: &Table, options: &SplitOptions) -> Result<Splits> {
        let share = |name: &str, share: f64| {
            if (0.0..1.0).contains(&share) {
                return Ok(());
            }
            Err(DataError::Options(format!("the share of {name} rows is {share}; expected at least 0 and less than 1")))
        };
        share("validation", options.val)?;
        share("test", options.test)?;
        if options.val + options.test >= 1.0 {
            return Err(DataError::Options(format!(
                "val {} and test {} leave no training rows; their sum must be less than 1",
                options.val, options.test
            )));
        }
        let place = Place::new(table, options)?;
        match &options.column {
            Some(column) => by_column(table, column, options, &place),
            None => {
                let rows: Vec<u64> = (0..table.len()).collect();
                let mut splits = by_hash(table, &rows, options.val, options.test, &place)?;
                splits.how = place.how(options);
                Ok(splits)
            }
        }
    }
}

/// The columns that decide a row's key and stratum.
struct Place {
    seed: u64,
    key: Option<usize>,
    stratum: Option<usize>,
}

impl Place {
    fn new(table: &Table, options: &SplitOptions) -> Result<Place> {
        let index = |name: &Option<String>| name.as_deref().map(|name| table.column_index(name)).transpose();
        let group = index(&options.group)?;
        Ok(Place { seed: options.seed, key: group.or(index(&options.identifier)?), stratum: index(&options.stratify)? })
    }

    fn how(&self, options: &SplitOptions) -> String {
        let mut how = format!("by hash with seed {}", options.seed);
        if let Some(group) = &options.group {
            how += &format!(", grouped by {group:?}");
        }
        if let Some(column) = &options.stratify {
            how += &format!(", stratified by {column:?}");
        }
        how
    }

    /// The hash of a row's key. A row without a group is its own group.
    fn hash(&self, values: &[Value]) -> u64 {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&self.seed.to_le_bytes());
        match self.key.map(|key| &values[key]) {
            Some(value) if !value.is_missing() => value.hash_into(&mut hasher),
            // The label is left out: correcting it must not move the row.
            _ => values
                .iter()
                .enumerate()
                .filter(|(i, _)| Some(*i) != self.stratum)
                .for_each(|(_, value)| value.hash_into(&mut hasher)),
        }
        let bytes = hasher.finalize();
        u64::from_le_bytes(bytes.as_bytes()[..8].try_into().unwrap_or_default())
    }
}

fn by_column(table: &Table, column: &str, options: &SplitOptions, place: &Place) -> Result<Splits> {
    let at = table.column_index(column)?;
    let mut splits = Splits { how: format!("given by column {column:?}"), ..Default::default() };
    for row in 0..table.len() {
        let value = &table.row(row)?.values[at];
        let Some(name) = value.as_text() else {
            splits.unassigned.push(row);
            continue;
        };
        let split = Split::from_name(&name).ok_or_else(|| {
            DataError::cell(row, column, format!("{name:?} is not a split; expected train, val or test"))
        })?;
        splits.push(row, split);
    }
    if splits.val.is_empty() && options.val > 0.0 && !splits.train.is_empty() {
        let carved = by_hash(table, &splits.train, options.val, 0.0, place)?;
        splits.how += &format!("; validation rows taken from its training rows {}", place.how(options));
        splits.train = carved.train;
        splits.val = carved.val;
    }
    Ok(splits)
}

/// One key's rows as the cutting sees them.
struct Key {
    stratum: u64,
    rows: u32,
}

fn by_hash(table: &Table, rows: &[u64], val: f64, test: f64, place: &Place) -> Result<Splits> {
    let mut hashes = Vec::with_capacity(rows.len());
    let mut keys: HashMap<u64, Key> = HashMap::new();
    for &row in rows {
        let values = table.row(row)?.values;
        let hash = place.hash(&values);
        let stratum = place.stratum.map_or(0, |at| {
            let mut hasher = blake3::Hasher::new();
            values[at].hash_into(&mut hasher);
            u64::from_le_bytes(hasher.finalize().as_bytes()[..8].try_into().unwrap_or_default())
        });
        hashes.push(hash);
        // A group with several labels counts for the label of its first row.
        keys.entry(hash).or_insert(Key { stratum, rows: 0 }).rows += 1;
    }
    let mut strata: HashMap<u64, Vec<u64>> = HashMap::new();
    for (hash, key) in &keys {
        strata.entry(key.stratum).or_default().push(*hash);
    }
    // Strata too small to be cut are cut together; labels that nearly all differ are no strata.
    if strata.len() * 5 > keys.len() {
        strata = HashMap::from([(0, keys.keys().copied().collect())]);
    } else {
        let small: Vec<u64> = strata.iter().filter(|(_, k)| k.len() < 3).map(|(s, _)| *s).collect();
        let pooled: Vec<u64> = small.iter().filter_map(|s| strata.remove(s)).flatten().collect();
        if !pooled.is_empty() {
            strata.insert(0, pooled);
        }
    }
    let mut split_of: HashMap<u64, Split> = HashMap::with_capacity(keys.len());
    for mut stratum in strata.into_values() {
        stratum.sort_unstable();
        let (test_end, val_end) = cuts(&stratum, val, test);
        for (i, hash) in stratum.into_iter().enumerate() {
            let split = match i {
                i if i < test_end => Split::Test,
                i if i < val_end => Split::Val,
                _ => Split::Train,
            };
            split_of.insert(hash, split);
        }
    }
    let mut splits = Splits::default();
    for (row, hash) in rows.iter().zip(&hashes) {
        splits.push(*row, split_of[hash]);
    }
    Ok(splits)
}

/// How many of the sorted hashes are test, and how many test or validation.
fn cuts(sorted: &[u64], val: f64, test: f64) -> (usize, usize) {
    let n = sorted.len() as f64;
    let smallest = [val, test].into_iter().filter(|share| *share > 0.0).fold(1.0, f64::min);
    let slack = (0.1 * smallest * n).max(0.5);
    let cut = |share: f64| -> usize {
        if share <= 0.0 {
            return 0;
        }
        let natural = sorted.partition_point(|hash| (*hash as f64 / u64::MAX as f64) < share);
        let quota = share * n;
        let low = (quota - slack).ceil().max(0.0) as usize;
        let high = (quota + slack).floor().max(0.0) as usize;
        natural.clamp(low.min(high), high)
    };
    let test_end = cut(test);
    (test_end, cut(test + val).max(test_end))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::TableOptions;
    use std::collections::BTreeMap;

    fn table(rows: usize, cells: impl Fn(usize) -> String) -> Table {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("t.csv");
        let mut csv = String::from("id,text,group,label\n");
        (0..rows).for_each(|i| csv += &format!("{}\n", cells(i)));
        std::fs::write(&path, csv).expect("write");
        // The open handle outlives the folder on Unix; keep the folder elsewhere.
        std::mem::forget(folder);
        Table::open(&path, &TableOptions::default()).expect("table")
    }

    fn plain(i: usize) -> String {
        format!("{i},text {i},g{},{}", i / 7, ["a", "b", "c", "c", "c"][i % 5])
    }

    fn place_of(splits: &Splits) -> BTreeMap<u64, Split> {
        [Split::Train, Split::Val, Split::Test]
            .into_iter()
            .flat_map(|split| splits.rows(split).iter().map(move |row| (*row, split)))
            .collect()
    }

    fn stratified() -> SplitOptions {
        SplitOptions { stratify: Some("label".into()), ..Default::default() }
    }

    #[test]
    fn every_row_is_in_one_split_and_the_shares_hold_per_class() {
        let table = table(1000, plain);
        let splits = Splits::of(&table, &stratified()).expect("splits");
        assert_eq!(place_of(&splits).len(), 1000);
        for (class, size) in [("a", 200.0), ("b", 200.0), ("c", 600.0)] {
            let of_class = |rows: &[u64]| {
                rows.iter().filter(|row| table.row(**row).expect("row").values[3] == Value::Text(class.into())).count()
                    as f64
            };
            assert!((of_class(&splits.test) / size - 0.1).abs() <= 0.0101, "{class}");
            assert!((of_class(&splits.val) / size - 0.1).abs() <= 0.0201, "{class}");
        }
    }

    #[test]
    fn small_classes_get_their_share() {
        let table = table(40, |i| format!("{i},text {i},g,{}", ["a", "b"][i % 2]));
        let splits = Splits::of(&table, &stratified()).expect("splits");
        assert_eq!((splits.train.len(), splits.val.len(), splits.test.len()), (32, 4, 4));
    }

    #[test]
    fn added_rows_hardly_move_the_old_ones() {
        for options in [stratified(), SplitOptions::default()] {
            let before = place_of(&Splits::of(&table(500, plain), &options).expect("before"));
            let after = place_of(&Splits::of(&table(600, plain), &options).expect("after"));
            let moved = before.iter().filter(|(row, split)| after[row] != **split).count();
            assert!(moved <= 10, "{moved} of 500 moved");
        }
    }

    #[test]
    fn seeds_change_the_split_and_order_does_not() {
        let of = |seed, table: &Table| Splits::of(table, &SplitOptions { seed, ..Default::default() }).expect("splits");
        let forward = table(300, plain);
        let backward = table(300, |i| plain(299 - i));
        assert_ne!(of(0, &forward).test, of(1, &forward).test);
        let mut mirrored: Vec<u64> = of(0, &backward).test.iter().map(|row| 299 - row).collect();
        mirrored.sort_unstable();
        assert_eq!(of(0, &forward).test, mirrored);
    }

    #[test]
    fn groups_stay_together() {
        let options = SplitOptions { group: Some("group".into()), ..stratified() };
        let splits = Splits::of(&table(700, plain), &options).expect("splits");
        let mut of_group: BTreeMap<u64, Split> = BTreeMap::new();
        for (row, split) in place_of(&splits) {
            assert_eq!(*of_group.entry(row / 7).or_insert(split), split, "row {row}");
        }
        assert!(splits.test.len() > 35 && splits.val.len() > 35, "{}", splits.summary());
    }

    #[test]
    fn duplicates_share_their_split() {
        let table = table(400, |i| format!("1,text {},g,{}", i / 2, ["a", "b"][i % 2]));
        let place = place_of(&Splits::of(&table, &stratified()).expect("splits"));
        assert!((0..200).all(|i| place[&(2 * i)] == place[&(2 * i + 1)]));
    }

    #[test]
    fn a_given_column_is_followed_and_validation_is_carved() {
        let table = table(200, |i| format!("{i},text {i},{},a", ["training", "Test"][usize::from(i >= 150)]));
        let options = SplitOptions { column: Some("group".into()), val: 0.2, ..Default::default() };
        let splits = Splits::of(&table, &options).expect("splits");
        assert_eq!(splits.test, (150..200).collect::<Vec<u64>>());
        assert_eq!(splits.train.len() + splits.val.len(), 150);
        assert!((25..=35).contains(&splits.val.len()), "{}", splits.summary());
        let error = Splits::of(&table, &SplitOptions { column: Some("label".into()), ..options });
        assert!(matches!(error, Err(DataError::Cell { row: 1, .. })));
    }

    #[test]
    fn a_column_may_name_test_rows_only() {
        let table = table(20, |i| format!("{i},text {i},{},a", ["test", "val"][usize::from(i >= 15)]));
        let options = SplitOptions { column: Some("group".into()), ..Default::default() };
        let splits = Splits::of(&table, &options).expect("splits");
        assert_eq!((splits.train.len(), splits.val.len(), splits.test.len()), (0, 5, 15));
    }

    #[test]
    fn impossible_shares_are_refused() {
        let table = table(10, plain);
        for (val, test) in [(0.5, 0.5), (-0.1, 0.1), (0.1, f64::NAN)] {
            let options = SplitOptions { val, test, ..Default::default() };
            assert!(matches!(Splits::of(&table, &options), Err(DataError::Options(_))));
        }
    }
}
