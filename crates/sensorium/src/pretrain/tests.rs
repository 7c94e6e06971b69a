//! What must hold of all objectives together.

use super::source::Batch;
use super::*;
use image::{Rgb, RgbImage};
use sensorium_train::testing::assert_trains;
use std::fmt::Write;

const CONFIG: &str = "\
[data]
types = { photo = \"image\", words = \"text\" }
cache = false
[image]
size = 16
patch_size = 8
[image.tower]
hidden = 32
layers = 1
dropout = 0
[text]
max_tokens = 16
[text.tower]
hidden = 32
layers = 1
dropout = 0
[pretrain.mlm]
weight = 0.5
[pretrain.mim]
weight = 0.5
method = \"simmim\"
[pretrain.contrastive]
weight = 1
[pretrain.itm]
weight = 1
[pretrain.caption]
weight = 1
[pretrain.image_class]
weight = 1
label = \"kind\"
[pretrain.fusion]
weight = 1
codes = 12
layers = 1
[train]
batch_size = 8
";

/// Pictures of a colour, a caption and a class, in a folder of their own.
pub(super) fn table(folder: &std::path::Path) {
    let mut rows = String::from("photo,words,kind\n");
    for i in 0..24_u8 {
        let picture = RgbImage::from_fn(16, 16, |x, y| Rgb([10 * i, (x * 9) as u8, (y * 7) as u8]));
        picture.save(folder.join(format!("{i}.png"))).expect("a picture");
        writeln!(rows, "{i}.png,number {i} 第{i}张,{}", ["even", "odd"][usize::from(i % 2)]).expect("text");
    }
    std::fs::write(folder.join("rows.csv"), rows).expect("written");
}

pub(super) fn assembled(folder: &std::path::Path, sets: &[&str]) -> Result<Assembly> {
    let sets: Vec<String> = sets.iter().map(|s| (*s).to_owned()).collect();
    let mut config = PretrainConfig::from_toml(CONFIG, &sets)?;
    config.data.table = Some(folder.join("rows.csv"));
    config.validate()?;
    let out = folder.join("out");
    let options = FitOptions { out, resume: false, time_limit: None, stop: sensorium_train::StopFlag::default() };
    assemble(&mut config, &options, &mut ())
}

pub(super) fn batch(assembly: &Assembly) -> Batch {
    let batch = assembly.sources[0].epoch(0, 0).next().expect("a batch");
    batch.unwrap_or_else(|e| panic!("{e}"))
}

#[test]
fn every_parameter_of_every_objective_learns() -> Result<()> {
    let folder = tempfile::tempdir().expect("folder");
    table(folder.path());
    for set in ["pretrain.contrastive.sub_batch=0", "pretrain.contrastive.sub_batch=3", "pretrain.mim.method=mae"] {
        let mut assembly = assembled(folder.path(), &[set, "pretrain.mim.decoder_hidden=32"])?;
        let batch = batch(&assembly);
        assert_trains(&mut assembly.network, &batch);
    }
    Ok(())
}

#[test]
fn the_sum_is_that_of_the_weighted_parts_and_shared_towers_stand_once() -> Result<()> {
    let folder = tempfile::tempdir().expect("folder");
    table(folder.path());
    let assembly = assembled(folder.path(), &[])?;
    let batch = batch(&assembly);
    let tape = Tape::new();
    let step = assembly.network.loss(&tape, &batch, &StepContext::training(0, 0, 0, 0));
    let step = step.unwrap_or_else(|e| panic!("{e}"));
    let part =
        |name: &str| step.parts.iter().find(|(n, _)| n == name).map(|(_, x)| *x).unwrap_or_else(|| panic!("{name}"));
    let halves = ["mlm", "mim"].map(|name| 0.5 * part(name));
    let whole = ["contrastive", "itm", "caption", "image_class", "fusion_text", "fusion_image"].map(part);
    let sum: f64 = halves.iter().chain(&whole).sum();
    let loss = f64::from(step.loss.value().scalar().unwrap_or_else(|e| panic!("{e}")));
    assert!((sum - loss).abs() < 1e-5, "{sum} is not {loss}");
    let names: Vec<&str> = assembly.network.params.iter().map(|(_, p)| p.name.as_str()).collect();
    assert!(
        names.iter().any(|n| n.starts_with("towers.photo.")) && names.iter().any(|n| n.starts_with("towers.words."))
    );
    assert!(!names.iter().any(|n| n.starts_with("image.") || n.starts_with("text.")), "{names:?}");
    Ok(())
}

#[test]
fn of_text_and_picture_now_one_and_now_the_other_comes_first() -> Result<()> {
    let folder = tempfile::tempdir().expect("folder");
    table(folder.path());
    let assembly = assembled(folder.path(), &[])?;
    let batch = batch(&assembly);
    let texts = batch.text.as_ref().expect("the texts of the same rows");
    let (tokens, samples) = (texts.ids.len(), texts.segments.segments());
    let tape = Tape::inference();
    let cx = sensorium_model::Context::inference(&tape, &assembly.network.params);
    let mut firsts = Vec::new();
    for step in 0..4 {
        let masks = sensorium_engine::Random::new(1).at_step(step);
        let parts = assembly.network.parts(&cx, &batch, masks, false)?;
        let count = |name: &str| parts.iter().find(|p| p.name == name).map_or(0, |p| p.count);
        // A picture has 64 patches, and each is guessed. The first token of a text is where the picture comes first.
        assert_eq!(count("fusion_image"), 64 * samples);
        firsts.push(count("fusion_text") + samples - tokens);
    }
    assert!(firsts.iter().all(|first| *first <= samples), "{firsts:?}");
    let all: usize = firsts.iter().sum();
    assert!(all > samples / 2 && all < 4 * samples - samples / 2, "{firsts:?} of {samples}");
    assert!(firsts.iter().any(|first| *first != firsts[0]), "{firsts:?}: the same in every step");
    Ok(())
}
