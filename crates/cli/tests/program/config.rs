//! `sensorium config`

use crate::scene::{Scene, stdout};

#[test]
fn the_printed_default_is_a_configuration() {
    let scene = Scene::new(20);
    let text = stdout(scene.program().args(["config", "--default"]));
    scene.write("default.toml", &text);
    scene
        .program()
        .args(["fit", "default.toml", "--out", "model", "--label", "kind", "--set", "data.table=table.csv"])
        .args(["--set", "train.epochs=1", "--set", "image.size=16"])
        .assert()
        .success();
}
