//! NumPy's `.npy`: one column `[rows, dim]`, rows without it all NaN.

use super::{Layout, Out};
use crate::Result;
use crate::extract::shards::Shards;
use std::ops::Range;

pub(super) fn write(out: &mut Out, layout: &Layout, shards: &Shards, range: Range<u64>) -> Result<()> {
    let dim = layout.columns[0].1;
    let mut rows = 0;
    for shard in range.clone() {
        rows += shards.reader(shard)?.summary.records;
    }
    let mut header = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': ({rows}, {dim}), }}");
    // Magic, version and length are 10 bytes; all together a multiple of 64.
    let padding = 63 - (10 + header.len()) % 64;
    header += &" ".repeat(padding);
    header.push('\n');
    out.put(b"\x93NUMPY\x01\x00")?;
    out.put(&(header.len() as u16).to_le_bytes())?;
    out.put(header.as_bytes())?;
    let missing = vec![f32::NAN; dim];
    for shard in range {
        let mut reader = shards.reader(shard)?;
        while let Some(record) = reader.next(|_| true)? {
            let cell = &record.cells[0];
            out.floats(if cell.count.is_some() { &cell.values } else { &missing })?;
        }
    }
    Ok(())
}
