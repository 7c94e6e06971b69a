//! Bytes to arrays: images, audio and video, with limits, as the reference tools do it.
//!
//! [`image`] decodes pictures to RGB bytes and resizes them as Pillow does. [`audio`] decodes sound
//! to mono samples, resamples it as torchaudio does and turns it into the log-mel frames that
//! Whisper and Kaldi-style models take. [`video`] asks FFmpeg, as a subprocess, for facts, frames at
//! exact times and the sound track. Each has its augmentations, which are functions of their input
//! and one `u64` key, so that neither order nor threads matter.
//!
//! Everything is checked against [`Limits`] before memory is spent, and a damaged or hostile file
//! gives a [`MediaError`], never a panic. Nothing here knows of tensors or tables.

pub mod audio;
pub mod image;
pub mod video;

mod error;
mod ffmpeg;
mod input;
mod limits;
mod random;

pub use error::{MediaError, Result};
pub use input::{read_file, spool};
pub use limits::Limits;
