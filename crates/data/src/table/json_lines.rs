//! One JSON object per line, and JSON arrays of objects.

use std::collections::HashMap;
use std::fmt;
use std::fs::File;
use std::io::{BufRead, BufReader, BufWriter, Read, Write};
use std::path::Path;

use serde::de::{Deserializer, SeqAccess, Visitor};
use serde_json::{Map, Value as Json};
use tempfile::TempPath;

use super::{Index, RowFormat, Value};
use crate::error::{DataError, Result};

/// Scans the lines: the columns are the keys in the order they first appear.
pub(super) fn index(path: &Path, file: File, max_row_bytes: u64) -> Result<Index> {
    let mut reader = BufReader::with_capacity(1 << 16, file);
    let mut columns = Vec::new();
    let mut known = HashMap::new();
    let mut offsets = Vec::new();
    let (mut offset, mut line_number) = (0u64, 0u64);
    let mut line = Vec::new();
    loop {
        line.clear();
        let read = (&mut reader)
            .take(max_row_bytes + 1)
            .read_until(b'\n', &mut line)
            .map_err(|source| DataError::io("read", path, source))? as u64;
        if read == 0 {
            break;
        }
        line_number += 1;
        let problem = |problem: String| DataError::Row {
            path: path.to_path_buf(),
            row: offsets.len() as u64 + 1,
            line: line_number,
            problem,
        };
        if read > max_row_bytes {
            return Err(problem(format!("the line is longer than {max_row_bytes} bytes")));
        }
        let start = if offset == 0 && line.starts_with(b"\xEF\xBB\xBF") { 3 } else { 0 };
        let text = &line[start as usize..];
        if !text.iter().all(u8::is_ascii_whitespace) {
            let fields: Map<String, Json> = serde_json::from_slice(text).map_err(|error| {
                problem(format!("expected one JSON object per line: {error} (column {} of the line)", error.column()))
            })?;
            for key in fields.keys() {
                if !known.contains_key(key) {
                    known.insert(key.clone(), columns.len());
                    columns.push(key.clone());
                }
            }
            offsets.push(offset + start);
        }
        offset += read;
    }
    offsets.push(offset);
    Ok(Index { columns, offsets, row_format: RowFormat::JsonLines })
}

/// The cells of one line; `None` where it is not a JSON object any more.
pub(super) fn read_row(bytes: &[u8], columns: &[String]) -> Option<Vec<Value>> {
    // The slice may end with blank lines, which the parser skips.
    let mut fields: Map<String, Json> = serde_json::from_slice(bytes).ok()?;
    let mut take = |column: &String| fields.remove(column).map_or(Value::Missing, Value::from_json);
    Some(columns.iter().map(&mut take).collect())
}

/// Rewrites a JSON array of objects as one object per line, holding one element at a time.
pub(super) fn from_array(path: &Path, text: &Path) -> Result<TempPath> {
    let file = File::open(text).map_err(|source| DataError::io("open", path, source))?;
    let copy =
        tempfile::NamedTempFile::new().map_err(|source| DataError::io("create a temporary copy of", path, source))?;
    let mut writer = BufWriter::new(copy.as_file());
    let mut json = serde_json::Deserializer::from_reader(BufReader::new(file));
    json.deserialize_seq(CopyElements { writer: &mut writer }).and_then(|()| json.end()).map_err(|error| {
        DataError::Row {
            path: path.to_path_buf(),
            row: 0,
            line: error.line() as u64,
            problem: format!("expected a JSON array of objects, one per row: {error}"),
        }
    })?;
    writer.flush().map_err(|source| DataError::io("write a temporary copy of", path, source))?;
    drop(writer);
    Ok(copy.into_temp_path())
}

struct CopyElements<'w, W> {
    writer: &'w mut W,
}

impl<'de, W: Write> Visitor<'de> for CopyElements<'_, W> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON array of objects")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> std::result::Result<(), A::Error> {
        use serde::de::Error;
        while let Some(element) = elements.next_element::<Map<String, Json>>()? {
            serde_json::to_writer(&mut *self.writer, &element).map_err(A::Error::custom)?;
            self.writer.write_all(b"\n").map_err(A::Error::custom)?;
        }
        Ok(())
    }
}
