//! A cell of a table, as the file gives it, before a column type reads it.

use serde::{Deserialize, Serialize};

/// Spellings of a missing cell, compared after trimming white space. The empty cell is missing too.
pub const MISSING_SPELLINGS: [&str; 8] = ["NA", "N/A", "n/a", "NaN", "nan", "null", "NULL", "None"];

/// True for the empty cell and for every one of [`MISSING_SPELLINGS`].
pub fn is_missing(text: &str) -> bool {
    let text = text.trim();
    text.is_empty() || MISSING_SPELLINGS.contains(&text)
}

/// A matrix of numbers given in a cell or an `.npy` file, `[rows, dim]`, row-major.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct FeatureMatrix {
    /// Frames (1 for a plain list of numbers).
    pub rows: usize,
    /// Numbers per frame.
    pub dim: usize,
    /// The numbers, `[rows, dim]`.
    pub data: Vec<f32>,
}

/// One cell.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Value {
    /// Nothing there.
    #[default]
    Missing,
    /// Text; every present cell of a CSV is text until a column type reads it.
    Text(String),
    /// A number of JSON or Parquet.
    Number(f64),
    /// A list of texts: several files, several labels.
    Texts(Vec<String>),
    /// A list of numbers, or a list of such lists.
    Features(FeatureMatrix),
    /// The bytes of a media file, given by a program rather than a table.
    Bytes(Vec<u8>),
}

impl Value {
    /// Text, or missing where it is one of the spellings of that.
    pub fn from_text(text: impl Into<String>) -> Self {
        let text = text.into();
        if is_missing(&text) { Value::Missing } else { Value::Text(text) }
    }

    /// Reads a JSON value: null and the missing spellings are missing, booleans become `true` and
    /// `false`, integers beyond 2^53 stay text so that no digit of an identifier is lost, objects
    /// become their JSON text.
    pub fn from_json(json: serde_json::Value) -> Self {
        use serde_json::Value as Json;
        match json {
            Json::Null => Value::Missing,
            Json::Bool(value) => Value::Text(value.to_string()),
            Json::Number(number) => match number.as_f64() {
                Some(value) if value.abs() < 9_007_199_254_740_992.0 || number.is_f64() => Value::Number(value),
                _ => Value::Text(number.to_string()),
            },
            Json::String(text) => Value::from_text(text),
            Json::Array(items) => from_json_array(items),
            Json::Object(fields) => Value::Text(Json::Object(fields).to_string()),
        }
    }

    /// True where nothing is there.
    pub fn is_missing(&self) -> bool {
        matches!(self, Value::Missing)
    }

    /// The cell as text: numbers in their shortest form, lists as JSON; `None` where missing.
    pub fn as_text(&self) -> Option<String> {
        match self {
            Value::Missing => None,
            Value::Text(text) => Some(text.clone()),
            Value::Number(number) => Some(format_number(*number)),
            Value::Texts(texts) => serde_json::to_string(texts).ok(),
            Value::Features(matrix) => {
                let rows: Vec<&[f32]> = matrix.data.chunks(matrix.dim.max(1)).collect();
                if matrix.rows == 1 {
                    serde_json::to_string(&matrix.data).ok()
                } else {
                    serde_json::to_string(&rows).ok()
                }
            }
            Value::Bytes(bytes) => Some(format!("{} bytes", bytes.len())),
        }
    }

    /// The texts of a text cell: the items of a list, else the whole cell; none where missing.
    pub fn texts(&self) -> Vec<String> {
        match self {
            Value::Texts(texts) => texts.clone(),
            other => other.as_text().into_iter().collect(),
        }
    }

    /// The cell as a finite number, where it is one.
    pub fn as_number(&self) -> Option<f64> {
        let number = match self {
            Value::Number(number) => *number,
            Value::Text(text) => text.trim().parse().ok()?,
            _ => return None,
        };
        number.is_finite().then_some(number)
    }

    /// Feeds the cell to a hash, so that equal cells and only equal cells hash alike.
    pub fn hash_into(&self, hasher: &mut blake3::Hasher) {
        let mut tagged = |tag: u8, bytes: &[u8]| {
            hasher.update(&[tag]);
            hasher.update(&(bytes.len() as u64).to_le_bytes());
            hasher.update(bytes);
        };
        match self {
            Value::Missing => tagged(0, &[]),
            Value::Text(text) => tagged(1, text.as_bytes()),
            Value::Number(number) => tagged(1, format_number(*number).as_bytes()),
            Value::Texts(texts) => {
                tagged(2, &(texts.len() as u64).to_le_bytes());
                texts.iter().for_each(|text| tagged(1, text.as_bytes()));
            }
            Value::Features(matrix) => {
                tagged(3, &(matrix.dim as u64).to_le_bytes());
                let bytes: Vec<u8> = matrix.data.iter().flat_map(|x| x.to_le_bytes()).collect();
                tagged(3, &bytes);
            }
            Value::Bytes(bytes) => tagged(4, bytes),
        }
    }
}

/// A number as a person would write it: whole numbers without a point.
pub fn format_number(number: f64) -> String {
    if number.fract() == 0.0 && number.abs() < 1e15 { format!("{}", number as i64) } else { format!("{number}") }
}

/// A number, a list of numbers, or a list of equally long lists of numbers.
pub(crate) fn matrix_from_json(items: &[serde_json::Value]) -> Option<FeatureMatrix> {
    let number = |item: &serde_json::Value| item.as_f64().map(|x| x as f32);
    if let Some(data) = items.iter().map(number).collect::<Option<Vec<f32>>>() {
        return Some(FeatureMatrix { rows: 1, dim: data.len(), data });
    }
    let dim = items.first()?.as_array()?.len();
    let mut data = Vec::with_capacity(items.len().saturating_mul(dim).min(1 << 24));
    for item in items {
        let row = item.as_array().filter(|row| row.len() == dim)?;
        for cell in row {
            data.push(number(cell)?);
        }
    }
    Some(FeatureMatrix { rows: items.len(), dim, data })
}

fn from_json_array(items: Vec<serde_json::Value>) -> Value {
    if items.is_empty() {
        return Value::Missing;
    }
    if let Some(matrix) = matrix_from_json(&items) {
        return if matrix.dim == 0 { Value::Missing } else { Value::Features(matrix) };
    }
    if items.iter().all(|item| !item.is_array() && !item.is_object()) {
        let texts: Vec<String> = items.into_iter().filter_map(|item| Value::from_json(item).as_text()).collect();
        return if texts.is_empty() { Value::Missing } else { Value::Texts(texts) };
    }
    Value::Text(serde_json::Value::Array(items).to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn missing_spellings_are_missing_and_near_misses_are_not() {
        for text in ["", "  ", "NA", " NaN ", "null", "None", "N/A"] {
            assert!(Value::from_text(text).is_missing(), "{text:?}");
        }
        for text in ["na", "none", "0", "-", "无"] {
            assert!(!Value::from_text(text).is_missing(), "{text:?}");
        }
    }

    #[test]
    fn json_values_keep_their_meaning() {
        assert_eq!(Value::from_json(json!(null)), Value::Missing);
        assert_eq!(Value::from_json(json!(true)), Value::Text("true".into()));
        assert_eq!(Value::from_json(json!(1.5)), Value::Number(1.5));
        assert_eq!(Value::from_json(json!(9007199254740993i64)), Value::Text("9007199254740993".into()));
        assert_eq!(Value::from_json(json!(["a.png", "b.png"])), Value::Texts(vec!["a.png".into(), "b.png".into()]));
        let Value::Features(matrix) = Value::from_json(json!([[1, 2], [3, 4], [5, 6]])) else { panic!("not features") };
        assert_eq!((matrix.rows, matrix.dim), (3, 2));
        assert_eq!(matrix.data, [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
        assert!(matches!(Value::from_json(json!([[1, 2], [3]])), Value::Text(_)));
    }

    #[test]
    fn a_number_hashes_like_its_text() {
        let hash = |value: &Value| {
            let mut hasher = blake3::Hasher::new();
            value.hash_into(&mut hasher);
            hasher.finalize()
        };
        assert_eq!(hash(&Value::Number(3.0)), hash(&Value::Text("3".into())));
        assert_ne!(hash(&Value::Texts(vec!["a".into(), "b".into()])), hash(&Value::Texts(vec!["ab".into()])));
    }
}
