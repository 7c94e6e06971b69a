//! One pass over the rows: counts, examples, and hashes of contents.

use std::collections::{BTreeMap, HashMap};

use super::repeats::{Contents, short};
use super::{ColumnReport, LabelReport, Range, Repeat};
use crate::error::Result;
use crate::features::read_features;
use crate::schema::{ColumnSchema, ColumnType, Schema};
use crate::segment::Problem;
use crate::statistics::Moments;
use crate::table::{Table, Value};

/// Examples kept of a column.
const EXAMPLES: usize = 3;
/// Characters of an example.
const EXAMPLE_CHARACTERS: usize = 60;
/// Unusable cells listed.
pub(super) const LISTED: usize = 10;
/// Different labels counted by name; beyond them a label is a quantity or free text.
const MAX_CLASSES: usize = 10_000;
/// Classes listed.
const LISTED_CLASSES: usize = 50;
/// More different numbers than this are a quantity.
const MAX_NUMERIC_CLASSES: usize = 20;

/// What the pass has gathered.
pub(super) struct Scan {
    columns: Vec<ColumnScan>,
    labels: BTreeMap<String, u64>,
    labelled: u64,
    label_numbers: Spread,
    /// Hash of all inputs, and row.
    rows: Vec<(u64, u64)>,
    /// Hash of the label by row, for conflicts; empty without a label.
    label_hashes: Vec<u64>,
}

#[derive(Default)]
struct ColumnScan {
    missing: u64,
    examples: Vec<String>,
    characters: Spread,
    numbers: Spread,
    unusable: Vec<Problem>,
    unusable_count: u64,
    /// Hash of the text, and row, of text columns.
    texts: Vec<(u64, u64)>,
}

/// Range and mean, one number at a time.
#[derive(Clone, Copy, Default)]
pub(super) struct Spread {
    moments: Moments,
    min: f64,
    max: f64,
}

impl Spread {
    pub(super) fn add(&mut self, number: f64) {
        if self.moments.count() == 0 {
            (self.min, self.max) = (number, number);
        }
        (self.min, self.max) = (self.min.min(number), self.max.max(number));
        self.moments.add(number);
    }

    pub(super) fn range(&self) -> Option<Range> {
        (self.moments.count() > 0).then(|| Range { min: self.min, mean: self.moments.mean(), max: self.max })
    }
}

pub(super) fn scan(table: &Table, schema: &Schema) -> Result<Scan> {
    let mut scan = Scan {
        columns: schema.columns.iter().map(|_| ColumnScan::default()).collect(),
        labels: BTreeMap::new(),
        labelled: 0,
        label_numbers: Spread::default(),
        rows: Vec::new(),
        label_hashes: Vec::new(),
    };
    let mut dims: HashMap<usize, usize> = HashMap::new();
    for row in table.rows() {
        let row = row?;
        let mut inputs = blake3::Hasher::new();
        let mut any_input = false;
        for (at, (column, value)) in schema.columns.iter().zip(&row.values).enumerate() {
            if column.kind.is_input() {
                value.hash_into(&mut inputs);
                any_input |= !value.is_missing();
            }
            let seen = &mut scan.columns[at];
            if value.is_missing() {
                seen.missing += 1;
                if column.kind == ColumnType::Label {
                    scan.label_hashes.push(0);
                }
                continue;
            }
            seen.example(value);
            let problem = match column.kind {
                _ if column.precomputed => feature_problem(value, table, dims.entry(at).or_insert(0)),
                ColumnType::Text => {
                    seen.text(value, row.index);
                    None
                }
                ColumnType::Number => match value.as_number() {
                    Some(number) => {
                        seen.numbers.add(number);
                        None
                    }
                    None => Some(format!("{:?} is not a number", shortened(value))),
                },
                ColumnType::Label => {
                    scan.labelled += 1;
                    if let Some(number) = value.as_number() {
                        scan.label_numbers.add(number);
                    }
                    let text = value.as_text().unwrap_or_default().trim().to_string();
                    scan.label_hashes.push(short(&blake3::hash(text.as_bytes())));
                    if scan.labels.len() < MAX_CLASSES || scan.labels.contains_key(&text) {
                        *scan.labels.entry(text).or_insert(0) += 1;
                    }
                    None
                }
                _ => None,
            };
            if let Some(message) = problem {
                let seen = &mut scan.columns[at];
                seen.unusable_count += 1;
                if seen.unusable.len() < LISTED {
                    seen.unusable.push(Problem { row: row.index, column: column.name.clone(), message });
                }
            }
        }
        if any_input {
            scan.rows.push((short(&inputs.finalize()), row.index));
        }
    }
    Ok(scan)
}

fn feature_problem(value: &Value, table: &Table, dim: &mut usize) -> Option<String> {
    match read_features(value, table.folder()) {
        Err(problem) => Some(problem),
        Ok(matrix) if *dim != 0 && matrix.dim != *dim => {
            Some(format!("{} numbers were found, the rows before have {dim}", matrix.dim))
        }
        Ok(matrix) => {
            *dim = matrix.dim;
            None
        }
    }
}

fn shortened(value: &Value) -> String {
    let text = value.as_text().unwrap_or_default();
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    match text.char_indices().nth(EXAMPLE_CHARACTERS) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

impl ColumnScan {
    fn example(&mut self, value: &Value) {
        if self.examples.len() < EXAMPLES {
            let example = shortened(value);
            if !self.examples.contains(&example) {
                self.examples.push(example);
            }
        }
    }

    fn text(&mut self, value: &Value, row: u64) {
        let text = value.as_text().unwrap_or_default();
        self.characters.add(text.chars().count() as f64);
        // The same words in other capitals or spacing are the same text to a model.
        let words = text.to_lowercase().split_whitespace().collect::<Vec<_>>().join(" ");
        self.texts.push((short(&blake3::hash(words.as_bytes())), row));
    }
}

impl Scan {
    pub(super) fn column_reports(&self, schema: &Schema) -> Vec<ColumnReport> {
        let report = |(column, seen): (&ColumnSchema, &ColumnScan)| ColumnReport {
            name: column.name.clone(),
            kind: column.kind,
            reason: column.reason.clone(),
            missing: seen.missing,
            examples: seen.examples.clone(),
            characters: seen.characters.range(),
            numbers: seen.numbers.range(),
            media: None,
            unusable: seen.unusable_count,
            unusable_examples: seen.unusable.clone(),
        };
        schema.columns.iter().zip(&self.columns).map(report).collect()
    }

    pub(super) fn label_report(&self, schema: &Schema) -> Option<LabelReport> {
        let column = schema.label()?.name.clone();
        let numeric = self.label_numbers.moments.count() == self.labelled && self.labelled > 0;
        let fractional = self.labels.keys().any(|label| label.parse::<f64>().is_ok_and(|x| x.fract() != 0.0));
        let quantity = numeric && (fractional || self.labels.len() > MAX_NUMERIC_CLASSES);
        let mut counts: Vec<(String, u64)> = self.labels.iter().map(|(l, n)| (l.clone(), *n)).collect();
        counts.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
        let largest = counts.first().map_or(0, |(_, count)| *count);
        counts.truncate(if quantity { 0 } else { LISTED_CLASSES });
        Some(LabelReport {
            column,
            labelled: self.labelled,
            distinct: self.labels.len() as u64,
            counts,
            numbers: self.label_numbers.range().filter(|_| numeric),
            majority: largest as f64 / self.labelled.max(1) as f64,
        })
    }

    /// Whole rows and texts, to be searched for repeats.
    pub(super) fn contents(&self, schema: &Schema) -> Vec<Contents> {
        let mut contents = vec![Contents::new("all inputs of a row".into(), None, self.rows.clone())];
        // With a single text column, equal rows are equal texts already.
        let inputs = schema.inputs().count();
        for (column, seen) in schema.columns.iter().zip(&self.columns) {
            if !seen.texts.is_empty() && inputs > 1 {
                contents.push(Contents::new(
                    format!("text of column {:?}", column.name),
                    Some(column.name.clone()),
                    seen.texts.clone(),
                ));
            }
        }
        contents
    }

    /// Equal inputs with different labels.
    pub(super) fn conflicts(&self) -> Option<Repeat> {
        if self.label_hashes.is_empty() {
            return None;
        }
        let label = |row: u64| self.label_hashes.get(row as usize).copied().unwrap_or(0);
        Contents::new(String::new(), None, self.rows.clone()).repeat(
            "equal inputs with different labels".into(),
            |group| {
                let mut labels = group.iter().map(|(_, row)| label(*row)).filter(|label| *label != 0);
                let first = labels.next();
                labels.any(|label| Some(label) != first)
            },
        )
    }
}
