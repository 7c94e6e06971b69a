//! The tiles of a product of few rows: inner products of a few rows and columns
//! at once, their partial sums in registers.

use std::arch::x86_64::{
    __m256, __m512, _MM_HINT_T0, _mm_add_ps, _mm_loadu_ps, _mm_prefetch, _mm_storeu_ps, _mm256_add_ps,
    _mm256_castps256_ps128, _mm256_cmpgt_epi32, _mm256_extractf128_ps, _mm256_fmadd_ps, _mm256_loadu_ps,
    _mm256_maskload_ps, _mm256_set1_epi32, _mm256_setr_epi32, _mm256_setzero_ps, _mm256_shuffle_ps, _mm256_unpackhi_ps,
    _mm256_unpacklo_ps, _mm512_add_ps, _mm512_castps512_ps128, _mm512_fmadd_ps, _mm512_loadu_ps, _mm512_maskz_loadu_ps,
    _mm512_setzero_ps, _mm512_shuffle_f32x4, _mm512_shuffle_ps, _mm512_unpackhi_ps, _mm512_unpacklo_ps,
};

/// Sums that are made of registers together: one for each row of a tile.
pub(super) const LANES: usize = 4;

/// Where the factors of a tile lie: rows of A and columns of B.
pub(super) struct Factors {
    pub a: *const f32,
    pub b: *const f32,
    /// From one row, one column to the next.
    pub strides: (usize, usize),
    pub depth: usize,
    /// Columns to ask for meanwhile, all of them in turn or only a few.
    pub next: *const f32,
    pub in_turn: bool,
}

/// A register of partial sums.
pub(super) trait Vector: Copy {
    /// Elements.
    const WIDTH: usize;
    /// Rows and columns of the largest tile.
    const ROWS: usize;
    const COLS: usize;

    /// # Safety
    /// The processor has the instructions (here and below).
    unsafe fn zero() -> Self;

    /// # Safety
    /// `at` is valid for `WIDTH` elements.
    unsafe fn load(at: *const f32) -> Self;

    /// The first `count` elements, then zeros.
    ///
    /// # Safety
    /// `at` is valid for `count` elements.
    unsafe fn load_part(at: *const f32, count: usize) -> Self;

    /// # Safety
    /// The processor has the instructions.
    unsafe fn add_product(self, a: Self, b: Self) -> Self;

    /// Adds the sums of four registers' elements to four places.
    ///
    /// # Safety
    /// The processor has the instructions.
    unsafe fn add_sums(four: [Self; LANES], to: &mut [f32; LANES]);

    /// Adds the inner products of some rows and columns to `to`, one place a
    /// column. Of `(rows, columns, ahead)` the columns are `COLS` or one;
    /// `ahead` is how many columns are asked for.
    ///
    /// # Safety
    /// The factors are valid over their depth.
    unsafe fn tile(size: (usize, usize, usize), factors: &Factors, to: &mut [[f32; LANES]]);
}

/// A tile of `R` rows and `C` columns. Meanwhile `AHEAD` columns at a time are
/// asked for, of `TURNS` in turn.
///
/// # Safety
/// As [`Vector::tile`].
#[inline(always)]
unsafe fn tile<V: Vector, const R: usize, const C: usize, const AHEAD: usize, const TURNS: usize>(
    f: &Factors,
    to: &mut [[f32; LANES]],
) {
    let (along_a, along_b) = f.strides;
    // SAFETY: the caller's duty: `R` rows and `C` columns are valid over the
    // depth; asking for what is not there does nothing.
    unsafe {
        let mut sums = [[V::zero(); R]; C];
        let steps = f.depth / V::WIDTH;
        let whole = steps * V::WIDTH;
        let mut next = f.next;
        let (mut at_a, mut at_b) = (f.a, f.b);
        let mut turn = 0;
        for _ in 0..steps {
            for ahead in 0..AHEAD {
                _mm_prefetch::<_MM_HINT_T0>(next.wrapping_add((turn + ahead) * along_b).cast());
            }
            turn += AHEAD;
            if turn >= TURNS {
                turn = 0;
                next = next.wrapping_add(V::WIDTH);
            }
            let mut a = [V::zero(); R];
            for (r, a) in a.iter_mut().enumerate() {
                *a = V::load(at_a.add(r * along_a));
            }
            for (c, sums) in sums.iter_mut().enumerate() {
                let b = V::load(at_b.add(c * along_b));
                for (sum, a) in sums.iter_mut().zip(a) {
                    *sum = sum.add_product(a, b);
                }
            }
            at_a = at_a.add(V::WIDTH);
            at_b = at_b.add(V::WIDTH);
        }
        if whole < f.depth {
            let rest = f.depth - whole;
            for (c, sums) in sums.iter_mut().enumerate() {
                let b = V::load_part(f.b.add(c * along_b + whole), rest);
                for (r, sum) in sums.iter_mut().enumerate() {
                    *sum = sum.add_product(V::load_part(f.a.add(r * along_a + whole), rest), b);
                }
            }
        }
        for (sums, to) in sums.into_iter().zip(to) {
            V::add_sums(std::array::from_fn(|r| if r < R { sums[r] } else { V::zero() }), to);
        }
    }
}

/// Chooses the build of a tile by its size.
macro_rules! by_size {
    ($vector:ty, $features:literal, $size:expr, $factors:expr, $to:expr, $($rows:literal $cols:literal $ahead:literal),*) => {{
        #[target_feature(enable = $features)]
        unsafe fn built<const R: usize, const C: usize, const AHEAD: usize, const TURNS: usize>(
            f: &Factors,
            to: &mut [[f32; LANES]],
        ) {
            // SAFETY: the caller's duty.
            unsafe { tile::<$vector, R, C, AHEAD, TURNS>(f, to) }
        }
        match $size {
            // SAFETY: the caller's duty.
            $(($rows, $cols, $ahead) if $factors.in_turn => unsafe {
                built::<$rows, $cols, $ahead, { <$vector as Vector>::COLS }>($factors, $to)
            },
            // SAFETY: as above.
            ($rows, $cols, $ahead) => unsafe { built::<$rows, $cols, $ahead, $ahead>($factors, $to) },)*
            other => unreachable!("no tile of {other:?}"),
        }
    }};
}

impl Vector for __m512 {
    const WIDTH: usize = 16;
    // 24 sums, four factors and one more in 29 of 32 registers.
    const ROWS: usize = 4;
    const COLS: usize = 6;

    #[inline(always)]
    unsafe fn zero() -> Self {
        // SAFETY: the caller's duty (here and below).
        unsafe { _mm512_setzero_ps() }
    }

    #[inline(always)]
    unsafe fn load(at: *const f32) -> Self {
        // SAFETY: as above.
        unsafe { _mm512_loadu_ps(at) }
    }

    #[inline(always)]
    unsafe fn load_part(at: *const f32, count: usize) -> Self {
        // SAFETY: as above.
        unsafe { _mm512_maskz_loadu_ps((1 << count) - 1, at) }
    }

    #[inline(always)]
    unsafe fn add_product(self, a: Self, b: Self) -> Self {
        // SAFETY: as above.
        unsafe { _mm512_fmadd_ps(a, b, self) }
    }

    #[inline(always)]
    unsafe fn add_sums([a, b, c, d]: [Self; LANES], to: &mut [f32; LANES]) {
        // SAFETY: as above.
        unsafe {
            let ab = _mm512_add_ps(_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b));
            let cd = _mm512_add_ps(_mm512_unpacklo_ps(c, d), _mm512_unpackhi_ps(c, d));
            let fours = _mm512_add_ps(_mm512_shuffle_ps::<0x44>(ab, cd), _mm512_shuffle_ps::<0xee>(ab, cd));
            let halves = _mm512_add_ps(fours, _mm512_shuffle_f32x4::<0x4e>(fours, fours));
            let sums = _mm512_add_ps(halves, _mm512_shuffle_f32x4::<0xb1>(halves, halves));
            _mm_storeu_ps(to.as_mut_ptr(), _mm_add_ps(_mm_loadu_ps(to.as_ptr()), _mm512_castps512_ps128(sums)));
        }
    }

    #[inline(always)]
    unsafe fn tile(size: (usize, usize, usize), factors: &Factors, to: &mut [[f32; LANES]]) {
        by_size!(
            __m512, "avx512f", size, factors, to, 4 6 1, 3 6 1, 4 6 2, 3 6 2, 4 6 3, 3 6 3, 2 6 3, 4 6 6, 3 6 6,
            2 6 6, 1 6 6, 4 1 1, 3 1 1, 2 1 1, 1 1 1
        );
    }
}

impl Vector for __m256 {
    const WIDTH: usize = 8;
    // Twelve sums, three factors and one more in all 16 registers.
    const ROWS: usize = 3;
    const COLS: usize = 4;

    #[inline(always)]
    unsafe fn zero() -> Self {
        // SAFETY: the caller's duty (here and below).
        unsafe { _mm256_setzero_ps() }
    }

    #[inline(always)]
    unsafe fn load(at: *const f32) -> Self {
        // SAFETY: as above.
        unsafe { _mm256_loadu_ps(at) }
    }

    #[inline(always)]
    unsafe fn load_part(at: *const f32, count: usize) -> Self {
        // SAFETY: as above.
        unsafe {
            let places = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
            _mm256_maskload_ps(at, _mm256_cmpgt_epi32(_mm256_set1_epi32(count as i32), places))
        }
    }

    #[inline(always)]
    unsafe fn add_product(self, a: Self, b: Self) -> Self {
        // SAFETY: as above.
        unsafe { _mm256_fmadd_ps(a, b, self) }
    }

    #[inline(always)]
    unsafe fn add_sums([a, b, c, d]: [Self; LANES], to: &mut [f32; LANES]) {
        // SAFETY: as above.
        unsafe {
            let ab = _mm256_add_ps(_mm256_unpacklo_ps(a, b), _mm256_unpackhi_ps(a, b));
            let cd = _mm256_add_ps(_mm256_unpacklo_ps(c, d), _mm256_unpackhi_ps(c, d));
            let fours = _mm256_add_ps(_mm256_shuffle_ps::<0x44>(ab, cd), _mm256_shuffle_ps::<0xee>(ab, cd));
            let sums = _mm_add_ps(_mm256_castps256_ps128(fours), _mm256_extractf128_ps::<1>(fours));
            _mm_storeu_ps(to.as_mut_ptr(), _mm_add_ps(_mm_loadu_ps(to.as_ptr()), sums));
        }
    }

    #[inline(always)]
    unsafe fn tile(size: (usize, usize, usize), factors: &Factors, to: &mut [[f32; LANES]]) {
        by_size!(
            __m256, "avx2,fma", size, factors, to, 3 4 1, 2 4 1, 3 4 2, 2 4 2, 1 4 2, 3 4 4, 2 4 4, 1 4 4, 3 1 1,
            2 1 1, 1 1 1
        );
    }
}
