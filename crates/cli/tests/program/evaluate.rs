//! `sensorium evaluate`

use crate::scene::{Scene, failure, stdout};

#[test]
fn the_json_is_one_object_with_the_promised_fields() {
    let scene = Scene::new(80);
    let model = scene.quick_model();
    let json = stdout(scene.program().args(["evaluate", model, "table.csv", "--split", "test", "--json"]));
    let result: serde_json::Value = serde_json::from_str(&json).expect("one JSON object");
    for field in ["accuracy", "macro_f1", "weighted_f1", "matthews"] {
        assert!(result[field].is_number(), "{field}: {result}");
    }
    for class in ["red-big", "red-small", "blue-big", "blue-small"] {
        assert!(result["per_class"][class]["f1"].is_number(), "{class}");
    }
    let interval = &result["intervals"]["accuracy"];
    let accuracy = result["accuracy"].as_f64().expect("a number");
    assert!(interval[0].as_f64() <= Some(accuracy) && interval[1].as_f64() >= Some(accuracy), "{interval}");
    assert!(result["subsets"]["picture"]["accuracy"].is_number(), "{result}");
    assert!(result["subsets"]["caption"]["accuracy"].is_number());
    let fit = String::from_utf8(scene.bytes(&format!("{model}/metrics.json"))).expect("text");
    let fit: serde_json::Value = serde_json::from_str(&fit).expect("JSON");
    assert_eq!(fit["accuracy"], result["accuracy"], "evaluate sees the split that fit held out");
}

#[test]
fn before_and_after_stand_side_by_side() {
    let scene = Scene::new(80);
    scene.fit("before", &["--set", "train.epochs=1"]).assert().success();
    scene.fit("after", &["--set", "train.epochs=20", "--set", "train.lr=3e-3"]).assert().success();
    let text = stdout(scene.program().args([
        "evaluate",
        "after",
        "table.csv",
        "--split",
        "test",
        "--before",
        "before",
        "--report",
        "page",
    ]));
    assert!(text.contains("before") && text.contains("after"), "{text}");
    assert!(!scene.bytes("page/report.html").is_empty());
}

#[test]
fn a_table_without_the_label_is_refused() {
    let scene = Scene::new(60);
    let model = scene.quick_model();
    scene.write("new.csv", "picture,caption\npictures/0.png,big\n");
    let error = failure(scene.program().args(["evaluate", model, "new.csv"]), 1);
    assert!(error.contains("\"kind\"") && error.contains("picture, caption"), "{error}");
}

#[test]
fn a_table_of_test_rows_only_is_evaluated() {
    let scene = Scene::new(60);
    let table = String::from_utf8(scene.bytes("table.csv")).expect("text");
    let with_split = |split: &dyn Fn(usize) -> &'static str| {
        let rows = table.lines().skip(1).enumerate().map(|(i, row)| format!("{row},{}\n", split(i)));
        format!("picture,caption,kind,split\n{}", rows.collect::<String>())
    };
    scene.write("table.csv", &with_split(&|i| if i < 40 { "train" } else { "test" }));
    let model = scene.quick_model();
    scene.write("new.csv", &with_split(&|_| "test"));
    for more in [&[][..], &["--split", "test"]] {
        let json = stdout(scene.program().args(["evaluate", model, "new.csv", "--json"]).args(more));
        let result: serde_json::Value = serde_json::from_str(&json).expect("one JSON object");
        assert_eq!(result["rows"], 60, "{result}");
    }
    // To fit, rows to learn from are needed.
    scene.write("table.csv", &with_split(&|_| "test"));
    let error = failure(&mut scene.fit("none", &[]), 1);
    assert!(
        error.contains("no row is left to train on (0 train, 0 val, 60 test (given by column \"split\"))"),
        "{error}"
    );
}

#[test]
fn a_folder_that_is_no_model_is_refused() {
    let scene = Scene::new(20);
    let error = failure(scene.program().args(["evaluate", "pictures", "table.csv"]), 1);
    assert!(error.contains("config.json"), "{error}");
    let model = Scene::new(60);
    model.quick_model();
    let weights = model.path().join("model/model.safetensors");
    let bytes = std::fs::read(&weights).expect("weights");
    std::fs::write(&weights, &bytes[..bytes.len() / 2]).expect("cut");
    let error = failure(model.program().args(["evaluate", "model", "table.csv"]), 1);
    assert!(error.contains("model.safetensors"), "{error}");
}
