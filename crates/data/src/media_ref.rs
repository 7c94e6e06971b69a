//! What a media cell points at: files, data URIs, lists of those, or bytes.

use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig};
use base64::engine::{DecodePaddingMode, general_purpose};

use crate::schema::ColumnType;
use crate::table::Value;

/// One piece of media.
#[derive(Clone, Debug, PartialEq)]
pub enum MediaRef {
    /// A file.
    File(PathBuf),
    /// The contents of a file, from a data URI or a program.
    Bytes(Vec<u8>),
}

/// The longest data URI accepted, in characters (512 MiB).
const MAX_DATA_URI: usize = 512 << 20;

const BASE64: GeneralPurpose = GeneralPurpose::new(
    &base64::alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// Reads a media cell: a path (relative to `folder`, or absolute), a data URI, a JSON array of
/// those, or several paths separated by `;` where each of them exists.
///
/// # Errors
/// One line that says what the cell holds and how to mend it. A file that does not exist is left to
/// the reader, which names it.
pub fn parse_media(value: &Value, folder: &Path) -> Result<Vec<MediaRef>, String> {
    match value {
        Value::Missing => Ok(Vec::new()),
        Value::Bytes(bytes) => Ok(vec![MediaRef::Bytes(bytes.clone())]),
        Value::Texts(parts) => parts.iter().map(|part| parse_one(part, folder)).collect(),
        Value::Text(text) => parse_text(text.trim(), folder),
        Value::Number(_) | Value::Features(_) => {
            Err("numbers were found where the path of a file or a data URI is expected".into())
        }
    }
}

fn parse_text(text: &str, folder: &Path) -> Result<Vec<MediaRef>, String> {
    if text.starts_with('[')
        && let Ok(parts) = serde_json::from_str::<Vec<String>>(text)
    {
        return parts.iter().map(|part| parse_one(part, folder)).collect();
    }
    if text.contains(';') && !text.starts_with("data:") && !folder.join(text).exists() {
        let parts: Vec<&str> = text.split(';').map(str::trim).filter(|part| !part.is_empty()).collect();
        if parts.iter().all(|part| folder.join(part).exists()) {
            return parts.iter().map(|part| parse_one(part, folder)).collect();
        }
    }
    Ok(vec![parse_one(text, folder)?])
}

fn parse_one(text: &str, folder: &Path) -> Result<MediaRef, String> {
    let text = text.trim();
    if let Some(rest) = text.strip_prefix("data:") {
        if rest.len() > MAX_DATA_URI {
            return Err(format!("the data URI is longer than {MAX_DATA_URI} characters"));
        }
        let (head, body) = rest.split_once(',').ok_or("the data URI has no comma before its contents")?;
        if !head.ends_with(";base64") {
            return Err("the data URI is not base64; expected data:TYPE;base64,CONTENTS".into());
        }
        let decoded = if body.contains(['-', '_']) {
            general_purpose::URL_SAFE_NO_PAD.decode(body.trim_end_matches('='))
        } else {
            BASE64.decode(body)
        };
        return decoded.map(MediaRef::Bytes).map_err(|error| format!("the data URI is not valid base64: {error}"));
    }
    if is_url(text) {
        return Err(format!(
            "{text:?} is a web address, and nothing is fetched from the network; download the file \
             and give its path"
        ));
    }
    if text.contains('\0') {
        return Err("the path contains a zero byte".into());
    }
    Ok(MediaRef::File(folder.join(text.strip_prefix("file://").unwrap_or(text))))
}

pub(crate) fn is_url(text: &str) -> bool {
    let start = text.get(..8).unwrap_or(text).to_ascii_lowercase();
    start.starts_with("http://") || start.starts_with("https://")
}

const IMAGE: [&str; 10] = ["png", "jpg", "jpeg", "webp", "gif", "bmp", "tif", "tiff", "svg", "jfif"];
const AUDIO: [&str; 13] =
    ["wav", "flac", "mp3", "ogg", "oga", "opus", "m4a", "aac", "wma", "aiff", "aif", "amr", "caf"];
const VIDEO: [&str; 13] = ["mp4", "avi", "mov", "mkv", "webm", "mpg", "mpeg", "m4v", "wmv", "flv", "3gp", "ts", "ogv"];

/// Whether a file's extension (in small letters) is that of a medium.
pub(crate) fn is_media_extension(extension: &str) -> bool {
    [&IMAGE[..], &AUDIO, &VIDEO].concat().contains(&extension)
}

/// The media type that a cell looks like: by the extension of its (first) path, or by the type or
/// the first bytes of its data URI.
pub(crate) fn looks_like(value: &Value) -> Option<ColumnType> {
    let by_bytes = |bytes: &[u8]| sniff(bytes);
    match value {
        Value::Bytes(bytes) => by_bytes(bytes),
        Value::Texts(parts) => parts.first().and_then(|part| text_looks_like(part)),
        Value::Text(text) => {
            let text = text.trim();
            if text.starts_with('[') {
                let parts: Vec<String> = serde_json::from_str(text).ok()?;
                return parts.first().and_then(|part| text_looks_like(part));
            }
            let first = if text.starts_with("data:") {
                text
            } else {
                text.split(';').find(|part| !part.trim().is_empty()).unwrap_or(text)
            };
            text_looks_like(first)
        }
        _ => None,
    }
}

fn text_looks_like(text: &str) -> Option<ColumnType> {
    let text = text.trim();
    if let Some(rest) = text.strip_prefix("data:") {
        let kind = rest.split(['/', ';', ',']).next().unwrap_or("");
        return match kind {
            "image" => Some(ColumnType::Image),
            "audio" => Some(ColumnType::Audio),
            "video" => Some(ColumnType::Video),
            _ => {
                let body = rest.split_once(',')?.1;
                let start = body.get(..body.len().min(64) / 4 * 4)?;
                sniff(&BASE64.decode(start).ok()?)
            }
        };
    }
    let name = if is_url(text) { text.split(['?', '#']).next().unwrap_or(text) } else { text };
    if name.chars().count() > 1024 || name.contains('\n') {
        return None;
    }
    let extension = Path::new(name).extension()?.to_str()?.to_ascii_lowercase();
    let is = |list: &[&str]| list.contains(&extension.as_str());
    if is(&IMAGE) {
        Some(ColumnType::Image)
    } else if is(&AUDIO) {
        Some(ColumnType::Audio)
    } else if is(&VIDEO) {
        Some(ColumnType::Video)
    } else {
        None
    }
}

/// The media type told by a file's first bytes.
fn sniff(bytes: &[u8]) -> Option<ColumnType> {
    let at = |offset: usize, magic: &[u8]| bytes.get(offset..offset + magic.len()) == Some(magic);
    if at(0, b"\x89PNG")
        || at(0, b"\xFF\xD8\xFF")
        || at(0, b"GIF8")
        || at(0, b"BM")
        || at(0, b"II*\0")
        || at(0, b"MM\0*")
        || (at(0, b"RIFF") && at(8, b"WEBP"))
        || at(0, b"<svg")
        || at(0, b"<?xml")
    {
        Some(ColumnType::Image)
    } else if (at(0, b"RIFF") && at(8, b"WAVE"))
        || at(0, b"fLaC")
        || at(0, b"OggS")
        || at(0, b"ID3")
        || at(0, b"\xFF\xFB")
        || at(0, b"\xFF\xF3")
        || at(4, b"ftypM4A")
    {
        Some(ColumnType::Audio)
    } else if at(4, b"ftyp") || at(0, b"\x1A\x45\xDF\xA3") || (at(0, b"RIFF") && at(8, b"AVI ")) {
        Some(ColumnType::Video)
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str, folder: &Path) -> Result<Vec<MediaRef>, String> {
        parse_media(&Value::Text(text.into()), folder)
    }

    #[test]
    fn paths_are_relative_to_the_table() {
        let folder = Path::new("/data");
        let file = |path: &str| MediaRef::File(path.into());
        assert_eq!(parse("a/b.png", folder).expect("path"), [file("/data/a/b.png")]);
        assert_eq!(parse("/x/b.png", folder).expect("path"), [file("/x/b.png")]);
        assert_eq!(parse("[\"a.png\", \"b.png\"]", folder).expect("list"), [file("/data/a.png"), file("/data/b.png")]);
        assert!(parse("https://example.org/a.png", folder).expect_err("url").contains("download"));
    }

    #[test]
    fn semicolons_separate_files_that_exist() {
        let folder = tempfile::tempdir().expect("folder");
        for name in ["a.png", "b.png"] {
            std::fs::write(folder.path().join(name), b"x").expect("write");
        }
        assert_eq!(parse("a.png; b.png", folder.path()).expect("two").len(), 2);
        assert_eq!(parse("a.png;c.png", folder.path()).expect("one").len(), 1);
    }

    #[test]
    fn data_uris_are_decoded() {
        let folder = Path::new(".");
        let bytes = |b: &[u8]| vec![MediaRef::Bytes(b.to_vec())];
        assert_eq!(parse("data:image/png;base64,aGVsbG8=", folder).expect("uri"), bytes(b"hello"));
        assert_eq!(parse("data:;base64,aGVsbG8", folder).expect("no padding"), bytes(b"hello"));
        assert!(parse("data:image/png,hello", folder).is_err());
        assert!(parse("data:image/png;base64,@@@", folder).is_err());
    }

    #[test]
    fn cells_look_like_their_media() {
        let looks = |text: &str| looks_like(&Value::Text(text.into()));
        assert_eq!(looks("x/图片.JPG"), Some(ColumnType::Image));
        assert_eq!(looks("a.wav;b.wav"), Some(ColumnType::Audio));
        assert_eq!(looks("[\"a.mp4\"]"), Some(ColumnType::Video));
        assert_eq!(looks("https://example.org/a.png?size=3"), Some(ColumnType::Image));
        assert_eq!(looks("data:;base64,iVBORw0KGgoAAAA"), Some(ColumnType::Image));
        assert_eq!(looks("I saw it at 5.30"), None);
    }
}
