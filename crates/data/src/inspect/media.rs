//! Decoding the media of a table, in parallel.

use rayon::prelude::*;
use sensorium_media::{Limits, audio, image, spool, video};

use super::repeats::{Contents, short};
use super::scan::{LISTED, Spread};
use super::{InspectOptions, MediaReport};
use crate::error::Result;
use crate::media_ref::{MediaRef, parse_media};
use crate::prepare::Preparer;
use crate::schema::{ColumnType, Schema};
use crate::segment::Problem;
use crate::table::{Table, Value};

/// What was found in one column.
pub(super) struct Checked {
    pub(super) report: MediaReport,
    name: String,
    hashes: Vec<(u64, u64)>,
}

impl Checked {
    pub(super) fn contents(&self) -> Option<Contents> {
        let what = format!("media of column {:?}", self.name);
        (!self.hashes.is_empty()).then(|| Contents::new(what, Some(self.name.clone()), self.hashes.clone()))
    }
}

/// What one file holds.
struct File {
    hash: u64,
    shorter_side: Option<f64>,
    seconds: Option<f64>,
}

/// The outcome of one row: nothing there, its files, or what is wrong.
enum Outcome {
    Missing,
    Files(Vec<File>),
    Problem(String),
}

/// Decodes the media columns; the result names each by its position.
pub(super) fn check(table: &Table, schema: &Schema, options: &InspectOptions) -> Result<Vec<(usize, Checked)>> {
    let mut all = Vec::new();
    for (at, column) in schema.columns.iter().enumerate() {
        if !column.kind.is_media() || column.precomputed {
            continue;
        }
        let rows = table.sample_rows(options.max_media_rows);
        let outcomes: Vec<Outcome> = rows
            .par_iter()
            .map(|row| {
                let value = table.row(*row)?.values.swap_remove(at);
                Ok(look(&value, column.kind, table, &options.limits))
            })
            .collect::<Result<_>>()?;
        all.push((at, sum_up(&column.name, &rows, outcomes)));
    }
    Ok(all)
}

fn sum_up(name: &str, rows: &[u64], outcomes: Vec<Outcome>) -> Checked {
    let mut checked = Checked {
        report: MediaReport {
            checked_rows: rows.len() as u64,
            present_rows: 0,
            files: 0,
            unreadable: 0,
            unreadable_examples: Vec::new(),
            shorter_side: None,
            seconds: None,
        },
        name: name.to_string(),
        hashes: Vec::new(),
    };
    let (mut sides, mut seconds) = (Spread::default(), Spread::default());
    let report = &mut checked.report;
    for (&row, outcome) in rows.iter().zip(outcomes) {
        match outcome {
            Outcome::Missing => continue,
            Outcome::Problem(message) => {
                report.unreadable += 1;
                if report.unreadable_examples.len() < LISTED {
                    report.unreadable_examples.push(Problem { row, column: name.to_string(), message });
                }
            }
            Outcome::Files(files) => {
                report.files += files.len() as u64;
                for file in files {
                    checked.hashes.push((file.hash, row));
                    file.shorter_side.into_iter().for_each(|side| sides.add(side));
                    file.seconds.into_iter().for_each(|length| seconds.add(length));
                }
            }
        }
        report.present_rows += 1;
    }
    report.shorter_side = sides.range();
    report.seconds = seconds.range();
    checked
}

fn look(value: &Value, kind: ColumnType, table: &Table, limits: &Limits) -> Outcome {
    if value.is_missing() {
        return Outcome::Missing;
    }
    let files = parse_media(value, table.folder())
        .and_then(|media| media.iter().map(|media| open(media, kind, limits)).collect());
    match files {
        Ok(files) => Outcome::Files(files),
        Err(problem) => Outcome::Problem(problem),
    }
}

fn open(media: &MediaRef, kind: ColumnType, limits: &Limits) -> std::result::Result<File, String> {
    let explain = |error: sensorium_media::MediaError| error.to_string();
    let label = match media {
        MediaRef::File(path) => path.display().to_string(),
        MediaRef::Bytes(_) => "data URI".to_string(),
    };
    let preparer = Preparer { limits: limits.clone(), cache: None };
    let bytes = preparer.bytes(media)?;
    let mut file = File { hash: short(&blake3::hash(&bytes)), shorter_side: None, seconds: None };
    match kind {
        ColumnType::Image => {
            let picture = image::decode(&bytes, &label, limits).map_err(explain)?;
            file.shorter_side = Some(picture.width.min(picture.height) as f64);
        }
        ColumnType::Audio => {
            file.seconds = Some(audio::decode(&bytes, &label, limits).map_err(explain)?.seconds());
        }
        _ => {
            let copy;
            let path = match media {
                MediaRef::File(path) => path.as_path(),
                MediaRef::Bytes(bytes) => {
                    copy = spool(bytes, &label, limits).map_err(explain)?;
                    copy.as_ref()
                }
            };
            let facts = video::probe(path, limits).map_err(explain)?;
            file.shorter_side = Some(facts.width.min(facts.height) as f64);
            file.seconds = Some(facts.duration_s);
        }
    }
    Ok(file)
}
