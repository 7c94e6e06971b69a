//! Pictures: decode to RGB bytes, resize as Pillow does, augment, normalise.
//!
//! [`decode`] takes the bytes of any known format to an [`Image`]; [`resize`] and its relatives
//! change its size; [`augment`] varies it for training with the operations of [`color`] and
//! [`affine`]; [`to_normalized_chw`] is the last step before a model.

pub mod affine;
pub mod augment;
pub mod color;
mod convolution;
mod decode;
mod encode;
mod jpeg;
mod resize;
mod svg;
mod svg_cost;

pub use augment::ImageAugment;
pub use decode::{DecodeOptions, decode, decode_with};
pub use encode::to_jpeg;
pub use resize::{Filter, center_crop, crop, pad, resize, resize_shorter_side};

pub(crate) use resize::shorter_side_size;

use crate::error::{MediaError, Result};

/// An RGB picture of 8 bits per channel, interleaved, rows from the top.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    /// Pixels in a row.
    pub width: usize,
    /// Rows.
    pub height: usize,
    /// `[height, width, 3]` values.
    pub data: Vec<u8>,
}

impl Image {
    /// Wraps `[height, width, 3]` values; errors when their number does not fit the size.
    pub fn new(width: usize, height: usize, data: Vec<u8>) -> Result<Self> {
        let expected = width.checked_mul(height).and_then(|pixels| pixels.checked_mul(3));
        if width == 0 || height == 0 || expected != Some(data.len()) {
            return Err(MediaError::parameter(
                "image data",
                format!("3 x {width} x {height} values, and at least one pixel"),
                data.len(),
            ));
        }
        Ok(Self { width, height, data })
    }

    /// A picture of one colour, at least one pixel large.
    pub fn filled(width: usize, height: usize, color: [u8; 3]) -> Self {
        let (width, height) = (width.max(1), height.max(1));
        Self { width, height, data: color.repeat(width * height) }
    }

    /// The pixel in column `x` of row `y`.
    pub fn pixel(&self, x: usize, y: usize) -> [u8; 3] {
        let start = (y * self.width + x) * 3;
        [self.data[start], self.data[start + 1], self.data[start + 2]]
    }
}

/// Scales bytes to `[0, 1]`, subtracts `mean`, divides by `std`, channels first: `[3, height, width]`.
///
/// `(value / 255 - mean) / std` for each channel, the usual preparation of vision models.
pub fn to_normalized_chw(image: &Image, mean: [f32; 3], std: [f32; 3]) -> Vec<f32> {
    let pixels = image.width * image.height;
    let mut output = vec![0.0; 3 * pixels];
    for (channel, plane) in output.chunks_exact_mut(pixels).enumerate() {
        let table = normalization_table(mean[channel], std[channel]);
        for (value, pixel) in plane.iter_mut().zip(image.data.chunks_exact(3)) {
            *value = table[usize::from(pixel[channel])];
        }
    }
    output
}

/// All 256 values that a byte can become.
fn normalization_table(mean: f32, std: f32) -> [f32; 256] {
    std::array::from_fn(|byte| (byte as f32 / 255.0 - mean) / std)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn normalised_values_are_channels_first() {
        let image = Image::new(2, 1, vec![255, 0, 51, 0, 255, 102]).unwrap();
        let values = to_normalized_chw(&image, [0.5, 0.0, 0.0], [0.5, 1.0, 2.0]);
        let expected = [1.0, -1.0, 0.0, 1.0, 0.1, 0.2];
        for (got, want) in values.iter().zip(expected) {
            assert!((got - want).abs() < 1e-6, "{values:?}");
        }
    }

    #[test]
    fn a_buffer_of_the_wrong_length_is_refused() {
        assert!(Image::new(2, 2, vec![0; 11]).is_err());
        assert!(Image::new(0, 2, vec![]).is_err());
        assert!(Image::new(usize::MAX, 3, vec![]).is_err());
    }
}
