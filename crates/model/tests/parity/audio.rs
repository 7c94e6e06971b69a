//! Audio encoders.

use crate::harness::{check_towers, values};
use sensorium_engine::{Offsets, Tensor};
use sensorium_model::{ColumnInput, Values};
use serde_json::Value;

/// The sounds of a run, packed: `lengths` of frames of `width` numbers, their
/// values from their names.
pub fn sounds(inputs: &Value) -> ColumnInput {
    let lengths: Vec<usize> = serde_json::from_value(inputs["lengths"].clone()).expect("lengths");
    let width = inputs["width"].as_u64().expect("a width") as usize;
    let frames: Vec<f32> =
        lengths.iter().enumerate().flat_map(|(i, n)| values(&format!("input.{i}"), n * width, 0.0, 1.0)).collect();
    let offsets = Offsets::from_lengths(lengths);
    let frames = Tensor::from_slice(&[offsets.total(), width], &frames).expect("whole frames");
    ColumnInput::new((0..offsets.segments() as u32).collect(), offsets, Values::Audio(frames)).expect("packed")
}

macro_rules! cases {
    ($($name:ident),* $(,)?) => {$(
        #[test]
        fn $name() {
            check_towers(stringify!($name), sounds);
        }
    )*};
}

cases!(
    whisper,
    whisper_relu_one_head,
    whisper_generation,
    whisper_classifier,
    wav2vec2,
    wav2vec2_stable,
    wav2vec2_layer_post,
    wav2vec2_old_names,
    wav2vec2_ctc,
    wav2vec2_classifier,
    wav2vec2_frame_classifier,
    hubert,
    hubert_no_projection_norm,
    hubert_ctc,
    ast,
    ast_no_bias,
    ast_classifier,
);
