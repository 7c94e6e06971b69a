//! Videos to normalised frames.

use sensorium_media::image::Filter;
use serde::{Deserialize, Serialize};

use super::{CropMode, ImageProcessor};

/// How videos become `[frames, 3, size, size]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct VideoProcessor {
    /// Frames taken at even distances over the whole video (default 8).
    pub frames: usize,
    /// Pixels of each side (default 224).
    pub size: usize,
    /// With `center`: the shorter side before the middle is cut out (default: `size`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resize: Option<usize>,
    /// What becomes of frames that are not square (default `center`).
    pub crop: CropMode,
    /// The kernel of resizing (default `bicubic`).
    pub filter: Filter,
    /// Subtracted from each channel, of values between 0 and 1 (default 0.5).
    pub mean: [f32; 3],
    /// Divides each channel afterwards (default 0.5).
    pub std: [f32; 3],
    /// Whether frames are decoded in full and scaled as a picture would be, to the pixels that a
    /// pretrained video encoder has seen; otherwise FFmpeg scales them, a few levels off and faster
    /// (default false).
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub exact: bool,
}

impl Default for VideoProcessor {
    fn default() -> Self {
        VideoProcessor::of_frames(&ImageProcessor::default())
    }
}

impl VideoProcessor {
    /// Eight frames, each processed like a picture.
    pub fn of_frames(frame: &ImageProcessor) -> Self {
        let ImageProcessor { size, resize, crop, filter, mean, std } = *frame;
        VideoProcessor { frames: 8, size, resize, crop, filter, mean, std, exact: false }
    }

    /// The processor of a single frame.
    pub fn frame(&self) -> ImageProcessor {
        let VideoProcessor { frames: _, size, resize, crop, filter, mean, std, exact: _ } = *self;
        ImageProcessor { size, resize, crop, filter, mean, std }
    }

    pub(crate) fn validate(&self) -> Result<(), String> {
        if !(1..=4096).contains(&self.frames) {
            return Err(format!("frames is {}; expected 1 to 4096", self.frames));
        }
        self.frame().validate()
    }
}
