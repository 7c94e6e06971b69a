//! The innermost loops of a product of codes, one file for each instruction
//! set. All add whole numbers in 32 bits, so all give the same sums.

#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
mod amx;
mod portable;
#[cfg(target_arch = "x86_64")]
mod x86;

use super::rows::BLOCK;
use super::weights::{PANEL, STEP};

/// Sums of one block: [`BLOCK`] rows of two panels.
#[repr(C, align(64))]
pub(super) struct Sums(pub [[i32; 2 * PANEL]; BLOCK]);

/// A way to multiply codes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kernel {
    /// Plain Rust, for every processor.
    Portable,
    /// AVX2: products of 16-bit pairs, which never saturate.
    Avx2,
    /// AVX-VNNI: four products at a time in 256-bit registers.
    AvxVnni,
    /// AVX-512 VNNI: the same in 512-bit registers.
    Avx512Vnni,
    /// AMX: tiles of 16 × 16 sums.
    Amx,
}

impl Kernel {
    /// The best one here. `SENSORIUM_SIMD=baseline|avx2|avx512` allows less:
    /// `avx512` leaves out AMX.
    pub fn best() -> Self {
        static BEST: std::sync::OnceLock<Kernel> = std::sync::OnceLock::new();
        *BEST.get_or_init(|| {
            let most = match std::env::var("SENSORIUM_SIMD").as_deref() {
                Ok("baseline") => Self::Portable,
                Ok("avx2") => Self::Avx2,
                Ok("avx512") => Self::Avx512Vnni,
                _ => Self::Amx,
            };
            let usable = |k: &&Self| **k <= most && k.is_here();
            Self::ALL.iter().rev().find(usable).copied().unwrap_or(Self::Portable)
        })
    }

    /// All of them, from the slowest.
    pub const ALL: [Self; 5] = [Self::Portable, Self::Avx2, Self::AvxVnni, Self::Avx512Vnni, Self::Amx];

    /// Whether this processor and system can run it.
    pub fn is_here(self) -> bool {
        match self {
            Self::Portable => true,
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => is_x86_feature_detected!("avx2"),
            #[cfg(target_arch = "x86_64")]
            Self::AvxVnni => is_x86_feature_detected!("avx2") && is_x86_feature_detected!("avxvnni"),
            #[cfg(target_arch = "x86_64")]
            Self::Avx512Vnni => has_avx512bw() && is_x86_feature_detected!("avx512vnni"),
            // Its edges and what surrounds it are AVX-512.
            #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
            Self::Amx => has_avx512bw() && crate::amx::has_bytes(),
            #[allow(unreachable_patterns)]
            _ => false,
        }
    }

    /// Rows that it computes at a time; a block of fewer costs no more.
    pub(super) fn prepare(self) -> Prepared {
        #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
        if self == Self::Amx {
            // SAFETY: the caller of `block` has chosen a kernel that is here.
            unsafe { crate::amx::configure() };
        }
        Prepared(self)
    }
}

/// A kernel whose registers are set up on this thread until it is dropped.
pub(super) struct Prepared(Kernel);

impl Prepared {
    /// Sums of products of `rows` (at most [`BLOCK`]) rows of `a`, `depth`
    /// apart, with one or two panels.
    ///
    /// Of `sums` the first `rows` rows and the columns of the panels are
    /// written, perhaps more.
    ///
    /// # Safety
    /// The kernel is here; `depth` is a multiple of [`STEP`]; `a` is valid for
    /// `rows` rounded up to 16, `depth` bytes each; `panels` for one or two
    /// panels of `PANEL * depth`.
    pub unsafe fn block(&self, a: *const u8, rows: usize, depth: usize, panels: &[i8], sums: &mut Sums) {
        debug_assert!(rows <= BLOCK && depth.is_multiple_of(STEP));
        let count = panels.len() / (PANEL * depth).max(1);
        debug_assert!(count == 1 || count == 2 || depth == 0);
        let b = panels.as_ptr();
        // SAFETY: the caller's duty.
        unsafe {
            match self.0 {
                Kernel::Portable => portable::block(a, rows, depth, b, count, sums),
                #[cfg(target_arch = "x86_64")]
                Kernel::Avx2 => x86::avx2(a, rows, depth, b, count, sums),
                #[cfg(target_arch = "x86_64")]
                Kernel::AvxVnni => x86::avx_vnni(a, rows, depth, b, count, sums),
                #[cfg(target_arch = "x86_64")]
                Kernel::Avx512Vnni => x86::avx512_vnni(a, rows, depth, b, count, sums),
                #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
                Kernel::Amx => amx::block(a, rows, depth, b, count, sums),
                #[allow(unreachable_patterns)]
                _ => portable::block(a, rows, depth, b, count, sums),
            }
        }
    }
}

impl Drop for Prepared {
    fn drop(&mut self) {
        #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
        if self.0 == Kernel::Amx {
            // SAFETY: set up by `prepare`.
            unsafe { crate::amx::release() };
        }
    }
}

/// AVX-512 with operations on bytes, for loops around the products.
#[cfg(target_arch = "x86_64")]
pub(super) fn has_avx512bw() -> bool {
    is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512bw") && is_x86_feature_detected!("avx512vl")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Random;

    /// Σ a·b, one product after the other.
    fn oracle(a: &[u8], b: &[i8]) -> i32 {
        a.iter().zip(b).map(|(a, b)| i32::from(*a) * i32::from(*b)).sum()
    }

    #[test]
    fn every_kernel_gives_the_same_sums() {
        let random = Random::new(1).purpose("kernels");
        for depth in [64, 128, 192, 960] {
            for extreme in [false, true] {
                // Extremes are what saturates in products of pairs.
                let a: Vec<u8> = (0..BLOCK * depth)
                    .map(|i| if extreme { 255 } else { (random.uniform(i as u64) * 256.0) as u8 })
                    .collect();
                let b: Vec<i8> = (0..2 * PANEL * depth)
                    .map(|i| match extreme {
                        true => [-128, 127][i / 64 % 2],
                        false => (random.uniform((1 << 32) + i as u64) * 256.0 - 128.0) as i8,
                    })
                    .collect();
                let weight = |column: usize, k: usize| {
                    b[column / PANEL * PANEL * depth..][k / 4 * 64 + column % PANEL * 4 + k % 4]
                };
                for kernel in Kernel::ALL.into_iter().filter(|k| k.is_here()) {
                    let prepared = kernel.prepare();
                    for (rows, panels) in [(1, 2), (5, 1), (16, 2), (17, 2), (31, 1), (32, 2)] {
                        let mut sums = Sums([[i32::MIN; 2 * PANEL]; BLOCK]);
                        // SAFETY: the kernel is here, the slices are as long as it needs.
                        unsafe {
                            prepared.block(a.as_ptr(), rows, depth, &b[..panels * PANEL * depth], &mut sums);
                        }
                        for (r, row) in sums.0.iter().take(rows).enumerate() {
                            for (c, sum) in row.iter().take(panels * PANEL).enumerate() {
                                let column: Vec<i8> = (0..depth).map(|k| weight(c, k)).collect();
                                let want = oracle(&a[r * depth..][..depth], &column);
                                assert_eq!(*sum, want, "{kernel:?}: {rows} rows, depth {depth}, at {r}, {c}");
                            }
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn the_best_kernel_is_here() {
        assert!(Kernel::best().is_here());
    }
}
