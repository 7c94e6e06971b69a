//! Texts out of files, a bounded part at a time.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use super::shards::{self, Samples};
use crate::error::{DataError, Result};

/// The most bytes of one text; what is longer becomes several, cut at a blank
/// where there is one.
const LONGEST: usize = 1 << 20;

/// The files of text that a path names: itself, or all `.txt` files and shards
/// (`.tar`, `.parquet`, `.jsonl`) below a folder, in the order of their paths.
///
/// # Errors
/// When there is no such path, or no text file below it.
pub fn files_of(path: &Path) -> Result<Vec<PathBuf>> {
    if !path.is_dir() {
        std::fs::metadata(path).map_err(|e| DataError::io("open", path, e))?;
        return Ok(vec![path.to_owned()]);
    }
    let (mut found, mut folders) = (Vec::new(), vec![path.to_owned()]);
    while let Some(folder) = folders.pop() {
        let io = |e| DataError::io("list", &folder, e);
        for entry in std::fs::read_dir(&folder).map_err(io)? {
            let path = entry.map_err(io)?.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|e| e.eq_ignore_ascii_case("txt")) || shards::is_shard(&path) {
                found.push(path);
            }
        }
    }
    if found.is_empty() {
        return Err(DataError::Options(format!("{path:?} has no .txt, .tar, .parquet or .jsonl file in it")));
    }
    found.sort();
    Ok(found)
}

/// The texts of files, one after another: lines, or documents between empty
/// lines; a sample of a shard is a document. Blank ones are left out.
pub(super) struct Texts {
    files: std::vec::IntoIter<PathBuf>,
    documents: bool,
    /// The column of shards that holds the texts.
    column: Option<String>,
    shard: Option<Samples>,
    /// Texts of the last sample that are still to come, the next one last.
    sample: Vec<String>,
    open: Option<(PathBuf, BufReader<File>, u64)>,
    /// What was read beyond the end of the last text.
    rest: Vec<u8>,
    failed: bool,
}

impl Texts {
    pub(super) fn of(files: Vec<PathBuf>, column: Option<&str>, documents: bool) -> Self {
        Self {
            files: files.into_iter(),
            documents,
            column: column.map(str::to_owned),
            shard: None,
            sample: Vec::new(),
            open: None,
            rest: Vec::new(),
            failed: false,
        }
    }

    /// The texts of a sample, the last one first.
    fn take_apart(&mut self, sample: &str) {
        let mut add = |mut text: &str| {
            while !text.is_empty() {
                let at = if text.len() < LONGEST { text.len() } else { cut(&text.as_bytes()[..LONGEST]) };
                let (part, rest) = text.split_at(at);
                if !part.trim().is_empty() {
                    self.sample.push(part.trim_end().to_owned());
                }
                text = rest;
            }
        };
        if self.documents {
            add(sample)
        } else {
            sample.lines().for_each(add)
        }
        self.sample.reverse();
    }

    /// The next line with its end; empty at the end of a file.
    fn line(&mut self) -> Result<String> {
        let Some((path, reader, number)) = &mut self.open else { return Ok(String::new()) };
        let mut bytes = std::mem::take(&mut self.rest);
        let room = (LONGEST - bytes.len().min(LONGEST)) as u64;
        reader.by_ref().take(room).read_until(b'\n', &mut bytes).map_err(|e| DataError::io("read", path, e))?;
        if bytes.is_empty() {
            return Ok(String::new());
        }
        if bytes.len() >= LONGEST && !bytes.ends_with(b"\n") {
            self.rest = bytes.split_off(cut(&bytes));
        } else {
            *number += 1;
        }
        let text = String::from_utf8(bytes).map_err(|e| {
            DataError::Options(format!(
                "{path:?}, line {}: byte {} is not UTF-8; convert the file: iconv -f ENCODING -t UTF-8 {path:?}",
                (*number).max(1),
                e.utf8_error().valid_up_to() + 1
            ))
        })?;
        Ok(match text.strip_prefix('\u{feff}') {
            Some(rest) if *number <= 1 => rest.to_owned(),
            _ => text,
        })
    }

    fn text(&mut self) -> Result<Option<String>> {
        let mut document = String::new();
        loop {
            if let Some(text) = self.sample.pop() {
                return Ok(Some(text));
            }
            if let Some(shard) = &mut self.shard {
                match shard.next() {
                    Some(sample) => self.take_apart(&sample?),
                    None => self.shard = None,
                }
                continue;
            }
            if self.open.is_none() {
                let Some(path) = self.files.next() else { return Ok(None) };
                if shards::is_shard(&path) {
                    self.shard = Some(shards::open(&path, self.column.as_deref())?);
                    continue;
                }
                let file = File::open(&path).map_err(|e| DataError::io("open", &path, e))?;
                self.open = Some((path, BufReader::new(file), 0));
            }
            let line = self.line()?;
            let ended = line.is_empty();
            if ended {
                self.open = None;
            }
            let blank = line.trim().is_empty();
            if !self.documents && !blank {
                return Ok(Some(line.trim_end_matches(['\n', '\r']).to_owned()));
            }
            if self.documents {
                if !blank {
                    document += &line;
                }
                if !document.is_empty() && (blank || document.len() >= LONGEST) {
                    return Ok(Some(document.trim_end().to_owned()));
                }
            }
        }
    }
}

/// Where a text that is too long is cut: at a blank, or at least not within a character.
fn cut(bytes: &[u8]) -> usize {
    let blank = bytes.iter().rposition(u8::is_ascii_whitespace).filter(|at| *at > 0);
    blank.unwrap_or_else(|| {
        let begins = |b: &u8| (*b as i8) >= -0x40;
        bytes.iter().rposition(begins).filter(|at| *at > 0).unwrap_or(bytes.len())
    })
}

impl Iterator for Texts {
    type Item = Result<String>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.failed {
            return None;
        }
        let text = self.text();
        self.failed = text.is_err();
        text.transpose()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(content: &[u8], documents: bool) -> Vec<String> {
        let folder = tempfile::tempdir().expect("folder");
        let file = folder.path().join("a.txt");
        std::fs::write(&file, content).expect("written");
        Texts::of(vec![file], None, documents).collect::<Result<_>>().expect("texts")
    }

    #[test]
    fn lines_come_without_their_ends_and_blank_ones_not_at_all() {
        assert_eq!(read("\u{feff}one\r\n\n  \n二\nlast".as_bytes(), false), ["one", "二", "last"]);
        assert_eq!(read(b"a\nb\n\n\nc", true), ["a\nb", "c"]);
    }

    #[test]
    fn a_line_without_end_is_cut_between_characters() {
        let long = "汉".repeat(LONGEST / 2);
        let parts = read(long.as_bytes(), false);
        assert!(parts.len() > 1 && parts.iter().all(|p| p.len() <= LONGEST));
        assert_eq!(parts.concat(), long);
        let words = "word ".repeat(LONGEST / 4);
        let parts = read(words.as_bytes(), false);
        assert!(parts.iter().all(|p| p.trim().split(' ').all(|w| w == "word")), "cut at blanks");
    }

    #[test]
    fn samples_of_shards_are_lines_or_documents() {
        let folder = tempfile::tempdir().expect("folder");
        let long = "字".repeat(LONGEST / 2);
        let tar = crate::test_support::tar_file(&[
            ("1.txt", "one\n\n二\n".as_bytes()),
            ("2.png", b"\x89PNG"),
            ("3.json", br#"{"txt": "three"}"#),
            ("4.txt", long.as_bytes()),
        ]);
        std::fs::write(folder.path().join("a.tar"), tar).expect("written");
        let lines = "{\"content\": \"four\", \"title\": \"标题\"}\n{\"title\": \"二\"}\n";
        std::fs::write(folder.path().join("b.jsonl"), lines).expect("written");
        let files = files_of(folder.path()).expect("files");
        let read = |column, documents| Texts::of(files.clone(), column, documents).collect::<Result<Vec<_>>>();
        let texts = read(None, false).expect("texts");
        assert_eq!(
            (&texts[..3], texts.last().map(String::as_str)),
            (&["one", "二", "three"].map(String::from)[..], Some("four"))
        );
        assert_eq!(texts[3..texts.len() - 1].concat(), long);
        assert!(texts.iter().all(|t| t.len() <= LONGEST));
        assert_eq!(read(None, true).expect("texts")[0], "one\n\n二");
        let error = read(Some("title"), false).expect_err("the tar file has none").to_string();
        assert!(error.contains("no column \"title\""), "{error}");
        let titles: Result<Vec<_>> = Texts::of(files[1..].to_vec(), Some("title"), false).collect();
        assert_eq!(titles.expect("texts"), ["标题", "二"]);
    }

    #[test]
    fn of_parquet_the_texts_alone_are_read() {
        use parquet::data_type::{ByteArray, ByteArrayType, Int32Type};
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("a.parquet");
        let schema = "message m { required int32 n; optional binary text (utf8); }";
        let schema = std::sync::Arc::new(parquet::schema::parser::parse_message_type(schema).expect("a schema"));
        let out = std::fs::File::create(&path).expect("a file");
        let mut writer =
            parquet::file::writer::SerializedFileWriter::new(out, schema, Default::default()).expect("a writer");
        for group in 0..3 {
            let mut rows = writer.next_row_group().expect("rows");
            let mut n = rows.next_column().expect("n").expect("n");
            n.typed::<Int32Type>().write_batch(&[0, 1, 2], None, None).expect("written");
            n.close().expect("closed");
            let mut text = rows.next_column().expect("text").expect("text");
            let words: Vec<ByteArray> =
                ["第一", "third\nmore"].map(|w| format!("{group} {w}").as_str().into()).to_vec();
            text.typed::<ByteArrayType>().write_batch(&words, Some(&[1, 0, 1]), None).expect("written");
            text.close().expect("closed");
            rows.close().expect("closed");
        }
        writer.close().expect("closed");
        let read = |column| Texts::of(vec![path.clone()], column, false).collect::<Result<Vec<_>>>();
        let texts = read(None).expect("texts");
        assert_eq!(texts[..4], ["0 第一", "0 third", "more", "1 第一"]);
        assert_eq!(texts.len(), 9);
        assert!(read(Some("n")).expect_err("numbers").to_string().contains("expected a text"));
        assert!(read(Some("txet")).expect_err("unknown").to_string().contains("did you mean \"text\""));
        let bytes = std::fs::read(&path).expect("bytes");
        std::fs::write(&path, &bytes[..bytes.len() / 2]).expect("written");
        assert!(read(None).is_err(), "half a file");
    }

    #[test]
    fn a_folder_is_its_text_files_in_order() {
        let folder = tempfile::tempdir().expect("folder");
        std::fs::create_dir(folder.path().join("b")).expect("folder");
        for name in ["c.txt", "b/x.TXT", "a.txt", "picture.png"] {
            std::fs::write(folder.path().join(name), name).expect("written");
        }
        let names: Vec<_> = files_of(folder.path()).expect("files");
        let expected: Vec<_> = ["a.txt", "b/x.TXT", "c.txt"].iter().map(|n| folder.path().join(n)).collect();
        assert_eq!(names, expected);
        assert!(files_of(&folder.path().join("none")).is_err());
    }
}
