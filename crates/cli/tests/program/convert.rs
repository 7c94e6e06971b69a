//! `sensorium convert`

use crate::scene::{Scene, failure, stdout};
use std::path::Path;

/// A PyTorch file that `torch.save` wrote (see `tools/checkpoint_golden.py`).
fn golden(file: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../model/tests/checkpoint/golden").join(file);
    path.to_str().expect("a path of text").to_owned()
}

#[test]
fn a_pytorch_file_becomes_safetensors() {
    let scene = Scene::new(0);
    let convert = |more: &[&str]| {
        let mut command = scene.program();
        command.args(["convert", &golden("training.pt"), "out.safetensors"]).args(more);
        command
    };
    let done = convert(&[]).assert().success().get_output().clone();
    let said = String::from_utf8(done.stderr).expect("text");
    assert!(said.contains("wrote 2 tensors") && said.contains("\"optimizer\""), "{said}");
    let listed = stdout(scene.program().args(["model", "info", "out.safetensors", "--tensors"]));
    assert!(listed.contains("weight  f32  [2, 3]") && listed.contains("bias  f32  [2]"), "{listed}");
    assert!(failure(&mut convert(&[]), 1).contains("--force"));
    convert(&["--force", "--dtype", "bf16"]).assert().success();
    let json = stdout(scene.program().args(["model", "info", "out.safetensors", "--json"]));
    let info: serde_json::Value = serde_json::from_str(&json).expect("JSON");
    assert_eq!(info["dtypes"]["bf16"]["elements"], 8);
}

#[test]
fn what_would_run_code_is_refused_and_leaves_no_file() {
    let scene = Scene::new(0);
    let problem = failure(scene.program().args(["convert", &golden("refused-system.pt"), "out.safetensors"]), 1);
    assert!(problem.contains("run code (posix.system)"), "{problem}");
    assert!(!scene.path().join("out.safetensors").exists());
    let problem = failure(scene.program().args(["convert", &golden("state.pt"), "out.bin"]), 1);
    assert!(problem.contains(".safetensors"), "{problem}");
}
