//! `sensorium extract`

use crate::scene::{Scene, failure};
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::record::Field;
use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorView};
use serde_json::{Value, json};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// The features of one column: for each row its tokens (one if pooled), None
/// where missing.
type Rows = Vec<Option<Vec<Vec<f32>>>>;

fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
}

fn from_jsonl(scene: &Scene, file: &str, column: &str) -> Rows {
    let vector = |v: &Value| -> Vec<f32> {
        v.as_array().expect("a list").iter().map(|x| x.as_f64().expect("a number") as f32).collect()
    };
    let text = String::from_utf8(scene.bytes(file)).expect("text");
    text.lines()
        .map(|line| {
            let object: Value = serde_json::from_str(line).expect("JSON");
            let cell = object[column].as_array()?;
            Some(if cell[0].is_array() { cell.iter().map(vector).collect() } else { vec![vector(&object[column])] })
        })
        .collect()
}

fn from_parquet(scene: &Scene, file: &str, column: &str) -> Rows {
    let list = |field: &Field| -> Vec<Field> {
        match field {
            Field::ListInternal(list) => list.elements().to_vec(),
            other => panic!("{other:?} is no list"),
        }
    };
    let vector = |fields: &[Field]| -> Vec<f32> {
        let number = |f: &Field| if let Field::Float(x) = f { *x } else { panic!("{f:?} is no number") };
        fields.iter().map(number).collect()
    };
    let file = std::fs::File::open(scene.path().join(file)).expect("a file");
    let reader = SerializedFileReader::new(file).expect("Parquet");
    reader
        .get_row_iter(None)
        .expect("rows")
        .map(|row| {
            let row = row.expect("a row");
            let (_, field) = row.get_column_iter().find(|(name, _)| *name == column).expect("the column");
            match field {
                Field::Null => None,
                field => {
                    let elements = list(field);
                    let nested = matches!(elements[0], Field::ListInternal(_));
                    let tokens = |e: &Field| vector(&list(e));
                    Some(if nested { elements.iter().map(tokens).collect() } else { vec![vector(&elements)] })
                }
            }
        })
        .collect()
}

fn from_safetensors(scene: &Scene, file: &str, column: &str) -> Rows {
    let bytes = scene.bytes(file);
    let tensors = SafeTensors::deserialize(&bytes).expect("safetensors");
    let view = tensors.tensor(column).expect("the column");
    let dim = view.shape()[1];
    let vectors: Vec<Vec<f32>> = floats(view.data()).chunks(dim).map(<[f32]>::to_vec).collect();
    if let Ok(present) = tensors.tensor(&format!("{column}.present")) {
        assert_eq!(present.dtype(), Dtype::BOOL);
        let vectors = vectors.into_iter().zip(present.data());
        return vectors
            .map(|(v, p)| {
                assert_eq!(*p == 0, v.iter().all(|x| x.is_nan()), "missing rows are NaN");
                (*p == 1).then(|| vec![v])
            })
            .collect();
    }
    let offsets = tensors.tensor(&format!("{column}.offsets")).expect("offsets");
    let offsets: Vec<usize> =
        offsets.data().chunks_exact(8).map(|b| i64::from_le_bytes(b.try_into().expect("8")) as usize).collect();
    offsets.windows(2).map(|w| (w[1] > w[0]).then(|| vectors[w[0]..w[1]].to_vec())).collect()
}

fn from_npy(scene: &Scene, file: &str) -> Rows {
    let bytes = scene.bytes(file);
    assert_eq!(&bytes[..8], b"\x93NUMPY\x01\x00");
    let header = 10 + usize::from(u16::from_le_bytes([bytes[8], bytes[9]]));
    assert_eq!(header % 64, 0);
    let text = std::str::from_utf8(&bytes[10..header]).expect("text");
    assert!(text.starts_with("{'descr': '<f4', 'fortran_order': False, 'shape': ("), "{text}");
    let shape = text.split(['(', ')']).nth(1).expect("a shape");
    let dim: usize = shape.split(", ").nth(1).expect("two sizes").parse().expect("a number");
    let missing = |v: &&[f32]| v.iter().any(|x| !x.is_nan());
    floats(&bytes[header..]).chunks(dim).map(|v| Some(v).filter(missing).map(|v| vec![v.to_vec()])).collect()
}

fn extract(scene: &Scene, more: &[&str]) -> assert_cmd::Command {
    let mut command = scene.program();
    command.args(["extract", "model"]).args(more);
    command
}

#[test]
fn every_format_holds_the_same_features() {
    let scene = Scene::new(60);
    scene.quick_model();
    scene
        .write("new.csv", "picture,caption\npictures/0.png,big\npictures/1.png,\n,很小\npictures/2.png,a huge thing\n");
    for (pooled, tokens) in [(true, [1, 1]), (false, [4, 0])] {
        let mut all: Vec<[Rows; 2]> = Vec::new();
        for ending in ["jsonl", "parquet", "safetensors"] {
            let out = format!("features.{ending}");
            let mut command = extract(&scene, &["new.csv", "--out", &out, "--batch-size", "3", "--shard-rows", "3"]);
            if pooled {
                command.arg("--pooled");
            }
            command.assert().success();
            assert!(!scene.path().join(format!("{out}.shards")).exists());
            all.push(["picture", "caption"].map(|column| match ending {
                "jsonl" => from_jsonl(&scene, &out, column),
                "parquet" => from_parquet(&scene, &out, column),
                _ => from_safetensors(&scene, &out, column),
            }));
        }
        let [picture, caption] = &all[0];
        assert!(all[1..].iter().all(|other| *other == all[0]), "the formats differ (pooled {pooled})");
        assert_eq!(picture.iter().map(Option::is_some).collect::<Vec<_>>(), [true, true, false, true]);
        assert_eq!(caption.iter().map(Option::is_some).collect::<Vec<_>>(), [true, false, true, true]);
        for (column, tokens) in [(picture, tokens[0]), (caption, tokens[1])] {
            for row in column.iter().flatten() {
                assert!(row.iter().all(|v| v.len() == 32), "the towers are 32 wide");
                assert!(tokens == 0 || row.len() == tokens, "{} tokens", row.len());
            }
        }
        assert_ne!(picture[0], picture[1]);
        if pooled {
            let out = ["new.csv", "--out", "features.npy", "--pooled", "--column", "caption"];
            extract(&scene, &out).assert().success();
            assert_eq!(from_npy(&scene, "features.npy"), *caption);
        }
    }
}

#[test]
fn layers_count_from_both_ends_and_pool_like_the_tower() {
    let scene = Scene::new(60);
    scene.fit("model", &["--set", "train.epochs=1", "--set", "text.tower.layers=2"]).assert().success();
    scene.write("new.csv", "caption\na huge thing\nbig\n");
    let layer = |out: &str, more: &[&str]| {
        extract(&scene, &["new.csv", "--out", out, "--column", "caption"]).args(more).assert().success();
        from_jsonl(&scene, out, "caption")
    };
    let (first, second) = (layer("1.jsonl", &["--layer", "1"]), layer("2.jsonl", &["--layer", "2"]));
    assert_ne!(first, second);
    assert_eq!(first, layer("back.jsonl", &["--layer", "-2"]));
    let pooled = layer("p.jsonl", &["--layer", "-1", "--pooled"]);
    for (tokens, vector) in second.iter().flatten().zip(pooled.iter().flatten()) {
        for (i, x) in vector[0].iter().enumerate() {
            let mean: f32 = tokens.iter().map(|t| t[i]).sum::<f32>() / tokens.len() as f32;
            assert!((mean - x).abs() < 1e-5, "{mean} {x}");
        }
    }
    let error =
        failure(&mut extract(&scene, &["new.csv", "--out", "x.jsonl", "--layer", "3", "--column", "caption"]), 1);
    assert!(error.contains("no layer 3") && error.contains("1 to 2"), "{error}");
}

#[test]
fn what_cannot_be_written_is_said_before_anything_is_computed() {
    let scene = Scene::new(60);
    scene.quick_model();
    for (arguments, wanted) in [
        (vec!["table.csv", "--out", "x.npy"], "--pooled"),
        (vec!["table.csv", "--out", "x.npy", "--pooled"], "--column"),
        (vec!["table.csv", "--out", "x.txt"], ".parquet"),
        (vec!["table.csv", "--out", "x.jsonl", "--column", "kind"], "its inputs are: picture, caption"),
        (vec!["table.csv", "--out", "x.jsonl", "--type", "caption=text"], "leave --type out"),
    ] {
        let error = failure(&mut extract(&scene, &arguments), 1);
        assert!(error.contains(wanted), "{arguments:?}: {error}");
    }
    let entries = std::fs::read_dir(scene.path()).expect("a folder");
    assert!(entries.flatten().all(|e| !e.file_name().to_string_lossy().starts_with("x.")), "nothing is left behind");
}

#[test]
fn a_row_that_cannot_be_read_is_reported_and_has_missing_features() {
    let scene = Scene::new(60);
    scene.quick_model();
    scene.write("pictures/broken.png", "not a picture");
    scene.write(
        "new.csv",
        "id,picture,caption\nA-1,pictures/0.png,big\nA-2,pictures/broken.png,big\nA-3,pictures/1.png,big\n",
    );
    let run = |more: &[&str], status: i32| {
        let mut command = extract(&scene, &["new.csv", "--pooled", "--out"]);
        let output = command.args(more).assert().code(status).get_output().clone();
        String::from_utf8(output.stderr).expect("text")
    };
    for out in ["x.jsonl", "x.parquet"] {
        let said = run(&[out], 0);
        assert!(said.contains("row 2, column \"picture\"") && said.contains("1 rows could not be read"), "{said}");
    }
    let lines = |file: &str| -> Vec<Value> {
        let text = String::from_utf8(scene.bytes(file)).expect("text");
        text.lines().map(|l| serde_json::from_str(l).expect("JSON")).collect()
    };
    let rows = lines("x.jsonl");
    assert_eq!(rows.len(), 3);
    assert!(rows[1]["picture"].is_null() && rows[1]["caption"].is_array() && rows[1]["error"].is_string());
    assert!(rows[2]["picture"].is_array() && rows[2].get("error").is_none());
    let parquet: Rows = from_parquet(&scene, "x.parquet", "picture");
    assert_eq!(parquet.iter().map(Option::is_some).collect::<Vec<_>>(), [true, false, true]);
    let said = run(&["y.jsonl", "--on-error", "skip"], 0);
    assert!(said.contains("row 2"), "{said}");
    let rows = lines("y.jsonl");
    assert_eq!(rows.iter().map(|r| r["row"].as_u64().expect("a number")).collect::<Vec<_>>(), [1, 3]);
    let said = run(&["z.jsonl", "--on-error", "fail"], 1);
    assert!(said.contains("error: row 2") && said.contains("--on-error"), "{said}");
    assert!(!scene.path().join("z.jsonl").exists());
}

const KILLED: [&str; 7] = ["table.csv", "--batch-size", "2", "--shard-rows", "4", "--threads", "1"];

fn spawn(scene: &Scene, out: &str) -> Child {
    let mut command = Command::new(assert_cmd::cargo::cargo_bin("sensorium"));
    command.current_dir(scene.path()).env("SENSORIUM_CACHE", scene.path().join("cache"));
    command.args(["extract", "model", "--out", out]).args(KILLED);
    command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("the program starts")
}

#[test]
fn a_killed_run_goes_on_to_the_same_bytes() {
    let scene = Scene::new(400);
    scene.quick_model();
    for out in ["features.parquet", "features.safetensors"] {
        let whole = format!("whole-{out}");
        assert!(spawn(&scene, &whole).wait().expect("it ends").success());
        let mut kills = 0;
        for round in 0..60 {
            let mut run = spawn(&scene, out);
            std::thread::sleep(Duration::from_millis(40 + 53 * round));
            if let Some(status) = run.try_wait().expect("it can be asked") {
                assert!(status.success(), "a run that went on failed: {status}");
                break;
            }
            run.kill().expect("it can be killed");
            run.wait().expect("it ends");
            kills += 1;
        }
        assert!(kills > 0, "the run was never killed");
        assert!(scene.bytes(&whole) == scene.bytes(out), "after {kills} kills");
        assert!(!scene.path().join(format!("{out}.shards")).exists());
    }
}

#[test]
fn two_extractions_are_never_mixed() {
    let scene = Scene::new(60);
    scene.quick_model();
    scene.write("pictures/broken.png", "not a picture");
    let good: String = (0..8).map(|i| format!("pictures/{i}.png,big\n")).collect();
    scene.write("new.csv", &format!("picture,caption\n{good}pictures/broken.png,big\n"));
    let run = |more: &[&str]| {
        let mut command = extract(&scene, &["new.csv", "--out", "x.jsonl", "--batch-size", "2", "--shard-rows", "2"]);
        command.args(["--on-error", "fail"]).args(more);
        command
    };
    let stopped = failure(&mut run(&[]), 1);
    assert!(stopped.contains("row 9"), "{stopped}");
    assert!(scene.path().join("x.jsonl.shards/part-00003").exists(), "four shards are whole");
    let error = failure(&mut run(&["--pooled"]), 1);
    assert!(error.contains("another extraction (the options differ)") && error.contains("--restart"), "{error}");
    // The picture is mended, the table is not touched: the run goes on.
    std::fs::copy(scene.path().join("pictures/0.png"), scene.path().join("pictures/broken.png")).expect("a copy");
    let output = run(&[]).assert().success().get_output().clone();
    assert!(String::from_utf8_lossy(&output.stderr).contains("going on after row 8 of 9"));
    assert_eq!(from_jsonl(&scene, "x.jsonl", "picture").len(), 9);

    scene.write("pictures/broken.png", "not a picture");
    failure(&mut run(&[]), 1);
    scene.write("new.csv", &format!("picture,caption\n{good}"));
    let error = failure(&mut run(&[]), 1);
    assert!(error.contains("the table differs"), "{error}");
    run(&["--restart"]).assert().success();
    assert_eq!(from_jsonl(&scene, "x.jsonl", "picture").len(), 8);
}

#[test]
fn shards_can_stay_files_of_their_own() {
    let scene = Scene::new(60);
    scene.quick_model();
    let common = ["table.csv", "--pooled", "--batch-size", "8", "--shard-rows", "25"];
    extract(&scene, &common).args(["--out", "x.parquet"]).assert().success();
    extract(&scene, &common).args(["--out", "y.parquet", "--shards"]).assert().success();
    let whole = from_parquet(&scene, "x.parquet", "picture");
    let parts = ["y-00000-of-00002.parquet", "y-00001-of-00002.parquet"];
    let rows: Vec<Rows> = parts.iter().map(|part| from_parquet(&scene, part, "picture")).collect();
    assert_eq!(rows.iter().map(Vec::len).collect::<Vec<_>>(), [32, 28], "25 rows are made whole batches of 8");
    assert_eq!(rows.concat(), whole);
}

/// A BERT checkpoint with a tokenizer, small and arbitrary.
pub fn write_bert(scene: &Scene, folder: &str) {
    const HIDDEN: usize = 8;
    let words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "b", "c", "甲", "乙"];
    let vocabulary: serde_json::Map<String, Value> =
        words.iter().enumerate().map(|(i, w)| ((*w).to_owned(), json!(i))).collect();
    let mut tensors: Vec<(String, Vec<usize>)> = vec![
        ("embeddings.word_embeddings.weight".into(), vec![words.len(), HIDDEN]),
        ("embeddings.position_embeddings.weight".into(), vec![16, HIDDEN]),
        ("embeddings.token_type_embeddings.weight".into(), vec![2, HIDDEN]),
    ];
    let mut linear = |name: &str, rows: usize, columns: usize| {
        tensors.push((format!("{name}.weight"), vec![rows, columns]));
        tensors.push((format!("{name}.bias"), vec![rows]));
    };
    for layer in ["encoder.layer.0", "encoder.layer.1"] {
        for part in ["attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense"] {
            linear(&format!("{layer}.{part}"), HIDDEN, HIDDEN);
        }
        linear(&format!("{layer}.intermediate.dense"), 16, HIDDEN);
        linear(&format!("{layer}.output.dense"), HIDDEN, 16);
    }
    for norm in ["embeddings", "encoder.layer.0.attention.output", "encoder.layer.0.output"]
        .into_iter()
        .chain(["encoder.layer.1.attention.output", "encoder.layer.1.output"])
    {
        tensors.push((format!("{norm}.LayerNorm.weight"), vec![HIDDEN]));
        tensors.push((format!("{norm}.LayerNorm.bias"), vec![HIDDEN]));
    }
    let bytes: Vec<(String, Vec<usize>, Vec<u8>)> = tensors
        .into_iter()
        .enumerate()
        .map(|(at, (name, dims))| {
            // Words that differ, and norms that keep the differences.
            let (mean, scale) = match &name {
                n if n.ends_with("word_embeddings.weight") => (0.0, 4.0),
                n if n.ends_with("LayerNorm.weight") => (1.0, 0.4),
                n if n.ends_with("LayerNorm.bias") => (0.0, 0.2),
                _ => (0.0, 1.0),
            };
            let value = |i: usize| {
                let mut bits = (at * 4096 + i) as u32;
                for factor in [0x7feb_352d, 0x846c_a68b_u32] {
                    bits = (bits ^ (bits >> 15)).wrapping_mul(factor);
                }
                mean + scale * ((bits >> 8) as f32 / 16_777_216.0 - 0.5)
            };
            let data = (0..dims.iter().product()).flat_map(|i| value(i).to_le_bytes()).collect();
            (name, dims, data)
        })
        .collect();
    let views = bytes.iter().map(|(name, dims, data)| {
        (name.as_str(), TensorView::new(Dtype::F32, dims.clone(), data).expect("whole tensors"))
    });
    let config = json!({
        "model_type": "bert", "vocab_size": words.len(), "hidden_size": HIDDEN, "num_hidden_layers": 2,
        "num_attention_heads": 2, "intermediate_size": 16, "max_position_embeddings": 16, "type_vocab_size": 2,
        "hidden_act": "gelu", "layer_norm_eps": 1e-12
    });
    let special = |token: &str, id: u32| {
        json!({"id": id, "content": token, "single_word": false, "lstrip": false, "rstrip": false,
               "normalized": false, "special": true})
    };
    let tokenizer = json!({
        "version": "1.0",
        "added_tokens": [special("[PAD]", 0), special("[UNK]", 1), special("[CLS]", 2), special("[SEP]", 3)],
        "normalizer": {"type": "BertNormalizer", "clean_text": true, "handle_chinese_chars": true,
                       "strip_accents": null, "lowercase": true},
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": {"type": "BertProcessing", "sep": ["[SEP]", 3], "cls": ["[CLS]", 2]},
        "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": true},
        "model": {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
                  "max_input_chars_per_word": 100, "vocab": vocabulary}
    });
    std::fs::create_dir(scene.path().join(folder)).expect("a folder");
    scene.write(&format!("{folder}/config.json"), &config.to_string());
    scene.write(&format!("{folder}/tokenizer.json"), &tokenizer.to_string());
    let file = safetensors::serialize(views, None).expect("valid");
    std::fs::write(scene.path().join(folder).join("model.safetensors"), file).expect("a file");
}

#[test]
fn a_checkpoint_extracts_the_columns_that_it_can_read() {
    let scene = Scene::new(4);
    write_bert(&scene, "bert");
    let run = |more: &[&str]| {
        let mut command = scene.program();
        command.args(["extract", "bert", "new.csv"]).args(more);
        command
    };
    scene.write("new.csv", "id,left,right,number\nA-1,a b c,甲乙,1.5\nA-2,c,,2.5\nA-3,b a,a 甲,3.5\n");
    let text = ["--type", "left=text", "--type", "right=text"];
    run(&["--out", "x.jsonl"]).args(text).assert().success();
    let left = from_jsonl(&scene, "x.jsonl", "left");
    let lengths: Vec<usize> = left.iter().flatten().map(Vec::len).collect();
    assert_eq!(lengths, [5, 3, 4], "the words, [CLS] and [SEP]");
    assert!(left.iter().flatten().flatten().all(|v| v.len() == 8));
    let right = from_jsonl(&scene, "x.jsonl", "right");
    assert_eq!(right.iter().map(Option::is_some).collect::<Vec<_>>(), [true, false, true]);
    let first: Value =
        serde_json::from_slice(scene.bytes("x.jsonl").split(|b| *b == b'\n').next().expect("a line")).expect("JSON");
    assert!(first.get("number").is_none(), "BERT reads no numbers");

    // BERT without a pooler: the last layer is the last hidden state.
    run(&["--out", "last.jsonl", "--layer", "2"]).args(text).assert().success();
    assert_eq!(from_jsonl(&scene, "last.jsonl", "left"), left);
    // A column that is named is text, whatever it looks like.
    run(&["--out", "named.npy", "--column", "left", "--pooled"]).assert().success();
    assert_eq!(from_npy(&scene, "named.npy").len(), 3);
    // Each row's features are its own, whatever stands beside it.
    run(&["--out", "alone.jsonl", "--batch-size", "1"]).args(text).assert().success();
    for (a, b) in from_jsonl(&scene, "alone.jsonl", "left").iter().flatten().zip(left.iter().flatten()) {
        for (a, b) in a.iter().flatten().zip(b.iter().flatten()) {
            assert!((a - b).abs() < 1e-6, "{a} {b}");
        }
    }
    let error =
        failure(run(&["--out", "y.jsonl", "--type", "left=image", "--column", "left"]).current_dir(scene.path()), 1);
    assert!(error.contains("is image, and the model reads text"), "{error}");
}

#[test]
fn a_weights_file_stands_for_the_folder_that_it_lies_in() {
    let scene = Scene::new(40);
    write_bert(&scene, "bert");
    scene.write("new.csv", "left\na b c\nc\nb a\n");
    let run = |model: &str, out: &str| {
        let mut command = scene.program();
        command.args(["extract", model, "new.csv", "--column", "left", "--pooled", "--out", out]);
        command
    };
    run("bert", "folder.npy").assert().success();
    run("bert/model.safetensors", "file.npy").assert().success();
    assert_eq!(scene.bytes("file.npy"), scene.bytes("folder.npy"));
    // Weights alone do not say what they are of.
    std::fs::create_dir(scene.path().join("alone")).expect("a folder");
    std::fs::copy(scene.path().join("bert/model.safetensors"), scene.path().join("alone/weights.safetensors"))
        .expect("a copy");
    let error = failure(&mut run("alone/weights.safetensors", "alone.npy"), 1);
    assert!(error.contains("weights.safetensors") && error.contains("config.json"), "{error}");
    assert!(error.contains("give a folder that holds both"), "{error}");

    let model = scene.quick_model();
    let extract = |from: &str, out: &str| {
        scene.program().args(["extract", from, "table.csv", "--pooled", "--out", out]).assert().success();
    };
    extract(model, "ours.jsonl");
    extract(&format!("{model}/model.safetensors"), "ours-file.jsonl");
    assert_eq!(scene.bytes("ours-file.jsonl"), scene.bytes("ours.jsonl"));
}
