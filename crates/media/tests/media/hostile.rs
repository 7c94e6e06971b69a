//! Broken and hostile files: each ends in an error or an answer, soon and without a panic.

use crate::common::format_file;
use sensorium_media::{Limits, MediaError, Result, audio, image};

const PICTURES: [&str; 21] = [
    "rgb.png",
    "palette.png",
    "grey16.png",
    "alpha.png",
    "baseline.jpg",
    "progressive.jpg",
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
    "drawing.svg",
];

const SOUNDS: [&str; 8] =
    ["pcm8.wav", "pcm16.wav", "float.wav", "stereo.wav", "sound.flac", "sound.mp3", "sound.ogg", "sound.m4a"];

/// Limits so small that a test notices at once when one is not kept.
fn small() -> Limits {
    Limits { max_pixels: 1 << 20, max_seconds: 60.0, max_decode_seconds: 20.0, ..Limits::default() }
}

fn decode_image(bytes: &[u8]) -> Result<image::Image> {
    image::decode(bytes, "broken", &small())
}

fn is_over_pixels(outcome: Result<image::Image>) -> bool {
    let error = outcome.unwrap_err();
    println!("{error}");
    matches!(error, MediaError::OverLimit { field: "max_pixels", .. })
}

/// Sets big-endian or little-endian numbers in a copy of a file.
fn patched(name: &str, changes: &[(usize, &[u8])]) -> Vec<u8> {
    let mut bytes = format_file(name);
    for (at, new) in changes {
        bytes[*at..*at + new.len()].copy_from_slice(new);
    }
    bytes
}

fn position(bytes: &[u8], pattern: &[u8]) -> usize {
    bytes.windows(pattern.len()).position(|window| window == pattern).unwrap()
}

#[test]
fn pictures_cut_short_are_errors() {
    for name in PICTURES {
        let whole = format_file(name);
        decode_image(&whole).unwrap();
        for share in [0, 1, 10, 30, 50, 70, 85] {
            let length = whole.len() * share / 100;
            let outcome = decode_image(&whole[..length]);
            // An animation is whole when its first frame is.
            let may_be_whole = name.starts_with("animated") && share >= 30;
            assert!(outcome.is_err() || may_be_whole, "{name} cut to {length} bytes");
        }
    }
}

#[test]
fn a_png_that_claims_to_be_huge_is_refused_by_its_header() {
    // Width and height stand at bytes 16 and 20; the checksum over them is made right as well.
    let mut bytes = patched("rgb.png", &[(16, &0x7000_0000u32.to_be_bytes()), (20, &0x7000_0000u32.to_be_bytes())]);
    let checksum = crc32(&bytes[12..29]).to_be_bytes();
    bytes[29..33].copy_from_slice(&checksum);
    assert!(is_over_pixels(decode_image(&bytes)));
}

/// The checksum of PNG chunks.
fn crc32(bytes: &[u8]) -> u32 {
    let step = |crc: u32, _| if crc & 1 == 1 { (crc >> 1) ^ 0xEDB8_8320 } else { crc >> 1 };
    !bytes.iter().fold(!0u32, |crc, &byte| (0..8).fold(crc ^ u32::from(byte), step))
}

#[test]
fn other_formats_that_claim_to_be_huge_are_refused_by_their_headers() {
    let jpeg = format_file("baseline.jpg");
    let frame = position(&jpeg, &[0xFF, 0xC0]);
    let jpeg = patched("baseline.jpg", &[(frame + 5, &[0xFF; 4])]);
    assert!(is_over_pixels(decode_image(&jpeg)));
    assert!(is_over_pixels(decode_image(&patched("animated.gif", &[(6, &[0xFF; 4])]))));
    let bmp = patched("rgb.bmp", &[(18, &60_000u32.to_le_bytes()), (22, &60_000u32.to_le_bytes())]);
    assert!(is_over_pixels(decode_image(&bmp)));
    // A lossless WebP: 14 bits each of width and height minus one after the signature 0x2F.
    let webp = format_file("rgb.webp");
    let size = position(&webp, b"VP8L") + 9;
    assert!(is_over_pixels(decode_image(&patched("rgb.webp", &[(size, &[0xFE, 0xBF, 0xFF, 0x0F])]))));
    let svg = br#"<svg xmlns="http://www.w3.org/2000/svg" width="99999" height="99999"/>"#;
    assert!(is_over_pixels(decode_image(svg)));
}

#[test]
fn a_tiff_that_claims_to_be_huge_is_refused() {
    let bytes = format_file("rgb.tif");
    // Entries of 12 bytes: tag, type, count, value; 256, 257 and 278 are width, height and the rows
    // of a strip.
    let directory = u32::from_le_bytes(bytes[4..8].try_into().unwrap()) as usize;
    let entries = usize::from(u16::from_le_bytes(bytes[directory..directory + 2].try_into().unwrap()));
    let mut huge = bytes.clone();
    let mut changed = 0;
    for entry in (0..entries).map(|i| directory + 2 + 12 * i) {
        let tag = u16::from_le_bytes(bytes[entry..entry + 2].try_into().unwrap());
        if [256, 257, 278].contains(&tag) {
            huge[entry + 2..entry + 4].copy_from_slice(&4u16.to_le_bytes());
            huge[entry + 8..entry + 12].copy_from_slice(&1_000_000u32.to_le_bytes());
            changed += 1;
        }
    }
    assert_eq!(changed, 3);
    assert!(is_over_pixels(decode_image(&huge)));
}

#[test]
fn a_png_with_damaged_data_is_an_error() {
    let bytes = format_file("rgb.png");
    let data = position(&bytes, b"IDAT");
    let mut broken = bytes.clone();
    broken[data + 6..data + 40].fill(0);
    assert!(decode_image(&broken).is_err());
}

#[test]
fn files_over_the_byte_limit_are_refused() {
    let limits = Limits { max_bytes: 100, ..Limits::default() };
    let over = |error| matches!(error, MediaError::OverLimit { field: "max_bytes", .. });
    assert!(over(image::decode(&format_file("rgb.png"), "a", &limits).unwrap_err()));
    assert!(over(audio::decode(&format_file("pcm16.wav"), "a", &limits).unwrap_err()));
}

#[test]
fn a_wav_that_claims_four_gigabytes_gives_what_it_has() {
    let bytes = format_file("pcm16.wav");
    let data = position(&bytes, b"data");
    let bytes = patched("pcm16.wav", &[(4, &[0xFF; 4]), (data + 4, &[0xFF; 4])]);
    let audio = audio::decode(&bytes, "claims", &small()).unwrap();
    assert_eq!(audio.samples.len(), 2000);
}

#[test]
fn wavs_with_senseless_headers_are_errors() {
    let zero_rate = patched("pcm16.wav", &[(24, &[0; 4])]);
    let no_channels = patched("pcm16.wav", &[(22, &[0; 2])]);
    let not_a_number = {
        let bytes = format_file("float.wav");
        let data = position(&bytes, b"data") + 8;
        patched("float.wav", &[(data, &f32::NAN.to_le_bytes())])
    };
    for bytes in [zero_rate, no_channels, not_a_number] {
        let outcome = audio::decode(&bytes, "senseless", &small());
        assert!(outcome.is_err(), "{:?}", outcome.map(|audio| audio.samples.len()));
    }
}

#[test]
fn a_sound_that_unpacks_to_more_than_the_limit_stops() {
    let limits = Limits { max_seconds: 0.1, ..Limits::default() };
    for name in SOUNDS {
        let error = audio::decode(&format_file(name), name, &limits).unwrap_err();
        assert!(matches!(error, MediaError::OverLimit { field: "max_seconds", .. }), "{name}: {error}");
    }
}

#[test]
fn sounds_cut_short_give_a_part_or_an_error() {
    for name in SOUNDS {
        let whole = format_file(name);
        let full = audio::decode(&whole, name, &small()).unwrap().samples.len();
        for share in [0, 1, 3, 10, 30, 50, 70, 90] {
            let cut = &whole[..whole.len() * share / 100];
            if let Ok(audio) = audio::decode(cut, name, &small()) {
                assert!(!audio.samples.is_empty() && audio.samples.len() <= full, "{name} {share} %");
            }
        }
        assert!(audio::decode(&[], name, &small()).is_err());
    }
}

#[test]
fn text_and_noise_are_no_media() {
    let noise: Vec<u8> = (0..5000u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    for bytes in [&b"hello, world"[..], b"<html><body>404</body></html>", &noise] {
        assert!(matches!(decode_image(bytes), Err(MediaError::UnknownFormat { kind: "image", .. })));
        let error = audio::decode(bytes, "noise", &small()).unwrap_err();
        println!("{error}");
    }
}

#[test]
fn an_svg_with_an_embedded_bomb_is_drawn_without_it() {
    let mut bomb = patched("rgb.png", &[(16, &50_000u32.to_be_bytes()), (20, &50_000u32.to_be_bytes())]);
    let checksum = crc32(&bomb[12..29]).to_be_bytes();
    bomb[29..33].copy_from_slice(&checksum);
    let escaped: String = bomb.iter().map(|byte| format!("%{byte:02x}")).collect();
    let svg = format!(
        r#"<svg xmlns="http://www.w3.org/2000/svg" width="300" height="300">
           <image href="data:image/png,{escaped}" width="300" height="300"/></svg>"#
    );
    let image = decode_image(svg.as_bytes()).unwrap();
    assert!(image.data.iter().all(|&value| value == 255));
}
