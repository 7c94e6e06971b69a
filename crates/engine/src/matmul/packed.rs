//! The packed product around a micro-kernel (Goto and van de Geijn, "Anatomy
//! of high-performance matrix multiplication", 2008).
//!
//! B is packed into panels of the kernel's columns, A into panels of its rows,
//! each once per slice of the inner dimension and by all threads; then blocks
//! of C are computed as independent tasks.

use super::kernels::Kernel;
use super::{Output, Product, Shared};
use rayon::prelude::*;
use std::cell::RefCell;

/// Inner dimension per pass: a panel of B (`DEPTH × COLS`) stays in L1.
const DEPTH: usize = 256;
/// Rows of A packed at once, which bounds the packing memory.
const BAND: usize = 3072;
/// Columns of B packed at once.
const SLAB: usize = 3072;
/// Target size of a task's block of C.
const TASK_ROWS: usize = 96;
const TASK_COLS: usize = 768;
/// Multiply-adds below which one thread does the whole product.
const SEQUENTIAL: usize = 1 << 17;

/// Packing memory of one thread, cache-line aligned, kept between products.
type Packed = crate::Buffer<f32>;

thread_local! {
    static PANELS: RefCell<(Option<Packed>, Option<Packed>)> = const { RefCell::new((None, None)) };
}

fn at_least(buffer: Option<Packed>, len: usize) -> Packed {
    match buffer {
        Some(b) if b.len() >= len => b,
        _ => Packed::any(len),
    }
}

#[derive(Clone, Copy)]
struct Ptr(*mut f32);
// SAFETY: used only to reach disjoint panels or tiles from different tasks.
unsafe impl Send for Ptr {}
// SAFETY: as above.
unsafe impl Sync for Ptr {}
impl Ptr {
    /// SAFETY of the callers: `offset` lies within the buffer.
    unsafe fn at(self, offset: usize) -> *mut f32 {
        // SAFETY: the caller's duty.
        unsafe { self.0.add(offset) }
    }
}

pub(super) fn product<K: Kernel>(p: Product<'_, f32>) {
    let Product { a, b, c, accumulate, parallel } = p;
    let (m, n, k) = (c.rows, c.cols, a.cols);
    let parallel = parallel && m * n * k > SEQUENTIAL && rayon::current_num_threads() > 1;

    // Taken out of the thread's slot while in use: a thread that waits for
    // its tasks may be handed another product to run meanwhile.
    let (held_a, held_b) = PANELS.with(|cell| std::mem::take(&mut *cell.borrow_mut()));
    let depth = DEPTH.min(k);
    let mut packed_a = at_least(held_a, depth * BAND.min(m).next_multiple_of(K::ROWS));
    let mut packed_b = at_least(held_b, depth * SLAB.min(n).next_multiple_of(K::COLS));
    let (pa, pb) = (Ptr(packed_a.as_mut_ptr()), Ptr(packed_b.as_mut_ptr()));

    for col in (0..n).step_by(SLAB) {
        let cols = SLAB.min(n - col);
        for inner in (0..k).step_by(DEPTH) {
            let depth = DEPTH.min(k - inner);
            let pack_b = |panel: usize| {
                let first = col + panel * K::COLS;
                let width = K::COLS.min(col + cols - first);
                // SAFETY: the source lies within B (checked when it was
                // made), the panel within the packed buffer, and each panel
                // is written by one task.
                unsafe {
                    pack(
                        b.data.as_ptr().add(inner * b.row_stride + first * b.col_stride),
                        b.col_stride,
                        b.row_stride,
                        width,
                        depth,
                        K::COLS,
                        pb.at(panel * depth * K::COLS),
                    );
                }
            };
            each(cols.div_ceil(K::COLS), parallel, 4, pack_b);
            for row in (0..m).step_by(BAND) {
                let rows = BAND.min(m - row);
                let pack_a = |panel: usize| {
                    let first = row + panel * K::ROWS;
                    let width = K::ROWS.min(row + rows - first);
                    // SAFETY: as for B.
                    unsafe {
                        pack(
                            a.data.as_ptr().add(first * a.row_stride + inner * a.col_stride),
                            a.row_stride,
                            a.col_stride,
                            width,
                            depth,
                            K::ROWS,
                            pa.at(panel * depth * K::ROWS),
                        );
                    }
                };
                each(rows.div_ceil(K::ROWS), parallel, 8, pack_a);

                let task_rows = TASK_ROWS.next_multiple_of(K::ROWS);
                let (down, across) = (rows.div_ceil(task_rows), cols.div_ceil(TASK_COLS));
                let add = accumulate || inner > 0;
                let out = Shared(|task: usize| {
                    // Capture the whole output, not its raw pointer.
                    let c: &Output<'_, f32> = &c;
                    let (i0, j0) = ((task / across) * task_rows, (task % across) * TASK_COLS);
                    let (i1, j1) = ((i0 + task_rows).min(rows), (j0 + TASK_COLS).min(cols));
                    // SAFETY: tasks cover disjoint blocks of C; the panels
                    // were packed above and are only read now.
                    unsafe {
                        block::<K>(
                            (i0, i1),
                            (j0, j1),
                            depth,
                            pa.at(0),
                            pb.at(0),
                            c.data.add(row * c.stride + col),
                            c.stride,
                            add,
                        );
                    }
                });
                if parallel {
                    (0..down * across).into_par_iter().with_max_len(1).for_each(|t| out.call(t));
                } else {
                    (0..down * across).for_each(|t| out.call(t));
                }
            }
        }
    }
    PANELS.with(|cell| *cell.borrow_mut() = (Some(packed_a), Some(packed_b)));
}

fn each(count: usize, parallel: bool, at_a_time: usize, f: impl Fn(usize) + Send + Sync) {
    if parallel {
        (0..count).into_par_iter().with_min_len(at_a_time).for_each(f);
    } else {
        (0..count).for_each(f);
    }
}

/// Copies `width` lines of `depth` elements into one panel, interleaved:
/// `panel[p * full + i] = line i, element p`; lines past `width` are zeros.
///
/// # Safety
/// `source` is valid for all `i * line + p * along`, `panel` for `depth * full`.
unsafe fn pack(
    source: *const f32,
    line: usize,
    along: usize,
    width: usize,
    depth: usize,
    full: usize,
    panel: *mut f32,
) {
    // SAFETY: the caller's duty; all offsets below are the ones named.
    unsafe {
        if width < full {
            panel.write_bytes(0, depth * full);
        }
        if line == 1 {
            for p in 0..depth {
                std::ptr::copy_nonoverlapping(source.add(p * along), panel.add(p * full), width);
            }
        } else if width == full && along == 1 && full.is_multiple_of(4) {
            transpose_by_fours(source, line, depth, full, panel);
        } else {
            for i in 0..width {
                let from = source.add(i * line);
                for p in 0..depth {
                    *panel.add(p * full + i) = *from.add(p * along);
                }
            }
        }
    }
}

/// Four lines at a time: whole cache lines are read, four neighbours written.
///
/// # Safety
/// As [`pack`], with `width == full`, a multiple of four.
unsafe fn transpose_by_fours(source: *const f32, line: usize, depth: usize, full: usize, panel: *mut f32) {
    // SAFETY: the caller's duty.
    unsafe {
        for i in (0..full).step_by(4) {
            let s = [0, 1, 2, 3].map(|r| source.add((i + r) * line));
            for p in 0..depth {
                let d = panel.add(p * full + i);
                *d = *s[0].add(p);
                *d.add(1) = *s[1].add(p);
                *d.add(2) = *s[2].add(p);
                *d.add(3) = *s[3].add(p);
            }
        }
    }
}

/// One block of C: the panel of B stays in L1 while the panels of A pass.
///
/// # Safety
/// The packed panels cover the block's rows and columns; C is valid for it and
/// nobody else touches it.
unsafe fn block<K: Kernel>(
    (i0, i1): (usize, usize),
    (j0, j1): (usize, usize),
    depth: usize,
    pa: *const f32,
    pb: *const f32,
    c: *mut f32,
    stride: usize,
    accumulate: bool,
) {
    // The largest tile of any kernel.
    let mut edge = [0.0_f32; 12 * 32];
    for j in (j0..j1).step_by(K::COLS) {
        let width = K::COLS.min(j1 - j);
        for i in (i0..i1).step_by(K::ROWS) {
            let height = K::ROWS.min(i1 - i);
            // SAFETY: the caller's duty; a tile that would reach beyond C is
            // computed beside it and its part copied.
            unsafe {
                let (a, b) = (pa.add(i * depth), pb.add(j * depth));
                let tile = c.add(i * stride + j);
                if height == K::ROWS && width == K::COLS {
                    K::tile(depth, a, b, tile, stride, accumulate);
                    continue;
                }
                K::tile(depth, a, b, edge.as_mut_ptr(), K::COLS, false);
                for r in 0..height {
                    for s in 0..width {
                        let to = tile.add(r * stride + s);
                        *to = if accumulate { *to } else { 0.0 } + edge[r * K::COLS + s];
                    }
                }
            }
        }
    }
}
