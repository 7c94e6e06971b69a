//! Media cells to arrays: reading, decoding and resizing, once, through the cache.
//!
//! What is cached is the part that costs: pictures and frames as resized bytes, sound as log-mel
//! frames. What differs from epoch to epoch (augmentation) and what is cheap (cropping,
//! normalising) happens after.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::UNIX_EPOCH;

use sensorium_media::audio::{self, Audio, ClapMel, KaldiFbank, Mel, WhisperMel};
use sensorium_media::image::{self, Image};
use sensorium_media::video::{self, FrameSampling, FrameSize};
use sensorium_media::{Limits, MediaError, read_file, spool};

use crate::cache::{Cache, CacheKey};
use crate::media_ref::MediaRef;
use crate::processor::{AudioFeatures, AudioProcessor, CropMode, ImageProcessor, VideoProcessor};

/// Room around the crop that augmentation may choose from.
const AUGMENTED_ENLARGEMENT: f64 = 1.25;
/// The longer side is kept to this many times the shorter one before it is stored.
const MAX_STORED_ASPECT: usize = 3;
/// In training with augmentation a stretch of sound is chosen from this many times its length.
const AUGMENTED_SECONDS: f64 = 4.0;

/// Reads and prepares media.
#[derive(Clone, Debug)]
pub struct Preparer {
    /// Limits on what a file may hold.
    pub limits: Limits,
    /// Where prepared media is kept; without one, it is prepared anew each time.
    pub cache: Option<Arc<Cache>>,
}

/// The source label of errors, without the contents of a data URI.
fn label(media: &MediaRef) -> String {
    match media {
        MediaRef::File(path) => path.display().to_string(),
        MediaRef::Bytes(bytes) => format!("data of {} bytes", bytes.len()),
    }
}

fn explain(error: MediaError) -> String {
    error.to_string()
}

impl Preparer {
    /// A picture, resized: of exactly `size` on both sides, or, for augmentation, with the margins
    /// that crops are taken from.
    pub fn image(&self, media: &MediaRef, config: &ImageProcessor, augmented: bool) -> Result<Image, String> {
        let key = self.key(media, "image", &geometry(config), augmented)?;
        let stored = key.as_ref().and_then(|key| self.cached(key)).and_then(|bytes| read_images(&bytes));
        if let Some(image) = stored.and_then(|images| images.into_iter().next()) {
            return Ok(image);
        }
        let bytes = self.bytes(media)?;
        let whole = image::decode(&bytes, &label(media), &self.limits).map_err(explain)?;
        let image = fit(&whole, config, augmented);
        self.store(key, || write_images(std::slice::from_ref(&image)));
        Ok(image)
    }

    /// The frames of a video, each prepared as a picture.
    pub fn video(&self, media: &MediaRef, config: &VideoProcessor, augmented: bool) -> Result<Vec<Image>, String> {
        let frame = config.frame();
        let exact = if config.exact { " exact" } else { "" };
        let config_text = format!("{} frames, {}{exact}", config.frames, geometry(&frame));
        let key = self.key(media, "video", &config_text, augmented)?;
        if let Some(images) = key.as_ref().and_then(|key| self.cached(key)).and_then(|b| read_images(&b)) {
            return Ok(images);
        }
        let size = match config.crop {
            _ if config.exact => FrameSize::Original,
            CropMode::Center => FrameSize::ShorterSide(stored_side(&frame, augmented)),
            CropMode::Squash => FrameSize::Exact { width: config.size, height: config.size },
            CropMode::Pad => FrameSize::Original,
        };
        let sampling = FrameSampling::Count(config.frames);
        let frames =
            self.with_file(media, |path| video::frames(path, &sampling, size, &self.limits).map_err(explain))?;
        let images: Vec<Image> = frames.iter().map(|(_, image)| fit(image, &frame, augmented)).collect();
        self.store(key, || write_images(&images));
        Ok(images)
    }

    /// The log-mel frames of a sound, or of a video's sound track, not yet standardised; `None` where
    /// a video has no sound. With `augmented`, several times `max_seconds` are kept to choose from.
    pub fn mel(
        &self,
        media: &MediaRef,
        config: &AudioProcessor,
        sound_track: bool,
        augmented: bool,
    ) -> Result<Option<Mel>, String> {
        let seconds = config.max_seconds * if augmented { AUGMENTED_SECONDS } else { 1.0 };
        let config_text = format!(
            "{:?} {:?} {} Hz {} mels{} {seconds} s, padded to {:?}",
            config.features,
            config.window,
            config.sample_rate,
            config.mels,
            config.band_hz.map(|(low, high)| format!(" of {low} to {high} Hz")).unwrap_or_default(),
            config.pad_seconds
        );
        let key = self.key(media, if sound_track { "track mel" } else { "mel" }, &config_text, augmented)?;
        if let Some(mel) = key.as_ref().and_then(|key| self.cached(key)).and_then(|b| read_mel(&b)) {
            return Ok((mel.frames > 0).then_some(mel));
        }
        let mel = match self.decode_sound(media, config, sound_track, seconds)? {
            None => None,
            Some(sound) => Some(self.log_mel(media, &sound, config)?),
        };
        self.store(key, || match &mel {
            Some(mel) => write_mel(mel),
            None => write_mel(&Mel { frames: 0, mels: 0, data: Vec::new() }),
        });
        Ok(mel)
    }

    /// The samples of a sound at the config's rate, several times `max_seconds` of them to choose
    /// from; `None` where a video has no sound.
    pub fn sound(&self, media: &MediaRef, config: &AudioProcessor, sound_track: bool) -> Result<Option<Audio>, String> {
        let seconds = config.max_seconds * AUGMENTED_SECONDS;
        let config_text = format!("{} Hz {seconds} s", config.sample_rate);
        let key = self.key(media, if sound_track { "track" } else { "sound" }, &config_text, true)?;
        // Samples are stored as a matrix of one column.
        if let Some(stored) = key.as_ref().and_then(|key| self.cached(key)).and_then(|b| read_mel(&b)) {
            let sound = Audio { sample_rate: config.sample_rate, samples: stored.data };
            return Ok((stored.frames > 0).then_some(sound));
        }
        let sound = self.decode_sound(media, config, sound_track, seconds)?;
        self.store(key, || {
            let samples = sound.as_ref().map_or(&[][..], |sound| &sound.samples);
            write_mel(&Mel { frames: samples.len(), mels: 1, data: samples.to_vec() })
        });
        Ok(sound)
    }

    /// The frames that a model reads of samples.
    ///
    /// # Errors
    /// Fewer samples than one frame takes.
    pub fn log_mel(&self, media: &MediaRef, sound: &Audio, config: &AudioProcessor) -> Result<Mel, String> {
        let mel = match config.features {
            AudioFeatures::Whisper => {
                // Silence is part of what Whisper hears; a longer sound is cut by frames.
                let pad_to_seconds = config.pad_seconds.filter(|seconds| sound.seconds() < *seconds);
                WhisperMel { mels: config.mels, pad_to_seconds }.compute(sound)
            }
            AudioFeatures::Kaldi => {
                let (sample_rate, mels, window) = (config.sample_rate, config.mels, config.window);
                KaldiFbank { sample_rate, mels, window, ..Default::default() }.compute(sound)
            }
            AudioFeatures::Clap => {
                let pad_to_seconds = config.pad_seconds.filter(|seconds| sound.seconds() < *seconds);
                let plain = ClapMel::default();
                let band_hz = config.band_hz.unwrap_or(plain.band_hz);
                ClapMel { mels: config.mels, band_hz, pad_to_seconds }.compute(sound)
            }
            AudioFeatures::Waveform => audio::resample(sound, config.sample_rate).map(|sound| Mel {
                frames: sound.samples.len(),
                mels: 1,
                data: sound.samples,
            }),
        };
        let mel = mel.map_err(explain)?;
        if mel.frames == 0 {
            let (label, seconds) = (label(media), sound.seconds());
            return Err(format!("{label}: {seconds:.3} seconds of sound are too short for a frame of 25 ms"));
        }
        Ok(mel)
    }

    fn decode_sound(
        &self,
        media: &MediaRef,
        config: &AudioProcessor,
        sound_track: bool,
        seconds: f64,
    ) -> Result<Option<Audio>, String> {
        let sound = if sound_track {
            self.with_file(media, |path| video::sound_track(path, config.sample_rate, &self.limits).map_err(explain))?
        } else {
            let bytes = self.bytes(media)?;
            let whole = audio::decode(&bytes, &label(media), &self.limits).map_err(explain)?;
            Some(audio::resample(&whole, config.sample_rate).map_err(explain)?)
        };
        Ok(sound.map(|mut sound| {
            sound.samples.truncate((seconds * f64::from(sound.sample_rate)).ceil() as usize);
            sound
        }))
    }

    /// The bytes of a media file within the limits.
    pub fn bytes(&self, media: &MediaRef) -> Result<Vec<u8>, String> {
        match media {
            MediaRef::File(path) => read_file(path, &self.limits).map_err(explain),
            MediaRef::Bytes(bytes) => Ok(bytes.clone()),
        }
    }

    /// Calls with a path to the media, written to a temporary file if need be.
    fn with_file<T>(
        &self,
        media: &MediaRef,
        then: impl FnOnce(&std::path::Path) -> Result<T, String>,
    ) -> Result<T, String> {
        match media {
            MediaRef::File(path) => then(path),
            MediaRef::Bytes(bytes) => {
                let copy = spool(bytes, &label(media), &self.limits).map_err(explain)?;
                then(&copy)
            }
        }
    }

    /// The key of a prepared entry; `None` without a cache.
    fn key(&self, media: &MediaRef, what: &str, config: &str, augmented: bool) -> Result<Option<CacheKey>, String> {
        if self.cache.is_none() {
            return Ok(None);
        }
        let identity = match media {
            MediaRef::Bytes(bytes) => blake3::hash(bytes).as_bytes().to_vec(),
            MediaRef::File(path) => file_identity(path)?,
        };
        Ok(Some(CacheKey::of(&[what.as_bytes(), config.as_bytes(), &[u8::from(augmented)], &identity])))
    }

    fn cached(&self, key: &CacheKey) -> Option<Vec<u8>> {
        self.cache.as_ref()?.get(key)
    }

    fn store(&self, key: Option<CacheKey>, contents: impl FnOnce() -> Vec<u8>) {
        if let (Some(cache), Some(key)) = (&self.cache, key) {
            cache.put(&key, &contents());
        }
    }
}

/// Path, length and time of change: reading the contents to hash them would cost what the cache is
/// there to save.
fn file_identity(path: &PathBuf) -> Result<Vec<u8>, String> {
    let read = |error: std::io::Error| format!("{}: cannot read the file: {error}", path.display());
    let absolute = std::path::absolute(path).map_err(read)?;
    let metadata = std::fs::metadata(path).map_err(read)?;
    let changed = metadata.modified().ok().and_then(|at| at.duration_since(UNIX_EPOCH).ok());
    let mut identity = absolute.as_os_str().as_encoded_bytes().to_vec();
    identity.extend(metadata.len().to_le_bytes());
    identity.extend(changed.unwrap_or_default().as_nanos().to_le_bytes());
    Ok(identity)
}

/// What of a config decides the stored picture.
fn geometry(config: &ImageProcessor) -> String {
    let fill = if config.crop == CropMode::Pad { format!("{:?}", config.mean) } else { String::new() };
    format!("{} {:?} {:?} {:?} {fill}", config.size, config.resize, config.crop, config.filter)
}

/// The shorter side of the stored picture.
fn stored_side(config: &ImageProcessor, augmented: bool) -> usize {
    let side = config.resize.unwrap_or(config.size);
    if augmented { side.max((config.size as f64 * AUGMENTED_ENLARGEMENT).ceil() as usize) } else { side }
}

/// The middle of a picture that is at least `size` pixels wide and high; odd margins are smaller at
/// the left and the top, as in the processors of the models that pretrained weights come from.
fn middle(image: &Image, size: usize) -> Image {
    image::crop(image, image.width.saturating_sub(size) / 2, image.height.saturating_sub(size) / 2, size, size)
}

/// Brings a picture to the size that is stored.
fn fit(whole: &Image, config: &ImageProcessor, augmented: bool) -> Image {
    let size = config.size;
    match config.crop {
        CropMode::Center => {
            let side = stored_side(config, augmented);
            let resized = image::resize_shorter_side(whole, side, config.filter);
            if !augmented {
                return middle(&resized, size);
            }
            let (width, height) = (resized.width, resized.height);
            let limit = side * MAX_STORED_ASPECT;
            if width > limit || height > limit {
                image::center_crop(&resized, width.min(limit), height.min(limit))
            } else {
                resized
            }
        }
        CropMode::Squash => {
            let side = config.resize.unwrap_or(size);
            middle(&image::resize(whole, side, side, config.filter), size)
        }
        CropMode::Pad => {
            let longer = whole.width.max(whole.height);
            let scaled = |side: usize| ((side * size) as f64 / longer as f64).round().max(1.0) as usize;
            let (width, height) = (scaled(whole.width), scaled(whole.height));
            let inner = image::resize(whole, width, height, config.filter);
            let (left, top) = ((size - width) / 2, (size - height) / 2);
            let color = config.mean.map(|x| (x * 255.0).round().clamp(0.0, 255.0) as u8);
            image::pad(&inner, [left, top, size - width - left, size - height - top], color)
        }
    }
}

fn write_images(images: &[Image]) -> Vec<u8> {
    let mut bytes = (images.len() as u32).to_le_bytes().to_vec();
    for image in images {
        bytes.extend((image.width as u32).to_le_bytes());
        bytes.extend((image.height as u32).to_le_bytes());
        bytes.extend(&image.data);
    }
    bytes
}

fn take_u32(bytes: &mut &[u8]) -> Option<usize> {
    let (number, rest) = bytes.split_first_chunk::<4>()?;
    *bytes = rest;
    Some(u32::from_le_bytes(*number) as usize)
}

fn read_images(mut bytes: &[u8]) -> Option<Vec<Image>> {
    let count = take_u32(&mut bytes)?;
    let mut images = Vec::new();
    for _ in 0..count {
        let (width, height) = (take_u32(&mut bytes)?, take_u32(&mut bytes)?);
        let length = width.checked_mul(height)?.checked_mul(3)?;
        let (data, rest) = bytes.split_at_checked(length)?;
        images.push(Image::new(width, height, data.to_vec()).ok()?);
        bytes = rest;
    }
    bytes.is_empty().then_some(images)
}

fn write_mel(mel: &Mel) -> Vec<u8> {
    let mut bytes = (mel.frames as u32).to_le_bytes().to_vec();
    bytes.extend((mel.mels as u32).to_le_bytes());
    mel.data.iter().for_each(|x| bytes.extend(x.to_le_bytes()));
    bytes
}

fn read_mel(mut bytes: &[u8]) -> Option<Mel> {
    let (frames, mels) = (take_u32(&mut bytes)?, take_u32(&mut bytes)?);
    if frames.checked_mul(mels)?.checked_mul(4)? != bytes.len() {
        return None;
    }
    let data = bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
    Some(Mel { frames, mels, data })
}
