//! `sensorium pretrain` over columns of a table that belong together

use crate::pretrain::assert_goes_on_to_the_same_bits;
use crate::retrieve::scene;
use crate::scene::{Scene, failure, stdout};
use safetensors::SafeTensors;
use serde_json::Value;
use std::collections::HashSet;

/// What every run shares, so that it takes seconds.
const SMALL: &str = "[image]\nsize = 16\npatch_size = 8\naugment = false\n[image.tower]\nhidden = 32\nlayers = 1\n\
    [text]\nmax_tokens = 16\n[text.tower]\nhidden = 32\nlayers = 1\n[train]\nlr = 3e-3\nschedule = \"constant\"\n\
    warmup = 0\nbatch_size = 24\n";

fn config(scene: &Scene, table: &str, objectives: &str) {
    let data = "types = { words = \"text\", photo = \"image\" }\ncache = false\n";
    scene.write("run.toml", &format!("[data]\ntable = \"{table}\"\n{data}{objectives}{SMALL}"));
}

fn run(scene: &Scene, out: &str, epochs: usize, more: &[&str]) -> Value {
    let mut command = scene.program();
    command.args(["pretrain", "run.toml", "--out", out, "--json", "--set", &format!("train.epochs={epochs}")]);
    serde_json::from_str(&stdout(command.args(more))).expect("one JSON object")
}

fn number(metrics: &Value, name: &str) -> f64 {
    metrics[name].as_f64().unwrap_or_else(|| panic!("no {name} in {metrics}"))
}

#[test]
fn columns_meet_while_their_towers_learn_what_is_hidden() {
    let scene = scene();
    // The colour of a picture, as its class.
    let named: String = (0..96)
        .map(|i| format!("pictures/{i}.png,{}\n", ["red", "green", "blue", "white", "yellow", "black"][i % 6]))
        .collect();
    scene.write("named.csv", &format!("photo,words\n{}", named.replace(".png,", ".png,a thing that is ")));
    let rows: String = named
        .lines()
        .map(|l| {
            let (photo, colour) = l.split_once(',').expect("two");
            format!("{photo},a {colour} thing,{colour}\n")
        })
        .collect();
    scene.write("rows.csv", &format!("photo,words,colour\n{rows}"));
    config(
        &scene,
        "rows.csv",
        "[pretrain.contrastive]\nweight = 1\nzero_shot = \"colour\"\ntemplates = [\"a {} thing\"]\n[pretrain.mim]\n\
         weight = 0.5\nmethod = \"simmim\"\n[pretrain.mlm]\nweight = 0.5\nwhole_word = true\n",
    );
    let learnt = run(&scene, "all", 25, &["--set", "train.early_stopping={ metric = \"recall_at_1\", patience = 25 }"]);
    let sum = number(&learnt, "contrastive_loss") + 0.5 * (number(&learnt, "mim_loss") + number(&learnt, "mlm_loss"));
    assert!((sum - number(&learnt, "loss")).abs() < 1e-6, "{learnt}");
    for name in ["photo_to_words_recall_at_1", "words_to_photo_recall_at_5", "zero_shot_accuracy"] {
        assert!(number(&learnt, name) > 0.8, "{name}: {learnt}");
    }
    // The pair is what a fit with task = "retrieve" leaves.
    scene
        .program()
        .args(["index", "all/pair", "rows.csv", "--type", "words=text", "--out", "rows.index"])
        .assert()
        .success();
    let found = stdout(scene.program().args(["search", "rows.index", "--text", "a red thing", "--json"]));
    assert!(found.contains("pictures/"), "{found}");
    scene.write("unseen.csv", "photo\npictures/0.png\npictures/2.png\n");
    let sorted = stdout(scene.program().args([
        "predict",
        "all/pair",
        "unseen.csv",
        "--labels",
        "red,blue",
        "--template",
        "a {} thing",
    ]));
    assert!(sorted.contains("1,red") && sorted.contains("2,blue"), "{sorted}");
    let evaluated = stdout(scene.program().args(["evaluate", "all/pair", "rows.csv", "--json"]));
    assert!(evaluated.contains("recall_at_1"), "{evaluated}");
    for (folder, family) in [("text", "BERT"), ("image", "ViT")] {
        let info = stdout(scene.program().args(["model", "info", &format!("all/{folder}")]));
        assert!(info.contains(family), "{info}");
    }
    // Fits and further runs start from the towers.
    for set in ["image.encoder=all/image", "text.encoder=all/text"] {
        let arguments = ["fit", "rows.csv", "--label", "colour", "--type", "words=text", "--out", &set[..4]];
        let short = ["--set", set, "--set", "train.epochs=1", "--set", "data.cache=false"];
        scene.program().args(arguments).args(short).assert().success();
    }
    let sizes = ["--set", "image.encoder=all/image", "--set", "text.encoder=all/text", "--set", "train.lr=1e-6"];
    config(&scene, "rows.csv", "[pretrain.contrastive]\nweight = 1\n");
    let toml = String::from_utf8(scene.bytes("run.toml")).expect("text");
    let toml = toml.replace("hidden = 32\nlayers = 1\n", "").replace("patch_size = 8\n", "");
    scene.write("run.toml", &toml);
    let on = run(&scene, "on", 1, &sizes);
    assert!(number(&on, "recall_at_5").is_finite(), "{on}");
}

#[test]
fn pictures_are_matched_captioned_and_sorted() {
    let scene = scene();
    let row = |i: usize| {
        let colour = ["red", "green", "blue", "white", "yellow", "black"][i % 6];
        format!("pictures/{i}.png,a {colour} thing,{colour}\n")
    };
    scene.write("rows.csv", &format!("photo,words,colour\n{}", (0..96).map(row).collect::<String>()));
    config(
        &scene,
        "rows.csv",
        "[pretrain.contrastive]\nweight = 1\n[pretrain.itm]\nweight = 1\nlayers = 1\n[pretrain.caption]\nweight = 1\n\
         layers = 1\n[pretrain.image_class]\nweight = 1\nlabel = \"colour\"\n",
    );
    let learnt = run(&scene, "all", 80, &[]);
    let sum: f64 =
        ["contrastive", "itm", "caption", "image_class"].map(|n| number(&learnt, &format!("{n}_loss"))).iter().sum();
    assert!((sum - number(&learnt, "loss")).abs() < 1e-5, "{learnt}");
    for name in ["itm_accuracy", "caption_accuracy", "image_class_accuracy"] {
        assert!(number(&learnt, name) > 0.85, "{name}: {learnt}");
    }
    // Of "a COLOUR thing" only the colour is not known beforehand.
    assert!(number(&learnt, "caption_perplexity") < 1.4, "{learnt}");
    let info = stdout(scene.program().args(["model", "info", "all/caption"]));
    assert!(info.contains("decoder") && info.contains("image"), "{info}");
    let info = stdout(scene.program().args(["model", "info", "all/image"]));
    assert!(info.contains("classifier"), "{info}");
    for encoder in ["all/image", "all/caption"] {
        let arguments = ["fit", "rows.csv", "--label", "colour", "--ignore", "words", "--out", &encoder[4..]];
        let set = format!("image.encoder={encoder}");
        let short = ["--set", &set, "--set", "train.epochs=1", "--set", "data.cache=false"];
        scene.program().args(arguments).args(short).assert().success();
    }
    // Each by itself: matching without similarities draws by chance.
    config(&scene, "rows.csv", "[pretrain.itm]\nweight = 1\ncolumns = [\"photo\", \"words\"]\n");
    let alone = run(&scene, "itm", 2, &[]);
    assert!(number(&alone, "itm_loss").is_finite() && alone.get("recall_at_1").is_none(), "{alone}");
    config(&scene, "rows.csv", "[pretrain.caption]\nweight = 1\n");
    assert!(number(&run(&scene, "words", 2, &[]), "caption_perplexity") > 1.0);
}

#[test]
fn texts_and_pictures_are_one_sequence_of_tokens() {
    let scene = scene();
    let sizes = "[pretrain.fusion]\nweight = 1\nimage_weight = 0.5\ncodes = 16\nlayers = 1\nhidden = 32\n";
    config(&scene, "lists.jsonl", sizes);
    let learnt = run(&scene, "learnt", 25, &[]);
    let sum = number(&learnt, "fusion_text_loss") + 0.5 * number(&learnt, "fusion_image_loss");
    assert!((sum - number(&learnt, "loss")).abs() < 1e-5, "{learnt}");
    // Pictures are of one colour: a patch tells the others, among 16 codes.
    assert!(number(&learnt, "fusion_image_perplexity") < 8.0, "{learnt}");
    assert!(number(&learnt, "fusion_text_accuracy") > 0.5, "{learnt}");
    let info = stdout(scene.program().args(["model", "info", "learnt/fusion"]));
    assert!(info.contains("GPT-2") && info.contains("decoder"), "{info}");
    assert!(!scene.bytes("learnt/fusion/codebook.safetensors").is_empty());
    // Towers that learn nothing are not written.
    for folder in ["text", "image", "pair"] {
        assert!(!scene.path().join(format!("learnt/{folder}/model.safetensors")).exists(), "{folder}");
    }
}

/// Centres of `width` numbers, as `codebook.safetensors` holds them.
fn floats(file: &SafeTensors<'_>, name: &str) -> Vec<f32> {
    let bytes = file.tensor(name).expect("a tensor").data().to_vec();
    bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
}

#[test]
fn pictures_become_codes_of_what_a_frozen_encoder_makes_of_them() {
    let scene = scene();
    let rows: String = (0..96)
        .map(|i| {
            let colour = ["red", "green", "blue", "white", "yellow", "black"][i % 6];
            format!("pictures/{i}.png,a {colour} thing,{}\n", if i % 8 == 7 { "val" } else { "train" })
        })
        .collect();
    scene.write("rows.csv", &format!("photo,words,split\n{rows}"));
    config(&scene, "rows.csv", "[pretrain.mim]\nweight = 1\nmethod = \"simmim\"\n");
    run(&scene, "vit", 2, &[]);
    let fusion = "[pretrain.fusion]\nweight = 1\nfeatures = \"encoder\"\ncodes = 6\niterations = 500\nlayers = 1\n\
                  hidden = 32\n";
    config(&scene, "rows.csv", fusion);
    let toml = String::from_utf8(scene.bytes("run.toml")).expect("text");
    let toml = toml
        .replace("patch_size = 8\n", "encoder = \"vit/image\"\n")
        .replace("[image.tower]\nhidden = 32\nlayers = 1\n", "");
    scene.write("run.toml", &toml);
    let learnt = run(&scene, "learnt", 20, &["--set", "data.cache=true"]);
    assert!(number(&learnt, "fusion_image_perplexity") < 6.0, "{learnt}");

    // The codes are a k-means over what `extract` gives: of each patch a token, after [CLS].
    let extract = ["extract", "vit/image", "rows.csv", "--column", "photo", "--out", "tokens.jsonl"];
    scene.program().args(extract).assert().success();
    let text = String::from_utf8(scene.bytes("tokens.jsonl")).expect("text");
    let training = text.lines().enumerate().filter(|(row, _)| row % 8 != 7);
    let tokens: Vec<Vec<f64>> = training
        .flat_map(|(_, line)| {
            let row: Value = serde_json::from_str(line).expect("JSON");
            let tokens = row["photo"].as_array().expect("tokens").clone();
            assert_eq!(tokens.len(), 5, "[CLS] and four patches");
            tokens.into_iter().skip(1)
        })
        .map(|token| token.as_array().expect("numbers").iter().map(|x| x.as_f64().expect("a number")).collect())
        .collect();
    let (n, width) = (tokens.len() as f64, tokens[0].len());
    let bytes = scene.bytes("learnt/fusion/codebook.safetensors");
    let book = SafeTensors::deserialize(&bytes).expect("safetensors");
    let (mean, deviation, centres) = (floats(&book, "mean"), floats(&book, "deviation"), floats(&book, "centres"));
    for at in 0..width {
        let m = tokens.iter().map(|t| t[at]).sum::<f64>() / n;
        let d = (tokens.iter().map(|t| (t[at] - m).powi(2)).sum::<f64>() / n).sqrt();
        assert!((m - f64::from(mean[at])).abs() < 1e-4, "mean {at}: {m} is not {}", mean[at]);
        assert!((d - f64::from(deviation[at])).abs() < 1e-4, "deviation {at}: {d} is not {}", deviation[at]);
    }
    // It has come to rest: each centre is the mean of the tokens that are nearest to it.
    let mut sums = vec![(vec![0.0_f64; width], 0.0_f64); centres.len() / width];
    for token in &tokens {
        let scaled: Vec<f64> =
            (0..width).map(|at| (token[at] - f64::from(mean[at])) / f64::from(deviation[at])).collect();
        let distance = |code: usize| -> f64 {
            (0..width).map(|at| (scaled[at] - f64::from(centres[code * width + at])).powi(2)).sum()
        };
        let nearest = (0..sums.len()).min_by(|a, b| distance(*a).total_cmp(&distance(*b))).expect("a code");
        sums[nearest].0.iter_mut().zip(&scaled).for_each(|(sum, x)| *sum += x);
        sums[nearest].1 += 1.0;
    }
    for (code, (sum, count)) in sums.iter().enumerate() {
        assert!(*count > 0.0, "code {code} stands for nothing");
        for (at, sum) in sum.iter().enumerate() {
            let centre = f64::from(centres[code * width + at]);
            assert!((sum / count - centre).abs() < 2e-3, "code {code}, {at}: {} is not {centre}", sum / count);
        }
    }
    let described: Value = serde_json::from_slice(&scene.bytes("learnt/fusion/config.json")).expect("JSON");
    assert_eq!(described["image_tokens"]["features"], "encoder");

    // Each picture went through the encoder once, and what is kept gives the same bits.
    fn files(folder: &std::path::Path) -> usize {
        let entries = std::fs::read_dir(folder).expect("a folder").map(|e| e.expect("an entry").path());
        entries.map(|path| if path.is_dir() { files(&path) } else { 1 }).sum()
    }
    let pictures: HashSet<Vec<u8>> = (0..96).map(|i| scene.bytes(&format!("pictures/{i}.png"))).collect();
    assert_eq!(files(&scene.path().join("cache/features")), pictures.len());
    let arguments = ["run.toml", "--set", "train.epochs=40"];
    let written = ["fusion/model.safetensors", "fusion/codebook.safetensors"];
    assert_goes_on_to_the_same_bits(&scene, &arguments, &written);
    assert!(scene.bytes("whole/fusion/codebook.safetensors") == bytes);
}

#[test]
fn the_order_of_frames_is_learnt() {
    let scene = Scene::new(1);
    let mut table = String::from("clip,kind\n");
    for i in 0..24 {
        // From dark to bright, in one of three colours.
        let colour = ["r", "g", "b"][i % 3];
        let fade = format!("geq=r=0:g=0:b=0:{colour}='20+18*N'");
        let source = ["-f", "lavfi", "-i", "color=size=16x16:rate=6:duration=2"];
        let made = std::process::Command::new("ffmpeg")
            .args(["-nostdin", "-loglevel", "error"])
            .args(source)
            .args(["-vf", &fade, "-pix_fmt", "yuv444p", "-y"])
            .arg(scene.path().join(format!("{i}.mp4")))
            .status();
        assert!(made.expect("FFmpeg, which the tests of videos need").success());
        table += &format!("{i}.mp4,{colour}\n");
    }
    scene.write("clips.csv", &table);
    scene.write(
        "run.toml",
        "[data]\ntable = \"clips.csv\"\ntypes = { clip = \"video\" }\n[video]\nframes = 4\nsize = 16\n\
         patch_size = 8\naugment = false\n[video.tower]\nhidden = 32\nlayers = 1\ndropout = 0\n[pretrain.frame_order]\n\
         weight = 1\nhidden_frame = 0.5\n[train]\nlr = 5e-3\nbatch_size = 8\n",
    );
    let learnt = run(&scene, "learnt", 30, &[]);
    // A place by chance is right once in four times.
    assert!(number(&learnt, "frame_order_accuracy") > 0.7, "{learnt}");
    let sum = number(&learnt, "frame_order_loss") + 0.5 * number(&learnt, "hidden_frame_loss");
    assert!((sum - number(&learnt, "loss")).abs() < 1e-5, "{learnt}");
    let info = stdout(scene.program().args(["model", "info", "learnt/video"]));
    assert!(info.contains("ViT"), "{info}");
    let fit = ["fit", "clips.csv", "--label", "kind", "--out", "model", "--set", "video.encoder=learnt/video"];
    scene.program().args(fit).args(["--set", "train.epochs=1"]).assert().success();
}

#[test]
fn a_large_batch_in_parts_is_the_same_batch() {
    let scene = scene();
    config(&scene, "lists.jsonl", "[pretrain.contrastive]\nweight = 1\nloss = \"sigmoid\"\n");
    let still = ["--set", "text.tower.dropout=0", "--set", "image.tower.dropout=0"];
    let whole = run(&scene, "whole", 2, &still);
    let parts = run(&scene, "parts", 2, &[&still[..], &["--set", "pretrain.contrastive.sub_batch=5"]].concat());
    let (a, b) = (number(&whole, "contrastive_loss"), number(&parts, "contrastive_loss"));
    assert!((a - b).abs() < 1e-3 * a, "{a} and {b}");
}

#[test]
fn a_killed_run_over_columns_goes_on_to_the_same_bits() {
    let scene = scene();
    config(
        &scene,
        "lists.jsonl",
        "[pretrain.contrastive]\nweight = 1\nsub_batch = 10\n[pretrain.mim]\nweight = 1\ndecoder_hidden = 32\n\
         decoder_layers = 1\n[pretrain.mlm]\nweight = 1\n[pretrain.itm]\nweight = 1\n[pretrain.caption]\nweight = 1\n",
    );
    assert_goes_on_to_the_same_bits(&scene, &["run.toml", "--set", "train.epochs=10"], &["pair/model.safetensors"]);
    let text = |out: &str| scene.bytes(&format!("{out}/text/model.safetensors"));
    assert!(text("whole") == text("killed"));
}

#[test]
fn the_texts_of_a_table_are_learnt_without_a_corpus() {
    let scene = Scene::new(1);
    let words = ["big", "dog", "eats", "red", "猫", "坐", "在", "树", "上"];
    let row = |n: usize| format!("{},{}\n", [words[n % 9]; 6].join(" "), [words[(n + 4) % 9]; 5].join(" "));
    scene.write("texts.csv", &format!("title,body\n{}", (0..200).map(row).collect::<String>()));
    let text = "[text]\nmax_tokens = 16\n[text.tower]\nhidden = 32\nlayers = 1\n[train]\nlr = 5e-3\nbatch_size = 8\n";
    let data = "[data]\ntable = \"texts.csv\"\ntypes = { title = \"text\", body = \"text\" }\n";
    scene.write("run.toml", &format!("{data}[pretrain.mlm]\nweight = 1\nspan = 2\n{text}"));
    let learnt = run(&scene, "learnt", 12, &[]);
    assert!(number(&learnt, "mlm_accuracy") > 0.9, "{learnt}");
    let info = stdout(scene.program().args(["model", "info", "learnt/text"]));
    assert!(info.contains("masked_lm"), "{info}");
}

#[test]
fn mistakes_in_columns_get_one_clear_line() {
    let scene = scene();
    let error = |objectives: &str| {
        config(&scene, "lists.jsonl", objectives);
        failure(scene.program().args(["pretrain", "run.toml", "--out", "x"]), 1)
    };
    assert!(error("[pretrain.contrastive]\nweigth = 1\n").contains("did you mean \"weight\"?"));
    let unknown = error("[pretrain.contrastive]\nweight = 1\npairs = [[\"photo\", \"wrods\"]]\n");
    assert!(unknown.contains("wrods") && unknown.contains("words"), "{unknown}");
    let classes = error("[pretrain.contrastive]\nweight = 1\nzero_shot = \"kind\"\n");
    assert!(classes.contains("kind"), "{classes}");
    scene.write("rows.txt", "some words\n");
    let causal =
        error("[corpus]\nfiles = [\"rows.txt\"]\n[pretrain.contrastive]\nweight = 1\n[pretrain.clm]\nweight = 1\n");
    assert!(causal.contains("pretrain.clm"), "{causal}");
}
