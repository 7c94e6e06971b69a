//! Where in which file a tensor lies, and its way into memory.

use super::dtype::DType;
use super::file::Source;
use crate::Result;

/// The bytes that are converted at a time.
const CHUNK: usize = 1 << 20;
/// The bytes that a tensor may have beyond those in its file.
const LARGEST_REPEATED: u64 = 64 << 20;

/// A tensor of a checkpoint, before it is read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorInfo {
    /// The dimensions, outermost first.
    pub dims: Vec<usize>,
    /// How its numbers are stored.
    pub dtype: DType,
    /// The bytes of its numbers.
    pub bytes: u64,
    /// Which of the checkpoint's files it lies in.
    pub file: usize,
    /// The place of its first number in the file.
    pub(crate) start: u64,
    /// The distance (in numbers) between neighbours along each dimension,
    /// where the numbers are not row-major without gaps.
    pub(crate) strides: Option<Vec<usize>>,
}

impl TensorInfo {
    /// The number of elements.
    pub fn len(&self) -> usize {
        // Checked against the file's size when the checkpoint was opened.
        self.dims.iter().product()
    }

    /// Whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Describes a tensor whose numbers lie at `start` of `source`, with
    /// `available` bytes from there on; the error is what is wrong with it.
    pub(crate) fn new(
        dims: Vec<usize>,
        strides: Option<Vec<usize>>,
        dtype: DType,
        file: usize,
        start: u64,
        available: u64,
    ) -> std::result::Result<Self, String> {
        let too_large = || format!("its dimensions {dims:?} are larger than its file");
        let len = dims.iter().try_fold(1usize, |n, d| n.checked_mul(*d)).ok_or_else(too_large)?;
        let bytes = len.checked_mul(dtype.size()).ok_or_else(too_large)? as u64;
        let strides = strides.filter(|s| len > 0 && !is_row_major(&dims, s));
        let span = match &strides {
            None => bytes,
            Some(strides) => {
                let last = dims
                    .iter()
                    .zip(strides)
                    .try_fold(0usize, |at, (d, s)| at.checked_add(d.saturating_sub(1).checked_mul(*s)?))
                    .and_then(|last| last.checked_add(1)?.checked_mul(dtype.size()))
                    .ok_or_else(too_large)?;
                last as u64
            }
        };
        if span > available {
            return Err(format!("needs {span} bytes, and there are {available} where it lies"));
        }
        // Strides of zero repeat numbers: a few bytes must not become gigabytes.
        if bytes > available.max(LARGEST_REPEATED) {
            return Err(format!("repeats its {span} bytes to {bytes}, which is beyond reason"));
        }
        Ok(Self { dims, dtype, bytes, file, start, strides })
    }

    /// Hands the tensor's bytes over in row-major order, piece by piece, each
    /// a whole number of elements.
    pub(crate) fn pieces(&self, source: &Source, mut take: impl FnMut(&[u8]) -> Result<()>) -> Result<()> {
        if self.is_empty() {
            return Ok(());
        }
        let size = self.dtype.size();
        match &self.strides {
            None => {
                let mut buffer = vec![0; CHUNK.min(usize::try_from(self.bytes).unwrap_or(CHUNK))];
                let (mut at, end) = (self.start, self.start + self.bytes);
                while at < end {
                    let piece = (end - at).min(buffer.len() as u64) as usize;
                    source.read(at, &mut buffer[..piece])?;
                    take(&buffer[..piece])?;
                    at += piece as u64;
                }
                Ok(())
            }
            Some(strides) => {
                let span: usize = 1 + self.dims.iter().zip(strides).map(|(d, s)| (d - 1) * s).sum::<usize>();
                let storage = source.read_vec(self.start, (span * size) as u64)?;
                let mut index = vec![0; self.dims.len()];
                let mut piece = Vec::with_capacity(CHUNK.min(self.len() * size));
                for _ in 0..self.len() {
                    let at: usize = index.iter().zip(strides).map(|(i, s)| i * s).sum();
                    piece.extend_from_slice(&storage[at * size..(at + 1) * size]);
                    if piece.len() == CHUNK {
                        take(&piece)?;
                        piece.clear();
                    }
                    for (i, d) in index.iter_mut().zip(&self.dims).rev() {
                        *i += 1;
                        if *i < *d {
                            break;
                        }
                        *i = 0;
                    }
                }
                take(&piece)
            }
        }
    }

    /// Converts the tensor into `out`, which has its number of elements.
    pub(crate) fn read_into(&self, source: &Source, out: &mut [f32]) -> Result<()> {
        let mut done = 0;
        self.pieces(source, |piece| {
            let n = piece.len() / self.dtype.size();
            self.dtype.decode(piece, &mut out[done..done + n]);
            done += n;
            Ok(())
        })
    }
}

/// Whether strides are those of a dense row-major tensor; a dimension of one
/// may have any.
fn is_row_major(dims: &[usize], strides: &[usize]) -> bool {
    let mut expected = 1;
    dims.iter().zip(strides).rev().all(|(d, s)| {
        let fits = *d == 1 || *s == expected;
        expected *= d;
        fits
    })
}
