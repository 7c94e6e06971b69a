//! From the CMU-MOSI feature folder to a table.
//!
//! ```sh
//! cargo run --release --example mosi_table -- FOLDER data/mosi/mosi.jsonl
//! ```
//!
//! The folder holds, without headers, `transcripts.csv` (utterance, words, video, label) and for
//! each of `train` and `test`: `text_{split}.csv`, whose first column is the utterance's row in
//! `transcripts.csv`, and `text/text_{split}0.csv`, `audio/audio_{split}0.csv` and
//! `video/video_{split}0.csv`, one utterance a row in the same order, features and then the label.
//!
//! One row per utterance comes out:
//!
//! | column | what |
//! |---|---|
//! | `text` | its words |
//! | `text_features`, `audio_features`, `video_features` | its features, a list of numbers |
//! | `text_context`, `audio_context`, `video_context` | the features of its neighbours in the video, a list of lists, at most three before and three after; missing where the video has no other utterance |
//! | `label` | `positive` or `negative` |
//! | `video_id` | which video |
//! | `split` | `train` or `test`, as published: no video is in both |

use std::collections::BTreeMap;
use std::error::Error;
use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::Path;
use std::process::ExitCode;

/// Neighbours before and after an utterance that make its context.
const REACH: usize = 3;
const MODALITIES: [&str; 3] = ["text", "audio", "video"];

type Result<T> = std::result::Result<T, Box<dyn Error>>;

struct Utterance {
    split: &'static str,
    words: String,
    video: String,
    /// Its place in the video.
    number: u64,
    positive: bool,
    /// By modality, in the order of [`MODALITIES`].
    features: [Vec<f64>; 3],
}

fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args_os().skip(1).collect();
    let [folder, table] = arguments.as_slice() else {
        eprintln!("usage: mosi_table FOLDER TABLE.jsonl");
        return ExitCode::from(2);
    };
    match convert(Path::new(folder), Path::new(table)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn convert(folder: &Path, table: &Path) -> Result<()> {
    let transcripts = read(&folder.join("transcripts.csv"))?;
    let mut utterances = Vec::new();
    for split in ["train", "test"] {
        read_split(folder, split, &transcripts, &mut utterances)?;
    }
    // In the order of the videos, so that neighbours are neighbours.
    utterances.sort_by(|a, b| (a.split, &a.video, a.number).cmp(&(b.split, &b.video, b.number)));
    let mut videos: BTreeMap<(&str, &str), usize> = BTreeMap::new();
    utterances.iter().for_each(|u| *videos.entry((u.split, &u.video)).or_default() += 1);

    fs::create_dir_all(table.parent().unwrap_or(Path::new(".")))?;
    let temporary = table.with_extension("jsonl.tmp");
    let mut file = BufWriter::new(File::create(&temporary)?);
    for at in 0..utterances.len() {
        writeln!(file, "{}", row(&utterances, at))?;
    }
    file.into_inner()?.sync_all()?;
    fs::rename(temporary, table)?;
    for split in ["train", "test"] {
        let of_split = || utterances.iter().filter(|u| u.split == split);
        println!(
            "{split}: {} utterances of {} videos, {} positive",
            of_split().count(),
            videos.keys().filter(|(s, _)| *s == split).count(),
            of_split().filter(|u| u.positive).count()
        );
    }
    Ok(())
}

fn row(utterances: &[Utterance], at: usize) -> serde_json::Value {
    let own = &utterances[at];
    let mut row = serde_json::Map::new();
    row.insert("text".into(), own.words.clone().into());
    for (modality, features) in MODALITIES.iter().zip(&own.features) {
        row.insert(format!("{modality}_features"), features.clone().into());
    }
    let around = at.saturating_sub(REACH)..(at + REACH + 1).min(utterances.len());
    let neighbours: Vec<&Utterance> = around.filter(|i| *i != at).map(|i| &utterances[i]).collect();
    let neighbours: Vec<&Utterance> = neighbours.into_iter().filter(|n| n.video == own.video).collect();
    for (m, modality) in MODALITIES.iter().enumerate() {
        let context: Vec<_> = neighbours.iter().map(|n| n.features[m].clone()).collect();
        let context = if context.is_empty() { serde_json::Value::Null } else { context.into() };
        row.insert(format!("{modality}_context"), context);
    }
    row.insert("label".into(), if own.positive { "positive" } else { "negative" }.into());
    row.insert("video_id".into(), own.video.clone().into());
    row.insert("split".into(), own.split.into());
    row.into()
}

fn read_split(
    folder: &Path,
    split: &'static str,
    transcripts: &[Vec<String>],
    utterances: &mut Vec<Utterance>,
) -> Result<()> {
    let index = read(&folder.join(format!("text_{split}.csv")))?;
    let mut tables = Vec::new();
    for modality in MODALITIES {
        let path = folder.join(modality).join(format!("{modality}_{split}0.csv"));
        let rows = read(&path)?;
        if rows.len() != index.len() {
            return Err(format!("{path:?} has {} rows, text_{split}.csv has {}", rows.len(), index.len()).into());
        }
        tables.push((path, rows));
    }
    for (at, first) in index.iter().enumerate() {
        let here = format!("text_{split}.csv, row {}", at + 1);
        let number: f64 = first[0].parse().map_err(|_| format!("{here}: {:?} is not a row number", first[0]))?;
        let transcript = transcripts.get(number as usize);
        let Some([id, words, _, label]) = transcript.map(Vec::as_slice) else {
            return Err(format!("{here}: row {number} of transcripts.csv is not there, or has not four columns").into());
        };
        let numbered = id.rsplit_once('_').and_then(|(video, n)| Some((video, n.parse().ok()?)));
        let (video, number) = numbered.ok_or_else(|| format!("{here}: utterance {id:?} is not VIDEO_NUMBER"))?;
        let positive = label == "1";
        let mut features = [const { Vec::new() }; 3];
        for (values, (path, rows)) in features.iter_mut().zip(&tables) {
            let wrong = |problem: String| format!("{path:?}, row {}: {problem}", at + 1);
            *values = rows[at]
                .iter()
                .map(|cell| cell.parse::<f64>().map_err(|_| wrong(format!("{cell:?} is not a number"))))
                .collect::<std::result::Result<_, _>>()?;
            let last = values.pop();
            if last != Some(f64::from(u8::from(positive))) {
                return Err(wrong(format!("label {last:?} is not that of {id:?} in transcripts.csv")).into());
            }
        }
        utterances.push(Utterance { split, words: words.clone(), video: video.to_owned(), number, positive, features });
    }
    Ok(())
}

/// A CSV file without a header.
fn read(path: &Path) -> Result<Vec<Vec<String>>> {
    let wrong = |error: csv::Error| format!("cannot read {path:?}: {error}");
    let mut reader = csv::ReaderBuilder::new().has_headers(false).flexible(true).from_path(path).map_err(wrong)?;
    let rows = reader.records().map(|record| Ok(record.map_err(wrong)?.iter().map(str::to_owned).collect()));
    rows.collect()
}
