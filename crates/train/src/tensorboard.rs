//! Scalars for TensorBoard: an append-only event file, written by hand.
//!
//! An event file is a sequence of TFRecords (length, checksum of the length, bytes, checksum of
//! the bytes), each holding one `Event` message in Protocol Buffers' wire format. TensorBoard
//! reads all event files of a directory in the order of their names, so a resumed run begins a
//! new one; its first event tells TensorBoard to forget what an earlier file says of the steps
//! that are now taken again.

use crate::error::{Result, TrainError};
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

/// More files than this in one second are a mistake of the caller.
const FILES_PER_SECOND: u32 = 10_000;

/// Writes scalars to a new event file in a directory.
#[derive(Debug)]
pub struct EventWriter {
    path: PathBuf,
    file: File,
    pending: Vec<u8>,
}

impl EventWriter {
    /// Starts an event file in `directory`, which is made where it is missing.
    ///
    /// `step` is the step the run goes on from: scalars of this and later steps in earlier files
    /// of the directory are forgotten. A new run starts from 0.
    pub fn create(directory: &Path, step: u64) -> Result<Self> {
        fs::create_dir_all(directory).map_err(TrainError::io("create", directory))?;
        let (path, file) = new_file(directory).map_err(TrainError::io("create an event file in", directory))?;
        let mut writer = Self { path, file, pending: Vec::new() };
        writer.record(&event(0, &text_field(3, "brain.Event:2")));
        if step > 0 {
            // `SessionLog { status: START }`: purge the steps from here on.
            writer.record(&event(step, &bytes_field(7, &varint_field(1, 1))));
        }
        writer.flush()?;
        Ok(writer)
    }

    /// The file being written.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Adds scalars of one step, such as ("train/loss", 0.7); they are written at the next flush.
    pub fn scalars<'a>(&mut self, step: u64, values: impl IntoIterator<Item = (&'a str, f64)>) {
        let mut summary = Vec::new();
        for (tag, value) in values {
            let mut entry = text_field(1, tag);
            // TensorBoard keeps scalars as f32.
            entry.push(2 << 3 | FIXED_32);
            entry.extend((value as f32).to_le_bytes());
            summary.extend(bytes_field(1, &entry));
        }
        if !summary.is_empty() {
            self.record(&event(step, &bytes_field(5, &summary)));
        }
    }

    /// Hands what was added to the system, so that a running TensorBoard sees it.
    pub fn flush(&mut self) -> Result<()> {
        let written = self.file.write_all(&self.pending);
        self.pending.clear();
        written.map_err(TrainError::io("write", &self.path))
    }

    fn record(&mut self, event: &[u8]) {
        let length = (event.len() as u64).to_le_bytes();
        self.pending.extend(length);
        self.pending.extend(masked_crc32c(&length).to_le_bytes());
        self.pending.extend(event);
        self.pending.extend(masked_crc32c(event).to_le_bytes());
    }
}

impl Drop for EventWriter {
    fn drop(&mut self) {
        // A run that ends early still shows its last scalars; nobody is left to hear of a failure.
        let _ = self.flush();
    }
}

/// A file whose name sorts after those of all earlier files.
fn new_file(directory: &Path) -> io::Result<(PathBuf, File)> {
    let seconds = now() as u64;
    for number in 0..FILES_PER_SECOND {
        let name = format!("events.out.tfevents.{seconds:010}.{number:04}.sensorium");
        let path = directory.join(name);
        match File::create_new(&path) {
            Ok(file) => return Ok((path, file)),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
    }
    Err(io::ErrorKind::AlreadyExists.into())
}

/// Seconds since 1970.
fn now() -> f64 {
    let elapsed = SystemTime::now().duration_since(UNIX_EPOCH);
    elapsed.map_or(0.0, |elapsed| elapsed.as_secs_f64())
}

// Wire types of Protocol Buffers; a field begins with its number and wire type.
const VARINT: u8 = 0;
const FIXED_64: u8 = 1;
const BYTES: u8 = 2;
const FIXED_32: u8 = 5;

/// An `Event` of this moment: wall time (1), step (2) and its content.
fn event(step: u64, content: &[u8]) -> Vec<u8> {
    let mut event = vec![1 << 3 | FIXED_64];
    event.extend(now().to_le_bytes());
    event.extend(varint_field(2, step));
    event.extend(content);
    event
}

fn varint_field(number: u8, value: u64) -> Vec<u8> {
    let mut field = vec![number << 3 | VARINT];
    varint(&mut field, value);
    field
}

fn text_field(number: u8, text: &str) -> Vec<u8> {
    bytes_field(number, text.as_bytes())
}

fn bytes_field(number: u8, bytes: &[u8]) -> Vec<u8> {
    let mut field = vec![number << 3 | BYTES];
    varint(&mut field, bytes.len() as u64);
    field.extend(bytes);
    field
}

/// Seven bits a byte, lowest first, the top bit telling that more follow.
fn varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Castagnoli's CRC, rotated and shifted as TFRecords want it.
fn masked_crc32c(bytes: &[u8]) -> u32 {
    crc32c(bytes).rotate_right(15).wrapping_add(0xa282_ead8)
}

fn crc32c(bytes: &[u8]) -> u32 {
    let step = |crc: u32, byte: &u8| crc >> 8 ^ CRC_TABLE[((crc ^ u32::from(*byte)) & 0xff) as usize];
    !bytes.iter().fold(!0, step)
}

/// What eight shifts of the reflected polynomial 0x82f63b78 make of each byte.
const CRC_TABLE: [u32; 256] = {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        let mut crc = byte as u32;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 1 == 1 { crc >> 1 ^ 0x82f6_3b78 } else { crc >> 1 };
            bit += 1;
        }
        table[byte] = crc;
        byte += 1;
    }
    table
};

#[cfg(test)]
mod tests {
    use super::*;

    /// What a test reads back of an event.
    #[derive(Debug, Default, PartialEq)]
    struct Read {
        wall_time: f64,
        step: u64,
        version: String,
        starts: bool,
        scalars: Vec<(String, f32)>,
    }

    /// CRC32C bit by bit, to check the table against.
    fn slow_masked_crc(bytes: &[u8]) -> u32 {
        let mut crc = !0u32;
        for byte in bytes {
            crc ^= u32::from(*byte);
            for _ in 0..8 {
                crc = if crc & 1 == 1 { (crc >> 1) ^ 0x82f6_3b78 } else { crc >> 1 };
            }
        }
        let crc = !crc;
        crc.rotate_right(15).wrapping_add(0xa282_ead8)
    }

    fn records(mut bytes: &[u8]) -> Vec<Vec<u8>> {
        let mut records = Vec::new();
        while !bytes.is_empty() {
            let (length, rest) = bytes.split_at(8);
            let (length_crc, rest) = rest.split_at(4);
            assert_eq!(length_crc, slow_masked_crc(length).to_le_bytes());
            let (record, rest) = rest.split_at(u64::from_le_bytes(length.try_into().unwrap()) as usize);
            let (record_crc, rest) = rest.split_at(4);
            assert_eq!(record_crc, slow_masked_crc(record).to_le_bytes());
            records.push(record.to_vec());
            bytes = rest;
        }
        records
    }

    /// The fields of a message: number, varint or fixed value, bytes.
    fn fields(mut bytes: &[u8]) -> Vec<(u64, u64, Vec<u8>)> {
        fn varint(bytes: &mut &[u8]) -> u64 {
            let mut value = 0;
            for shift in (0..).step_by(7) {
                let byte = bytes[0];
                *bytes = &bytes[1..];
                value |= u64::from(byte & 0x7f) << shift;
                if byte < 0x80 {
                    break;
                }
            }
            value
        }
        let mut fields = Vec::new();
        while !bytes.is_empty() {
            let key = varint(&mut bytes);
            let (value, size) = match key & 7 {
                0 => (varint(&mut bytes), 0),
                1 => (u64::from_le_bytes(bytes[..8].try_into().unwrap()), 8),
                2 => (0, varint(&mut bytes) as usize),
                5 => (u64::from(u32::from_le_bytes(bytes[..4].try_into().unwrap())), 4),
                other => panic!("wire type {other}"),
            };
            fields.push((key >> 3, value, bytes[..size].to_vec()));
            bytes = &bytes[size..];
        }
        fields
    }

    fn read(path: &Path) -> Vec<Read> {
        let bytes = fs::read(path).unwrap();
        let events = records(&bytes).into_iter().map(|record| {
            let mut event = Read::default();
            for (number, value, bytes) in fields(&record) {
                match number {
                    1 => event.wall_time = f64::from_bits(value),
                    2 => event.step = value,
                    3 => event.version = String::from_utf8(bytes).unwrap(),
                    5 => {
                        for (_, _, entry) in fields(&bytes) {
                            let entry = fields(&entry);
                            let tag = String::from_utf8(entry[0].2.clone()).unwrap();
                            event.scalars.push((tag, f32::from_bits(entry[1].1 as u32)));
                        }
                    }
                    7 => event.starts = fields(&bytes)[0].1 == 1,
                    other => panic!("field {other}"),
                }
            }
            event
        });
        events.collect()
    }

    #[test]
    fn checksums_are_castagnolis() {
        // The check value of CRC-32C, and 32 zeros from RFC 3720.
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
        assert_eq!(crc32c(&[0; 32]), 0x8a91_36aa);
    }

    #[test]
    fn scalars_come_back() {
        let directory = tempfile::tempdir().unwrap();
        let mut writer = EventWriter::create(&directory.path().join("logs"), 0).unwrap();
        writer.scalars(0, [("train/loss", 2.5), ("验证/准确率", 0.25)]);
        writer.scalars(300, [("train/loss", f64::NAN)]);
        writer.scalars(400, []);
        writer.flush().unwrap();
        let events = read(writer.path());
        assert_eq!(events.len(), 3);
        assert_eq!(events[0].version, "brain.Event:2");
        assert!(events[0].wall_time > 1.6e9);
        let scalars = [("train/loss".to_owned(), 2.5), ("验证/准确率".to_owned(), 0.25)];
        assert_eq!(events[1].scalars, scalars);
        assert_eq!(events[2].step, 300);
        assert!(events[2].scalars[0].1.is_nan());
        assert!(events.iter().all(|event| !event.starts));
    }

    #[test]
    fn a_resumed_run_begins_a_new_file_that_sorts_last() {
        let directory = tempfile::tempdir().unwrap();
        let mut paths = Vec::new();
        for step in [0, 20] {
            let mut writer = EventWriter::create(directory.path(), step).unwrap();
            writer.scalars(step, [("loss", 1.0)]);
            paths.push(writer.path().to_owned());
        }
        assert!(paths[0] < paths[1]);
        let first = read(&paths[0]);
        assert_eq!(first.len(), 2, "dropping the writer writes what was added");
        let second = read(&paths[1]);
        assert!(second[1].starts);
        assert_eq!(second[1].step, 20);
        assert_eq!(second[2].scalars, [("loss".to_owned(), 1.0)]);
    }

    #[test]
    fn a_directory_that_cannot_be_made_is_named() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let error = EventWriter::create(&file.path().join("logs"), 0).unwrap_err();
        assert!(error.to_string().contains("logs"), "{error}");
    }
}
