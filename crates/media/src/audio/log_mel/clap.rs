//! The log-mel frames of CLAP.

use serde::{Deserialize, Serialize};

use super::Mel;
use super::filter_bank::FilterBank;
use super::spectrum::{Spectrum, hann, mirrored};
use crate::audio::{Audio, resample};
use crate::error::{MediaError, Result};

/// Samples per second that CLAP hears.
const SAMPLE_RATE: u32 = 48_000;
/// Samples in a window.
const WINDOW: usize = 1024;
/// Samples between windows, 10 ms.
const HOP: usize = 480;

/// Log-mel frames as CLAP takes them: 100 per second, bands on Slaney's scale.
///
/// Windows of 1024 samples (Hann) every 480, centred, the ends mirrored; ten times `log10` of the
/// band's power, at least `1e-10`. Source: Wu et al. 2023, and `ClapFeatureExtractor` of transformers
/// with `truncation = "rand_trunc"`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ClapMel {
    /// Mel bands. Default 64.
    pub mels: usize,
    /// The lowest and the highest frequency in hertz. Default 0 and 14000.
    pub band_hz: (f64, f64),
    /// A shorter sound is repeated as often as it fits in whole into so many seconds, and silence
    /// follows; 10 for CLAP's own encoder. Default none: as many frames as the sound has.
    pub pad_to_seconds: Option<f64>,
}

impl Default for ClapMel {
    fn default() -> Self {
        Self { mels: 64, band_hz: (0.0, 14_000.0), pad_to_seconds: None }
    }
}

impl ClapMel {
    /// Frames of a sound at any rate; sound shorter than a window is padded with silence to one.
    ///
    /// Returns `[samples / 480 + 1, mels]` values at 48 kHz. Errors when the configuration has no
    /// bands, frequencies beyond half the rate, or a length that is no positive number.
    pub fn compute(&self, audio: &Audio) -> Result<Mel> {
        if self.mels == 0 {
            return Err(MediaError::parameter("mels", "at least 1 band", self.mels));
        }
        let (low, high) = self.band_hz;
        if !(low >= 0.0 && low < high && high <= f64::from(SAMPLE_RATE) / 2.0) {
            let expected = "a lower and a higher frequency from 0 to 24000";
            return Err(MediaError::parameter("band_hz", expected, format!("{low} and {high}")));
        }
        let mut samples = resample(audio, SAMPLE_RATE)?.samples;
        if let Some(seconds) = self.pad_to_seconds {
            if !(seconds > 0.0 && seconds <= 3600.0) {
                return Err(MediaError::parameter("pad_to_seconds", "more than 0, at most 3600", seconds));
            }
            let length = (seconds * f64::from(SAMPLE_RATE)).round() as usize;
            if !samples.is_empty() && samples.len() < length {
                samples = samples.repeat(length / samples.len());
            }
            samples.resize(length, 0.0);
        }
        if samples.len() < WINDOW {
            samples.resize(WINDOW, 0.0);
        }
        let bank = FilterBank::slaney(self.mels, WINDOW / 2 + 1, f64::from(SAMPLE_RATE), low, high);
        let (window, mut spectrum, mut frame) = (hann(WINDOW), Spectrum::new(WINDOW), vec![0.0; WINDOW]);
        let frames = samples.len() / HOP + 1;
        let mut data = Vec::with_capacity(frames * self.mels);
        for index in 0..frames {
            let start = (index * HOP) as isize - (WINDOW / 2) as isize;
            for (i, (value, weight)) in frame.iter_mut().zip(&window).enumerate() {
                *value = f64::from(samples[mirrored(start + i as isize, samples.len())]) * weight;
            }
            let bands = bank.apply(spectrum.power(&mut frame));
            data.extend(bands.map(|power| (10.0 * power.max(1e-10).log10()) as f32));
        }
        Ok(Mel { frames, mels: self.mels, data })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_short_sound_is_repeated_and_silence_follows() {
        let samples: Vec<f32> = (0..20_000).map(|i| (i as f32 * 0.3).sin()).collect();
        let audio = Audio { sample_rate: SAMPLE_RATE, samples };
        let plain = ClapMel::default().compute(&audio).unwrap();
        assert_eq!((plain.frames, plain.mels), (42, 64));
        let padded = ClapMel { pad_to_seconds: Some(1.0), ..ClapMel::default() }.compute(&audio).unwrap();
        assert_eq!(padded.frames, 101);
        let loudest = |frame: usize| padded.data[frame * 64..][..64].iter().copied().fold(f32::MIN, f32::max);
        assert!(loudest(60) > 0.0, "the second time");
        assert_eq!(loudest(95), -100.0, "silence");
    }

    #[test]
    fn bands_beyond_half_the_rate_are_refused() {
        let audio = Audio { sample_rate: SAMPLE_RATE, samples: vec![0.0; 10] };
        assert!(ClapMel { band_hz: (0.0, 30_000.0), ..ClapMel::default() }.compute(&audio).is_err());
        assert!(ClapMel { band_hz: (50.0, 50.0), ..ClapMel::default() }.compute(&audio).is_err());
        assert_eq!(ClapMel::default().compute(&audio).unwrap().frames, 3);
    }
}
