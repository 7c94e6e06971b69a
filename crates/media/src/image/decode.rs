//! Bytes of a picture to RGB: the format is told from the content, never from a name.

use std::io::Cursor;

use image::error::{ImageError, LimitErrorKind};
use image::metadata::Orientation;
use image::{DynamicImage, ImageDecoder, ImageFormat, ImageReader};
use serde::{Deserialize, Serialize};

use super::{Image, jpeg, svg};
use crate::Limits;
use crate::error::{MediaError, Result, guard};
use crate::input::describe_start;

/// What is open to choice in decoding a picture.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DecodeOptions {
    /// Colour seen through transparent pixels. Default white.
    pub background: [u8; 3],
    /// Pixels of the shorter side that an SVG is drawn with at least; larger ones keep their own
    /// size. Default 256.
    pub svg_shorter_side: usize,
}

impl Default for DecodeOptions {
    fn default() -> Self {
        Self { background: [255; 3], svg_shorter_side: 256 }
    }
}

const KNOWN_FORMATS: &str = "PNG, JPEG, WebP, GIF, BMP, TIFF or SVG";

/// Decodes PNG, JPEG, WebP, GIF, BMP, TIFF or SVG to RGB with the default [`DecodeOptions`].
///
/// The EXIF orientation is applied, transparency is put over white, 16 bits are rounded to 8, grey
/// and CMYK become RGB, the first frame of an animation is taken. `source` labels errors.
pub fn decode(bytes: &[u8], source: &str, limits: &Limits) -> Result<Image> {
    decode_with(bytes, source, limits, &DecodeOptions::default())
}

/// As [`decode`], with options.
pub fn decode_with(bytes: &[u8], source: &str, limits: &Limits, options: &DecodeOptions) -> Result<Image> {
    limits.check_bytes(source, bytes.len() as u64)?;
    if let Ok(format) = image::guess_format(bytes) {
        if let Some(name) = name_of(format) {
            return guard(source, name, || decode_raster(bytes, format, name, source, limits, options));
        }
    } else if svg::looks_like_svg(bytes) {
        return svg::decode(bytes, source, limits, options);
    }
    Err(MediaError::UnknownFormat {
        origin: source.to_owned(),
        kind: "image",
        expected: KNOWN_FORMATS,
        got: describe_start(bytes),
    })
}

/// The usual name of a format that is decoded here.
fn name_of(format: ImageFormat) -> Option<&'static str> {
    match format {
        ImageFormat::Png => Some("PNG"),
        ImageFormat::Jpeg => Some("JPEG"),
        ImageFormat::WebP => Some("WebP"),
        ImageFormat::Gif => Some("GIF"),
        ImageFormat::Bmp => Some("BMP"),
        ImageFormat::Tiff => Some("TIFF"),
        _ => None,
    }
}

fn decode_raster(
    bytes: &[u8],
    format: ImageFormat,
    name: &'static str,
    source: &str,
    limits: &Limits,
    options: &DecodeOptions,
) -> Result<Image> {
    if format == ImageFormat::Jpeg {
        return jpeg::decode(bytes, source, limits);
    }
    let failed = |error| from_image_error(error, name, source, limits);
    let mut reader = ImageReader::with_format(Cursor::new(bytes), format);
    reader.limits(allocation_limits(limits));
    let mut decoder = reader.into_decoder().map_err(failed)?;
    let (width, height) = decoder.dimensions();
    limits.check_pixels(source, name, width.into(), height.into())?;
    limits.check_decoded(source, decoder.total_bytes())?;
    // A damaged EXIF block is no reason to lose the picture.
    let orientation = decoder.orientation().ok();
    let picture = DynamicImage::from_decoder(decoder).map_err(failed)?;
    upright(picture, orientation, options.background)
}

/// Turns a picture as its file says it was held, and makes it RGB.
pub(super) fn upright(
    mut picture: DynamicImage,
    orientation: Option<Orientation>,
    background: [u8; 3],
) -> Result<Image> {
    if let Some(orientation) = orientation {
        picture.apply_orientation(orientation);
    }
    let (width, height) = (picture.width() as usize, picture.height() as usize);
    Image::new(width, height, flatten(picture, background))
}

/// The decoder's own accounting of memory.
fn allocation_limits(limits: &Limits) -> image::Limits {
    let mut inner = image::Limits::default();
    inner.max_alloc = Some(max_work(limits));
    inner
}

/// Bytes that decoding may take: the pixels at up to 8 bytes, and as much again for work.
pub(super) fn max_work(limits: &Limits) -> u64 {
    limits.max_pixels.saturating_mul(16).max(1 << 20)
}

/// Any pixel type to RGB bytes, transparency over `background`.
fn flatten(picture: DynamicImage, background: [u8; 3]) -> Vec<u8> {
    if !picture.color().has_alpha() {
        return picture.into_rgb8().into_raw();
    }
    over_background(picture.into_rgba8().as_raw(), background)
}

/// Straight RGBA to RGB: `round((alpha * color + (255 - alpha) * background) / 255)`.
fn over_background(rgba: &[u8], background: [u8; 3]) -> Vec<u8> {
    let mut rgb = vec![0; rgba.len() / 4 * 3];
    for (output, pixel) in rgb.chunks_exact_mut(3).zip(rgba.chunks_exact(4)) {
        let alpha = u32::from(pixel[3]);
        for channel in 0..3 {
            let mixed = alpha * u32::from(pixel[channel]) + (255 - alpha) * u32::from(background[channel]);
            output[channel] = ((mixed + 127) / 255) as u8;
        }
    }
    rgb
}

/// The error for a picture that takes more memory to decode than [`max_work`].
pub(super) fn too_much_work(source: &str, limits: &Limits) -> MediaError {
    MediaError::OverLimit {
        origin: source.to_owned(),
        got: "decoding it, which needs more memory than its pixels allow,".to_owned(),
        unit: "pixels",
        limit: limits.max_pixels.to_string(),
        field: "max_pixels",
    }
}

fn from_image_error(error: ImageError, format: &'static str, source: &str, limits: &Limits) -> MediaError {
    match error {
        ImageError::Limits(inner) if matches!(inner.kind(), LimitErrorKind::Unsupported { .. }) => {
            MediaError::broken(source, format, inner)
        }
        ImageError::Limits(_) => too_much_work(source, limits),
        ImageError::Unsupported(inner) => MediaError::Unsupported {
            origin: source.to_owned(),
            format: format.to_owned(),
            problem: inner.to_string(),
            instead: "PNG or JPEG",
        },
        other => MediaError::broken(source, format, other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transparency_is_mixed_with_the_background_and_rounded() {
        let rgba = [0, 100, 200, 0, 0, 100, 200, 255, 0, 100, 200, 128];
        let rgb = over_background(&rgba, [255, 255, 255]);
        assert_eq!(rgb, [255, 255, 255, 0, 100, 200, 127, 177, 227]);
    }

    #[test]
    fn bytes_of_no_known_format_say_what_was_expected_and_found() {
        let limits = Limits::default();
        for (bytes, got) in [(&b""[..], "an empty file"), (b"hello", "5 bytes beginning with \"hello\"")] {
            let message = decode(bytes, "cell 3", &limits).unwrap_err().to_string();
            assert!(message.contains("cell 3: not a known image format"), "{message}");
            assert!(message.contains(KNOWN_FORMATS) && message.contains(got), "{message}");
        }
    }
}
