//! `sensorium fit`

use crate::scene::{Scene, failure, stdout};

#[test]
fn a_model_of_both_columns_learns_what_neither_shows_alone() {
    let scene = Scene::new(240);
    let accuracy = |fusion: &str, more: &[&str]| -> f64 {
        let mut arguments = vec!["--json", "--set", fusion, "--set", "train.epochs=25", "--set", "train.lr=3e-3"];
        arguments.extend(more);
        let out = format!("model-{fusion}-{}", more.len());
        let json = stdout(&mut scene.fit(&out, &arguments));
        let result: serde_json::Value = serde_json::from_str(&json).expect("one JSON object");
        result["accuracy"].as_f64().expect("accuracy")
    };
    for fusion in ["fusion.kind=concat", "fusion.kind=weighted", "fusion.kind=attention"] {
        let both = accuracy(fusion, &[]);
        assert!(both > 0.9, "{fusion}: {both}");
    }
    let alone = accuracy("fusion.kind=concat", &["--ignore", "picture"]);
    assert!(alone < 0.8, "the caption alone cannot tell the colour: {alone}");
}

#[test]
fn the_folder_explains_itself() {
    let scene = Scene::new(60);
    let model = scene.quick_model();
    for file in [
        "model.safetensors",
        "config.json",
        "config.toml",
        "data.json",
        "tokenizer.json",
        "metrics.json",
        "metrics.jsonl",
        "README.md",
        "report.html",
        "loss.svg",
    ] {
        assert!(!scene.bytes(&format!("{model}/{file}")).is_empty(), "{file}");
    }
    let toml = String::from_utf8(scene.bytes(&format!("{model}/config.toml"))).expect("text");
    assert!(toml.contains("heads = 1") && toml.contains("epochs = 2"), "every choice is written down:\n{toml}");
    let html = String::from_utf8(scene.bytes(&format!("{model}/report.html"))).expect("text");
    assert!(!html.contains("src=\"http") && !html.contains("href=\"http"), "the page needs nothing from elsewhere");
}

#[test]
fn threads_do_not_change_the_bits() {
    let scene = Scene::new(60);
    for threads in ["1", "2", "4"] {
        scene.fit(threads, &["--threads", threads, "--set", "train.epochs=2"]).assert().success();
    }
    let one = scene.bytes("1/model.safetensors");
    assert!(one == scene.bytes("2/model.safetensors") && one == scene.bytes("4/model.safetensors"));
    scene.fit("seed", &["--set", "train.epochs=2", "--set", "train.seed=1"]).assert().success();
    assert!(one != scene.bytes("seed/model.safetensors"), "another seed gives another model");
}

#[test]
fn a_configuration_file_says_the_same_as_arguments() {
    let scene = Scene::new(60);
    scene.write(
        "run.toml",
        "[data]\ntable = \"table.csv\"\ncache = false\n[data.types]\ncaption = \"text\"\n[label]\ncolumn = \"kind\"\n[image]\nsize = 16\n\
         patch_size = 8\n[image.tower]\nhidden = 32\nlayers = 1\n[text.tower]\nhidden = 32\n[fusion]\ndim = 32\n\
         [train]\nepochs = 2\n",
    );
    scene.program().args(["fit", "run.toml", "--out", "by-file"]).assert().success();
    scene.fit("by-arguments", &["--set", "train.epochs=2"]).assert().success();
    assert!(scene.bytes("by-file/model.safetensors") == scene.bytes("by-arguments/model.safetensors"));
}

#[test]
fn mistakes_get_one_clear_line() {
    let scene = Scene::new(20);
    let error = failure(&mut scene.fit("x", &["--set", "train.epoch=3"]), 1);
    assert!(error.starts_with("error: ") && error.contains("did you mean \"epochs\"?"), "{error}");
    let error = failure(scene.program().args(["fit", "table.csv", "--label", "kindd"]), 1);
    assert!(error.contains("kindd") && error.contains("\"kind\""), "{error}");
    let error = failure(scene.program().args(["fit", "nowhere.csv", "--label", "kind"]), 1);
    assert!(error.contains("nowhere.csv"), "{error}");
    let error = failure(scene.program().args(["fit", "table.csv"]), 1);
    assert!(error.contains("--label"), "{error}");
    failure(scene.program().args(["fit"]), 2);
    failure(scene.program().args(["fit", "table.csv", "--labl", "kind"]), 2);
    failure(scene.program().args(["fit", "table.csv", "--label", "kind", "--type", "picture=pictur"]), 2);
}

#[test]
fn a_finished_model_is_not_overwritten() {
    let scene = Scene::new(60);
    let model = scene.quick_model();
    let before = scene.bytes(&format!("{model}/model.safetensors"));
    let error = failure(&mut scene.fit(model, &["--set", "train.epochs=3"]), 1);
    assert!(error.contains("--resume"), "{error}");
    assert!(before == scene.bytes(&format!("{model}/model.safetensors")));
}

#[test]
fn a_time_limit_leaves_a_usable_model() {
    let scene = Scene::new(120);
    scene
        .fit(
            "model",
            &["--time-limit", "1s", "--set", "train.epochs=100000", "--set", "train.early_stopping.patience=0"],
        )
        .assert()
        .success();
    scene.program().args(["evaluate", "model", "table.csv", "--split", "test"]).assert().success();
}

#[test]
fn other_kinds_of_labels() {
    let scene = Scene::new(60);
    let mut table = String::from("caption,amount,tags,grade\n");
    for i in 0..90 {
        let (word, x) = [("low", 1.0), ("middle", 5.0), ("high", 9.0)][i % 3];
        let tags = ["a", "a|b", "b|c"][i % 3];
        table += &format!(
            "{word} {},{},{tags},{}\n",
            ["x", "y"][i % 2],
            x + (i % 7) as f64 / 10.0,
            ["bad", "fair", "good"][i % 3]
        );
    }
    scene.write("other.csv", &table);
    let run = |label: &str, out: &str, more: &[&str], metric: &str| {
        let mut command = scene.program();
        command.args(["fit", "other.csv", "--label", label, "--out", out, "--json", "--set", "text.tower.hidden=32"]);
        command.args(["--set", "train.epochs=20", "--set", "train.lr=3e-3", "--set", "fusion.dim=32"]).args(more);
        for other in ["amount", "tags", "grade"].iter().filter(|o| **o != label) {
            command.args(["--ignore", other]);
        }
        let result: serde_json::Value = serde_json::from_str(&stdout(&mut command)).expect("JSON");
        result[metric].as_f64().unwrap_or_else(|| panic!("no {metric} in {result}"))
    };
    let spearman = run("amount", "regression", &["--set", "label.task=regression"], "spearman");
    assert!(spearman > 0.7, "{spearman}");
    let f1 = run("tags", "labels", &["--set", "label.task=multi_label"], "micro_f1");
    assert!(f1 > 0.8, "{f1}");
    let ordinal = ["--set", "label.task=ordinal", "--set", "label.classes=[\"bad\", \"fair\", \"good\"]"];
    let accuracy = run("grade", "ordinal", &ordinal, "accuracy");
    assert!(accuracy > 0.8, "{accuracy}");
}

#[test]
fn every_epoch_is_reported_by_class_where_that_is_asked_for() {
    let scene = Scene::new(60);
    let stderr = |out: &str, more: &[&str]| -> String {
        let mut arguments = vec!["--set", "train.epochs=2"];
        arguments.extend(more);
        let output = scene.fit(out, &arguments).output().expect("the program runs");
        assert!(output.status.success());
        String::from_utf8(output.stderr).expect("text")
    };
    let tables = |text: &str| text.lines().filter(|l| l.contains("precision") && l.contains("support")).count();
    let plain = stderr("plain", &[]);
    assert_eq!(tables(&plain), 0, "{plain}");
    let reported = stderr("reported", &["--set", "train.report_every_epoch=true"]);
    assert_eq!(tables(&reported), 2, "{reported}");
    // Looking changes nothing.
    assert!(scene.bytes("plain/model.safetensors") == scene.bytes("reported/model.safetensors"));
}
