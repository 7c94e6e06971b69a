//! Sound to log-mel frames, or to the samples themselves.

use std::io::ErrorKind;
use std::path::Path;

use sensorium_media::audio::Mel;
use sensorium_media::audio::log_mel::Window;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::error::{DataError, Result};

/// What a model reads of a sound.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AudioFeatures {
    /// Whisper's log-mel frames: 25 ms windows every 10 ms, base-10 logarithm clamped 8 below the
    /// loudest.
    Whisper,
    /// Kaldi's filter banks as torchaudio computes them: 25 ms every 10 ms, natural logarithm.
    Kaldi,
    /// CLAP's log-mel frames: windows of 1024 of 48,000 samples a second every 10 ms, in decibels.
    Clap,
    /// The samples as they are, frames of one number each (wav2vec 2.0, HuBERT).
    Waveform,
}

/// How sound becomes `[frames, mels]`, or `[samples, 1]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AudioProcessor {
    /// Samples per second (default 16000; Whisper's features are defined for that alone, CLAP's for
    /// 48000).
    pub sample_rate: u32,
    /// What the model reads (default `whisper`).
    pub features: AudioFeatures,
    /// Mel bands (default 80); 1 for samples.
    pub mels: usize,
    /// Shape of the window of Kaldi's features (default `povey`; AST uses `hann`).
    #[serde(skip_serializing_if = "is_povey")]
    pub window: Window,
    /// The lowest and the highest frequency of CLAP's bands in hertz (default 0 and 14000).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub band_hz: Option<(f64, f64)>,
    /// Longer sounds lose their end (default 30). In training with augmentation, a random stretch
    /// of this length is taken instead.
    pub max_seconds: f64,
    /// Shorter sounds are padded to this length, for pretrained models that have only seen sounds
    /// of one length: with silence before Whisper's features (30 for Whisper), with frames of
    /// zeros after Kaldi's (10.24 for AST), with repetitions and silence before CLAP's (10). Default none: a sound costs as much as it is long. A
    /// pretrained Whisper then gives other states than the reference (on 10 s of speech, tiny.en's
    /// differ by a tenth of their size): its decoder, and an encoder that stays frozen, want the
    /// padding.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pad_seconds: Option<f64>,
    /// Sounds of fewer frames get frames of zeros up to so many (default 0): what an encoder takes
    /// at least.
    #[serde(skip_serializing_if = "is_zero")]
    pub least_frames: usize,
    /// Whether each sound is brought to mean 0 and variance 1 (samples only; default false).
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub normalize: bool,
    /// Subtracted from every value (default 0; learnt from training sounds for Kaldi's features).
    pub mean: f32,
    /// Divides every value afterwards (default 1; likewise).
    pub std: f32,
}

fn is_zero(frames: &usize) -> bool {
    *frames == 0
}

fn is_povey(window: &Window) -> bool {
    *window == Window::Povey
}

impl Default for AudioProcessor {
    fn default() -> Self {
        AudioProcessor {
            sample_rate: 16_000,
            features: AudioFeatures::Whisper,
            mels: 80,
            window: Window::Povey,
            band_hz: None,
            max_seconds: 30.0,
            pad_seconds: None,
            least_frames: 0,
            normalize: false,
            mean: 0.0,
            std: 1.0,
        }
    }
}

/// Log-mel frames per second: one every 10 ms.
const LOG_MEL_FRAMES: f64 = 100.0;
/// Seconds of a window of Kaldi's.
const KALDI_WINDOW: f64 = 0.025;
/// Samples per second that CLAP's features are defined for.
const CLAP_RATE: u32 = 48_000;
/// Added to the variance of a sound's samples, as wav2vec 2.0 does.
const VARIANCE_OFFSET: f64 = 1e-7;

impl AudioProcessor {
    /// Frames per second: one every 10 ms, or one for each sample.
    pub fn frames_per_second(&self) -> f64 {
        match self.features {
            AudioFeatures::Whisper | AudioFeatures::Kaldi | AudioFeatures::Clap => LOG_MEL_FRAMES,
            AudioFeatures::Waveform => f64::from(self.sample_rate),
        }
    }

    /// Frames of the longest sound. CLAP's windows stand at both ends of it, Kaldi's lie whole
    /// within it.
    pub fn most_frames(&self) -> usize {
        let frames = self.max_seconds * self.frames_per_second();
        match self.features {
            AudioFeatures::Whisper | AudioFeatures::Waveform => frames.ceil() as usize,
            AudioFeatures::Clap => frames.ceil() as usize + 1,
            // A whole number of frames and their last window may be a rounding error below it.
            AudioFeatures::Kaldi => 1 + (frames - KALDI_WINDOW * LOG_MEL_FRAMES + 1e-6).max(0.0) as usize,
        }
    }

    /// The processor of a pretrained encoder, from the `preprocessor_config.json` in its folder, or
    /// the `feature_extractor` in its `processor_config.json`; none where there is neither.
    ///
    /// # Errors
    /// When the file cannot be read, or says something that is not done here.
    pub fn from_folder(folder: &Path) -> Result<Option<Self>> {
        for (name, key) in [("preprocessor_config.json", None), ("processor_config.json", Some("feature_extractor"))] {
            let path = folder.join(name);
            let text = match std::fs::read(&path) {
                Ok(text) => text,
                // A checkpoint may be a file by itself, beside which nothing is its own.
                Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => continue,
                Err(source) => return Err(DataError::io("read", &path, source)),
            };
            let problem = |problem: String| DataError::Options(format!("{}: {problem}", path.display()));
            let config: Value =
                serde_json::from_slice(&text).map_err(|error| problem(format!("is not JSON: {error}")))?;
            let config = match key {
                Some(key) => config.get(key),
                None => Some(&config),
            };
            if let Some(config) = config {
                return Self::from_preprocessor(config).map(Some).map_err(|error| problem(error.to_string()));
            }
        }
        Ok(None)
    }

    /// The processor that a feature extractor of the reference library describes: those of
    /// Whisper, wav2vec 2.0, AST and CLAP. Of a sound that is longer than CLAP hears at once, the
    /// reference takes a stretch at random; here it loses its end, as every sound does.
    ///
    /// # Errors
    /// Another extractor, or a setting that means something not done here.
    pub fn from_preprocessor(config: &Value) -> Result<Self> {
        let Value::Object(config) = config else {
            return Err(DataError::Options("a feature extractor's configuration must be a JSON object".into()));
        };
        let config = Extractor(config);
        config.only("padding_side", "right")?;
        config.only_number("padding_value", 0.0)?;
        let sample_rate = config.whole("sampling_rate", 16_000)? as u32;
        let kind = config.0.get("feature_extractor_type").and_then(Value::as_str).unwrap_or_default();
        let processor = match kind {
            "WhisperFeatureExtractor" => {
                config.only_number("hop_length", 160.0)?;
                config.only_number("n_fft", 400.0)?;
                config.only_number("dither", 0.0)?;
                let seconds = config.number("chunk_length", 30.0)?;
                Self {
                    sample_rate,
                    features: AudioFeatures::Whisper,
                    mels: config.whole("feature_size", 80)?,
                    max_seconds: seconds,
                    pad_seconds: Some(seconds),
                    ..Self::default()
                }
            }
            "Wav2Vec2FeatureExtractor" => {
                config.only_number("feature_size", 1.0)?;
                let normalize = config.yes("do_normalize", true)?;
                Self { sample_rate, features: AudioFeatures::Waveform, mels: 1, normalize, ..Self::default() }
            }
            "ASTFeatureExtractor" => {
                let frames = config.whole("max_length", 1024)? as f64;
                let normalize = config.yes("do_normalize", true)?;
                let (mean, std) = (config.number("mean", -4.267_739_3)?, config.number("std", 4.568_997_4)?);
                Self {
                    sample_rate,
                    features: AudioFeatures::Kaldi,
                    mels: config.whole("num_mel_bins", 128)?,
                    window: Window::Hann,
                    // The samples of so many whole frames: the last one reaches 15 ms further.
                    max_seconds: frames / LOG_MEL_FRAMES + 0.015,
                    pad_seconds: Some(frames / LOG_MEL_FRAMES),
                    mean: if normalize { mean as f32 } else { 0.0 },
                    std: if normalize { (2.0 * std) as f32 } else { 1.0 },
                    ..Self::default()
                }
            }
            "ClapFeatureExtractor" => {
                config.only("truncation", "rand_trunc")?;
                config.only("padding", "repeatpad")?;
                config.only_number("fft_window_size", 1024.0)?;
                config.only_number("hop_length", 480.0)?;
                config.only("top_db", "none")?;
                let seconds = config.number("max_length_s", 10.0)?;
                Self {
                    sample_rate: config.whole("sampling_rate", CLAP_RATE as usize)? as u32,
                    features: AudioFeatures::Clap,
                    mels: config.whole("feature_size", 64)?,
                    band_hz: Some((config.number("frequency_min", 0.0)?, config.number("frequency_max", 14_000.0)?)),
                    max_seconds: seconds,
                    pad_seconds: Some(seconds),
                    ..Self::default()
                }
            }
            other => {
                return Err(DataError::Options(format!(
                    "feature_extractor_type {other:?} is not known; WhisperFeatureExtractor, \
                     Wav2Vec2FeatureExtractor, ASTFeatureExtractor and ClapFeatureExtractor are"
                )));
            }
        };
        processor.validate().map_err(DataError::Options)?;
        Ok(processor)
    }

    /// The last step: frames of zeros where Kaldi's are to be padded or there are too few, then the
    /// scale.
    pub(crate) fn finish(&self, mel: &mut Mel) {
        if let (AudioFeatures::Kaldi, Some(seconds)) = (self.features, self.pad_seconds) {
            mel.frames = (seconds * LOG_MEL_FRAMES).round() as usize;
        }
        mel.frames = mel.frames.max(self.least_frames);
        mel.data.resize(mel.frames * mel.mels, 0.0);
        if self.normalize && !mel.data.is_empty() {
            let n = mel.data.len() as f64;
            let mean = mel.data.iter().map(|x| f64::from(*x)).sum::<f64>() / n;
            let variance = mel.data.iter().map(|x| (f64::from(*x) - mean).powi(2)).sum::<f64>() / n;
            let deviation = (variance + VARIANCE_OFFSET).sqrt();
            mel.data.iter_mut().for_each(|x| *x = ((f64::from(*x) - mean) / deviation) as f32);
        }
        mel.data.iter_mut().for_each(|x| *x = (*x - self.mean) / self.std);
    }

    pub(crate) fn validate(&self) -> std::result::Result<(), String> {
        if !(1_000..=192_000).contains(&self.sample_rate) {
            return Err(format!("sample_rate is {}; expected 1000 to 192000", self.sample_rate));
        }
        if self.features == AudioFeatures::Whisper && self.sample_rate != 16_000 {
            return Err(format!(
                "sample_rate is {}, and Whisper's features are defined for 16000; use features = \"kaldi\"",
                self.sample_rate
            ));
        }
        if self.features == AudioFeatures::Clap && self.sample_rate != CLAP_RATE {
            return Err(format!(
                "sample_rate is {}, and CLAP's features are defined for {CLAP_RATE}",
                self.sample_rate
            ));
        }
        if self.band_hz.is_some() && self.features != AudioFeatures::Clap {
            return Err("band_hz is for CLAP's features; the others have bands of their own".into());
        }
        let waveform = self.features == AudioFeatures::Waveform;
        if !(1..=512).contains(&self.mels) || (waveform && self.mels != 1) {
            let expected = if waveform { "1 for samples" } else { "1 to 512" };
            return Err(format!("mels is {}; expected {expected}", self.mels));
        }
        if !(self.max_seconds > 0.0 && self.max_seconds <= 36_000.0) {
            return Err(format!("max_seconds is {}; expected more than 0", self.max_seconds));
        }
        if let Some(seconds) = self.pad_seconds
            && (waveform || !(seconds > 0.0 && seconds <= 3600.0))
        {
            return Err(format!("pad_seconds is {seconds}; expected more than 0, at most 3600, and none for samples"));
        }
        if self.normalize && !waveform {
            return Err("normalize is for samples; log-mel frames have mean and std".into());
        }
        if !(self.mean.is_finite() && self.std.is_finite() && self.std > 0.0) {
            return Err(format!("mean {} and std {}: expected finite numbers, std above 0", self.mean, self.std));
        }
        Ok(())
    }
}

/// A feature extractor's configuration, key by key.
struct Extractor<'c>(&'c Map<String, Value>);

impl Extractor<'_> {
    fn get(&self, key: &str) -> Option<&Value> {
        self.0.get(key).filter(|value| !value.is_null())
    }

    fn wrong(&self, key: &str, expected: &str) -> DataError {
        let got = self.get(key).map_or("nothing".into(), ToString::to_string);
        DataError::Options(format!("{key}: expected {expected}, got {got}"))
    }

    fn number(&self, key: &str, default: f64) -> Result<f64> {
        match self.get(key) {
            None => Ok(default),
            Some(value) => value.as_f64().ok_or_else(|| self.wrong(key, "a number")),
        }
    }

    fn whole(&self, key: &str, default: usize) -> Result<usize> {
        let number = match self.get(key) {
            None => Some(default as u64),
            Some(value) => value.as_u64().filter(|n| *n <= 1 << 24),
        };
        number.map(|n| n as usize).ok_or_else(|| self.wrong(key, "a whole number"))
    }

    fn yes(&self, key: &str, default: bool) -> Result<bool> {
        match self.get(key) {
            None => Ok(default),
            Some(value) => value.as_bool().ok_or_else(|| self.wrong(key, "true or false")),
        }
    }

    fn only_number(&self, key: &str, allowed: f64) -> Result<()> {
        if self.number(key, allowed)? == allowed {
            return Ok(());
        }
        Err(self.wrong(key, &format!("{allowed} (others are not computed here)")))
    }

    fn only(&self, key: &str, allowed: &str) -> Result<()> {
        match self.get(key) {
            Some(value) if value.as_str() != Some(allowed) => {
                Err(self.wrong(key, &format!("{allowed:?} (others are not computed here)")))
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn processors_saved_before_there_were_samples_still_load() {
        let old = r#"{"sample_rate":16000,"features":"whisper","mels":64,"max_seconds":10.0,"mean":0.0,"std":1.0}"#;
        let processor: AudioProcessor = serde_json::from_str(old).expect("loads");
        assert_eq!(processor, AudioProcessor { mels: 64, max_seconds: 10.0, ..Default::default() });
        assert_eq!(serde_json::to_string(&processor).expect("json"), old);
    }

    #[test]
    fn what_is_not_computed_is_refused_by_name() {
        let refused = |config: Value| AudioProcessor::from_preprocessor(&config).expect_err("refused").to_string();
        assert!(refused(json!({"feature_extractor_type": "EncodecFeatureExtractor"})).contains("ASTFeatureExtractor"));
        let clap =
            |key: &str, value: Value| refused(json!({"feature_extractor_type": "ClapFeatureExtractor", key: value}));
        assert!(clap("truncation", json!("fusion")).contains("truncation: expected \"rand_trunc\""));
        assert!(clap("top_db", json!(80)).contains("top_db"));
        assert!(clap("sampling_rate", json!(16_000)).contains("sample_rate is 16000"));
        assert!(AudioProcessor { band_hz: Some((0.0, 1.0)), ..Default::default() }.validate().is_err());
        let whisper =
            |key: &str, value: Value| refused(json!({"feature_extractor_type": "WhisperFeatureExtractor", key: value}));
        assert!(whisper("hop_length", json!(100)).contains("hop_length: expected 160"));
        assert!(whisper("padding_side", json!("left")).contains("padding_side"));
        assert!(whisper("sampling_rate", json!(8000)).contains("sample_rate is 8000"));
        assert!(whisper("feature_size", json!("many")).contains("feature_size"));
        assert!(refused(json!([])).contains("JSON object"));
        let samples = AudioProcessor { features: AudioFeatures::Waveform, mels: 1, ..Default::default() };
        assert!(samples.validate().is_ok());
        assert!(AudioProcessor { mels: 80, ..samples.clone() }.validate().is_err());
        assert!(AudioProcessor { pad_seconds: Some(1.0), ..samples }.validate().is_err());
        assert!(AudioProcessor { normalize: true, ..Default::default() }.validate().is_err());
    }

    #[test]
    fn sounds_have_as_many_frames_as_an_encoder_takes() {
        let config = json!({"feature_extractor_type": "ASTFeatureExtractor", "max_length": 200});
        let padded = AudioProcessor::from_preprocessor(&config).expect("known");
        assert_eq!(padded.most_frames(), 200);
        for (seconds, frames) in [(2.0, 198), (0.02, 1), (10.255, 1024)] {
            assert_eq!(AudioProcessor { max_seconds: seconds, ..padded.clone() }.most_frames(), frames);
        }
        let own = AudioProcessor { pad_seconds: None, least_frames: 16, mean: 1.0, std: 2.0, ..padded };
        for (frames, expected) in [(14, 16), (20, 20)] {
            let mut mel = Mel { frames, mels: 2, data: vec![3.0; 2 * frames] };
            own.finish(&mut mel);
            assert_eq!((mel.frames, mel.data.len()), (expected, 2 * expected));
            assert!(mel.data[..2 * frames].iter().all(|x| *x == 1.0));
            assert!(mel.data[2 * frames..].iter().all(|x| *x == -0.5));
        }
    }
}
