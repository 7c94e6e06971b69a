//! Sound against ffmpeg and soundfile (decoding), torchaudio and transformers (resampling, log-mel).

use crate::common::{Case, cases, difference, ffmpeg_available, format_file};
use sensorium_media::Limits;
use sensorium_media::audio::log_mel::Window;
use sensorium_media::audio::{Audio, KaldiFbank, WhisperMel, decode, resample};

#[test]
fn every_format_decodes_to_the_reference() {
    for case in cases("sounds") {
        let name = case.text("file");
        let needs_ffmpeg = [".opus", ".aiff"].iter().any(|ending| name.ends_with(ending));
        if needs_ffmpeg && !ffmpeg_available() {
            continue;
        }
        let audio = decode(&format_file(name), name, &Limits::default()).unwrap();
        assert_eq!(f64::from(audio.sample_rate), case.number("rate"), "{name}");
        let want = case.floats();
        println!("{name}: {} samples, expected {}", audio.samples.len(), want.len());
        assert!(audio.samples.len() >= want.len(), "{name}");
        let largest = difference(&audio.samples[..want.len()], &want, name);
        println!("{name}: largest difference {largest:e}");
        assert!(f64::from(largest) <= case.number("tolerance"), "{name}: {largest}");
    }
}

#[test]
fn resampling_is_that_of_torchaudio() {
    let cases = cases("resample");
    let source = cases[0].floats();
    for case in &cases[1..] {
        let (from, to) = (case.number("rate") as u32, case.number("to") as u32);
        let audio = Audio { sample_rate: from, samples: source.clone() };
        let output = resample(&audio, to).unwrap();
        let label = format!("{from} to {to}");
        let largest = difference(&output.samples, &case.floats(), &label);
        println!("{label}: largest difference {largest:e}");
        assert!(largest <= 1e-5, "{label}: {largest}");
    }
}

fn source_of(cases: &[Case]) -> Audio {
    Audio { sample_rate: 16_000, samples: cases[0].floats() }
}

#[test]
fn whisper_frames_are_those_of_transformers() {
    let cases = cases("log_mel");
    let audio = source_of(&cases);
    let mut checked = 0;
    for case in cases.iter().filter(|case| case.text("kind").starts_with("whisper")) {
        let padded = case.text("kind") == "whisper_padded";
        let pad_to_seconds = padded.then_some(30.0);
        let config = WhisperMel { mels: case.number("mels") as usize, pad_to_seconds };
        let mel = config.compute(&audio).unwrap();
        let want = case.floats();
        assert_eq!(mel.frames as f64, case.number("frames"));
        let label = format!("{} bands, padded: {padded}", mel.mels);
        let largest = difference(&mel.data[..want.len()], &want, &label);
        println!("{label}: largest difference {largest:e}");
        assert!(largest <= 1e-4, "{label}: {largest}");
        checked += 1;
    }
    assert_eq!(checked, 4);
}

#[test]
fn kaldi_frames_are_those_of_torchaudio() {
    let cases = cases("log_mel");
    let audio = source_of(&cases);
    let mut checked = 0;
    for case in cases.iter().filter(|case| case.text("kind") == "kaldi") {
        let window = match case.text("window") {
            "povey" => Window::Povey,
            "hann" => Window::Hann,
            "hamming" => Window::Hamming,
            other => panic!("{other}"),
        };
        let config = KaldiFbank {
            mels: case.number("mels") as usize,
            window,
            scale: case.number("scale"),
            ..KaldiFbank::default()
        };
        let mel = config.compute(&audio).unwrap();
        assert_eq!(mel.frames as f64, case.number("frames"));
        let label = format!("{window:?}, {} bands", mel.mels);
        let largest = difference(&mel.data, &case.floats(), &label);
        println!("{label}: largest difference {largest:e}");
        assert!(largest <= 1e-4, "{label}: {largest}");
        checked += 1;
    }
    assert_eq!(checked, 3);
}
