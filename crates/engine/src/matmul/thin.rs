//! Products of few rows with many columns: one sentence, one step of a
//! decoder. Each element of B is used so few times that reading it takes
//! longest, so B is read once, as it lies there, and never packed.
//!
//! Columns of B whose elements are neighbours (the rows of a weight) are taken
//! a few at a time: their inner products with all rows of A, sixteen (or
//! eight) partial sums of each in one register. Meanwhile the columns that come
//! next are asked for. An element of C is summed in an order that the inner
//! dimension alone decides: neither the other rows nor the threads change a bit
//! of it.

use super::{Finish, Matrix, Output, Product, Right, written_out};
use std::arch::x86_64::{
    __m256, __m512, _MM_HINT_T0, _mm_add_ps, _mm_loadu_ps, _mm_prefetch, _mm_storeu_ps, _mm256_add_ps,
    _mm256_castps256_ps128, _mm256_cmpgt_epi32, _mm256_extractf128_ps, _mm256_fmadd_ps, _mm256_loadu_ps,
    _mm256_maskload_ps, _mm256_set1_epi32, _mm256_setr_epi32, _mm256_setzero_ps, _mm256_shuffle_ps, _mm256_unpackhi_ps,
    _mm256_unpacklo_ps, _mm512_add_ps, _mm512_castps512_ps128, _mm512_fmadd_ps, _mm512_loadu_ps, _mm512_maskz_loadu_ps,
    _mm512_setzero_ps, _mm512_shuffle_f32x4, _mm512_shuffle_ps, _mm512_unpackhi_ps, _mm512_unpacklo_ps,
};
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Rows from which on the packed product is as fast.
const MOST_ROWS: usize = 32;
/// Shortest inner dimension that is worth adding up registers at its end.
const LEAST_DEPTH: usize = 32;
/// The longest slice of the inner dimension: the columns in hand stay in the
/// first-level cache while all rows pass.
const SLICE: usize = 1024;
/// Slices from which on all columns that come next are asked for in turn.
const LONG: usize = 512;
/// Sums that are made of registers together: one for each row of a tile.
const LANES: usize = 4;
/// Columns times tiles at most: eight tiles of six or eleven of four columns.
const MOST_SUMS: usize = 48;
/// Columns that one task takes at most, and at least where there are so many:
/// where a run begins nothing was asked for.
const RUN: usize = 192;
const SHORT_RUN: usize = 48;
/// Elements of B below which one thread does the whole product.
const SEQUENTIAL: usize = 1 << 15;

/// Whether products of `rows` over `depth` are of this kind on this processor.
pub(super) fn is_thin(rows: usize, depth: usize) -> bool {
    rows < MOST_ROWS && depth >= LEAST_DEPTH && crate::level() > crate::Level::Baseline
}

/// Whether a product is computed here.
pub(super) fn fits(p: &Product<'_, f32>) -> bool {
    let in_place = matches!(&p.b, Right::Plain(b) if b.row_stride == 1) && p.map_b.is_none();
    in_place && is_thin(p.c.rows, p.a.cols)
}

/// Computes it.
pub(super) fn product(p: &Product<'_, f32>) {
    let Right::Plain(b) = &p.b else { unreachable!("a packed factor does not fit") };
    let mut held = None;
    let a = if p.map_a.is_some() || p.a.col_stride != 1 { written_out(p.a, p.a.rows, p.map_a, &mut held) } else { p.a };
    let work = Work { a, b: *b, c: &p.c, accumulate: p.accumulate, finish: p.finish };
    let threads = if p.parallel && b.rows * b.cols > SEQUENTIAL { rayon::current_num_threads() } else { 1 };
    // Whole tiles of either width.
    let run = (p.c.cols / (2 * threads)).next_multiple_of(12).clamp(SHORT_RUN, RUN);
    let threads = threads.min(p.c.cols.div_ceil(run));
    let next = AtomicUsize::new(0);
    crate::standby::run(threads, &|| {
        loop {
            let first = next.fetch_add(1, Ordering::Relaxed) * run;
            if first >= work.c.cols {
                break;
            }
            let cols = first..work.c.cols.min(first + run);
            // SAFETY: each run of columns is handed out once; the level says
            // which instructions are there.
            unsafe {
                match crate::level() {
                    crate::Level::Avx512 => work.run::<__m512>(cols),
                    _ => work.run::<__m256>(cols),
                }
            }
        }
    });
}

struct Work<'a> {
    a: Matrix<'a, f32>,
    b: Matrix<'a, f32>,
    c: &'a Output<'a, f32>,
    accumulate: bool,
    finish: Option<Finish<'a, f32>>,
}

// SAFETY: tasks read A and B and write columns of C of their own.
unsafe impl Sync for Work<'_> {}

impl Work<'_> {
    /// Some columns of C.
    ///
    /// # Safety
    /// Nobody else touches them; the processor has the vector's instructions.
    unsafe fn run<V: Vector>(&self, cols: Range<usize>) {
        let mut at = cols.start;
        while at < cols.end {
            let wide = at + V::COLS <= cols.end;
            // SAFETY: the caller's duty.
            unsafe { if wide { self.columns::<V>(at, V::COLS) } else { self.columns::<V>(at, 1) } }
            at += if wide { V::COLS } else { 1 };
        }
        if let Some(finish) = self.finish {
            for i in 0..self.c.rows {
                // SAFETY: a run of a row of C that is ours, complete now.
                let run = unsafe {
                    std::slice::from_raw_parts_mut(self.c.data.add(i * self.c.stride + cols.start), cols.len())
                };
                finish(i, cols.start, run);
            }
        }
    }

    /// `V::COLS` columns of C from `first` on, or one.
    ///
    /// # Safety
    /// As [`Work::run`].
    unsafe fn columns<V: Vector>(&self, first: usize, count: usize) {
        let (m, k) = (self.c.rows, self.a.cols);
        let slice = k.div_ceil(k.div_ceil(SLICE)).next_multiple_of(16);
        let tiles = m.div_ceil(V::ROWS);
        let (short, longer) = (m / tiles, m % tiles);
        // Each tile asks for its part of what comes next: some of the columns,
        // or where they are long some of each, since memory answers many runs
        // at a time sooner than a few.
        let ahead = V::COLS.div_ceil(tiles);
        let in_turn = slice >= LONG;
        let mut sums = [[0.0_f32; LANES]; MOST_SUMS];
        for from in (0..k).step_by(slice) {
            let depth = slice.min(k - from);
            // What is read after this: the next slice, or columns.
            let (next_col, next_from) = if from + depth < k { (first, from + depth) } else { (first + count, 0) };
            let next = self.b.data.as_ptr().wrapping_add(next_col * self.b.col_stride + next_from);
            let part = (depth / 16).div_ceil(tiles) * 16;
            let mut row = 0;
            for tile in 0..tiles {
                let rows = short + usize::from(tile < longer);
                let factors = Factors {
                    // SAFETY: the rows and columns lie in A and B.
                    a: unsafe { self.a.data.as_ptr().add(row * self.a.row_stride + from) },
                    // SAFETY: as above.
                    b: unsafe { self.b.data.as_ptr().add(first * self.b.col_stride + from) },
                    strides: (self.a.row_stride, self.b.col_stride),
                    depth,
                    next: next.wrapping_add(tile * if in_turn { part } else { ahead * self.b.col_stride }),
                    in_turn,
                };
                let to = &mut sums[tile * V::COLS..][..V::COLS];
                // SAFETY: the caller's duty; they lie in A and B over the depth.
                unsafe { V::tile((rows, count, if count > 1 { ahead } else { 1 }), &factors, to) };
                row += rows;
            }
        }
        let mut row = 0;
        for tile in 0..tiles {
            for r in 0..short + usize::from(tile < longer) {
                // SAFETY: columns of C that are ours.
                let to = unsafe { std::slice::from_raw_parts_mut(self.c.data.add(row * self.c.stride + first), count) };
                for (to, sum) in to.iter_mut().zip(&sums[tile * V::COLS..]) {
                    *to = if self.accumulate { *to + sum[r] } else { sum[r] };
                }
                row += 1;
            }
        }
    }
}

/// Where the factors of a tile lie: rows of A and columns of B.
struct Factors {
    a: *const f32,
    b: *const f32,
    /// From one row, one column to the next.
    strides: (usize, usize),
    depth: usize,
    /// Columns to ask for meanwhile, all of them in turn or only a few.
    next: *const f32,
    in_turn: bool,
}

/// A register of partial sums.
trait Vector: Copy {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Random, with_threads};

    fn random(len: usize, purpose: &str) -> Vec<f32> {
        let r = Random::new(9).purpose(purpose);
        (0..len as u64).map(|i| r.normal(i) as f32).collect()
    }

    /// C of `m × n` by one kind of vector, all columns as one run.
    fn by<V: Vector>(a: &[f32], b: &[f32], [m, n, k]: [usize; 3], start: Option<&[f32]>) -> Vec<f32> {
        let mut c = start.map_or_else(|| vec![f32::NAN; m * n], <[f32]>::to_vec);
        let b = Matrix::dense(b, n, k).transposed();
        let out = Output::dense(&mut c, m, n);
        let work = Work { a: Matrix::dense(a, m, k), b, c: &out, accumulate: start.is_some(), finish: None };
        // SAFETY: nobody else is here; the callers ask for the level first.
        unsafe { work.run::<V>(0..n) };
        c
    }

    #[test]
    fn every_shape_matches_the_definition_with_either_vector() {
        let level = crate::level();
        for rows in 1..MOST_ROWS {
            for (n, k) in [(1, 32), (7, 33), (13, 100), (24, 1024), (5, 1100), (8, 2080)] {
                let (a, b, start) = (random(rows * k, "a"), random(n * k, "b"), random(rows * n, "c"));
                for start in [None, Some(&start[..])] {
                    let mut all = Vec::new();
                    if level >= crate::Level::Avx2 {
                        all.push(by::<__m256>(&a, &b, [rows, n, k], start));
                    }
                    if level >= crate::Level::Avx512 {
                        all.push(by::<__m512>(&a, &b, [rows, n, k], start));
                    }
                    for (at, c) in all.iter().flat_map(|c| c.iter().enumerate()) {
                        let (i, j) = (at / n, at % n);
                        let exact: f64 = (0..k).map(|p| f64::from(a[i * k + p]) * f64::from(b[j * k + p])).sum();
                        let want = exact + start.map_or(0.0, |c| f64::from(c[at]));
                        assert!(
                            (f64::from(*c) - want).abs() < 1e-4,
                            "{rows} × {n} over {k}, {i}, {j}: {c}, not {want}"
                        );
                    }
                }
            }
        }
    }

    #[test]
    fn neither_other_rows_nor_threads_change_a_bit() {
        if !is_thin(1, 900) {
            return;
        }
        let (n, k) = (500, 900);
        let (a, b) = (random(31 * k, "a"), random(n * k, "b"));
        let run = |rows: std::ops::Range<usize>, threads| {
            let mut c = vec![0.0; rows.len() * n];
            let a = Matrix::dense(&a[rows.start * k..rows.end * k], rows.len(), k);
            let count = rows.len();
            with_threads(threads, || {
                let p = Product::new(a, Matrix::dense(&b, n, k).transposed(), Output::dense(&mut c, count, n));
                assert!(fits(&p));
                product(&p);
            })
            .expect("threads start");
            c
        };
        let all = run(0..31, 1);
        assert!(all == run(0..31, 3));
        for rows in [0..1, 3..9, 14..31] {
            assert!(all[rows.start * n..rows.end * n] == run(rows, 2));
        }
    }

    #[test]
    fn factors_are_mapped_and_results_finished() {
        if !is_thin(5, 64) {
            return;
        }
        let (a, b) = (random(64 * 5, "a"), random(64 * 50, "b"));
        let double: super::super::Map<f32> = |x| x.iter_mut().for_each(|x| *x *= 2.0);
        let finish = |i: usize, first: usize, run: &mut [f32]| {
            run.iter_mut().enumerate().for_each(|(j, x)| *x += (i * 100 + first + j) as f32);
        };
        // Rows of A that lie across, as the transpose of what is in memory.
        for across in [false, true] {
            let (mut plain, mut done) = (vec![0.0; 250], vec![0.0; 250]);
            let left = || if across { Matrix::dense(&a, 64, 5).transposed() } else { Matrix::dense(&a, 5, 64) };
            let right = || Matrix::dense(&b, 50, 64).transposed();
            product(&Product::new(left(), right(), Output::dense(&mut plain, 5, 50)));
            let mapped = Product::new(left(), right(), Output::dense(&mut done, 5, 50)).left_mapped(double);
            product(&mapped.finished_by(&finish));
            for (at, (x, y)) in plain.iter().zip(&done).enumerate() {
                assert_eq!(2.0 * x + (at / 50 * 100 + at % 50) as f32, *y, "{at}");
            }
        }
    }
}
