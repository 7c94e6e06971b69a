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

mod tile;

use super::{Finish, Matrix, Output, Product, Right, written_out};
use crate::Buffer;
use crate::spans::Spans;
use std::arch::x86_64::{__m256, __m512};
use std::ops::Range;
use tile::{Factors, LANES, Vector};

/// Rows from which on the packed product is as fast.
const MOST_ROWS: usize = 32;
/// Shortest inner dimension that is worth adding up registers at its end.
const LEAST_DEPTH: usize = 32;
/// The longest slice of the inner dimension: the columns in hand stay in the
/// first-level cache while all rows pass.
const SLICE: usize = 1024;
/// Slices from which on all columns that come next are asked for in turn.
const LONG: usize = 512;
/// Columns times tiles at most: eight tiles of six or eleven of four columns.
const MOST_SUMS: usize = 48;
/// Columns that are handed out together: whole tiles of either width.
const UNIT: usize = 12;
/// Columns that are finished together, while they are near.
const RUN: usize = 192;
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

/// Computes such products, all in one go.
pub(super) fn products(all: &[Product<'_, f32>]) {
    let mut held = all.iter().map(|_| None).collect::<Vec<_>>();
    let works = all.iter().zip(&mut held).map(|(p, held)| Work::new(p, held)).collect::<Vec<_>>();
    let units = works.iter().map(Work::units).sum();
    let size = all.iter().map(|p| p.a.cols * p.c.cols).sum::<usize>();
    let parallel = all.iter().all(|p| p.parallel) && size > SEQUENTIAL;
    let threads = if parallel { rayon::current_num_threads().min(units) } else { 1 };
    let spans = Spans::new(units, threads);
    if threads > 1 {
        crate::ahead::begin(works.iter().map(|w| w.b.data));
    }
    crate::standby::run(threads, &|| {
        // The product at hand, and its columns that are complete but for what
        // finishes them.
        let (mut at, mut before, mut run) = (0, 0, 0..0);
        spans.share(crate::standby::seat(threads).0, |unit| {
            if !(before..before + works[at].units()).contains(&unit) {
                works[at].finish(std::mem::take(&mut run));
                (at, before) = (0, 0);
                while unit - before >= works[at].units() {
                    (at, before) = (at + 1, before + works[at].units());
                }
            }
            let work = &works[at];
            let cols = (unit - before) * UNIT..work.c.cols.min((unit - before + 1) * UNIT);
            if cols.start != run.end || run.len() >= RUN {
                work.finish(std::mem::replace(&mut run, cols.start..cols.start));
            }
            run.end = cols.end;
            // SAFETY: each unit is handed out once; the level says which
            // instructions are there.
            unsafe {
                match crate::level() {
                    crate::Level::Avx512 => work.compute::<__m512>(cols),
                    _ => work.compute::<__m256>(cols),
                }
            }
        });
        works[at].finish(run);
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

impl<'a> Work<'a> {
    /// Where A cannot be read as it lies, a copy is `held`.
    fn new(p: &'a Product<'a, f32>, held: &'a mut Option<Buffer<f32>>) -> Self {
        let Right::Plain(b) = p.b else { unreachable!("a packed factor does not fit") };
        let in_place = p.map_a.is_none() && p.a.col_stride == 1;
        let a = if in_place { p.a } else { written_out(p.a, p.a.rows, p.map_a, held) };
        Self { a, b, c: &p.c, accumulate: p.accumulate, finish: p.finish }
    }

    fn units(&self) -> usize {
        self.c.cols.div_ceil(UNIT)
    }

    /// Some columns of C, not finished.
    ///
    /// # Safety
    /// Nobody else touches them; the processor has the vector's instructions.
    unsafe fn compute<V: Vector>(&self, cols: Range<usize>) {
        let mut at = cols.start;
        while at < cols.end {
            let wide = at + V::COLS <= cols.end;
            // SAFETY: the caller's duty.
            unsafe { if wide { self.columns::<V>(at, V::COLS) } else { self.columns::<V>(at, 1) } }
            at += if wide { V::COLS } else { 1 };
        }
    }

    /// Finishes columns that this thread has computed.
    fn finish(&self, cols: Range<usize>) {
        let Some(finish) = self.finish.filter(|_| !cols.is_empty()) else { return };
        for i in 0..self.c.rows {
            // SAFETY: a run of a row of C that is this thread's, complete now.
            let run =
                unsafe { std::slice::from_raw_parts_mut(self.c.data.add(i * self.c.stride + cols.start), cols.len()) };
            finish(i, cols.start, run);
        }
    }

    /// `V::COLS` columns of C from `first` on, or one.
    ///
    /// # Safety
    /// As [`Work::run`].
    #[inline(always)]
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
        unsafe { work.compute::<V>(0..n) };
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
                products(&[p]);
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
            products(&[Product::new(left(), right(), Output::dense(&mut plain, 5, 50))]);
            let mapped = Product::new(left(), right(), Output::dense(&mut done, 5, 50)).left_mapped(double);
            products(&[mapped.finished_by(&finish)]);
            for (at, (x, y)) in plain.iter().zip(&done).enumerate() {
                assert_eq!(2.0 * x + (at / 50 * 100 + at % 50) as f32, *y, "{at}");
            }
        }
    }

    #[test]
    fn several_products_in_one_go_are_those_of_each_alone() {
        if !is_thin(5, 64) {
            return;
        }
        let (a, b) = (random(5 * 200, "a"), random(200 * 1000, "b"));
        // Less than a unit, whole ones, and more.
        let widths = [7, 24, 500, 12, 457];
        fn add(_: usize, first: usize, run: &mut [f32]) {
            run.iter_mut().enumerate().for_each(|(j, x)| *x += (first + j) as f32);
        }
        fn product<'a>(a: &'a [f32], right: Matrix<'a, f32>, to: &'a mut [f32], n: usize) -> Product<'a, f32> {
            Product::new(Matrix::dense(a, 5, 200), right, Output::dense(to, 5, n)).finished_by(&add)
        }
        let mut alone = widths.map(|n| vec![0.0; 5 * n]);
        let mut together = alone.clone();
        let mut from = 0;
        let rights = widths.map(|n| {
            from += n;
            Matrix::dense(&b[(from - n) * 200..from * 200], n, 200).transposed()
        });
        for ((right, to), n) in rights.into_iter().zip(&mut alone).zip(widths) {
            products(&[product(&a, right, to, n)]);
        }
        for threads in [1, 2, 3] {
            together.iter_mut().for_each(|c| c.fill(0.0));
            with_threads(threads, || {
                let all = rights.into_iter().zip(&mut together).zip(widths);
                let all = all.map(|((right, to), n)| product(&a, right, to, n)).collect::<Vec<_>>();
                products(&all);
            })
            .expect("threads start");
            assert!(alone == together, "{threads} threads");
        }
    }
}
