//! Vector loops over single rows that several operations share.

use crate::simd::{sum2, vectorised};

vectorised! {
    /// out ← out + x
    pub(crate) fn add_row<E>(out: &mut [E], x: &[E]) {
        for (o, x) in out.iter_mut().zip(x) {
            *o += *x;
        }
    }
}
vectorised! {
    /// out ← out + factor · x
    pub(crate) fn add_scaled_row<E>(out: &mut [E], x: &[E], factor: E) {
        for (o, x) in out.iter_mut().zip(x) {
            *o += *x * factor;
        }
    }
}
vectorised! {
    /// out ← factor · x
    pub(crate) fn scale_row<E>(out: &mut [E], x: &[E], factor: E) {
        for (o, x) in out.iter_mut().zip(x) {
            *o = *x * factor;
        }
    }
}
vectorised! {
    /// Σ a · b
    pub(crate) fn dot<E>(a: &[E], b: &[E]) -> E {
        sum2(a, b, |x, y| x * y)
    }
}

/// One row of a row-major array with `cols` columns.
pub(crate) fn row<T>(x: &[T], index: usize, cols: usize) -> &[T] {
    &x[index * cols..(index + 1) * cols]
}
