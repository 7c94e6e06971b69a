//! Sound to log-mel frames.

use serde::{Deserialize, Serialize};

/// Whose log-mel frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AudioFeatures {
    /// Whisper's: 25 ms windows every 10 ms, base-10 logarithm clamped 8 below the loudest.
    Whisper,
    /// Kaldi's filter banks as torchaudio computes them: 25 ms every 10 ms, natural logarithm.
    Kaldi,
}

/// How sound becomes `[frames, mels]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AudioProcessor {
    /// Samples per second (default 16000; Whisper's features are defined for that alone).
    pub sample_rate: u32,
    /// Whose log-mel frames (default `whisper`).
    pub features: AudioFeatures,
    /// Mel bands (default 80).
    pub mels: usize,
    /// Longer sounds lose their end (default 30). In training with augmentation, a random stretch
    /// of this length is taken instead.
    pub max_seconds: f64,
    /// Subtracted from every value (default 0; learnt from training sounds for Kaldi's features).
    pub mean: f32,
    /// Divides every value afterwards (default 1; likewise).
    pub std: f32,
}

impl Default for AudioProcessor {
    fn default() -> Self {
        AudioProcessor {
            sample_rate: 16_000,
            features: AudioFeatures::Whisper,
            mels: 80,
            max_seconds: 30.0,
            mean: 0.0,
            std: 1.0,
        }
    }
}

impl AudioProcessor {
    /// Frames per second: one every 10 ms.
    pub const FRAMES_PER_SECOND: f64 = 100.0;

    pub(crate) fn validate(&self) -> Result<(), String> {
        if !(1_000..=192_000).contains(&self.sample_rate) {
            return Err(format!("sample_rate is {}; expected 1000 to 192000", self.sample_rate));
        }
        if self.features == AudioFeatures::Whisper && self.sample_rate != 16_000 {
            return Err(format!(
                "sample_rate is {}, and Whisper's features are defined for 16000; use features = \"kaldi\"",
                self.sample_rate
            ));
        }
        if !(1..=512).contains(&self.mels) {
            return Err(format!("mels is {}; expected 1 to 512", self.mels));
        }
        if !(self.max_seconds > 0.0 && self.max_seconds <= 36_000.0) {
            return Err(format!("max_seconds is {}; expected more than 0", self.max_seconds));
        }
        if !(self.mean.is_finite() && self.std.is_finite() && self.std > 0.0) {
            return Err(format!("mean {} and std {}: expected finite numbers, std above 0", self.mean, self.std));
        }
        Ok(())
    }
}
