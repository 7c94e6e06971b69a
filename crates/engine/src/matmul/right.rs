//! The right factor of a product: as it lies in memory, or packed before.

use super::Matrix;
use crate::Buffer;

/// A matrix packed for this processor's micro-kernel, to be multiplied with
/// many times.
pub struct PackedRight {
    pub(super) panels: Buffer<f32>,
    pub(super) rows: usize,
    pub(super) cols: usize,
    /// Columns of the kernel that it is packed for.
    pub(super) width: usize,
}

impl PackedRight {
    /// Rows and columns of the matrix.
    pub(crate) fn shape(&self) -> (usize, usize) {
        (self.rows, self.cols)
    }
}

/// The right factor of a product.
pub(crate) enum Right<'a, E> {
    /// A matrix as it lies in memory.
    Plain(Matrix<'a, E>),
    /// One that was packed before.
    Packed(&'a PackedRight),
}

impl<E> Right<'_, E> {
    pub(super) fn shape(&self) -> (usize, usize) {
        match self {
            Self::Plain(b) => (b.rows, b.cols),
            Self::Packed(b) => b.shape(),
        }
    }
}
