//! The facts of a video file, as `ffprobe` tells them.

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::Limits;
use crate::error::{MediaError, Result};
use crate::ffmpeg::Ffmpeg;

/// What a video file holds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct VideoInfo {
    /// Length in seconds.
    pub duration_s: f64,
    /// Pixels in a row as shown: after rotation, with square pixels.
    pub width: usize,
    /// Rows as shown.
    pub height: usize,
    /// Frames per second, the mean over the file.
    pub fps: f64,
    /// Number of frames, estimated from length and rate where the file does not say.
    pub frames: u64,
    /// Whether there is a sound track.
    pub has_audio: bool,
    /// Name of the video codec.
    pub codec: String,
}

#[derive(Deserialize)]
struct Facts {
    #[serde(default)]
    streams: Vec<Stream>,
    #[serde(default)]
    format: Format,
}

#[derive(Default, Deserialize)]
struct Format {
    duration: Option<String>,
}

#[derive(Deserialize)]
struct Stream {
    codec_type: Option<String>,
    codec_name: Option<String>,
    width: Option<u64>,
    height: Option<u64>,
    sample_aspect_ratio: Option<String>,
    avg_frame_rate: Option<String>,
    r_frame_rate: Option<String>,
    duration: Option<String>,
    nb_frames: Option<String>,
    #[serde(default)]
    disposition: Disposition,
    #[serde(default)]
    side_data_list: Vec<SideData>,
}

#[derive(Default, Deserialize)]
struct Disposition {
    #[serde(default)]
    attached_pic: u8,
}

#[derive(Deserialize)]
struct SideData {
    rotation: Option<f64>,
}

/// Asks for the facts of a video file; errors when it has no video or exceeds the limits.
pub fn probe(path: &Path, limits: &Limits) -> Result<VideoInfo> {
    probe_with(&Ffmpeg::from_environment(), path, limits)
}

pub(super) fn probe_with(programs: &Ffmpeg, path: &Path, limits: &Limits) -> Result<VideoInfo> {
    let origin = path.display().to_string();
    // Said plainly here; FFmpeg's own words would hide it.
    std::fs::metadata(path).map_err(|error| MediaError::Read { origin: origin.clone(), error })?;
    let printed = programs.probe(path, &["-show_format", "-show_streams", "-of", "json"], limits)?;
    let facts: Facts = serde_json::from_slice(&printed)
        .map_err(|error| MediaError::broken(&origin, "video", format!("ffprobe's answer: {error}")))?;
    let kind = |stream: &Stream, kind| stream.codec_type.as_deref() == Some(kind);
    let has_audio = facts.streams.iter().any(|stream| kind(stream, "audio"));
    // A cover picture of a song is marked as attached and is no video.
    let is_video = |stream: &&Stream| kind(stream, "video") && stream.disposition.attached_pic == 0;
    let Some(stream) = facts.streams.iter().find(is_video) else {
        let got = if has_audio { "sound only" } else { "no such stream" };
        return Err(MediaError::NoStream { origin, expected: "video", got: got.to_owned() });
    };

    let (Some(width), Some(height)) = (stream.width, stream.height) else {
        return Err(MediaError::broken(&origin, "video", "its size is not known"));
    };
    limits.check_pixels(&origin, "video", width, height)?;
    let (width, height) = shown_size(stream, width, height);
    limits.check_pixels(&origin, "video", width, height)?;

    let fps = frame_rate(stream);
    let frames = stream.nb_frames.as_deref().and_then(|count| count.parse::<u64>().ok());
    let stated = [&stream.duration, &facts.format.duration]
        .into_iter()
        .flatten()
        .filter_map(|text| text.parse::<f64>().ok())
        .find(|seconds| seconds.is_finite() && *seconds > 0.0);
    let duration_s = match stated {
        Some(seconds) => seconds,
        None => last_packet_end(programs, path, &origin, limits)?,
    };
    limits.check_seconds(&origin, duration_s)?;
    Ok(VideoInfo {
        duration_s,
        width: width as usize,
        height: height as usize,
        fps,
        frames: frames.unwrap_or((duration_s * fps).round() as u64),
        has_audio,
        codec: stream.codec_name.clone().unwrap_or_else(|| "unknown".to_owned()),
    })
}

/// The size on the screen: pixels made square, then turned.
fn shown_size(stream: &Stream, width: u64, height: u64) -> (u64, u64) {
    let aspect = stream.sample_aspect_ratio.as_deref().and_then(|text| ratio(text, ':'));
    let width = match aspect {
        Some(aspect) if (0.01..=100.0).contains(&aspect) => ((width as f64 * aspect).round() as u64).max(1),
        _ => width,
    };
    let rotation = stream.side_data_list.iter().find_map(|data| data.rotation).unwrap_or(0.0);
    let quarter_turns = (rotation / 90.0).round() as i64;
    if quarter_turns % 2 == 0 { (width, height) } else { (height, width) }
}

/// The mean rate of frames; the nominal one, or 1, where the file does not say.
fn frame_rate(stream: &Stream) -> f64 {
    let rates = [&stream.avg_frame_rate, &stream.r_frame_rate].into_iter().flatten();
    rates.filter_map(|text| ratio(text, '/')).find(|rate| *rate > 0.0).unwrap_or(1.0)
}

/// `30000/1001` or `4:3` as a number; `None` for `0/0` and the like.
fn ratio(text: &str, separator: char) -> Option<f64> {
    let (above, below) = text.split_once(separator)?;
    let value = above.parse::<f64>().ok()? / below.parse::<f64>().ok()?;
    value.is_finite().then_some(value)
}

/// Where the last packet of the video ends, for files that do not state their length, such as
/// recordings of a browser.
fn last_packet_end(programs: &Ffmpeg, path: &Path, origin: &str, limits: &Limits) -> Result<f64> {
    let arguments = ["-select_streams", "v:0", "-show_entries", "packet=pts_time,duration_time", "-of", "csv=p=0"];
    let printed = programs.probe(path, &arguments, limits)?;
    let end_of = |line: &str| {
        let mut numbers = line.split(',').map(|field| field.trim().parse::<f64>().unwrap_or(0.0));
        numbers.next().unwrap_or(0.0) + numbers.next().unwrap_or(0.0)
    };
    let end = String::from_utf8_lossy(&printed).lines().map(end_of).fold(0.0, f64::max);
    if end > 0.0 {
        return Ok(end);
    }
    Err(MediaError::broken(origin, "video", "its length is not known"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stream(json: &str) -> Stream {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn sizes_are_those_on_the_screen() {
        let anamorphic = stream(r#"{"sample_aspect_ratio": "64:45"}"#);
        assert_eq!(shown_size(&anamorphic, 720, 576), (1024, 576));
        let turned = stream(r#"{"sample_aspect_ratio": "0:1", "side_data_list": [{}, {"rotation": -90}]}"#);
        assert_eq!(shown_size(&turned, 1920, 1080), (1080, 1920));
    }

    #[test]
    fn frame_rates_are_ratios_and_unknown_ones_are_passed_over() {
        let ntsc = stream(r#"{"avg_frame_rate": "30000/1001", "r_frame_rate": "60/1"}"#);
        assert!((frame_rate(&ntsc) - 29.97).abs() < 0.01);
        let unknown = stream(r#"{"avg_frame_rate": "0/0", "r_frame_rate": "25/1"}"#);
        assert_eq!(frame_rate(&unknown), 25.0);
    }

    #[test]
    fn a_file_that_is_not_there_is_said_to_be_missing() {
        let error = probe(Path::new("no/such.mp4"), &Limits::default()).unwrap_err();
        assert!(matches!(error, MediaError::Read { .. }), "{error}");
    }

    #[test]
    fn without_ffmpeg_the_error_says_how_to_get_it() {
        let programs = Ffmpeg { ffmpeg: "no-such".into(), ffprobe: "no-such".into() };
        let here = Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml");
        let message = probe_with(&programs, &here, &Limits::default()).unwrap_err().to_string();
        assert!(message.contains("install FFmpeg"), "{message}");
    }
}
