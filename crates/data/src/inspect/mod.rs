//! What a person should know about a table before training on it.
//!
//! [`inspect`] reads every row once, decodes the media it names (a sample of it where there is
//! much), and reports types, missing values, unreadable media, duplicates, class balance and what
//! the splits share. [`Inspection`] serialises for machines and [renders](Inspection::render) for
//! people.

mod media;
mod render;
mod repeats;
mod scan;
mod suggest;

use std::path::PathBuf;

use sensorium_media::Limits;
use serde::Serialize;

use crate::error::Result;
use crate::schema::{ColumnType, Schema, SchemaOptions};
use crate::segment::Problem;
use crate::split::{Split, SplitOptions, Splits};
use crate::table::Table;

/// What to look at and how closely.
#[derive(Clone, Debug)]
pub struct InspectOptions {
    /// What is known of the columns.
    pub schema: SchemaOptions,
    /// How the rows would be split. The column that names the splits, the label to stratify by and
    /// the identifier are filled in from the schema where they are not given.
    pub split: SplitOptions,
    /// Rows of each media column that are decoded; more are sampled at even distances (default
    /// 2000).
    pub max_media_rows: u64,
    /// Limits on media files.
    pub limits: Limits,
}

impl Default for InspectOptions {
    fn default() -> Self {
        InspectOptions {
            schema: SchemaOptions::default(),
            split: SplitOptions::default(),
            max_media_rows: 2000,
            limits: Limits::default(),
        }
    }
}

/// The report.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Inspection {
    /// The table.
    pub table: PathBuf,
    /// Its rows.
    pub rows: u64,
    /// How the file was read.
    pub notes: Vec<String>,
    /// Each column.
    pub columns: Vec<ColumnReport>,
    /// The label, if there is one.
    pub label: Option<LabelReport>,
    /// Sizes of the splits.
    pub splits: SplitReport,
    /// Contents that occur more than once.
    pub duplicates: Vec<Repeat>,
    /// Equal inputs with different labels.
    pub conflicts: Option<Repeat>,
    /// Contents that occur in more than one split.
    pub leakage: Vec<Repeat>,
    /// What to do next.
    pub suggestions: Vec<String>,
}

/// One column.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ColumnReport {
    /// Its name.
    pub name: String,
    /// Its type.
    #[serde(rename = "type")]
    pub kind: ColumnType,
    /// Why.
    pub reason: String,
    /// Rows without a value.
    pub missing: u64,
    /// The first different values, shortened.
    pub examples: Vec<String>,
    /// Lengths in characters, of text columns.
    pub characters: Option<Range>,
    /// Values, of number columns.
    pub numbers: Option<Range>,
    /// Media, of image, audio and video columns.
    pub media: Option<MediaReport>,
    /// Cells that are not what the type asks for; media is in `media`.
    pub unusable: u64,
    /// The first of them.
    pub unusable_examples: Vec<Problem>,
}

/// Smallest, mean and largest of some numbers.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Range {
    /// The smallest.
    pub min: f64,
    /// The mean.
    pub mean: f64,
    /// The largest.
    pub max: f64,
}

/// The media of one column.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct MediaReport {
    /// Rows whose media was decoded.
    pub checked_rows: u64,
    /// Rows that have media.
    pub present_rows: u64,
    /// Files decoded.
    pub files: u64,
    /// Rows with media that cannot be used.
    pub unreadable: u64,
    /// The first of them, with the cause.
    pub unreadable_examples: Vec<Problem>,
    /// Pixels of the shorter side of pictures and videos.
    pub shorter_side: Option<Range>,
    /// Seconds of sounds and videos.
    pub seconds: Option<Range>,
}

/// The label.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct LabelReport {
    /// Its column.
    pub column: String,
    /// Rows with a label.
    pub labelled: u64,
    /// Different labels.
    pub distinct: u64,
    /// The most frequent labels with their rows, at most 50; empty where the label is a quantity.
    pub counts: Vec<(String, u64)>,
    /// Values, where all labels are numbers.
    pub numbers: Option<Range>,
    /// Accuracy of always saying the most frequent label.
    pub majority: f64,
}

/// Sizes of the splits.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SplitReport {
    /// Training rows.
    pub train: u64,
    /// Validation rows.
    pub val: u64,
    /// Test rows.
    pub test: u64,
    /// Rows that are in none.
    pub unassigned: u64,
    /// How the split is made.
    pub how: String,
}

/// Contents that come again.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Repeat {
    /// What is the same, such as `text in column "caption"`.
    pub what: String,
    /// The column it is in; none for whole rows.
    pub column: Option<String>,
    /// Contents that occur again.
    pub groups: u64,
    /// Rows that have them.
    pub rows: u64,
    /// Rows of the first few groups, counted from 1.
    pub examples: Vec<Vec<u64>>,
}

/// Inspects a table.
///
/// # Errors
/// Unknown columns in the options, shares of splits that make no sense, a table that changes while
/// it is read. What is wrong with the rows is in the report.
pub fn inspect(table: &Table, options: &InspectOptions) -> Result<Inspection> {
    let schema = Schema::infer(table, &options.schema)?;
    let scan = scan::scan(table, &schema)?;
    let label = scan.label_report(&schema);
    let splits = Splits::of(table, &split_options(&schema, label.as_ref(), &options.split))?;
    let split_of = split_of(table.len(), &splits);
    let media = media::check(table, &schema, options)?;

    let mut duplicates = Vec::new();
    let mut leakage = Vec::new();
    let contents = scan.contents(&schema).into_iter().chain(media.iter().filter_map(|(_, checked)| checked.contents()));
    for content in contents {
        duplicates.extend(content.duplicates());
        leakage.extend(content.leakage(&split_of));
    }
    let mut columns = scan.column_reports(&schema);
    for (column, checked) in media {
        columns[column].media = Some(checked.report);
    }
    let mut inspection = Inspection {
        table: table.path().to_path_buf(),
        rows: table.len(),
        notes: table.notes().to_vec(),
        columns,
        label,
        splits: SplitReport {
            train: splits.train.len() as u64,
            val: splits.val.len() as u64,
            test: splits.test.len() as u64,
            unassigned: splits.unassigned.len() as u64,
            how: splits.how,
        },
        duplicates,
        conflicts: scan.conflicts(),
        leakage,
        suggestions: Vec::new(),
    };
    inspection.suggestions = suggest::suggestions(&inspection);
    Ok(inspection)
}

/// What the schema knows, where the options do not say.
fn split_options(schema: &Schema, label: Option<&LabelReport>, given: &SplitOptions) -> SplitOptions {
    let classes = label.filter(|label| !label.counts.is_empty());
    SplitOptions {
        column: given.column.clone().or_else(|| schema.split.clone()),
        stratify: given.stratify.clone().or_else(|| classes.map(|label| label.column.clone())),
        identifier: given.identifier.clone().or_else(|| schema.identifier().map(|c| c.name.clone())),
        ..given.clone()
    }
}

/// The split of each row.
fn split_of(rows: u64, splits: &Splits) -> Vec<Option<Split>> {
    let mut split_of = vec![None; rows as usize];
    for split in [Split::Train, Split::Val, Split::Test] {
        splits.rows(split).iter().for_each(|row| split_of[*row as usize] = Some(split));
    }
    split_of
}

#[cfg(test)]
mod tests;
