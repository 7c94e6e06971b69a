//! Texts out of files, a bounded part at a time.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use crate::error::{DataError, Result};

/// The most bytes of one text; what is longer becomes several, cut at a blank
/// where there is one.
const LONGEST: usize = 1 << 20;

/// The text files that a path names: itself, or all `.txt` files below a
/// folder, in the order of their paths.
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
            } else if path.extension().is_some_and(|e| e.eq_ignore_ascii_case("txt")) {
                found.push(path);
            }
        }
    }
    if found.is_empty() {
        return Err(DataError::Options(format!("{path:?} has no .txt file in it")));
    }
    found.sort();
    Ok(found)
}

/// The texts of files, one after another: lines, or documents between empty
/// lines. Blank ones are left out.
pub(super) struct Texts {
    files: std::vec::IntoIter<PathBuf>,
    documents: bool,
    open: Option<(PathBuf, BufReader<File>, u64)>,
    /// What was read beyond the end of the last text.
    rest: Vec<u8>,
    failed: bool,
}

impl Texts {
    pub(super) fn of(files: Vec<PathBuf>, documents: bool) -> Self {
        Self { files: files.into_iter(), documents, open: None, rest: Vec::new(), failed: false }
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
            // Within the limit but at a blank, or at least not within a character.
            let blank = bytes.iter().rposition(u8::is_ascii_whitespace).filter(|at| *at > 0);
            let at = blank.unwrap_or_else(|| {
                let begins = |b: &u8| (*b as i8) >= -0x40;
                bytes.iter().rposition(begins).filter(|at| *at > 0).unwrap_or(bytes.len())
            });
            self.rest = bytes.split_off(at);
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
            if self.open.is_none() {
                let Some(path) = self.files.next() else { return Ok(None) };
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
        Texts::of(vec![file], documents).collect::<Result<_>>().expect("texts")
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
