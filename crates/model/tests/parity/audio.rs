//! Audio encoders, and Whisper's decoder over its encoder.

use crate::decoders::{check_growing, tokens};
use crate::harness::{Case, Folders, check_towers, values};
use sensorium_engine::{Offsets, Tape, Tensor};
use sensorium_model::{ColumnInput, Context, Values};
use serde_json::Value;
use std::collections::BTreeMap;

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
    wavlm,
    wavlm_stable,
    wavlm_default_buckets,
    wavlm_ctc,
    wavlm_classifier,
    ast,
    ast_no_bias,
    ast_classifier,
);

/// Encoder and decoder in one pass, and the same scores token by token.
fn check_encoder_decoder(name: &str) {
    let case = Case::read(name);
    let folders = Folders::of(name, &case);
    for run in &case.runs {
        let (tower, mut params) = folders.model.load_tower("audio").unwrap_or_else(|e| panic!("{name}: {e}"));
        let decoder = folders.model.load_decoder("decoder", &mut params).unwrap_or_else(|e| panic!("{name}: {e}"));
        let (tokens, segments) = tokens(&run.inputs, "tokens");
        let tape = Tape::new();
        let cx = Context::inference(&tape, &params);
        let sound = tower.forward(&cx, &sounds(&run.inputs)).unwrap_or_else(|e| panic!("{name}: {e}"));
        let memory = Some((&sound.tokens, &sound.offsets));
        let logits = decoder.forward(&cx, &tokens, &segments, memory).unwrap_or_else(|e| panic!("{name}: {e}"));
        drop(cx);
        let fixed = sound.tokens.detached();
        check_growing(name, run, &decoder, &params, (&tokens, &segments), Some((&fixed, &sound.offsets)));
        folders.compare(name, run, &["audio", "decoder"], tape, &params, &BTreeMap::from([("logits", logits)]));
    }
}

#[test]
fn whisper_decoder() {
    check_encoder_decoder("whisper_decoder");
}

#[test]
fn whisper_decoder_untied() {
    check_encoder_decoder("whisper_decoder_untied");
}
