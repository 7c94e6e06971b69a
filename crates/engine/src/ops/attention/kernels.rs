//! The innermost loops of attention, written once over [`Vector`] and built
//! for each width.
//!
//! The products of one head are thin: an inner dimension of 32 or 64, or a few
//! hundred keys. Packing both factors as large products do would cost as much
//! as the product, so only the right factor is laid out anew, rows of B end to
//! end, once for all queries of a head. Long segments have another kind of
//! kernels where there are AMX tiles (`tiles.rs`).

use crate::Element;
use crate::vector::{Portable, Vector};

/// A matrix as it lies in memory: element (i, j) is at `data[i * strides.0 + j
/// * strides.1]`.
#[derive(Clone, Copy)]
pub(super) struct View<E> {
    pub data: *const E,
    pub strides: (usize, usize),
}

/// C (+)= A·B, where B is a part of a right factor that was laid out whole.
#[derive(Clone, Copy)]
pub(super) struct Product<E> {
    pub rows: usize,
    /// A multiple of [`Kernels::lanes`].
    pub cols: usize,
    pub depth: usize,
    pub a: View<E>,
    /// What [`Kernels::lay_out`] made of a factor of `whole` rows and columns.
    pub b: *const E,
    pub whole: (usize, usize),
    /// The first row and column of the part, multiples of [`Kernels::lanes`].
    pub from: (usize, usize),
    pub c: *mut E,
    pub c_stride: usize,
    pub add: bool,
    /// Memory for [`Kernels::room`] elements.
    pub room: *mut E,
}

/// One head's row of scores on its way back.
#[derive(Clone, Copy)]
pub(super) struct Row<E> {
    /// The scores, which become the weights that multiplied the values.
    pub scores: *mut E,
    /// The gradients of those weights, which become those of the scores.
    pub gradients: *mut E,
    /// A multiple of [`Kernels::lanes`].
    pub len: usize,
    /// log Σ exp of the scores.
    pub log: E,
    /// Σ weight · gradient.
    pub along: E,
    /// What dropout multiplied each weight by; null: 1.
    pub mask: *const E,
}

/// The loops, built for one width.
pub struct Kernels<E: 'static> {
    /// What lengths of rows are rounded up to.
    pub(super) lanes: usize,
    /// What numbers of rows of C are rounded up to: those beyond are written
    /// too, with anything, or left as they are where a product adds to them.
    pub(super) rows: usize,
    /// Queries at least whose scores stand at once.
    pub(super) queries: usize,
    /// Scores that stand at once, unless those queries have more.
    pub(super) scores: usize,
    /// Keys that backward takes at once.
    pub(super) keys: usize,
    /// Elements of a right factor of so many rows and columns, laid out.
    pub(super) laid_out: fn(usize, usize) -> usize,
    /// Lays out a right factor of `(rows, columns)`.
    pub(super) lay_out: unsafe fn(View<E>, (usize, usize), *mut E),
    /// Elements of the memory that a product over so many rows of B needs.
    pub(super) room: fn(usize) -> usize,
    /// Sets a thread up for products, and undoes it.
    pub(super) begin: fn(),
    pub(super) end: fn(),
    pub(super) product: unsafe fn(Product<E>),
    /// e^(x − largest) in place over a multiple of `lanes`; returns the
    /// largest and the sum.
    pub(super) exponentials: unsafe fn(*mut E, usize) -> (E, E),
    pub(super) backward: unsafe fn(Row<E>),
}

/// The loops for `f32` on this processor, for a segment of at least `rows`
/// queries and keys and `work` multiply-adds for the scores of a query. These
/// alone decide, so that a segment has the same bits whatever stands beside it.
pub fn kernels_f32(rows: usize, work: usize) -> &'static Kernels<f32> {
    #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
    if let Some(kernels) = super::tiles::kernels(rows, work) {
        return kernels;
    }
    #[cfg(not(all(target_arch = "x86_64", target_os = "linux")))]
    let _ = (rows, work);
    #[cfg(target_arch = "x86_64")]
    match crate::level() {
        crate::Level::Avx512 => return avx512::KERNELS,
        crate::Level::Avx2 => return avx2::KERNELS,
        crate::Level::Baseline => {}
    }
    kernels_portable()
}

/// The loops for any element in plain Rust.
pub fn kernels_portable<E: Element>() -> &'static Kernels<E> {
    const { &reading::<E, 8>(product::<E, Portable<E>>, exponentials::<E, Portable<E>>, backward::<E, Portable<E>>) }
}

/// Kernels that read A as it lies, and of B rows of a multiple of `LANES`.
const fn reading<E: Element, const LANES: usize>(
    product: unsafe fn(Product<E>),
    exponentials: unsafe fn(*mut E, usize) -> (E, E),
    backward: unsafe fn(Row<E>),
) -> Kernels<E> {
    Kernels {
        lanes: LANES,
        rows: 1,
        queries: 16,
        // They stay in the cache nearest to a core, twice over in backward.
        scores: 4096,
        keys: usize::MAX,
        laid_out: |rows, cols| rows * cols.next_multiple_of(LANES),
        lay_out: lay_out::<E, LANES>,
        room: |_| 0,
        begin: || {},
        end: || {},
        product,
        exponentials,
        backward,
    }
}

/// Rows of B end to end, each filled up with zeros.
///
/// # Safety
/// `x` can be read for `(rows, cols)`, `to` is valid for what
/// [`Kernels::laid_out`] says.
unsafe fn lay_out<E: Element, const LANES: usize>(x: View<E>, (rows, cols): (usize, usize), to: *mut E) {
    let padded = cols.next_multiple_of(LANES);
    // SAFETY: the caller's duty; all places below are those named.
    unsafe {
        let at = |i: usize, j: usize| *x.data.add(i * x.strides.0 + j * x.strides.1);
        // Columns that lie next to each other in memory are copied, else four
        // rows of the memory are read side by side.
        let fours = if x.strides.1 == 1 { 0 } else { cols / 4 * 4 };
        for j in (0..fours).step_by(4) {
            for i in 0..rows {
                let to = to.add(i * padded + j);
                (0..4).for_each(|n| *to.add(n) = at(i, j + n));
            }
        }
        for i in 0..rows {
            let to = to.add(i * padded);
            (fours..cols).for_each(|j| *to.add(j) = at(i, j));
            (cols..padded).for_each(|j| *to.add(j) = E::ZERO);
        }
    }
}

/// The builds of the loops for one x86 register.
#[cfg(target_arch = "x86_64")]
macro_rules! build {
    ($module:ident, $register:ident, $features:literal) => {
        pub(super) mod $module {
            use super::{Kernels, Product, Row, Vector};
            use std::arch::x86_64::$register;

            pub(in super::super) const KERNELS: &Kernels<f32> =
                &super::reading::<f32, { <$register as Vector<f32>>::LANES }>(product, exponentials, backward);

            #[target_feature(enable = $features)]
            unsafe fn product(p: Product<f32>) {
                // SAFETY: the caller's duty.
                unsafe { super::product::<f32, $register>(p) };
            }
            #[target_feature(enable = $features)]
            unsafe fn exponentials(x: *mut f32, len: usize) -> (f32, f32) {
                // SAFETY: the caller's duty.
                unsafe { super::exponentials::<f32, $register>(x, len) }
            }
            #[target_feature(enable = $features)]
            unsafe fn backward(row: Row<f32>) {
                // SAFETY: the caller's duty.
                unsafe { super::backward::<f32, $register>(row) };
            }
        }
    };
}
#[cfg(target_arch = "x86_64")]
build!(avx512, __m512, "avx512f,avx2,fma");
#[cfg(target_arch = "x86_64")]
build!(avx2, __m256, "avx2,fma");

/// # Safety
/// The pointers are valid for all elements that the product names; nobody
/// else touches C; the processor has V's instructions.
#[inline(always)]
unsafe fn product<E: Element, V: Vector<E>>(p: Product<E>) {
    // SAFETY: the caller's duty; the tiles cover the rows and columns named.
    unsafe {
        let mut col = 0;
        while col + 2 * V::LANES <= p.cols {
            down::<E, V, 2>(p, col);
            col += 2 * V::LANES;
        }
        if col < p.cols {
            down::<E, V, 1>(p, col);
        }
    }
}

/// All rows of some columns.
///
/// # Safety
/// As [`product`].
#[inline(always)]
unsafe fn down<E: Element, V: Vector<E>, const WIDE: usize>(p: Product<E>, col: usize) {
    let mut row = 0;
    // SAFETY: the caller's duty.
    unsafe {
        while row + V::ROWS <= p.rows {
            match V::ROWS {
                8 => tile::<E, V, 8, WIDE>(p, row, col),
                6 => tile::<E, V, 6, WIDE>(p, row, col),
                _ => tile::<E, V, 4, WIDE>(p, row, col),
            }
            row += if V::ROWS == 8 || V::ROWS == 6 { V::ROWS } else { 4 };
        }
        while p.rows - row >= 3 {
            tile::<E, V, 3, WIDE>(p, row, col);
            row += 3;
        }
        if p.rows - row == 2 {
            tile::<E, V, 2, WIDE>(p, row, col);
        } else if p.rows - row == 1 {
            tile::<E, V, 1, WIDE>(p, row, col);
        }
    }
}

/// One tile, its sums held in registers.
///
/// # Safety
/// As [`product`]; the tile lies within.
#[inline(always)]
unsafe fn tile<E: Element, V: Vector<E>, const HIGH: usize, const WIDE: usize>(p: Product<E>, row: usize, col: usize) {
    // SAFETY: the caller's duty.
    unsafe {
        let (down, along) = p.a.strides;
        let b_stride = p.whole.1.next_multiple_of(V::LANES);
        let mut sums = [[V::splat(E::ZERO); WIDE]; HIGH];
        let (mut a, mut b) = (p.a.data.add(row * down), p.b.add(p.from.0 * b_stride + p.from.1 + col));
        for _ in 0..p.depth {
            let mut columns = [V::splat(E::ZERO); WIDE];
            for (j, column) in columns.iter_mut().enumerate() {
                *column = V::load(b.add(j * V::LANES));
            }
            for (i, sums) in sums.iter_mut().enumerate() {
                let x = V::splat(*a.add(i * down));
                for (sum, column) in sums.iter_mut().zip(columns) {
                    *sum = column.mul_add(x, *sum);
                }
            }
            // Not to move past the end after the last step.
            a = a.wrapping_add(along);
            b = b.wrapping_add(b_stride);
        }
        for (i, sums) in sums.iter().enumerate() {
            for (j, sum) in sums.iter().enumerate() {
                let c = p.c.add((row + i) * p.c_stride + col + j * V::LANES);
                if p.add { sum.add(V::load(c)) } else { *sum }.store(c);
            }
        }
    }
}

/// # Safety
/// `x` is valid for `len` elements, a multiple of `LANES`; the processor has
/// V's instructions.
#[inline(always)]
unsafe fn exponentials<E: Element, V: Vector<E>>(x: *mut E, len: usize) -> (E, E) {
    // SAFETY: the caller's duty.
    unsafe {
        let mut largest = V::splat(E::NEG_INFINITY);
        for i in (0..len).step_by(V::LANES) {
            largest = V::load(x.add(i)).larger(largest);
        }
        let largest = largest.largest();
        if largest == E::NEG_INFINITY {
            // Nothing is seen.
            for i in (0..len).step_by(V::LANES) {
                V::splat(E::ZERO).store(x.add(i));
            }
            return (largest, E::ZERO);
        }
        let (mut sum, shift) = (V::splat(E::ZERO), V::splat(largest));
        for i in (0..len).step_by(V::LANES) {
            let e = V::load(x.add(i)).sub(shift).exp();
            e.store(x.add(i));
            sum = sum.add(e);
        }
        (largest, sum.sum())
    }
}

/// P = e^(S − log), dS = P · (mask · dP − along); P is left multiplied by the
/// mask.
///
/// # Safety
/// The row's pointers are valid for its length; the processor has V's
/// instructions.
#[inline(always)]
unsafe fn backward<E: Element, V: Vector<E>>(row: Row<E>) {
    // SAFETY: the caller's duty.
    unsafe {
        let (log, along) = (V::splat(row.log), V::splat(row.along));
        for i in (0..row.len).step_by(V::LANES) {
            let weight = V::load(row.scores.add(i)).sub(log).exp();
            let mut gradient = V::load(row.gradients.add(i));
            let mut used = weight;
            if !row.mask.is_null() {
                let mask = V::load(row.mask.add(i));
                gradient = gradient.mul(mask);
                used = weight.mul(mask);
            }
            used.store(row.scores.add(i));
            weight.mul(gradient.sub(along)).store(row.gradients.add(i));
        }
    }
}
