//! Comma-, tab-, semicolon- and bar-separated text.

use std::cell::Cell;
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom};
use std::path::Path;
use std::rc::Rc;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::{Index, RowFormat, TableOptions, Value};
use crate::error::{DataError, Result};

/// How cells are told apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Dialect {
    delimiter: u8,
    quoting: bool,
}

impl Dialect {
    fn reader<R: Read>(self, from: R) -> csv::Reader<R> {
        csv::ReaderBuilder::new()
            .delimiter(self.delimiter)
            .quoting(self.quoting)
            .has_headers(false)
            .flexible(true)
            .from_reader(from)
    }
}

/// Reads single rows. The csv crate builds its automaton for every reader, which costs more than a
/// row does; here readers go back to a pool.
#[derive(Debug)]
pub(super) struct RowReader {
    dialect: Dialect,
    pool: Mutex<Vec<csv_core::Reader>>,
}

impl RowReader {
    fn new(dialect: Dialect) -> Self {
        RowReader { dialect, pool: Mutex::new(Vec::new()) }
    }

    fn pool(&self) -> MutexGuard<'_, Vec<csv_core::Reader>> {
        self.pool.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The cells of one row's bytes; `None` where they are not one row of `columns` cells.
    pub(super) fn read_row(&self, bytes: &[u8], columns: usize) -> Option<Vec<Value>> {
        let pooled = self.pool().pop();
        let mut reader = pooled.unwrap_or_else(|| {
            let Dialect { delimiter, quoting } = self.dialect;
            csv_core::ReaderBuilder::new().delimiter(delimiter).quoting(quoting).build()
        });
        reader.reset();
        let values = read_cells(&mut reader, bytes, columns);
        self.pool().push(reader);
        values
    }
}

fn read_cells(reader: &mut csv_core::Reader, bytes: &[u8], columns: usize) -> Option<Vec<Value>> {
    let mut cells = vec![0; bytes.len() + 1];
    let mut ends = vec![0; columns + 1];
    let (mut read, mut written, mut found) = (0, 0, 0);
    loop {
        let (result, input, output, more) =
            reader.read_record(&bytes[read..], &mut cells[written..], &mut ends[found..]);
        (read, written, found) = (read + input, written + output, found + more);
        match result {
            csv_core::ReadRecordResult::Record => break,
            // No input left: an empty one ends the record.
            csv_core::ReadRecordResult::InputEmpty => continue,
            _ => return None,
        }
    }
    if found != columns {
        return None;
    }
    let mut start = 0;
    let mut values = Vec::with_capacity(columns);
    for end in &ends[..columns] {
        values.push(Value::from_text(std::str::from_utf8(&cells[start..*end]).ok()?));
        start = *end;
    }
    Some(values)
}

/// Refuses to hand out more than `limit` bytes for one row, so that a missing closing quote does
/// not read the whole file into memory.
struct RowLimit<R> {
    inner: R,
    since_row: Rc<Cell<u64>>,
    limit: u64,
}

impl<R: Read> Read for RowLimit<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        if self.since_row.get() > self.limit {
            return Err(std::io::Error::other("row too long"));
        }
        let read = self.inner.read(buffer)?;
        self.since_row.set(self.since_row.get() + read as u64);
        Ok(read)
    }
}

/// Scans a delimited file: header, dialect, where each row starts.
pub(super) fn index(path: &Path, mut file: File, options: &TableOptions, notes: &mut Vec<String>) -> Result<Index> {
    let io = |source| DataError::io("read", path, source);
    let mut head = Vec::new();
    (&mut file).take(1 << 16).read_to_end(&mut head).map_err(io)?;
    let delimiter = match options.delimiter {
        Some(delimiter) => u8::try_from(delimiter).ok().filter(u8::is_ascii).ok_or_else(|| {
            DataError::Options(format!(
                "the delimiter {delimiter:?} is not a single ASCII character such as ',' or a tab"
            ))
        })?,
        None => sniff_delimiter(&head),
    };
    let quoting = match options.quoting {
        Some(quoting) => quoting,
        None => {
            file.seek(SeekFrom::Start(0)).map_err(io)?;
            let quoting = quotes_are_quotes(&mut BufReader::new(&mut file), delimiter).map_err(io)?;
            if !quoting {
                notes.push("quotation marks are read as text: cells begin with one that is never closed".into());
            }
            quoting
        }
    };
    file.seek(SeekFrom::Start(0)).map_err(io)?;
    let dialect = Dialect { delimiter, quoting };
    let index = scan(path, file, dialect, options.max_row_bytes)?;
    if let Some(number) = index.columns.iter().find(|name| name.parse::<f64>().is_ok()) {
        notes.push(format!(
            "the first line names the columns, and one of the names is {number:?}: if that line is data, \
             put a line with names before it"
        ));
    }
    Ok(index)
}

fn scan(path: &Path, file: File, dialect: Dialect, max_row_bytes: u64) -> Result<Index> {
    let since_row = Rc::new(Cell::new(0));
    let limited = RowLimit { inner: file, since_row: since_row.clone(), limit: max_row_bytes };
    let mut reader = dialect.reader(limited);
    let mut record = csv::StringRecord::new();
    let mut columns: Option<Vec<String>> = None;
    let mut offsets = Vec::new();
    loop {
        let start = reader.position().clone();
        let row = offsets.len() as u64 + u64::from(columns.is_some());
        since_row.set(0);
        let more = reader.read_record(&mut record).map_err(|error| {
            let too_long = since_row.get() > max_row_bytes;
            match error.into_kind() {
                csv::ErrorKind::Io(source) if !too_long => DataError::io("read", path, source),
                _ => DataError::Row {
                    path: path.to_path_buf(),
                    row,
                    line: start.line(),
                    problem: if too_long {
                        format!(
                            "the row is longer than {max_row_bytes} bytes; most likely a quotation \
                             mark opens a cell here and is never closed"
                        )
                    } else {
                        "the row is not UTF-8 text".into()
                    },
                },
            }
        })?;
        if !more {
            offsets.push(start.byte());
            break;
        }
        match &columns {
            None => columns = Some(header(&record)),
            Some(names) if names.len() == record.len() => offsets.push(start.byte()),
            Some(names) => {
                let line = record.position().map_or(start.line(), csv::Position::line);
                return Err(DataError::Ragged {
                    path: path.to_path_buf(),
                    row,
                    line,
                    expected: names.len(),
                    found: record.len(),
                });
            }
        }
    }
    Ok(Index {
        columns: columns.unwrap_or_default(),
        offsets,
        row_format: RowFormat::Delimited(RowReader::new(dialect)),
    })
}

/// The names of the columns; a nameless one (spreadsheets write such for a row number) is called
/// by its position.
fn header(record: &csv::StringRecord) -> Vec<String> {
    let name = |(i, cell): (usize, &str)| match cell.trim().trim_start_matches('\u{FEFF}') {
        "" => format!("column_{}", i + 1),
        name => name.to_string(),
    };
    record.iter().enumerate().map(name).collect()
}

/// The delimiter that cuts the first rows into the most cells, equally many in each.
fn sniff_delimiter(head: &[u8]) -> u8 {
    let whole_rows = match head.iter().rposition(|byte| *byte == b'\n') {
        Some(end) => &head[..=end],
        None => head,
    };
    let regularity = |dialect: Dialect| -> (usize, usize) {
        let mut counts = Vec::new();
        let mut reader = dialect.reader(whole_rows);
        let mut record = csv::ByteRecord::new();
        while counts.len() < 100 && matches!(reader.read_byte_record(&mut record), Ok(true)) {
            counts.push(record.len());
        }
        let first = counts.first().copied().unwrap_or(0);
        let alike = counts.iter().filter(|count| **count == first).count();
        // Nine rows in ten must agree: a ragged row is reported later, by its number.
        let regular = first > 1 && alike * 10 >= counts.len() * 9;
        (usize::from(regular) * alike, first)
    };
    let score = |delimiter: u8| {
        let quoted = regularity(Dialect { delimiter, quoting: true });
        // Only tab-separated files are known to hold quotation marks that quote nothing.
        let literal = match delimiter {
            b'\t' => regularity(Dialect { delimiter, quoting: false }),
            _ => quoted,
        };
        quoted.max(literal)
    };
    [b',', b'\t', b';', b'|']
        .into_iter()
        .map(|delimiter| (score(delimiter), delimiter))
        .filter(|((alike, _), _)| *alike > 0)
        .reduce(|best, other| if other.0 > best.0 { other } else { best })
        .map_or(b',', |(_, delimiter)| delimiter)
}

/// Tab-separated corpora often write text as it is, quotation marks included. They are taken as
/// text where every line has the header's number of cells without quoting, and some cell begins
/// with a quotation mark without ending with one.
fn quotes_are_quotes(lines: &mut impl BufRead, delimiter: u8) -> std::io::Result<bool> {
    if delimiter != b'\t' {
        return Ok(true);
    }
    let mut cells_of_header = None;
    let mut open_quote = false;
    let mut line = Vec::new();
    loop {
        line.clear();
        // A longer line is refused by the scan that follows.
        let read = lines.by_ref().take(1 << 26).read_until(b'\n', &mut line)?;
        if read == 0 {
            return Ok(!open_quote);
        }
        let text = line.strip_suffix(b"\n").unwrap_or(&line);
        let text = text.strip_suffix(b"\r").unwrap_or(text);
        if text.is_empty() {
            continue;
        }
        let cells = text.split(|byte| *byte == delimiter);
        if *cells_of_header.get_or_insert(cells.clone().count()) != cells.clone().count() {
            return Ok(true);
        }
        open_quote |=
            cells.into_iter().any(|cell| cell.starts_with(b"\"") && (cell.len() == 1 || !cell.ends_with(b"\"")));
    }
}
