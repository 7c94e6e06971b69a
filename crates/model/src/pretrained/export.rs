//! From our tensors to those of files: the opposite of a [`KeyMap`]'s
//! conversions.
//!
//! [`KeyMap`]: super::KeyMap

use super::Pretrained;
use super::key_map::{Convert, Form, single, transposed};
use crate::{ModelError, Result as ModelResult};
use sensorium_engine::Tensor;
use std::collections::BTreeMap;

/// The most dimensions of a tensor.
const MAX_RANK: usize = 4;

impl Pretrained {
    /// Tensors of a part, given under our names, as this checkpoint's own files
    /// hold them: under the names and in the dimensions that they have there.
    ///
    /// # Errors
    /// When there is no such part, a tensor is not among its own, or one has
    /// more than four dimensions in the files.
    pub fn export<'a>(
        &self,
        part: &str,
        ours: impl IntoIterator<Item = (&'a str, &'a Tensor)>,
    ) -> ModelResult<BTreeMap<String, Tensor>> {
        let names = self.part(part)?.keys.over(self.checkpoint());
        let wrong = |name: &str, problem: String| ModelError::config(format!("export of {name}"), problem);
        let mut pieces: BTreeMap<String, Vec<(Convert, &Tensor)>> = BTreeMap::new();
        for (name, tensor) in ours {
            let known = names.place(name).ok_or_else(|| wrong(name, "no name in files is known for it".into()))?;
            pieces.entry(known.0).or_default().push((known.1, tensor));
        }
        let restored = pieces.into_iter().map(|(name, pieces)| {
            let info = self.checkpoint().info(&name).ok_or_else(|| wrong(&name, "the checkpoint has none".into()))?;
            let tensor = restore(&pieces, &info.dims).map_err(|problem| wrong(&name, problem))?;
            Ok((name, tensor))
        });
        restored.collect()
    }
}

/// As [`join`], in the dimensions of a tensor that was read. Positions of a grid
/// of another size keep theirs.
fn restore(pieces: &[(Convert, &Tensor)], dims: &[usize]) -> Result<Tensor, String> {
    if dims.len() > MAX_RANK {
        return Err(format!("{} dimensions are more than {MAX_RANK}", dims.len()));
    }
    if let [(Convert::Convolution1d, tensor)] = pieces {
        let (channels, kernel) = single(dims).ok_or_else(|| format!("{dims:?} are no kernel's dimensions"))?;
        let turned = tensor.data().chunks_exact(channels * kernel).flat_map(|m| transposed(m, kernel, channels));
        return Tensor::from_slice(dims, &turned.collect::<Vec<_>>()).map_err(|e| e.to_string());
    }
    let joined = join(pieces, None)?;
    let own = joined.dims();
    let dims = match dims.iter().product::<usize>() == joined.len() {
        true => dims.to_vec(),
        false => std::iter::repeat_n(1, dims.len().saturating_sub(own.len())).chain(own.iter().copied()).collect(),
    };
    Tensor::from_slice(&dims, joined.data()).map_err(|e| e.to_string())
}

/// One tensor of theirs out of the pieces that ours hold of it.
pub(super) fn join(pieces: &[(Convert, &Tensor)], form: Option<Form>) -> Result<Tensor, String> {
    let mut parts: Vec<(usize, usize, &Tensor)> = pieces.iter().map(|(convert, t)| part(*convert, t)).collect();
    parts.sort_by_key(|(part, ..)| *part);
    let of = parts.first().map_or(0, |(_, of, _)| *of);
    if parts.len() != of || parts.iter().enumerate().any(|(i, (part, ..))| *part != i) {
        return Err(format!("{} of its {of} parts are there", parts.len()));
    }
    let (convert, first) = pieces[0];
    let (mut dims, mut data) = (first.dims().to_vec(), first.data().to_vec());
    for (_, _, more) in &parts[1..] {
        if more.dims() != first.dims() {
            return Err(format!("its parts are {:?} and {:?}", first.dims(), more.dims()));
        }
    }
    if of > 1 {
        data = parts.iter().flat_map(|(_, _, t)| t.data().iter().copied()).collect();
        dims[0] *= of;
    }
    match convert {
        Convert::Transpose | Convert::TransposeRows { .. } if dims.len() == 2 => {
            data = transposed(&data, dims[0], dims[1]);
            dims.reverse();
        }
        Convert::Convolution1d => return Err("a convolution along time is only read".into()),
        Convert::Tubelets { .. } => return Err("a convolution over pieces of a video is only read".into()),
        _ => {}
    }
    if let Some(form) = form {
        dims = formed(&dims, form).ok_or_else(|| format!("{dims:?} cannot become {form:?}"))?;
    }
    Tensor::from_slice(&dims, &data).map_err(|e| e.to_string())
}

/// Which part of how many a tensor is.
fn part(convert: Convert, tensor: &Tensor) -> (usize, usize, &Tensor) {
    match convert {
        Convert::Rows { part, of } | Convert::TransposeRows { part, of } => (part, of, tensor),
        Convert::Same
        | Convert::Transpose
        | Convert::Convolution1d
        | Convert::Tubelets { .. }
        | Convert::Grid { .. } => (0, 1, tensor),
    }
}

fn formed(dims: &[usize], form: Form) -> Option<Vec<usize>> {
    match form {
        Form::Kernel { channels } => {
            let &[outputs, all] = dims else { return None };
            let side = (all / channels.max(1)).isqrt();
            (channels * side * side == all).then(|| vec![outputs, channels, side, side])
        }
        Form::Rank(rank) => {
            let ones = rank.checked_sub(dims.len())?;
            Some(std::iter::repeat_n(1, ones).chain(dims.iter().copied()).collect())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::KeyMap;
    use super::*;

    fn counted(dims: &[usize], from: usize) -> Tensor {
        let len: usize = dims.iter().product();
        Tensor::from_slice(dims, &(from..from + len).map(|i| i as f32).collect::<Vec<_>>()).expect("fits")
    }

    #[test]
    fn parts_are_joined_turned_and_formed() {
        let keys = KeyMap::new()
            .under(&["", "vit."])
            .convert("query.*", "qkv.*", Convert::TransposeRows { part: 0, of: 2 })
            .convert("key.*", "qkv.*", Convert::TransposeRows { part: 1, of: 2 })
            .map("patch", "kernel")
            .map("token", "cls")
            .form("kernel", Form::Kernel { channels: 3 })
            .form("cls", Form::Rank(3));
        let (q, k) = (counted(&[1, 2], 0), counted(&[1, 2], 2));
        let (patch, token) = (counted(&[2, 12], 0), counted(&[1, 4], 0));
        let ours = [("key.weight", &k), ("query.weight", &q), ("patch", &patch), ("token", &token)];
        let theirs = keys.export(ours).expect("known");
        // [0 1; 2 3] turned.
        assert_eq!(theirs["vit.qkv.weight"].data(), [0.0, 2.0, 1.0, 3.0]);
        assert_eq!(theirs["vit.kernel"].dims(), [2, 3, 2, 2]);
        assert_eq!(theirs["vit.cls"].dims(), [1, 1, 4]);
        let error = keys.export([("query.weight", &q)]).expect_err("half").to_string();
        assert!(error.contains("1 of its 2 parts"), "{error}");
        let error = keys.export([("value.weight", &q)]).expect_err("unknown").to_string();
        assert!(error.contains("value.weight"), "{error}");
    }
}
