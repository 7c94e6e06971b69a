//! Texts out of shards: tar files in the WebDataset layout, Parquet, JSON lines. They are read as a
//! stream, of Parquet the column of texts alone.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::record::Field;
use parquet::record::reader::RowIter;
use parquet::schema::types::Type;

use crate::error::{DataError, Result, nearest};
use crate::table::{Table, TableOptions};

/// What the column of texts is called where nothing is said.
const USUAL: [&str; 3] = ["text", "txt", "content"];

/// Whether a file holds samples, and not running text.
pub(super) fn is_shard(path: &Path) -> bool {
    let extension = path.extension().map(|e| e.to_string_lossy().to_ascii_lowercase()).unwrap_or_default();
    ["tar", "parquet", "pq", "jsonl", "ndjson"].contains(&extension.as_str())
}

/// The texts of the samples of a shard, those without one left out.
pub(super) type Samples = Box<dyn Iterator<Item = Result<String>> + Send>;

/// Opens a shard.
///
/// # Errors
/// When it cannot be read or has no such column.
pub(super) fn open(path: &Path, column: Option<&str>) -> Result<Samples> {
    let is_parquet =
        path.extension().is_some_and(|e| e.eq_ignore_ascii_case("parquet") || e.eq_ignore_ascii_case("pq"));
    if is_parquet {
        return parquet_texts(path, column);
    }
    let table = Table::open(path, &TableOptions::default())?;
    let at = table.column_index(&chosen(path, table.columns(), column)?)?;
    let rows = table.len();
    let text = move |row| table.row(row).map(|mut row| row.values.swap_remove(at).texts().join("\n"));
    Ok(Box::new((0..rows).map(text).filter(|text| !matches!(text, Ok(text) if text.is_empty()))))
}

/// The column that holds the texts.
fn chosen(path: &Path, columns: &[String], column: Option<&str>) -> Result<String> {
    let has = |name: &str| columns.iter().any(|c| c == name);
    match column {
        Some(name) if has(name) => Ok(name.to_owned()),
        Some(name) => Err(DataError::UnknownColumn {
            table: path.to_path_buf(),
            column: name.to_owned(),
            suggestion: nearest(name, columns.iter().map(String::as_str)),
            columns: columns.to_vec(),
        }),
        None => USUAL.into_iter().find(|name| has(name)).map(str::to_owned).ok_or_else(|| {
            DataError::Options(format!(
                "{path:?} has no column {}; name the one that holds the texts with corpus.column; it has: {}",
                USUAL.join(", "),
                columns.join(", ")
            ))
        }),
    }
}

fn parquet_texts(path: &Path, column: Option<&str>) -> Result<Samples> {
    let broken = {
        let path = path.to_path_buf();
        move |problem: String| DataError::Parquet { path: path.clone(), problem }
    };
    let file = File::open(path).map_err(|e| DataError::io("open", path, e))?;
    let reader = SerializedFileReader::new(file).map_err(|e| broken(e.to_string()))?;
    let schema = reader.metadata().file_metadata().schema().clone();
    let columns: Vec<String> = schema.get_fields().iter().map(|f| f.name().to_owned()).collect();
    let name = chosen(path, &columns, column)?;
    let field = schema.get_fields().iter().find(|f| f.name() == name).map(Arc::clone).into_iter().collect();
    let alone = Type::group_type_builder(schema.name()).with_fields(field).build();
    let rows = alone.and_then(|alone| RowIter::from_file_into(Box::new(reader)).project(Some(alone)));
    let mut rows = rows.map_err(|e| broken(e.to_string()))?;
    let mut number = 0_u64;
    Ok(Box::new(std::iter::from_fn(move || {
        loop {
            number += 1;
            let row = match rows.next()? {
                Ok(row) => row,
                Err(e) => return Some(Err(broken(format!("row {number}: {e}")))),
            };
            let text = match row.get_column_iter().next().map(|(_, field)| field) {
                Some(Field::Str(text)) => text.clone(),
                Some(Field::Bytes(bytes)) => match std::str::from_utf8(bytes.data()) {
                    Ok(text) => text.to_owned(),
                    Err(_) => return Some(Err(broken(format!("row {number}: column {name:?} is not UTF-8")))),
                },
                Some(Field::Null) | None => continue,
                Some(other) => {
                    return Some(Err(broken(format!("row {number}: column {name:?} holds {other}, expected a text"))));
                }
            };
            if !text.trim().is_empty() {
                return Some(Ok(text));
            }
        }
    })))
}
