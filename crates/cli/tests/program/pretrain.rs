//! `sensorium pretrain`

use crate::scene::{Scene, failure, stdout};
use serde_json::Value;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// What every small run sets, so that it takes seconds.
const SMALL: [&str; 12] = [
    "--set",
    "text.tower.hidden=32",
    "--set",
    "text.tower.layers=1",
    "--set",
    "text.max_tokens=16",
    "--set",
    "train.epochs=4",
    "--set",
    "train.lr=5e-3",
    "--set",
    "corpus.val=0.2",
];

const WORDS: [&str; 9] = ["big", "dog", "eats", "red", "猫", "坐", "在", "树", "上"];

/// A language in which the next word follows from the last: half of it is
/// Chinese.
pub fn language(scene: &Scene) {
    let line = |n: usize| (0..12).map(|i| WORDS[(n + i) % WORDS.len()]).collect::<Vec<_>>().join(" ") + "\n";
    scene.write("text.txt", &(0..240).map(line).collect::<String>());
}

/// A language in which a line is about one thing: what is hidden in it follows
/// from the rest.
fn topics(scene: &Scene) {
    let line = |n: usize| [WORDS[n % WORDS.len()]; 12].join(" ") + "\n";
    scene.write("text.txt", &(0..240).map(line).collect::<String>());
}

pub fn pretrain(scene: &Scene, out: &str, more: &[&str]) -> assert_cmd::Command {
    let mut command = scene.program();
    command.args(["pretrain", "text.txt", "--out", out]).args(SMALL).args(more);
    command
}

fn metrics(command: &mut assert_cmd::Command) -> Value {
    serde_json::from_str(&stdout(command.arg("--json"))).expect("one JSON object")
}

#[test]
fn a_masked_language_model_learns_and_a_fit_starts_from_it() {
    let scene = Scene::new(60);
    topics(&scene);
    let long = ["--set", "train.epochs=12", "--set", "train.batch_size=8", "--set", "corpus.unit=line"];
    let learnt = metrics(&mut pretrain(&scene, "masked", &long));
    let accuracy = learnt["mlm_accuracy"].as_f64().expect("accuracy");
    // Nine words: a guess is right once in nine times.
    assert!(accuracy > 0.9, "{learnt}");
    let perplexity = learnt["mlm_perplexity"].as_f64().expect("perplexity");
    assert!((perplexity - learnt["mlm_loss"].as_f64().expect("loss").exp()).abs() < 1e-9, "{learnt}");
    for file in [
        "README.md",
        "report.html",
        "loss.svg",
        "metrics.json",
        "config.toml",
        "metrics.jsonl",
        "text/config.json",
        "text/model.safetensors",
        "text/tokenizer.json",
    ] {
        assert!(!scene.bytes(&format!("masked/{file}")).is_empty(), "{file}");
    }
    let info = stdout(scene.program().args(["model", "info", "masked/text"]));
    assert!(info.contains("BERT") && info.contains("masked_lm"), "{info}");
    let fit = ["--set", "text.encoder=masked/text", "--set", "train.epochs=2", "--ignore", "picture"];
    scene
        .program()
        .args(["fit", "table.csv", "--label", "kind", "--out", "model", "--type", "caption=text"])
        .args(fit)
        .assert()
        .success();
    scene
        .program()
        .args(["extract", "masked/text", "table.csv", "--type", "caption=text", "--out", "features.parquet"])
        .assert()
        .success();
    // Going on from what was learnt begins where it ended.
    let on = metrics(scene.program().args(["pretrain", "text.txt", "--out", "on"]).args([
        "--set",
        "text.encoder=masked/text",
        "--set",
        "train.epochs=1",
        "--set",
        "train.lr=1e-5",
        "--set",
        "corpus.val=0.2",
        "--set",
        "corpus.unit=line",
    ]));
    assert!(on["mlm_loss"].as_f64().expect("loss") < learnt["mlm_loss"].as_f64().expect("loss") + 0.3, "{on}");
}

#[test]
fn causal_language_models_learn_the_next_word() {
    let scene = Scene::new(20);
    language(&scene);
    for structure in ["gpt2", "llama"] {
        let set = format!("pretrain.clm.structure={structure}");
        let learnt = metrics(&mut pretrain(
            &scene,
            structure,
            &[
                "--set",
                "pretrain.clm.weight=1",
                "--set",
                &set,
                "--set",
                "train.epochs=10",
                "--set",
                "train.batch_size=8",
            ],
        ));
        let accuracy = learnt["clm_accuracy"].as_f64().expect("accuracy");
        assert!(accuracy > 0.8, "{structure}: {learnt}");
        let info = stdout(scene.program().args(["model", "info", &format!("{structure}/text")]));
        assert!(info.contains("decoder"), "{info}");
    }
}

#[test]
fn whole_words_and_spans_and_lines() {
    let scene = Scene::new(20);
    language(&scene);
    for (out, set) in [
        ("words", "pretrain.mlm.whole_word=true"),
        ("blanks", "corpus.words=blanks"),
        ("spans", "pretrain.mlm.span=2"),
        ("lines", "corpus.unit=line"),
        ("steps", "pretrain.epoch_batches=2"),
    ] {
        let learnt = metrics(&mut pretrain(&scene, out, &["--set", set, "--set", "train.epochs=1"]));
        assert!(learnt["mlm_loss"].as_f64().is_some_and(f64::is_finite), "{out}: {learnt}");
    }
}

#[test]
fn threads_do_not_change_what_is_learnt() {
    let scene = Scene::new(20);
    language(&scene);
    for threads in ["1", "3"] {
        pretrain(&scene, threads, &["--threads", threads]).assert().success();
    }
    let one = scene.bytes("1/text/model.safetensors");
    assert!(one == scene.bytes("3/text/model.safetensors"));
    pretrain(&scene, "seed", &["--set", "train.seed=1"]).assert().success();
    assert!(one != scene.bytes("seed/text/model.safetensors"), "another seed gives another model");
}

#[test]
fn pictures_and_text_are_learnt_together_and_fits_start_from_them() {
    let scene = Scene::new(60);
    language(&scene);
    let run = |out: &str, method: &str, sizes: &str, more: &[&str]| -> Value {
        scene.write(
            "both.toml",
            &format!(
                "[corpus]\nfiles = [\"text.txt\"]\nval = 0.2\n[data]\ntable = \"table.csv\"\ncache = false\n\
                 [text]\nmax_tokens = 16\n[text.tower]\nhidden = 32\nlayers = 1\n\
                 {sizes}[pretrain.mim]\n\
                 weight = 1\nmethod = \"{method}\"\ndecoder_hidden = 32\ndecoder_layers = 1\n[train]\nepochs = 3\nlr = 5e-3\n"
            ),
        );
        let mut command = scene.program();
        metrics(command.args(["pretrain", "both.toml", "--out", out]).args(more))
    };
    for method in ["mae", "simmim"] {
        let sizes = "[image]\nsize = 16\npatch_size = 4\n[image.tower]\nhidden = 32\nlayers = 1\n";
        let learnt = run(method, method, sizes, &["--set", "pretrain.mlm.weight=0.5"]);
        let value = |name: &str| learnt[name].as_f64().unwrap_or_else(|| panic!("no {name} in {learnt}"));
        let sum = 0.5 * value("mlm_loss") + value("mim_loss");
        assert!((sum - value("loss")).abs() < 1e-6, "{learnt}");
        let info = stdout(scene.program().args(["model", "info", &format!("{method}/image")]));
        assert!(info.contains("ViT"), "{info}");
        let encoder = format!("image.encoder={method}/image");
        scene
            .program()
            .args(["fit", "table.csv", "--label", "kind", "--out", &format!("model-{method}"), "--ignore", "caption"])
            .args(["--set", &encoder, "--set", "train.epochs=1", "--set", "data.cache=false"])
            .assert()
            .success();
        // Going on, its own head or decoder with it.
        let on = run(&format!("{method}-on"), method, "", &["--set", &encoder, "--set", "train.lr=1e-6"]);
        assert!((on["mim_loss"].as_f64().expect("loss") - value("mim_loss")).abs() < 0.05, "{on} after {learnt}");
    }
}

#[test]
fn sounds_are_learnt_and_a_fit_starts_from_them() {
    let scene = Scene::new(20);
    let mut table = String::from("sound,kind\n");
    for n in 0..40_u32 {
        // Half a second of one of two tones, in 16 bits; one is shorter than a square, one longer
        // than what is heard.
        let pitch = [220.0, 660.0][n as usize % 2];
        let samples = (0..[1_600, 32_000].get(n as usize).copied().unwrap_or(8_000)).map(|i| {
            let t = f64::from(i) / 16_000.0;
            ((t * pitch * std::f64::consts::TAU).sin() * f64::from(8_000 + 100 * n)) as i16
        });
        let data: Vec<u8> = samples.flat_map(i16::to_le_bytes).collect();
        let length = data.len() as u32;
        let mut file: Vec<u8> = b"RIFF".to_vec();
        file.extend((36 + length).to_le_bytes());
        file.extend(b"WAVEfmt \x10\0\0\0\x01\0\x01\0");
        file.extend(16_000_u32.to_le_bytes());
        file.extend(32_000_u32.to_le_bytes());
        file.extend(b"\x02\0\x10\0data");
        file.extend(length.to_le_bytes());
        file.extend(data);
        std::fs::write(scene.path().join(format!("{n}.wav")), file).expect("a sound");
        table += &format!("{n}.wav,{}\n", ["low", "high"][n as usize % 2]);
    }
    scene.write("sounds.csv", &table);
    scene.write(
        "sounds.toml",
        "[data]\ntable = \"sounds.csv\"\ncache = false\n[audio]\nmels = 32\nmax_seconds = 0.5\n[audio.tower]\n\
         hidden = 32\nlayers = 1\n[pretrain.msm]\nweight = 1\n[train]\nepochs = 20\nlr = 5e-3\nbatch_size = 8\n",
    );
    let learnt = metrics(scene.program().args(["pretrain", "sounds.toml", "--out", "learnt"]));
    let loss = learnt["msm_loss"].as_f64().expect("loss");
    // Guessing the mean of everything gives 1, since values have a deviation of 1.
    assert!(loss < 0.6, "{learnt}");
    let info = stdout(scene.program().args(["model", "info", "learnt/audio"]));
    assert!(info.contains("AST"), "{info}");
    scene
        .program()
        .args(["fit", "sounds.csv", "--label", "kind", "--out", "model", "--set", "audio.encoder=learnt/audio"])
        .args(["--set", "audio.pad=false", "--set", "train.epochs=1", "--set", "data.cache=false"])
        .assert()
        .success();
    let answers = stdout(scene.program().args(["predict", "model", "sounds.csv"]));
    assert_eq!(answers.lines().count(), 41, "{answers}");
    let set = ["--set", "audio.encoder=learnt/audio", "--set", "train.epochs=1"];
    scene.write("on.toml", "[data]\ntable = \"sounds.csv\"\ncache = false\n[pretrain.msm]\nweight = 1\n");
    scene.program().args(["pretrain", "on.toml", "--out", "on"]).args(set).assert().success();
}

/// Runs the program once undisturbed and once killed again and again, and
/// compares what both write.
pub fn assert_goes_on_to_the_same_bits(scene: &Scene, arguments: &[&str], files: &[&str]) {
    let spawn = |out: &str, resume: bool| -> Child {
        let mut command = Command::new(assert_cmd::cargo::cargo_bin("sensorium"));
        command.current_dir(scene.path()).arg("pretrain").args(arguments).args(["--out", out]);
        command.args(["--set", "train.checkpoint_every.steps=3"]).args(resume.then_some("--resume"));
        command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("the program starts")
    };
    assert!(spawn("whole", false).wait().expect("it ends").success());
    let mut kills = 0;
    for round in 0..=40u64 {
        let mut run = spawn("killed", round > 0);
        let start = Instant::now();
        let latest = scene.path().join("killed/checkpoints/latest");
        let mut over = false;
        // The last one may take its time: the machine may be doing something else.
        let disturbed = || start.elapsed() >= Duration::from_millis(100 + 60 * round) && round < 40;
        while !over && (!disturbed() || round == 0 && !latest.exists()) {
            over = run.try_wait().expect("it can be asked").is_some_and(|status| {
                assert!(status.success(), "a resumed run failed: {status}");
                true
            });
            std::thread::sleep(Duration::from_millis(2));
        }
        if over {
            break;
        }
        run.kill().expect("it can be killed");
        run.wait().expect("it ends");
        kills += 1;
    }
    assert!(kills > 0, "the run was never killed");
    for file in files {
        let written = |out: &str| scene.bytes(&format!("{out}/{file}"));
        assert!(written("whole") == written("killed"), "{file} after {kills} kills");
    }
}

#[test]
fn a_killed_run_goes_on_to_the_same_bits() {
    let scene = Scene::new(20);
    language(&scene);
    let arguments: Vec<&str> = ["text.txt"].into_iter().chain(SMALL).chain(["--set", "train.epochs=12"]).collect();
    assert_goes_on_to_the_same_bits(&scene, &arguments, &["text/model.safetensors"]);
}

/// Two shards: samples of a picture, a caption and a JSON object each.
fn shards(scene: &Scene) {
    std::fs::create_dir(scene.path().join("shards")).expect("a folder");
    for shard in 0..2 {
        let file = std::fs::File::create(scene.path().join(format!("shards/{shard}.tar"))).expect("a shard");
        let mut tar = tar::Builder::new(file);
        let mut add = |name: String, content: &[u8]| {
            let mut header = tar::Header::new_gnu();
            header.set_size(content.len() as u64);
            tar.append_data(&mut header, name, content).expect("a file");
        };
        for n in shard * 10..shard * 10 + 10 {
            let words = [WORDS[n % WORDS.len()]; 12].join(" ");
            add(format!("{n:04}.png"), &scene.bytes(&format!("pictures/{n}.png")));
            add(format!("{n:04}.txt"), format!("{words}\n{words}\n").as_bytes());
            add(format!("{n:04}.json"), format!("{{\"kind\": \"{}\"}}", ["red", "蓝"][n % 2]).as_bytes());
        }
        tar.finish().expect("a shard");
    }
}

#[test]
fn a_killed_run_over_mixed_shards_goes_on_in_the_middle_of_one_to_the_same_bits() {
    let scene = Scene::new(20);
    language(&scene);
    shards(&scene);
    scene.write(
        "mixed.toml",
        "[corpus]\nunit = \"line\"\nval = 0.1\n[[corpus.source]]\nfiles = [\"shards\"]\nweight = 2.5\n\
         [[corpus.source]]\nfiles = [\"text.txt\"]\nweight = 0.2\n[data]\ntable = \"shards\"\n[text]\nmax_tokens = 16\n\
         [text.tower]\nhidden = 32\nlayers = 1\n[image]\nsize = 16\npatch_size = 4\n[image.tower]\nhidden = 32\n\
         layers = 1\n[pretrain.mlm]\nweight = 1\n[pretrain.mim]\nweight = 1\n[train]\nbatch_size = 8\nlr = 5e-3\n",
    );
    let arguments = ["mixed.toml", "--set", "train.epochs=12", "--set", "data.cache=false"];
    let written = ["text/model.safetensors", "image/model.safetensors"];
    assert_goes_on_to_the_same_bits(&scene, &arguments, &written);
}

#[test]
fn shards_are_a_table_like_any_other() {
    let scene = Scene::new(20);
    shards(&scene);
    let seen = stdout(scene.program().args(["inspect", "shards", "--label", "kind"]));
    assert!(seen.contains("__key__") && seen.contains("image") && seen.contains("蓝"), "{seen}");
    let fit = ["fit", "shards", "--label", "kind", "--out", "model", "--type", "txt=text"];
    let small = ["--set", "image.size=16", "--set", "image.patch_size=8", "--set", "train.epochs=1"];
    scene.program().args(fit).args(small).assert().success();
    let answers = stdout(scene.program().args(["predict", "model", "shards/1.tar"]));
    assert_eq!(answers.lines().count(), 11, "{answers}");
}

#[test]
fn mistakes_get_one_clear_line() {
    let scene = Scene::new(20);
    language(&scene);
    let run = |arguments: &[&str]| failure(scene.program().arg("pretrain").args(arguments), 1);
    assert!(run(&["nowhere.txt"]).contains("nowhere.txt"));
    assert!(run(&["text.txt", "--set", "pretrain.mlm.shard=1"]).contains("did you mean \"share\"?"));
    scene.write("run.toml", "[corpus]\nfiles = [\"text.txt\"]\n");
    assert!(run(&["run.toml"]).contains("pretrain.mlm.weight"));
    scene.write("empty.txt", "\n\n");
    assert!(run(&["empty.txt"]).contains("not a single word"));
    scene.write("cut.tar", "no tar file");
    assert!(run(&["cut.tar"]).contains("cut.tar"));
    let default = stdout(scene.program().args(["config", "--default", "--pretrain"]));
    assert!(default.contains("[pretrain.mlm]"), "{default}");
}
