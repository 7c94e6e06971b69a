//! The header of a safetensors file: eight bytes of length, then JSON that
//! says for each tensor its format, dimensions and place among the bytes that
//! follow.
//!
//! It is checked as a whole before a tensor is read: the places must cover the
//! rest of the file without gap or overlap, and be of the size that format and
//! dimensions ask for.

use super::dtype::DType;
use super::file::Source;
use super::place::TensorInfo;
use crate::Result;
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use std::collections::{BTreeMap, HashSet};
use std::fmt;

/// The longest header that is read, as in the reference implementation.
const LONGEST_HEADER: u64 = 100_000_000;

/// What a safetensors header says.
pub(crate) struct Header {
    pub(crate) tensors: Vec<(String, TensorInfo)>,
    pub(crate) metadata: BTreeMap<String, String>,
}

/// Whether a file begins as a safetensors file.
pub(crate) fn recognises(head: &[u8]) -> bool {
    head.get(8) == Some(&b'{') && head.first_chunk().is_some_and(|n| u64::from_le_bytes(*n) <= LONGEST_HEADER)
}

/// Reads and checks the header of the checkpoint's file number `file`.
pub(crate) fn read_header(source: &Source, file: usize) -> Result<Header> {
    let broken = |problem: String| source.broken(format!("as safetensors: {problem}"));
    let length = source.head(8)?;
    let length =
        u64::from_le_bytes(length.try_into().map_err(|_| broken("the file is shorter than its header".into()))?);
    if length > LONGEST_HEADER {
        return Err(broken(format!("its header says it is {length} bytes long; at most {LONGEST_HEADER} are read")));
    }
    let json = source.read_vec(8, length)?;
    let Entries(entries) = serde_json::from_slice(&json).map_err(|e| broken(format!("its header: {e}")))?;
    let begin = 8 + length;
    let data = source.bytes - begin;
    let mut header = Header { tensors: Vec::with_capacity(entries.len()), metadata: BTreeMap::new() };
    let mut names = HashSet::new();
    let mut places = Vec::with_capacity(entries.len());
    for (name, entry) in entries {
        if !names.insert(name.clone()) {
            return Err(broken(format!("its header names {name:?} twice")));
        }
        let entry = match entry {
            Entry::Metadata(metadata) => {
                header.metadata = metadata;
                continue;
            }
            Entry::Tensor(entry) => entry,
        };
        let wrong = |problem: String| broken(format!("tensor {name:?}: {problem}"));
        let dtype = DType::of_safetensors_name(&entry.dtype)
            .ok_or_else(|| wrong(format!("its number format {} is not known here", entry.dtype)))?;
        let [from, to] = entry.data_offsets;
        if from > to {
            return Err(wrong(format!("ends ({to}) before it begins ({from})")));
        }
        if to > data {
            return Err(wrong(format!(
                "lies up to byte {to}, and there are {data}: the file is not whole, copy or download it again"
            )));
        }
        let info = TensorInfo::new(entry.shape, None, dtype, file, begin + from, to - from).map_err(wrong)?;
        if info.bytes != to - from {
            return Err(wrong(format!("{dtype} {:?} takes {} bytes, it has {}", info.dims, info.bytes, to - from)));
        }
        places.push((from, to, header.tensors.len()));
        header.tensors.push((name, info));
    }
    places.sort_unstable();
    let mut covered = 0;
    for (from, to, index) in places {
        if from != covered {
            let (what, name) =
                (if from < covered { "overlaps" } else { "leaves a gap after" }, &header.tensors[index].0);
            return Err(broken(format!("tensor {name:?} {what} the one before it")));
        }
        covered = to;
    }
    if covered != data {
        return Err(broken(format!("its tensors end at byte {covered}, and there are {data}")));
    }
    Ok(header)
}

/// The header's JSON in its order, with names as often as they stand there.
struct Entries(Vec<(String, Entry)>);

enum Entry {
    Metadata(BTreeMap<String, String>),
    Tensor(TensorEntry),
}

#[derive(serde::Deserialize)]
struct TensorEntry {
    dtype: String,
    shape: Vec<usize>,
    data_offsets: [u64; 2],
}

impl<'de> Deserialize<'de> for Entries {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        struct Reader;

        impl<'de> Visitor<'de> for Reader {
            type Value = Entries;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of tensors by name")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<Entries, A::Error> {
                let mut entries = Vec::new();
                while let Some(name) = map.next_key::<String>()? {
                    let entry = match name.as_str() {
                        "__metadata__" => Entry::Metadata(map.next_value()?),
                        _ => Entry::Tensor(map.next_value()?),
                    };
                    entries.push((name, entry));
                }
                Ok(Entries(entries))
            }
        }

        deserializer.deserialize_map(Reader)
    }
}
