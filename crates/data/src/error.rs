//! Everything that can go wrong between a person's table and a pack.

use std::path::{Path, PathBuf};

/// The result of this crate's fallible functions.
pub type Result<T> = std::result::Result<T, DataError>;

/// What went wrong, where, and how to mend it.
///
/// Row numbers in messages count data rows from 1; the header is not counted.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DataError {
    /// A file could not be opened, read or written.
    #[error("cannot {doing} {path:?}: {source}")]
    Io {
        /// What was being done, as a verb: "open", "read", "write".
        doing: &'static str,
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// A checkpoint's `preprocessor_config.json` means something that is not computed here.
    #[error("preprocessor_config.json, {key}: expected {expected}, got {got}")]
    Preprocessor {
        /// The key.
        key: String,
        /// What it can be.
        expected: String,
        /// What it is.
        got: String,
    },
    /// The table's file name does not say what it is.
    #[error(
        "{path:?} is not a table this program knows: expected .csv, .tsv, .txt, .jsonl, .ndjson, .json, .parquet or .tar (WebDataset, not compressed), or a folder of .parquet or .tar files"
    )]
    UnknownFormat {
        /// The table.
        path: PathBuf,
    },
    /// The table is not in a text encoding that could be recognised.
    #[error(
        "{path:?}: row {row}, byte {byte} of the file is not UTF-8 (0x{value:02X}), and the file does not look like GB18030 or UTF-16 either; \
         name its encoding (for example encoding = \"windows-1252\" or \"big5\") or convert it: iconv -f ENCODING -t UTF-8 {path:?}"
    )]
    Encoding {
        /// The table.
        path: PathBuf,
        /// The row, counted from 1.
        row: u64,
        /// Offset in the file of the first byte that is not UTF-8.
        byte: u64,
        /// That byte.
        value: u8,
    },
    /// The named encoding does not exist or does not fit the file.
    #[error("{path:?}: {problem}")]
    EncodingChoice {
        /// The table.
        path: PathBuf,
        /// What is wrong with the choice.
        problem: String,
    },
    /// A table without a header or columns.
    #[error("{path:?} has no columns: {problem}")]
    NoColumns {
        /// The table.
        path: PathBuf,
        /// What was found.
        problem: String,
    },
    /// Two columns share a name.
    #[error(
        "{path:?} has two columns named {column:?} (columns {first} and {second}); rename one, or add a first line that names the columns"
    )]
    DuplicateColumn {
        /// The table.
        path: PathBuf,
        /// The shared name.
        column: String,
        /// Position of the first, from 1.
        first: usize,
        /// Position of the second, from 1.
        second: usize,
    },
    /// A row with more or fewer cells than the header.
    #[error(
        "{path:?}: row {row} (line {line}) has {found} cells, the header has {expected}; look for a stray delimiter or a missing quote"
    )]
    Ragged {
        /// The table.
        path: PathBuf,
        /// The row, counted from 1.
        row: u64,
        /// The line in the file, counted from 1.
        line: u64,
        /// Cells of the header.
        expected: usize,
        /// Cells of the row.
        found: usize,
    },
    /// A row that cannot be read as a row.
    #[error("{path:?}: row {row} (line {line}): {problem}")]
    Row {
        /// The table.
        path: PathBuf,
        /// The row, counted from 1.
        row: u64,
        /// The line in the file, counted from 1.
        line: u64,
        /// What is wrong and how to mend it.
        problem: String,
    },
    /// A Parquet file that cannot be read.
    #[error("{path:?} cannot be read as Parquet: {problem}")]
    Parquet {
        /// The table.
        path: PathBuf,
        /// What is wrong and how to mend it.
        problem: String,
    },
    /// The table has no such column.
    #[error("{table:?} has no column {column:?}{}; its columns are: {}", near(.suggestion), .columns.join(", "))]
    UnknownColumn {
        /// The table.
        table: PathBuf,
        /// The name that was asked for.
        column: String,
        /// The nearest existing name, if one is near.
        suggestion: Option<String>,
        /// The existing names.
        columns: Vec<String>,
    },
    /// There is no column type of that name.
    #[error("{name:?} is not a column type{}; expected one of {}", near(.suggestion), crate::schema::TYPE_NAMES)]
    UnknownType {
        /// The name that was given.
        name: String,
        /// The nearest existing name, if one is near.
        suggestion: Option<String>,
    },
    /// A row outside the table.
    #[error("row {row} is past the end of {table:?}, which has {len} rows")]
    RowOutOfRange {
        /// The table.
        table: PathBuf,
        /// The row, counted from 1.
        row: u64,
        /// Rows in the table.
        len: u64,
    },
    /// A cell that cannot be used as its column's type asks.
    #[error("row {row}, column {column:?}: {problem}")]
    Cell {
        /// The row, counted from 1.
        row: u64,
        /// The column.
        column: String,
        /// What is wrong, what was expected, how to mend it.
        problem: String,
    },
    /// Options that contradict each other or the table.
    #[error("{0}")]
    Options(String),
    /// A tokenizer that cannot be loaded, trained or saved.
    #[error("tokenizer: {0}")]
    Tokenizer(String),
    /// A saved data plan that does not hold together.
    #[error("data plan {path:?}: {problem}")]
    Plan {
        /// The plan's file.
        path: PathBuf,
        /// What is wrong and how to mend it.
        problem: String,
    },
    /// More rows could not be read than the run accepts.
    #[error(
        "{bad} of the {seen} rows read so far are bad, more than the {:.1} % accepted (max_bad_fraction); the first ones:\n{}",
        .max_bad_fraction * 100.0,
        .listing.join("\n")
    )]
    TooManyBadRows {
        /// Bad rows met.
        bad: u64,
        /// Rows read.
        seen: u64,
        /// The accepted share.
        max_bad_fraction: f64,
        /// Row, column and cause of the first bad rows.
        listing: Vec<String>,
    },
}

fn near(suggestion: &Option<String>) -> String {
    match suggestion {
        Some(name) => format!(" (did you mean {name:?}?)"),
        None => String::new(),
    }
}

impl DataError {
    /// Wraps a system error with the file and what was being done to it.
    pub(crate) fn io(doing: &'static str, path: &Path, source: std::io::Error) -> Self {
        DataError::Io { doing, path: path.to_path_buf(), source }
    }

    /// A problem of one cell; `row` counts from 0.
    pub(crate) fn cell(row: u64, column: &str, problem: impl Into<String>) -> Self {
        DataError::Cell { row: row + 1, column: column.to_string(), problem: problem.into() }
    }
}

/// The candidate most like `name`, if one is near enough to be meant.
pub fn nearest<'a>(name: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<String> {
    let wanted = name.to_lowercase();
    candidates
        .into_iter()
        .map(|candidate| (strsim::jaro_winkler(&wanted, &candidate.to_lowercase()), candidate))
        .filter(|(score, _)| *score >= 0.8)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, candidate)| candidate.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nearest_ignores_case_and_refuses_strangers() {
        assert_eq!(nearest("Captoin", ["image", "caption"]), Some("caption".into()));
        assert_eq!(nearest("zzz", ["image", "caption"]), None);
    }

    #[test]
    fn unknown_column_names_the_near_one() {
        let error = DataError::UnknownColumn {
            table: "t.csv".into(),
            column: "txt".into(),
            suggestion: Some("text".into()),
            columns: vec!["text".into(), "image".into()],
        };
        let message = error.to_string();
        assert!(message.contains("did you mean \"text\"?"), "{message}");
        assert!(message.contains("text, image"), "{message}");
    }
}
