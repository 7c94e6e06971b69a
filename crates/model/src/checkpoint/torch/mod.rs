//! PyTorch's pickles (`.bin`, `.pt`, `.pth`), read without running anything.
//!
//! A pickle is a program for a small stack machine; Python's reader lets it
//! call any function there is. [`pickle`] is a machine of our own that knows
//! values, containers and how PyTorch describes a tensor, calls nothing, and
//! keeps whatever else it meets as a name ([`rebuild`]). [`archive`] finds pickle and numbers
//! in the zip files of PyTorch 1.6 and later, [`legacy`] in the ones before,
//! [`state_dict`] turns the value of the pickle into named tensors.

mod archive;
mod legacy;
mod pickle;
mod rebuild;
mod state_dict;
mod value;

pub(crate) use archive::read_archive;
pub(crate) use legacy::{read_legacy, recognises as recognises_legacy};

use super::place::TensorInfo;
use std::collections::BTreeMap;

/// What a PyTorch file holds.
#[derive(Debug, Default)]
pub(crate) struct Contents {
    pub(crate) tensors: Vec<(String, TensorInfo)>,
    /// Numbers and text that stand beside the tensors, by dotted names.
    pub(crate) metadata: BTreeMap<String, String>,
    pub(crate) notes: Vec<String>,
}

/// What went wrong, in words.
type Result<T> = std::result::Result<T, String>;

/// The longest pickle that is read. One holds names and dimensions, no numbers.
const LONGEST_PICKLE: u64 = 64 << 20;
