//! Copying blocks of a matrix into the order in which a micro-kernel reads
//! them.
//!
//! A *panel* holds a few *lines* (rows of A, columns of B) interleaved:
//! `panel[p * lines + i]` is element `p` of line `i`, so that the kernel reads
//! one run of memory from its begin to its end.

use super::{Map, Matrix};
use std::arch::x86_64::{_mm_loadu_ps, _mm_movehl_ps, _mm_movelh_ps, _mm_storeu_ps, _mm_unpackhi_ps, _mm_unpacklo_ps};

/// Lines of a matrix as the packing sees them: element `p` of line `i` is at
/// `data[i * line + p * along]`.
#[derive(Clone, Copy)]
pub(crate) struct Lines {
    pub(crate) data: *const f32,
    pub(crate) line: usize,
    pub(crate) along: usize,
}

// SAFETY: only read, and the matrix that it comes from is borrowed meanwhile.
unsafe impl Send for Lines {}
// SAFETY: as above.
unsafe impl Sync for Lines {}

impl Lines {
    /// The rows of A.
    pub(super) fn rows(a: &Matrix<'_, f32>) -> Self {
        Self { data: a.data.as_ptr(), line: a.row_stride, along: a.col_stride }
    }

    /// The columns of B.
    pub(super) fn columns(b: &Matrix<'_, f32>) -> Self {
        Self { data: b.data.as_ptr(), line: b.col_stride, along: b.row_stride }
    }

    /// Packs lines `first..first + count`, elements `from..from + depth`, into
    /// one panel of `full` lines; those past `count` are zeros. Then applies
    /// `map` to the panel.
    ///
    /// # Safety
    /// The lines and elements lie in the matrix; `panel` is valid for `depth *
    /// full` elements; `count` is at most `full`.
    pub(super) unsafe fn pack(
        self,
        (first, count): (usize, usize),
        (from, depth): (usize, usize),
        full: usize,
        map: Option<Map<f32>>,
        panel: *mut f32,
    ) {
        // SAFETY: the caller's duty.
        unsafe {
            self.interleave((first, count), (from, depth), full, panel);
            if let Some(map) = map {
                map(std::slice::from_raw_parts_mut(panel, depth * full));
            }
        }
    }

    /// # Safety
    /// As [`Lines::pack`].
    unsafe fn interleave(
        self,
        (first, count): (usize, usize),
        (from, depth): (usize, usize),
        full: usize,
        panel: *mut f32,
    ) {
        // SAFETY: the caller's duty; all offsets below are those named.
        unsafe {
            let source = self.data.add(first * self.line + from * self.along);
            if count < full {
                panel.write_bytes(0, depth * full);
            }
            if self.line == 1 {
                match count {
                    32 => copy_runs::<32>(source, self.along, depth, full, panel),
                    16 => copy_runs::<16>(source, self.along, depth, full, panel),
                    12 => copy_runs::<12>(source, self.along, depth, full, panel),
                    6 => copy_runs::<6>(source, self.along, depth, full, panel),
                    _ => {
                        for p in 0..depth {
                            std::ptr::copy_nonoverlapping(source.add(p * self.along), panel.add(p * full), count);
                        }
                    }
                }
                return;
            }
            let fours = if self.along == 1 { count / 4 * 4 } else { 0 };
            for i in (0..fours).step_by(4) {
                interleave_four(source.add(i * self.line), self.line, depth, full, panel.add(i));
            }
            for i in fours..count {
                let from = source.add(i * self.line);
                for p in 0..depth {
                    *panel.add(p * full + i) = *from.add(p * self.along);
                }
            }
        }
    }
}

/// Copies `depth` runs of `N` neighbouring elements.
///
/// # Safety
/// As [`Lines::pack`], with lines next to each other.
unsafe fn copy_runs<const N: usize>(source: *const f32, along: usize, depth: usize, full: usize, panel: *mut f32) {
    for p in 0..depth {
        // SAFETY: the caller's duty; a constant length becomes vector moves.
        unsafe {
            panel
                .add(p * full)
                .cast::<[f32; N]>()
                .write_unaligned(source.add(p * along).cast::<[f32; N]>().read_unaligned())
        };
    }
}

/// Interleaves four lines whose elements are neighbours, four elements at a
/// time through a transposition in registers.
///
/// # Safety
/// `source` is valid for `depth` elements of each of four lines `line` apart,
/// `panel` for four neighbours at every `full`-th place.
unsafe fn interleave_four(source: *const f32, line: usize, depth: usize, full: usize, panel: *mut f32) {
    let whole = depth / 4 * 4;
    // SAFETY: the caller's duty. SSE2 is part of every x86-64.
    unsafe {
        let s = [0, 1, 2, 3].map(|r| source.add(r * line));
        for p in (0..whole).step_by(4) {
            let rows = s.map(|s| _mm_loadu_ps(s.add(p)));
            let (a, b) = (_mm_unpacklo_ps(rows[0], rows[1]), _mm_unpackhi_ps(rows[0], rows[1]));
            let (c, d) = (_mm_unpacklo_ps(rows[2], rows[3]), _mm_unpackhi_ps(rows[2], rows[3]));
            let to = panel.add(p * full);
            _mm_storeu_ps(to, _mm_movelh_ps(a, c));
            _mm_storeu_ps(to.add(full), _mm_movehl_ps(c, a));
            _mm_storeu_ps(to.add(2 * full), _mm_movelh_ps(b, d));
            _mm_storeu_ps(to.add(3 * full), _mm_movehl_ps(d, b));
        }
        for p in whole..depth {
            for (i, s) in s.iter().enumerate() {
                *panel.add(p * full + i) = *s.add(p);
            }
        }
    }
}
