//! Encoders from checkpoints, through every verb that takes them.
//!
//! The checkpoints are those of the model's parity tests: tiny, of the
//! reference library's shapes and names, with arbitrary values.

use crate::scene::{SMALL, Scene, failure, stdout};
use safetensors::tensor::{Dtype, TensorView};
use serde_json::{Value, json};
use std::path::Path;

/// A value between −scale/2 and scale/2 for each place of a tensor.
pub fn arbitrary(name: &str, i: usize) -> f32 {
    let seed = name.bytes().fold(7_u32, |hash, byte| hash.wrapping_mul(31).wrapping_add(u32::from(byte)));
    let mut bits = seed.wrapping_add(i as u32);
    for factor in [0x7feb_352d, 0x846c_a68b_u32] {
        bits = (bits ^ (bits >> 15)).wrapping_mul(factor);
    }
    let spread = (bits >> 8) as f32 / 16_777_216.0 - 0.5;
    // Norms and variances near one, so that nothing vanishes.
    let near_one = name.ends_with("running_var") || (name.contains("norm") && name.ends_with("weight"));
    if near_one { 1.0 + 0.4 * spread } else { spread }
}

fn write_tensors(path: &Path, tensors: &[(String, Vec<usize>)]) {
    let bytes: Vec<(&str, Vec<usize>, Vec<u8>)> = tensors
        .iter()
        .map(|(name, dims)| {
            let data = (0..dims.iter().product()).flat_map(|i| arbitrary(name, i).to_le_bytes());
            (name.as_str(), dims.clone(), data.collect())
        })
        .collect();
    let views = bytes
        .iter()
        .map(|(name, dims, data)| (*name, TensorView::new(Dtype::F32, dims.clone(), data).expect("whole tensors")));
    std::fs::write(path, safetensors::serialize(views, None).expect("valid")).expect("a file");
}

/// Writes the checkpoint of a parity case into a folder, with the file that
/// says how its inputs are prepared.
pub fn write_checkpoint(scene: &Scene, case: &str, folder: &str, processor: Option<(&str, Value)>) {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("../model/tests/golden/parity/{case}.json"));
    let golden: Value = serde_json::from_slice(&std::fs::read(golden).expect("a golden file")).expect("JSON");
    let tensors: Vec<(String, Vec<usize>, f64, f64)> =
        serde_json::from_value(golden["tensors"].clone()).expect("a list of tensors");
    let tensors: Vec<_> = tensors.into_iter().map(|(name, dims, ..)| (name, dims)).collect();
    std::fs::create_dir(scene.path().join(folder)).expect("a folder");
    write_tensors(&scene.path().join(folder).join("model.safetensors"), &tensors);
    scene.write(&format!("{folder}/config.json"), &golden["config"].to_string());
    if let Some((name, processor)) = processor {
        scene.write(&format!("{folder}/{name}"), &processor.to_string());
    }
}

/// A tokenizer of the words w0 to w39.
pub fn write_tokenizer(scene: &Scene, folder: &str) {
    let vocabulary: serde_json::Map<String, Value> = (0..40).map(|i| (format!("w{i}"), json!(i))).collect();
    let tokenizer = json!({
        "version": "1.0", "added_tokens": [], "normalizer": null, "pre_tokenizer": {"type": "WhitespaceSplit"},
        "post_processor": null, "decoder": null,
        "model": {"type": "WordLevel", "unk_token": "w3", "vocab": vocabulary}
    });
    scene.write(&format!("{folder}/tokenizer.json"), &tokenizer.to_string());
}

/// One second of a sound of its own for each `i`.
fn wav(i: usize) -> Vec<u8> {
    let samples: Vec<u8> = (0..16_000_usize)
        .flat_map(|t| (((t * (3 + i)) % 200) as i16 * 100 - 10_000 + (t * t % 997) as i16).to_le_bytes())
        .collect();
    let mut wav = b"RIFF".to_vec();
    wav.extend((36 + samples.len() as u32).to_le_bytes());
    wav.extend(b"WAVEfmt \x10\0\0\0\x01\0\x01\0");
    wav.extend(16_000_u32.to_le_bytes());
    wav.extend(32_000_u32.to_le_bytes());
    wav.extend(b"\x02\0\x10\0data");
    wav.extend((samples.len() as u32).to_le_bytes());
    wav.extend(samples);
    wav
}

/// A table of `rows` sounds with a label.
fn sounds(scene: &Scene, rows: usize) {
    let mut table = String::from("sound,kind\n");
    for i in 0..rows {
        std::fs::write(scene.path().join(format!("{i}.wav")), wav(i)).expect("a sound");
        table += &format!("{i}.wav,{}\n", ["low", "high"][i % 2]);
    }
    scene.write("sounds.csv", &table);
}

/// Pooled features of the rows of a table.
pub fn pooled(scene: &Scene, model: &str, table: &str, column: &str) -> Vec<Vec<f32>> {
    let mut command = scene.program();
    command.args(["extract", model, table, "--pooled", "--column", column, "--out", "x.jsonl"]).assert().success();
    let lines = scene.bytes("x.jsonl");
    let rows = lines.split(|b| *b == b'\n').filter(|line| !line.is_empty());
    let row = |line| serde_json::from_slice::<Value>(line).expect("JSON")[column].clone();
    let rows: Vec<Vec<f32>> = rows.map(|line| serde_json::from_value(row(line)).expect("numbers")).collect();
    std::fs::remove_file(scene.path().join("x.jsonl")).expect("the file");
    rows
}

fn differ(rows: &[Vec<f32>]) -> bool {
    rows.windows(2).all(|pair| pair[0].iter().zip(&pair[1]).any(|(a, b)| (a - b).abs() > 1e-4))
}

#[test]
fn swin_is_told_extracted_and_fitted() {
    let scene = Scene::new(24);
    let processor = json!({"image_processor_type": "ViTImageProcessor", "size": {"height": 16, "width": 16}});
    write_checkpoint(&scene, "swin", "swin", Some(("preprocessor_config.json", processor)));
    let info = stdout(scene.program().args(["model", "info", "swin"]));
    assert!(info.contains("Swin\n") && info.contains("image tower") && info.contains("complete"), "{info}");
    let rows = pooled(&scene, "swin", "table.csv", "picture");
    assert_eq!((rows.len(), rows[0].len()), (24, 12));
    assert!(differ(&rows[..2]));
    let mut command = scene.program();
    command.args(["extract", "swin", "table.csv", "--out", "tokens.jsonl", "--column", "picture", "--layer", "-1"]);
    command.assert().success();
    let first = scene.bytes("tokens.jsonl");
    let first: Value = serde_json::from_slice(first.split(|b| *b == b'\n').next().expect("a line")).expect("JSON");
    assert_eq!(first["picture"].as_array().map(Vec::len), Some(16), "a grid of four by four in the last stage");
    let mut command = scene.program();
    command.args(["fit", "table.csv", "--label", "kind", "--out", "model", "--type", "caption=ignore"]);
    command.args(["--set", "image.encoder=\"swin\"", "--set", "train.epochs=1", "--set", "fusion.dim=16"]);
    command.args(["--set", "data.cache=false"]).assert().success();
    assert_eq!(stdout(scene.program().args(["predict", "model", "table.csv"])).lines().count(), 25);
}

#[test]
fn wavlm_is_told_and_extracted() {
    let scene = Scene::new(0);
    let processor = json!({"feature_extractor_type": "Wav2Vec2FeatureExtractor", "do_normalize": true});
    write_checkpoint(&scene, "wavlm", "wavlm", Some(("preprocessor_config.json", processor)));
    sounds(&scene, 2);
    assert!(stdout(scene.program().args(["model", "info", "wavlm"])).contains("WavLM\n  audio tower"));
    let rows = pooled(&scene, "wavlm", "sounds.csv", "sound");
    assert_eq!((rows.len(), rows[0].len()), (2, 12));
    assert!(differ(&rows));
}

#[test]
fn clap_puts_sounds_and_texts_into_one_space() {
    let scene = Scene::new(0);
    let processor = json!({
        "feature_extractor_type": "ClapFeatureExtractor", "feature_size": 8, "max_length_s": 1,
        "truncation": "rand_trunc", "padding": "repeatpad"
    });
    write_checkpoint(&scene, "clap", "clap", Some(("preprocessor_config.json", processor)));
    write_tokenizer(&scene, "clap");
    sounds(&scene, 3);
    scene.write("texts.csv", "text\nw4 w5\nw6 w9 w8\n");
    let info = stdout(scene.program().args(["model", "info", "clap"]));
    assert!(info.contains("CLAP\n") && info.contains("audio_text pair of towers"), "{info}");
    let heard = pooled(&scene, "clap", "sounds.csv", "sound");
    let read = pooled(&scene, "clap", "texts.csv", "text");
    assert_eq!((heard[0].len(), read[0].len()), (7, 7), "one space");
    assert!(differ(&heard) && differ(&read));
    scene.program().args(["index", "clap", "sounds.csv", "--out", "sounds.index"]).assert().success();
    let found = stdout(scene.program().args(["search", "sounds.index", "--text", "w4 w5"]));
    assert_eq!(found.lines().filter(|line| line.contains("low") || line.contains("high")).count(), 3, "{found}");
}

/// A video of 12 frames of 32 by 24 pixels that changes with `i`.
fn video(scene: &Scene, i: usize) {
    let source = format!("testsrc=size=32x24:rate=12:duration=1,hue=h={}", i * 90);
    let path = scene.path().join(format!("{i}.avi"));
    let made = std::process::Command::new("ffmpeg")
        .args(["-v", "error", "-f", "lavfi", "-i", &source, "-c:v", "ffv1"])
        .arg(path)
        .status();
    assert!(made.expect("FFmpeg, which the tests of videos need").success());
}

#[test]
fn a_video_encoder_gets_as_many_frames_as_it_has_learnt_with() {
    let scene = Scene::new(0);
    let mut table = String::from("clip,kind\n");
    for i in 0..12 {
        video(&scene, i);
        table += &format!("{i}.avi,{}\n", ["a", "b"][i % 2]);
    }
    scene.write("clips.csv", &table);
    for (case, kind) in [("videomae", "VideoMAE"), ("timesformer", "TimeSformer")] {
        let processor = json!({
            "video_processor_type": format!("{}VideoProcessor", if case == "videomae" { "VideoMAE" } else { "Timesformer" }),
            "size": {"shortest_edge": 8}, "crop_size": {"height": 8, "width": 8}
        });
        write_checkpoint(&scene, case, case, Some(("video_preprocessor_config.json", processor)));
        let info = stdout(scene.program().args(["model", "info", case]));
        assert!(info.contains(&format!("{kind}\n  video tower")) && info.contains("complete"), "{info}");
        let rows = pooled(&scene, case, "clips.csv", "clip");
        assert_eq!((rows.len(), rows[0].len()), (12, 12));
        assert!(differ(&rows[..2]));
        let fit = |out: &str, more: &[&str]| {
            let mut command = scene.program();
            command.args(["fit", "clips.csv", "--label", "kind", "--out", &format!("{case}-{out}")]).args(&SMALL[2..]);
            command.args(["--set", &format!("video.encoder={case:?}"), "--set", "train.epochs=1"]).args(more);
            command
        };
        let frames = if case == "videomae" { 4 } else { 3 };
        let problem = failure(&mut fit("none", &["--set", "video.frames=8"]), 1);
        let expected = format!("video.frames: is 8, and the encoder has learnt with {frames} frames");
        assert!(problem.contains(&expected), "{problem}");
        fit("model", &[]).assert().success();
        let plan = String::from_utf8(scene.bytes(&format!("{case}-model/data.json"))).expect("text");
        let plan: Value = serde_json::from_str(&plan).expect("JSON");
        assert_eq!(plan["columns"][0]["processor"]["frames"], frames);
        fit("again", &["--set", &format!("video.frames={frames}")]).assert().success();
    }
}

/// The tensors of a Whisper under the names of its authors.
fn openai_whisper() -> Vec<(String, Vec<usize>)> {
    const HIDDEN: usize = 64;
    let mut tensors: Vec<(String, Vec<usize>)> = vec![
        ("encoder.conv1.weight".into(), vec![HIDDEN, 80, 3]),
        ("encoder.conv1.bias".into(), vec![HIDDEN]),
        ("encoder.conv2.weight".into(), vec![HIDDEN, HIDDEN, 3]),
        ("encoder.conv2.bias".into(), vec![HIDDEN]),
        ("encoder.positional_embedding".into(), vec![1500, HIDDEN]),
        ("decoder.token_embedding.weight".into(), vec![30, HIDDEN]),
        ("decoder.positional_embedding".into(), vec![20, HIDDEN]),
    ];
    let mut layer = |name: String, rows: usize, columns: Option<usize>, bias: bool| {
        tensors.push((format!("{name}.weight"), [Some(rows), columns].into_iter().flatten().collect()));
        if bias {
            tensors.push((format!("{name}.bias"), vec![rows]));
        }
    };
    for (stack, norm) in [("encoder", "ln_post"), ("decoder", "ln")] {
        layer(format!("{stack}.{norm}"), HIDDEN, None, true);
        let block = format!("{stack}.blocks.0");
        let attentions = if stack == "decoder" { &["attn", "cross_attn"][..] } else { &["attn"] };
        for attention in attentions {
            for (part, bias) in [("query", true), ("key", false), ("value", true), ("out", true)] {
                layer(format!("{block}.{attention}.{part}"), HIDDEN, Some(HIDDEN), bias);
            }
            layer(format!("{block}.{attention}_ln"), HIDDEN, None, true);
        }
        layer(format!("{block}.mlp.0"), 2 * HIDDEN, Some(HIDDEN), true);
        layer(format!("{block}.mlp.2"), HIDDEN, Some(2 * HIDDEN), true);
        layer(format!("{block}.mlp_ln"), HIDDEN, None, true);
    }
    tensors
}

#[test]
fn whisper_from_its_authors_needs_no_processor_file() {
    let scene = Scene::new(0);
    write_tensors(&scene.path().join("tiny.safetensors"), &openai_whisper());
    sounds(&scene, 12);
    let rows = pooled(&scene, "tiny.safetensors", "sounds.csv", "sound");
    assert_eq!((rows.len(), rows[0].len()), (12, 64));
    let mut command = scene.program();
    command.args(["fit", "sounds.csv", "--label", "kind", "--out", "model"]).args(&SMALL[2..]);
    command.args(["--set", "audio.encoder=\"tiny.safetensors\"", "--set", "train.epochs=1"]).assert().success();
    let plan: Value = serde_json::from_slice(&scene.bytes("model/data.json")).expect("JSON");
    let processor = &plan["columns"][0]["processor"];
    assert_eq!((&processor["features"], &processor["mels"]), (&json!("whisper"), &json!(80)));
    assert_eq!(processor["max_seconds"], 30.0);
}
