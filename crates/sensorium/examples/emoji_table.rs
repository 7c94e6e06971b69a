//! From the npm packages of emoji drawings to two tables.
//!
//! ```sh
//! examples/emoji/fetch.sh data/emoji
//! cargo run --release --example emoji_table -- data/emoji
//! ```
//!
//! Each of the packages `emoji-datasource-{apple,google,twitter,facebook}` has one vendor's drawings,
//! `cldr-annotations-full` their names. One row per drawing, with the names in English and Chinese:
//!
//! | column | what |
//! |---|---|
//! | `picture` | the drawing's path, relative to the table |
//! | `name` | the English name |
//! | `name_zh` | the Chinese name |
//! | `vendor` | who drew it |
//! | `emoji` | the emoji itself |
//! | `split` | see below; `vendors.csv` only |
//!
//! `vendors.csv` has nine tenths of the emoji: three vendors' drawings to train on (a tenth of them
//! to validate), the fourth's to test. `unseen.csv` has the other tenth, which no training row shows
//! or names, in all four drawings.

use serde_json::Value;
use std::fs;
use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;

/// The vendors that are trained on, and the one that is tested.
const VENDORS: [&str; 4] = ["apple", "google", "twitter", "facebook"];

/// The columns; of the emoji that are not trained on all but the last.
const COLUMNS: [&str; 6] = ["picture", "name", "name_zh", "vendor", "emoji", "split"];

struct Emoji {
    text: String,
    name: String,
    name_zh: String,
    image: String,
}

fn main() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1);
    let (Some(folder), None) = (arguments.next(), arguments.next()) else {
        eprintln!("usage: emoji_table FOLDER   (the folder that examples/emoji/fetch.sh filled)");
        return ExitCode::from(2);
    };
    match build(Path::new(&folder)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn read(path: &Path) -> io::Result<Value> {
    let bytes = fs::read(path).map_err(|e| io::Error::new(e.kind(), format!("cannot read {path:?}: {e}")))?;
    serde_json::from_slice(&bytes).map_err(|e| io::Error::new(io::ErrorKind::InvalidData, format!("{path:?}: {e}")))
}

fn build(folder: &Path) -> io::Result<()> {
    let names = |language: &str| read(&folder.join(format!("cldr/annotations/{language}/annotations.json")));
    let (english, chinese) = (names("en")?, names("zh")?);
    let list = read(&folder.join(VENDORS[0]).join("emoji.json"))?;
    let all: Vec<Emoji> = list.as_array().into_iter().flatten().filter_map(|e| emoji(e, &english, &chinese)).collect();
    let line = |cells: &[&str]| cells.iter().map(|c| quoted(c)).collect::<Vec<_>>().join(",") + "\n";
    let (mut vendors, mut unseen, mut kept) = (line(&COLUMNS), line(&COLUMNS[..5]), 0);
    for e in &all {
        let files = VENDORS.map(|vendor| format!("{vendor}/img/{vendor}/64/{}", e.image));
        if files.iter().any(|file| !folder.join(file).is_file()) {
            continue;
        }
        kept += 1;
        let is_unseen = hash(&e.text).is_multiple_of(10);
        for (vendor, file) in VENDORS.iter().zip(&files) {
            let split = match *vendor {
                "facebook" => "test",
                _ if hash(file).is_multiple_of(10) => "val",
                _ => "train",
            };
            let cells = [file.as_str(), &e.name, &e.name_zh, vendor, &e.text, split];
            if is_unseen { unseen += &line(&cells[..5]) } else { vendors += &line(&cells) }
        }
    }
    for (file, table) in [("vendors.csv", &vendors), ("unseen.csv", &unseen)] {
        let path = folder.join(file);
        let mut out = fs::File::create(&path)?;
        out.write_all(table.as_bytes())?;
        println!("{}: {} drawings", path.display(), table.lines().count() - 1);
    }
    println!("{kept} emoji with names in English and Chinese and four drawings, of {}", all.len());
    Ok(())
}

/// An emoji with its names; None where a language has none.
fn emoji(entry: &Value, english: &Value, chinese: &Value) -> Option<Emoji> {
    let codes = entry["unified"].as_str()?.split('-');
    let text: Option<String> = codes.map(|code| char::from_u32(u32::from_str_radix(code, 16).ok()?)).collect();
    let text = text?;
    // The annotations leave out the mark that asks for a picture.
    let key: String = text.chars().filter(|c| *c != '\u{fe0f}').collect();
    let name = |of: &Value| of["annotations"]["annotations"][&key]["tts"][0].as_str().map(str::to_owned);
    let image = entry["image"].as_str()?.to_owned();
    Some(Emoji { name: name(english)?, name_zh: name(chinese)?, text, image })
}

/// FNV-1a, so that the split is the same everywhere.
fn hash(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3)) >> 16
}

/// A cell of a CSV file.
fn quoted(cell: &str) -> String {
    if cell.contains(['"', ',', '\n', '\r']) { format!("\"{}\"", cell.replace('"', "\"\"")) } else { cell.to_owned() }
}
