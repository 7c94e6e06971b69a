//! The media room against its reference tools and against broken files, as one test program.

mod audio_golden;
mod common;
mod hostile;
mod image_golden;
mod mutations;
mod video;
