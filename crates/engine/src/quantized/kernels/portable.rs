//! Products of codes in plain Rust.

use super::{PANEL, Sums};

/// As [`super::Prepared::block`].
///
/// # Safety
/// As there.
pub(super) unsafe fn block(a: *const u8, rows: usize, depth: usize, b: *const i8, panels: usize, sums: &mut Sums) {
    for p in 0..panels {
        // SAFETY: the caller vouches for both extents.
        let panel = unsafe { std::slice::from_raw_parts(b.add(p * PANEL * depth), PANEL * depth) };
        for (r, row) in sums.0.iter_mut().take(rows).enumerate() {
            // SAFETY: as above.
            let a = unsafe { std::slice::from_raw_parts(a.add(r * depth), depth) };
            let mut lanes = [0_i32; PANEL];
            for (four, codes) in a.chunks_exact(4).zip(panel.chunks_exact(4 * PANEL)) {
                let four = [0, 1, 2, 3].map(|k| i32::from(four[k]));
                for (lane, q) in lanes.iter_mut().zip(codes.chunks_exact(4)) {
                    *lane += four[0] * i32::from(q[0])
                        + four[1] * i32::from(q[1])
                        + four[2] * i32::from(q[2])
                        + four[3] * i32::from(q[3]);
                }
            }
            row[p * PANEL..][..PANEL].copy_from_slice(&lanes);
        }
    }
}
