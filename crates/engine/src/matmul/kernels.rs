//! The innermost loops of a matrix product: one tile of C held in registers.

use super::Map;
use super::packing::Lines;
use std::arch::x86_64::{
    __m256, __m512, _MM_HINT_T0, _MM_HINT_T1, _mm_prefetch, _mm256_add_ps, _mm256_broadcast_ss, _mm256_fmadd_ps,
    _mm256_loadu_ps, _mm256_setzero_ps, _mm256_storeu_ps, _mm512_add_ps, _mm512_fmadd_ps, _mm512_loadu_ps,
    _mm512_set1_ps, _mm512_setzero_ps, _mm512_storeu_ps,
};

/// A micro-kernel: how large its tile is, how its factors are packed and how to
/// compute it.
pub(crate) trait Kernel: 'static {
    /// Rows of the largest tile.
    const ROWS: usize;
    /// Columns of the tile.
    const COLS: usize;
    /// The longest slice of the inner dimension: a panel of B (`DEPTH × COLS`)
    /// and one of A pass through the first-level cache together.
    const DEPTH: usize = 512;
    /// What the length of every slice but the last is a multiple of.
    const UNIT: usize = 4;
    /// Whether tiles of fewer than `ROWS` rows are computed as they are; else
    /// as a whole one whose further rows nobody reads.
    const ANY_HEIGHT: bool = true;

    /// Memory for one packed line over `depth`, in elements.
    fn stored(depth: usize) -> usize {
        depth
    }

    /// Sets this thread up for tiles.
    fn begin() {}

    /// Undoes it.
    fn end() {}

    /// Packs rows of A, `(first, count)`, over a run of the inner dimension,
    /// `(from, depth)`, and applies `map` to them.
    ///
    /// # Safety
    /// The rows and the run lie in A; `count` is at most `ROWS`; `panel` is
    /// valid for the tile's height times `stored(depth)`.
    unsafe fn pack_left(rows: Lines, of: (usize, usize), run: (usize, usize), map: Option<Map<f32>>, panel: *mut f32) {
        // SAFETY: the caller's duty.
        unsafe { rows.pack(of, run, of.1, map, panel) };
    }

    /// Packs columns of B, as [`Kernel::pack_left`] packs rows of A; columns
    /// that are missing are zeros.
    ///
    /// # Safety
    /// The columns and the run lie in B; `count` is at most `COLS`; `panel` is
    /// valid for `COLS * stored(depth)` elements.
    unsafe fn pack_right(cols: Lines, of: (usize, usize), run: (usize, usize), map: Option<Map<f32>>, panel: *mut f32) {
        // SAFETY: the caller's duty.
        unsafe { cols.pack(of, run, Self::COLS, map, panel) };
    }

    /// C tile (+)= packed A panel · packed B panel over `depth`, for a tile of
    /// `height` rows. Meanwhile the cache lines from `next` on, a quarter of
    /// `stored(depth)` of them, are asked for: what will be read after this tile.
    ///
    /// # Safety
    /// The processor has the kernel's instructions, and [`Kernel::begin`] was
    /// called on this thread; `height` is 1 to `ROWS`, or `ROWS` itself without
    /// `ANY_HEIGHT`; `a` and `b` hold their panels over `depth`; `c` is valid
    /// for `height` rows of `COLS` elements `stride` apart.
    unsafe fn tile(
        height: usize,
        depth: usize,
        a: *const f32,
        b: *const f32,
        c: *mut f32,
        stride: usize,
        accumulate: bool,
        next: *const f32,
    );
}

/// 6 × 16 in twelve of sixteen 256-bit registers.
pub(super) struct Avx2;

impl Kernel for Avx2 {
    const ROWS: usize = 6;
    const COLS: usize = 16;

    unsafe fn tile(
        height: usize,
        depth: usize,
        a: *const f32,
        b: *const f32,
        c: *mut f32,
        stride: usize,
        accumulate: bool,
        next: *const f32,
    ) {
        // SAFETY: the caller's duty, handed on.
        unsafe {
            match height {
                6 => avx2::<6>(depth, a, b, c, stride, accumulate, next),
                5 => avx2::<5>(depth, a, b, c, stride, accumulate, next),
                4 => avx2::<4>(depth, a, b, c, stride, accumulate, next),
                3 => avx2::<3>(depth, a, b, c, stride, accumulate, next),
                2 => avx2::<2>(depth, a, b, c, stride, accumulate, next),
                _ => avx2::<1>(depth, a, b, c, stride, accumulate, next),
            }
        }
    }
}

/// # Safety
/// As [`Kernel::tile`], with AVX2 and FMA there.
#[target_feature(enable = "avx2,fma")]
unsafe fn avx2<const H: usize>(
    depth: usize,
    a: *const f32,
    b: *const f32,
    c: *mut f32,
    stride: usize,
    accumulate: bool,
    next: *const f32,
) {
    // SAFETY: the caller vouches for the pointers; every access below stays
    // within the extents named in the trait.
    unsafe {
        for i in 0..H {
            _mm_prefetch::<_MM_HINT_T0>(c.add(i * stride).cast());
            _mm_prefetch::<_MM_HINT_T0>(c.add(i * stride + 15).cast());
        }
        let mut sums: [[__m256; 2]; H] = [[_mm256_setzero_ps(); 2]; H];
        let (mut a, mut b, mut next) = (a, b, next);
        let mut step = || {
            let b0 = _mm256_loadu_ps(b);
            let b1 = _mm256_loadu_ps(b.add(8));
            for (i, sum) in sums.iter_mut().enumerate() {
                let x = _mm256_broadcast_ss(&*a.add(i));
                sum[0] = _mm256_fmadd_ps(x, b0, sum[0]);
                sum[1] = _mm256_fmadd_ps(x, b1, sum[1]);
            }
            a = a.add(H);
            b = b.add(16);
        };
        for _ in 0..depth / 4 {
            _mm_prefetch::<_MM_HINT_T1>(next.cast());
            next = next.wrapping_add(16);
            for _ in 0..4 {
                step();
            }
        }
        for _ in 0..depth % 4 {
            step();
        }
        for (i, sum) in sums.iter().enumerate() {
            let row = c.add(i * stride);
            let (mut x, mut y) = (sum[0], sum[1]);
            if accumulate {
                x = _mm256_add_ps(x, _mm256_loadu_ps(row));
                y = _mm256_add_ps(y, _mm256_loadu_ps(row.add(8)));
            }
            _mm256_storeu_ps(row, x);
            _mm256_storeu_ps(row.add(8), y);
        }
    }
}

/// 12 × 32 in twenty-four of thirty-two 512-bit registers.
pub(super) struct Avx512;

impl Kernel for Avx512 {
    const ROWS: usize = 12;
    const COLS: usize = 32;

    unsafe fn tile(
        height: usize,
        depth: usize,
        a: *const f32,
        b: *const f32,
        c: *mut f32,
        stride: usize,
        accumulate: bool,
        next: *const f32,
    ) {
        // SAFETY: the caller's duty, handed on.
        unsafe {
            match height {
                12 => avx512::<12>(depth, a, b, c, stride, accumulate, next),
                11 => avx512::<11>(depth, a, b, c, stride, accumulate, next),
                10 => avx512::<10>(depth, a, b, c, stride, accumulate, next),
                9 => avx512::<9>(depth, a, b, c, stride, accumulate, next),
                8 => avx512::<8>(depth, a, b, c, stride, accumulate, next),
                7 => avx512::<7>(depth, a, b, c, stride, accumulate, next),
                6 => avx512::<6>(depth, a, b, c, stride, accumulate, next),
                5 => avx512::<5>(depth, a, b, c, stride, accumulate, next),
                4 => avx512::<4>(depth, a, b, c, stride, accumulate, next),
                3 => avx512::<3>(depth, a, b, c, stride, accumulate, next),
                2 => avx512::<2>(depth, a, b, c, stride, accumulate, next),
                _ => avx512::<1>(depth, a, b, c, stride, accumulate, next),
            }
        }
    }
}

/// # Safety
/// As [`Kernel::tile`], with AVX-512 there.
#[target_feature(enable = "avx512f")]
unsafe fn avx512<const H: usize>(
    depth: usize,
    a: *const f32,
    b: *const f32,
    c: *mut f32,
    stride: usize,
    accumulate: bool,
    next: *const f32,
) {
    // SAFETY: as in `avx2`.
    unsafe {
        for i in 0..H {
            _mm_prefetch::<_MM_HINT_T0>(c.add(i * stride).cast());
            _mm_prefetch::<_MM_HINT_T0>(c.add(i * stride + 16).cast());
        }
        let mut sums: [[__m512; 2]; H] = [[_mm512_setzero_ps(); 2]; H];
        let (mut a, mut b, mut next) = (a, b, next);
        let mut step = || {
            let b0 = _mm512_loadu_ps(b);
            let b1 = _mm512_loadu_ps(b.add(16));
            for (i, sum) in sums.iter_mut().enumerate() {
                let x = _mm512_set1_ps(*a.add(i));
                sum[0] = _mm512_fmadd_ps(x, b0, sum[0]);
                sum[1] = _mm512_fmadd_ps(x, b1, sum[1]);
            }
            a = a.add(H);
            b = b.add(32);
        };
        for _ in 0..depth / 4 {
            _mm_prefetch::<_MM_HINT_T1>(next.cast());
            next = next.wrapping_add(16);
            for _ in 0..4 {
                step();
            }
        }
        for _ in 0..depth % 4 {
            step();
        }
        for (i, sum) in sums.iter().enumerate() {
            let row = c.add(i * stride);
            let (mut x, mut y) = (sum[0], sum[1]);
            if accumulate {
                x = _mm512_add_ps(x, _mm512_loadu_ps(row));
                y = _mm512_add_ps(y, _mm512_loadu_ps(row.add(16)));
            }
            _mm512_storeu_ps(row, x);
            _mm512_storeu_ps(row.add(16), y);
        }
    }
}
