//! How a checkpoint's inputs are prepared: what its files say of tokenizers,
//! pictures, sounds and videos.

use crate::{Error, Result};
use sensorium_data::processor::{AudioFeatures, AudioProcessor, ImageProcessor, VideoProcessor};
use sensorium_data::{PlanOptions, Tokenizer};
use sensorium_model::TowerConfig;
use sensorium_model::pretrained::Pretrained;
use sensorium_model::towers::{AudioTowerConfig, SpaceTimeTowerConfig};
use std::path::Path;

/// Sets the way of preparing inputs that a tower of a checkpoint was trained
/// with.
///
/// # Errors
/// When the checkpoint's files do not say how, or say what is not computed
/// here.
pub(crate) fn prepare(source: &Pretrained, tower: &TowerConfig, options: &mut PlanOptions) -> Result<()> {
    match tower {
        TowerConfig::Text(text) => {
            options.tokenizer = Some(Tokenizer::from_folder(source.folder())?);
            let longest = longest_sentence(source.folder())?.unwrap_or(text.max_positions);
            options.text.max_tokens = longest.min(text.max_positions);
        }
        TowerConfig::Image(_) => options.image = image(source)?,
        TowerConfig::Audio(audio) => {
            let described = AudioProcessor::from_folder(source.folder())?;
            options.audio = described.or_else(|| whisper(source, audio)).ok_or_else(|| {
                Error::model(
                    source.folder(),
                    "has no preprocessor_config.json, which says how sounds become what it hears; copy the model's",
                )
            })?;
            options.audio.least_frames = audio.least_frames();
        }
        TowerConfig::SpaceTime(video) => options.video = space_time(source, video)?,
        TowerConfig::Video(_) | TowerConfig::Features(_) | TowerConfig::Tabular(_) => {}
    }
    Ok(())
}

/// How Whisper hears, for the weights of its authors, which come without a file
/// that says it: every Whisper hears alike but for the number of bands.
fn whisper(source: &Pretrained, audio: &AudioTowerConfig) -> Option<AudioProcessor> {
    let processor = AudioProcessor { features: AudioFeatures::Whisper, mels: audio.mels, ..AudioProcessor::default() };
    let frames: usize = audio.max_positions * audio.strides.iter().product::<usize>();
    let seconds = frames as f64 / processor.frames_per_second();
    let processor = AudioProcessor { max_seconds: seconds, pad_seconds: Some(seconds), ..processor };
    source.is_openai_whisper().then_some(processor)
}

/// How the videos of a video encoder are prepared: as many frames as it has
/// learnt with, scaled as pictures are.
///
/// # Errors
/// As for pictures.
pub(crate) fn space_time(source: &Pretrained, video: &SpaceTimeTowerConfig) -> Result<VideoProcessor> {
    let frame = image(source)?;
    if frame.size != video.image_size {
        return Err(Error::model(
            source.folder(),
            format!(
                "its processor makes frames of {} pixels, and the encoder takes {} (image_size in config.json)",
                frame.size, video.image_size
            ),
        ));
    }
    Ok(VideoProcessor { frames: video.frames, exact: true, ..VideoProcessor::of_frames(&frame) })
}

/// How the pictures of a checkpoint, or the frames of its videos, are prepared.
///
/// # Errors
/// When its `preprocessor_config.json` (of videos also
/// `video_preprocessor_config.json`) is missing, or says what is not computed
/// here.
pub(crate) fn image(source: &Pretrained) -> Result<ImageProcessor> {
    let of_videos = source.folder().join("video_preprocessor_config.json");
    let path = match of_videos.is_file() {
        true => of_videos,
        false => source.folder().join("preprocessor_config.json"),
    };
    let bytes = std::fs::read(&path).map_err(|e| Error::io("read", &path, e))?;
    let json = serde_json::from_slice(&bytes).map_err(|e| Error::model(&path, e.to_string()))?;
    Ok(ImageProcessor::from_preprocessor(&json)?)
}

/// The longest text in tokens that a sentence-transformers folder asks for.
fn longest_sentence(folder: &Path) -> Result<Option<usize>> {
    let path = folder.join("sentence_bert_config.json");
    if !path.is_file() {
        return Ok(None);
    }
    let bytes = std::fs::read(&path).map_err(|e| Error::io("read", &path, e))?;
    let json: serde_json::Value = serde_json::from_slice(&bytes).map_err(|e| Error::model(&path, e.to_string()))?;
    Ok(json["max_seq_length"].as_u64().map(|n| n as usize))
}
