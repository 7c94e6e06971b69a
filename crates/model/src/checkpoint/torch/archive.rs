//! The zip files of PyTorch 1.6 and later: `NAME/data.pkl` and, uncompressed,
//! `NAME/data/KEY` for each storage.

use super::value::Tensor;
use super::{Contents, LONGEST_PICKLE, Result, pickle, state_dict};
use crate::ModelError;
use crate::checkpoint::file::Source;
use crate::checkpoint::place::TensorInfo;
use rawzip::{CompressionMethod, RECOMMENDED_BUFFER_SIZE, ReaderAt, ZipArchive, ZipArchiveEntryWayfinder, ZipLocator};
use std::collections::HashMap;
use std::io;

/// The most files in an archive.
const MOST_FILES: usize = 1_000_000;

impl ReaderAt for &Source {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let length = buffer.len().min(usize::try_from(self.bytes.saturating_sub(offset)).unwrap_or(usize::MAX));
        self.read(offset, &mut buffer[..length]).map_err(io::Error::other)?;
        Ok(length)
    }
}

/// Reads the description of all tensors of an archive.
pub(crate) fn read_archive(source: &Source, file: usize) -> std::result::Result<Contents, ModelError> {
    let broken = |problem: String| source.broken(format!("as a PyTorch file: {problem}"));
    let archive = Archive::open(source).map_err(broken)?;
    let (start, length) = archive.place("data.pkl").map_err(broken)?;
    if length > LONGEST_PICKLE {
        return Err(broken(format!("its pickle has {length} bytes; at most {LONGEST_PICKLE} are read")));
    }
    let bytes = source.read_vec(start, length)?;
    if archive.files.contains_key("byteorder") {
        let (start, length) = archive.place("byteorder").map_err(broken)?;
        if source.read_vec(start, length.min(16))? == b"big" {
            return Err(broken(
                "its numbers are big-endian, which is not read: save it on a little-endian machine".into(),
            ));
        }
    }
    let read = || {
        let pickle = pickle::read(&bytes)?;
        let mut places = HashMap::new();
        state_dict::read(&pickle, |tensor| {
            let key = &*tensor.storage.key;
            let (start, length) = match places.get(key) {
                Some(place) => *place,
                None => {
                    let place = archive.place(&format!("data/{key}"))?;
                    places.insert(key.to_owned(), place);
                    place
                }
            };
            locate(tensor, file, start, length)
        })
    };
    read().map_err(broken)
}

/// Where a tensor lies, given where its storage does.
pub(super) fn locate(tensor: &Tensor<'_>, file: usize, start: u64, length: u64) -> Result<TensorInfo> {
    let size = tensor.dtype.size();
    let too_far = || "it begins beyond the numbers it is a part of".to_owned();
    let first = tensor.offset.checked_add(tensor.storage.view.unwrap_or(0)).ok_or_else(too_far)?;
    let skipped = first.checked_mul(size).ok_or_else(too_far)? as u64;
    let unit = tensor.storage.dtype.map_or(1, |dtype| dtype.size());
    let claimed = tensor.storage.len.checked_mul(unit).ok_or_else(too_far)? as u64;
    if tensor.storage.view.is_none() && claimed > length {
        return Err(format!("its storage should have {claimed} bytes, the file has {length}"));
    }
    let available = length.checked_sub(skipped).ok_or_else(too_far)?;
    TensorInfo::new(tensor.dims.clone(), Some(tensor.strides.clone()), tensor.dtype, file, start + skipped, available)
}

/// The files of an archive by their names below its one folder.
struct Archive<'s> {
    zip: ZipArchive<&'s Source>,
    files: HashMap<String, ZipArchiveEntryWayfinder>,
    source: &'s Source,
}

impl<'s> Archive<'s> {
    fn open(source: &'s Source) -> Result<Self> {
        let damaged =
            |e: rawzip::Error| format!("its zip archive is damaged or not whole ({e}): copy or download it again");
        let mut buffer = vec![0; RECOMMENDED_BUFFER_SIZE];
        let zip = ZipLocator::new().locate_in_reader(source, &mut buffer, source.bytes).map_err(|(_, e)| damaged(e))?;
        let mut all = Vec::new();
        let mut compressed = None;
        let mut entries = zip.entries(&mut buffer);
        while let Some(entry) = entries.next_entry().map_err(damaged)? {
            if all.len() == MOST_FILES {
                return Err(format!("its zip archive has more than {MOST_FILES} files"));
            }
            let name = String::from_utf8_lossy(entry.file_path().as_bytes()).into_owned();
            if entry.compression_method() != CompressionMethod::STORE {
                compressed = Some(name.clone());
            }
            all.push((name, entry.wayfinder()));
        }
        let root = all.iter().find_map(|(name, _)| name.strip_suffix("/data.pkl").filter(|root| !root.contains('/')));
        let Some(root) = root.map(|root| format!("{root}/")) else {
            return Err("it is a zip archive without a data.pkl: not written by torch.save".into());
        };
        let files: HashMap<String, _> =
            all.into_iter().filter_map(|(name, at)| Some((name.strip_prefix(&root)?.to_owned(), at))).collect();
        if files.contains_key("constants.pkl") {
            return Err("it is a TorchScript archive, a program; expected a state dict as torch.save writes it".into());
        }
        if let Some(name) = compressed {
            return Err(format!("its zip archive compresses {name:?}; torch.save does not, so it was packed anew"));
        }
        Ok(Self { zip, files, source })
    }

    /// Where a file's bytes begin and how many they are.
    fn place(&self, name: &str) -> Result<(u64, u64)> {
        let missing = || format!("{name:?} is missing from its zip archive");
        let entry = self.files.get(name).ok_or_else(missing)?;
        let entry = self.zip.get_entry(*entry).map_err(|e| format!("{name:?} in its zip archive is damaged ({e})"))?;
        let (start, end) = entry.compressed_data_range();
        if start > end || end > self.source.bytes {
            return Err(format!("{name:?} lies beyond its end: the file is not whole"));
        }
        Ok((start, end - start))
    }
}
