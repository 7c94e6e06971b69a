//! JSON lines: an object per row, null for a column that it lacks.

use super::{Layout, Out};
use crate::Result;
use crate::extract::shards::Shards;
use serde::Serialize;
use serde::ser::{SerializeMap, Serializer};
use std::ops::Range;

pub(super) fn write(out: &mut Out, layout: &Layout, shards: &Shards, range: Range<u64>) -> Result<()> {
    let (row, error) = (layout.own("row"), layout.own("error"));
    for shard in range {
        let mut reader = shards.reader(shard)?;
        while let Some(record) = reader.next(|_| true)? {
            let line = || -> serde_json::Result<Vec<u8>> {
                let mut line = Vec::new();
                let mut json = serde_json::Serializer::new(&mut line);
                let mut object = json.serialize_map(None)?;
                object.serialize_entry(&row, &(record.row + 1))?;
                if let Some(identifier) = &layout.identifier {
                    object.serialize_entry(identifier, &record.name)?;
                }
                for ((name, dim), cell) in layout.columns.iter().zip(&record.cells) {
                    match cell.count {
                        None => object.serialize_entry(name, &())?,
                        Some(_) if layout.pooled => object.serialize_entry(name, &cell.values)?,
                        Some(_) => object.serialize_entry(name, &Tokens(&cell.values, *dim))?,
                    }
                }
                if let Some(problem) = &record.error {
                    object.serialize_entry(&error, problem)?;
                }
                object.end()?;
                line.push(b'\n');
                Ok(line)
            };
            let line = line().map_err(|e| out.failed(e))?;
            out.put(&line)?;
        }
    }
    Ok(())
}

/// `[tokens, dim]` as a list of lists.
struct Tokens<'a>(&'a [f32], usize);

impl Serialize for Tokens<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        serializer.collect_seq(self.0.chunks(self.1.max(1)))
    }
}
