//! A small table with every modality, written to a temporary folder, for tests.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::plan::{DataPlan, PlanOptions};
use crate::processor::{AudioProcessor, ImageProcessor};
use crate::schema::{Schema, SchemaOptions};
use crate::split::{SplitOptions, Splits};
use crate::table::{Table, TableOptions};

/// A picture of one colour as a BMP file.
pub(crate) fn bmp(width: usize, height: usize, [red, green, blue]: [u8; 3]) -> Vec<u8> {
    let stride = (width * 3).div_ceil(4) * 4;
    let size = 54 + stride * height;
    let mut bytes = b"BM".to_vec();
    bytes.extend((size as u32).to_le_bytes());
    bytes.extend([0; 4]);
    bytes.extend(54u32.to_le_bytes());
    bytes.extend(40u32.to_le_bytes());
    bytes.extend((width as i32).to_le_bytes());
    bytes.extend((height as i32).to_le_bytes());
    bytes.extend([1, 0, 24, 0]);
    bytes.extend([0; 24]);
    for _ in 0..height {
        let mut row: Vec<u8> = [blue, green, red].repeat(width);
        row.resize(stride, 0);
        bytes.extend(row);
    }
    bytes
}

/// A tar file of these files.
pub(crate) fn tar_file(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    for (name, content) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        tar.append_data(&mut header, name, *content).expect("a file");
    }
    tar.into_inner().expect("a tar file")
}

/// A tone as a WAV file of 16 bits.
pub(crate) fn wav(sample_rate: u32, seconds: f64, hertz: f64) -> Vec<u8> {
    let samples = (f64::from(sample_rate) * seconds) as u32;
    let mut bytes = b"RIFF".to_vec();
    bytes.extend((36 + samples * 2).to_le_bytes());
    bytes.extend(b"WAVEfmt ");
    bytes.extend(16u32.to_le_bytes());
    bytes.extend([1, 0, 1, 0]);
    bytes.extend(sample_rate.to_le_bytes());
    bytes.extend((sample_rate * 2).to_le_bytes());
    bytes.extend([2, 0, 16, 0]);
    bytes.extend(b"data");
    bytes.extend((samples * 2).to_le_bytes());
    for i in 0..samples {
        let phase = std::f64::consts::TAU * hertz * f64::from(i) / f64::from(sample_rate);
        bytes.extend(((phase.sin() * 12_000.0) as i16).to_le_bytes());
    }
    bytes
}

/// A folder with a table of `rows` rows and its media.
pub(crate) struct Fixture {
    pub(crate) folder: tempfile::TempDir,
    pub(crate) path: PathBuf,
}

impl Fixture {
    /// Columns: text, picture (bmp), sound (wav), size (number), colour (category), vector
    /// (features), label. Some cells of each are missing; every tenth row has two pictures.
    pub(crate) fn new(rows: usize) -> Fixture {
        let folder = tempfile::tempdir().expect("folder");
        let mut csv = String::from("text,picture,sound,size,colour,vector,label\n");
        for i in 0..rows {
            let name = |kind: &str| format!("{i}.{kind}");
            let color = [(i * 37 % 256) as u8, (i * 91 % 256) as u8, (i * 53 % 256) as u8];
            write(folder.path(), &name("bmp"), &bmp(20 + i % 7, 16 + i % 5, color));
            write(folder.path(), &name("wav"), &wav(16_000, 0.2 + 0.02 * (i % 5) as f64, 300.0 + i as f64));
            let keep = |every: usize, text: String| if i % every == every - 1 { String::new() } else { text };
            let picture = if i % 10 == 3 { format!("{i}.bmp;{}.bmp", i - 1) } else { name("bmp") };
            let words = "很好 word ".repeat(1 + i % 9);
            csv += &format!(
                "{},{},{},{},{},{},{}\n",
                keep(6, format!("第{i}行 {words}")),
                keep(5, picture),
                keep(4, name("wav")),
                keep(7, format!("{}.5", i % 13)),
                keep(8, ["red", "green", "blue"][i % 3].to_string()),
                keep(9, format!("\"[{i}, {}, 1.5]\"", i % 4)),
                ["yes", "no"][i % 2],
            );
        }
        let path = folder.path().join("table.csv");
        std::fs::write(&path, csv).expect("write");
        Fixture { folder, path }
    }

    pub(crate) fn table(&self) -> Arc<Table> {
        Arc::new(Table::open(&self.path, &TableOptions::default()).expect("table"))
    }

    /// The plan of small pictures and sounds, fitted on the training rows.
    pub(crate) fn plan(&self) -> Arc<DataPlan> {
        let table = self.table();
        let schema = Schema::infer(&table, &SchemaOptions::default()).expect("schema");
        let splits = Splits::of(&table, &SplitOptions::default()).expect("splits");
        Arc::new(DataPlan::fit(&table, &schema, &splits.train, &small_options()).expect("plan"))
    }

    pub(crate) fn write(&self, name: &str, bytes: &[u8]) {
        write(self.folder.path(), name, bytes);
    }
}

/// Plan options with small pictures and short sounds.
pub(crate) fn small_options() -> PlanOptions {
    PlanOptions {
        image: ImageProcessor { size: 8, ..Default::default() },
        audio: AudioProcessor { mels: 16, max_seconds: 0.25, ..Default::default() },
        ..Default::default()
    }
}

fn write(folder: &Path, name: &str, bytes: &[u8]) {
    std::fs::write(folder.join(name), bytes).expect("write");
}
