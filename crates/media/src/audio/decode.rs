//! Bytes of a sound to mono samples: symphonia for the common formats, FFmpeg for the rest.

use std::io::{Cursor, ErrorKind};
use std::path::Path;

use serde::Deserialize;
use symphonia::core::codecs::audio::{AudioDecoder, AudioDecoderOptions};
use symphonia::core::errors::Error as SymphoniaError;
use symphonia::core::formats::probe::Hint;
use symphonia::core::formats::{FormatOptions, FormatReader, TrackType};
use symphonia::core::io::MediaSourceStream;
use symphonia::core::meta::MetadataOptions;

use super::Audio;
use super::edit_list::sound_edit;
use crate::Limits;
use crate::error::{MediaError, Result, guard};
use crate::ffmpeg::Ffmpeg;
use crate::input::{describe_start, spool};

const KNOWN_FORMATS: &str = "WAV, FLAC, MP3, OGG, M4A or another that FFmpeg reads";

/// Decodes WAV, FLAC, MP3, OGG/Vorbis, M4A/AAC, and through FFmpeg anything else such as Opus.
///
/// Channels are averaged. A stream that ends early gives the samples that are there; one of which
/// most is damaged is an error. `source` labels errors.
pub fn decode(bytes: &[u8], source: &str, limits: &Limits) -> Result<Audio> {
    limits.check_bytes(source, bytes.len() as u64)?;
    if bytes.is_empty() {
        return Err(unknown_format(bytes, source));
    }
    match guard(source, "audio", || decode_own(bytes, source, limits))? {
        Own::Decoded(audio) => Ok(audio),
        Own::NotOurs => decode_with_ffmpeg(bytes, source, limits),
    }
}

/// What the decoders built in made of the bytes.
enum Own {
    Decoded(Audio),
    /// The container or the codec is none of theirs.
    NotOurs,
}

fn unknown_format(bytes: &[u8], source: &str) -> MediaError {
    MediaError::UnknownFormat {
        origin: source.to_owned(),
        kind: "audio",
        expected: KNOWN_FORMATS,
        got: describe_start(bytes),
    }
}

fn decode_own(bytes: &[u8], source: &str, limits: &Limits) -> Result<Own> {
    let stream = MediaSourceStream::new(Box::new(Cursor::new(bytes)), Default::default());
    let probed = symphonia::default::get_probe().probe(
        &Hint::new(),
        stream,
        FormatOptions::default(),
        MetadataOptions::default(),
    );
    let Ok(mut reader) = probed else {
        return Ok(Own::NotOurs);
    };
    let Some(track) = reader.default_track(TrackType::Audio) else {
        return Ok(Own::NotOurs);
    };
    let track_id = track.id;
    let Some(parameters) = track.codec_params.as_ref().and_then(|codec| codec.audio()) else {
        return Ok(Own::NotOurs);
    };
    let options = AudioDecoderOptions::default();
    match symphonia::default::get_codecs().make_audio_decoder(parameters, &options) {
        Ok(mut decoder) => {
            let mut audio = read_track(reader.as_mut(), decoder.as_mut(), track_id, source, limits)?;
            if bytes.get(4..8) == Some(b"ftyp") {
                apply_edit(&mut audio, bytes);
            }
            Ok(Own::Decoded(audio))
        }
        Err(_) => Ok(Own::NotOurs),
    }
}

/// Leaves out what the edit list of an MP4 file does; an edit that would leave nothing is ignored.
fn apply_edit(audio: &mut Audio, file: &[u8]) {
    let Some(edit) = sound_edit(file) else {
        return;
    };
    let samples_in = |seconds: f64| (seconds * f64::from(audio.sample_rate)).round() as usize;
    let start = samples_in(edit.start_s);
    let length = edit.length_s.map_or(usize::MAX, samples_in);
    if start < audio.samples.len() && length > 0 {
        audio.samples.drain(..start);
        audio.samples.truncate(length);
    }
}

fn read_track(
    reader: &mut dyn FormatReader,
    decoder: &mut dyn AudioDecoder,
    track_id: u32,
    source: &str,
    limits: &Limits,
) -> Result<Audio> {
    let mut mono = MonoSamples::new(source, limits);
    let mut interleaved: Vec<f32> = Vec::new();
    let (mut good, mut damaged) = (0u64, 0u64);
    let mut problem = String::from("it holds no samples");
    loop {
        let packet = match reader.next_packet() {
            Ok(Some(packet)) => packet,
            Ok(None) => break,
            Err(SymphoniaError::IoError(error)) if error.kind() == ErrorKind::UnexpectedEof => break,
            Err(error) => {
                damaged += 1;
                problem = error.to_string();
                break;
            }
        };
        if packet.track_id != track_id {
            continue;
        }
        match decoder.decode(&packet) {
            Ok(buffer) => {
                let spec = buffer.spec();
                let (rate, channels) = (spec.rate(), spec.channels().count());
                buffer.copy_to_vec_interleaved(&mut interleaved);
                mono.push(&interleaved, channels, rate)?;
                good += 1;
            }
            Err(SymphoniaError::DecodeError(message)) => {
                damaged += 1;
                problem = message.to_owned();
            }
            Err(SymphoniaError::IoError(error)) => {
                damaged += 1;
                problem = error.to_string();
            }
            Err(error) => return Err(MediaError::broken(source, "audio", error)),
        }
    }
    if good == 0 || damaged > good {
        let problem = format!("{damaged} of {} packets are damaged: {problem}", good + damaged);
        return Err(MediaError::broken(source, "audio", problem));
    }
    mono.finish()
}

/// Collects samples of any number of channels as their mean, within the limits.
struct MonoSamples<'a> {
    source: &'a str,
    limits: &'a Limits,
    sample_rate: u32,
    samples: Vec<f32>,
}

impl<'a> MonoSamples<'a> {
    fn new(source: &'a str, limits: &'a Limits) -> Self {
        Self { source, limits, sample_rate: 0, samples: Vec::new() }
    }

    /// Adds `[frames, channels]` samples.
    fn push(&mut self, interleaved: &[f32], channels: usize, rate: u32) -> Result<()> {
        if interleaved.is_empty() {
            return Ok(());
        }
        if self.sample_rate == 0 {
            check_rate(self.source, u64::from(rate))?;
            self.sample_rate = rate;
        } else if rate != self.sample_rate {
            let problem = format!("its rate changes from {} to {rate} Hz", self.sample_rate);
            return Err(MediaError::broken(self.source, "audio", problem));
        }
        if channels <= 1 {
            self.samples.extend_from_slice(interleaved);
        } else {
            let scale = 1.0 / channels as f32;
            let means = interleaved.chunks_exact(channels).map(|frame| frame.iter().sum::<f32>() * scale);
            self.samples.extend(means);
        }
        let count = self.samples.len();
        self.limits.check_seconds(self.source, count as f64 / f64::from(self.sample_rate))?;
        self.limits.check_decoded(self.source, count as u64 * 4)
    }

    fn finish(self) -> Result<Audio> {
        if self.samples.is_empty() {
            return Err(MediaError::broken(self.source, "audio", "it holds no samples"));
        }
        if let Some(at) = self.samples.iter().position(|sample| !sample.is_finite()) {
            let problem = format!("sample {at} is {}, expected a finite number", self.samples[at]);
            return Err(MediaError::broken(self.source, "audio", problem));
        }
        Ok(Audio { sample_rate: self.sample_rate, samples: self.samples })
    }
}

/// Errors when a rate is none that sound is stored at.
fn check_rate(source: &str, rate: u64) -> Result<()> {
    if (1..=1_000_000).contains(&rate) {
        return Ok(());
    }
    let problem = format!("a rate of {rate} Hz, expected 1 to 1000000");
    Err(MediaError::broken(source, "audio", problem))
}

fn decode_with_ffmpeg(bytes: &[u8], source: &str, limits: &Limits) -> Result<Audio> {
    let path = spool(bytes, source, limits)?;
    let outcome = decode_stream(&Ffmpeg::from_environment(), &path, source, limits);
    match outcome {
        Ok(Some(audio)) => Ok(audio),
        Ok(None) => Err(MediaError::NoStream {
            origin: source.to_owned(),
            expected: "sound",
            got: "no audio stream".to_owned(),
        }),
        // The name of the temporary copy means nothing to the reader.
        Err(MediaError::Ffmpeg { message, .. }) if message.contains("Invalid data found") => {
            Err(unknown_format(bytes, source))
        }
        Err(MediaError::Ffmpeg { program, message, .. }) => Err(MediaError::Ffmpeg {
            origin: source.to_owned(),
            program,
            message: message.replace(&*path.to_string_lossy(), source),
        }),
        Err(MediaError::FfmpegMissing { program, variable, error, .. }) => {
            Err(MediaError::FfmpegMissing { origin: source.to_owned(), program, variable, error })
        }
        Err(other) => Err(other),
    }
}

/// The facts of the first audio stream, as `ffprobe` tells them.
#[derive(Deserialize)]
struct AudioFacts {
    #[serde(default)]
    streams: Vec<AudioStream>,
}

#[derive(Deserialize)]
struct AudioStream {
    sample_rate: Option<String>,
    channels: Option<usize>,
}

/// Decodes the first audio stream of a file through FFmpeg at its own rate; `None` without one.
pub(crate) fn decode_stream(programs: &Ffmpeg, path: &Path, source: &str, limits: &Limits) -> Result<Option<Audio>> {
    let arguments = ["-select_streams", "a:0", "-show_entries", "stream=sample_rate,channels", "-of", "json"];
    let printed = programs.probe(path, &arguments, limits)?;
    let facts: AudioFacts = serde_json::from_slice(&printed)
        .map_err(|error| MediaError::broken(source, "audio", format!("ffprobe's answer: {error}")))?;
    let Some(stream) = facts.streams.first() else {
        return Ok(None);
    };
    let rate = stream.sample_rate.as_deref().and_then(|rate| rate.parse::<u32>().ok());
    let (Some(rate), Some(channels @ 1..=256)) = (rate, stream.channels) else {
        return Err(MediaError::broken(source, "audio", "its rate or channels are not known"));
    };
    check_rate(source, rate.into())?;

    // Frames of all channels arrive in pieces of any length, so the cut-off rest waits.
    let frame_bytes = channels * 4;
    let mut mono = MonoSamples::new(source, limits);
    let mut waiting: Vec<u8> = Vec::new();
    let rate_argument = rate.to_string();
    let channels_argument = channels.to_string();
    let options = [
        "-map",
        "0:a:0",
        "-vn",
        "-sn",
        "-dn",
        "-ac",
        &channels_argument,
        "-ar",
        &rate_argument,
        "-c:a",
        "pcm_f32le",
        "-f",
        "f32le",
    ];
    programs.decode(path, source, (&[], &options), limits, |bytes| {
        waiting.extend_from_slice(bytes);
        let whole = waiting.len() / frame_bytes * frame_bytes;
        let interleaved: Vec<f32> = waiting[..whole]
            .chunks_exact(4)
            .map(|bytes| f32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
            .collect();
        waiting.drain(..whole);
        mono.push(&interleaved, channels, rate)
    })?;
    mono.finish().map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn channels_are_averaged() {
        let limits = Limits::default();
        let mut mono = MonoSamples::new("a.wav", &limits);
        mono.push(&[1.0, 0.0, -0.5, 0.5], 2, 8000).unwrap();
        assert_eq!(mono.finish().unwrap().samples, [0.5, 0.0]);
    }

    #[test]
    fn a_sound_that_is_too_long_stops_while_it_is_decoded() {
        let limits = Limits { max_seconds: 1.0, ..Limits::default() };
        let mut mono = MonoSamples::new("a.wav", &limits);
        mono.push(&[0.0; 8000], 1, 8000).unwrap();
        let message = mono.push(&[0.0; 8], 1, 8000).unwrap_err().to_string();
        assert!(message.contains("max_seconds"), "{message}");
    }

    #[test]
    fn samples_that_are_no_numbers_are_refused() {
        let limits = Limits::default();
        let mut mono = MonoSamples::new("a.wav", &limits);
        mono.push(&[0.0, f32::NAN], 1, 8000).unwrap();
        assert!(mono.finish().unwrap_err().to_string().contains("sample 1 is NaN"));
    }
}
