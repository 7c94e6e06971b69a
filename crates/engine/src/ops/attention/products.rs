//! Products of matrices small enough for one thread, by the kernels of a
//! segment: bounds checked, memory grown as it is needed.

use super::kernels::{self, Kernels, Product};
use crate::{Buffer, Element};

/// Queries at most whose scores stand at once.
pub(super) const QUERIES: usize = 128;

/// A matrix as it lies in memory, `[rows, cols]`.
#[derive(Clone, Copy)]
pub(super) struct View<'a, E> {
    data: &'a [E],
    rows: usize,
    cols: usize,
    strides: (usize, usize),
}

impl<'a, E> View<'a, E> {
    /// `rows` rows of `cols` elements that begin `stride` apart, or with
    /// `across` their transpose.
    pub fn new(data: &'a [E], (rows, cols): (usize, usize), stride: usize, across: bool) -> Self {
        assert!(rows == 0 || cols == 0 || (rows - 1) * stride + cols <= data.len(), "a matrix reaches beyond its data");
        match across {
            false => Self { data, rows, cols, strides: (stride, 1) },
            true => Self { data, rows: cols, cols: rows, strides: (1, stride) },
        }
    }

    fn raw(self) -> kernels::View<E> {
        kernels::View { data: self.data.as_ptr(), strides: self.strides }
    }
}

/// The right factor of products, laid out for one kind of kernels.
pub(super) struct Right<E: Element> {
    data: Buffer<E>,
    whole: (usize, usize),
}

impl<E: Element> Right<E> {
    pub fn new() -> Self {
        Self { data: Buffer::any(0), whole: (0, 0) }
    }
}

/// What one thread computes products with.
pub(super) struct Products<E: Element> {
    kernels: &'static Kernels<E>,
    room: Buffer<E>,
}

impl<E: Element> Products<E> {
    pub fn new() -> Self {
        Self { kernels: E::attention(0, 0), room: Buffer::any(0) }
    }

    /// Sets this thread up for a segment's kernels; [`Products::end`] undoes it.
    pub fn begin(&mut self, kernels: &'static Kernels<E>) {
        self.kernels = kernels;
        (kernels.begin)();
    }

    pub fn end(&self) {
        (self.kernels.end)();
    }

    /// Lays `x` out as a right factor.
    pub fn lay_out(&self, x: View<'_, E>, to: &mut Right<E>) {
        to.whole = (x.rows, x.cols);
        let to = at_least(&mut to.data, (self.kernels.laid_out)(x.rows, x.cols));
        // SAFETY: the view holds all its elements, `to` what it says it needs.
        unsafe { (self.kernels.lay_out)(x.raw(), (x.rows, x.cols), to.as_mut_ptr()) };
    }

    /// C (+)= A·B for `cols` columns, a multiple of the lanes, of the part of a
    /// right factor from a row and column on. Of C, rows `stride` apart, whole
    /// tiles of rows are written: [`Kernels::rows`].
    pub fn multiply(
        &mut self,
        a: View<'_, E>,
        (b, from): (&Right<E>, (usize, usize)),
        cols: usize,
        (c, stride): (&mut [E], usize),
        add: bool,
    ) {
        let (kernels, depth) = (self.kernels, a.cols);
        if a.rows == 0 || cols == 0 || depth == 0 {
            if !add {
                c[..a.rows * stride].fill(E::ZERO);
            }
            return;
        }
        let fits = |n: usize| n.is_multiple_of(kernels.lanes);
        assert!(fits(cols) && fits(from.0) && fits(from.1) && stride >= cols, "parts are of whole lanes");
        assert!(from.0 + depth <= b.whole.0, "A is longer than the right factor");
        assert!(from.1 + cols <= kernels.padded(b.whole.1), "C is wider than the right factor");
        assert!((kernels.whole(a.rows, 1) - 1) * stride + cols <= c.len(), "C reaches beyond its data");
        let room = at_least(&mut self.room, (kernels.room)(depth)).as_mut_ptr();
        // SAFETY: all that the product reads and writes was checked above.
        unsafe {
            (kernels.product)(Product {
                rows: a.rows,
                cols,
                depth,
                a: a.raw(),
                b: b.data.as_ptr(),
                whole: b.whole,
                from,
                c: c.as_mut_ptr(),
                c_stride: stride,
                add,
                room,
            });
        }
    }
}

/// The first `len` elements of a buffer that grows where it is shorter, its
/// contents lost.
pub(super) fn at_least<E: Element>(buffer: &mut Buffer<E>, len: usize) -> &mut [E] {
    if buffer.len() < len {
        *buffer = Buffer::any(len);
    }
    &mut buffer[..len]
}

impl<E: Element> Kernels<E> {
    pub fn padded(&self, len: usize) -> usize {
        len.next_multiple_of(self.lanes)
    }

    /// Query rows whose scores stand at once for a number of keys.
    pub fn block_rows(&self, keys: usize) -> usize {
        let unit = self.rows.max(8);
        (self.scores / self.padded(keys).max(1)).clamp(self.queries, QUERIES) / unit * unit
    }

    /// Elements of a matrix of so many rows of `cols` of which a product may
    /// write whole tiles of rows.
    pub fn whole(&self, rows: usize, cols: usize) -> usize {
        rows.next_multiple_of(self.rows) * cols
    }
}
