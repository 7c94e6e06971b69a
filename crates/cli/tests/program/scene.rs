//! A small table on which the label needs both columns: the picture shows the
//! colour, the caption names the size.

use assert_cmd::Command;
use image::{Rgb, RgbImage};
use std::fmt::Write;
use std::path::Path;
use tempfile::TempDir;

/// A folder with `table.csv` and its pictures.
pub struct Scene {
    pub folder: TempDir,
}

/// What every small run sets, so that it takes seconds.
pub const SMALL: [&str; 16] = [
    "--type",
    "caption=text",
    "--set",
    "image.size=16",
    "--set",
    "image.patch_size=8",
    "--set",
    "image.tower.hidden=32",
    "--set",
    "image.tower.layers=1",
    "--set",
    "text.tower.hidden=32",
    "--set",
    "fusion.dim=32",
    "--set",
    "data.cache=false",
];

impl Scene {
    /// A table of `rows` rows.
    pub fn new(rows: usize) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        std::fs::create_dir(folder.path().join("pictures")).expect("a folder");
        let mut table = String::from("picture,caption,kind\n");
        for i in 0..rows {
            let (red, big) = (i % 2 == 0, i / 2 % 2 == 0);
            let noise = |k: usize| (i * 37 + k * 61) % 50;
            let picture = RgbImage::from_fn(16, 16, |x, y| {
                let n = noise((x * 16 + y) as usize) as u8;
                if red { Rgb([200 + n, n, n]) } else { Rgb([n, n, 200 + n]) }
            });
            picture.save(folder.path().join(format!("pictures/{i}.png"))).expect("a picture");
            let word = if big { ["a huge thing", "very large", "big"] } else { ["tiny thing", "很小", "small"] }[i % 3];
            let kind = match (red, big) {
                (true, true) => "red-big",
                (true, false) => "red-small",
                (false, true) => "blue-big",
                (false, false) => "blue-small",
            };
            writeln!(table, "pictures/{i}.png,{word},{kind}").expect("text");
        }
        std::fs::write(folder.path().join("table.csv"), table).expect("a table");
        Self { folder }
    }

    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// The program, in the folder.
    pub fn program(&self) -> Command {
        let mut command = Command::cargo_bin("sensorium").expect("the program");
        command.current_dir(self.path()).env("SENSORIUM_CACHE", self.path().join("cache"));
        command
    }

    /// A small fit of `table.csv` into `out`, with further arguments.
    pub fn fit(&self, out: &str, more: &[&str]) -> Command {
        let mut command = self.program();
        command.args(["fit", "table.csv", "--label", "kind", "--out", out]).args(SMALL).args(more);
        command
    }

    /// A model trained for two epochs: enough to have answers.
    pub fn quick_model(&self) -> &'static str {
        self.fit("model", &["--set", "train.epochs=2"]).assert().success();
        "model"
    }

    pub fn bytes(&self, file: &str) -> Vec<u8> {
        std::fs::read(self.path().join(file)).unwrap_or_else(|e| panic!("{file}: {e}"))
    }

    pub fn write(&self, file: &str, text: &str) {
        std::fs::write(self.path().join(file), text).expect("a file");
    }
}

pub fn stdout(command: &mut Command) -> String {
    let output = command.assert().success().get_output().clone();
    String::from_utf8(output.stdout).expect("standard output is text")
}

/// Standard error of a command that must fail with this status.
pub fn failure(command: &mut Command, status: i32) -> String {
    let output = command.assert().code(status).get_output().clone();
    assert!(output.stdout.is_empty(), "a failure prints no results");
    String::from_utf8(output.stderr).expect("standard error is text")
}
