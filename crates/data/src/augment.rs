//! Variation of training samples, as a function of (seed, epoch, row, column, part) alone.

use sensorium_media::MediaError;
use sensorium_media::audio::Mel;
use sensorium_media::audio::augment::{AudioAugment, SpecAugment};
use sensorium_media::image::augment::ImageAugment;
use serde::{Deserialize, Serialize};

/// Which variations are made; each can be switched off.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Augmentation {
    /// Pictures: crop, flip, colours (default none).
    pub image: Option<ImageAugment>,
    /// Videos, all frames of one alike (default none).
    pub video: Option<ImageAugment>,
    /// Samples of sound: shift, loudness, noise (default none). Log-mel frames are then computed
    /// anew each epoch.
    pub waveform: Option<AudioAugment>,
    /// Masks over log-mel frames (default none).
    pub spectrogram: Option<SpecAugment>,
}

impl Augmentation {
    /// Every kind with its defaults.
    pub fn standard() -> Self {
        Augmentation {
            image: Some(ImageAugment::default()),
            video: Some(ImageAugment::default()),
            waveform: None,
            spectrogram: Some(SpecAugment::default()),
        }
    }

    /// Errors when a setting is out of its range.
    pub fn check(&self) -> Result<(), MediaError> {
        self.image.as_ref().map_or(Ok(()), ImageAugment::check)?;
        self.video.as_ref().map_or(Ok(()), ImageAugment::check)?;
        self.waveform.as_ref().map_or(Ok(()), AudioAugment::check)?;
        self.spectrogram.as_ref().map_or(Ok(()), SpecAugment::check)
    }

    /// Whether sounds are varied, so that longer ones are cut at a random place.
    pub(crate) fn varies_sound(&self) -> bool {
        self.waveform.is_some() || self.spectrogram.is_some()
    }
}

/// What the random choices of one sample follow from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AugmentKey(u64);

impl AugmentKey {
    /// The key of a row in an epoch.
    pub fn new(seed: u64, epoch: u64, row: u64) -> Self {
        AugmentKey(mix(mix(mix(0x5E25_0121, seed), epoch), row))
    }

    /// The key of one column of the row.
    pub(crate) fn column(self, column: usize) -> Self {
        AugmentKey(mix(self.0, column as u64))
    }

    /// The key of one file of a column's list.
    pub(crate) fn part(self, part: usize) -> u64 {
        mix(self.0, part as u64)
    }
}

/// One round of SplitMix64 over a running key.
fn mix(key: u64, with: u64) -> u64 {
    let mut z = key.wrapping_mul(0xD6E8_FEB8_6659_FD93) ^ with.wrapping_add(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// Where a stretch of `length` begins among `available`, by a key.
pub(crate) fn stretch_start(available: usize, length: usize, key: u64) -> usize {
    let choices = available.saturating_sub(length) as u128 + 1;
    ((u128::from(mix(key, 0x57A7)) * choices) >> 64) as usize
}

/// Keeps at most `longest` frames, from a place chosen by the key where there is one.
pub(crate) fn cut_mel(mut mel: Mel, longest: usize, key: Option<u64>) -> Mel {
    if mel.frames > longest {
        let start = key.map_or(0, |key| stretch_start(mel.frames, longest, key));
        mel.data.drain(..start * mel.mels);
        mel.data.truncate(longest * mel.mels);
        mel.frames = longest;
    }
    mel
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn keys_differ_in_every_part() {
        let mut seen = HashSet::new();
        for seed in 0..5 {
            for epoch in 0..5 {
                for row in 0..5 {
                    let key = AugmentKey::new(seed, epoch, row);
                    for column in 0..3 {
                        (0..3).for_each(|part| _ = seen.insert(key.column(column).part(part)));
                    }
                }
            }
        }
        assert_eq!(seen.len(), 125 * 9);
        assert_eq!(AugmentKey::new(1, 2, 3), AugmentKey::new(1, 2, 3));
    }

    #[test]
    fn stretches_lie_inside_and_reach_both_ends() {
        let starts: HashSet<usize> = (0..1000).map(|key| stretch_start(10, 7, key)).collect();
        assert_eq!(starts, HashSet::from([0, 1, 2, 3]));
        let mel = Mel { frames: 5, mels: 2, data: (0..10).map(|x| x as f32).collect() };
        let cut = cut_mel(mel.clone(), 2, Some(3));
        assert_eq!((cut.frames, cut.data.len()), (2, 4));
        assert_eq!(cut_mel(mel.clone(), 2, None).data, [0.0, 1.0, 2.0, 3.0]);
        assert_eq!(cut_mel(mel.clone(), 9, Some(1)), mel);
    }
}
