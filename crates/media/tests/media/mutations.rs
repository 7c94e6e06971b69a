//! Random damage to small valid files of every format: any outcome but a panic, a hang or a size
//! over the limits.

use crate::common::{ffmpeg_available, format_file};
use proptest::prelude::*;
use sensorium_media::{Limits, audio, image};

const PICTURES: [&str; 28] = [
    "rgb.png",
    "grey.png",
    "grey16.png",
    "one_bit.png",
    "palette.png",
    "alpha.png",
    "grey_alpha.png",
    "baseline.jpg",
    "progressive.jpg",
    "subsampled.jpg",
    "grey.jpg",
    "cmyk.jpg",
    "jpeg_420_progressive.jpg",
    "jpeg_restarts.jpg",
    "jpeg_rgb.jpg",
    "jpeg_cmyk.jpg",
    "orientation_6.jpg",
    "rgb.webp",
    "lossy.webp",
    "alpha.webp",
    "animated.webp",
    "animated.gif",
    "rgb.bmp",
    "rgb.tif",
    "cmyk.tif",
    "grey16.tif",
    "alpha.tif",
    "drawing.svg",
];

const SOUNDS: [&str; 9] = [
    "pcm8.wav",
    "pcm16.wav",
    "pcm24.wav",
    "float.wav",
    "stereo.wav",
    "sound.flac",
    "sound.mp3",
    "sound.ogg",
    "sound.m4a",
];

/// One wound.
#[derive(Clone, Debug)]
enum Damage {
    /// The byte at a share of the length becomes another.
    Set(f64, u8),
    /// One bit of the byte at a share of the length is turned over.
    Flip(f64, u8),
    /// A word becomes an extreme number.
    Extreme(f64, u8),
    /// The file ends here.
    Cut(f64),
    /// A span is taken out.
    Remove(f64, usize),
    /// A span comes twice.
    Repeat(f64, usize),
}

/// Half of the wounds fall on the first tenth of the file, where the headers are.
fn place() -> impl Strategy<Value = f64> {
    prop_oneof![0.0..0.1f64, 0.0..1.0f64]
}

fn damage() -> impl Strategy<Value = Damage> {
    prop_oneof![
        4 => (place(), any::<u8>()).prop_map(|(at, byte)| Damage::Set(at, byte)),
        4 => (place(), 0..8u8).prop_map(|(at, bit)| Damage::Flip(at, bit)),
        2 => (place(), any::<u8>()).prop_map(|(at, kind)| Damage::Extreme(at, kind)),
        1 => place().prop_map(Damage::Cut),
        1 => (place(), 1..200usize).prop_map(|(at, length)| Damage::Remove(at, length)),
        1 => (place(), 1..200usize).prop_map(|(at, length)| Damage::Repeat(at, length)),
    ]
}

fn wounded(mut bytes: Vec<u8>, wounds: &[Damage]) -> Vec<u8> {
    for wound in wounds {
        let length = bytes.len();
        if length == 0 {
            break;
        }
        let index = |at: f64| ((length as f64 * at) as usize).min(length - 1);
        match *wound {
            Damage::Set(at, byte) => bytes[index(at)] = byte,
            Damage::Flip(at, bit) => bytes[index(at)] ^= 1 << bit,
            Damage::Extreme(at, kind) => {
                let value = [0u32, u32::MAX, 0x7FFF_FFFF, 0x8000_0000][usize::from(kind % 4)];
                let start = index(at);
                let end = (start + 4).min(length);
                bytes[start..end].copy_from_slice(&value.to_be_bytes()[..end - start]);
            }
            Damage::Cut(at) => bytes.truncate(index(at)),
            Damage::Remove(at, span) => {
                bytes.drain(index(at)..(index(at) + span).min(length));
            }
            Damage::Repeat(at, span) => {
                let part = bytes[index(at)..(index(at) + span).min(length)].to_vec();
                bytes.splice(index(at)..index(at), part);
            }
        }
    }
    bytes
}

/// The number in PROPTEST_CASES, for long runs by hand, or a quick one.
fn cases_or(quick: u32) -> u32 {
    let asked = std::env::var("PROPTEST_CASES").ok();
    asked.and_then(|text| text.parse().ok()).unwrap_or(quick)
}

fn limits() -> Limits {
    Limits { max_pixels: 1 << 18, max_seconds: 10.0, max_decode_seconds: 20.0, ..Limits::default() }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases_or(800), failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn damaged_pictures_never_panic(
        name in prop::sample::select(&PICTURES[..]),
        wounds in prop::collection::vec(damage(), 1..6),
    ) {
        let bytes = wounded(format_file(name), &wounds);
        if let Ok(image) = image::decode(&bytes, name, &limits()) {
            prop_assert!(image.width * image.height <= 1 << 18);
            prop_assert_eq!(image.data.len(), image.width * image.height * 3);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases_or(300), failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn damaged_sounds_never_panic(
        name in prop::sample::select(&SOUNDS[..]),
        wounds in prop::collection::vec(damage(), 1..6),
    ) {
        let bytes = wounded(format_file(name), &wounds);
        // Those that only FFmpeg could read are its affair, and slow.
        if let Ok(audio) = audio::decode(&bytes, name, &limits()) {
            prop_assert!(audio.seconds() <= 10.0 && !audio.samples.is_empty());
            prop_assert!(audio.samples.iter().all(|sample| sample.is_finite()));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases_or(12), failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn damaged_videos_end_in_time(
        name in prop::sample::select(&["clip.mp4", "silent.webm", "animated.gif"][..]),
        wounds in prop::collection::vec(damage(), 1..6),
    ) {
        use sensorium_media::video::{FrameSampling, FrameSize, frames};
        if !ffmpeg_available() {
            return Ok(());
        }
        let path = sensorium_media::spool(&wounded(format_file(name), &wounds), name, &limits()).unwrap();
        if let Ok(taken) = frames(&path, &FrameSampling::Count(3), FrameSize::ShorterSide(8), &limits()) {
            prop_assert_eq!(taken.len(), 3);
        }
    }
}
