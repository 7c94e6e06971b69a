//! Values: a shape and a shared, row-major buffer.

use crate::buffer::Buffer;
use crate::matmul::{Matrix, PackedRight};
use crate::{Element, EngineError, Result};
use std::fmt;
use std::sync::{Arc, OnceLock};

/// The lengths of a tensor's dimensions, at most four, outermost first.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Shape {
    dims: [usize; 4],
    rank: u8,
}

impl Shape {
    /// A shape from its dimensions.
    ///
    /// # Panics
    /// With more than four dimensions: a mistake in the program, not in data.
    pub fn new(dims: &[usize]) -> Self {
        assert!(dims.len() <= 4, "a tensor has at most four dimensions");
        let mut all = [1; 4];
        all[..dims.len()].copy_from_slice(dims);
        Self { dims: all, rank: dims.len() as u8 }
    }

    /// The dimensions.
    pub fn dims(&self) -> &[usize] {
        &self.dims[..usize::from(self.rank)]
    }

    /// The number of elements.
    pub fn len(&self) -> usize {
        self.dims().iter().product()
    }

    /// Whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The innermost dimension (1 for a scalar).
    pub fn cols(&self) -> usize {
        self.dims().last().copied().unwrap_or(1)
    }

    /// The product of all dimensions but the innermost.
    pub fn rows(&self) -> usize {
        let d = self.dims();
        d[..d.len().saturating_sub(1)].iter().product()
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.dims())
    }
}

impl fmt::Debug for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.dims())
    }
}

/// A dense row-major array. Cloning shares the buffer; writing copies it
/// first if it is shared.
#[derive(Clone)]
pub struct Tensor<E: Element = f32> {
    shape: Shape,
    data: Arc<Storage<E>>,
}

/// Values, and what was made of them for products that use them again.
struct Storage<E: Element> {
    values: Buffer<E>,
    packed: OnceLock<Option<PackedRight>>,
}

impl<E: Element> Storage<E> {
    fn shared(values: Buffer<E>) -> Arc<Self> {
        Arc::new(Self { values, packed: OnceLock::new() })
    }
}

impl<E: Element> Tensor<E> {
    /// A tensor with arbitrary contents, to be overwritten.
    pub fn any(dims: &[usize]) -> Self {
        let shape = Shape::new(dims);
        Self { shape, data: Storage::shared(Buffer::any(shape.len())) }
    }

    /// A shape whose values are elsewhere: those of a quantised parameter.
    pub(crate) fn hollow(shape: Shape) -> Self {
        Self { shape, data: Storage::shared(Buffer::any(0)) }
    }

    /// A tensor of zeros.
    pub fn zeros(dims: &[usize]) -> Self {
        Self::full(dims, E::ZERO)
    }

    /// A tensor with the same value everywhere.
    pub fn full(dims: &[usize], value: E) -> Self {
        let mut t = Self::any(dims);
        t.data_mut().fill(value);
        t
    }

    /// A tensor from row-major values.
    ///
    /// # Errors
    /// When the number of values is not the product of the dimensions.
    pub fn from_slice(dims: &[usize], values: &[E]) -> Result<Self> {
        let shape = Shape::new(dims);
        if shape.len() != values.len() {
            return Err(EngineError::setting("tensor", format!("{} values cannot fill shape {shape}", values.len())));
        }
        Ok(Self { shape, data: Storage::shared(Buffer::from_slice(values)) })
    }

    /// The shape.
    pub fn shape(&self) -> Shape {
        self.shape
    }

    /// The dimensions.
    pub fn dims(&self) -> &[usize] {
        self.shape.dims()
    }

    /// The number of elements.
    pub fn len(&self) -> usize {
        self.shape.len()
    }

    /// Whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.shape.is_empty()
    }

    /// The values, row-major.
    pub fn data(&self) -> &[E] {
        &self.data.values
    }

    /// The values for writing; copies them first if the buffer is shared.
    pub fn data_mut(&mut self) -> &mut [E] {
        if Arc::get_mut(&mut self.data).is_none() {
            self.data = Storage::shared(Buffer::from_slice(&self.data.values));
        }
        let storage = Arc::get_mut(&mut self.data).expect("just made unique");
        storage.packed.take();
        &mut storage.values
    }

    /// The transpose of this matrix packed for products, made at the first
    /// call and kept until the values change; None where products here pack
    /// nothing.
    pub(crate) fn packed_transpose(&self) -> Option<&PackedRight> {
        let (rows, cols) = (self.shape.rows(), self.shape.cols());
        let pack = || E::pack(&Matrix::dense(self.data(), rows, cols).transposed());
        // A reshaped tensor shares the packing of another shape.
        self.data.packed.get_or_init(pack).as_ref().filter(|p| p.shape() == (cols, rows))
    }

    /// Whether no other tensor shares the buffer.
    pub(crate) fn is_unique(&mut self) -> bool {
        Arc::get_mut(&mut self.data).is_some()
    }

    /// The same values under other dimensions.
    ///
    /// # Errors
    /// When the number of elements differs.
    pub fn reshaped(&self, dims: &[usize]) -> Result<Self> {
        let shape = Shape::new(dims);
        if shape.len() != self.len() {
            return Err(EngineError::shape("reshape", "input", format!("{shape}"), self.shape));
        }
        Ok(Self { shape, data: Arc::clone(&self.data) })
    }

    /// The one value of a tensor with one element.
    ///
    /// # Errors
    /// When there is not exactly one element.
    pub fn scalar(&self) -> Result<E> {
        match self.data() {
            [x] => Ok(*x),
            _ => Err(EngineError::shape("scalar", "input", "one element", self.shape)),
        }
    }

    /// The values converted to another element type.
    pub fn cast<F: Element>(&self) -> Tensor<F> {
        let mut out = Tensor::any(self.dims());
        for (o, x) in out.data_mut().iter_mut().zip(self.data()) {
            *o = F::of(x.to_f64());
        }
        out
    }
}

impl<E: Element> fmt::Debug for Tensor<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = &self.data()[..self.len().min(8)];
        write!(f, "Tensor{} {shown:?}{}", self.shape, if self.len() > 8 { "…" } else { "" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clones_share_until_written() {
        let a = Tensor::<f32>::full(&[2, 3], 1.0);
        let mut b = a.clone();
        b.data_mut()[0] = 5.0;
        assert_eq!((a.data()[0], b.data()[0]), (1.0, 5.0));
    }

    #[test]
    fn what_was_packed_goes_when_the_values_change() {
        let mut a = Tensor::<f32>::full(&[4, 2], 1.0);
        let Some(first) = a.packed_transpose() else { return };
        assert_eq!(first.shape(), (2, 4));
        assert!(a.reshaped(&[2, 4]).is_ok_and(|b| b.packed_transpose().is_none()));
        let shared = a.clone();
        a.data_mut()[0] = 2.0;
        assert!(a.data.packed.get().is_none() && shared.data.packed.get().is_some());
    }

    #[test]
    fn wrong_sizes_are_refused() {
        assert!(Tensor::<f32>::from_slice(&[2, 2], &[1.0; 3]).is_err());
        assert!(Tensor::<f32>::zeros(&[2, 3]).reshaped(&[4]).is_err());
        assert!(Tensor::<f32>::zeros(&[2]).scalar().is_err());
    }
}
