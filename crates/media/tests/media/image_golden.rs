//! Pictures against Pillow: decoding, resizing, colours, turns.

use crate::common::{cases, format_file, image_difference};
use sensorium_media::Limits;
use sensorium_media::image::{Filter, affine, color, decode, resize};

#[test]
fn every_format_decodes_to_what_pillow_reads() {
    for case in cases("images") {
        let name = case.text("file");
        let image = decode(&format_file(name), name, &Limits::default()).unwrap();
        let largest = image_difference(&image, &case.image(), name);
        println!("{name}: largest difference {largest}");
        assert!(f64::from(largest) <= case.number("tolerance"), "{name}: {largest}");
    }
}

#[test]
fn jpegs_of_every_kind_have_the_pixels_of_libjpeg_turbo() {
    let cases = cases("jpegs");
    assert!(cases.len() >= 15);
    for case in cases {
        let name = case.text("file");
        let image = decode(&format_file(name), name, &Limits::default()).unwrap();
        assert_eq!(image_difference(&image, &case.image(), name), 0, "{name}");
    }
}

#[test]
fn a_drawing_is_drawn_with_its_references() {
    let image = decode(&format_file("drawing.svg"), "drawing.svg", &Limits::default()).unwrap();
    assert_eq!((image.width, image.height), (256, 256));
    assert_eq!(image.pixel(64, 64), [0, 0, 255]);
    assert_eq!(image.pixel(192, 192), [0, 0, 255]);
    assert_eq!(image.pixel(64, 192), [255, 255, 255]);
    let mixed = image.pixel(192, 64);
    assert!(mixed[0] == 255 && mixed[1].abs_diff(127) <= 1, "{mixed:?}");
}

#[test]
fn resizing_is_within_one_step_of_pillow() {
    let cases = cases("resize");
    let source = cases[0].image();
    let mut worst = 0;
    for case in &cases[1..] {
        let filter = match case.text("filter") {
            "nearest" => Filter::Nearest,
            "box" => Filter::Box,
            "bilinear" => Filter::Bilinear,
            "bicubic" => Filter::Bicubic,
            "lanczos" => Filter::Lanczos,
            other => panic!("{other}"),
        };
        let want = case.image();
        let got = resize(&source, want.width, want.height, filter);
        let label = format!("{filter:?} {} x {}", want.width, want.height);
        let largest = image_difference(&got, &want, &label);
        println!("{label}: largest difference {largest}");
        let allowed = if filter == Filter::Nearest { 0 } else { 1 };
        worst = worst.max(largest.saturating_sub(allowed));
    }
    assert_eq!(worst, 0);
}

#[test]
fn colours_and_turns_are_those_of_pillow() {
    let cases = cases("color");
    let find = |name: &str| cases.iter().find(|case| case.text("operation") == name).unwrap().image();
    let (source, dim) = (find("source"), find("dim"));
    const FILL: [u8; 3] = [9, 8, 7];
    for case in &cases {
        let (operation, value) = (case.text("operation"), case.number("value"));
        let got = match operation {
            "source" | "dim" => continue,
            "brightness" => color::brightness(&source, value as f32),
            "contrast" => color::contrast(&source, value as f32),
            "saturation" => color::saturation(&source, value as f32),
            "sharpness" => color::sharpness(&source, value as f32),
            "hue" => color::hue(&source, value as f32),
            "posterize" => color::posterize(&source, value as u32),
            "solarize" => color::solarize(&source, value),
            "auto_contrast" => color::auto_contrast(&dim),
            "equalize" => color::equalize(&dim),
            "rotate" => affine::rotate(&source, value, FILL),
            "shear_x" => affine::affine(&source, [1.0, value, 0.0, 0.0, 1.0, 0.0], FILL),
            "shear_y" => affine::affine(&source, [1.0, 0.0, 0.0, value, 1.0, 0.0], FILL),
            "translate_x" => affine::affine(&source, [1.0, 0.0, -value, 0.0, 1.0, 0.0], FILL),
            other => panic!("{other}"),
        };
        let label = format!("{operation} {value}");
        let largest = image_difference(&got, &case.image(), &label);
        println!("{label}: largest difference {largest}");
        assert!(largest <= 1, "{label}: {largest}");
    }
}
