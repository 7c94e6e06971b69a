//! Variations of sound for training: SpecAugment on log-mel frames; shift, loudness and noise on
//! samples.
//!
//! The result is a function of the input, the configuration and one key.

use serde::{Deserialize, Serialize};

use super::{Audio, Mel};
use crate::error::{MediaError, Result};
use crate::random::Draws;

/// Masks of spans of time and of bands, set to the mean of the frames (Park et al. 2019).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SpecAugment {
    /// Number of masks over time. Default 2.
    pub time_masks: usize,
    /// Widest mask over time, in frames. Default 100.
    pub time_mask_frames: usize,
    /// Largest share of all frames that one mask over time may cover. Default 0.2.
    pub time_mask_share: f64,
    /// Number of masks over bands. Default 2.
    pub frequency_masks: usize,
    /// Widest mask over bands. Default 27.
    pub frequency_mask_bands: usize,
}

impl Default for SpecAugment {
    fn default() -> Self {
        Self {
            time_masks: 2,
            time_mask_frames: 100,
            time_mask_share: 0.2,
            frequency_masks: 2,
            frequency_mask_bands: 27,
        }
    }
}

impl SpecAugment {
    /// Errors when a setting is out of its range.
    pub fn check(&self) -> Result<()> {
        if (0.0..=1.0).contains(&self.time_mask_share) {
            return Ok(());
        }
        Err(MediaError::parameter("time_mask_share", "0 to 1", self.time_mask_share))
    }

    /// Masks frames `[frames, mels]` in place; errors as [`check`](Self::check) does.
    pub fn apply(&self, mel: &mut Mel, key: u64) -> Result<()> {
        self.check()?;
        if mel.data.is_empty() {
            return Ok(());
        }
        let sum: f64 = mel.data.iter().map(|&value| f64::from(value)).sum();
        let mean = (sum / mel.data.len() as f64) as f32;
        let mut draws = Draws::new(key, 2);
        let share = (mel.frames as f64 * self.time_mask_share) as usize;
        for _ in 0..self.time_masks {
            let (start, end) = span(&mut draws, self.time_mask_frames.min(share), mel.frames);
            mel.data[start * mel.mels..end * mel.mels].fill(mean);
        }
        for _ in 0..self.frequency_masks {
            let (start, end) = span(&mut draws, self.frequency_mask_bands, mel.mels);
            for frame in mel.data.chunks_exact_mut(mel.mels) {
                frame[start..end].fill(mean);
            }
        }
        Ok(())
    }
}

/// A span of 0 to `widest` places inside `0..available`.
fn span(draws: &mut Draws, widest: usize, available: usize) -> (usize, usize) {
    let width = draws.below(widest.min(available) + 1);
    let start = draws.below(available - width + 1);
    (start, start + width)
}

/// Changes of the samples themselves.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AudioAugment {
    /// Farthest shift in time either way, in seconds; what leaves at one end comes in at the other.
    /// Default 0.1.
    pub time_shift_s: f64,
    /// Largest change of loudness either way, in decibels. Default 6.
    pub gain_db: f64,
    /// Probability of adding white noise. Default 0.
    pub noise: f64,
    /// Least and largest ratio of sound to noise, in decibels. Default 10 to 40.
    pub noise_snr_db: [f64; 2],
}

impl Default for AudioAugment {
    fn default() -> Self {
        Self { time_shift_s: 0.1, gain_db: 6.0, noise: 0.0, noise_snr_db: [10.0, 40.0] }
    }
}

impl AudioAugment {
    /// Errors when a setting is out of its range.
    pub fn check(&self) -> Result<()> {
        let within = |what, value: f64, most: f64| {
            if (0.0..=most).contains(&value) {
                return Ok(());
            }
            Err(MediaError::parameter(what, format!("0 to {most}"), value))
        };
        within("time_shift_s", self.time_shift_s, 3600.0)?;
        within("gain_db", self.gain_db, 60.0)?;
        within("noise", self.noise, 1.0)?;
        let [low, high] = self.noise_snr_db;
        if low.is_finite() && high.is_finite() && low <= high {
            return Ok(());
        }
        Err(MediaError::parameter("noise_snr_db", "[least, most]", format!("[{low}, {high}]")))
    }

    /// Changes samples in place; the loudest stays within `[-1, 1]` unless it was outside before.
    /// Errors as [`check`](Self::check) does.
    pub fn apply(&self, audio: &mut Audio, key: u64) -> Result<()> {
        self.check()?;
        if audio.samples.is_empty() {
            return Ok(());
        }
        let mut draws = Draws::new(key, 3);
        let length = audio.samples.len() as i64;
        let seconds = draws.uniform(-self.time_shift_s, self.time_shift_s);
        let shift = (seconds * f64::from(audio.sample_rate)).round() as i64;
        audio.samples.rotate_right(shift.rem_euclid(length) as usize);

        let gain = 10f64.powf(draws.uniform(-self.gain_db, self.gain_db) / 20.0) as f32;
        let before = peak(&audio.samples);
        let ceiling = before.max(1.0);
        audio.samples.iter_mut().for_each(|sample| *sample *= gain);

        if draws.chance(self.noise) {
            let [low, high] = self.noise_snr_db;
            let ratio = 10f64.powf(draws.uniform(low, high) / 20.0);
            let energy: f64 = audio.samples.iter().map(|&x| f64::from(x).powi(2)).sum();
            let deviation = (energy / length as f64).sqrt() / ratio;
            for sample in &mut audio.samples {
                *sample += (deviation * draws.normal()) as f32;
            }
        }
        let after = peak(&audio.samples);
        if after > ceiling {
            let scale = ceiling / after;
            audio.samples.iter_mut().for_each(|sample| *sample *= scale);
        }
        Ok(())
    }
}

fn peak(samples: &[f32]) -> f32 {
    samples.iter().fold(0.0, |peak, sample| peak.max(sample.abs()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frames() -> Mel {
        Mel { frames: 200, mels: 40, data: (0..8000).map(|i| i as f32).collect() }
    }

    #[test]
    fn masks_cover_whole_spans_within_their_widths() {
        let settings = SpecAugment { frequency_masks: 0, time_masks: 1, ..SpecAugment::default() };
        for key in 0..50 {
            let mut mel = frames();
            settings.apply(&mut mel, key).unwrap();
            let changed: Vec<usize> =
                (0..200).filter(|&frame| mel.data[frame * 40..][..40] != frames().data[frame * 40..][..40]).collect();
            assert!(changed.len() <= 40, "{}", changed.len());
            assert!(changed.windows(2).all(|pair| pair[1] == pair[0] + 1));
        }
    }

    #[test]
    fn a_key_gives_one_result_and_some_keys_differ() {
        let masked = |key| {
            let mut mel = frames();
            SpecAugment::default().apply(&mut mel, key).unwrap();
            mel
        };
        assert_eq!(masked(1), masked(1));
        assert!((0..10).any(|key| masked(key) != masked(key + 1)));
        let mut tiny = Mel { frames: 1, mels: 1, data: vec![3.0] };
        SpecAugment::default().apply(&mut tiny, 9).unwrap();
        assert_eq!(tiny.data, [3.0]);
    }

    #[test]
    fn noise_has_the_ratio_that_was_asked_for() {
        let settings = AudioAugment { time_shift_s: 0.0, gain_db: 0.0, noise: 1.0, noise_snr_db: [20.0, 20.0] };
        let clean: Vec<f32> = (0..20_000).map(|i| 0.5 * (i as f32 * 0.05).sin()).collect();
        let mut audio = Audio { sample_rate: 16_000, samples: clean.clone() };
        settings.apply(&mut audio, 4).unwrap();
        let power = |x: &[f32]| x.iter().map(|&v| f64::from(v).powi(2)).sum::<f64>();
        let noise: Vec<f32> = audio.samples.iter().zip(&clean).map(|(a, b)| a - b).collect();
        let ratio = 10.0 * (power(&clean) / power(&noise)).log10();
        assert!((ratio - 20.0).abs() < 0.2, "{ratio}");
    }

    #[test]
    fn shifts_keep_every_sample_and_gain_stays_in_range() {
        let mut settings = AudioAugment { gain_db: 0.0, ..AudioAugment::default() };
        let mut audio = Audio { sample_rate: 100, samples: (0..50).map(|i| i as f32 / 50.0).collect() };
        settings.apply(&mut audio, 11).unwrap();
        let mut sorted = audio.samples.clone();
        sorted.sort_by(f32::total_cmp);
        assert_eq!(sorted, (0..50).map(|i| i as f32 / 50.0).collect::<Vec<_>>());
        settings.gain_db = 60.0;
        for key in 0..20 {
            settings.apply(&mut audio, key).unwrap();
            assert!(peak(&audio.samples) <= 1.0);
        }
    }

    #[test]
    fn settings_out_of_range_are_refused() {
        let mut audio = Audio { sample_rate: 1, samples: vec![] };
        let bad = AudioAugment { noise: f64::NAN, ..AudioAugment::default() };
        assert!(bad.apply(&mut audio, 0).is_err());
        assert!(SpecAugment { time_mask_share: 1.5, ..SpecAugment::default() }.check().is_err());
    }
}
