//! Text in another encoding, converted once into a temporary UTF-8 copy.
//!
//! UTF-8 files are used as they are. A byte order mark names UTF-16. Otherwise, bytes that are not
//! UTF-8 are tried as GB18030 (which contains GBK and GB2312), the usual encoding of Chinese
//! spreadsheets; a Western single-byte file also decodes as GB18030 now and then, so most of the
//! double bytes must lie where the common characters are.

use std::fs::File;
use std::io::{BufWriter, Read, Seek, SeekFrom, Write};
use std::path::Path;

use encoding_rs::{Encoding, GB18030, UTF_8, UTF_16BE, UTF_16LE};
use tempfile::TempPath;

use super::TableOptions;
use crate::error::{DataError, Result};

const CHUNK: usize = 1 << 16;

/// The converted copy of a file that is not UTF-8, or `None` for one that is.
pub(super) fn to_utf8(
    path: &Path,
    mut file: File,
    options: &TableOptions,
    notes: &mut Vec<String>,
) -> Result<Option<TempPath>> {
    let io = |source| DataError::io("read", path, source);
    if let Some(name) = &options.encoding {
        let encoding = Encoding::for_label(name.trim().as_bytes()).ok_or_else(|| DataError::EncodingChoice {
            path: path.to_path_buf(),
            problem: format!(
                "there is no text encoding {name:?}; expected a name such as utf-8, gb18030, \
                     gbk, big5, utf-16le, shift_jis, euc-kr or windows-1252"
            ),
        })?;
        if encoding != UTF_8 {
            return convert(path, &mut file, encoding).map(Some);
        }
        return match first_invalid(&mut file).map_err(io)? {
            None => Ok(None),
            Some(place) => Err(not_utf8(path, &mut file, place)),
        };
    }
    let mut head = [0; 2];
    let read = file.read(&mut head).map_err(io)?;
    let marked = match (&head[..read], read) {
        ([0xFF, 0xFE], 2) => Some(UTF_16LE),
        ([0xFE, 0xFF], 2) => Some(UTF_16BE),
        _ => None,
    };
    if let Some(encoding) = marked {
        notes.push(format!("the file is {}; read through a converted copy", encoding.name()));
        return convert(path, &mut file, encoding).map(Some);
    }
    let Some(place) = first_invalid(&mut file).map_err(io)? else { return Ok(None) };
    if looks_like_gb18030(&mut file).map_err(io)? {
        let copy = convert(path, &mut file, GB18030)?;
        notes.push("the file is GB18030 (GBK), not UTF-8; read through a converted copy".to_string());
        return Ok(Some(copy));
    }
    Err(not_utf8(path, &mut file, place))
}

/// Offset of the first byte that is not UTF-8.
fn first_invalid(file: &mut File) -> std::io::Result<Option<u64>> {
    file.seek(SeekFrom::Start(0))?;
    let mut buffer = vec![0; CHUNK];
    let mut kept = 0;
    let mut base = 0u64;
    loop {
        let read = file.read(&mut buffer[kept..])?;
        let end = kept + read;
        match std::str::from_utf8(&buffer[..end]) {
            Ok(_) => {
                base += end as u64;
                kept = 0;
            }
            Err(error) if error.error_len().is_none() && read > 0 => {
                // A character cut by the end of the chunk: keep its bytes for the next.
                let valid = error.valid_up_to();
                buffer.copy_within(valid..end, 0);
                base += valid as u64;
                kept = end - valid;
            }
            Err(error) => return Ok(Some(base + error.valid_up_to() as u64)),
        }
        if read == 0 {
            return Ok(None);
        }
    }
}

fn not_utf8(path: &Path, file: &mut File, place: u64) -> DataError {
    let mut line_breaks = 0;
    let mut value = 0;
    let counted = (|| -> std::io::Result<()> {
        file.seek(SeekFrom::Start(0))?;
        let mut before = Read::by_ref(file).take(place);
        let mut buffer = [0; 4096];
        loop {
            let read = before.read(&mut buffer)?;
            if read == 0 {
                break;
            }
            line_breaks += buffer[..read].iter().filter(|byte| **byte == b'\n').count() as u64;
        }
        let mut byte = [0];
        file.read_exact(&mut byte)?;
        value = byte[0];
        Ok(())
    })();
    match counted {
        Err(source) => DataError::io("read", path, source),
        Ok(()) => DataError::Encoding { path: path.to_path_buf(), row: line_breaks, byte: place, value },
    }
}

/// Whether all bytes decode as GB18030 and most double bytes are common characters.
fn looks_like_gb18030(file: &mut File) -> std::io::Result<bool> {
    file.seek(SeekFrom::Start(0))?;
    let (mut pairs, mut common) = (0u64, 0u64);
    let mut lead = None;
    let mut decoder = GB18030.new_decoder_without_bom_handling();
    let mut buffer = vec![0; CHUNK];
    let mut text = String::with_capacity(CHUNK * 4);
    loop {
        let read = file.read(&mut buffer)?;
        text.clear();
        let (_, _, bad) = decoder.decode_to_string(&buffer[..read], &mut text, read == 0);
        if bad {
            return Ok(false);
        }
        for &byte in &buffer[..read] {
            match lead.take() {
                Some(first) => {
                    pairs += 1;
                    // The rows of GB2312: punctuation and letters, then the common characters.
                    common += u64::from((0xA1..=0xF7).contains(&first) && byte >= 0xA1);
                }
                None if byte >= 0x80 => lead = Some(byte),
                None => {}
            }
        }
        if read == 0 {
            return Ok(pairs > 0 && common * 10 >= pairs * 8);
        }
    }
}

fn convert(path: &Path, file: &mut File, encoding: &'static Encoding) -> Result<TempPath> {
    let read_error = |source| DataError::io("read", path, source);
    let copy =
        tempfile::NamedTempFile::new().map_err(|source| DataError::io("create a temporary copy of", path, source))?;
    file.seek(SeekFrom::Start(0)).map_err(read_error)?;
    let mut writer = BufWriter::new(copy.as_file());
    let mut decoder = encoding.new_decoder_with_bom_removal();
    let mut buffer = vec![0; CHUNK];
    let mut text = String::with_capacity(CHUNK * 4);
    let mut row = 0u64;
    loop {
        let read = file.read(&mut buffer).map_err(read_error)?;
        text.clear();
        let (_, _, bad) = decoder.decode_to_string(&buffer[..read], &mut text, read == 0);
        row += text.bytes().filter(|byte| *byte == b'\n').count() as u64;
        if bad {
            return Err(DataError::EncodingChoice {
                path: path.to_path_buf(),
                problem: format!(
                    "the file is not {}: bytes before row {} do not decode; name its real encoding",
                    encoding.name(),
                    row.max(1)
                ),
            });
        }
        writer.write_all(text.as_bytes()).map_err(|source| DataError::io("write a temporary copy of", path, source))?;
        if read == 0 {
            break;
        }
    }
    writer.flush().map_err(|source| DataError::io("write a temporary copy of", path, source))?;
    drop(writer);
    Ok(copy.into_temp_path())
}
