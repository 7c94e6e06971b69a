//! Matrix products C (+)= A·B with any strides, so that the forward, input
//! gradient and weight gradient of a linear layer are three calls without a
//! copy.
//!
//! For `f32` on x86-64 with AVX2 or AVX-512 a packed, register-blocked product
//! of our own (`packed.rs`) runs, with AMX on its tiles (`split.rs`), and one
//! of few rows that packs nothing (`thin.rs`); everywhere else, and for `f64`,
//! the `gemm` crate, which is also the oracle of the tests. Each element of C
//! is summed in an order that depends on the shape only, never on the threads.

#[cfg(target_arch = "x86_64")]
mod blocks;
#[cfg(target_arch = "x86_64")]
mod kernels;
#[cfg(target_arch = "x86_64")]
mod packed;
#[cfg(target_arch = "x86_64")]
mod packing;
mod portable;
mod right;
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
mod split;
#[cfg(target_arch = "x86_64")]
mod thin;

/// The tiles of AMX, for products that pack their factors themselves.
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
pub(crate) mod tiles {
    pub(crate) use super::kernels::Kernel;
    pub(crate) use super::packing::Lines;
    pub(crate) use super::split::{Amx, is_here};
}

use crate::{Buffer, Element};
use std::marker::PhantomData;

pub(crate) use portable::product as product_portable;
pub use right::PackedRight;
pub(crate) use right::Right;

/// A read-only matrix: `data[i * row_stride + j * col_stride]`.
#[derive(Clone, Copy)]
pub struct Matrix<'a, E> {
    data: &'a [E],
    rows: usize,
    cols: usize,
    row_stride: usize,
    col_stride: usize,
}

impl<'a, E> Matrix<'a, E> {
    /// A row-major matrix whose rows begin `stride` elements apart.
    ///
    /// # Panics
    /// When the matrix reaches beyond `data`: a mistake in an operation.
    pub fn strided(data: &'a [E], rows: usize, cols: usize, stride: usize) -> Self {
        assert!(rows == 0 || cols == 0 || (rows - 1) * stride + cols <= data.len(), "matrix exceeds its data");
        Self { data, rows, cols, row_stride: stride, col_stride: 1 }
    }

    /// A dense row-major matrix.
    ///
    /// # Panics
    /// When the matrix reaches beyond `data`.
    pub fn dense(data: &'a [E], rows: usize, cols: usize) -> Self {
        Self::strided(data, rows, cols, cols)
    }

    /// The same memory, read as the transpose.
    pub fn transposed(self) -> Self {
        Self { rows: self.cols, cols: self.rows, row_stride: self.col_stride, col_stride: self.row_stride, ..self }
    }
}

/// Where a product goes: rows of `cols` elements, `stride` apart.
pub struct Output<'a, E> {
    data: *mut E,
    rows: usize,
    cols: usize,
    stride: usize,
    memory: PhantomData<&'a mut [E]>,
}

// SAFETY: an output is an exclusive borrow of the elements it covers; moving
// it to another thread moves that borrow.
unsafe impl<E: Send> Send for Output<'_, E> {}

impl<'a, E> Output<'a, E> {
    /// An output over a slice.
    ///
    /// # Panics
    /// When the output reaches beyond `data`, or its rows overlap.
    pub fn strided(data: &'a mut [E], rows: usize, cols: usize, stride: usize) -> Self {
        assert!(stride >= cols || rows <= 1, "rows of an output overlap");
        assert!(rows == 0 || cols == 0 || (rows - 1) * stride + cols <= data.len(), "output exceeds its data");
        Self { data: data.as_mut_ptr(), rows, cols, stride, memory: PhantomData }
    }

    /// A dense output.
    ///
    /// # Panics
    /// When the output reaches beyond `data`.
    pub fn dense(data: &'a mut [E], rows: usize, cols: usize) -> Self {
        Self::strided(data, rows, cols, cols)
    }
}

/// A function over a run of elements, in place.
pub(crate) type Map<E> = fn(&mut [E]);

/// What happens to finished elements of C while they are near: called with
/// the row, the first column and a run of elements of that row.
pub(crate) type Finish<'a, E> = &'a (dyn Fn(usize, usize, &mut [E]) + Sync);

/// One product to compute: C = A·B, and what is done along with it.
pub struct Product<'a, E> {
    a: Matrix<'a, E>,
    b: Right<'a, E>,
    c: Output<'a, E>,
    accumulate: bool,
    parallel: bool,
    map_a: Option<Map<E>>,
    map_b: Option<Map<E>>,
    finish: Option<Finish<'a, E>>,
}

impl<'a, E: Element> Product<'a, E> {
    /// C = A·B on all threads.
    pub(crate) fn new(a: Matrix<'a, E>, b: Matrix<'a, E>, c: Output<'a, E>) -> Self {
        Self::with(a, Right::Plain(b), c)
    }

    /// As [`Product::new`], where B may be packed.
    pub(crate) fn with(a: Matrix<'a, E>, b: Right<'a, E>, c: Output<'a, E>) -> Self {
        Self { a, b, c, accumulate: false, parallel: true, map_a: None, map_b: None, finish: None }
    }

    /// C += A·B where `accumulate`.
    pub(crate) fn accumulating(self, accumulate: bool) -> Self {
        Self { accumulate, ..self }
    }

    /// f(A)·B, f being applied where A is read; f(0) need not be 0.
    pub(crate) fn left_mapped(self, f: Map<E>) -> Self {
        Self { map_a: Some(f), ..self }
    }

    /// A·f(B), f being applied where B is read.
    pub(crate) fn right_mapped(self, f: Map<E>) -> Self {
        Self { map_b: Some(f), ..self }
    }

    /// Calls `finish` on every element of C once it is complete.
    pub(crate) fn finished_by(self, finish: Finish<'a, E>) -> Self {
        Self { finish: Some(finish), ..self }
    }

    /// Computes it.
    ///
    /// # Panics
    /// When the shapes do not fit: operations check them first.
    pub(crate) fn run(self) {
        if self.is_left_to_do() {
            E::product(self);
        }
    }

    /// Whether there is anything to multiply; what is written without that is
    /// written.
    ///
    /// # Panics
    /// When the shapes do not fit.
    fn is_left_to_do(&self) -> bool {
        let (b_rows, b_cols) = self.b.shape();
        let Self { a, c, .. } = self;
        assert!(a.rows == c.rows && b_cols == c.cols && a.cols == b_rows, "shapes of a product do not fit");
        if c.rows == 0 || c.cols == 0 {
            return false;
        }
        if a.cols > 0 {
            return true;
        }
        for i in 0..c.rows {
            // SAFETY: row i of the output, which we borrow exclusively.
            let row = unsafe { std::slice::from_raw_parts_mut(c.data.add(i * c.stride), c.cols) };
            if !self.accumulate {
                row.fill(E::ZERO);
            }
            if let Some(finish) = self.finish {
                finish(i, 0, row);
            }
        }
        false
    }
}

/// Computes several products, those of few rows together.
///
/// # Panics
/// When the shapes do not fit: operations check them first.
pub(crate) fn run_all<E: Element>(mut products: Vec<Product<'_, E>>) {
    products.retain(Product::is_left_to_do);
    if !products.is_empty() {
        E::products(products);
    }
}

/// C = A·B, or C += A·B, on all threads.
///
/// # Panics
/// When the shapes do not fit: operations check them first.
pub fn product<E: Element>(a: Matrix<'_, E>, b: Matrix<'_, E>, c: Output<'_, E>, accumulate: bool) {
    Product::new(a, b, c).accumulating(accumulate).run();
}

/// As [`product`] on the calling thread alone, for use inside tasks.
///
/// # Panics
/// When the shapes do not fit.
pub fn product_here<E: Element>(a: Matrix<'_, E>, b: Matrix<'_, E>, c: Output<'_, E>, accumulate: bool) {
    Product { parallel: false, ..Product::new(a, b, c).accumulating(accumulate) }.run();
}

/// A matrix packed for the products of this processor, if they pack.
pub(crate) fn pack_f32(b: &Matrix<'_, f32>) -> Option<PackedRight> {
    #[cfg(target_arch = "x86_64")]
    match crate::simd::level() {
        crate::Level::Avx512 => return Some(packed::pack::<kernels::Avx512>(b)),
        crate::Level::Avx2 => return Some(packed::pack::<kernels::Avx2>(b)),
        crate::Level::Baseline => {}
    }
    let _ = b;
    None
}

pub(crate) fn products_f32(all: Vec<Product<'_, f32>>) {
    #[cfg(target_arch = "x86_64")]
    if !ALIKE.get() && all.iter().all(thin::fits) {
        return thin::products(&all);
    }
    all.into_iter().for_each(product_f32);
}

pub(crate) fn product_f32(p: Product<'_, f32>) {
    #[cfg(target_arch = "x86_64")]
    if !ALIKE.get() && thin::fits(&p) {
        return thin::products(std::slice::from_ref(&p));
    }
    #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
    if matches!(p.b, Right::Plain(_)) && in_tiles(p.c.rows, p.c.cols, p.a.cols) {
        return packed::product::<split::Amx>(&p);
    }
    #[cfg(target_arch = "x86_64")]
    match crate::simd::level() {
        crate::Level::Avx512 => return packed::product::<kernels::Avx512>(&p),
        crate::Level::Avx2 => return packed::product::<kernels::Avx2>(&p),
        crate::Level::Baseline => {}
    }
    portable::product(p);
}

thread_local! {
    static ALIKE: std::cell::Cell<bool> = const { std::cell::Cell::new(false) };
}

/// Runs `f` with products that this thread begins giving each row the same
/// bits whatever other rows there are, for results that are kept and used in
/// another batch. A few rows then take longer: otherwise they have a kernel of
/// their own, which adds in another order.
pub fn rows_alike<T>(f: impl FnOnce() -> T) -> T {
    struct Reset(bool);
    impl Drop for Reset {
        fn drop(&mut self) {
            ALIKE.set(self.0);
        }
    }
    let _reset = Reset(ALIKE.replace(true));
    f()
}

/// Whether a product of `m × n` over `k` reads a right factor that is packed
/// once and kept: not where few rows read it as it lies in memory, nor in AMX
/// tiles, which pack in other ways, in little of their time.
pub(crate) fn reads_packed(m: usize, n: usize, k: usize) -> bool {
    #[cfg(target_arch = "x86_64")]
    if !ALIKE.get() && thin::is_thin(m, k) {
        return false;
    }
    !in_tiles(m, n, k)
}

/// Whether a product of `m × n` over `k` is faster in AMX tiles, which pack
/// more: not where one of the three is small. It is packed anew each time.
fn in_tiles(m: usize, n: usize, k: usize) -> bool {
    #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
    {
        (m >= 32 || ALIKE.get()) && n >= 32 && k >= 64 && split::is_here()
    }
    #[cfg(not(all(target_arch = "x86_64", target_os = "linux")))]
    {
        let _ = (m, n, k);
        false
    }
}

/// f(X) for a matrix, written out dense and row-major, with zeros below it up
/// to `rows`.
fn written_out<'a, E: Element>(
    x: Matrix<'_, E>,
    rows: usize,
    map: Option<Map<E>>,
    held: &'a mut Option<Buffer<E>>,
) -> Matrix<'a, E> {
    let mut values = Buffer::any(rows * x.cols);
    let (own, below) = values.split_at_mut(x.rows * x.cols);
    for (i, row) in own.chunks_exact_mut(x.cols.max(1)).enumerate() {
        for (j, v) in row.iter_mut().enumerate() {
            *v = x.data[i * x.row_stride + j * x.col_stride];
        }
    }
    if let Some(map) = map {
        map(own);
    }
    below.fill(E::ZERO);
    Matrix::dense(held.insert(values), rows, x.cols)
}

/// A closure over an [`Output`]'s pointer, called from several threads on
/// disjoint parts.
struct Shared<F>(F);
// SAFETY: the closures wrapped here write disjoint elements of C per call.
unsafe impl<F> Sync for Shared<F> {}
impl<F: Fn(usize)> Shared<F> {
    fn call(&self, i: usize) {
        (self.0)(i);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Random, with_threads};
    use proptest::prelude::*;

    fn random(len: usize, purpose: &str) -> Vec<f32> {
        let r = Random::new(5).purpose(purpose);
        (0..len as u64).map(|i| r.uniform(i) * 2.0 - 1.0).collect()
    }

    #[test]
    fn rows_have_the_same_bits_alone_and_among_others() {
        for (n, k) in [(64, 128), (96, 900), (33, 64), (16, 300)] {
            let (a, b) = (random(45 * k, "a"), random(k * n, "b"));
            let right = || Matrix::dense(&b, n, k).transposed();
            let mut all = vec![0.0; 45 * n];
            let mut alone = vec![0.0; 45 * n];
            rows_alike(|| {
                product(Matrix::dense(&a, 45, k), right(), Output::dense(&mut all, 45, n), false);
                for (a, c) in a.chunks(k).zip(alone.chunks_mut(n)) {
                    product(Matrix::dense(a, 1, k), right(), Output::dense(c, 1, n), false);
                }
            });
            assert!(all == alone, "{n} columns over {k}");
        }
        assert!(!ALIKE.get());
    }

    fn check(m: usize, n: usize, k: usize, ta: bool, tb: bool, accumulate: bool) {
        let (a, b) = (random(m * k, "a"), random(k * n, "b"));
        let mut c = random(m * n, "c");
        let start = c.clone();
        let ma = if ta { Matrix::dense(&a, k, m).transposed() } else { Matrix::dense(&a, m, k) };
        let mb = if tb { Matrix::dense(&b, n, k).transposed() } else { Matrix::dense(&b, k, n) };
        product(ma, mb, Output::dense(&mut c, m, n), accumulate);
        for i in 0..m {
            for j in 0..n {
                let mut want = if accumulate { f64::from(start[i * n + j]) } else { 0.0 };
                for p in 0..k {
                    let x = if ta { a[p * m + i] } else { a[i * k + p] };
                    let y = if tb { b[j * k + p] } else { b[p * n + j] };
                    want += f64::from(x) * f64::from(y);
                }
                let got = f64::from(c[i * n + j]);
                assert!((got - want).abs() < 1e-4, "{m}x{n}x{k} {ta} {tb} [{i},{j}]: {got} is not {want}");
            }
        }
    }

    #[test]
    fn every_form_and_edge_matches_the_definition() {
        for (m, n, k) in [(1, 1, 1), (1, 33, 7), (13, 1, 300), (12, 32, 16), (49, 65, 257), (130, 70, 513)] {
            for form in 0..8 {
                check(m, n, k, form & 1 > 0, form & 2 > 0, form & 4 > 0);
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn random_shapes_match_the_definition(m in 1usize..70, n in 1usize..90, k in 1usize..90, form in 0u8..8) {
            check(m, n, k, form & 1 > 0, form & 2 > 0, form & 4 > 0);
        }
    }

    #[test]
    fn threads_do_not_change_the_bits() {
        let (m, n, k) = (517, 300, 700);
        let (a, b) = (random(m * k, "a"), random(k * n, "b"));
        let run = |threads| {
            let mut c = vec![0.0; m * n];
            with_threads(threads, || {
                product(Matrix::dense(&a, m, k), Matrix::dense(&b, k, n), Output::dense(&mut c, m, n), false);
            })
            .expect("threads start");
            c
        };
        let one = run(1);
        assert_eq!(one, run(2));
        assert_eq!(one, run(4));
    }

    #[test]
    fn an_empty_inner_dimension_gives_zeros() {
        let mut c = vec![1.0_f32; 4];
        product(Matrix::dense(&[], 2, 0), Matrix::dense(&[], 0, 2), Output::dense(&mut c, 2, 2), false);
        assert_eq!(c, [0.0; 4]);
    }

    #[test]
    fn a_strided_output_leaves_its_neighbours_alone() {
        let (a, b) = (random(6, "a"), random(6, "b"));
        let mut c = vec![9.0_f32; 10];
        product(Matrix::dense(&a, 2, 3), Matrix::dense(&b, 3, 2), Output::strided(&mut c, 2, 2, 5), false);
        assert_eq!((c[2], c[3], c[4], c[7]), (9.0, 9.0, 9.0, 9.0));
        assert_ne!(c[0], 9.0);
    }
}
