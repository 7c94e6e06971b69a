//! Interrupted runs go on to the same bits.

use crate::run_folder::files;
use crate::scene::{SMALL, Scene, failure};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const LONG: [&str; 6] =
    ["--set", "train.epochs=12", "--set", "train.checkpoint_every.steps=3", "--set", "train.early_stopping.patience=0"];

fn spawn(scene: &Scene, out: &str, resume: bool) -> Child {
    let mut command = Command::new(assert_cmd::cargo::cargo_bin("sensorium"));
    command.current_dir(scene.path()).args(["fit", "table.csv", "--label", "kind", "--out", out]);
    command.args(SMALL).args(LONG);
    if resume {
        command.arg("--resume");
    }
    command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("the program starts")
}

fn wait_for_checkpoint(scene: &Scene, out: &str) {
    let start = Instant::now();
    let latest = scene.path().join(out).join("checkpoints/latest");
    while !latest.exists() {
        assert!(start.elapsed() < Duration::from_secs(120), "no checkpoint within two minutes");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// The losses of every step, without times.
fn losses(scene: &Scene, out: &str) -> Vec<String> {
    let text = String::from_utf8(scene.bytes(&format!("{out}/metrics.jsonl"))).expect("text");
    text.lines()
        .map(|l| serde_json::from_str::<serde_json::Value>(l).expect("JSON lines"))
        .filter(|r| r["event"] == "step")
        .map(|r| format!("{} {}", r["step"], r["loss"]))
        .collect()
}

#[test]
fn a_killed_run_resumes_to_the_same_bits() {
    let scene = Scene::new(80);
    assert!(spawn(&scene, "whole", false).wait().expect("it ends").success());
    let mut kills = 0;
    for round in 0..40 {
        let mut run = spawn(&scene, "killed", round > 0);
        if round == 0 {
            wait_for_checkpoint(&scene, "killed");
        }
        let done = loop_for(&mut run, Duration::from_millis(150 + 97 * round));
        if done {
            break;
        }
        run.kill().expect("it can be killed");
        run.wait().expect("it ends");
        kills += 1;
    }
    assert!(kills > 0, "the run was never killed");
    assert!(scene.bytes("whole/model.safetensors") == scene.bytes("killed/model.safetensors"), "after {kills} kills");
    assert_eq!(losses(&scene, "whole"), losses(&scene, "killed"));
}

fn loop_for(run: &mut Child, time: Duration) -> bool {
    let start = Instant::now();
    while start.elapsed() < time {
        if let Some(status) = run.try_wait().expect("it can be asked") {
            assert!(status.success(), "a resumed run failed: {status}");
            return true;
        }
        std::thread::sleep(Duration::from_millis(3));
    }
    false
}

#[cfg(unix)]
#[test]
fn control_c_ends_with_a_checkpoint() {
    let scene = Scene::new(80);
    let mut run = spawn(&scene, "interrupted", false);
    wait_for_checkpoint(&scene, "interrupted");
    let signalled = Command::new("kill").args(["-INT", &run.id().to_string()]).status().expect("kill runs");
    assert!(signalled.success());
    let status = run.wait().expect("it ends");
    // The run may have been over just before the signal.
    assert!(matches!(status.code(), Some(130 | 0)), "{status}");
    assert!(spawn(&scene, "interrupted", true).wait().expect("it ends").success());
    assert!(!scene.bytes("interrupted/model.safetensors").is_empty());
}

#[test]
fn a_run_does_not_go_on_under_another_configuration() {
    let scene = Scene::new(60);
    scene.fit("model", &["--set", "train.epochs=2"]).assert().success();
    let before = files(&scene.path().join("model"));
    let refused = |more: &[&str]| {
        let error = failure(&mut scene.fit("model", &[&["--resume", "--set", "train.epochs=2"], more].concat()), 1);
        assert!(files(&scene.path().join("model")) == before, "{more:?}");
        error
    };
    assert!(refused(&["--set", "train.lr=0.1"]).contains("lr"));
    assert!(refused(&["--set", "fusion.dim=64"]).contains("fusion.dim was 32, is now 64"));
    let table = String::from_utf8(scene.bytes("table.csv")).expect("text");
    let rows: Vec<&str> = table.lines().collect();
    scene.write("table.csv", &(rows[..rows.len() - 12].join("\n") + "\n"));
    let error = refused(&[]);
    assert!(error.contains("the table is another one") && !error.contains("training_rows"), "{error}");
}

#[test]
fn a_fit_goes_on_only_where_there_is_one() {
    let scene = Scene::new(60);
    let resume = || scene.fit("model", &["--resume", "--set", "train.epochs=1"]);
    assert!(failure(&mut resume(), 1).contains("no run to go on with"));
    assert!(!scene.path().join("model").exists());
    scene.fit("model", &["--set", "train.epochs=1"]).assert().success();
    std::fs::remove_dir_all(scene.path().join("model/checkpoints")).expect("removed");
    assert!(failure(&mut resume(), 1).contains("finished model, but no checkpoint"));
    // As if it had been killed before its first checkpoint.
    std::fs::remove_file(scene.path().join("model/model.safetensors")).expect("removed");
    resume().assert().success();
}
