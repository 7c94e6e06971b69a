//! Safetensors: `row`, and for each column its features as one tensor.
//!
//! Pooled, `COLUMN` `[rows, dim]` (NaN where missing) and `COLUMN.present`
//! `[rows]`; else `COLUMN` `[tokens of all rows, dim]` and `COLUMN.offsets`
//! `[rows + 1]`, where a row that lacks the column has no tokens. Sizes are
//! known once all shards are there, so every tensor streams.

use super::{Layout, Out};
use crate::Result;
use crate::extract::record::Summary;
use crate::extract::shards::Shards;
use serde_json::{Map, json};
use std::ops::Range;

/// What a tensor of the file holds.
enum Content {
    /// Row numbers, from 1.
    Rows,
    /// Where a column's rows begin and end in its tensor of tokens.
    Offsets(usize),
    /// A column's features.
    Features(usize),
    /// Whether a row has a column.
    Present(usize),
}

pub(super) fn write(out: &mut Out, layout: &Layout, shards: &Shards, range: Range<u64>) -> Result<()> {
    let mut sums = Summary::new(layout.columns.len());
    for shard in range.clone() {
        sums.join(&shards.reader(shard)?.summary, 0);
    }
    let rows = sums.records;
    // Wide numbers first: every tensor begins at a multiple of its own.
    let mut tensors = vec![(layout.own("row"), "I64", vec![rows], Content::Rows)];
    for (column, (name, _)) in layout.columns.iter().enumerate().filter(|_| !layout.pooled) {
        tensors.push((format!("{name}.offsets"), "I64", vec![rows + 1], Content::Offsets(column)));
    }
    for (column, (name, dim)) in layout.columns.iter().enumerate() {
        let dim = *dim as u64;
        let vectors = if layout.pooled { rows } else { sums.values[column] / dim.max(1) };
        tensors.push((name.clone(), "F32", vec![vectors, dim], Content::Features(column)));
    }
    for (column, (name, _)) in layout.columns.iter().enumerate().filter(|_| layout.pooled) {
        tensors.push((format!("{name}.present"), "BOOL", vec![rows], Content::Present(column)));
    }

    let mut header = Map::new();
    header.insert("__metadata__".into(), json!({"format": "pt"}));
    let mut place = 0;
    for (name, dtype, dims, _) in &tensors {
        let size = match *dtype {
            "I64" => 8,
            "F32" => 4,
            _ => 1,
        };
        let end = place + size * dims.iter().product::<u64>();
        let entry = json!({"dtype": dtype, "shape": dims, "data_offsets": [place, end]});
        if header.insert(name.clone(), entry).is_some() {
            return Err(out.failed(format!("two tensors would be called {name:?}; leave a column out with --column")));
        }
        place = end;
    }
    let mut header = serde_json::Value::Object(header).to_string();
    header += &" ".repeat(header.len().next_multiple_of(8) - header.len());
    out.put(&(header.len() as u64).to_le_bytes())?;
    out.put(header.as_bytes())?;

    for (_, _, _, content) in &tensors {
        let mut total = 0u64;
        if let Content::Offsets(_) = content {
            out.put(&0i64.to_le_bytes())?;
        }
        for shard in range.clone() {
            let mut reader = shards.reader(shard)?;
            while let Some(record) = reader.next(|c| matches!(content, Content::Features(column) if *column == c))? {
                match content {
                    Content::Rows => out.put(&(record.row as i64 + 1).to_le_bytes())?,
                    Content::Offsets(column) => {
                        let dim = layout.columns[*column].1.max(1);
                        total += (record.cells[*column].count.unwrap_or(0) / dim) as u64;
                        out.put(&(total as i64).to_le_bytes())?;
                    }
                    Content::Features(column) => match &record.cells[*column] {
                        cell if cell.count.is_some() => out.floats(&cell.values)?,
                        _ if layout.pooled => out.floats(&vec![f32::NAN; layout.columns[*column].1])?,
                        _ => {}
                    },
                    Content::Present(column) => out.put(&[u8::from(record.cells[*column].count.is_some())])?,
                }
            }
        }
    }
    Ok(())
}
