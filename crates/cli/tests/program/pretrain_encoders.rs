//! `sensorium pretrain` over columns that begin with encoders, and what it
//! leaves of them

use crate::pretrain::assert_goes_on_to_the_same_bits;
use crate::pretrained::{arbitrary, pooled, write_checkpoint, write_tokenizer};
use crate::scene::{Scene, failure, stdout};
use image::{Rgb, RgbImage};
use safetensors::SafeTensors;
use serde_json::{Value, json};

/// Rows to learn from, and as many again that are held out.
const ROWS: usize = 12;

/// A tiny CLIP with its tokenizer, and a table of pictures and texts, no two
/// alike.
fn scene() -> Scene {
    let scene = Scene::new(1);
    let pictures = |size: usize| {
        json!({"image_processor_type": "ViTImageProcessor", "size": {"height": size, "width": size},
               "image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]})
    };
    write_checkpoint(&scene, "clip", "clip", Some(("preprocessor_config.json", pictures(12))));
    write_checkpoint(&scene, "swin", "swin", Some(("preprocessor_config.json", pictures(16))));
    write_checkpoint(&scene, "bert", "bert", None);
    for folder in ["clip", "bert"] {
        write_tokenizer(&scene, folder);
    }
    let mut rows = String::from("photo,words,split\n");
    for i in 0..2 * ROWS {
        let [r, g, b] = [i * 10, (i * 57) % 251, 255 - i * 9].map(|x| x as u8);
        let picture = RgbImage::from_fn(12, 12, |x, y| Rgb([r.wrapping_add(x as u8), g, b.wrapping_add(3 * y as u8)]));
        picture.save(scene.path().join(format!("pictures/{i}.png"))).expect("a picture");
        let split = if i < ROWS { "train" } else { "val" };
        rows += &format!("pictures/{i}.png,w{} w{} w39,{split}\n", 4 + i, 4 + (i * 7) % 31);
    }
    scene.write("rows.csv", &rows);
    let rows: Vec<&str> = rows.lines().take(ROWS + 1).collect();
    scene.write("train.csv", &rows.join("\n"));
    scene
}

fn config(scene: &Scene, file: &str, text: &str, image: &str) {
    scene.write(
        file,
        &format!(
            "[data]\ntable = \"rows.csv\"\ntypes = {{ words = \"text\", photo = \"image\" }}\nsplit = \"split\"\n\
             cache = false\n[text]\nencoder = \"{text}\"\nmax_tokens = 9\n[image]\nencoder = \"{image}\"\n\
             augment = false\n[pretrain.contrastive]\nweight = 1\n[train]\nlr = 3e-3\nschedule = \"constant\"\n\
             warmup = 0\nbatch_size = {ROWS}\n"
        ),
    );
}

fn run(scene: &Scene, file: &str, out: &str, more: &[&str]) -> Value {
    let mut command = scene.program();
    command.args(["pretrain", file, "--out", out, "--json"]).args(more);
    serde_json::from_str(&stdout(&mut command)).expect("one JSON object")
}

/// What training said of its steps.
fn steps(scene: &Scene, out: &str) -> Vec<Value> {
    let text = String::from_utf8(scene.bytes(&format!("{out}/metrics.jsonl"))).expect("text");
    let lines = text.lines().map(|line| serde_json::from_str::<Value>(line).expect("JSON"));
    lines.filter(|line| line["event"] == "step").collect()
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("{value} is no number"))
}

/// CLIP's loss of pairs, by its definition.
fn contrastive(a: &[Vec<f32>], b: &[Vec<f32>], scale: f64) -> f64 {
    let length = |v: &[f32]| v.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt();
    let logit = |x: &[f32], y: &[f32]| {
        let dot: f64 = x.iter().zip(y).map(|(x, y)| f64::from(*x) * f64::from(*y)).sum();
        scale * dot / (length(x) * length(y))
    };
    let one_way = |a: &[Vec<f32>], b: &[Vec<f32>]| -> f64 {
        let of = |(i, x): (usize, &Vec<f32>)| {
            let sum: f64 = b.iter().map(|y| logit(x, y).exp()).sum();
            sum.ln() - logit(x, &b[i])
        };
        a.iter().enumerate().map(of).sum::<f64>() / a.len() as f64
    };
    0.5 * (one_way(a, b) + one_way(b, a))
}

#[test]
fn a_pair_begins_with_its_projections_and_temperature_and_stays_one() {
    let scene = scene();
    config(&scene, "run.toml", "clip", "clip");
    let learnt = run(&scene, "run.toml", "learnt", &["--set", "train.epochs=40"]);
    let steps_of_run = steps(&scene, "learnt");
    let (first, last) = (&steps_of_run[0], steps_of_run.last().expect("steps"));
    // The first step's loss is the pair's own, of its vectors and its scale.
    let scale = f64::from(arbitrary("logit_scale", 0)).exp();
    let of = |model: &str, column: &str| pooled(&scene, model, "train.csv", column);
    let expected = contrastive(&of("clip", "photo"), &of("clip", "words"), scale);
    assert!((number(&first["loss"]) - expected).abs() < 1e-4, "{first}, by definition {expected}");
    assert!((number(&first["parts"]["logit_scale"]) - scale).abs() < 1e-6, "{first}");
    assert_eq!(steps_of_run.len(), 40);
    assert!(number(&last["loss"]) < 0.7 * expected, "{last}");
    // A fit says the same.
    let mut fit = scene.program();
    fit.args(["fit", "rows.csv", "--out", "fitted", "--type", "words=text", "--type", "photo=image"]);
    for set in ["task=retrieve", "data.split=split", "data.cache=false", "text.encoder=clip", "image.encoder=clip"] {
        fit.args(["--set", set]);
    }
    for set in ["text.max_tokens=9", "image.augment=false", "train.batch_size=12", "train.epochs=1"] {
        fit.args(["--set", set]);
    }
    fit.assert().success();
    let fitted = &steps(&scene, "fitted")[0];
    assert!((number(&fitted["loss"]) - number(&first["loss"])).abs() < 1e-6, "{fitted} and {first}");

    // A model of ours, and the same weights as a CLIP: both open, and say the same.
    for model in ["pair", "encoder"] {
        let (model, index) = (format!("learnt/{model}"), format!("{model}.index"));
        scene.program().args(["index", &model, "rows.csv", "--column", "photo", "--out", &index]).assert().success();
        let found = stdout(scene.program().args(["search", &index, "--text", "w4 w4 w39", "--top", "3"]));
        assert!(found.contains("pictures/"), "{found}");
    }
    let info = stdout(scene.program().args(["model", "info", "learnt/encoder"]));
    assert!(info.contains("CLIP\n") && info.contains("image_text pair of towers"), "{info}");
    let now = contrastive(&of("learnt/encoder", "photo"), &of("learnt/encoder", "words"), {
        let bytes = scene.bytes("learnt/encoder/model.safetensors");
        let file = SafeTensors::deserialize(&bytes).expect("safetensors");
        let scale = file.tensor("logit_scale").expect("a scale");
        assert!(scale.shape().is_empty(), "as in the files of CLIP");
        f64::from(f32::from_le_bytes(scale.data().try_into().expect("one number"))).exp()
    });
    assert!((now - expected).abs() > 1e-3, "{now} as before: nothing was learnt");
    // Going on from it begins where this run ended.
    config(&scene, "on.toml", "learnt/encoder", "learnt/encoder");
    let on = run(&scene, "on.toml", "on", &["--set", "train.epochs=1", "--set", "train.lr=1e-12"]);
    let (before, after) = (number(&learnt["contrastive_loss"]), number(&on["contrastive_loss"]));
    assert!((before - after).abs() < 1e-5, "{before} and {after}");
    // What is there is not overwritten.
    std::fs::remove_dir_all(scene.path().join("on/checkpoints")).expect("they go");
    std::fs::remove_dir_all(scene.path().join("on/pair")).expect("it goes");
    let error = failure(scene.program().args(["pretrain", "on.toml", "--out", "on"]), 1);
    assert!(error.contains("already holds a run"), "{error}");
}

#[test]
fn a_killed_run_over_a_pair_goes_on_to_the_same_bits() {
    let scene = scene();
    config(&scene, "run.toml", "clip", "clip");
    let arguments = ["run.toml", "--set", "train.epochs=60", "--set", "train.batch_size=5"];
    assert_goes_on_to_the_same_bits(&scene, &arguments, &["pair/model.safetensors", "encoder/model.safetensors"]);
}

#[test]
fn encoders_of_two_families_are_left_as_checkpoints_of_their_own() {
    let scene = scene();
    config(&scene, "run.toml", "bert", "swin");
    run(&scene, "run.toml", "learnt", &["--set", "train.epochs=3"]);
    let bytes = scene.bytes("learnt/pair/model.safetensors");
    let pair = SafeTensors::deserialize(&bytes).expect("safetensors");
    for (folder, source, family) in [("text", "bert", "BERT"), ("image", "swin", "Swin")] {
        let info = stdout(scene.program().args(["model", "info", &format!("learnt/{folder}")]));
        assert!(info.contains(family) && info.contains("complete"), "{info}");
        let (before, after) = (format!("{source}/model.safetensors"), format!("learnt/{folder}/model.safetensors"));
        let (before, after) = (scene.bytes(&before), scene.bytes(&after));
        let before = SafeTensors::deserialize(&before).expect("safetensors");
        let after = SafeTensors::deserialize(&after).expect("safetensors");
        let mut changed = 0;
        for (name, tensor) in after.tensors() {
            let was = before.tensor(&name).unwrap_or_else(|e| panic!("{source} has no {name}: {e}"));
            assert_eq!(tensor.shape(), was.shape(), "{name}");
            changed += usize::from(tensor.data() != was.data());
            assert!(pair.tensors().iter().any(|(_, t)| t.data() == tensor.data()), "{name} is not what was learnt");
        }
        assert!(changed > 10, "{changed} tensors of {source} have learnt");
    }
    let mut fit = scene.program();
    fit.args(["fit", "table.csv", "--label", "kind", "--type", "caption=text", "--out", "fitted"]);
    for set in ["text.encoder=learnt/text", "image.encoder=learnt/image", "train.epochs=1", "data.cache=false"] {
        fit.args(["--set", set]);
    }
    scene.write("table.csv", "picture,caption,kind\npictures/0.png,w5 w6,a\npictures/1.png,w7,b\n");
    let more: String = (0..20).map(|i| format!("pictures/{i}.png,w{} w39,{}\n", 4 + i, ["a", "b"][i % 2])).collect();
    scene.write("table.csv", &format!("picture,caption,kind\n{more}"));
    fit.assert().success();
}

#[test]
fn what_sorts_pictures_over_an_encoder_is_left_as_a_classifier_of_its_family() {
    let scene = scene();
    let classes = ["dark", "light", "mixed"];
    let rows = String::from_utf8(scene.bytes("rows.csv")).expect("text");
    let sorted = rows.lines().enumerate().map(|(i, row)| match i {
        0 => format!("{row},kind\n"),
        _ => format!("{row},{}\n", classes[i % 3]),
    });
    scene.write("rows.csv", &sorted.collect::<String>());
    let held_out: Vec<usize> = (ROWS + 1..=2 * ROWS).map(|i| i % 3).collect();
    // A pair of its own, and beside another family: what reads the tokens differs.
    for (text, image, family, class, mean_from) in [
        ("clip", "clip", "CLIP\n", "CLIPForImageClassification", Some(1)),
        ("bert", "swin", "Swin\n", "SwinForImageClassification", None),
    ] {
        let out = format!("of-{image}");
        config(&scene, "run.toml", text, image);
        let sorts = ["--set", "pretrain.image_class.weight=1", "--set", "pretrain.image_class.label=kind"];
        let learnt = run(&scene, "run.toml", &out, &[&sorts[..], &["--set", "train.epochs=5"]].concat());
        let folder = format!("{out}/image");
        let info = stdout(scene.program().args(["model", "info", &folder]));
        assert!(info.contains(family) && info.contains("classifier") && info.contains("complete"), "{info}");
        let described: Value = serde_json::from_slice(&scene.bytes(&format!("{folder}/config.json"))).expect("JSON");
        assert_eq!(described["architectures"], json!([class]));
        assert_eq!(described["id2label"], json!({"0": "dark", "1": "light", "2": "mixed"}));
        assert_eq!(described["label2id"], json!({"dark": 0, "light": 1, "mixed": 2}));

        // What stands there sorts the held-out pictures as the run did.
        let vectors: Vec<Vec<f64>> = match mean_from {
            Some(first) => tokens(&scene, &folder).iter().map(|tokens| mean(&tokens[first..])).collect(),
            None => pooled(&scene, &folder, "rows.csv", "photo")
                .iter()
                .map(|v| v.iter().map(|x| f64::from(*x)).collect())
                .collect(),
        };
        let bytes = scene.bytes(&format!("{folder}/model.safetensors"));
        let file = SafeTensors::deserialize(&bytes).expect("safetensors");
        let floats = |name: &str| -> Vec<f64> {
            let data = file.tensor(name).expect("a tensor").data();
            data.chunks_exact(4).map(|b| f64::from(f32::from_le_bytes([b[0], b[1], b[2], b[3]]))).collect()
        };
        let (weight, bias) = (floats("classifier.weight"), floats("classifier.bias"));
        let loss = |(vector, class): (&Vec<f64>, &usize)| {
            let rows = weight.chunks_exact(vector.len()).zip(&bias);
            let scores: Vec<f64> =
                rows.map(|(w, b)| b + w.iter().zip(vector).map(|(w, x)| w * x).sum::<f64>()).collect();
            scores.iter().map(|s| s.exp()).sum::<f64>().ln() - scores[*class]
        };
        let expected = vectors[ROWS..].iter().zip(&held_out).map(loss).sum::<f64>() / ROWS as f64;
        let reported = number(&learnt["image_class_loss"]);
        assert!((reported - expected).abs() < 1e-4, "{image}: {reported} reported, {expected} by what was written");
        // Nothing else of a pair is in it, and a fit begins with it.
        assert!(
            file.names().iter().all(|name| !name.contains("text") && !name.contains("projection.") || image == "swin")
        );
        let mut fit = scene.program();
        fit.args(["fit", "rows.csv", "--label", "kind", "--ignore", "words", "--out", &format!("{out}-fit")]);
        for set in [&format!("image.encoder={folder}"), "train.epochs=1", "data.cache=false"] {
            fit.args(["--set", set]);
        }
        fit.assert().success();
    }
}

/// The tokens of each picture of `rows.csv`.
fn tokens(scene: &Scene, model: &str) -> Vec<Vec<Vec<f64>>> {
    let arguments = ["extract", model, "rows.csv", "--column", "photo", "--out", "tokens.jsonl"];
    scene.program().args(arguments).assert().success();
    let text = String::from_utf8(scene.bytes("tokens.jsonl")).expect("text");
    let row = |line: &str| serde_json::from_str::<Value>(line).expect("JSON")["photo"].clone();
    text.lines().map(|line| serde_json::from_value(row(line)).expect("tokens of numbers")).collect()
}

fn mean(tokens: &[Vec<f64>]) -> Vec<f64> {
    (0..tokens[0].len()).map(|at| tokens.iter().map(|token| token[at]).sum::<f64>() / tokens.len() as f64).collect()
}
