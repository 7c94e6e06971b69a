//! Encoders of videos.

use crate::harness::{check_towers, values};
use sensorium_engine::{Offsets, Tensor};
use sensorium_model::{ColumnInput, Values};
use serde_json::Value;

/// The videos of a run, from their dimensions: videos, frames, channels,
/// height, width.
pub fn videos(inputs: &Value) -> ColumnInput {
    let dims: Vec<usize> = serde_json::from_value(inputs["videos"].clone()).expect("dimensions");
    let pixels = values("pixels", dims.iter().product(), 0.0, 1.0);
    let frames = Tensor::from_slice(&[dims[0] * dims[1], dims[2], dims[3], dims[4]], &pixels).expect("whole frames");
    let offsets = Offsets::from_lengths(vec![dims[1]; dims[0]]);
    ColumnInput::new((0..dims[0] as u32).collect(), offsets, Values::Video(frames)).expect("packed")
}

macro_rules! cases {
    ($($name:ident),* $(,)?) => {$(
        #[test]
        fn $name() {
            check_towers(stringify!($name), videos);
        }
    )*};
}

cases!(
    videomae,
    videomae_last_norm,
    videomae_classifier,
    videomae_pretraining,
    timesformer,
    timesformer_no_bias,
    timesformer_joint,
    timesformer_space,
    timesformer_classifier,
    timesformer_space_classifier,
);
