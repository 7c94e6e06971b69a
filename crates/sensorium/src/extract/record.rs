//! One row's features, and how they stand in a shard.

use serde::{Deserialize, Serialize};
use std::io::{self, Read, Write};

/// What stands for "not there" where a length is expected.
const NONE: u32 = u32::MAX;

/// The features of one row.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Record {
    /// The table row, from 0.
    pub row: u64,
    /// The row's identifier.
    pub name: Option<String>,
    /// What could not be read.
    pub error: Option<String>,
    /// For each column its numbers, `[dim]` or `[tokens, dim]`; None where the
    /// row lacks it.
    pub cells: Vec<Option<Vec<f32>>>,
}

/// A record as it is read back: with the values of some columns only.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Stored {
    pub row: u64,
    pub name: Option<String>,
    pub error: Option<String>,
    pub cells: Vec<Cell>,
}

/// A column of a stored record.
#[derive(Debug, Clone, PartialEq, Default)]
pub(super) struct Cell {
    /// How many numbers there are; None where the row lacks the column.
    pub count: Option<usize>,
    /// The numbers, where they were asked for.
    pub values: Vec<f32>,
}

impl Record {
    pub(super) fn write(&self, out: &mut impl Write) -> io::Result<()> {
        out.write_all(&self.row.to_le_bytes())?;
        for text in [&self.name, &self.error] {
            write_length(out, text.as_ref().map(String::len))?;
            out.write_all(text.as_deref().unwrap_or_default().as_bytes())?;
        }
        for cell in &self.cells {
            write_length(out, cell.as_ref().map(Vec::len))?;
            let bytes: Vec<u8> = cell.iter().flatten().flat_map(|x| x.to_le_bytes()).collect();
            out.write_all(&bytes)?;
        }
        Ok(())
    }
}

impl Stored {
    /// Reads a record of so many columns with the values of those for which
    /// `wanted` holds; `skip` passes over the others.
    pub(super) fn read<R: Read>(
        from: &mut R,
        columns: usize,
        wanted: impl Fn(usize) -> bool,
        skip: impl Fn(&mut R, u64) -> io::Result<()>,
    ) -> io::Result<Self> {
        let mut row = [0; 8];
        from.read_exact(&mut row)?;
        let (name, error) = (read_text(from)?, read_text(from)?);
        let cells = (0..columns)
            .map(|column| {
                let count = read_length(from)?;
                let bytes = 4 * count.unwrap_or(0);
                if !wanted(column) {
                    skip(from, bytes as u64)?;
                    return Ok(Cell { count, values: Vec::new() });
                }
                let bytes = read_bytes(from, bytes)?;
                let values = bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
                Ok(Cell { count, values })
            })
            .collect::<io::Result<_>>()?;
        Ok(Self { row: u64::from_le_bytes(row), name, error, cells })
    }
}

fn write_length(out: &mut impl Write, length: Option<usize>) -> io::Result<()> {
    let length = match length {
        None => NONE,
        Some(n) => u32::try_from(n)
            .ok()
            .filter(|n| *n != NONE)
            .ok_or_else(|| io::Error::other("a row has more features than a shard holds"))?,
    };
    out.write_all(&length.to_le_bytes())
}

fn read_length(from: &mut impl Read) -> io::Result<Option<usize>> {
    let mut bytes = [0; 4];
    from.read_exact(&mut bytes)?;
    let length = u32::from_le_bytes(bytes);
    Ok((length != NONE).then_some(length as usize))
}

/// Memory is spent only on bytes that are there.
fn read_bytes(from: &mut impl Read, count: usize) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    from.take(count as u64).read_to_end(&mut bytes)?;
    if bytes.len() < count { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(bytes) }
}

fn read_text(from: &mut impl Read) -> io::Result<Option<String>> {
    let Some(length) = read_length(from)? else { return Ok(None) };
    let text = String::from_utf8(read_bytes(from, length)?).map_err(io::Error::other)?;
    Ok(Some(text))
}

/// What the records of a shard come to.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Summary {
    /// Records.
    pub records: u64,
    /// Rows of which some cell could not be read.
    pub bad: u64,
    /// The first few of their problems.
    pub problems: Vec<String>,
    /// Records that have each column.
    pub present: Vec<u64>,
    /// Numbers of each column, of all records together.
    pub values: Vec<u64>,
}

impl Summary {
    pub(super) fn new(columns: usize) -> Self {
        let none = vec![0; columns];
        Self { records: 0, bad: 0, problems: Vec::new(), present: none.clone(), values: none }
    }

    pub(super) fn add(&mut self, record: &Record) {
        self.records += 1;
        for (column, cell) in record.cells.iter().enumerate() {
            if let Some(values) = cell {
                self.present[column] += 1;
                self.values[column] += values.len() as u64;
            }
        }
    }

    pub(super) fn problem(&mut self, problem: &str, kept: usize) {
        self.bad += 1;
        if self.problems.len() < kept {
            self.problems.push(problem.to_owned());
        }
    }

    pub(super) fn join(&mut self, other: &Self, kept: usize) {
        self.records += other.records;
        self.bad += other.bad;
        let room = kept.saturating_sub(self.problems.len());
        self.problems.extend(other.problems.iter().take(room).cloned());
        for (sum, part) in [(&mut self.present, &other.present), (&mut self.values, &other.values)] {
            sum.iter_mut().zip(part).for_each(|(s, p)| *s += p);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_come_back_with_the_columns_that_were_asked_for() {
        let record = Record {
            row: 7,
            name: Some("甲".into()),
            error: None,
            cells: vec![Some(vec![1.5, -2.0]), None, Some(vec![0.25])],
        };
        let mut bytes = Vec::new();
        record.write(&mut bytes).expect("memory");
        let skip = |from: &mut &[u8], n: u64| {
            *from = from.get(n as usize..).ok_or(io::ErrorKind::UnexpectedEof)?;
            Ok(())
        };
        let stored = Stored::read(&mut bytes.as_slice(), 3, |c| c == 2, skip).expect("whole");
        assert_eq!((stored.row, stored.name.as_deref(), stored.error), (7, Some("甲"), None));
        assert_eq!(stored.cells.iter().map(|c| c.count).collect::<Vec<_>>(), [Some(2), None, Some(1)]);
        assert_eq!(stored.cells[2].values, [0.25]);
        assert!(stored.cells[0].values.is_empty());
        for cut in 0..bytes.len() {
            assert!(Stored::read(&mut &bytes[..cut], 3, |_| true, skip).is_err(), "cut at {cut}");
        }
    }
}
