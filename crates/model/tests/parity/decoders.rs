//! Decoders: logits, hidden states and gradients of whole texts, and the same
//! logits from texts that grow token by token.

use crate::harness::{Case, Folders, Run, check_towers};
use crate::text::texts;
use sensorium_engine::{Offsets, Params, Tape, Var};
use sensorium_model::pretrained::Pretrained;
use sensorium_model::{Context, Decoder, Tower};
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// Lists of token numbers under a name, packed.
pub fn tokens(inputs: &Value, name: &str) -> (Vec<u32>, Offsets) {
    let texts: Vec<Vec<u32>> = serde_json::from_value(inputs[name].clone()).expect("lists of token numbers");
    (texts.concat(), Offsets::from_lengths(texts.iter().map(Vec::len)))
}

fn check_decoder(name: &str) {
    let case = Case::read(name);
    let folders = Folders::of(name, &case);
    for run in &case.runs {
        let mut params = Params::new();
        let decoder = folders.model.load_decoder(&run.part, &mut params).unwrap_or_else(|e| panic!("{name}: {e}"));
        let (tokens, segments) = tokens(&run.inputs, "tokens");
        let tape = Tape::new();
        let cx = Context::inference(&tape, &params).keeping_hidden();
        let hidden = decoder.hidden(&cx, &tokens, &segments, None).unwrap_or_else(|e| panic!("{name}: {e}"));
        let logits = decoder.logits(&cx, &hidden).unwrap_or_else(|e| panic!("{name}: {e}"));
        // With one layer, the reference's first hidden state is the last one.
        let mut layers = cx.take_hidden();
        let first = if layers.len() > 1 { layers.swap_remove(0) } else { hidden.clone() };
        let outputs = BTreeMap::from([("logits", logits), ("hidden", hidden), ("hidden_1", first)]);
        drop(cx);
        check_growing(name, run, &decoder, &params, (&tokens, &segments), None);
        folders.compare(name, run, &[run.part.as_str()], tape, &params, &outputs);
    }
}

/// An encoder's features are the memory of its decoder, whose embeddings are
/// the encoder's.
fn check_translation(name: &str) {
    let case = Case::read(name);
    let folders = Folders::of(name, &case);
    let model = &folders.model;
    for run in &case.runs {
        let (tower, mut params) = model.load_tower("text").unwrap_or_else(|e| panic!("{name}: {e}"));
        let Tower::Text(text) = &tower else { panic!("{name}: not a tower of texts") };
        let config = model.decoder_config(&run.part).expect("a decoder");
        let shared = model.load_into(&mut params, &run.part, |b| Decoder::sharing(b, config, text.word_embeddings()));
        let decoder = shared.unwrap_or_else(|e| panic!("{name}: {e}"));
        let (answers, segments) = tokens(&run.inputs, "answers");
        let tape = Tape::new();
        let cx = Context::inference(&tape, &params);
        let source = tower.forward(&cx, &texts(&run.inputs)).expect("features");
        let memory = (&source.tokens, &source.offsets);
        let cx = cx.keeping_hidden();
        let logits = decoder.forward(&cx, &answers, &segments, Some(memory)).unwrap_or_else(|e| panic!("{name}: {e}"));
        let mut layers = cx.take_hidden();
        drop(cx);
        // With two tables, the answers are the same.
        let mut apart = Params::new();
        let copy = model.load_decoder(&run.part, &mut apart).unwrap_or_else(|e| panic!("{name}: {e}"));
        let features = source.tokens.detached();
        check_growing(name, run, &copy, &apart, (&answers, &segments), Some((&features, &source.offsets)));
        let mut outputs = BTreeMap::from([("logits", logits), ("tokens", source.tokens)]);
        if layers.len() > 1 {
            outputs.insert("hidden_1", layers.swap_remove(0));
        }
        folders.compare(name, run, &["text", run.part.as_str()], tape, &params, &outputs);
    }
}

/// Token by token, from a key/value cache.
pub fn check_growing(
    name: &str,
    run: &Run,
    decoder: &Decoder,
    params: &Params,
    (tokens, segments): (&[u32], &Offsets),
    memory: Option<(&Var, &Offsets)>,
) {
    let tape = Tape::inference();
    let cx = Context::inference(&tape, params);
    let mut cache = decoder.cache(&cx, segments.segments(), memory).unwrap_or_else(|e| panic!("{name}: {e}"));
    let (dims, expected) = &run.outputs["logits"];
    let mut worst: f32 = 0.0;
    for place in 0..segments.longest() {
        let new: Vec<usize> = segments.ranges().filter_map(|r| r.clone().nth(place)).collect();
        let lengths = segments.ranges().map(|r| usize::from(place < r.len()));
        let ids: Vec<u32> = new.iter().map(|at| tokens[*at]).collect();
        let hidden = decoder.hidden_step(&cx, &ids, &Offsets::from_lengths(lengths), &mut cache);
        let logits = hidden.and_then(|h| decoder.logits(&cx, &h)).unwrap_or_else(|e| panic!("{name}: {e}"));
        for (row, at) in logits.data().chunks_exact(dims[1]).zip(&new) {
            let expected = &expected[at * dims[1]..(at + 1) * dims[1]];
            worst = row.iter().zip(expected).map(|(a, b)| (a - b).abs()).fold(worst, f32::max);
        }
    }
    println!("{name}: token by token, logits differ by {worst:.1e}");
    assert!(worst <= 1e-4, "{name}: token by token, logits differ by {worst:e}");
}

macro_rules! cases {
    ($check:expr; $($name:ident),* $(,)?) => {$(
        #[test]
        fn $name() {
            $check(stringify!($name));
        }
    )*};
}

cases!(
    check_decoder;
    gpt2,
    gpt2_untied_relu,
    llama,
    llama_grouped_tied_biases,
    llama_linear,
    llama_llama3,
    llama_yarn,
    mistral,
    mistral_no_window,
    qwen2,
    qwen2_window,
    qwen3,
    qwen3_biases_tied,
    smollm3,
);
cases!(check_translation; t5, t5_gated, t5_gated_silu_far, t5_untied, mt5);
cases!(|name: &str| check_towers(name, texts); gpt2_text, llama_text, llama_classifier, qwen3_text, t5_encoder,
    modernbert, modernbert_biases_silu, modernbert_masked_lm, modernbert_classifier, modernbert_tagger);

/// What a configuration may say that means other numbers than those computed.
#[test]
fn settings_that_are_not_computed_are_refused() {
    let dynamic = json!({"rope_type": "dynamic", "factor": 2.0, "rope_theta": 100.0});
    let half = json!({"rope_type": "default", "rope_theta": 100.0, "partial_rotary_factor": 0.5});
    let no_factor = json!({"rope_type": "linear", "rope_theta": 100.0});
    for (name, key, value, said) in [
        ("llama", "rope_parameters", dynamic, "rope_type"),
        ("llama", "rope_parameters", half, "partial_rotary_factor"),
        ("llama", "rope_parameters", no_factor, "factor"),
        ("llama", "pretraining_tp", json!(2), "pretraining_tp"),
        ("llama", "quantization_config", json!({"bits": 4}), "quantization_config"),
        ("llama", "hidden_act", json!("xielu"), "hidden_act"),
        ("mistral", "sliding_window", json!(0), "sliding_window"),
        ("qwen2_window", "layer_types", json!(["full_attention", "linear_attention"]), "layer_types"),
        ("gpt2", "scale_attn_by_inverse_layer_idx", json!(true), "scale_attn_by_inverse_layer_idx"),
        ("smollm3", "no_rope_layers", json!([1]), "no_rope_layers"),
        ("gpt2", "add_cross_attention", json!(true), "add_cross_attention"),
        ("t5", "feed_forward_proj", json!("gated-tanh"), "feed_forward_proj"),
        ("modernbert", "global_attn_every_n_layers", json!(0), "global_attn_every_n_layers"),
    ] {
        let mut case = Case::read(name);
        if key == "global_attn_every_n_layers" {
            case.config["layer_types"] = Value::Null;
        }
        case.config[key] = value;
        let folder = tempfile::tempdir().expect("folder");
        let error = Pretrained::open(&case.write(folder.path(), "")).err().map(|e| e.to_string()).unwrap_or_default();
        assert!(error.contains(said), "{name} with another {key}: {error:?}");
    }
}
