//! `sensorium model`

use crate::scene::{Scene, failure, stdout};
use serde_json::Value;

#[test]
fn our_own_models_are_told_by_their_columns() {
    let scene = Scene::new(24);
    let model = scene.quick_model();
    let text = stdout(scene.program().args(["model", "info", model]));
    assert!(text.contains("a sensorium model: picture + caption → kind"), "{text}");
    let json: Value =
        serde_json::from_str(&stdout(scene.program().args(["model", "info", model, "--json"]))).expect("JSON");
    assert_eq!(json["usable"]["kind"], "model");
    assert_eq!(json["files"][0]["format"], "safetensors");
    assert!(json["parameters"].as_u64().is_some_and(|n| n > 1000));
    assert!(json.get("all_tensors").is_none());
}

#[test]
fn an_unknown_architecture_is_said_with_the_nearest_known() {
    let scene = Scene::new(24);
    let model = scene.quick_model();
    std::fs::copy(scene.path().join(model).join("model.safetensors"), scene.path().join("pictures/model.safetensors"))
        .expect("a copy");
    scene.write("pictures/config.json", r#"{"model_type": "bart", "hidden_size": 32}"#);
    let text = stdout(scene.program().args(["model", "info", "pictures"]));
    assert!(text.contains("\"bart\" is not known; nearest: ") && text.contains("hidden_size = 32"), "{text}");
}

#[test]
fn a_name_that_is_nowhere_says_how_to_get_it() {
    let scene = Scene::new(0);
    let mut command = scene.program();
    command.args(["model", "info", "org/model"]).env("HF_HOME", scene.path()).env("HF_HUB_OFFLINE", "1");
    let problem = failure(&mut command, 1);
    assert!(problem.contains("org/model is neither a path nor in the cache"), "{problem}");
    assert!(failure(scene.program().args(["model", "info", "not/a/model"]), 1).contains("is not there"));
}
