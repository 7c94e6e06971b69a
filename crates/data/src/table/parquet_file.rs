//! Parquet, converted once into a temporary file of JSON lines.
//!
//! Parquet is laid out by column; training reads rows in random order. The copy costs disk once
//! and makes every later read one seek. Text, numbers, booleans, dates, lists of those and binary
//! cells are kept; binary cells that are not text, and the `{bytes, path}` pairs by which image and
//! audio data sets are often published, become data URIs.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::record::{Field, Row};
use serde_json::{Map, Value as Json};
use tempfile::TempPath;

use crate::error::{DataError, Result};

/// Writes every row as a line of JSON.
pub(super) fn to_json_lines(path: &Path, file: File, notes: &mut Vec<String>) -> Result<TempPath> {
    let broken = |row: Option<u64>, error: &dyn std::fmt::Display| DataError::Parquet {
        path: path.to_path_buf(),
        problem: match row {
            None => error.to_string(),
            Some(row) => format!("row {row}: {error}"),
        },
    };
    let reader = SerializedFileReader::new(file).map_err(|error| broken(None, &error))?;
    let rows = reader.metadata().file_metadata().num_rows();
    let copy =
        tempfile::NamedTempFile::new().map_err(|source| DataError::io("create a temporary copy of", path, source))?;
    let write_error = |source| DataError::io("write a temporary copy of", path, source);
    let mut writer = BufWriter::new(copy.as_file());
    let iter = reader.get_row_iter(None).map_err(|error| broken(None, &error))?;
    let mut written = 0u64;
    for row in iter {
        let row = row.map_err(|error| broken(Some(written + 1), &error))?;
        serde_json::to_writer(&mut writer, &Json::Object(row_to_json(&row)))
            .map_err(|error| write_error(error.into()))?;
        writer.write_all(b"\n").map_err(write_error)?;
        written += 1;
    }
    writer.flush().map_err(write_error)?;
    drop(writer);
    if i64::try_from(written) != Ok(rows) {
        return Err(broken(None, &format!("its footer promises {rows} rows, {written} are there")));
    }
    notes.push(format!("Parquet: {written} rows read through a converted temporary copy"));
    Ok(copy.into_temp_path())
}

fn row_to_json(row: &Row) -> Map<String, Json> {
    row.get_column_iter().map(|(name, field)| (name.clone(), field_to_json(field))).collect()
}

fn field_to_json(field: &Field) -> Json {
    match field {
        Field::Null => Json::Null,
        Field::Bool(value) => Json::from(*value),
        Field::Byte(number) => Json::from(*number),
        Field::Short(number) => Json::from(*number),
        Field::Int(number) => Json::from(*number),
        Field::Long(number) => Json::from(*number),
        Field::UByte(number) => Json::from(*number),
        Field::UShort(number) => Json::from(*number),
        Field::UInt(number) => Json::from(*number),
        Field::ULong(number) => Json::from(*number),
        // Numbers that are not finite have no JSON and are missing.
        Field::Float16(number) => Json::from(f32::from(*number)),
        Field::Float(number) => Json::from(*number),
        Field::Double(number) => Json::from(*number),
        Field::Str(text) => Json::from(text.as_str()),
        Field::Bytes(bytes) => Json::String(match std::str::from_utf8(bytes.data()) {
            Ok(text) => text.to_string(),
            Err(_) => data_uri(bytes.data()),
        }),
        Field::Group(group) => group_to_json(group),
        Field::ListInternal(list) => Json::Array(list.elements().iter().map(field_to_json).collect()),
        Field::MapInternal(map) => {
            let entry = |(key, value): &(Field, Field)| {
                let key = match key {
                    Field::Str(text) => text.clone(),
                    other => other.to_string(),
                };
                (key, field_to_json(value))
            };
            Json::Object(map.entries().iter().map(entry).collect())
        }
        // Dates, times and decimals, as they are printed.
        other => Json::String(other.to_string()),
    }
}

fn group_to_json(group: &Row) -> Json {
    let get = |wanted: &str| group.get_column_iter().find(|(name, _)| *name == wanted).map(|(_, field)| field);
    match (get("bytes"), get("path")) {
        (Some(Field::Bytes(bytes)), _) => Json::String(data_uri(bytes.data())),
        (Some(Field::Null), Some(path @ Field::Str(_))) => field_to_json(path),
        _ => Json::Object(row_to_json(group)),
    }
}

fn data_uri(bytes: &[u8]) -> String {
    format!("data:;base64,{}", BASE64_STANDARD.encode(bytes))
}
