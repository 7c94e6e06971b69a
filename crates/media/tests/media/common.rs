//! Golden files, which tools/media_golden.py makes from the reference tools.

// Each test program uses its own part of this.
#![allow(dead_code)]

use std::path::{Path, PathBuf};
use std::process::Command;

use sensorium_media::image::Image;
use serde_json::Value;

/// The folder of the golden files.
pub fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden")
}

/// A small valid file of some format.
pub fn format_path(name: &str) -> PathBuf {
    golden().join("formats").join(name)
}

/// The bytes of a small valid file.
pub fn format_file(name: &str) -> Vec<u8> {
    std::fs::read(format_path(name)).unwrap()
}

/// One array with the facts about it.
pub struct Case {
    facts: Value,
    /// The array's bytes.
    pub bytes: Vec<u8>,
}

impl Case {
    /// A fact that is text.
    pub fn text(&self, name: &str) -> &str {
        self.facts[name].as_str().unwrap()
    }

    /// A fact that is a number.
    pub fn number(&self, name: &str) -> f64 {
        self.facts[name].as_f64().unwrap()
    }

    /// The array as a picture of the stated size.
    pub fn image(&self) -> Image {
        let (width, height) = (self.number("width") as usize, self.number("height") as usize);
        Image::new(width, height, self.bytes.clone()).unwrap()
    }

    /// The array as 32-bit numbers.
    pub fn floats(&self) -> Vec<f32> {
        self.bytes.chunks_exact(4).map(|bytes| f32::from_le_bytes(bytes.try_into().unwrap())).collect()
    }
}

/// All cases of one golden file.
pub fn cases(name: &str) -> Vec<Case> {
    let list = std::fs::read(golden().join(format!("{name}.json"))).unwrap();
    let data = std::fs::read(golden().join(format!("{name}.bin"))).unwrap();
    let list: Vec<Value> = serde_json::from_slice(&list).unwrap();
    assert!(!list.is_empty());
    let case = |facts: Value| {
        let number = |name: &str| facts[name].as_u64().unwrap() as usize;
        let bytes = data[number("offset")..number("offset") + number("bytes")].to_vec();
        Case { facts, bytes }
    };
    list.into_iter().map(case).collect()
}

/// The largest difference of two pictures; panics when the sizes differ.
pub fn image_difference(got: &Image, want: &Image, label: &str) -> u8 {
    assert_eq!((got.width, got.height), (want.width, want.height), "{label}");
    got.data.iter().zip(&want.data).map(|(a, b)| a.abs_diff(*b)).max().unwrap()
}

/// The largest difference of two arrays; panics when the lengths differ.
pub fn difference(got: &[f32], want: &[f32], label: &str) -> f32 {
    assert_eq!(got.len(), want.len(), "{label}");
    got.iter().zip(want).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

/// Whether FFmpeg can be started; tests that need it are left out, aloud, where it cannot.
pub fn ffmpeg_available() -> bool {
    let starts = |program: &str| Command::new(program).arg("-version").output().is_ok();
    let both = starts("ffmpeg") && starts("ffprobe");
    if !both {
        println!("left out: FFmpeg is not installed");
    }
    both
}
