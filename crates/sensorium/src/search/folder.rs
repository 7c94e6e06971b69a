//! A folder of media as a table: one row per file.

use crate::{Error, Result};
use serde_json::{Map, json};
use std::io::{BufWriter, Read, Write};
use std::path::{Path, PathBuf};
use tempfile::NamedTempFile;

/// The longest text file that is read, in bytes.
const MAX_TEXT: u64 = 1 << 20;
/// Folders within folders, at most.
const MAX_DEPTH: usize = 64;

const IMAGE: [&str; 9] = ["png", "jpg", "jpeg", "webp", "gif", "bmp", "tif", "tiff", "svg"];
const AUDIO: [&str; 8] = ["wav", "flac", "mp3", "ogg", "oga", "opus", "m4a", "aac"];
const VIDEO: [&str; 7] = ["mp4", "avi", "mov", "mkv", "webm", "mpg", "mpeg"];

/// The column for a file of this ending.
fn column(path: &Path) -> Option<&'static str> {
    let ending = path.extension()?.to_str()?.to_ascii_lowercase();
    let is = |list: &[&str]| list.contains(&ending.as_str());
    match () {
        () if is(&IMAGE) => Some("image"),
        () if is(&AUDIO) => Some("audio"),
        () if is(&VIDEO) => Some("video"),
        () if is(&["txt", "md"]) => Some("text"),
        () => None,
    }
}

/// Writes a table of a folder's files: `path` within the folder, and the file
/// in the column of its kind. It is removed with what is returned.
///
/// # Errors
/// When the folder cannot be read, or holds no media.
pub(super) fn table(folder: &Path) -> Result<NamedTempFile> {
    let folder = folder.canonicalize().map_err(|e| Error::io("read", folder, e))?;
    let mut files = Vec::new();
    walk(&folder, 0, &mut files)?;
    // The order of a folder's list is not the same everywhere.
    files.sort();
    if files.is_empty() {
        return Err(Error::Request(format!(
            "{folder:?} holds no pictures, sounds, videos or texts (.txt, .md) that could be indexed"
        )));
    }
    let file = tempfile::Builder::new().prefix("sensorium-").suffix(".jsonl").tempfile();
    let mut file = file.map_err(|e| Error::io("create", std::env::temp_dir(), e))?;
    let path = file.path().to_owned();
    let mut write = || -> std::io::Result<()> {
        let mut out = BufWriter::new(file.as_file_mut());
        // The first line names all columns.
        for file in &files {
            let Some(kind) = column(file) else { continue };
            let mut row = Map::new();
            let name = file.strip_prefix(&folder).unwrap_or(file).to_string_lossy().replace('\\', "/");
            row.insert("path".into(), json!(name));
            for column in ["image", "audio", "video", "text"] {
                let cell = match kind == column {
                    false => serde_json::Value::Null,
                    true if kind == "text" => json!(text(file)?),
                    true => json!(file.to_string_lossy()),
                };
                row.insert(column.into(), cell);
            }
            writeln!(out, "{}", serde_json::Value::Object(row))?;
        }
        out.flush()
    };
    write().map_err(|e| Error::io("write", &path, e))?;
    Ok(file)
}

fn text(path: &Path) -> std::io::Result<String> {
    let mut bytes = Vec::new();
    std::fs::File::open(path)?.take(MAX_TEXT).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn walk(folder: &Path, depth: usize, files: &mut Vec<PathBuf>) -> Result<()> {
    let io = |e| Error::io("read", folder, e);
    for entry in std::fs::read_dir(folder).map_err(io)? {
        let entry = entry.map_err(io)?;
        let (path, kind) = (entry.path(), entry.file_type().map_err(io)?);
        if entry.file_name().to_string_lossy().starts_with('.') {
            continue;
        }
        // Links are not followed: they may lead round in a circle.
        if kind.is_dir() && depth < MAX_DEPTH {
            walk(&path, depth + 1, files)?;
        } else if kind.is_file() && column(&path).is_some() {
            files.push(path);
        }
    }
    Ok(())
}
