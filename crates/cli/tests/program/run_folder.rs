//! What a run finds in its folder, and leaves there when it cannot begin.

use crate::pretrain::{language, pretrain};
use crate::scene::{Scene, failure};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Every file of a run's folder with its content, by name.
pub fn files(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut files = BTreeMap::new();
    for entry in std::fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            files.extend(self::files(&path));
        } else {
            files.insert(path.clone(), std::fs::read(path).expect("a file"));
        }
    }
    files
}

#[test]
fn a_refused_resume_leaves_the_run_as_it_was() {
    let scene = Scene::new(20);
    language(&scene);
    pretrain(&scene, "model", &["--set", "train.epochs=1"]).assert().success();
    let before = files(&scene.path().join("model"));
    let refused = |more: &[&str]| {
        let error = failure(&mut pretrain(&scene, "model", &[&["--set", "train.epochs=1"], more].concat()), 1);
        assert!(files(&scene.path().join("model")) == before, "{more:?}");
        error
    };
    assert!(refused(&[]).contains("--resume"));
    assert!(refused(&["--resume", "--set", "train.lr=1e-4"]).contains("train.lr was"));
    assert!(refused(&["--resume", "--set", "text.tower.hidden=64"]).contains("text.tower.hidden"));
    assert!(refused(&["--resume", "--set", "text.max_tokens=8"]).contains("text.max_tokens"));
    scene.write("text.txt", &"something else\nentirely different words\n".repeat(50));
    assert!(refused(&["--resume"]).contains("text.txt is not the text that the run began with"));
}

#[test]
fn a_run_goes_on_only_where_there_is_one() {
    let scene = Scene::new(20);
    language(&scene);
    let one = ["--set", "train.epochs=1"];
    let resume = |out: &str| pretrain(&scene, out, &["--set", "train.epochs=1", "--resume"]);
    let error = failure(&mut resume("mistyped"), 1);
    assert!(error.contains("mistyped") && error.contains("no run to go on with"), "{error}");
    assert!(!scene.path().join("mistyped").exists());
    pretrain(&scene, "model", &one).assert().success();
    let remove = |folder: &str| std::fs::remove_dir_all(scene.path().join(folder)).expect("removed");
    remove("model/checkpoints");
    let before = files(&scene.path().join("model"));
    let error = failure(&mut resume("model"), 1);
    assert!(error.contains("finished model, but no checkpoint"), "{error}");
    assert!(files(&scene.path().join("model")) == before);
    // As if it had been killed before its first checkpoint.
    std::fs::remove_file(scene.path().join("model/text/model.safetensors")).expect("removed");
    let output = resume("model").assert().success().get_output().clone();
    let said = String::from_utf8(output.stderr).expect("text");
    assert!(said.contains("no checkpoint yet: the run begins anew"), "{said}");
    assert!(!scene.bytes("model/text/model.safetensors").is_empty());
}

#[test]
fn files_of_others_are_not_written_over_and_failed_starts_leave_none() {
    let scene = Scene::new(20);
    language(&scene);
    std::fs::create_dir(scene.path().join("mine")).expect("a folder");
    scene.write("mine/README.md", "my own words");
    let error = failure(&mut pretrain(&scene, "mine", &[]), 1);
    assert!(error.contains("README.md") && error.contains("--out"), "{error}");
    let error = failure(&mut scene.fit("mine", &[]), 1);
    assert!(error.contains("README.md") && error.contains("--out"), "{error}");
    assert_eq!(files(&scene.path().join("mine")).len(), 1);
    failure(scene.program().args(["pretrain", "nothere.txt"]), 1);
    assert!(!scene.path().join("nothere-pretrained").exists());
    scene.write("one.txt", "hello\n");
    let error = failure(scene.program().args(["pretrain", "one.txt"]), 1);
    assert!(error.contains("one.txt") && error.contains("too few to learn from"), "{error}");
    assert!(!scene.path().join("one-pretrained").exists());
    let error = failure(scene.program().args(["pretrain", "table.csv"]), 1);
    assert!(error.contains("table.csv is a table") && error.contains("data.table"), "{error}");
}

#[test]
fn a_metric_that_is_not_measured_is_told_before_training() {
    let scene = Scene::new(40);
    language(&scene);
    let watch = |metric: &str| format!("train.early_stopping={{ metric = \"{metric}\", patience = 2 }}");
    let error = failure(&mut pretrain(&scene, "model", &["--set", &watch("mlm_perplexityy")]), 1);
    assert!(error.contains("near names: mlm_perplexity") && error.contains("mlm_accuracy"), "{error}");
    let error = failure(&mut scene.fit("fit", &["--set", &watch("acuracy")]), 1);
    assert!(error.contains("near names: accuracy") && error.contains("macro_f1"), "{error}");
    for out in ["model", "fit"] {
        assert!(!scene.path().join(out).join("metrics.jsonl").exists(), "{out}");
    }
    pretrain(&scene, "model", &["--set", &watch("mlm_perplexity"), "--set", "train.epochs=1"]).assert().success();
}

#[test]
fn pictures_that_cannot_be_read_are_told() {
    let scene = Scene::new(40);
    scene.write("pictures/3.png", "no picture");
    scene.write("pictures/8.png", "nor this");
    scene.write(
        "run.toml",
        "[data]\ntable = \"table.csv\"\ncache = false\nmax_bad_fraction = 0.5\nval = 0.0\ntest = 0.0\n\
         [image]\nsize = 16\npatch_size = 8\n[image.tower]\nhidden = 32\nlayers = 1\n[pretrain.mim]\nweight = 1\n\
         decoder_hidden = 32\ndecoder_layers = 1\n[train]\nepochs = 2\n",
    );
    let output = scene.program().args(["pretrain", "run.toml", "--out", "model"]).assert().success();
    let said = String::from_utf8(output.get_output().stderr.clone()).expect("text");
    let line = "could not be used: 2 of 40 rows of \"picture\", first row 4, column \"picture\"";
    assert!(said.contains(line), "{said}");
    let card = String::from_utf8(scene.bytes("model/README.md")).expect("text");
    assert!(card.contains(line), "{card}");
}
