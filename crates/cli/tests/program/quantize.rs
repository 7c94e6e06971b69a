//! `sensorium quantize`

use crate::scene::{Scene, failure, stdout};

#[test]
fn a_quantised_model_answers_as_the_one_it_was_made_from() {
    let scene = Scene::new(60);
    scene.fit("model", &["--set", "train.epochs=20", "--set", "train.lr=3e-3"]).assert().success();
    let said = stdout(scene.program().args(["quantize", "model", "--out", "small"]));
    for part in ["weights ", "in memory ", "in f32 ", "head ", "largest deviations", "row by row"] {
        assert!(said.contains(part), "{part}: {said}");
    }
    let size = |folder: &str| scene.bytes(&format!("{folder}/model.safetensors")).len();
    assert!(size("small") < size("model") / 2, "{} of {}", size("small"), size("model"));
    let labels = |model: &str| -> Vec<String> {
        let csv = stdout(scene.program().args(["predict", model, "table.csv"]));
        csv.lines().skip(1).map(|l| l.split(',').nth(1).unwrap_or("").to_owned()).collect()
    };
    let (before, after) = (labels("model"), labels("small"));
    let same = before.iter().zip(&after).filter(|(a, b)| a == b).count();
    assert!(same >= 57, "{same} of {} rows have the same answer", before.len());
    let info = stdout(scene.program().args(["model", "info", "small"]));
    assert!(info.contains("int8 weights, dynamic activations"), "{info}");
    let compared = stdout(scene.program().args(["evaluate", "small", "table.csv", "--before", "model"]));
    assert!(compared.contains("before") && compared.contains("after"), "{compared}");
    scene.program().args(["extract", "small", "table.csv", "--out", "f.parquet", "--pooled"]).assert().success();
}

#[test]
fn calibrating_measures_both_and_fixes_ranges() {
    let scene = Scene::new(60);
    let model = scene.quick_model();
    let said = stdout(scene.program().args(["quantize", model, "--out", "small", "--calibrate", "table.csv"]));
    assert!(said.contains("ranges fixed from") && said.contains("before") && said.contains("after"), "{said}");
    let config = String::from_utf8(scene.bytes("small/config.json")).expect("text");
    assert!(config.contains("\"calibrated\"") && config.contains("\"format\": 2"), "{config}");
    // Without the label it calibrates all the same; Chinese captions too.
    scene.write("new.csv", "picture,caption\npictures/0.png,很小\npictures/1.png,big\n");
    scene.program().args(["quantize", model, "--out", "other", "--calibrate", "new.csv"]).assert().success();
    stdout(scene.program().args(["predict", "other", "new.csv"]));
}

#[test]
fn weights_can_be_kept_and_mistakes_are_named() {
    let scene = Scene::new(60);
    let model = scene.quick_model();
    let keep = ["quantize", model, "--out", "small", "--keep", "towers.caption"];
    let said = stdout(scene.program().args(keep));
    assert!(said.contains("towers.picture") && !said.contains("  towers.caption"), "{said}");
    let error = failure(scene.program().args(["quantize", model, "--out", "small"]), 1);
    assert!(error.contains("is there already") && error.contains("--out"), "{error}");
    let error = failure(scene.program().args(["quantize", "small", "--out", "again"]), 1);
    assert!(error.contains("quantised already"), "{error}");
    let error = failure(scene.program().args(["quantize", model, "--out", "b", "--keep", "towers.captoin"]), 1);
    assert!(error.contains("towers.caption"), "{error}");
    assert!(!scene.path().join("b").exists());
}

#[test]
fn broken_codes_are_refused() {
    let scene = Scene::new(60);
    let model = scene.quick_model();
    scene.program().args(["quantize", model, "--out", "small"]).assert().success();
    let weights = scene.path().join("small/model.safetensors");
    let mut bytes = std::fs::read(&weights).expect("weights");
    // The scales of a weight under another name.
    let at = bytes.windows(13).position(|w| w == b".weight.scale").expect("scales");
    bytes[at + 8] = b'S';
    std::fs::write(&weights, &bytes).expect("written");
    let error = failure(scene.program().args(["predict", "small", "table.csv"]), 1);
    assert!(error.contains(".weight.scale"), "{error}");
}
