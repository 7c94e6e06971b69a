//! Products of codes in AMX tiles: 16 rows × 64 codes times 64 codes × 16
//! columns in one instruction.

use super::{PANEL, Sums};
use std::arch::asm;

/// As [`super::Prepared::block`].
///
/// # Safety
/// As there, and the tiles are set up.
pub(super) unsafe fn block(a: *const u8, rows: usize, depth: usize, b: *const i8, panels: usize, sums: &mut Sums) {
    let steps = depth / 64;
    if steps == 0 {
        sums.0.iter_mut().for_each(|row| row.fill(0));
        return;
    }
    // A panel that is not there: the first once more, whose sums nobody reads.
    // SAFETY: within the panels.
    let second = unsafe { b.add((panels - 1) * PANEL * depth) };
    let to = sums.0.as_mut_ptr().cast::<u8>();
    if rows > 16 {
        // SAFETY: 32 rows of `a` (the caller rounds up to 16, and there are
        // more than 16), two panels, and 32 × 128 bytes of sums.
        unsafe {
            asm!(
                "tilezero tmm0",
                "tilezero tmm1",
                "tilezero tmm2",
                "tilezero tmm3",
                "2:",
                "tileloadd tmm4, [{a0} + {depth}]",
                "tileloadd tmm6, [{b0} + {line}]",
                "tileloadd tmm7, [{b1} + {line}]",
                "tdpbusd tmm0, tmm4, tmm6",
                "tileloadd tmm5, [{a1} + {depth}]",
                "tdpbusd tmm1, tmm4, tmm7",
                "tdpbusd tmm2, tmm5, tmm6",
                "tdpbusd tmm3, tmm5, tmm7",
                "add {a0}, 64",
                "add {a1}, 64",
                "add {b0}, 1024",
                "add {b1}, 1024",
                "dec {steps}",
                "jnz 2b",
                "tilestored [{to} + {line} * 2], tmm0",
                "tilestored [{to} + {line} * 2 + 64], tmm1",
                "tilestored [{to} + {line} * 2 + 2048], tmm2",
                "tilestored [{to} + {line} * 2 + 2112], tmm3",
                a0 = inout(reg) a => _,
                a1 = inout(reg) a.add(16 * depth) => _,
                b0 = inout(reg) b => _,
                b1 = inout(reg) second => _,
                depth = in(reg) depth,
                line = in(reg) 64_usize,
                to = in(reg) to,
                steps = inout(reg) steps => _,
                options(nostack),
            );
        }
    } else {
        // SAFETY: 16 rows of `a`, two panels, and 16 × 128 bytes of sums.
        unsafe {
            asm!(
                "tilezero tmm0",
                "tilezero tmm1",
                "2:",
                "tileloadd tmm4, [{a0} + {depth}]",
                "tileloadd tmm6, [{b0} + {line}]",
                "tileloadd tmm7, [{b1} + {line}]",
                "tdpbusd tmm0, tmm4, tmm6",
                "tdpbusd tmm1, tmm4, tmm7",
                "add {a0}, 64",
                "add {b0}, 1024",
                "add {b1}, 1024",
                "dec {steps}",
                "jnz 2b",
                "tilestored [{to} + {line} * 2], tmm0",
                "tilestored [{to} + {line} * 2 + 64], tmm1",
                a0 = inout(reg) a => _,
                b0 = inout(reg) b => _,
                b1 = inout(reg) second => _,
                depth = in(reg) depth,
                line = in(reg) 64_usize,
                to = in(reg) to,
                steps = inout(reg) steps => _,
                options(nostack),
            );
        }
    }
}
