//! `sensorium inspect`

use crate::scene::{Scene, failure, stdout};

#[test]
fn types_come_with_their_reasons() {
    let scene = Scene::new(40);
    let text = stdout(scene.program().args(["inspect", "table.csv", "--label", "kind"]));
    for word in ["picture", "image", "caption", "text", "kind", "red-big"] {
        assert!(text.contains(word), "{word} is not in:\n{text}");
    }
    let json = stdout(scene.program().args(["inspect", "table.csv", "--json"]));
    let report: serde_json::Value = serde_json::from_str(&json).expect("one JSON object");
    let columns = report["columns"].as_array().expect("columns");
    let kind = |name: &str| columns.iter().find(|c| c["name"] == name).map(|c| c["type"].clone());
    assert_eq!(kind("picture"), Some("image".into()), "{report}");
    assert_eq!(report["rows"], 40);
}

#[test]
fn an_unreadable_picture_is_named() {
    let scene = Scene::new(20);
    scene.write("pictures/7.png", "broken");
    let text = stdout(scene.program().args(["inspect", "table.csv"]));
    assert!(text.contains("7.png"), "{text}");
}

#[test]
fn a_wrong_type_is_answered_with_the_near_one() {
    let scene = Scene::new(20);
    let error = failure(scene.program().args(["inspect", "table.csv", "--type", "picture=imge"]), 2);
    assert!(error.contains("image"), "{error}");
    let error = failure(scene.program().args(["inspect", "table.csv", "--type", "pictur=image"]), 1);
    assert!(error.contains("\"picture\""), "{error}");
}
