//! How the cells of a column become what a model reads: one config per column type.
//!
//! A processor is plain data, saved with the model: sizes chosen by a person, and statistics and
//! vocabularies learnt from the training rows only.

mod audio;
mod category;
mod features;
mod image;
mod number;
mod preprocessor;
mod text;
mod video;

use serde::{Deserialize, Serialize};

pub use audio::{AudioFeatures, AudioProcessor};
pub use category::CategoryProcessor;
pub use features::{FeatureFitter, FeaturesProcessor};
pub use image::{CropMode, ImageProcessor};
pub use number::NumberProcessor;
pub use text::TextProcessor;
pub use video::VideoProcessor;

/// The processor of one column.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Processor {
    /// Text to tokens.
    Text(TextProcessor),
    /// Pictures to normalised pixels.
    Image(ImageProcessor),
    /// Sound to log-mel frames.
    Audio(AudioProcessor),
    /// Videos to normalised frames.
    Video(VideoProcessor),
    /// Numbers, standardised.
    Number(NumberProcessor),
    /// Words of a vocabulary.
    Category(CategoryProcessor),
    /// Precomputed features, standardised.
    Features(FeaturesProcessor),
}

impl Processor {
    /// Checks that the values of a config make sense.
    pub fn validate(&self) -> Result<(), String> {
        match self {
            Processor::Text(config) => config.validate(),
            Processor::Image(config) => config.validate(),
            Processor::Audio(config) => config.validate(),
            Processor::Video(config) => config.validate(),
            Processor::Number(config) => config.validate(),
            Processor::Category(config) => config.validate(),
            Processor::Features(config) => config.validate(),
        }
    }
}

/// A deviation to divide by: constant inputs become 0, not infinite.
pub(crate) fn usable_std(std: f64) -> f32 {
    if std.is_finite() && std > 1e-6 { std as f32 } else { 1.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn configs_round_trip_and_refuse_unknown_keys() {
        let processors = [
            Processor::Text(TextProcessor::default()),
            Processor::Image(ImageProcessor::default()),
            Processor::Audio(AudioProcessor::default()),
            Processor::Video(VideoProcessor::default()),
            Processor::Number(NumberProcessor { mean: 1.5, std: 2.0 }),
            Processor::Category(CategoryProcessor { vocabulary: vec!["a".into()] }),
            Processor::Features(FeaturesProcessor { dim: 1, max_rows: 4, mean: vec![0.0], std: vec![1.0] }),
        ];
        for processor in processors {
            processor.validate().expect("valid");
            let json = serde_json::to_string(&processor).expect("json");
            assert_eq!(serde_json::from_str::<Processor>(&json).expect("back"), processor);
        }
        let unknown = serde_json::from_str::<Processor>("{\"kind\": \"image\", \"sise\": 3}");
        assert!(unknown.expect_err("unknown").to_string().contains("sise"));
        let partial: Processor = serde_json::from_str("{\"kind\": \"image\", \"size\": 32}").expect("partial");
        assert_eq!(partial, Processor::Image(ImageProcessor { size: 32, ..Default::default() }));
    }
}
