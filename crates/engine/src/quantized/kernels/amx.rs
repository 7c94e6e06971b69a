//! Products of codes in AMX tiles: 16 rows × 64 codes times 64 codes × 16
//! columns in one instruction.
//!
//! The compiler knows nothing of tiles and never touches them, so they keep
//! their contents between the pieces of assembly below.

use super::{PANEL, Sums};
use std::arch::asm;
use std::arch::x86_64::{__cpuid_count, _xgetbv};

/// Linux' `arch_prctl`, to ask for the use of tile data (8 KB of state).
const ARCH_PRCTL: i64 = 158;
const ARCH_REQ_XCOMP_PERM: u64 = 0x1023;
const XFEATURE_XTILEDATA: u64 = 18;

/// Whether processor and system have AMX with 8-bit products, and the system
/// lets this process use it: it is asked the first time.
pub(super) fn is_allowed() -> bool {
    static ALLOWED: std::sync::OnceLock<bool> = std::sync::OnceLock::new();
    *ALLOWED.get_or_init(|| {
        if !(is_x86_feature_detected!("xsave") && std::arch::x86_64::__cpuid(0).eax >= 7) {
            return false;
        }
        let (tile, int8) = (1 << 24, 1 << 25);
        if __cpuid_count(7, 0).edx & (tile | int8) != tile | int8 {
            return false;
        }
        // The system must save the tiles' configuration (17) and data (18).
        // SAFETY: XSAVE is there, and AVX-512 (asked before) needs it enabled.
        let saved = unsafe { enabled_states() };
        if saved >> 17 & 3 != 3 {
            return false;
        }
        let mut result = ARCH_PRCTL;
        // SAFETY: a system call that reads two numbers and changes no memory
        // of ours; systems that do not know it answer with an error.
        unsafe {
            asm!(
                "syscall",
                inlateout("rax") result,
                in("rdi") ARCH_REQ_XCOMP_PERM,
                in("rsi") XFEATURE_XTILEDATA,
                out("rcx") _,
                out("r11") _,
                options(nostack),
            );
        }
        result == 0
    })
}

#[target_feature(enable = "xsave")]
fn enabled_states() -> u64 {
    // SAFETY: register 0 is there wherever XSAVE is.
    unsafe { _xgetbv(0) }
}

/// Palette 1: eight tiles of 16 rows of 64 bytes.
#[repr(C, align(64))]
struct Configuration([u8; 64]);

static CONFIGURATION: Configuration = {
    let mut bytes = [0; 64];
    bytes[0] = 1;
    let mut tile = 0;
    while tile < 8 {
        bytes[16 + 2 * tile] = 64;
        bytes[48 + tile] = 16;
        tile += 1;
    }
    Configuration(bytes)
};

/// Sets up the tiles of this thread.
///
/// # Safety
/// AMX is there and allowed.
pub(super) unsafe fn configure() {
    // SAFETY: reads 64 bytes of a static.
    unsafe { asm!("ldtilecfg [{}]", in(reg) CONFIGURATION.0.as_ptr(), options(nostack, readonly)) };
}

/// Gives the tiles of this thread up: their state need not be saved then.
///
/// # Safety
/// AMX is there and allowed.
pub(super) unsafe fn release() {
    // SAFETY: touches tiles only.
    unsafe { asm!("tilerelease", options(nostack, nomem)) };
}

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
