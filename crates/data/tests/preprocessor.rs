//! Image processors of checkpoints against the reference library's.

use std::collections::BTreeMap;
use std::path::Path;

use sensorium_data::media_ref::MediaRef;
use sensorium_data::prepare::Preparer;
use sensorium_data::processor::ImageProcessor;
use sensorium_media::{Limits, image};
use serde::Deserialize;

/// The file of a processor, and what it makes of each picture: dimensions, the step between the
/// values that are kept, and these.
#[derive(Deserialize)]
struct Case {
    file: serde_json::Value,
    pixels: BTreeMap<String, (Vec<usize>, usize, Vec<f32>)>,
}

#[test]
fn pixels_match_the_reference_within_one_level() {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let cases = std::fs::read_to_string(golden.join("preprocessor.json")).expect("golden file");
    let cases: Vec<Case> = serde_json::from_str(&cases).expect("cases");
    let preparer = Preparer { limits: Limits::default(), cache: None };
    assert_eq!(cases.len(), 12);
    for Case { file, pixels } in cases {
        let processor = ImageProcessor::from_preprocessor(&file).unwrap_or_else(|e| panic!("{file}: {e}"));
        for (name, (dims, step, expected)) in pixels {
            let picture = preparer.image(&MediaRef::File(golden.join(&name)), &processor, false).expect("a picture");
            assert_eq!([3, picture.height, picture.width], dims[..], "{file}");
            let ours = image::to_normalized_chw(&picture, processor.mean, processor.std);
            assert_eq!(ours.len().div_ceil(step), expected.len(), "{file}");
            // In levels of a byte; expected values are rounded to thousandths.
            let plane = picture.width * picture.height;
            let levels = |(i, expected): (usize, &f32)| {
                let std = processor.std[i * step / plane];
                ((ours[i * step] - expected).abs() - 5e-4).max(0.0) * std * 255.0
            };
            let worst = expected.iter().enumerate().map(levels).fold(0.0, f32::max);
            println!("{} of {name} differs by {worst:.2} levels", file["image_processor_type"]);
            assert!(worst <= 1.001, "{file} of {name} differs by {worst} levels");
        }
    }
}
