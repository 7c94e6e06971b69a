//! The number formats of checkpoints, and their way to and from `f32`.

use half::{bf16, f16};
use serde::Serialize;
use std::fmt;

/// How the numbers of a tensor are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum DType {
    /// IEEE 754 double precision.
    F64,
    /// IEEE 754 single precision.
    F32,
    /// IEEE 754 half precision.
    F16,
    /// The upper half of an `f32`.
    BF16,
    /// Signed, 64 bits.
    I64,
    /// Signed, 32 bits.
    I32,
    /// Signed, 16 bits.
    I16,
    /// Signed, 8 bits.
    I8,
    /// Unsigned, 64 bits.
    U64,
    /// Unsigned, 32 bits.
    U32,
    /// Unsigned, 16 bits.
    U16,
    /// Unsigned, 8 bits.
    U8,
    /// One byte, zero or not.
    Bool,
}

/// The names that safetensors gives them.
const NAMES: [(DType, &str); 13] = [
    (DType::F64, "F64"),
    (DType::F32, "F32"),
    (DType::F16, "F16"),
    (DType::BF16, "BF16"),
    (DType::I64, "I64"),
    (DType::I32, "I32"),
    (DType::I16, "I16"),
    (DType::I8, "I8"),
    (DType::U64, "U64"),
    (DType::U32, "U32"),
    (DType::U16, "U16"),
    (DType::U8, "U8"),
    (DType::Bool, "BOOL"),
];

impl DType {
    /// The bytes of one number.
    pub fn size(self) -> usize {
        match self {
            Self::F64 | Self::I64 | Self::U64 => 8,
            Self::F32 | Self::I32 | Self::U32 => 4,
            Self::F16 | Self::BF16 | Self::I16 | Self::U16 => 2,
            Self::I8 | Self::U8 | Self::Bool => 1,
        }
    }

    /// Whether it is a floating-point format.
    pub fn is_float(self) -> bool {
        matches!(self, Self::F64 | Self::F32 | Self::F16 | Self::BF16)
    }

    /// The name in a safetensors header, as `F32`.
    pub(crate) fn safetensors_name(self) -> &'static str {
        NAMES.iter().find(|(d, _)| *d == self).map_or("", |(_, name)| name)
    }

    /// The format of a name in a safetensors header.
    pub(crate) fn of_safetensors_name(name: &str) -> Option<Self> {
        NAMES.iter().find(|(_, n)| *n == name).map(|(d, _)| *d)
    }

    /// Converts little-endian bytes to `f32`, as many as `out` takes; integers
    /// beyond 2²⁴ are rounded.
    pub(crate) fn decode(self, bytes: &[u8], out: &mut [f32]) {
        match self {
            Self::F64 => each(bytes, out, |b| f64::from_le_bytes(b) as f32),
            Self::F32 => each(bytes, out, f32::from_le_bytes),
            Self::F16 => each(bytes, out, |b| f16::from_le_bytes(b).to_f32()),
            Self::BF16 => each(bytes, out, |b| bf16::from_le_bytes(b).to_f32()),
            Self::I64 => each(bytes, out, |b| i64::from_le_bytes(b) as f32),
            Self::I32 => each(bytes, out, |b| i32::from_le_bytes(b) as f32),
            Self::I16 => each(bytes, out, |b| i16::from_le_bytes(b).into()),
            Self::I8 => each(bytes, out, |b| i8::from_le_bytes(b).into()),
            Self::U64 => each(bytes, out, |b| u64::from_le_bytes(b) as f32),
            Self::U32 => each(bytes, out, |b| u32::from_le_bytes(b) as f32),
            Self::U16 => each(bytes, out, |b| u16::from_le_bytes(b).into()),
            Self::U8 => each(bytes, out, |[b]| b.into()),
            Self::Bool => each(bytes, out, |[b]| (b != 0).into()),
        }
    }

    /// Appends `f32` values as little-endian bytes of this floating-point
    /// format, rounded to the nearest.
    pub(crate) fn encode(self, values: &[f32], out: &mut Vec<u8>) {
        match self {
            Self::F64 => out.extend(values.iter().flat_map(|x| f64::from(*x).to_le_bytes())),
            Self::F16 => out.extend(values.iter().flat_map(|x| f16::from_f32(*x).to_le_bytes())),
            Self::BF16 => out.extend(values.iter().flat_map(|x| bf16::from_f32(*x).to_le_bytes())),
            // Integers are copied as they are, never made from floats.
            _ => out.extend(values.iter().flat_map(|x| x.to_le_bytes())),
        }
    }
}

fn each<const N: usize>(bytes: &[u8], out: &mut [f32], convert: impl Fn([u8; N]) -> f32) {
    let (numbers, _) = bytes.as_chunks::<N>();
    for (x, b) in out.iter_mut().zip(numbers) {
        *x = convert(*b);
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.safetensors_name().to_lowercase())
    }
}

impl std::str::FromStr for DType {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::of_safetensors_name(&text.to_uppercase()).ok_or_else(|| {
            let known: Vec<String> = NAMES.iter().map(|(d, _)| d.to_string()).collect();
            format!("{text:?} is not a number format; expected one of {}", known.join(", "))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_format_decodes_to_f32() {
        let decode = |dtype: DType, bytes: &[u8]| {
            let mut out = vec![0.0; bytes.len() / dtype.size()];
            dtype.decode(bytes, &mut out);
            out
        };
        assert_eq!(decode(DType::F64, &(-2.5f64).to_le_bytes()), [-2.5]);
        assert_eq!(decode(DType::F16, &[0x00, 0x3c, 0x01, 0x00, 0x00, 0xfc]), [1.0, 2f32.powi(-24), f32::NEG_INFINITY]);
        assert_eq!(decode(DType::BF16, &[0x80, 0x3f, 0x20, 0xc1]), [1.0, -10.0]);
        assert_eq!(decode(DType::I64, &(-7i64).to_le_bytes()), [-7.0]);
        assert_eq!(decode(DType::I16, &[0xff, 0xff]), [-1.0]);
        assert_eq!(decode(DType::U16, &[0xff, 0xff]), [65535.0]);
        assert_eq!(decode(DType::I8, &[0x80]), [-128.0]);
        assert_eq!(decode(DType::Bool, &[0, 1, 2]), [0.0, 1.0, 1.0]);
    }

    #[test]
    fn halves_are_rounded_to_the_nearest() {
        let encode = |dtype: DType, x: f32| {
            let mut bytes = Vec::new();
            dtype.encode(&[x], &mut bytes);
            bytes
        };
        // 1 + 3·2⁻⁹ lies between two bf16 numbers, nearer to 1 + 2⁻⁷.
        assert_eq!(encode(DType::BF16, 1.0 + 3.0 / 512.0), [0x81, 0x3f]);
        assert_eq!(encode(DType::F16, 1.0 / 3.0), [0x55, 0x35]);
        assert_eq!(encode(DType::F16, 1e6), [0x00, 0x7c]);
    }

    #[test]
    fn names_are_read_in_any_case() {
        assert_eq!("bf16".parse(), Ok(DType::BF16));
        assert_eq!("F32".parse(), Ok(DType::F32));
        assert!("float".parse::<DType>().is_err_and(|e| e.contains("f16")));
    }
}
