//! Measures the hot paths of the media room on synthetic input: `cargo run --release --example media_speed`.

use std::hint::black_box;
use std::time::Instant;

use sensorium_media::audio::{Audio, KaldiFbank, WhisperMel, resample};
use sensorium_media::image::{Filter, Image, ImageAugment, augment, resize, to_normalized_chw};

fn measure<T>(label: &str, mut work: impl FnMut() -> T) {
    black_box(work());
    let mut times: Vec<f64> = (0..9)
        .map(|_| {
            let started = Instant::now();
            black_box(work());
            started.elapsed().as_secs_f64() * 1e3
        })
        .collect();
    times.sort_by(f64::total_cmp);
    println!("{label}: {:.2} ms", times[times.len() / 2]);
}

fn main() {
    let data = (0..1024 * 768 * 3usize).map(|i| (i.wrapping_mul(2_654_435_761) >> 7) as u8).collect();
    let image = Image::new(1024, 768, data).expect("the size fits");
    measure("resize 1024 x 768 to 224 x 224, bicubic", || resize(&image, 224, 224, Filter::Bicubic));
    measure("resize 1024 x 768 to 224 x 224, bilinear", || resize(&image, 224, 224, Filter::Bilinear));
    let small = augment::cover(&image, 224, 224, Filter::Bilinear);
    let config = ImageAugment { rand_augment: Some(Default::default()), ..ImageAugment::default() };
    let mut key = 0;
    measure("augment 1024 x 768 to 224 x 224", || {
        key += 1;
        config.apply(&image, (224, 224), Filter::Bilinear, key)
    });
    measure("normalise 224 x 224", || to_normalized_chw(&small, [0.5; 3], [0.5; 3]));

    let samples = (0..441_000).map(|i| (f64::from(i) * 0.05).sin() as f32).collect();
    let audio = Audio { sample_rate: 44_100, samples };
    measure("resample 10 s from 44.1 to 16 kHz", || resample(&audio, 16_000));
    let speech = resample(&audio, 16_000).expect("common rates");
    measure("Whisper log-mel of 10 s", || WhisperMel::default().compute(&speech));
    measure("Kaldi filter bank of 10 s", || KaldiFbank::default().compute(&speech));
}
