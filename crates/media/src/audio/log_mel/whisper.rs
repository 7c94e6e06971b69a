//! The log-mel frames of Whisper.

use serde::{Deserialize, Serialize};

use super::Mel;
use super::filter_bank::FilterBank;
use super::spectrum::{Spectrum, hann, mirrored};
use crate::audio::{Audio, resample};
use crate::error::{MediaError, Result};

/// Samples per second that Whisper hears.
const SAMPLE_RATE: u32 = 16_000;
/// Samples in a window, 25 ms.
const WINDOW: usize = 400;
/// Samples between windows, 10 ms.
const HOP: usize = 160;

/// Log-mel frames as Whisper takes them: 100 per second, bands on Slaney's scale.
///
/// Windows of 400 samples (Hann) every 160, centred, the ends mirrored; `log10` of the band's power,
/// at least `1e-10` and at most 8 below the loudest; then `(x + 4) / 4`. Source: Radford et al.
/// 2022, and `WhisperFeatureExtractor` of transformers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct WhisperMel {
    /// Mel bands: 80, or 128 for large-v3. Default 80.
    pub mels: usize,
    /// Silence is added, or sound cut off, to make this many seconds; 30 for Whisper's own
    /// encoder. Default none: as many frames as the sound has.
    pub pad_to_seconds: Option<f64>,
}

impl Default for WhisperMel {
    fn default() -> Self {
        Self { mels: 80, pad_to_seconds: None }
    }
}

impl WhisperMel {
    /// Frames of a sound at any rate; sound shorter than a window is padded with silence to one.
    ///
    /// Returns `[samples / 160, mels]` values at 16 kHz. Errors when the configuration has no bands
    /// or a length that is no positive number.
    pub fn compute(&self, audio: &Audio) -> Result<Mel> {
        if self.mels == 0 {
            return Err(MediaError::parameter("mels", "at least 1 band", self.mels));
        }
        let mut samples = resample(audio, SAMPLE_RATE)?.samples;
        if let Some(seconds) = self.pad_to_seconds {
            if !(seconds > 0.0 && seconds <= 3600.0) {
                return Err(MediaError::parameter("pad_to_seconds", "more than 0, at most 3600", seconds));
            }
            samples.resize((seconds * f64::from(SAMPLE_RATE)).round() as usize, 0.0);
        }
        if samples.len() < WINDOW {
            samples.resize(WINDOW, 0.0);
        }
        let mut log_power = self.log_power(&samples);
        let loudest = log_power.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        for value in &mut log_power {
            *value = (value.max(loudest - 8.0) + 4.0) / 4.0;
        }
        Ok(Mel { frames: log_power.len() / self.mels, mels: self.mels, data: log_power })
    }

    /// `log10` of the power in each band, `[samples / 160, mels]`.
    fn log_power(&self, samples: &[f32]) -> Vec<f32> {
        let rate = f64::from(SAMPLE_RATE);
        let bank = FilterBank::slaney(self.mels, WINDOW / 2 + 1, rate, 0.0, rate / 2.0);
        let window = hann(WINDOW);
        let mut spectrum = Spectrum::new(WINDOW);
        let mut frame = vec![0.0; WINDOW];
        let frames = samples.len() / HOP;
        let mut output = Vec::with_capacity(frames * self.mels);
        for index in 0..frames {
            let start = (index * HOP) as isize - (WINDOW / 2) as isize;
            for (i, (value, weight)) in frame.iter_mut().zip(&window).enumerate() {
                *value = f64::from(samples[mirrored(start + i as isize, samples.len())]) * weight;
            }
            let bands = bank.apply(spectrum.power(&mut frame));
            output.extend(bands.map(|power| power.max(1e-10).log10() as f32));
        }
        output
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_follow_the_length_and_padding_fixes_it() {
        let audio = Audio { sample_rate: 16_000, samples: vec![0.1; 16_000] };
        let mel = WhisperMel::default().compute(&audio).unwrap();
        assert_eq!((mel.frames, mel.mels, mel.data.len()), (100, 80, 8000));
        let padded = WhisperMel { pad_to_seconds: Some(30.0), ..WhisperMel::default() };
        assert_eq!(padded.compute(&audio).unwrap().frames, 3000);
    }

    #[test]
    fn silence_and_a_single_sample_give_finite_frames() {
        for samples in [vec![], vec![0.0], vec![0.5; 399]] {
            let mel = WhisperMel::default().compute(&Audio { sample_rate: 16_000, samples }).unwrap();
            assert_eq!(mel.frames, 2);
            assert!(mel.data.iter().all(|value| value.is_finite()));
        }
    }
}
