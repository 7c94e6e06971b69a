//! Encoders of pictures, and of pictures and texts.

use crate::harness::{Case, Folders, check_towers, values};
use crate::text::texts;
use sensorium_engine::{Offsets, Tape, Tensor};
use sensorium_model::{ColumnInput, Context, Values};
use serde_json::Value;
use std::collections::BTreeMap;

/// The pictures of a run, from their dimensions.
pub fn images(inputs: &Value) -> ColumnInput {
    let dims: Vec<usize> = serde_json::from_value(inputs["images"].clone()).expect("dimensions");
    let pixels = values("pixels", dims.iter().product(), 0.0, 1.0);
    let pixels = Tensor::from_slice(&dims, &pixels).expect("whole pictures");
    let samples = (0..dims[0] as u32).collect();
    ColumnInput::new(samples, Offsets::from_lengths(vec![1; dims[0]]), Values::Images(pixels)).expect("packed")
}

/// Compares embeddings, logits and gradients of a pair of towers.
fn check_pair(name: &str) {
    let case = Case::read(name);
    let folders = Folders::of(name, &case);
    for run in &case.runs {
        let (pair, params) = folders.model.load_image_text().unwrap_or_else(|e| panic!("{name}: {e}"));
        let tape = Tape::new();
        let cx = Context::inference(&tape, &params);
        let of = |result: sensorium_model::Result<_>| result.unwrap_or_else(|e| panic!("{name}: {e}"));
        let images = of(pair.embed_images(&cx, &images(&run.inputs)));
        let texts = of(pair.embed_texts(&cx, &texts(&run.inputs)));
        let logits = of(pair.logits_per_image(&cx, &images, &texts));
        drop(cx);
        let outputs = BTreeMap::from([("images", images), ("texts", texts), ("logits", logits)]);
        folders.compare(name, run, &["image_text"], tape, &params, &outputs);
        for part in ["text", "image"] {
            assert!(folders.model.load_tower(part).is_ok(), "{name}: {part} by itself");
        }
    }
}

macro_rules! cases {
    ($check:expr => $($name:ident),* $(,)?) => {$(
        #[test]
        fn $name() {
            $check(stringify!($name));
        }
    )*};
}

cases!(|name| check_towers(name, images) =>
    vit,
    vit_no_bias_relu,
    vit_larger,
    vit_smaller,
    vit_classifier,
    deit,
    deit_larger,
    deit_classifier,
    deit_teacher,
    dinov2,
    dinov2_swiglu,
    dinov2_smaller,
    dinov2_classifier,
    dinov2_registers,
    dinov2_registers_smaller,
    dinov2_registers_larger,
    dinov2_registers_classifier,
    clip_vision,
    clip_vision_larger,
    clip_classifier,
    siglip_vision,
    siglip_vision_larger,
    siglip_classifier,
    beit,
    beit_shared_first,
    beit_classifier,
    swin,
    swin_uneven,
    swin_one_window,
    swin_classifier,
);
cases!(|name| check_towers(name, texts) => clip_text, siglip_text);
cases!(check_pair => clip, clip_gelu, chinese_clip, siglip, blip);
