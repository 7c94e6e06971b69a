//! From the unpacked Debian package `tuxpaint-stamps-default` to a table.
//!
//! ```sh
//! cargo run --release --example stamps_table -- data/stamps
//! ```
//!
//! A stamp is a picture (PNG or SVG) with, beside it, a text whose first line is the English caption
//! and whose other lines are translations (`zh_CN.utf8=熊`), and recordings of the caption being
//! read aloud (`bear_desc_fr.ogg`). One row per stamp:
//!
//! | column | what | missing where |
//! |---|---|---|
//! | `picture` | the picture's path, relative to the table | never |
//! | `caption` | the English caption | never |
//! | `caption_zh` | the Chinese caption, simplified or else traditional | nobody translated it |
//! | `spoken` | the caption read aloud in French | nobody recorded it |
//! | `category` | the top folder, to be predicted | never |
//!
//! Mirrored variants of a stamp (`_mirror`) are no stamps of their own and are left out, as are
//! categories with fewer than 20 stamps. Stamps that share an English caption are siblings: group
//! by `caption`, so that they stay in one split.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Categories with fewer stamps are left out: too few to learn from and to test on.
const FEWEST: usize = 20;
/// The language of the spoken names; the fullest in the package.
const SPOKEN: &str = "fr";
const TABLE: &str = "stamps.csv";

struct Stamp {
    picture: PathBuf,
    caption: String,
    caption_zh: Option<String>,
    spoken: Option<PathBuf>,
    category: String,
}

fn main() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1);
    let (Some(folder), None) = (arguments.next(), arguments.next()) else {
        eprintln!("usage: stamps_table FOLDER   (the folder that holds the unpacked package)");
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

fn build(folder: &Path) -> io::Result<()> {
    let root = folder.join("usr/share/tuxpaint/stamps");
    let mut files = Vec::new();
    list(&root, &mut files)?;
    let (mut stamps, left_out) = collect(folder, &root, &files)?;
    let mut sizes: BTreeMap<String, usize> = BTreeMap::new();
    for stamp in &stamps {
        *sizes.entry(stamp.category.clone()).or_default() += 1;
    }
    let small: Vec<String> =
        sizes.iter().filter(|(_, n)| **n < FEWEST).map(|(category, n)| format!("{category} {n}")).collect();
    stamps.retain(|stamp| sizes[&stamp.category] >= FEWEST);
    if stamps.is_empty() {
        return Err(missing(format!("{root:?} holds no category with {FEWEST} captioned pictures")));
    }
    write_table(&folder.join(TABLE), &stamps)?;
    report(folder, &stamps, &small, &left_out);
    Ok(())
}

fn missing(problem: String) -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, problem)
}

/// All files below a folder, in an order that no file system decides.
fn list(folder: &Path, files: &mut Vec<PathBuf>) -> io::Result<()> {
    let entries = fs::read_dir(folder).map_err(|error| {
        let hint = "expected the unpacked package tuxpaint-stamps-default; `make quickstart` fetches it";
        io::Error::new(error.kind(), format!("cannot read {folder:?} ({error}); {hint}"))
    })?;
    let mut paths = entries.map(|entry| entry.map(|e| e.path())).collect::<io::Result<Vec<_>>>()?;
    paths.sort();
    for path in paths {
        if path.is_dir() {
            list(&path, files)?;
        } else {
            files.push(path);
        }
    }
    Ok(())
}

/// What is not in the table, and how many.
#[derive(Default)]
struct LeftOut {
    mirrored: usize,
    uncaptioned: usize,
}

fn collect(folder: &Path, root: &Path, files: &[PathBuf]) -> io::Result<(Vec<Stamp>, LeftOut)> {
    let mut pictures: BTreeMap<PathBuf, &PathBuf> = BTreeMap::new();
    for file in files {
        // Where a stamp is drawn both ways, PNG sorts before SVG and stays.
        if matches!(extension(file), "png" | "svg") {
            pictures.entry(file.with_extension("")).or_insert(file);
        }
    }
    let (mut stamps, mut left_out) = (Vec::new(), LeftOut::default());
    for (stem, picture) in pictures {
        if name(&stem).ends_with("_mirror") {
            left_out.mirrored += 1;
            continue;
        }
        let Some((caption, caption_zh)) = captions(&suffixed(&stem, ".txt"))? else {
            left_out.uncaptioned += 1;
            continue;
        };
        let category = stem.strip_prefix(root).ok().and_then(|p| p.iter().next()).unwrap_or_default();
        stamps.push(Stamp {
            picture: relative(picture, folder),
            caption,
            caption_zh,
            spoken: spoken(&stem).map(|file| relative(&file, folder)),
            category: category.to_string_lossy().into_owned(),
        });
    }
    Ok((stamps, left_out))
}

/// The English and the Chinese caption, nothing where there is no text.
fn captions(file: &Path) -> io::Result<Option<(String, Option<String>)>> {
    let bytes = match fs::read(file) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(io::Error::new(error.kind(), format!("cannot read {file:?}: {error}"))),
    };
    let text = String::from_utf8_lossy(&bytes);
    let mut lines = text.trim_start_matches('\u{feff}').lines().map(str::trim);
    let english = lines.next().unwrap_or_default().to_owned();
    if english.is_empty() {
        return Ok(None);
    }
    let (mut simplified, mut traditional) = (None, None);
    for line in lines {
        match line.split_once(".utf8=") {
            Some(("zh_CN", caption)) => simplified = chinese(caption),
            Some(("zh_TW", caption)) => traditional = chinese(caption),
            _ => {}
        }
    }
    Ok(Some((english, simplified.or(traditional))))
}

/// A translation, unless it is empty or was left in English.
fn chinese(caption: &str) -> Option<String> {
    let caption = caption.trim();
    caption.chars().any(|c| ('\u{3400}'..='\u{9fff}').contains(&c)).then(|| caption.to_owned())
}

/// The recording of the caption; `_desc_` marks one of a caption, while digits and letters of the
/// alphabet have their name read without it.
fn spoken(stem: &Path) -> Option<PathBuf> {
    let endings = [format!("_desc_{SPOKEN}.ogg"), format!("_desc_{SPOKEN}.wav"), format!("_{SPOKEN}.ogg")];
    endings.iter().map(|ending| suffixed(stem, ending)).find(|file| file.is_file())
}

fn suffixed(stem: &Path, ending: &str) -> PathBuf {
    let mut path = stem.as_os_str().to_owned();
    path.push(ending);
    PathBuf::from(path)
}

fn extension(path: &Path) -> &str {
    path.extension().and_then(|e| e.to_str()).unwrap_or_default()
}

fn name(path: &Path) -> std::borrow::Cow<'_, str> {
    path.file_name().unwrap_or_default().to_string_lossy()
}

fn relative(file: &Path, folder: &Path) -> PathBuf {
    file.strip_prefix(folder).unwrap_or(file).to_owned()
}

fn write_table(path: &Path, stamps: &[Stamp]) -> io::Result<()> {
    let temporary = path.with_extension("csv.tmp");
    let mut file = io::BufWriter::new(fs::File::create(&temporary)?);
    writeln!(file, "picture,caption,caption_zh,spoken,category")?;
    for stamp in stamps {
        let spoken = stamp.spoken.as_deref().map(Path::to_string_lossy);
        let cells = [
            &*stamp.picture.to_string_lossy(),
            &stamp.caption,
            stamp.caption_zh.as_deref().unwrap_or_default(),
            spoken.as_deref().unwrap_or_default(),
            &stamp.category,
        ];
        writeln!(file, "{}", cells.map(quoted).join(","))?;
    }
    file.into_inner().map_err(io::IntoInnerError::into_error)?.sync_all()?;
    fs::rename(temporary, path)
}

/// A cell of a CSV file.
fn quoted(cell: &str) -> String {
    if cell.contains(['"', ',', '\n', '\r']) { format!("\"{}\"", cell.replace('"', "\"\"")) } else { cell.to_owned() }
}

fn report(folder: &Path, stamps: &[Stamp], small: &[String], left_out: &LeftOut) {
    let mut categories: BTreeMap<&str, [usize; 3]> = BTreeMap::new();
    let mut siblings: BTreeMap<&str, usize> = BTreeMap::new();
    for stamp in stamps {
        let counts = categories.entry(&stamp.category).or_default();
        counts[0] += 1;
        counts[1] += usize::from(stamp.caption_zh.is_some());
        counts[2] += usize::from(stamp.spoken.is_some());
        *siblings.entry(&stamp.caption).or_default() += 1;
    }
    println!("{}: {} stamps", folder.join(TABLE).display(), stamps.len());
    println!("  {:12} {:>6} {:>9} {:>8}", "category", "stamps", "Chinese", "spoken");
    for (category, [n, chinese, spoken]) in &categories {
        println!("  {category:12} {n:6} {chinese:9} {spoken:8}");
    }
    let shared: usize = siblings.values().filter(|n| **n > 1).sum();
    println!("  {} different English captions; {shared} stamps share theirs with another", siblings.len());
    println!(
        "  left out: categories with fewer than {FEWEST} stamps ({}), {} mirrored variants, {} without a caption",
        small.join(", "),
        left_out.mirrored,
        left_out.uncaptioned
    );
}
