//! The tiles of AMX: whether they may be used, and how they are set up.
//!
//! The compiler knows nothing of tiles and never touches them, so they keep
//! their contents between pieces of assembly.

use std::arch::asm;
use std::arch::x86_64::{__cpuid_count, _xgetbv};
use std::sync::OnceLock;

/// Linux' `arch_prctl`, to ask for the use of tile data (8 KB of state).
const ARCH_PRCTL: i64 = 158;
const ARCH_REQ_XCOMP_PERM: u64 = 0x1023;
const XFEATURE_XTILEDATA: u64 = 18;

/// Bits of leaf 7's EDX.
const TILES: u32 = 1 << 24;
const BYTES: u32 = 1 << 25;
const HALVES: u32 = 1 << 22;

/// Whether tiles multiply bytes here; the system is asked the first time.
pub(crate) fn has_bytes() -> bool {
    features() & BYTES != 0
}

/// Whether tiles multiply bfloat16 here; the system is asked the first time.
pub(crate) fn has_halves() -> bool {
    features() & HALVES != 0
}

/// What tiles can do here: nothing where the processor has none, or the system
/// does not let this process use them.
fn features() -> u32 {
    static FEATURES: OnceLock<u32> = OnceLock::new();
    *FEATURES.get_or_init(|| {
        if !(is_x86_feature_detected!("xsave") && std::arch::x86_64::__cpuid(0).eax >= 7) {
            return 0;
        }
        let found = __cpuid_count(7, 0).edx;
        // The system must save the tiles' configuration (17) and data (18).
        // SAFETY: XSAVE is there; tiles are there where they are looked at.
        if found & TILES == 0 || unsafe { enabled_states() } >> 17 & 3 != 3 {
            return 0;
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
        if result == 0 { found & (BYTES | HALVES) } else { 0 }
    })
}

#[target_feature(enable = "xsave")]
fn enabled_states() -> u64 {
    // SAFETY: register 0 is there wherever XSAVE is enabled, and a processor
    // with tiles runs no system without it.
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
pub(crate) unsafe fn configure() {
    // SAFETY: reads 64 bytes of a static.
    unsafe { asm!("ldtilecfg [{}]", in(reg) CONFIGURATION.0.as_ptr(), options(nostack, readonly)) };
}

/// Gives the tiles of this thread up: their state need not be saved then.
///
/// # Safety
/// AMX is there and allowed.
pub(crate) unsafe fn release() {
    // SAFETY: touches tiles only.
    unsafe { asm!("tilerelease", options(nostack, nomem)) };
}
