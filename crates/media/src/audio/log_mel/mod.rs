//! Log-mel frames: how much sound there is, on a logarithmic scale, in bands spaced as the ear does.
//!
//! Three definitions that trained models expect: [`WhisperMel`], [`KaldiFbank`] and [`ClapMel`].
//! All take sound at any rate and resample it to theirs.

mod clap;
mod filter_bank;
mod kaldi;
mod spectrum;
mod whisper;

pub use clap::ClapMel;
pub use kaldi::{KaldiFbank, Window};
pub use whisper::WhisperMel;

/// Log-mel frames in the order of time.
#[derive(Clone, Debug, PartialEq)]
pub struct Mel {
    /// Number of frames.
    pub frames: usize,
    /// Number of mel bands.
    pub mels: usize,
    /// `[frames, mels]` values.
    pub data: Vec<f32>,
}

impl Mel {
    /// Shifts and scales every value to `(x - mean) / (2 * std)`, as AST prepares its input.
    pub fn normalize(&mut self, mean: f32, std: f32) {
        let scale = 1.0 / (2.0 * std);
        for value in &mut self.data {
            *value = (*value - mean) * scale;
        }
    }
}
