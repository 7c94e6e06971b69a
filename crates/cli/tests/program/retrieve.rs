//! `sensorium fit` with `task = "retrieve"`, and what is done with its model

use crate::scene::{Scene, failure, stdout};
use assert_cmd::Command;
use image::{Rgb, RgbImage};
use serde_json::Value;
use std::fmt::Write;

const COLOURS: [(&str, &str, [u8; 3]); 6] = [
    ("red", "红色", [200, 10, 10]),
    ("green", "绿色", [10, 200, 10]),
    ("blue", "蓝色", [10, 10, 200]),
    ("white", "白色", [205, 205, 205]),
    ("yellow", "黄色", [200, 200, 10]),
    ("black", "黑色", [5, 5, 5]),
];

/// Pictures of one colour each, some more noisy, and two captions for each in
/// one cell; `alike.csv` has one row for each caption instead.
pub fn scene() -> Scene {
    let scene = Scene::new(1);
    let (mut lists, mut alike) = (String::new(), String::from("photo,words\n"));
    for i in 0..96 {
        let (english, chinese, [r, g, b]) = COLOURS[i % 6];
        let noise = |k: usize| ((i * 37 + k * 61) % (20 + i % 7)) as u8;
        let picture = RgbImage::from_fn(16, 16, |x, y| {
            let n = noise((x * 16 + y) as usize);
            Rgb([r + n, g + n, b + n])
        });
        picture.save(scene.path().join(format!("pictures/{i}.png"))).expect("a picture");
        let captions = [format!("a {english} thing"), format!("这是{chinese}的")];
        writeln!(lists, "{}", serde_json::json!({"photo": format!("pictures/{i}.png"), "words": captions}))
            .expect("text");
        for caption in captions {
            writeln!(alike, "pictures/{i}.png,{caption}").expect("text");
        }
    }
    scene.write("lists.jsonl", &lists);
    scene.write("alike.csv", &alike);
    scene
}

fn fit(scene: &Scene, table: &str, out: &str, more: &[&str]) -> Command {
    let mut command = scene.program();
    command.args(["fit", table, "--out", out, "--type", "words=text", "--type", "photo=image"]);
    for set in [
        "task=retrieve",
        "image.size=16",
        "image.patch_size=8",
        "image.tower.hidden=32",
        "image.tower.layers=1",
        "image.augment=false",
        "text.tower.hidden=32",
        "text.tower.layers=1",
        "data.cache=false",
        "train.lr=3e-3",
        "train.schedule=constant",
        "train.warmup=0",
        "train.batch_size=24",
    ] {
        command.args(["--set", set]);
    }
    command.args(more);
    command
}

fn json(command: &mut Command) -> Value {
    serde_json::from_str(&stdout(command)).expect("one JSON object")
}

#[test]
fn pictures_and_captions_find_each_other_and_can_be_searched() {
    let scene = scene();
    let fitted = json(fit(&scene, "lists.jsonl", "model", &["--set", "train.epochs=25"]).arg("--json"));
    let directions = fitted["directions"].as_array().expect("directions");
    assert_eq!((&directions[0]["from"], &directions[0]["to"]), (&"photo".into(), &"words".into()));
    for d in directions {
        let (found, chance) = (d["recall_at_1"].as_f64().expect("recall"), d["items"].as_f64().expect("items").recip());
        assert!(found > 0.8 && chance < 0.2, "{d}");
    }
    // The page shows queries beside their answers, and is the same as the table.
    let page = String::from_utf8(scene.bytes("model/report.html")).expect("text");
    assert!(page.contains("photo → words") && page.contains("<figure class=\"right\">") && page.contains("色的"));
    assert!(String::from_utf8(scene.bytes("model/README.md")).expect("text").contains("sensorium index"));
    let again = json(scene.program().args(["evaluate", "model", "lists.jsonl", "--split", "test", "--json"]));
    assert_eq!(again["directions"], fitted["directions"]);

    stdout(scene.program().args(["index", "model", "lists.jsonl", "--column", "photo", "--out", "photos.index"]));
    for (_, chinese, _) in COLOURS {
        let text = format!("这是{chinese}的");
        let hits = json(scene.program().args(["search", "photos.index", "--text", &text, "--top", "3", "--json"]));
        let first = hits["hits"][0]["fields"]["words"].as_str().or(hits["hits"][0]["fields"]["photo"].as_str());
        let first = first.map(str::to_owned).unwrap_or_default();
        let number: Option<usize> =
            first.rsplit('/').next().and_then(|n| n.strip_suffix(".png")).and_then(|n| n.parse().ok());
        let right = number.map_or(first.contains(chinese), |n| COLOURS[n % 6].1 == chinese);
        assert!(right, "{chinese}: {hits}");
    }

    let info = stdout(scene.program().args(["model", "info", "model"]));
    assert!(info.contains("photo + words meet in a space of"), "{info}");

    // Of another table only the columns that the model knows are embedded, and the card of a text shows its picture.
    let more = "photo,words,remark,size\npictures/0.png,a red thing,nothing of the kind,3\n\
                pictures/1.png,a green thing,\"something else, and more\",4\n";
    scene.write("more.csv", more);
    let said = stdout(scene.program().args(["index", "model", "more.csv", "--out", "more.index"]));
    assert!(said.contains("4 embedded") && said.contains("--text \"…\""), "{said}");
    let search = ["search", "more.index", "--text", "a red thing", "--column", "words", "--html", "hits.html"];
    let said = stdout(scene.program().args(search));
    assert!(said.contains("a red thing") && said.contains("pictures/0.png"), "{said}");
    let page = String::from_utf8(scene.bytes("hits.html")).expect("text");
    assert!(page.matches("<img").count() == 2 && page.contains("<blockquote>a red thing</blockquote>"), "{page}");

    std::fs::rename(scene.path().join("model"), scene.path().join("moved")).expect("it moves");
    let error = failure(scene.program().args(["search", "more.index", "--text", "a"]), 1);
    assert!(error.contains("no longer there") && error.contains("--model"), "{error}");
    stdout(scene.program().args(["search", "more.index", "--text", "a", "--model", "moved"]));
}

#[test]
fn rows_that_share_a_picture_are_no_negatives_and_one_answer() {
    let scene = scene();
    let more = ["--set", "train.epochs=3", "--set", "retrieve.sub_batch=7", "--set", "data.group=photo", "--json"];
    let fitted = json(&mut fit(&scene, "alike.csv", "model", &more));
    let photos = fitted["directions"][0]["queries"].as_u64().expect("queries");
    // Two rows for each picture, and twelve captions in all.
    assert_eq!(fitted["rows"], 2 * photos);
    assert_eq!(fitted["directions"][0]["items"], 12);
}

#[test]
fn a_run_that_goes_on_ends_in_the_same_bits() {
    let scene = scene();
    let losses = ["info_nce", "sigmoid", "hardest_negative"];
    for loss in losses {
        let set = format!("retrieve.loss={loss}");
        let run = |out: &str, epochs: &str, resume: bool| {
            let mut command = fit(&scene, "lists.jsonl", out, &["--set", &set, "--set", epochs]);
            if resume {
                command.arg("--resume");
            }
            stdout(&mut command);
        };
        let (whole, parts) = (format!("{loss}-whole"), format!("{loss}-parts"));
        run(&whole, "train.epochs=3", false);
        run(&parts, "train.epochs=1", false);
        run(&parts, "train.epochs=3", true);
        let weights = |out: &str| scene.bytes(&format!("{out}/model.safetensors"));
        assert!(weights(&whole) == weights(&parts), "{loss}");
    }
}

#[test]
fn what_does_not_fit_is_said() {
    let scene = scene();
    let refused = |more: &[&str]| failure(&mut fit(&scene, "lists.jsonl", "refused", more), 1);
    let label = refused(&["--label", "words"]);
    assert!(label.contains("label.column") && label.contains("task = \"retrieve\""), "{label}");
    let unknown = refused(&["--set", "retrieve.pairs=[[\"photo\",\"wrods\"]]"]);
    assert!(unknown.contains("wrods") && unknown.contains("words"), "{unknown}");
    let alone = refused(&["--ignore", "words"]);
    assert!(alone.contains("only photo is there to be compared"), "{alone}");
    let margin = refused(&["--set", "retrieve.margin=0"]);
    assert!(margin.contains("retrieve.margin"), "{margin}");
    let near = refused(&["--set", "retrieve.losss=sigmoid"]);
    assert!(near.contains("did you mean \"loss\"?"), "{near}");
    // A model that retrieves predicts no label.
    stdout(&mut fit(&scene, "lists.jsonl", "model", &["--set", "train.epochs=1"]));
    let predict = failure(scene.program().args(["predict", "model", "lists.jsonl"]), 1);
    assert!(predict.contains("was fitted to retrieve") && predict.contains("sensorium index"), "{predict}");
}
