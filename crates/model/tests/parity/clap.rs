//! CLAP: sounds and texts in one space.

use crate::audio::sounds;
use crate::harness::{Case, Folders, check_towers};
use crate::text::texts;
use sensorium_engine::Tape;
use sensorium_model::Context;
use std::collections::BTreeMap;

#[test]
fn clap_audio() {
    check_towers("clap_audio", sounds);
}

#[test]
fn clap_audio_three_stages() {
    check_towers("clap_audio_three_stages", sounds);
}

#[test]
fn clap_audio_alone() {
    check_towers("clap_audio_alone", sounds);
}

#[test]
fn clap_text() {
    check_towers("clap_text", texts);
}

#[test]
fn clap() {
    let case = Case::read("clap");
    let folders = Folders::of("clap", &case);
    for run in &case.runs {
        let of = |result: sensorium_model::Result<_>| result.unwrap_or_else(|e| panic!("{e}"));
        let (pair, params) = folders.model.load_audio_text().unwrap_or_else(|e| panic!("{e}"));
        let tape = Tape::new();
        let cx = Context::inference(&tape, &params);
        let heard = of(pair.embed_sounds(&cx, &sounds(&run.inputs)));
        let read = of(pair.embed_texts(&cx, &texts(&run.inputs)));
        let per_audio = of(pair.logits_per_audio(&cx, &heard, &read));
        let per_text = of(pair.logits_per_text(&cx, &read, &heard));
        drop(cx);
        let outputs = BTreeMap::from([
            ("sounds", heard),
            ("texts", read),
            ("logits_per_audio", per_audio),
            ("logits_per_text", per_text),
        ]);
        folders.compare("clap", run, &["audio_text"], tape, &params, &outputs);
        for part in ["text", "audio"] {
            assert!(folders.model.load_tower(part).is_ok(), "{part} by itself");
        }
    }
}
