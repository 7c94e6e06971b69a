//! The log-mel filter bank of Kaldi.

use std::f64::consts::PI;

use serde::{Deserialize, Serialize};

use super::Mel;
use super::filter_bank::FilterBank;
use super::spectrum::Spectrum;
use crate::audio::{Audio, resample};
use crate::error::{MediaError, Result};

/// Least power in a band before the logarithm: the rounding step of 32-bit numbers.
const FLOOR: f64 = f32::EPSILON as f64;

/// The shape that fades a frame's ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Window {
    /// Kaldi's own: the Hann window to the power 0.85.
    #[default]
    Povey,
    /// A raised cosine that reaches zero; AST uses it.
    Hann,
    /// A raised cosine on a step of 0.08.
    Hamming,
}

impl Window {
    fn weights(self, length: usize) -> Vec<f64> {
        let last = length.saturating_sub(1).max(1) as f64;
        let cosine = |i: usize| (2.0 * PI * i as f64 / last).cos();
        let weight = |i: usize| match self {
            Self::Povey => (0.5 - 0.5 * cosine(i)).powf(0.85),
            Self::Hann => 0.5 - 0.5 * cosine(i),
            Self::Hamming => 0.54 - 0.46 * cosine(i),
        };
        (0..length).map(weight).collect()
    }
}

/// Log-mel filter bank as Kaldi and `torchaudio.compliance.kaldi.fbank` define it, without dither.
///
/// Frames that lie wholly inside the sound; each loses its mean, is pre-emphasised, windowed,
/// padded to a power of two and measured in triangles on the scale `1127 ln(1 + f / 700)` from
/// 20 Hz to half the rate; then the natural logarithm.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct KaldiFbank {
    /// Samples per second that the sound is brought to. Default 16000.
    pub sample_rate: u32,
    /// Mel bands; AST uses 128. Default 80.
    pub mels: usize,
    /// Milliseconds in a frame. Default 25.
    pub frame_length_ms: f64,
    /// Milliseconds between frames. Default 10.
    pub frame_shift_ms: f64,
    /// Shape of the window. Default `povey`; AST uses `hann`.
    pub window: Window,
    /// Share of the sample before that is subtracted. Default 0.97.
    pub preemphasis: f64,
    /// Whether each frame loses its mean. Default true.
    pub remove_dc_offset: bool,
    /// Lowest frequency in hertz. Default 20.
    pub low_frequency: f64,
    /// Factor on the samples first: 32768 for models trained on 16-bit numbers. Default 1.
    pub scale: f64,
}

impl Default for KaldiFbank {
    fn default() -> Self {
        Self {
            sample_rate: 16_000,
            mels: 80,
            frame_length_ms: 25.0,
            frame_shift_ms: 10.0,
            window: Window::Povey,
            preemphasis: 0.97,
            remove_dc_offset: true,
            low_frequency: 20.0,
            scale: 1.0,
        }
    }
}

impl KaldiFbank {
    /// Frames of a sound at any rate; sound shorter than a frame is padded with silence to one.
    ///
    /// Returns `[1 + (samples - length) / shift, mels]` values. Errors when the configuration makes
    /// no sense.
    pub fn compute(&self, audio: &Audio) -> Result<Mel> {
        let (length, shift) = self.frame_samples()?;
        let mut samples = resample(audio, self.sample_rate)?.samples;
        if samples.len() < length {
            samples.resize(length, 0.0);
        }
        let fft_length = length.next_power_of_two();
        let rate = f64::from(self.sample_rate);
        let bank = FilterBank::kaldi(self.mels, fft_length, rate, self.low_frequency, rate / 2.0);
        let window = self.window.weights(length);
        let mut spectrum = Spectrum::new(fft_length);
        let mut padded = vec![0.0; fft_length];

        let frames = 1 + (samples.len() - length) / shift;
        let mut data = Vec::with_capacity(frames * self.mels);
        for index in 0..frames {
            let source = &samples[index * shift..index * shift + length];
            self.prepare_frame(source, &window, &mut padded);
            let bands = bank.apply(spectrum.power(&mut padded));
            data.extend(bands.map(|power| power.max(FLOOR).ln() as f32));
        }
        Ok(Mel { frames, mels: self.mels, data })
    }

    /// Samples in a frame and between frames.
    fn frame_samples(&self) -> Result<(usize, usize)> {
        let samples = |what, milliseconds: f64| {
            let count = f64::from(self.sample_rate) * 0.001 * milliseconds;
            if (2.0..=1e6).contains(&count) {
                Ok(count as usize)
            } else {
                Err(MediaError::parameter(what, "between 2 and a million samples", milliseconds))
            }
        };
        let length = samples("frame_length_ms", self.frame_length_ms)?;
        let shift = samples("frame_shift_ms", self.frame_shift_ms)?;
        if self.mels == 0 {
            return Err(MediaError::parameter("mels", "at least 1 band", self.mels));
        }
        let nyquist = f64::from(self.sample_rate) / 2.0;
        if !(0.0..nyquist).contains(&self.low_frequency) {
            let expected = format!("0 to less than {nyquist} Hz");
            return Err(MediaError::parameter("low_frequency", expected, self.low_frequency));
        }
        Ok((length, shift))
    }

    /// One frame: scaled, without its mean, pre-emphasised, windowed, the rest zero.
    fn prepare_frame(&self, source: &[f32], window: &[f64], frame: &mut [f64]) {
        let mean = if self.remove_dc_offset {
            source.iter().map(|&sample| f64::from(sample)).sum::<f64>() / source.len() as f64
        } else {
            0.0
        };
        let sample = |i: usize| (f64::from(source[i]) - mean) * self.scale;
        for (i, weight) in window.iter().enumerate() {
            frame[i] = (sample(i) - self.preemphasis * sample(i.saturating_sub(1))) * weight;
        }
        frame[window.len()..].fill(0.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_frames_count_and_short_sound_gives_one() {
        let frames = |samples| {
            let audio = Audio { sample_rate: 16_000, samples: vec![0.1; samples] };
            KaldiFbank::default().compute(&audio).unwrap().frames
        };
        assert_eq!([frames(0), frames(400), frames(559), frames(560), frames(16_000)], [1, 1, 1, 2, 98]);
    }

    #[test]
    fn senseless_configurations_are_refused() {
        let audio = Audio { sample_rate: 16_000, samples: vec![0.1; 800] };
        for config in [
            KaldiFbank { mels: 0, ..KaldiFbank::default() },
            KaldiFbank { frame_shift_ms: 0.0, ..KaldiFbank::default() },
            KaldiFbank { frame_length_ms: f64::NAN, ..KaldiFbank::default() },
            KaldiFbank { low_frequency: 8000.0, ..KaldiFbank::default() },
        ] {
            assert!(config.compute(&audio).is_err(), "{config:?}");
        }
    }
}
