//! Single precision on the tiles of AMX, which multiply bfloat16.
//!
//! A number of 24 binary digits is exactly the sum of three of 8:
//! x = x₁ + x₂ + x₃, where x₁ is x rounded to bfloat16, x₂ what is missing,
//! rounded again, and x₃ the rest. Of the nine products of a·b the six that
//! matter, a₁b₁ + a₁b₂ + a₂b₁ + a₁b₃ + a₂b₂ + a₃b₁, are added up in single
//! precision; what is left out is below 2⁻²⁴ of a·b, the error of rounding one
//! product. So no digit of a factor is dropped, and the sums come out nearer
//! to the exact ones than those of a chain of fused multiply-adds (the tests
//! compare the two). One instruction does what takes 512 multiply-adds of 512
//! bits, in the time of 32 of them; even six of it are faster.
//!
//! Two things differ from multiply-adds: parts below 2⁻¹²⁶ count as zero, so
//! that factors below 10⁻³³ lose their last digits, and an infinite factor
//! gives NaN.
//!
//! Packed memory, for rows of A and columns of B alike: *steps* of 32 elements
//! of the inner dimension; in each the three parts; of each part two tiles of
//! 16 lines; of each tile 16 rows of 64 bytes. One 32-bit place holds the
//! elements `j` and `j + 16` of a step (any pairing will do that both sides
//! share). A row of a tile of A is a line, its places are the pairs; a row of a
//! tile of B is a pair, its places are the lines.

use super::Map;
use super::kernels::Kernel;
use super::packing::Lines;
use std::arch::asm;
use std::arch::x86_64::{
    __m512, __m512i, _MM_HINT_T0, _mm_loadu_ps, _mm_prefetch, _mm512_add_epi32, _mm512_and_si512, _mm512_castps_si512,
    _mm512_castps128_ps512, _mm512_castsi512_ps, _mm512_insertf32x4, _mm512_loadu_ps, _mm512_or_si512,
    _mm512_set1_epi32, _mm512_shuffle_ps, _mm512_srli_epi32, _mm512_storeu_ps, _mm512_storeu_si512, _mm512_sub_ps,
    _mm512_unpackhi_ps, _mm512_unpacklo_ps,
};

/// Elements of the inner dimension in one step.
const STEP: usize = 32;
/// Lines in one tile.
const LINES: usize = 16;
/// 32-bit places in one tile.
const TILE: usize = 256;
/// 32-bit places in one step of a panel: three parts of two tiles.
const PLACES: usize = 6 * TILE;

/// Whether processor and system have AMX with bfloat16. `SENSORIUM_SIMD`
/// allows less: `avx512` leaves AMX out.
pub(crate) fn is_here() -> bool {
    static HERE: std::sync::OnceLock<bool> = std::sync::OnceLock::new();
    *HERE.get_or_init(|| {
        let allowed = std::env::var("SENSORIUM_SIMD").as_deref() != Ok("avx512");
        allowed && crate::level() == crate::Level::Avx512 && crate::amx::has_halves()
    })
}

/// 32 × 32 in four of eight tiles.
pub(crate) struct Amx;

impl Kernel for Amx {
    const ROWS: usize = 32;
    const COLS: usize = 32;
    // Panels pass through the first-level cache; what counts more is how seldom
    // C is read and written.
    const DEPTH: usize = 384;
    const UNIT: usize = STEP;
    const ANY_HEIGHT: bool = false;

    fn stored(depth: usize) -> usize {
        depth.next_multiple_of(STEP) / 2 * 3
    }

    fn begin() {
        // SAFETY: the kernel is chosen only where AMX is there and allowed.
        unsafe { crate::amx::configure() };
    }

    fn end() {
        // SAFETY: as above.
        unsafe { crate::amx::release() };
    }

    unsafe fn pack_left(rows: Lines, of: (usize, usize), run: (usize, usize), map: Option<Map<f32>>, panel: *mut f32) {
        // SAFETY: the caller's duty; AMX is there, so AVX-512 is.
        unsafe { pack::<true>(rows, of, run, map, panel.cast()) };
    }

    unsafe fn pack_right(cols: Lines, of: (usize, usize), run: (usize, usize), map: Option<Map<f32>>, panel: *mut f32) {
        // SAFETY: as above.
        unsafe { pack::<false>(cols, of, run, map, panel.cast()) };
    }

    unsafe fn tile(
        _height: usize,
        depth: usize,
        a: *const f32,
        b: *const f32,
        c: *mut f32,
        stride: usize,
        accumulate: bool,
        next: *const f32,
    ) {
        let (line, across) = (64_usize, stride * 4);
        // SAFETY: the caller vouches for 32 rows of 32 places at `c`, and for
        // the steps of both panels; the tiles are set up.
        unsafe {
            let below = c.add(LINES * stride);
            if accumulate {
                asm!(
                    "tileloadd tmm0, [{c} + {across}]",
                    "tileloadd tmm1, [{c} + {across} + 64]",
                    "tileloadd tmm2, [{below} + {across}]",
                    "tileloadd tmm3, [{below} + {across} + 64]",
                    c = in(reg) c,
                    below = in(reg) below,
                    across = in(reg) across,
                    options(nostack, readonly),
                );
            } else {
                asm!("tilezero tmm0", "tilezero tmm1", "tilezero tmm2", "tilezero tmm3", options(nostack, nomem));
            }
            // Small products first; each pair of tiles is loaded as late as it
            // can be, seven pairs for twenty-four products.
            asm!(
                "2:",
                // a₁b₃
                "prefetcht1 [{next} + 0]",
                "prefetcht1 [{next} + 64]",
                "tileloadd tmm4, [{a} + {line}]",
                "tileloadd tmm6, [{b} + {line} + 4096]",
                "tdpbf16ps tmm0, tmm4, tmm6",
                "tileloadd tmm7, [{b} + {line} + 5120]",
                "tdpbf16ps tmm1, tmm4, tmm7",
                "tileloadd tmm5, [{a} + {line} + 1024]",
                "tdpbf16ps tmm2, tmm5, tmm6",
                "tdpbf16ps tmm3, tmm5, tmm7",
                // a₁b₂
                "prefetchw [{after}]",
                "prefetchw [{after} + 64]",
                "add {after}, {across}",
                "prefetcht1 [{next} + 128]",
                "prefetcht1 [{next} + 192]",
                "tileloadd tmm6, [{b} + {line} + 2048]",
                "tdpbf16ps tmm0, tmm4, tmm6",
                "tileloadd tmm7, [{b} + {line} + 3072]",
                "tdpbf16ps tmm1, tmm4, tmm7",
                "tdpbf16ps tmm2, tmm5, tmm6",
                "tdpbf16ps tmm3, tmm5, tmm7",
                // a₂b₂
                "prefetchw [{after}]",
                "prefetchw [{after} + 64]",
                "add {after}, {across}",
                "prefetcht1 [{next} + 256]",
                "prefetcht1 [{next} + 320]",
                "tileloadd tmm4, [{a} + {line} + 2048]",
                "tdpbf16ps tmm0, tmm4, tmm6",
                "tdpbf16ps tmm1, tmm4, tmm7",
                "tileloadd tmm5, [{a} + {line} + 3072]",
                "tdpbf16ps tmm2, tmm5, tmm6",
                "tdpbf16ps tmm3, tmm5, tmm7",
                // a₂b₁
                "prefetchw [{after}]",
                "prefetchw [{after} + 64]",
                "add {after}, {across}",
                "prefetcht1 [{next} + 384]",
                "prefetcht1 [{next} + 448]",
                "tileloadd tmm6, [{b} + {line}]",
                "tdpbf16ps tmm0, tmm4, tmm6",
                "tileloadd tmm7, [{b} + {line} + 1024]",
                "tdpbf16ps tmm1, tmm4, tmm7",
                "tdpbf16ps tmm2, tmm5, tmm6",
                "tdpbf16ps tmm3, tmm5, tmm7",
                // a₃b₁
                "prefetchw [{after}]",
                "prefetchw [{after} + 64]",
                "add {after}, {across}",
                "prefetcht1 [{next} + 512]",
                "prefetcht1 [{next} + 576]",
                "tileloadd tmm4, [{a} + {line} + 4096]",
                "tdpbf16ps tmm0, tmm4, tmm6",
                "tdpbf16ps tmm1, tmm4, tmm7",
                "tileloadd tmm5, [{a} + {line} + 5120]",
                "tdpbf16ps tmm2, tmm5, tmm6",
                "tdpbf16ps tmm3, tmm5, tmm7",
                // a₁b₁
                "prefetcht1 [{next} + 640]",
                "prefetcht1 [{next} + 704]",
                "tileloadd tmm4, [{a} + {line}]",
                "tdpbf16ps tmm0, tmm4, tmm6",
                "tdpbf16ps tmm1, tmm4, tmm7",
                "tileloadd tmm5, [{a} + {line} + 1024]",
                "tdpbf16ps tmm2, tmm5, tmm6",
                "tdpbf16ps tmm3, tmm5, tmm7",
                "add {a}, 6144",
                "add {b}, 6144",
                "add {next}, 768",
                "dec {steps}",
                "jnz 2b",
                a = inout(reg) a => _,
                b = inout(reg) b => _,
                next = inout(reg) next => _,
                after = inout(reg) below.wrapping_add(LINES * stride) => _,
                across = in(reg) across,
                line = in(reg) line,
                steps = inout(reg) depth.div_ceil(STEP) => _,
                options(nostack, readonly),
            );
            asm!(
                "tilestored [{c} + {across}], tmm0",
                "tilestored [{c} + {across} + 64], tmm1",
                "tilestored [{below} + {across}], tmm2",
                "tilestored [{below} + {across} + 64], tmm3",
                c = in(reg) c,
                below = in(reg) below,
                across = in(reg) across,
                options(nostack),
            );
        }
    }
}

/// One step of one tile in single precision, where it cannot be read from the
/// matrix as it lies there.
#[repr(C, align(64))]
struct Scratch([f32; LINES * STEP]);

/// Packs lines `first..first + count` (at most 32), elements `from..from +
/// depth`, into a panel; what is missing is zero, or f(0) where there is a map.
///
/// # Safety
/// The lines and elements lie in the matrix; `panel` holds all steps; AVX-512
/// is there.
#[target_feature(enable = "avx512f")]
unsafe fn pack<const LEFT: bool>(
    lines: Lines,
    (first, count): (usize, usize),
    (from, depth): (usize, usize),
    map: Option<Map<f32>>,
    panel: *mut i32,
) {
    // In `scratch` a tile of A lies line after line, one of B element after element.
    let (in_order, across) = if LEFT { (lines.along == 1, STEP) } else { (lines.line == 1, LINES) };
    // What will be packed next at the same place: the lines beside these.
    let ahead = if lines.line == 1 { 2 * LINES } else { LINES * lines.line };
    let mut scratch = Scratch([0.0; LINES * STEP]);
    for (tile, step) in (0..2).flat_map(|tile| (0..depth.div_ceil(STEP)).map(move |step| (tile, step))) {
        let known = STEP.min(depth - step * STEP);
        let here = count.saturating_sub(tile * LINES).min(LINES);
        // SAFETY: the caller's duty: `here` lines of `known` elements lie in the
        // matrix, and all of the scratch is ours.
        unsafe {
            let to = panel.add(step * PLACES + tile * TILE);
            let source =
                lines.data.wrapping_add((first + tile * LINES) * lines.line + (from + step * STEP) * lines.along);
            let whole = here == LINES && known == STEP;
            if whole && in_order && map.is_none() {
                let stride = if LEFT { lines.line } else { lines.along };
                split(source, stride, if LEFT { LINES } else { LINES * stride }, ahead, to);
                continue;
            }
            let at = scratch.0.as_mut_ptr();
            if !whole {
                scratch.0.fill(0.0);
            }
            match (LEFT, in_order) {
                (true, true) if whole => copy::<STEP>(source, lines.line, ahead, at, LINES),
                (false, true) if whole => copy::<LINES>(source, lines.along, ahead, at, STEP),
                (true, true) => {
                    (0..here).for_each(|i| at.add(i * STEP).copy_from_nonoverlapping(source.add(i * lines.line), known))
                }
                (false, true) => (0..known)
                    .for_each(|p| at.add(p * LINES).copy_from_nonoverlapping(source.add(p * lines.along), here)),
                (true, false) if whole && lines.line == 1 => {
                    transpose(source, lines.along, ahead, at, STEP);
                    transpose(source.add(LINES * lines.along), lines.along, ahead, at.add(LINES), STEP);
                }
                (false, false) if whole && lines.along == 1 => {
                    transpose(source, lines.line, ahead, at, LINES);
                    transpose(source.add(LINES), lines.line, ahead, at.add(LINES * LINES), LINES);
                }
                _ => {
                    for i in 0..here {
                        for p in 0..known {
                            let place = if LEFT { i * STEP + p } else { p * LINES + i };
                            *at.add(place) = *source.add(i * lines.line + p * lines.along);
                        }
                    }
                }
            }
            if let Some(map) = map {
                map(&mut scratch.0);
            }
            split(at, across, if LEFT { LINES } else { LINES * LINES }, 0, to);
        }
    }
}

/// Splits sixteen rows of sixteen pairs into the three parts of a tile. A row's
/// first elements are `stride` apart, the second of each pair is `partner`
/// behind the first. What lies `ahead` of them is asked for.
///
/// # Safety
/// All of them can be read; `to` holds three parts.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn split(source: *const f32, stride: usize, partner: usize, ahead: usize, to: *mut i32) {
    let upper = _mm512_set1_epi32(0xffff_0000_u32.cast_signed());
    for row in 0..LINES {
        // SAFETY: the caller's duty.
        unsafe {
            let source = source.add(row * stride);
            _mm_prefetch::<_MM_HINT_T0>(source.wrapping_add(ahead).cast());
            _mm_prefetch::<_MM_HINT_T0>(source.wrapping_add(partner + ahead).cast());
            let (mut low, mut high) = (_mm512_loadu_ps(source), _mm512_loadu_ps(source.add(partner)));
            for part in 0..3 {
                let (l, h) = if part < 2 {
                    (rounded(low), rounded(high))
                } else {
                    // Eight digits are left: nothing is rounded any more.
                    (_mm512_castps_si512(low), _mm512_castps_si512(high))
                };
                let pairs = _mm512_or_si512(_mm512_and_si512(h, upper), _mm512_srli_epi32::<16>(l));
                _mm512_storeu_si512(to.add(part * 2 * TILE + row * LINES).cast(), pairs);
                low = _mm512_sub_ps(low, _mm512_castsi512_ps(l));
                high = _mm512_sub_ps(high, _mm512_castsi512_ps(h));
            }
        }
    }
}

/// Rounded to bfloat16, the nearest, in the upper half of each place; the lower
/// one is zero.
#[inline]
#[target_feature(enable = "avx512f")]
fn rounded(x: __m512) -> __m512i {
    let half = _mm512_set1_epi32(0x8000);
    _mm512_and_si512(_mm512_add_epi32(_mm512_castps_si512(x), half), _mm512_set1_epi32(0xffff_0000_u32.cast_signed()))
}

/// Copies runs of `N` elements that begin `stride` apart, to lie end to end.
/// What lies `ahead` of them is asked for.
///
/// # Safety
/// Both are valid for `count` runs.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn copy<const N: usize>(from: *const f32, stride: usize, ahead: usize, to: *mut f32, count: usize) {
    for i in 0..count {
        let from = from.wrapping_add(i * stride);
        for line in (0..N).step_by(16) {
            _mm_prefetch::<_MM_HINT_T0>(from.wrapping_add(line + ahead).cast());
        }
        // SAFETY: the caller's duty.
        unsafe { to.add(i * N).cast::<[f32; N]>().write_unaligned(from.cast::<[f32; N]>().read_unaligned()) };
    }
}

/// The transpose of 16 × 16 elements. What lies `ahead` of them is asked for.
///
/// # Safety
/// Both are valid for 16 rows of 16 elements with their stride.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn transpose(from: *const f32, stride: usize, ahead: usize, to: *mut f32, to_stride: usize) {
    for row in 0..16 {
        _mm_prefetch::<_MM_HINT_T0>(from.wrapping_add(row * stride + ahead).cast());
    }
    for col in (0..16).step_by(4) {
        // Row r holds four columns of the rows r, r + 4, r + 8, r + 12.
        // SAFETY: the caller's duty.
        let rows = [0, 1, 2, 3].map(|r| unsafe {
            let at = |row: usize| _mm_loadu_ps(from.add(row * stride + col));
            let mut row = _mm512_castps128_ps512(at(r));
            row = _mm512_insertf32x4::<1>(row, at(r + 4));
            row = _mm512_insertf32x4::<2>(row, at(r + 8));
            _mm512_insertf32x4::<3>(row, at(r + 12))
        });
        let (a, b) = (_mm512_unpacklo_ps(rows[0], rows[1]), _mm512_unpackhi_ps(rows[0], rows[1]));
        let (c, d) = (_mm512_unpacklo_ps(rows[2], rows[3]), _mm512_unpackhi_ps(rows[2], rows[3]));
        let columns = [
            _mm512_shuffle_ps::<0x44>(a, c),
            _mm512_shuffle_ps::<0xee>(a, c),
            _mm512_shuffle_ps::<0x44>(b, d),
            _mm512_shuffle_ps::<0xee>(b, d),
        ];
        for (i, column) in columns.into_iter().enumerate() {
            // SAFETY: as above.
            unsafe { _mm512_storeu_ps(to.add((col + i) * to_stride), column) };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Matrix, Output, Product, kernels, packed};
    use super::*;
    use crate::Random;

    /// A·B by a kernel, A of `m × k`, B of `k × n`, either of them stored as
    /// its transpose.
    fn by<K: Kernel>(a: &[f32], b: &[f32], [m, n, k]: [usize; 3], across: (bool, bool)) -> Vec<f32> {
        let mut c = vec![f32::NAN; m * n];
        let a = if across.0 { Matrix::dense(a, k, m).transposed() } else { Matrix::dense(a, m, k) };
        let b = if across.1 { Matrix::dense(b, n, k).transposed() } else { Matrix::dense(b, k, n) };
        packed::product::<K>(&Product::new(a, b, Output::dense(&mut c, m, n)));
        c
    }

    fn random(len: usize, purpose: &str) -> Vec<f32> {
        let r = Random::new(3).purpose(purpose);
        (0..len as u64).map(|i| r.normal(i) as f32).collect()
    }

    /// The root of the mean square of what the sums `c` are off, and of what
    /// those of one multiply-add after the other are.
    fn errors(a: &[f32], b: &[f32], [m, n, k]: [usize; 3], across: (bool, bool), c: &[f32]) -> (f64, f64) {
        let (mut ours, mut theirs) = (0.0, 0.0);
        for i in 0..m {
            for j in 0..n {
                let (mut exact, mut chain) = (0.0, 0.0_f32);
                for p in 0..k {
                    let x = if across.0 { a[p * m + i] } else { a[i * k + p] };
                    let y = if across.1 { b[j * k + p] } else { b[p * n + j] };
                    exact += f64::from(x) * f64::from(y);
                    chain = x.mul_add(y, chain);
                }
                ours += (f64::from(c[i * n + j]) - exact).powi(2);
                theirs += (f64::from(chain) - exact).powi(2);
            }
        }
        let mean = |squares: f64| (squares / (m * n) as f64).sqrt();
        (mean(ours), mean(theirs))
    }

    #[test]
    fn sums_are_nearer_to_the_exact_ones_than_those_of_multiply_adds() {
        if !is_here() {
            return;
        }
        for shape @ [m, n, k] in [[64, 64, 384], [33, 70, 1000], [40, 32, 3072]] {
            let (a, b) = (random(m * k, "a"), random(k * n, "b"));
            for across in [(false, false), (true, false), (false, true), (true, true)] {
                let (tiles, chain) = errors(&a, &b, shape, across, &by::<Amx>(&a, &b, shape, across));
                assert!(tiles < 0.75 * chain, "{shape:?} {across:?}: {tiles:.2e} against {chain:.2e}");
                // Those of AVX-512 are added up slice by slice, which helps them.
                let (slices, _) = errors(&a, &b, shape, across, &by::<kernels::Avx512>(&a, &b, shape, across));
                assert!(tiles < 1.5 * slices, "{shape:?} {across:?}: {tiles:.2e} against {slices:.2e} in slices");
            }
        }
    }

    #[test]
    fn no_digit_of_a_factor_is_dropped() {
        if !is_here() {
            return;
        }
        let (m, k) = (40, 96);
        let mut one = vec![0.0; k * k];
        (0..k).for_each(|i| one[i * k + i] = 1.0);
        for scale in [1.0, 1e30, 1e-28] {
            let mut x: Vec<f32> = random(m * k, "x").iter().map(|x| x * scale).collect();
            // All 24 digits of some are ones.
            x.iter_mut().step_by(5).for_each(|x| *x = f32::from_bits(x.to_bits() | 0x7f_ffff));
            assert_eq!(by::<Amx>(&x, &one, [m, k, k], (false, false)), x);
            let left = by::<Amx>(&one, &x, [k, m, k], (false, true));
            assert!((0..k).all(|i| (0..m).all(|j| left[i * m + j] == x[j * k + i])));
        }
    }
}
