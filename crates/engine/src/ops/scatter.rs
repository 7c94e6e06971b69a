//! Selecting rows of a table by index, and adding rows back to where they
//! came from in an order that no thread can change.

use super::loops::{add_row, row};
use crate::parallel::{reduce_rows, rows_mut, rows_mut_for};
use crate::{Element, EngineError, Result};

/// Requires every index to be below `limit`.
pub(crate) fn check_index(op: &'static str, index: &[u32], limit: usize) -> Result<()> {
    match index.iter().position(|&i| i as usize >= limit) {
        None => Ok(()),
        Some(position) => Err(EngineError::Index { op, index: index[position] as usize, position, limit }),
    }
}

/// out[i] ← table[index[i]]
pub(crate) fn select<E: Element>(out: &mut [E], table: &[E], index: &[u32], cols: usize) {
    rows_mut(out, cols, |first, rows| {
        for (o, &i) in rows.chunks_exact_mut(cols).zip(&index[first..]) {
            o.copy_from_slice(row(table, i as usize, cols));
        }
    });
}

/// table[index[i]] ← table[index[i]] + d[i] for all i in order; `table` is
/// set to zero first unless `add`.
pub(crate) fn scatter_add<E: Element>(table: &mut [E], add: bool, d: &[E], index: &[u32], cols: usize) {
    if table.is_empty() {
        return;
    }
    // A table much smaller than what is added (modalities, positions) is cut
    // by what is added, a larger one by its own rows. Shapes alone decide.
    if table.len() * 8 <= d.len() {
        let mut sum = crate::buffer::Buffer::any(table.len());
        reduce_rows(index.len(), cols, &mut sum, |from, to, part| {
            for (&i, x) in index[from..to].iter().zip(d[from * cols..to * cols].chunks_exact(cols)) {
                add_row(&mut part[i as usize * cols..][..cols], x);
            }
        });
        if add {
            add_row(table, &sum);
        } else {
            table.copy_from_slice(&sum);
        }
        return;
    }
    let rows = table.len() / cols;
    let (starts, positions) = group(index, rows);
    let work = cols + d.len() / rows;
    rows_mut_for(table, cols, work, |first, part| {
        for (i, out) in part.chunks_exact_mut(cols).enumerate() {
            if !add {
                out.fill(E::ZERO);
            }
            for &p in &positions[starts[first + i]..starts[first + i + 1]] {
                add_row(out, row(d, p as usize, cols));
            }
        }
    });
}

/// The positions at which each of `rows` indices occurs, ascending, laid end
/// to end, and where each index's positions begin (a counting sort).
pub(crate) fn group(index: &[u32], rows: usize) -> (Vec<usize>, Vec<u32>) {
    let mut starts = vec![0; rows + 1];
    for &i in index {
        starts[i as usize + 1] += 1;
    }
    for i in 0..rows {
        starts[i + 1] += starts[i];
    }
    let mut next = starts.clone();
    let mut positions = vec![0; index.len()];
    for (p, &i) in index.iter().enumerate() {
        positions[next[i as usize]] = p as u32;
        next[i as usize] += 1;
    }
    (starts, positions)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Random, with_threads};

    fn sums_in_order(table: &mut [f32], d: &[f32], index: &[u32], cols: usize) {
        for (i, x) in index.iter().zip(d.chunks(cols)) {
            for (o, x) in table[*i as usize * cols..].iter_mut().zip(x) {
                *o += *x;
            }
        }
    }

    #[test]
    fn both_ways_add_every_row_once_and_threads_do_not_matter() {
        let r = Random::new(5);
        // A table larger than what is added, and one far smaller.
        for (rows, n, cols) in [(5000, 700, 7), (3, 5000, 13), (1, 0, 4)] {
            let index: Vec<u32> = (0..n).map(|i| r.below(i, rows as u64) as u32).collect();
            let d: Vec<f32> = (0..n * cols).map(|i| r.normal(i) as f32).collect();
            let run = |threads, add| {
                let mut table = vec![0.5_f32; rows * cols as usize];
                with_threads(threads, || scatter_add(&mut table, add, &d, &index, cols as usize)).map(|()| table)
            };
            for add in [false, true] {
                let mut want = vec![if add { 0.5 } else { 0.0 }; rows * cols as usize];
                sums_in_order(&mut want, &d, &index, cols as usize);
                let one = run(1, add).expect("threads");
                for (a, b) in one.iter().zip(&want) {
                    assert!((a - b).abs() < 1e-3, "{a} is not {b}");
                }
                assert_eq!(one, run(4, add).expect("threads"));
            }
        }
    }
}
