//! Sound: decode to mono samples, resample, turn into log-mel frames, augment.
//!
//! [`decode`] takes the bytes of any known format to an [`Audio`]; [`resample`] brings it to the
//! rate of a model; [`log_mel`] makes the [`Mel`] frames that speech and sound models take;
//! [`augment`] varies either for training.

pub mod augment;
pub mod log_mel;

mod decode;
mod edit_list;
mod resample;

pub use augment::{AudioAugment, SpecAugment};
pub use decode::decode;
pub use log_mel::{ClapMel, KaldiFbank, Mel, WhisperMel};
pub use resample::resample;

pub(crate) use decode::decode_stream;

/// One channel of sound.
#[derive(Clone, Debug, PartialEq)]
pub struct Audio {
    /// Samples per second.
    pub sample_rate: u32,
    /// Amplitudes, nominally in `[-1, 1]`; a lossy codec may overshoot a little.
    pub samples: Vec<f32>,
}

impl Audio {
    /// Length in seconds.
    pub fn seconds(&self) -> f64 {
        self.samples.len() as f64 / f64::from(self.sample_rate.max(1))
    }
}
