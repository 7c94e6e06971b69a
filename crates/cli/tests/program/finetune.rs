//! `[finetune]`: a pretrained tower held fast, what was trained saved alone.

use crate::scene::{Scene, failure, stdout};
use assert_cmd::Command;
use std::path::Path;

/// A scene with the tiny BERT of the model crate's golden values, to which the
/// words of the captions are tokens.
fn scene() -> Scene {
    let scene = Scene::new(60);
    let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("../model/tests/golden/adapters/base");
    std::fs::create_dir(scene.path().join("bert")).expect("a folder");
    for file in ["config.json", "model.safetensors"] {
        std::fs::copy(from.join(file), scene.path().join("bert").join(file)).expect("copies");
    }
    let words = "[PAD] [UNK] [CLS] [SEP] [MASK] a huge thing very large big tiny 很 小 small";
    let fill = (words.split(' ').count()..24).map(|i| format!("filler{i}"));
    let vocabulary: Vec<String> = words.split(' ').map(str::to_owned).chain(fill).collect();
    scene.write("bert/vocab.txt", &vocabulary.join("\n"));
    scene
}

fn fit(scene: &Scene, out: &str, settings: &[&str]) -> Command {
    let mut command = scene.program();
    command.args(["fit", "table.csv", "--label", "kind", "--type", "caption=text", "--out", out]);
    let common = [
        "image.size=16",
        "image.patch_size=8",
        "image.tower.hidden=32",
        "image.tower.layers=1",
        "text.encoder=\"bert\"",
        "fusion.dim=32",
        "data.cache=false",
        "train.epochs=2",
    ];
    for setting in common.iter().chain(settings) {
        command.args(["--set", setting]);
    }
    command
}

fn answers(scene: &Scene, arguments: &[&str]) -> String {
    stdout(scene.program().arg("predict").args(arguments))
}

#[test]
fn every_method_is_saved_alone_and_loads_again() {
    let scene = scene();
    let methods: [(&str, &[&str], bool); 9] = [
        ("head", &[], false),
        ("top_layers", &["finetune.layers=1"], false),
        ("bitfit", &[], false),
        ("lora", &["finetune.rank=2", "finetune.targets=[\"query\", \"mlp.up\"]"], true),
        ("dora", &["finetune.rank=2"], true),
        ("ia3", &[], true),
        ("adapter", &["finetune.placement=\"parallel\""], true),
        ("prefix", &["finetune.tokens=3"], true),
        ("prompt", &["finetune.tokens=3"], true),
    ];
    for (method, settings, has_adapter) in methods {
        let method_setting = format!("finetune.method=\"{method}\"");
        let mut all = vec![method_setting.as_str(), "train.lr=0.01", "train.seed=3"];
        all.extend(settings);
        let output = fit(&scene, method, &all).assert().success().get_output().clone();
        let said = String::from_utf8(output.stderr).expect("text");
        assert!(said.contains(&format!("fine-tuning: {method}")), "{said}");
        assert!(said.contains("towers.caption") && said.contains("what was trained"), "{said}");
        let folder = scene.path().join(method).join("adapter");
        assert_eq!(folder.join("adapter_model.safetensors").is_file(), has_adapter, "{method}");
        assert!(folder.join("trained.safetensors").is_file() && folder.join("sensorium.json").is_file(), "{method}");
    }
    // Handed around alone: on the model of another run from the same base, the
    // folder answers as the model that it comes from.
    for (method, ..) in methods.iter().skip(1) {
        let folder = format!("{method}/adapter");
        let own = answers(&scene, &[method, "table.csv"]);
        assert_eq!(answers(&scene, &["head", "table.csv", "--adapter", &folder]), own, "{method}");
        assert_ne!(answers(&scene, &["head", "table.csv"]), own, "{method}");
    }
    let on_lora = answers(&scene, &["lora", "table.csv", "--adapter", "prompt"]);
    assert_eq!(on_lora, answers(&scene, &["prompt", "table.csv"]), "an adapter in the place of another");
}

#[test]
fn an_interrupted_run_goes_on_as_it_would_have() {
    let scene = scene();
    let settings = ["finetune.method=\"lora\"", "finetune.dropout=0.2"];
    fit(&scene, "whole", &settings).assert().success();
    fit(&scene, "parts", &settings).args(["--time-limit", "0s"]).assert().success();
    std::fs::remove_file(scene.path().join("parts/model.safetensors")).expect("written");
    fit(&scene, "parts", &settings).arg("--resume").assert().success();
    for file in ["model.safetensors", "adapter/adapter_model.safetensors", "adapter/trained.safetensors"] {
        assert!(scene.bytes(&format!("whole/{file}")) == scene.bytes(&format!("parts/{file}")), "{file}");
    }
}

#[test]
fn mistakes_are_explained() {
    let scene = scene();
    let lora = "finetune.method=\"lora\"";
    let error = failure(&mut scene.fit("x", &["--set", lora]), 1);
    assert!(error.contains("name an encoder, as text.encoder"), "{error}");
    let error = failure(&mut fit(&scene, "x", &[lora, "finetune.tokens=3"]), 1);
    assert!(error.contains("finetune.tokens: is a setting of prefix, prompt, the method is lora"), "{error}");
    let error = failure(&mut fit(&scene, "x", &[lora, "finetune.targets=[\"qeury\"]"]), 1);
    assert!(error.contains("no module matches `qeury`") && error.contains("query"), "{error}");

    fit(&scene, "full", &[]).assert().success();
    fit(&scene, "lora", &[lora]).assert().success();
    let error = failure(scene.program().args(["predict", "full", "table.csv", "--adapter", "lora"]), 1);
    assert!(error.contains("was made on other weights"), "{error}");
    let error = failure(scene.program().args(["predict", "lora", "table.csv", "--adapter", "full"]), 1);
    assert!(error.contains("expected an adapter's folder"), "{error}");
}

#[test]
fn what_an_encoder_decides_is_refused_or_said_to_be_unused() {
    let scene = scene();
    for (setting, name) in
        [("text.tower.pooling=\"max\"", "text.tower.pooling"), ("text.tower.layers=1", "text.tower.layers")]
    {
        let error = failure(&mut fit(&scene, "refused", &[setting]), 1);
        assert!(error.contains(name) && error.contains("is decided by text.encoder"), "{error}");
    }
    let output = fit(&scene, "said", &["text.tower.dropout=0.3"]).assert().success().get_output().clone();
    let said = String::from_utf8(output.stderr).expect("text");
    assert!(said.contains("text.tower: dropout not used"), "{said}");
}
