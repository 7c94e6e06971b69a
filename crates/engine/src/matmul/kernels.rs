//! The innermost loops of a matrix product: one tile of C held in registers.

use std::arch::x86_64::{
    __m256, __m512, _MM_HINT_T0, _mm_prefetch, _mm256_add_ps, _mm256_broadcast_ss, _mm256_fmadd_ps, _mm256_loadu_ps,
    _mm256_setzero_ps, _mm256_storeu_ps, _mm512_add_ps, _mm512_fmadd_ps, _mm512_loadu_ps, _mm512_set1_ps,
    _mm512_setzero_ps, _mm512_storeu_ps,
};

/// A micro-kernel: how large its tile is and how to compute it.
pub(super) trait Kernel {
    /// Rows of the tile.
    const ROWS: usize;
    /// Columns of the tile.
    const COLS: usize;

    /// C tile (+)= packed A panel · packed B panel over `depth`.
    ///
    /// # Safety
    /// The processor has the kernel's instructions; `a` holds `depth * ROWS`
    /// and `b` `depth * COLS` elements; `c` is valid for `ROWS` rows of `COLS`
    /// elements `stride` apart.
    unsafe fn tile(depth: usize, a: *const f32, b: *const f32, c: *mut f32, stride: usize, accumulate: bool);
}

/// 6 × 16 in twelve of sixteen 256-bit registers.
pub(super) struct Avx2;

impl Kernel for Avx2 {
    const ROWS: usize = 6;
    const COLS: usize = 16;

    #[target_feature(enable = "avx2,fma")]
    unsafe fn tile(depth: usize, a: *const f32, b: *const f32, c: *mut f32, stride: usize, accumulate: bool) {
        // SAFETY: the caller vouches for the pointers; every access below
        // stays within the extents named in the trait.
        unsafe {
            for i in 0..6 {
                _mm_prefetch::<_MM_HINT_T0>(c.add(i * stride).cast());
                _mm_prefetch::<_MM_HINT_T0>(c.add(i * stride + 15).cast());
            }
            let mut sums: [[__m256; 2]; 6] = [[_mm256_setzero_ps(); 2]; 6];
            let (mut a, mut b) = (a, b);
            for _ in 0..depth {
                let b0 = _mm256_loadu_ps(b);
                let b1 = _mm256_loadu_ps(b.add(8));
                for (i, sum) in sums.iter_mut().enumerate() {
                    let x = _mm256_broadcast_ss(&*a.add(i));
                    sum[0] = _mm256_fmadd_ps(x, b0, sum[0]);
                    sum[1] = _mm256_fmadd_ps(x, b1, sum[1]);
                }
                a = a.add(6);
                b = b.add(16);
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
}

/// 12 × 32 in twenty-four of thirty-two 512-bit registers.
pub(super) struct Avx512;

impl Kernel for Avx512 {
    const ROWS: usize = 12;
    const COLS: usize = 32;

    #[target_feature(enable = "avx512f")]
    unsafe fn tile(depth: usize, a: *const f32, b: *const f32, c: *mut f32, stride: usize, accumulate: bool) {
        // SAFETY: as above.
        unsafe {
            for i in 0..12 {
                _mm_prefetch::<_MM_HINT_T0>(c.add(i * stride).cast());
                _mm_prefetch::<_MM_HINT_T0>(c.add(i * stride + 16).cast());
            }
            let mut sums: [[__m512; 2]; 12] = [[_mm512_setzero_ps(); 2]; 12];
            let (mut a, mut b) = (a, b);
            for _ in 0..depth {
                let b0 = _mm512_loadu_ps(b);
                let b1 = _mm512_loadu_ps(b.add(16));
                for (i, sum) in sums.iter_mut().enumerate() {
                    let x = _mm512_set1_ps(*a.add(i));
                    sum[0] = _mm512_fmadd_ps(x, b0, sum[0]);
                    sum[1] = _mm512_fmadd_ps(x, b1, sum[1]);
                }
                a = a.add(12);
                b = b.add(32);
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
}
