//! The innermost loops of attention, written once over [`Vector`] and built
//! for each width.
//!
//! The products of one head are thin: an inner dimension of 32 or 64, or a few
//! hundred keys. Packing both factors as large products do would cost as much
//! as the product, so only what is read against its grain is laid out anew
//! (keys and values transposed), once for all queries of a head.

use crate::Element;
use crate::vector::{Portable, Vector};

/// C (+)= A·B: `a[i * row + k * depth]`, rows of B and C contiguous.
#[derive(Clone, Copy)]
pub(super) struct Product<E> {
    pub rows: usize,
    /// A multiple of [`Kernels::lanes`].
    pub cols: usize,
    pub depth: usize,
    pub a: *const E,
    /// How far apart in A the rows are, and the elements of a row.
    pub a_strides: (usize, usize),
    pub b: *const E,
    pub b_stride: usize,
    pub c: *mut E,
    pub c_stride: usize,
    pub add: bool,
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
    pub(super) product: unsafe fn(Product<E>),
    /// e^(x − largest) in place over a multiple of `lanes`; returns the
    /// largest and the sum.
    pub(super) exponentials: unsafe fn(*mut E, usize) -> (E, E),
    pub(super) backward: unsafe fn(Row<E>),
}

/// The loops for `f32` on this processor.
pub fn kernels_f32() -> &'static Kernels<f32> {
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
    &Kernels {
        lanes: 8,
        product: product::<E, Portable<E>>,
        exponentials: exponentials::<E, Portable<E>>,
        backward: backward::<E, Portable<E>>,
    }
}

/// The builds of the loops for one x86 register.
#[cfg(target_arch = "x86_64")]
macro_rules! build {
    ($module:ident, $register:ident, $features:literal) => {
        mod $module {
            use super::{Kernels, Product, Row, Vector};
            use std::arch::x86_64::$register;

            pub(super) const KERNELS: &Kernels<f32> =
                &Kernels { lanes: <$register as Vector<f32>>::LANES, product, exponentials, backward };

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
        let (down, along) = p.a_strides;
        let mut sums = [[V::splat(E::ZERO); WIDE]; HIGH];
        let (mut a, mut b) = (p.a.add(row * down), p.b.add(col));
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
            b = b.wrapping_add(p.b_stride);
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

#[cfg(test)]
mod tests {
    use super::*;

    fn all() -> Vec<&'static Kernels<f32>> {
        let mut all = vec![kernels_portable::<f32>()];
        #[cfg(target_arch = "x86_64")]
        {
            if crate::level() >= crate::Level::Avx2 {
                all.push(avx2::KERNELS);
            }
            if crate::level() >= crate::Level::Avx512 {
                all.push(avx512::KERNELS);
            }
        }
        all
    }

    fn values(len: usize, seed: usize) -> Vec<f32> {
        (0..len).map(|i| ((i * 37 + seed * 11) % 101) as f32 / 50.0 - 1.0).collect()
    }

    #[test]
    fn products_of_every_shape_and_layout_match_the_definition() {
        for kernels in all() {
            for rows in [1, 2, 3, 4, 5, 7, 11, 16, 23] {
                for (panels, depth) in [(1, 1), (2, 5), (3, 32), (5, 2)] {
                    for (transposed, add) in [(false, false), (true, false), (false, true)] {
                        let cols = panels * kernels.lanes;
                        let (a, b) = (values(rows * depth, 1), values(depth * (cols + 3), 2));
                        let mut c = values(rows * cols, 3);
                        let before = c.clone();
                        let strides = if transposed { (1, rows) } else { (depth, 1) };
                        // SAFETY: the three hold what the product names.
                        unsafe {
                            (kernels.product)(Product {
                                rows,
                                cols,
                                depth,
                                a: a.as_ptr(),
                                a_strides: strides,
                                b: b.as_ptr(),
                                b_stride: cols + 3,
                                c: c.as_mut_ptr(),
                                c_stride: cols,
                                add,
                            });
                        }
                        for i in 0..rows {
                            for j in 0..cols {
                                let terms =
                                    (0..depth).map(|k| a[i * strides.0 + k * strides.1] * b[k * (cols + 3) + j]);
                                let want = terms.sum::<f32>() + if add { before[i * cols + j] } else { 0.0 };
                                assert!((c[i * cols + j] - want).abs() < 1e-5, "{rows} x {cols} x {depth}");
                            }
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn exponentials_of_hidden_scores_are_zero() {
        for kernels in all() {
            let len = 2 * kernels.lanes;
            let mut x = values(len, 4);
            x[3..].fill(f32::NEG_INFINITY);
            let want: Vec<f32> = x.iter().map(|v| (v - x[..3].iter().copied().fold(-9.0, f32::max)).exp()).collect();
            // SAFETY: `x` holds `len` elements.
            let (_, sum) = unsafe { (kernels.exponentials)(x.as_mut_ptr(), len) };
            assert!(x.iter().zip(&want).all(|(a, b)| (a - b).abs() < 1e-6));
            assert_eq!(x[3..], vec![0.0; len - 3]);
            assert!((sum - want.iter().sum::<f32>()).abs() < 1e-6);
            x.fill(f32::NEG_INFINITY);
            // SAFETY: as above.
            let (largest, sum) = unsafe { (kernels.exponentials)(x.as_mut_ptr(), len) };
            assert_eq!((largest, sum), (f32::NEG_INFINITY, 0.0));
            assert_eq!(x, vec![0.0; len]);
        }
    }
}
