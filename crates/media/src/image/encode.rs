//! Arrays back to the bytes of a file, for pages that show pictures.

use super::Image;
use crate::error::{MediaError, Result};
use libjpeg_turbo_rs::{PixelFormat, Subsampling, compress};

/// The longest side of a JPEG file.
const MAX_SIDE: usize = 65_535;

/// A picture as a JPEG file, of a quality from 1 to 100.
///
/// # Errors
/// When a side is longer than JPEG can say: 65,535 pixels.
pub fn to_jpeg(image: &Image, quality: u8) -> Result<Vec<u8>> {
    let refused = || {
        MediaError::parameter(
            "image size",
            format!("at most {MAX_SIDE} pixels on a side"),
            image.width.max(image.height),
        )
    };
    let Image { width, height, .. } = *image;
    if width.max(height) > MAX_SIDE {
        return Err(refused());
    }
    let quality = quality.clamp(1, 100);
    compress(&image.data, width, height, PixelFormat::Rgb, quality, Subsampling::S420).map_err(|_| refused())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Limits;

    #[test]
    fn a_picture_survives_jpeg() -> Result<()> {
        let image = Image::filled(40, 24, [200, 30, 90]);
        let again = crate::image::decode(&to_jpeg(&image, 90)?, "x", &Limits::default())?;
        assert_eq!((again.width, again.height), (40, 24));
        assert!(again.data.iter().zip(&image.data).all(|(a, b)| a.abs_diff(*b) < 6));
        assert!(to_jpeg(&Image::filled(70_000, 1, [0; 3]), 90).is_err());
        Ok(())
    }
}
