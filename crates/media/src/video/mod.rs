//! Video through FFmpeg: facts, frames at exact times, the sound track.
//!
//! [`probe`] asks `ffprobe`; [`frames`] and [`sound_track`] read what `ffmpeg` writes into a pipe,
//! already scaled, within the [`Limits`]. Animated GIF counts as video. Media in memory goes through
//! [`spool`](crate::spool) first.

mod frames;
mod probe;

pub use frames::{FrameSampling, FrameSize, frames};
pub use probe::{VideoInfo, probe};

use std::path::Path;

use crate::Limits;
use crate::audio::{Audio, decode_stream, resample};
use crate::error::Result;
use crate::ffmpeg::Ffmpeg;

/// The first sound track of a file as mono at `sample_rate`; `None` when it has none.
pub fn sound_track(path: &Path, sample_rate: u32, limits: &Limits) -> Result<Option<Audio>> {
    let origin = path.display().to_string();
    let audio = decode_stream(&Ffmpeg::from_environment(), path, &origin, limits)?;
    audio.map(|audio| resample(&audio, sample_rate)).transpose()
}
