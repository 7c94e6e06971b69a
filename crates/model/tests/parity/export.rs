//! What was read from a family's files is written as it was there.

use crate::harness::{Case, Folders};
use sensorium_engine::Params;
use sensorium_model::pretrained::{PartConfig, Pretrained};
use sensorium_model::{AudioText, Decoder, ImageText, Tower};

/// The weights of a part under our names.
fn read(name: &str, model: &Pretrained, part: &str) -> Params {
    let mut params = Params::new();
    let of = model.part(part).unwrap_or_else(|e| panic!("{name}: {e}"));
    match &of.config {
        PartConfig::Tower(config) => model.load_into(&mut params, part, |b| Tower::new(b, config)).map(|_| ()),
        PartConfig::Decoder(config) => model.load_into(&mut params, part, |b| Decoder::new(b, config)).map(|_| ()),
        PartConfig::ImageText(config) => model.load_into(&mut params, part, |b| ImageText::new(b, config)).map(|_| ()),
        PartConfig::AudioText(config) => model.load_into(&mut params, part, |b| AudioText::new(b, config)).map(|_| ()),
        PartConfig::Head(_) => panic!("{name}: {part} is a head"),
    }
    .unwrap_or_else(|e| panic!("{name}: {e}"));
    params
}

/// Reads a tower or decoder and exports it: the same names, dimensions and
/// values.
fn check(name: &str, part: &str) {
    let folders = Folders::of(name, &Case::read(name));
    let (model, params) = (&folders.model, read(name, &folders.model, part));
    let of = model.part(part).unwrap_or_else(|e| panic!("{name}: {e}"));
    let ours = params.iter().map(|(_, p)| (p.name.as_str(), &p.value));
    let written = of.keys.export(ours).unwrap_or_else(|e| panic!("{name}: {e}"));
    assert!(!written.is_empty());
    let file = model.checkpoint();
    for (tensor, value) in &written {
        // A bare model's files do not have the prefix of those with a head.
        let bare = tensor.split_once('.').map_or(tensor.as_str(), |(_, rest)| rest);
        let theirs = if file.info(tensor).is_some() { tensor } else { bare };
        let original = file.read(theirs).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert_eq!(value.dims(), original.dims(), "{name}: {tensor}");
        assert!(value.data() == original.data(), "{name}: {tensor} has other values");
    }
}

#[test]
fn towers_and_decoders_are_written_as_they_were_read() {
    for name in ["bert", "bert_no_pooler_masked_lm", "roberta_masked_lm", "distilbert", "mpnet", "albert", "electra"] {
        check(name, "text");
    }
    for name in ["gpt2_causal_lm_loss", "llama_causal_lm_loss"] {
        check(name, "decoder");
    }
    for name in ["vit", "vit_simmim_loss", "vit_mae_normalised_loss"] {
        check(name, "image");
    }
    check("ast", "audio");
}

/// As [`check`] with the names and dimensions of the checkpoint itself.
fn check_restored(name: &str, part: &str) {
    let folders = Folders::of(name, &Case::read(name));
    let (model, params) = (&folders.model, read(name, &folders.model, part));
    let ours = params.iter().map(|(_, p)| (p.name.as_str(), &p.value));
    let written = model.export(part, ours).unwrap_or_else(|e| panic!("{name}: {e}"));
    assert!(!written.is_empty());
    for (tensor, value) in &written {
        let original = model.checkpoint().read(tensor).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert_eq!(value.dims(), original.dims(), "{name}: {tensor}");
        assert!(value.data() == original.data(), "{name}: {tensor} has other values");
    }
    let another = sensorium_engine::Tensor::zeros(&[1]);
    let error = model.export(part, [("nothing.of.it", &another)]).expect_err("an unknown name").to_string();
    assert!(error.contains("nothing.of.it"), "{error}");
}

#[test]
fn parts_go_back_into_the_files_that_they_were_read_from() {
    for name in ["bert", "roberta", "distilbert", "mpnet", "albert", "modernbert", "gpt2_text", "llama_text"] {
        check_restored(name, "text");
    }
    for name in ["vit", "deit", "dinov2", "beit", "swin"] {
        check_restored(name, "image");
    }
    for name in ["ast", "hubert", "wav2vec2", "wavlm", "whisper"] {
        check_restored(name, "audio");
    }
    for name in ["clip", "chinese_clip", "siglip"] {
        check_restored(name, "image_text");
    }
    check_restored("clap", "audio_text");
}
