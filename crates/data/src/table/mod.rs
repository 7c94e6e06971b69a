//! A person's table, read row by row from where it lies.
//!
//! Opening a table scans the file once: it checks every row and keeps one byte offset per row
//! (8 bytes), nothing else, so memory does not grow with the cells. A row is then read from the
//! file when it is asked for, from any thread. Files that are not plain UTF-8 text with one row
//! after another (other encodings, JSON arrays, Parquet) are converted once into a temporary file
//! that is, and that is removed with the table. Tar files in the WebDataset layout are read where
//! they lie; a folder of tar or of Parquet files, shards of one data set, is one table.

mod delimited;
mod encoding;
mod json_lines;
mod parquet_file;
mod random_file;
mod value;
mod web_dataset;

use std::fs::File;
use std::path::{Path, PathBuf};

use tempfile::TempPath;

use crate::error::{DataError, Result, nearest};
pub(crate) use random_file::RandomFile;

pub(crate) use value::matrix_from_json;
pub use value::{FeatureMatrix, MISSING_SPELLINGS, Value, format_number, is_missing};

/// How a table's file is laid out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TableFormat {
    /// Delimited text with a header: commas, tabs, semicolons or bars.
    Delimited,
    /// One JSON object per line.
    JsonLines,
    /// One JSON array of objects.
    JsonArray,
    /// Apache Parquet.
    Parquet,
    /// A tar file in the WebDataset layout.
    WebDataset,
}

/// How to open a table; the defaults find everything out from the file.
#[derive(Clone, Debug)]
pub struct TableOptions {
    /// The format; by default from the file's name.
    pub format: Option<TableFormat>,
    /// The delimiter of delimited text; by default sniffed.
    pub delimiter: Option<char>,
    /// Whether `"` quotes cells; by default found out from the file.
    pub quoting: Option<bool>,
    /// The text encoding by its usual name (`gb18030`, `big5`, `windows-1252`, …); by default
    /// UTF-8, UTF-16 with a byte order mark, or GB18030 where the bytes look like it.
    pub encoding: Option<String>,
    /// The longest row accepted, in bytes (default 64 MiB).
    pub max_row_bytes: u64,
}

impl Default for TableOptions {
    fn default() -> Self {
        TableOptions { format: None, delimiter: None, quoting: None, encoding: None, max_row_bytes: 64 << 20 }
    }
}

/// One row: a value per column of the table.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// The row's position in the table, from 0.
    pub index: u64,
    /// The cells, in the order of the columns.
    pub values: Vec<Value>,
}

/// How the bytes of one row become cells.
#[derive(Debug)]
enum RowFormat {
    Delimited(delimited::RowReader),
    JsonLines,
    WebDataset,
}

/// A table open for reading.
#[derive(Debug)]
pub struct Table {
    path: PathBuf,
    folder: PathBuf,
    columns: Vec<String>,
    notes: Vec<String>,
    /// Its files, in the order of their rows.
    parts: Vec<Part>,
}

/// A file of a table.
#[derive(Debug)]
struct Part {
    path: PathBuf,
    /// Rows before it.
    first: u64,
    file: RandomFile,
    /// Where each row starts, and where the last one ends.
    offsets: Vec<u64>,
    row_format: RowFormat,
    /// The converted copy that `file` reads, if there is one; removed on drop.
    _converted: Option<TempPath>,
}

impl Part {
    fn len(&self) -> u64 {
        self.offsets.len() as u64 - 1
    }
}

/// What scanning a text file gives.
struct Index {
    columns: Vec<String>,
    offsets: Vec<u64>,
    row_format: RowFormat,
}

impl Table {
    /// Opens and checks a table: a file, or a folder of shards.
    ///
    /// # Errors
    /// Every malformed row is an error that names the row and the line.
    pub fn open(path: impl AsRef<Path>, options: &TableOptions) -> Result<Table> {
        let path = path.as_ref();
        let shards = shards_of(path)?;
        let parent = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let folder = if shards.is_empty() { parent } else { path };
        let mut this = Table {
            path: path.to_path_buf(),
            folder: folder.to_path_buf(),
            columns: Vec::new(),
            notes: Vec::new(),
            parts: Vec::new(),
        };
        if shards.is_empty() {
            this.add(path, options)?;
        }
        for shard in &shards {
            this.add(shard, options)?;
        }
        check_columns(path, &this.columns)?;
        if this.parts.len() > 1 {
            this.notes = vec![format!("{} shards, {} rows", this.parts.len(), this.len())];
        }
        Ok(this)
    }

    /// Whether a path is a folder of shards, which is opened as one table.
    pub fn is_sharded(path: &Path) -> bool {
        shards_of(path).is_ok_and(|shards| !shards.is_empty())
    }

    /// Adds the rows of a file, and those of its columns that are new.
    fn add(&mut self, path: &Path, options: &TableOptions) -> Result<()> {
        let format = match options.format {
            Some(format) => format,
            None => format_of(path)?,
        };
        // A table that is opened, checked and read stays the same file even if it is replaced
        // meanwhile: everything goes through this handle or a private copy.
        let original = File::open(path).map_err(|source| DataError::io("open", path, source))?;
        let length = original.metadata().map_err(|source| DataError::io("open", path, source))?;
        if length.is_dir() {
            return Err(DataError::UnknownFormat { path: path.to_path_buf() });
        }
        let notes = &mut self.notes;
        let mut converted = match format {
            TableFormat::Parquet => Some(parquet_file::to_json_lines(path, original, notes)?),
            TableFormat::WebDataset => None,
            _ => encoding::to_utf8(path, original, options, notes)?,
        };
        let read = |converted: &Option<TempPath>| converted.as_ref().map_or(path.to_path_buf(), |c| c.to_path_buf());
        if format == TableFormat::JsonArray {
            converted = Some(json_lines::from_array(path, &read(&converted))?);
        }
        let text = read(&converted);
        let open = || File::open(&text).map_err(|source| DataError::io("open", path, source));
        let index = match format {
            TableFormat::Delimited => delimited::index(path, open()?, options, notes)?,
            TableFormat::WebDataset => web_dataset::index(path, open()?)?,
            _ => json_lines::index(path, open()?, options.max_row_bytes)?,
        };
        let first = self.len();
        // One file's own columns stay as they are: two of a name are an error.
        let new = |c: &String| self.parts.is_empty() || !self.columns.contains(c);
        let columns: Vec<String> = index.columns.into_iter().filter(new).collect();
        self.columns.extend(columns);
        self.parts.push(Part {
            path: path.to_path_buf(),
            first,
            file: RandomFile::new(open()?),
            offsets: index.offsets,
            row_format: index.row_format,
            _converted: converted,
        });
        Ok(())
    }

    /// The file, or the folder of shards, the table was opened from.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The folder that relative media paths start from.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The names of the columns.
    pub fn columns(&self) -> &[String] {
        &self.columns
    }

    /// The number of rows.
    pub fn len(&self) -> u64 {
        self.parts.last().map_or(0, |part| part.first + part.len())
    }

    /// True for a table with a header and no rows.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What a person should know about how the file was read: a converted encoding, a guessed
    /// delimiter.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// The position of a column.
    ///
    /// # Errors
    /// [`DataError::UnknownColumn`], with the nearest name.
    pub fn column_index(&self, name: &str) -> Result<usize> {
        self.columns.iter().position(|column| column == name).ok_or_else(|| DataError::UnknownColumn {
            table: self.path.clone(),
            column: name.to_string(),
            suggestion: nearest(name, self.columns.iter().map(String::as_str)),
            columns: self.columns.clone(),
        })
    }

    /// Reads one row; `row` counts from 0.
    pub fn row(&self, row: u64) -> Result<Row> {
        if row >= self.len() {
            return Err(DataError::RowOutOfRange {
                table: self.path.clone(),
                row: row.saturating_add(1),
                len: self.len(),
            });
        }
        // The last part that begins at or before the row; parts without rows come before it.
        let part = &self.parts[self.parts.partition_point(|part| part.first <= row) - 1];
        let at = (row - part.first) as usize;
        let (start, end) = (part.offsets[at], part.offsets[at + 1]);
        let bytes = part
            .file
            .read(start, (end - start) as usize)
            .map_err(|source| DataError::io("read", &part.path, source))?;
        let values = match &part.row_format {
            RowFormat::Delimited(reader) => reader.read_row(&bytes, self.columns.len()),
            RowFormat::JsonLines => json_lines::read_row(&bytes, &self.columns),
            RowFormat::WebDataset => web_dataset::read_row(&bytes, &self.columns),
        };
        let values = values.ok_or_else(|| DataError::Row {
            path: part.path.clone(),
            row: at as u64 + 1,
            line: at as u64 + 1,
            problem: "the file changed while it was being read; open the table again".into(),
        })?;
        Ok(Row { index: row, values })
    }

    /// Every row in order.
    pub fn rows(&self) -> impl Iterator<Item = Result<Row>> + '_ {
        (0..self.len()).map(|row| self.row(row))
    }

    /// Up to `count` row positions spread evenly over the table: the same ones every time.
    pub fn sample_rows(&self, count: u64) -> Vec<u64> {
        let len = self.len();
        let count = count.min(len);
        (0..count).map(|i| (i as u128 * len as u128 / count as u128) as u64).collect()
    }
}

fn format_of(path: &Path) -> Result<TableFormat> {
    let extension = path.extension().map(|e| e.to_string_lossy().to_ascii_lowercase()).unwrap_or_default();
    match extension.as_str() {
        "csv" | "tsv" | "tab" | "txt" => Ok(TableFormat::Delimited),
        "jsonl" | "ndjson" => Ok(TableFormat::JsonLines),
        "json" => Ok(TableFormat::JsonArray),
        "parquet" | "pq" => Ok(TableFormat::Parquet),
        "tar" => Ok(TableFormat::WebDataset),
        _ => Err(DataError::UnknownFormat { path: path.to_path_buf() }),
    }
}

/// The shards in a folder, in the order of their names; none where it is no folder or has none.
fn shards_of(path: &Path) -> Result<Vec<PathBuf>> {
    if !path.is_dir() {
        return Ok(Vec::new());
    }
    let io = |e| DataError::io("list", path, e);
    let mut shards = Vec::new();
    let mut formats = Vec::new();
    for entry in std::fs::read_dir(path).map_err(io)? {
        let path = entry.map_err(io)?.path();
        let format = format_of(&path).ok();
        if let Some(format @ (TableFormat::WebDataset | TableFormat::Parquet)) = format
            && path.is_file()
        {
            shards.push(path);
            formats.push(format);
        }
    }
    if formats.iter().any(|format| *format != formats[0]) {
        return Err(DataError::Options(format!("{path:?} holds tar and Parquet files; expected shards of one format")));
    }
    shards.sort();
    Ok(shards)
}

fn check_columns(path: &Path, columns: &[String]) -> Result<()> {
    if columns.is_empty() {
        return Err(DataError::NoColumns {
            path: path.to_path_buf(),
            problem: "the file is empty; the first line must name the columns".into(),
        });
    }
    let mut seen = std::collections::HashMap::new();
    for (second, column) in columns.iter().enumerate() {
        if let Some(first) = seen.insert(column.as_str(), second) {
            return Err(DataError::DuplicateColumn {
                path: path.to_path_buf(),
                column: column.clone(),
                first: first + 1,
                second: second + 1,
            });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
