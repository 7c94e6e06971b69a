//! The files of PyTorch before 1.6: five pickles one after the other (a magic
//! number, a version, facts about the machine, the object, the keys of the
//! storages), then for each key the number of numbers and the numbers.

use super::archive::locate;
use super::value::Value;
use super::{Contents, LONGEST_PICKLE, Result, pickle, state_dict};
use crate::ModelError;
use crate::checkpoint::file::Source;
use std::collections::HashMap;

/// The magic number 0x1950a86a20f9469cfc6c, as a pickle begins with it.
const MAGIC: [u8; 10] = [0x6c, 0xfc, 0x9c, 0x46, 0xf9, 0x20, 0x6a, 0xa8, 0x50, 0x19];
const VERSION: i64 = 1001;

/// Whether a file begins with the magic number.
pub(crate) fn recognises(head: &[u8]) -> bool {
    pickle::read(head).is_ok_and(|p| matches!(p.values[p.top], Value::Long(bytes) if bytes == MAGIC))
}

/// Reads the description of all tensors of such a file.
pub(crate) fn read_legacy(source: &Source, file: usize) -> std::result::Result<Contents, ModelError> {
    // How long the pickles are is known when they were read.
    let mut window = 1 << 20;
    loop {
        let bytes = source.head(window)?;
        match read(source, file, &bytes) {
            Err(problem) if problem == pickle::ENDED && window < LONGEST_PICKLE.min(source.bytes) => window *= 4,
            other => return other.map_err(|problem| source.broken(format!("as a PyTorch file: {problem}"))),
        }
    }
}

fn read(source: &Source, file: usize, bytes: &[u8]) -> Result<Contents> {
    let mut at = 0;
    let mut next = || {
        let read = pickle::read(&bytes[at..])?;
        at += read.length;
        Ok::<_, String>(read)
    };
    next()?;
    let version = next()?;
    if !matches!(version.values[version.top], Value::Int(VERSION)) {
        return Err(format!("its version is not {VERSION}"));
    }
    let machine = next()?;
    if is_big_endian(&machine) {
        return Err("its numbers are big-endian, which is not read: save it on a little-endian machine".into());
    }
    let object = next()?;
    let keys = next()?;
    let places = places(source, &object, &keys, at as u64)?;
    state_dict::read(&object, |tensor| {
        let (start, length) =
            *places.get(&*tensor.storage.key).ok_or_else(|| "its numbers are not in the file".to_owned())?;
        locate(tensor, file, start, length)
    })
}

fn is_big_endian(machine: &pickle::Pickle<'_>) -> bool {
    let Value::Dict(facts) = &machine.values[machine.top] else { return false };
    facts.iter().any(|(key, value)| {
        matches!(&machine.values[*key], Value::Text(text) if text == "little_endian")
            && matches!(machine.values[*value], Value::Bool(false))
    })
}

/// Where each storage begins and how many bytes it has.
fn places(
    source: &Source,
    object: &pickle::Pickle<'_>,
    keys: &pickle::Pickle<'_>,
    mut at: u64,
) -> Result<HashMap<String, (u64, u64)>> {
    let mut sizes = HashMap::new();
    for value in &object.values {
        if let Value::Storage(storage) = value {
            sizes.insert(&*storage.key, storage.dtype.map_or(1, |dtype| dtype.size()) as u64);
        }
    }
    let Value::List(list) = &keys.values[keys.top] else { return Err("it has no list of its storages".into()) };
    let mut places = HashMap::new();
    for key in list {
        let Value::Text(key) = &keys.values[*key] else { return Err("the key of a storage is not text".into()) };
        let size = *sizes.get(&**key).ok_or_else(|| format!("storage {key:?} is of a kind that is not read"))?;
        let count = source.read_vec(at, 8).map_err(|e| e.to_string())?;
        let count = count.try_into().map(i64::from_le_bytes).unwrap_or(-1);
        let length = u64::try_from(count).ok().and_then(|n| n.checked_mul(size));
        let end = length.and_then(|n| at.checked_add(8)?.checked_add(n)).filter(|end| *end <= source.bytes);
        let (Some(length), Some(end)) = (length, end) else {
            return Err(format!(
                "storage {key:?} should have {count} numbers, and the file ends before: it is not whole"
            ));
        };
        places.insert(key.clone().into_owned(), (at + 8, length));
        at = end;
    }
    Ok(places)
}
