//! Tar files in the WebDataset layout.
//!
//! The files of one sample follow one another and share their name up to its first dot: `dog/7.jpg`,
//! `dog/7.txt`, `dog/7.json` are the sample `dog/7` with the columns `jpg`, `txt` and those of the
//! JSON object. Opening a file reads its headers (and JSON); a row is read from where it lies.

use std::collections::HashSet;
use std::fs::File;
use std::io::{Cursor, Read};
use std::path::Path;

use serde_json::{Map, Value as Json};
use tar::{Archive, Entry};

use super::{Index, RowFormat, Value};
use crate::error::{DataError, Result};
use crate::media_ref::is_media_extension;

/// The column of the name that a sample's files share.
const KEY: &str = "__key__";
/// The longest sample accepted, in bytes.
const MAX_SAMPLE: u64 = 512 << 20;
/// The longest JSON file of a sample, in bytes.
const MAX_JSON: u64 = 16 << 20;
/// The most columns: a file whose every member has an extension of its own is no data set.
const MAX_COLUMNS: usize = 1000;
/// What tar files are laid out in.
const BLOCK: u64 = 512;

/// Scans the headers: the columns are the extensions, and the keys of JSON objects, in the order
/// they first appear.
pub(super) fn index(path: &Path, file: File) -> Result<Index> {
    let length = file.metadata().map_err(|e| DataError::io("read", path, e))?.len();
    let (mut columns, mut known) = (vec![KEY.to_owned()], HashSet::from([KEY.to_owned()]));
    let mut offsets: Vec<u64> = Vec::new();
    // The sample that is being read, its extensions so far, and where the last file ended.
    let (mut key, mut own, mut end) = (String::new(), HashSet::new(), 0);
    let problem = |row: usize, problem: String| DataError::Row {
        path: path.to_path_buf(),
        row: row as u64,
        line: row as u64,
        problem,
    };
    let mut archive = Archive::new(file);
    let entries = archive.entries_with_seek().map_err(|e| DataError::io("read", path, e))?;
    for entry in entries {
        let row = offsets.len();
        let broken = |e: std::io::Error| problem(row.max(1), format!("the tar file is damaged: {e}"));
        let mut entry = entry.map_err(broken)?;
        let size = entry.header().entry_size().map_err(broken)?;
        let start = std::mem::replace(&mut end, ended(&entry, size));
        if end > length.next_multiple_of(BLOCK) || entry.raw_file_position() + size > length {
            return Err(problem(row.max(1), "the tar file is cut off; copy it again".into()));
        }
        let Some((name, extension)) = member(&entry) else { continue };
        if name != key || row == 0 {
            (key, own) = (name, HashSet::new());
            offsets.push(start);
        }
        let row = offsets.len();
        if end - offsets[row - 1] > MAX_SAMPLE {
            return Err(problem(row, format!("the sample {key:?} is longer than {MAX_SAMPLE} bytes")));
        }
        if !own.insert(extension.clone()) {
            return Err(problem(row, format!("the sample {key:?} has two files .{extension}")));
        }
        let mut found = vec![extension.clone()];
        if extension == "json" {
            if size > MAX_JSON {
                return Err(problem(row, format!("{key}.json is longer than {MAX_JSON} bytes")));
            }
            let mut bytes = Vec::new();
            entry.read_to_end(&mut bytes).map_err(|e| problem(row, format!("{key}.json: {e}")))?;
            match serde_json::from_slice::<Json>(&bytes) {
                Ok(Json::Object(fields)) => found = fields.into_iter().map(|(name, _)| name).collect(),
                Ok(_) => {}
                Err(e) => return Err(problem(row, format!("{key}.json is not JSON: {e}"))),
            }
        }
        for name in found {
            if known.insert(name.clone()) {
                columns.push(name);
            }
        }
        if columns.len() > MAX_COLUMNS {
            return Err(problem(row, format!("more than {MAX_COLUMNS} columns; is this a data set?")));
        }
    }
    if offsets.is_empty() {
        return Err(DataError::NoColumns {
            path: path.to_path_buf(),
            problem: "the tar file has no sample; expected files named KEY.EXTENSION".into(),
        });
    }
    offsets.push(end.min(length));
    Ok(Index { columns, offsets, row_format: RowFormat::WebDataset })
}

/// Where the next file's headers begin.
fn ended<R: Read>(entry: &Entry<'_, R>, size: u64) -> u64 {
    entry.raw_file_position().saturating_add(size).checked_next_multiple_of(BLOCK).unwrap_or(u64::MAX)
}

/// The sample that a file belongs to and its extension; None for what is no sample's: folders,
/// links, hidden files and files without an extension.
fn member<R: Read>(entry: &Entry<'_, R>) -> Option<(String, String)> {
    if !entry.header().entry_type().is_file() {
        return None;
    }
    let path = entry.path_bytes();
    let path = String::from_utf8_lossy(&path);
    let base = path.rfind('/').map_or(0, |at| at + 1);
    let dot = path[base..].find('.').filter(|dot| *dot > 0)? + base;
    let extension = path[dot + 1..].to_lowercase();
    (!extension.is_empty()).then(|| (path[..dot].trim_start_matches("./").to_owned(), extension))
}

/// The cells of one sample; `None` where it is none any more.
pub(super) fn read_row(bytes: &[u8], columns: &[String]) -> Option<Vec<Value>> {
    let mut values = vec![Value::Missing; columns.len()];
    let mut fields = Map::new();
    let mut found = false;
    let mut set = |name: &str, value: Value| {
        if let Some(at) = columns.iter().position(|column| column == name) {
            values[at] = value;
        }
    };
    let mut archive = Archive::new(Cursor::new(bytes));
    for entry in archive.entries().ok()? {
        let mut entry = entry.ok()?;
        let Some((key, extension)) = member(&entry) else { continue };
        // The slice bounds what is there; the size that a header claims does not.
        let mut content = Vec::new();
        entry.read_to_end(&mut content).ok()?;
        found = true;
        set(KEY, Value::Text(key));
        if extension == "json"
            && let Ok(Json::Object(object)) = serde_json::from_slice(&content)
        {
            fields = object;
        } else {
            set(&extension, cell(&extension, content));
        }
    }
    for (name, value) in fields {
        // A file of the sample is more than a word about it.
        if let Some(at) = columns.iter().position(|column| *column == name)
            && values[at].is_missing()
        {
            values[at] = Value::from_json(value);
        }
    }
    found.then_some(values)
}

/// A file's content: text where it is text and its name does not say otherwise.
fn cell(extension: &str, content: Vec<u8>) -> Value {
    if is_media_extension(extension.rsplit('.').next().unwrap_or(extension)) {
        return Value::Bytes(content);
    }
    match String::from_utf8(content) {
        Ok(text) => Value::from_text(text.trim_end_matches(['\n', '\r'])),
        Err(e) => Value::Bytes(e.into_bytes()),
    }
}

#[cfg(test)]
mod tests {
    use crate::schema::{ColumnType, Schema, SchemaOptions};
    use crate::test_support::tar_file;
    use crate::{Table, TableOptions, Value};
    use std::path::Path;

    fn open(folder: &Path, name: &str, files: &[(&str, &[u8])]) -> crate::Result<Table> {
        let path = folder.join(name);
        std::fs::write(&path, tar_file(files)).expect("written");
        Table::open(&path, &TableOptions::default())
    }

    const PNG: &[u8] = b"\x89PNG\r\n\x1a\nrest";

    #[test]
    fn files_of_one_name_are_a_row() {
        let folder = tempfile::tempdir().expect("folder");
        let long = format!("{}/深.txt", "d".repeat(150));
        let table = open(
            folder.path(),
            "a.tar",
            &[
                ("a/1.png", PNG),
                ("a/1.txt", "一只狗\n".as_bytes()),
                ("a/2.json", br#"{"stars": 4, "caption": "two", "txt": "from json"}"#),
                ("a/2.TXT", b"from a file"),
                ("._2.txt", b"hidden"),
                ("a/3.left.png", PNG),
                (&long, b"deep"),
            ],
        )
        .expect("a table");
        assert_eq!(table.columns(), ["__key__", "png", "txt", "stars", "caption", "left.png"]);
        let rows: Vec<Vec<Value>> = table.rows().map(|r| r.expect("a row").values).collect();
        let text = |t: &str| Value::Text(t.into());
        let none = || Value::Missing;
        let png = || Value::Bytes(PNG.to_vec());
        assert_eq!(rows.len(), 4);
        assert_eq!(rows[0], [text("a/1"), png(), text("一只狗"), none(), none(), none()]);
        assert_eq!(rows[1], [text("a/2"), none(), text("from a file"), Value::Number(4.0), text("two"), none()]);
        assert_eq!(rows[2], [text("a/3"), none(), none(), none(), none(), png()]);
        assert_eq!(rows[3][0], text(long.trim_end_matches(".txt")), "a name beyond 100 bytes");
    }

    #[test]
    fn a_folder_of_shards_is_one_table_with_the_types_of_its_files() {
        let folder = tempfile::tempdir().expect("folder");
        for shard in 0..3 {
            let names: Vec<[String; 2]> =
                (0..4).map(|i| [format!("{shard}{i}.png"), format!("{shard}{i}.txt")]).collect();
            let words = format!("a caption of some words, the {shard}th of all there are");
            let files: Vec<(&str, &[u8])> =
                names.iter().flat_map(|[p, t]| [(p.as_str(), PNG), (t.as_str(), words.as_bytes())]).collect();
            open(folder.path(), &format!("{shard}.tar"), &files).expect("a table");
        }
        std::fs::write(folder.path().join("README.md"), "not a shard").expect("written");
        let table = Table::open(folder.path(), &TableOptions::default()).expect("a table");
        assert_eq!((table.len(), table.columns().len()), (12, 3));
        for (row, key) in [(0, "00"), (3, "03"), (4, "10"), (11, "23")] {
            assert_eq!(table.row(row).expect("a row").values[0], Value::Text(key.into()));
        }
        assert!(table.row(12).is_err() && Table::is_sharded(folder.path()));
        let schema = Schema::infer(&table, &SchemaOptions::default()).expect("types");
        let kind = |name: &str| schema.columns.iter().find(|c| c.name == name).map(|c| c.kind);
        assert_eq!(kind("png"), Some(ColumnType::Image));
        assert_eq!(kind("__key__"), Some(ColumnType::Identifier));
    }

    #[test]
    fn what_is_no_data_set_is_refused() {
        let folder = tempfile::tempdir().expect("folder");
        let error = |files: &[(&str, &[u8])]| open(folder.path(), "a.tar", files).expect_err("refused").to_string();
        assert!(error(&[("README", b"x")]).contains("no sample"));
        assert!(error(&[("1.txt", b"x"), ("1.txt", b"y")]).contains("two files .txt"));
        assert!(error(&[("1.json", b"{")]).contains("1.json is not JSON"));
        let many: Vec<String> = (0..1200).map(|i| format!("1.e{i}")).collect();
        let many: Vec<(&str, &[u8])> = many.iter().map(|n| (n.as_str(), &b"x"[..])).collect();
        assert!(error(&many).contains("1000 columns"));
        // Cut off within a file, and within a header.
        let whole = tar_file(&[("1.txt", &[b'x'; 3000]), ("2.txt", b"y")]);
        for length in [700, 2000, 4000] {
            let path = folder.path().join("cut.tar");
            std::fs::write(&path, &whole[..length]).expect("written");
            let error = Table::open(&path, &TableOptions::default()).expect_err("cut off").to_string();
            assert!(error.contains("cut off") || error.contains("damaged"), "{length}: {error}");
        }
        // A header that claims more than there is.
        let mut claims = tar_file(&[("1.txt", b"x")]);
        claims[124..136].copy_from_slice(b"77777777777\0");
        let sum: u32 = claims[..512]
            .iter()
            .enumerate()
            .map(|(i, b)| if (148..156).contains(&i) { 32 } else { u32::from(*b) })
            .sum();
        claims[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        let path = folder.path().join("claims.tar");
        std::fs::write(&path, claims).expect("written");
        assert!(Table::open(&path, &TableOptions::default()).expect_err("refused").to_string().contains("cut off"));
        assert!(Table::open(folder.path().join("a.tar.gz"), &TableOptions::default()).is_err());
    }
}
