//! Precomputed features: numbers in a cell, or an `.npy` file per cell.

use std::path::Path;

use crate::table::{FeatureMatrix, Value, matrix_from_json};

/// The most numbers accepted from one cell or file (64 Mi, 256 MiB as f32).
pub const MAX_FEATURE_NUMBERS: usize = 1 << 26;

/// Whether a cell holds features: a list of numbers, JSON text of one, or the name of an `.npy`.
pub fn is_features(value: &Value) -> bool {
    match value {
        Value::Features(_) => true,
        Value::Text(text) => is_npy(text) || parse_list(text).is_some(),
        _ => false,
    }
}

/// Reads the features of a cell, `[rows, dim]`; `folder` is where relative `.npy` paths start.
///
/// # Errors
/// One line that says what was found and what was expected.
pub fn read_features(value: &Value, folder: &Path) -> Result<FeatureMatrix, String> {
    let matrix = match value {
        Value::Features(matrix) => matrix.clone(),
        Value::Number(number) => FeatureMatrix { rows: 1, dim: 1, data: vec![*number as f32] },
        Value::Bytes(bytes) => parse_npy(bytes).map_err(|problem| format!(".npy: {problem}"))?,
        Value::Text(text) if is_npy(text) => {
            let path = folder.join(text.trim());
            read_npy(&path).map_err(|problem| format!("{path:?}: {problem}"))?
        }
        Value::Text(text) => parse_list(text).ok_or_else(|| {
            let start: String = text.chars().take(40).collect();
            format!("{start:?} is not a list of numbers such as [0.1, 0.2] nor the path of an .npy file")
        })?,
        Value::Texts(_) => {
            return Err("a list of texts was found where one list of numbers is expected".into());
        }
        Value::Missing => return Err("the cell is empty".into()),
    };
    match matrix.data.iter().position(|number| !number.is_finite()) {
        Some(at) => Err(format!("number {} of the list is not finite", at + 1)),
        None => Ok(matrix),
    }
}

fn is_npy(text: &str) -> bool {
    let text = text.trim();
    text.len() > 4 && text.is_char_boundary(text.len() - 4) && text[text.len() - 4..].eq_ignore_ascii_case(".npy")
}

fn parse_list(text: &str) -> Option<FeatureMatrix> {
    let text = text.trim();
    if !text.starts_with('[') {
        return None;
    }
    let items: Vec<serde_json::Value> = serde_json::from_str(text).ok()?;
    matrix_from_json(&items).filter(|matrix| matrix.dim > 0)
}

fn read_npy(path: &Path) -> Result<FeatureMatrix, String> {
    use std::io::Read;
    let file = std::fs::File::open(path).map_err(|error| format!("cannot be opened: {error}"))?;
    let limit = MAX_FEATURE_NUMBERS as u64 * 8 + (1 << 16);
    let mut bytes = Vec::new();
    file.take(limit + 1).read_to_end(&mut bytes).map_err(|error| format!("cannot be read: {error}"))?;
    if bytes.len() as u64 > limit {
        return Err(format!("holds more than {MAX_FEATURE_NUMBERS} numbers"));
    }
    parse_npy(&bytes)
}

/// Parses NumPy's `.npy` format: 32- or 64-bit floats of either byte order, one or two dimensions.
pub fn parse_npy(bytes: &[u8]) -> Result<FeatureMatrix, String> {
    let truncated = || "the file is cut short".to_string();
    let rest = bytes.strip_prefix(b"\x93NUMPY").ok_or("is not a NumPy .npy file")?;
    let version = *rest.first().ok_or_else(truncated)?;
    let (header_len, start) = match version {
        1 => (rest.get(2..4).map(|b| u16::from_le_bytes([b[0], b[1]]) as usize), 4usize),
        2 | 3 => (rest.get(2..6).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]) as usize), 6),
        other => return Err(format!("has .npy version {other}; expected 1, 2 or 3")),
    };
    let header_len = header_len.ok_or_else(truncated)?;
    let header = rest.get(start..start.saturating_add(header_len)).ok_or_else(truncated)?;
    let header = std::str::from_utf8(header).map_err(|_| "has a header that is not text")?;
    let data = &rest[start + header_len..];

    let descr = header_field(header, "descr")
        .map(|v| v.trim_matches(|c| c == '\'' || c == '"').to_string())
        .ok_or("has no 'descr' in its header")?;
    let fortran = header_field(header, "fortran_order").is_some_and(|v| v.starts_with("True"));
    let shape = header_shape(header).ok_or("has no readable 'shape' in its header")?;
    let (rows, dim) = match shape.as_slice() {
        [dim] => (1, *dim),
        [rows, dim] => (*rows, *dim),
        other => return Err(format!("has {} dimensions; expected 1 or 2", other.len())),
    };
    let count = rows.checked_mul(dim).filter(|count| *count <= MAX_FEATURE_NUMBERS);
    let count = count.ok_or_else(|| format!("holds more than {MAX_FEATURE_NUMBERS} numbers: {shape:?}"))?;
    if count == 0 {
        return Err(format!("is empty: shape {shape:?}"));
    }
    let width = if descr.ends_with("f4") { 4 } else { 8 };
    let data = data.get(..count * width).ok_or_else(truncated)?;
    let four = |b: &[u8]| [b[0], b[1], b[2], b[3]];
    let eight = |b: &[u8]| [b[0], b[1], b[2], b[3], b[4], b[5], b[6], b[7]];
    let mut numbers: Vec<f32> = match descr.as_str() {
        "<f4" => data.chunks_exact(4).map(|b| f32::from_le_bytes(four(b))).collect(),
        ">f4" => data.chunks_exact(4).map(|b| f32::from_be_bytes(four(b))).collect(),
        "<f8" => data.chunks_exact(8).map(|b| f64::from_le_bytes(eight(b)) as f32).collect(),
        ">f8" => data.chunks_exact(8).map(|b| f64::from_be_bytes(eight(b)) as f32).collect(),
        other => return Err(format!("holds {other:?}; expected float32 or float64")),
    };
    if fortran && rows > 1 && dim > 1 {
        let columns = numbers;
        numbers = (0..count).map(|i| columns[(i % dim) * rows + i / dim]).collect();
    }
    Ok(FeatureMatrix { rows, dim, data: numbers })
}

fn header_field<'h>(header: &'h str, name: &str) -> Option<&'h str> {
    let after = &header[header.find(&format!("'{name}'"))? + name.len() + 2..];
    let value = after.trim_start().strip_prefix(':')?.trim_start();
    let end = value.find([',', '}']).unwrap_or(value.len());
    Some(value[..end].trim())
}

fn header_shape(header: &str) -> Option<Vec<usize>> {
    let after = &header[header.find("'shape'")? + 7..];
    let open = after.find('(')?;
    let close = open + after[open..].find(')')?;
    after[open + 1..close]
        .split(',')
        .map(str::trim)
        .filter(|part| !part.is_empty())
        .map(|part| part.parse().ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn npy(descr: &str, fortran: &str, shape: &str, data: &[u8]) -> Vec<u8> {
        let header = format!("{{'descr': '{descr}', 'fortran_order': {fortran}, 'shape': {shape}, }}\n");
        let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
        bytes.extend((header.len() as u16).to_le_bytes());
        bytes.extend(header.as_bytes());
        bytes.extend(data);
        bytes
    }

    fn f64s(numbers: &[f64]) -> Vec<u8> {
        numbers.iter().flat_map(|x| x.to_le_bytes()).collect()
    }

    #[test]
    fn npy_of_one_and_two_dimensions_and_both_orders() {
        let one = parse_npy(&npy("<f8", "False", "(3,)", &f64s(&[1.0, 2.0, 3.0]))).expect("1-D");
        assert_eq!((one.rows, one.dim, one.data.as_slice()), (1, 3, &[1.0f32, 2.0, 3.0][..]));
        let data = f64s(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
        let c = parse_npy(&npy("<f8", "False", "(2, 3)", &data)).expect("C order");
        assert_eq!(c.data, [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
        let f = parse_npy(&npy("<f8", "True", "(2, 3)", &data)).expect("Fortran order");
        assert_eq!(f.data, [1.0, 3.0, 5.0, 2.0, 4.0, 6.0]);
        let big: Vec<u8> = [1.5f32, -2.0].iter().flat_map(|x| x.to_be_bytes()).collect();
        assert_eq!(parse_npy(&npy(">f4", "False", "(2,)", &big)).expect("f4").data, [1.5, -2.0]);
    }

    #[test]
    fn broken_npy_is_refused() {
        let whole = npy("<f8", "False", "(3,)", &f64s(&[1.0, 2.0, 3.0]));
        for end in 0..whole.len() {
            assert!(parse_npy(&whole[..end]).is_err(), "{end}");
        }
        for (descr, shape) in
            [("<i8", "(3,)"), ("<f8", "(1, 1, 3)"), ("<f8", "(99999999999, 99999999999)"), ("<f8", "(0,)")]
        {
            assert!(parse_npy(&npy(descr, "False", shape, &f64s(&[1.0; 3]))).is_err(), "{shape}");
        }
    }

    #[test]
    fn cells_hold_lists_or_files() {
        let folder = tempfile::tempdir().expect("folder");
        std::fs::write(folder.path().join("a.npy"), npy("<f8", "False", "(2,)", &f64s(&[7.0, 8.0]))).expect("write");
        let read = |text: &str| read_features(&Value::Text(text.into()), folder.path());
        assert_eq!(read("[1, 2.5]").expect("list").data, [1.0, 2.5]);
        assert_eq!(read("[[1, 2], [3, 4]]").expect("matrix").rows, 2);
        assert_eq!(read("a.npy").expect("file").data, [7.0, 8.0]);
        assert!(read("b.npy").expect_err("absent").contains("cannot be opened"));
        assert!(read("hello").expect_err("text").contains("not a list of numbers"));
        assert!(is_features(&Value::Text("x/y.NPY".into())));
        assert!(!is_features(&Value::Text("[a]".into())));
    }
}
