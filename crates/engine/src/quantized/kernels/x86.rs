//! Products of codes in 256-bit and 512-bit registers.

use super::{PANEL, Sums};
use std::arch::x86_64::{
    __m128i, __m256i, __m512i, _mm_loadu_si128, _mm_set1_epi32, _mm256_add_epi32, _mm256_cvtepi8_epi16,
    _mm256_cvtepu8_epi16, _mm256_dpbusd_avx_epi32, _mm256_hadd_epi32, _mm256_loadu_si256, _mm256_madd_epi16,
    _mm256_permute4x64_epi64, _mm256_set1_epi32, _mm256_setzero_si256, _mm256_storeu_si256, _mm512_dpbusd_epi32,
    _mm512_loadu_si512, _mm512_set1_epi32, _mm512_setzero_si512, _mm512_storeu_si512,
};

/// Four neighbouring codes of a row as one number.
///
/// # Safety
/// `a` is valid for four bytes.
#[inline(always)]
unsafe fn four(a: *const u8) -> i32 {
    // SAFETY: the caller's duty.
    unsafe { a.cast::<i32>().read_unaligned() }
}

/// AVX-512 VNNI: twelve rows of two panels in twenty-four registers.
///
/// # Safety
/// As [`super::Prepared::block`].
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
pub(super) unsafe fn avx512_vnni(a: *const u8, rows: usize, depth: usize, b: *const i8, panels: usize, s: &mut Sums) {
    let mut row = 0;
    while row < rows {
        // SAFETY: the caller vouches for `rows` rows and the panels.
        unsafe {
            let at = a.add(row * depth);
            let to = s.0.as_mut_ptr().add(row).cast::<i32>();
            row += match (rows - row, panels) {
                (12.., 2) => tile_512::<12, 2>(at, depth, b, to),
                (8.., 2) => tile_512::<8, 2>(at, depth, b, to),
                (4.., 2) => tile_512::<4, 2>(at, depth, b, to),
                (_, 2) => tile_512::<1, 2>(at, depth, b, to),
                (8.., _) => tile_512::<8, 1>(at, depth, b, to),
                (_, _) => tile_512::<1, 1>(at, depth, b, to),
            };
        }
    }
}

/// # Safety
/// `a` is valid for `R` rows of `depth`, `b` for `P` panels, `to` for `R` rows
/// of two panels of sums.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
#[inline]
unsafe fn tile_512<const R: usize, const P: usize>(a: *const u8, depth: usize, b: *const i8, to: *mut i32) -> usize {
    // SAFETY: the caller's duty; `k` stays below `depth / 4`.
    unsafe {
        let mut sums: [[__m512i; P]; R] = [[_mm512_setzero_si512(); P]; R];
        for k in 0..depth / 4 {
            let mut w = [_mm512_setzero_si512(); P];
            for (p, w) in w.iter_mut().enumerate() {
                *w = _mm512_loadu_si512(b.add(p * PANEL * depth + k * 64).cast());
            }
            for (r, sums) in sums.iter_mut().enumerate() {
                let x = _mm512_set1_epi32(four(a.add(r * depth + k * 4)));
                for (sum, w) in sums.iter_mut().zip(w) {
                    *sum = _mm512_dpbusd_epi32(*sum, x, w);
                }
            }
        }
        for (r, sums) in sums.iter().enumerate() {
            for (p, sum) in sums.iter().enumerate() {
                _mm512_storeu_si512(to.add(r * 2 * PANEL + p * PANEL).cast(), *sum);
            }
        }
    }
    R
}

/// AVX-VNNI: six rows of one panel in twelve registers.
///
/// # Safety
/// As [`super::Prepared::block`].
#[target_feature(enable = "avx2,avxvnni")]
pub(super) unsafe fn avx_vnni(a: *const u8, rows: usize, depth: usize, b: *const i8, panels: usize, s: &mut Sums) {
    for p in 0..panels {
        let mut row = 0;
        while row < rows {
            // SAFETY: the caller vouches for `rows` rows and the panels.
            unsafe {
                let (at, w) = (a.add(row * depth), b.add(p * PANEL * depth));
                let to = s.0.as_mut_ptr().add(row).cast::<i32>().add(p * PANEL);
                row += match rows - row {
                    6.. => tile_vnni::<6>(at, depth, w, to),
                    3.. => tile_vnni::<3>(at, depth, w, to),
                    _ => tile_vnni::<1>(at, depth, w, to),
                };
            }
        }
    }
}

/// # Safety
/// `a` is valid for `R` rows of `depth`, `b` for a panel, `to` for `R` rows.
#[target_feature(enable = "avx2,avxvnni")]
#[inline]
unsafe fn tile_vnni<const R: usize>(a: *const u8, depth: usize, b: *const i8, to: *mut i32) -> usize {
    // SAFETY: the caller's duty; `k` stays below `depth / 4`.
    unsafe {
        let mut sums: [[__m256i; 2]; R] = [[_mm256_setzero_si256(); 2]; R];
        for k in 0..depth / 4 {
            let w0 = _mm256_loadu_si256(b.add(k * 64).cast());
            let w1 = _mm256_loadu_si256(b.add(k * 64 + 32).cast());
            for (r, sums) in sums.iter_mut().enumerate() {
                let x = _mm256_set1_epi32(four(a.add(r * depth + k * 4)));
                sums[0] = _mm256_dpbusd_avx_epi32(sums[0], x, w0);
                sums[1] = _mm256_dpbusd_avx_epi32(sums[1], x, w1);
            }
        }
        for (r, sums) in sums.iter().enumerate() {
            _mm256_storeu_si256(to.add(r * 2 * PANEL).cast(), sums[0]);
            _mm256_storeu_si256(to.add(r * 2 * PANEL + 8).cast(), sums[1]);
        }
    }
    R
}

/// AVX2: two rows of one panel, as 16-bit numbers whose products are added in
/// pairs to 32 bits: exact, where 8-bit pairs would saturate.
///
/// # Safety
/// As [`super::Prepared::block`].
#[target_feature(enable = "avx2")]
pub(super) unsafe fn avx2(a: *const u8, rows: usize, depth: usize, b: *const i8, panels: usize, s: &mut Sums) {
    for p in 0..panels {
        let mut row = 0;
        while row < rows {
            // SAFETY: the caller vouches for `rows` rows and the panels.
            unsafe {
                let (at, w) = (a.add(row * depth), b.add(p * PANEL * depth));
                let to = s.0.as_mut_ptr().add(row).cast::<i32>().add(p * PANEL);
                row += match rows - row {
                    2.. => tile_avx2::<2>(at, depth, w, to),
                    _ => tile_avx2::<1>(at, depth, w, to),
                };
            }
        }
    }
}

/// # Safety
/// `a` is valid for `R` rows of `depth`, `b` for a panel, `to` for `R` rows.
#[target_feature(enable = "avx2")]
#[inline]
unsafe fn tile_avx2<const R: usize>(a: *const u8, depth: usize, b: *const i8, to: *mut i32) -> usize {
    // SAFETY: the caller's duty; `k` stays below `depth / 4`.
    unsafe {
        // Each register: four columns, of each the sums of two of the four.
        let mut sums: [[__m256i; 4]; R] = [[_mm256_setzero_si256(); 4]; R];
        for k in 0..depth / 4 {
            let mut w = [_mm256_setzero_si256(); 4];
            for (i, w) in w.iter_mut().enumerate() {
                *w = _mm256_cvtepi8_epi16(_mm_loadu_si128(b.add(k * 64 + i * 16).cast::<__m128i>()));
            }
            for (r, sums) in sums.iter_mut().enumerate() {
                let x = _mm256_cvtepu8_epi16(_mm_set1_epi32(four(a.add(r * depth + k * 4))));
                for (sum, w) in sums.iter_mut().zip(w) {
                    *sum = _mm256_add_epi32(*sum, _mm256_madd_epi16(x, w));
                }
            }
        }
        for (r, sums) in sums.iter().enumerate() {
            for half in 0..2 {
                // Pairs added within 128-bit lanes: columns 0 1 4 5 | 2 3 6 7.
                let pairs = _mm256_hadd_epi32(sums[2 * half], sums[2 * half + 1]);
                let in_order = _mm256_permute4x64_epi64::<0b11_01_10_00>(pairs);
                _mm256_storeu_si256(to.add(r * 2 * PANEL + half * 8).cast(), in_order);
            }
        }
    }
    R
}
