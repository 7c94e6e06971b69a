//! Bytes in pooled memory, aligned to a cache line.

use crate::Buffer;

/// A fixed number of bytes that come from the pool of `f32` buffers.
pub(super) struct Bytes {
    memory: Buffer<f32>,
    len: usize,
}

impl Bytes {
    /// `len` arbitrary bytes.
    pub fn any(len: usize) -> Self {
        Self { memory: Buffer::any(len.div_ceil(size_of::<f32>())), len }
    }

    /// `len` zeros.
    pub fn zeros(len: usize) -> Self {
        Self { memory: Buffer::zeros(len.div_ceil(size_of::<f32>())), len }
    }

    /// The bytes as signed numbers.
    pub fn signed(&self) -> &[i8] {
        // SAFETY: i8 and u8 have the same size, alignment and valid values.
        unsafe { std::slice::from_raw_parts(self.as_ptr().cast(), self.len) }
    }

    /// The bytes as signed numbers, for writing.
    pub fn signed_mut(&mut self) -> &mut [i8] {
        // SAFETY: as above, and `&mut self` makes the access exclusive.
        unsafe { std::slice::from_raw_parts_mut(self.as_mut_ptr().cast(), self.len) }
    }
}

impl std::ops::Deref for Bytes {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        // SAFETY: the buffer holds at least `len` initialised bytes, and every
        // bit pattern is a valid byte.
        unsafe { std::slice::from_raw_parts(self.memory.as_ptr().cast(), self.len) }
    }
}

impl std::ops::DerefMut for Bytes {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above; every pattern of bits is a valid f32, too.
        unsafe { std::slice::from_raw_parts_mut(self.memory.as_mut_ptr().cast(), self.len) }
    }
}
