//! Limits that are checked before memory or time is spent on a file.

use serde::{Deserialize, Serialize};

use crate::error::{MediaError, Result};

/// How large a piece of media may be; each limit has its own error.
///
/// The defaults admit any ordinary photograph, an hour of sound and an hour of video.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Bytes of one file or data URI of images and audio, as stored. Default 512 MiB.
    pub max_bytes: u64,
    /// Pixels of one image or video frame, width times height. Default 100 million.
    pub max_pixels: u64,
    /// Seconds of one sound or video. Default 3600.
    pub max_seconds: f64,
    /// Frames taken out of one video. Default 4096.
    pub max_frames: usize,
    /// Bytes of decoded arrays that one file may fill, such as all frames of a video. Default 2 GiB.
    pub max_decoded_bytes: u64,
    /// Seconds that one run of FFmpeg may take, and an SVG up to 60 of them. Default 600.
    pub max_decode_seconds: f64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_bytes: 512 << 20,
            max_pixels: 100_000_000,
            max_seconds: 3600.0,
            max_frames: 4096,
            max_decoded_bytes: 2 << 30,
            max_decode_seconds: 600.0,
        }
    }
}

impl Limits {
    /// Errors when a file of `bytes` is too large.
    pub(crate) fn check_bytes(&self, origin: &str, bytes: u64) -> Result<()> {
        check(origin, bytes <= self.max_bytes, bytes, "bytes", self.max_bytes, "max_bytes")
    }

    /// Errors when an image of this size is too large or has no pixels.
    pub(crate) fn check_pixels(&self, origin: &str, format: &str, width: u64, height: u64) -> Result<()> {
        if width == 0 || height == 0 {
            let problem = format!("the header says {width} x {height} pixels");
            return Err(MediaError::broken(origin, format, problem));
        }
        let pixels = width.saturating_mul(height);
        check(origin, pixels <= self.max_pixels, pixels, "pixels", self.max_pixels, "max_pixels")?;
        self.check_decoded(origin, pixels.saturating_mul(3))
    }

    /// Errors when a sound or video is too long.
    pub(crate) fn check_seconds(&self, origin: &str, seconds: f64) -> Result<()> {
        check(origin, seconds <= self.max_seconds, seconds, "seconds", self.max_seconds, "max_seconds")
    }

    /// Errors when more frames are asked for than allowed.
    pub(crate) fn check_frames(&self, origin: &str, frames: u64) -> Result<()> {
        let limit = self.max_frames as u64;
        check(origin, frames <= limit, frames, "frames", limit, "max_frames")
    }

    /// Errors when decoding would fill more memory than allowed.
    pub(crate) fn check_decoded(&self, origin: &str, bytes: u64) -> Result<()> {
        let limit = self.max_decoded_bytes;
        check(origin, bytes <= limit, bytes, "decoded bytes", limit, "max_decoded_bytes")
    }
}

fn check<T: ToString>(
    origin: &str,
    within: bool,
    got: T,
    unit: &'static str,
    limit: T,
    field: &'static str,
) -> Result<()> {
    if within {
        return Ok(());
    }
    Err(MediaError::OverLimit {
        origin: origin.to_owned(),
        got: got.to_string(),
        unit,
        limit: limit.to_string(),
        field,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_limits_are_refused_and_missing_ones_take_their_defaults() {
        let limits: Limits = toml::from_str("max_pixels = 9").unwrap();
        assert_eq!(limits.max_pixels, 9);
        assert_eq!(limits.max_bytes, Limits::default().max_bytes);
        assert!(toml::from_str::<Limits>("max_pixel = 9").is_err());
    }

    #[test]
    fn the_error_names_the_field_to_raise() {
        let limits = Limits { max_pixels: 99, ..Limits::default() };
        let message = limits.check_pixels("a.png", "PNG", 10, 10).unwrap_err().to_string();
        assert!(message.contains("a.png: 100 pixels is more than the limit of 99"), "{message}");
        assert!(message.contains("max_pixels"), "{message}");
    }

    #[test]
    fn sizes_that_overflow_are_over_the_limit() {
        assert!(Limits::default().check_pixels("a", "PNG", u64::MAX, u64::MAX).is_err());
        assert!(Limits::default().check_seconds("a", f64::NAN).is_err());
    }
}
