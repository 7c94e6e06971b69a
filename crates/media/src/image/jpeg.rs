//! JPEG, to the pixels of libjpeg-turbo: those that Pillow, and so every reference model, has seen.

use image::metadata::Orientation;
use image::{DynamicImage, RgbImage};
use libjpeg_turbo_rs::{DecodeLimits, Decoder, JpegError, PixelFormat};

use super::Image;
use super::decode::{max_work, too_much_work, upright};
use crate::Limits;
use crate::error::{MediaError, Result};

/// Scans of one picture. Encoders write at most a dozen or so; each more costs a walk over all
/// blocks for a few bytes of file.
const MAX_SCANS: usize = 500;

/// Decodes a JPEG of any kind (baseline or progressive; grey, YCbCr, RGB, CMYK) to RGB, upright.
///
/// Damage inside the compressed data is an error, where libjpeg would fill with grey and go on.
pub(super) fn decode(bytes: &[u8], source: &str, limits: &Limits) -> Result<Image> {
    let failed = |error| from_jpeg_error(error, source, limits);
    check_complete(bytes, source)?;
    let inner = DecodeLimits { max_scans: MAX_SCANS, max_memory: Some(max_work(limits)), ..DecodeLimits::default() };
    let mut decoder = Decoder::new_with_limits(bytes, inner).map_err(failed)?;
    let (width, height) = (u32::from(decoder.header().width), u32::from(decoder.header().height));
    limits.check_pixels(source, "JPEG", width.into(), height.into())?;
    limits.check_decoded(source, u64::from(width) * u64::from(height) * 3)?;
    decoder.set_output_format(PixelFormat::Rgb);
    let orientation = decoder.exif_orientation().and_then(Orientation::from_exif);
    let pixels = decoder.decode_image().map_err(failed)?.data;
    let picture = RgbImage::from_raw(width, height, pixels)
        .ok_or_else(|| MediaError::broken(source, "JPEG", "its pixels do not fill its size"))?;
    upright(DynamicImage::ImageRgb8(picture), orientation, [255; 3])
}

fn from_jpeg_error(error: JpegError, source: &str, limits: &Limits) -> MediaError {
    match error {
        JpegError::Unsupported(problem) => MediaError::Unsupported {
            origin: source.to_owned(),
            format: "JPEG".to_owned(),
            problem,
            instead: "PNG or JPEG of 8 bits",
        },
        JpegError::LimitExceeded { what, .. } if what.contains("memory") => too_much_work(source, limits),
        other => MediaError::broken(source, "JPEG", other),
    }
}

/// Errors when a JPEG ends before its picture does.
///
/// The decoder fills what is missing with grey and says nothing, so half-downloaded pictures would
/// slip into the data. Inside the compressed scans a byte 0xFF is always followed by 0 or by a
/// marker, so a whole file has an end marker after its first scan begins.
pub(super) fn check_complete(bytes: &[u8], source: &str) -> Result<()> {
    const END_OF_IMAGE: u8 = 0xD9;
    let complete =
        first_scan(bytes).is_some_and(|start| bytes[start..].windows(2).any(|pair| pair == [0xFF, END_OF_IMAGE]));
    if complete {
        return Ok(());
    }
    let problem = format!("no end-of-image marker within its {} bytes", bytes.len());
    Err(MediaError::broken(source, "JPEG", problem))
}

/// Where the compressed data begins: the offset of the first start-of-scan marker.
fn first_scan(bytes: &[u8]) -> Option<usize> {
    const START_OF_SCAN: u8 = 0xDA;
    let mut at = 2;
    loop {
        let marker = at + bytes.get(at..)?.iter().position(|&byte| byte == 0xFF)?;
        match *bytes.get(marker + 1)? {
            START_OF_SCAN => return Some(marker),
            // Fill bytes and markers that stand alone carry no length.
            0xFF => at = marker + 1,
            0x00 | 0x01 | 0xD0..=0xD9 => at = marker + 2,
            _ => {
                let length = bytes.get(marker + 2..marker + 4)?;
                at = marker + 2 + usize::from(u16::from_be_bytes([length[0], length[1]]));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_marker_inside_a_thumbnail_does_not_count() {
        let thumbnail = [0xFF, 0xD8, 0xFF, 0xE1, 0, 6, 0xFF, 0xD9, 0, 0];
        let cut = [&thumbnail[..], &[0xFF, 0xDA, 0, 2, 1, 2, 3]].concat();
        assert!(check_complete(&cut, "a").is_err());
        assert!(check_complete(&[&cut[..], &[0xFF, 0xD9]].concat(), "a").is_ok());
        assert!(check_complete(&[0xFF, 0xD8, 0xFF], "a").is_err());
    }
}
