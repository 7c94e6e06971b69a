//! Attention over long segments in the tiles of AMX.
//!
//! The right factor of each product is split into its three parts and packed
//! once for all queries of a head, the left one tile row by tile row as the
//! product needs it (`matmul/split.rs` says why this is single precision). The
//! scores of a block of queries stand in the second-level cache; backward takes
//! keys in runs, so that their factors stay there too.

use super::kernels::{Kernels, Product, View, avx512};
use crate::matmul::tiles::{Amx, Kernel, Lines};

/// From so many queries and keys, and multiply-adds for the scores of a query,
/// on the tiles pay for their packing (measured from 32 to 384 keys, heads of
/// 32 to 128).
const ROWS_AT_LEAST: usize = 64;
const WORK_AT_LEAST: usize = 4096;
/// Lines of a tile pair, and elements of a step.
const UNIT: usize = 32;
/// Rows of A, and a run of the inner dimension, that are packed at once: they
/// and a panel of B stay in the first-level cache.
const ROWS: usize = 32;
const DEPTH: usize = 64;

/// The kernels for a segment as [`super::kernels::kernels_f32`] has it, if there
/// are tiles and they pay.
pub(super) fn kernels(rows: usize, work: usize) -> Option<&'static Kernels<f32>> {
    (rows >= ROWS_AT_LEAST && work >= WORK_AT_LEAST && crate::matmul::tiles::is_here()).then_some(KERNELS)
}

const KERNELS: &Kernels<f32> = &Kernels {
    lanes: UNIT,
    rows: UNIT,
    queries: UNIT,
    scores: 32 * 512,
    keys: 512,
    laid_out: |rows, cols| Amx::stored(rows) * cols.next_multiple_of(UNIT),
    lay_out,
    room: |depth| Amx::stored(depth.min(DEPTH)) * ROWS,
    begin: Amx::begin,
    end: Amx::end,
    product,
    ..*avx512::KERNELS
};

/// Panels of 32 columns of B.
///
/// # Safety
/// As [`Kernels::lay_out`].
unsafe fn lay_out(x: View<f32>, (rows, cols): (usize, usize), to: *mut f32) {
    let lines = Lines { data: x.data, line: x.strides.1, along: x.strides.0 };
    for first in (0..cols).step_by(UNIT) {
        // SAFETY: the caller's duty; the panel lies within what was laid out.
        unsafe {
            let panel = to.add(first * Amx::stored(rows));
            Amx::pack_right(lines, (first, UNIT.min(cols - first)), (0, rows), None, panel);
        }
    }
}

/// # Safety
/// As [`Kernels::product`], after [`Kernels::begin`].
unsafe fn product(p: Product<f32>) {
    let lines = Lines { data: p.a.data, line: p.a.strides.0, along: p.a.strides.1 };
    let panel = UNIT * Amx::stored(p.whole.0);
    for first in (0..p.rows).step_by(ROWS) {
        let rows = ROWS.min(p.rows - first);
        for begin in (0..p.depth).step_by(DEPTH) {
            let depth = DEPTH.min(p.depth - begin);
            let one = UNIT * Amx::stored(depth);
            let b = p.from.1 / UNIT * panel + UNIT * Amx::stored(p.from.0 + begin);
            // SAFETY: the caller's duty; C has whole tiles of rows, the room is
            // for `ROWS` rows over `DEPTH`.
            unsafe {
                for row in (0..rows).step_by(UNIT) {
                    let of = (first + row, UNIT.min(rows - row));
                    Amx::pack_left(lines, of, (begin, depth), None, p.room.add(row / UNIT * one));
                }
                for col in (0..p.cols).step_by(UNIT) {
                    let b = p.b.add(b + col / UNIT * panel);
                    for row in (0..rows).step_by(UNIT) {
                        let c = p.c.add((first + row) * p.c_stride + col);
                        let a = p.room.add(row / UNIT * one);
                        Amx::tile(UNIT, depth, a, b, c, p.c_stride, p.add || begin > 0, b.wrapping_add(panel));
                    }
                }
            }
        }
    }
}
