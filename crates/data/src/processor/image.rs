//! Pictures to normalised pixels.

use sensorium_media::image::Filter;
use serde::{Deserialize, Serialize};

/// What becomes of pictures that are not square.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CropMode {
    /// The shorter side becomes `resize`, and `size` pixels of the middle are kept.
    Center,
    /// Both sides become `resize`, whatever that does to the shape, and `size` pixels of the middle are kept.
    Squash,
    /// The longer side becomes `size`, and the rest is filled with the colour of `mean`.
    Pad,
}

/// How pictures become `[3, size, size]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ImageProcessor {
    /// Pixels of each side (default 224).
    pub size: usize,
    /// With `center` the shorter side, with `squash` both sides, before the middle is cut out (default: `size`).
    pub resize: Option<usize>,
    /// What becomes of pictures that are not square (default `center`).
    pub crop: CropMode,
    /// The kernel of resizing (default `bicubic`).
    pub filter: Filter,
    /// Subtracted from each channel, of values between 0 and 1 (default 0.5).
    pub mean: [f32; 3],
    /// Divides each channel afterwards (default 0.5).
    pub std: [f32; 3],
}

impl Default for ImageProcessor {
    fn default() -> Self {
        ImageProcessor {
            size: 224,
            resize: None,
            crop: CropMode::Center,
            filter: Filter::Bicubic,
            mean: [0.5; 3],
            std: [0.5; 3],
        }
    }
}

impl ImageProcessor {
    pub(crate) fn validate(&self) -> Result<(), String> {
        if !(1..=4096).contains(&self.size) {
            return Err(format!("size is {}; expected 1 to 4096 pixels", self.size));
        }
        if self.resize.is_some_and(|resize| !(self.size..=4 * self.size).contains(&resize)) {
            return Err(format!("resize is {:?}; expected {} to {}", self.resize, self.size, 4 * self.size));
        }
        let finite = self.mean.iter().chain(&self.std).all(|x| x.is_finite());
        if !finite || self.std.iter().any(|std| *std <= 0.0) {
            return Err(format!("mean {:?} and std {:?}: expected finite numbers, std above 0", self.mean, self.std));
        }
        Ok(())
    }
}
