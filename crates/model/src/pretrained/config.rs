//! The `config.json` of a checkpoint, read key by key.

use crate::layers::ActivationName;
use crate::{ModelError, Result};
use serde_json::{Map, Value};

/// A JSON object whose keys are asked for by name; what is wrong with one is
/// said with its name.
#[derive(Debug, Clone)]
pub struct Config {
    place: String,
    keys: Map<String, Value>,
}

impl Config {
    /// An object from a place (its file, and the key inside it).
    ///
    /// # Errors
    /// When the value is not an object.
    pub fn new(place: impl Into<String>, value: Value) -> Result<Self> {
        let place = place.into();
        match value {
            Value::Object(keys) => Ok(Self { place, keys }),
            _ => Err(ModelError::config(place, "expected a JSON object")),
        }
    }

    /// All of it.
    pub fn to_value(&self) -> Value {
        Value::Object(self.keys.clone())
    }

    /// Whether a key is there and not null.
    pub fn has(&self, key: &str) -> bool {
        self.keys.get(key).is_some_and(|v| !v.is_null())
    }

    /// The raw value of a key; None where absent or null.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.keys.get(key).filter(|v| !v.is_null())
    }

    fn wrong(&self, key: &str, expected: &str) -> ModelError {
        let got = self.keys.get(key).map_or("nothing".to_owned(), ToString::to_string);
        ModelError::config(format!("{}, {key}", self.place), format!("expected {expected}, got {got}"))
    }

    /// A count.
    ///
    /// # Errors
    /// When the key is absent or not a whole number of at most 2³².
    pub fn usize(&self, key: &str) -> Result<usize> {
        let value = self.get(key).and_then(Value::as_u64).filter(|n| *n <= 1 << 32);
        value.map(|n| n as usize).ok_or_else(|| self.wrong(key, "a whole number"))
    }

    /// A count with a default.
    ///
    /// # Errors
    /// When the key is there and not a whole number.
    pub fn usize_or(&self, key: &str, default: usize) -> Result<usize> {
        if self.has(key) { self.usize(key) } else { Ok(default) }
    }

    /// A number.
    ///
    /// # Errors
    /// When the key is absent or not a number.
    pub fn f64(&self, key: &str) -> Result<f64> {
        self.get(key).and_then(Value::as_f64).ok_or_else(|| self.wrong(key, "a number"))
    }

    /// A number with a default.
    ///
    /// # Errors
    /// When the key is there and not a number.
    pub fn f64_or(&self, key: &str, default: f64) -> Result<f64> {
        match self.get(key) {
            None => Ok(default),
            Some(_) => self.f64(key),
        }
    }

    /// Yes or no, with a default.
    ///
    /// # Errors
    /// When the key is there and neither true nor false.
    pub fn bool_or(&self, key: &str, default: bool) -> Result<bool> {
        match self.get(key) {
            None => Ok(default),
            Some(v) => v.as_bool().ok_or_else(|| self.wrong(key, "true or false")),
        }
    }

    /// A word with a default.
    ///
    /// # Errors
    /// When the key is there and not a string.
    pub fn str_or<'a>(&'a self, key: &str, default: &'a str) -> Result<&'a str> {
        match self.get(key) {
            None => Ok(default),
            Some(v) => v.as_str().ok_or_else(|| self.wrong(key, "a string")),
        }
    }

    /// Whole numbers in a list, with a default.
    ///
    /// # Errors
    /// When the key is there and not such a list.
    pub fn list_or(&self, key: &str, default: &[usize]) -> Result<Vec<usize>> {
        match self.get(key) {
            None => Ok(default.to_vec()),
            Some(v) => {
                let numbers = v.as_array().and_then(|a| a.iter().map(|x| x.as_u64().map(|n| n as usize)).collect());
                numbers.ok_or_else(|| self.wrong(key, "a list of whole numbers"))
            }
        }
    }

    /// A size in pixels, one number or a list of two equal ones, with a
    /// default.
    ///
    /// # Errors
    /// When the key is there and neither.
    pub fn square_or(&self, key: &str, default: usize) -> Result<usize> {
        match self.get(key) {
            Some(Value::Array(_)) => match self.list_or(key, &[])?[..] {
                [height, width] if height == width => Ok(height),
                _ => Err(self.wrong(key, "one size for height and width (only squares are computed here)")),
            },
            _ => self.usize_or(key, default),
        }
    }

    /// How many classes a classifier tells apart: those that have a label,
    /// `num_labels`, or two.
    ///
    /// # Errors
    /// When `num_labels` is not a whole number.
    pub fn classes(&self) -> Result<usize> {
        match self.get("id2label").and_then(Value::as_object) {
            Some(labels) => Ok(labels.len()),
            None => self.usize_or("num_labels", 2),
        }
    }

    /// An object within this one, without any key where it is absent.
    ///
    /// # Errors
    /// When the key is there and not an object.
    pub fn object_or_empty(&self, key: &str) -> Result<Self> {
        if self.has(key) { self.object(key) } else { Self::new(key, Value::Object(Map::new())) }
    }

    /// An object within this one.
    ///
    /// # Errors
    /// When the key is absent or not an object.
    pub fn object(&self, key: &str) -> Result<Self> {
        let value = self.get(key).cloned().ok_or_else(|| self.wrong(key, "an object"))?;
        Self::new(format!("{}, {key}", self.place), value)
    }

    /// An activation by the reference library's name for it.
    ///
    /// # Errors
    /// When it is none of those known here.
    pub fn activation_or(&self, key: &str, default: &str) -> Result<ActivationName> {
        Ok(match self.str_or(key, default)? {
            "gelu" | "gelu_python" => ActivationName::Gelu,
            "gelu_new" | "gelu_pytorch_tanh" | "gelu_fast" | "gelu_accurate" => ActivationName::GeluTanh,
            "quick_gelu" => ActivationName::QuickGelu,
            "relu" => ActivationName::Relu,
            "silu" | "swish" => ActivationName::Silu,
            "tanh" => ActivationName::Tanh,
            _ => return Err(self.wrong(key, "gelu, gelu_new, quick_gelu, relu, silu or tanh")),
        })
    }

    /// Refuses any value of a key but the given ones: another would mean
    /// other numbers than those computed here. Absent and null are fine.
    ///
    /// # Errors
    /// When the key has another value.
    pub fn only(&self, key: &str, allowed: &[Value]) -> Result<()> {
        match self.get(key) {
            Some(v) if !allowed.contains(v) => {
                let list: Vec<String> = allowed.iter().map(ToString::to_string).collect();
                Err(self.wrong(key, &format!("{} (others are not computed here)", list.join(" or "))))
            }
            _ => Ok(()),
        }
    }
}
