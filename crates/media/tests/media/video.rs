//! Video through FFmpeg: facts, exact times, sizes, limits. Frame `i` of the test clips is the grey
//! `10 i`, so a frame tells its own time.

use crate::common::{ffmpeg_available, format_path};
use sensorium_media::image::Image;
use sensorium_media::video::{FrameSampling, FrameSize, frames, probe, sound_track};
use sensorium_media::{Limits, MediaError, spool};

/// Which frame of the clip a picture is, by its grey.
fn number_of(image: &Image) -> f64 {
    let sum: u64 = image.data.iter().map(|&value| u64::from(value)).sum();
    sum as f64 / image.data.len() as f64 / 10.0
}

fn numbers(name: &str, sampling: FrameSampling) -> Vec<(f64, f64)> {
    let size = FrameSize::ShorterSide(12);
    let taken = frames(&format_path(name), &sampling, size, &Limits::default()).unwrap();
    taken.iter().map(|(time, image)| (*time, number_of(image))).collect()
}

#[test]
fn the_facts_are_told() {
    if !ffmpeg_available() {
        return;
    }
    let info = probe(&format_path("clip.mp4"), &Limits::default()).unwrap();
    assert_eq!((info.width, info.height, info.frames), (64, 48, 25));
    assert_eq!((info.fps, info.has_audio, info.codec.as_str()), (25.0, true, "h264"));
    assert!((info.duration_s - 1.0).abs() < 0.03, "{}", info.duration_s);
    let silent = probe(&format_path("silent.webm"), &Limits::default()).unwrap();
    assert!(!silent.has_audio);
    let turned = probe(&format_path("turned.mp4"), &Limits::default()).unwrap();
    assert_eq!((turned.width, turned.height), (48, 64));
}

#[test]
fn frames_are_the_ones_on_the_screen_at_their_times() {
    if !ffmpeg_available() {
        return;
    }
    for name in ["clip.mp4", "silent.webm"] {
        for sampling in [
            FrameSampling::Count(1),
            FrameSampling::Count(5),
            FrameSampling::Count(25),
            FrameSampling::Count(40),
            FrameSampling::Rate(1.0),
            FrameSampling::Rate(5.0),
            FrameSampling::Rate(7.0),
            FrameSampling::Rate(25.0),
        ] {
            let taken = numbers(name, sampling);
            let expected_count = match sampling {
                FrameSampling::Count(count) => count,
                FrameSampling::Rate(rate) => rate as usize,
            };
            assert_eq!(taken.len(), expected_count, "{name} {sampling:?}");
            for (time, number) in taken {
                let expected = ((time * 25.0 + 1e-6).floor()).min(24.0);
                assert!(
                    (number - expected).abs() < 0.4,
                    "{name} {sampling:?}: at {time} s frame {number}, expected {expected}"
                );
            }
        }
    }
}

#[test]
fn sizes_follow_the_request_and_the_rotation() {
    if !ffmpeg_available() {
        return;
    }
    let size_of = |name: &str, size| {
        let taken = frames(&format_path(name), &FrameSampling::Count(2), size, &Limits::default());
        let (_, image) = &taken.unwrap()[1];
        assert_eq!(image.data.len(), image.width * image.height * 3);
        (image.width, image.height)
    };
    assert_eq!(size_of("clip.mp4", FrameSize::Original), (64, 48));
    assert_eq!(size_of("clip.mp4", FrameSize::ShorterSide(24)), (32, 24));
    assert_eq!(size_of("clip.mp4", FrameSize::Exact { width: 10, height: 30 }), (10, 30));
    assert_eq!(size_of("turned.mp4", FrameSize::ShorterSide(24)), (24, 32));
}

#[test]
fn an_animated_gif_is_video() {
    if !ffmpeg_available() {
        return;
    }
    let taken = frames(&format_path("animated.gif"), &FrameSampling::Count(3), FrameSize::Original, &Limits::default())
        .unwrap();
    assert_eq!(taken.len(), 3);
    assert!(taken[0].1 != taken[1].1 && taken[1].1 != taken[2].1);
}

#[test]
fn the_sound_track_is_audio_and_may_be_missing() {
    if !ffmpeg_available() {
        return;
    }
    let limits = Limits::default();
    let audio = sound_track(&format_path("clip.mp4"), 8000, &limits).unwrap().unwrap();
    assert_eq!(audio.sample_rate, 8000);
    assert!((audio.seconds() - 1.0).abs() < 0.1, "{}", audio.seconds());
    let crossings = audio.samples.windows(2).filter(|pair| pair[0] < 0.0 && pair[1] >= 0.0).count();
    assert!((430..=480).contains(&crossings), "{crossings}");
    assert_eq!(sound_track(&format_path("silent.webm"), 8000, &limits).unwrap(), None);
}

#[test]
fn limits_hold_before_anything_is_decoded() {
    if !ffmpeg_available() {
        return;
    }
    let field_of = |limits: Limits, sampling| {
        let path = format_path("clip.mp4");
        match frames(&path, &sampling, FrameSize::Original, &limits).unwrap_err() {
            MediaError::OverLimit { field, .. } => field,
            other => panic!("{other}"),
        }
    };
    let all = FrameSampling::Rate(25.0);
    assert_eq!(field_of(Limits { max_pixels: 64 * 48 - 1, ..Limits::default() }, all), "max_pixels");
    assert_eq!(field_of(Limits { max_seconds: 0.5, ..Limits::default() }, all), "max_seconds");
    assert_eq!(field_of(Limits { max_frames: 24, ..Limits::default() }, all), "max_frames");
    let bytes = 25 * 64 * 48 * 3 - 1;
    let few = Limits { max_decoded_bytes: bytes, ..Limits::default() };
    assert_eq!(field_of(few, all), "max_decoded_bytes");
}

#[test]
fn names_that_look_like_options_or_addresses_are_names() {
    if !ffmpeg_available() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    for name in ["-i.mp4", "http:colon.mp4", "画面 %02d 'x'.mp4"] {
        let path = folder.path().join(name);
        std::fs::copy(format_path("clip.mp4"), &path).unwrap();
        assert_eq!(probe(&path, &Limits::default()).unwrap().frames, 25, "{name}");
    }
}

#[test]
fn a_playlist_that_names_another_file_is_not_followed() {
    if !ffmpeg_available() {
        return;
    }
    let target = format_path("clip.mp4");
    let playlist = format!("#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1.0,\n{}\n#EXT-X-ENDLIST\n", target.display());
    let concat = format!("ffconcat version 1.0\nfile '{}'\n", target.display());
    for text in [playlist, concat] {
        let path = spool(text.as_bytes(), "playlist", &Limits::default()).unwrap();
        let error = probe(&path, &Limits::default()).unwrap_err();
        assert!(matches!(error, MediaError::Ffmpeg { .. }), "{error}");
    }
}

#[test]
fn sound_alone_and_broken_files_are_told_apart() {
    if !ffmpeg_available() {
        return;
    }
    let limits = Limits::default();
    let error = probe(&format_path("pcm16.wav"), &limits).unwrap_err();
    assert!(error.to_string().contains("expected video, got a file with sound only"), "{error}");
    let webm = std::fs::read(format_path("silent.webm")).unwrap();
    let path = spool(&webm[..webm.len() / 3], "cut.webm", &limits).unwrap();
    let taken = frames(&path, &FrameSampling::Count(8), FrameSize::Original, &limits);
    assert!(taken.unwrap_err().to_string().contains("of 8 frames could be decoded"));
    let clip = std::fs::read(format_path("clip.mp4")).unwrap();
    for length in [0, 10, 100, 2000, clip.len() - 500] {
        let path = spool(&clip[..length], "cut.mp4", &limits).unwrap();
        let taken = frames(&path, &FrameSampling::Count(3), FrameSize::Original, &limits);
        assert!(taken.is_err(), "{length} bytes");
    }
}
