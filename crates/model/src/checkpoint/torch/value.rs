//! The values that a pickle can be made of here.

use crate::checkpoint::DType;
use std::borrow::Cow;

/// A value's place among all values of a pickle.
pub(super) type Id = usize;

/// A value. Containers hold the places of others, so that a pickle may share
/// them and even close circles.
#[derive(Debug)]
pub(super) enum Value<'p> {
    None,
    Bool(bool),
    Int(i64),
    /// An integer of more than 64 bits, little-endian.
    Long(&'p [u8]),
    Float(f64),
    Text(Cow<'p, str>),
    Bytes,
    Tuple(Vec<Id>),
    List(Vec<Id>),
    Dict(Vec<(Id, Id)>),
    /// The name of a class or function, which is never looked up.
    Global(Name<'p>),
    Storage(Storage<'p>),
    Tensor(Tensor<'p>),
    /// Something that only code could make; its state may hold tensors.
    Opaque {
        class: String,
        state: Option<Id>,
    },
}

/// A dotted name in its two parts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Name<'p> {
    pub(super) module: Cow<'p, str>,
    pub(super) name: Cow<'p, str>,
}

impl std::fmt::Display for Name<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}", self.module, self.name)
    }
}

/// Numbers that lie elsewhere in the file.
#[derive(Debug, Clone)]
pub(super) struct Storage<'p> {
    pub(super) key: Cow<'p, str>,
    /// None where the storage is of plain bytes and the tensor says what they are.
    pub(super) dtype: Option<DType>,
    /// In numbers, of plain bytes in bytes.
    pub(super) len: usize,
    /// Where it is a part of the storage of that key: from which number on.
    pub(super) view: Option<usize>,
}

/// A view of a storage.
#[derive(Debug, Clone)]
pub(super) struct Tensor<'p> {
    pub(super) storage: Storage<'p>,
    pub(super) dtype: DType,
    /// In numbers.
    pub(super) offset: usize,
    pub(super) dims: Vec<usize>,
    pub(super) strides: Vec<usize>,
}
