//! `sensorium predict`

use crate::scene::{Scene, failure, stdout};

#[test]
fn answers_come_in_the_order_of_the_rows() {
    let scene = Scene::new(60);
    let model = scene.quick_model();
    scene.write("new.csv", "caption,picture\nbig,pictures/0.png\nsmall,\n,pictures/1.png\n");
    let csv = stdout(scene.program().args(["predict", model, "new.csv"]));
    let lines: Vec<&str> = csv.lines().collect();
    assert_eq!(lines[0], "row,label,p(blue-big),p(blue-small),p(red-big),p(red-small),error");
    assert_eq!(lines.len(), 4, "{csv}");
    for (i, line) in lines[1..].iter().enumerate() {
        let cells: Vec<&str> = line.split(',').collect();
        assert_eq!(cells[0], (i + 1).to_string());
        let total: f64 = cells[2..6].iter().map(|p| p.parse::<f64>().expect("a probability")).sum();
        assert!((total - 1.0).abs() < 1e-4, "{line}");
    }
    let jsonl = stdout(scene.program().args(["predict", model, "new.csv", "--format", "jsonl"]));
    for (line, csv) in jsonl.lines().zip(&lines[1..]) {
        let object: serde_json::Value = serde_json::from_str(line).expect("JSON");
        assert_eq!(object["label"].as_str(), csv.split(',').nth(1));
        assert!(object["probabilities"]["red-big"].is_number());
    }
    scene.program().args(["predict", model, "new.csv", "--out", "answers.jsonl"]).assert().success();
    assert_eq!(String::from_utf8(scene.bytes("answers.jsonl")).expect("text"), jsonl);
}

#[test]
fn bad_rows_stop_are_left_out_or_answered_with_nothing() {
    let scene = Scene::new(60);
    let model = scene.quick_model();
    scene.write("pictures/broken.png", "not a picture");
    scene.write(
        "new.csv",
        "picture,caption\npictures/0.png,big\npictures/broken.png,big\npictures/gone.png,big\n,small\n",
    );
    let error = String::from_utf8(
        scene.program().args(["predict", model, "new.csv"]).assert().code(1).get_output().stderr.clone(),
    )
    .expect("text");
    assert!(error.contains("row 2") && error.contains("picture") && error.contains("--on-error"), "{error}");
    let skipped = stdout(scene.program().args(["predict", model, "new.csv", "--on-error", "skip"]));
    let rows: Vec<&str> = skipped.lines().skip(1).map(|l| l.split(',').next().unwrap_or("")).collect();
    assert_eq!(rows, ["1", "4"]);
    let nulls = stdout(scene.program().args(["predict", model, "new.csv", "--on-error", "null", "--format", "jsonl"]));
    let objects: Vec<serde_json::Value> = nulls.lines().map(|l| serde_json::from_str(l).expect("JSON")).collect();
    assert_eq!(objects.len(), 4);
    assert!(objects[1]["label"].is_null() && objects[1]["error"].is_string() && objects[3]["label"].is_string());
}

#[test]
fn one_sample_on_the_command_line() {
    let scene = Scene::new(60);
    let model = scene.quick_model();
    let whole = stdout(scene.program().args(["predict", model, "--text", "big", "--image", "pictures/0.png"]));
    scene.write("new.csv", "picture,caption\npictures/0.png,big\n");
    assert_eq!(whole, stdout(scene.program().args(["predict", model, "new.csv"])));
    scene.program().args(["predict", model, "--text", "big"]).assert().success();
    let error = failure_after_header(&scene, &["predict", model, "--audio", "x.wav"]);
    assert!(error.contains("takes no audio"), "{error}");
    failure(scene.program().args(["predict", model]), 2);
}

fn failure_after_header(scene: &Scene, arguments: &[&str]) -> String {
    let output = scene.program().args(arguments).assert().code(1).get_output().clone();
    String::from_utf8(output.stderr).expect("text")
}

#[test]
fn a_model_is_a_folder_that_can_be_moved() {
    let scene = Scene::new(60);
    let model = scene.quick_model();
    let before = stdout(scene.program().args(["predict", model, "table.csv"]));
    std::fs::rename(scene.path().join(model), scene.path().join("elsewhere")).expect("moved");
    assert_eq!(before, stdout(scene.program().args(["predict", "elsewhere", "table.csv"])));
}
