//! The command line.

use clap::{Args, Parser, Subcommand, ValueEnum};
use sensorium::rooms::model::checkpoint::DType;
use sensorium::{ColumnType, OnBad, Split};
use std::num::{NonZeroU64, NonZeroUsize};
use std::path::PathBuf;
use std::time::Duration;

/// Multimodal Transformers: from a table of text, images, audio and video to a
/// working model.
#[derive(Parser, Debug)]
#[command(
    name = "sensorium",
    version,
    about = "Multimodal Transformers: from a table of text, images, audio and video to a working model",
    propagate_version = true,
    subcommand_required = true,
    arg_required_else_help = true
)]
pub struct Arguments {
    #[command(subcommand)]
    pub command: Command,
    /// Threads to compute with (default: one per core, or RAYON_NUM_THREADS)
    #[arg(long, global = true, value_name = "N")]
    pub threads: Option<NonZeroUsize>,
    /// Print a backtrace with an error (with RUST_BACKTRACE=1 set)
    #[arg(long, global = true, hide_short_help = true)]
    pub backtrace: bool,
}

#[derive(Subcommand, Debug)]
pub enum Command {
    /// Look at a table: column types and why, missing values, unreadable media, duplicates, leaks
    Inspect(InspectArguments),
    /// Train a model to predict a column from the others
    Fit(FitArguments),
    /// Learn from text, pictures and sounds without labels: encoders to start a fit from
    Pretrain(PretrainArguments),
    /// Measure a model on rows whose label is known
    Evaluate(EvaluateArguments),
    /// Predict the label of new rows
    Predict(PredictArguments),
    /// Look at checkpoints and models
    Model(ModelArguments),
    /// Write a checkpoint (safetensors or PyTorch, whole or in shards) as one safetensors file
    Convert(ConvertArguments),
    /// Compute the features that a model's towers make of every row of a table
    Extract(ExtractArguments),
    /// Make a model a quarter of its size, and faster: weights of 8 bits, for inference
    Quantize(QuantizeArguments),
    /// Embed the rows of a table, or the files of a folder, into an index for searching
    Index(IndexArguments),
    /// Find the rows of an index that are most similar to a text, picture, sound or video
    Search(SearchArguments),
    /// Rows of an index near to what was liked, and different from each other
    Recommend(RecommendArguments),
    /// Print configurations
    Config(ConfigArguments),
}

/// A column and its type, as `photo=image`.
#[derive(Debug, Clone)]
pub struct TypedColumn {
    pub column: String,
    pub kind: ColumnType,
}

impl std::str::FromStr for TypedColumn {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (column, kind) = text.rsplit_once('=').ok_or("expected COLUMN=TYPE, as photo=image")?;
        Ok(Self {
            column: column.to_owned(),
            kind: kind.parse().map_err(|e: sensorium::rooms::data::DataError| e.to_string())?,
        })
    }
}

#[derive(Args, Debug)]
pub struct InspectArguments {
    /// The table: CSV, TSV, JSONL, Parquet, tar (WebDataset), or a folder of Parquet or tar shards
    pub table: PathBuf,
    /// The column to predict: adds class balance and leaks
    #[arg(long, value_name = "COLUMN")]
    pub label: Option<String>,
    /// Say the type of a column instead of inferring it (may be repeated)
    #[arg(long = "type", value_name = "COLUMN=TYPE")]
    pub types: Vec<TypedColumn>,
    /// Leave a column out (may be repeated)
    #[arg(long, value_name = "COLUMN")]
    pub ignore: Vec<String>,
    /// Print one JSON object instead of tables
    #[arg(long)]
    pub json: bool,
}

#[derive(Args, Debug)]
pub struct FitArguments {
    /// A table (CSV, TSV, JSONL, Parquet, tar, or a folder of shards), or a configuration (TOML)
    #[arg(value_name = "TABLE|CONFIG.toml")]
    pub source: PathBuf,
    /// The column to predict
    #[arg(long, value_name = "COLUMN")]
    pub label: Option<String>,
    /// Where the model is written (default: the table's or configuration's name and `-model`)
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// Leave a column out (may be repeated)
    #[arg(long, value_name = "COLUMN")]
    pub ignore: Vec<String>,
    /// Say the type of a column instead of inferring it (may be repeated)
    #[arg(long = "type", value_name = "COLUMN=TYPE")]
    pub types: Vec<TypedColumn>,
    /// Set a key of the configuration, as train.lr=2e-5 (may be repeated)
    #[arg(long, value_name = "KEY=VALUE")]
    pub set: Vec<String>,
    /// Go on from the newest checkpoint in DIR
    #[arg(long)]
    pub resume: bool,
    /// How long to train, as 90s, 10m or 2h; stops with a checkpoint and the best weights so far
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    pub time_limit: Option<Duration>,
    /// Print the evaluation as one JSON object
    #[arg(long)]
    pub json: bool,
}

#[derive(Args, Debug)]
pub struct PretrainArguments {
    /// A configuration (TOML), or a text file or folder for masked language modelling
    #[arg(value_name = "CONFIG.toml|TEXT")]
    pub source: PathBuf,
    /// Where the model is written (default: the configuration's or text's name and `-pretrained`)
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// Set a key of the configuration, as train.lr=2e-5 (may be repeated)
    #[arg(long, value_name = "KEY=VALUE")]
    pub set: Vec<String>,
    /// Go on from the newest checkpoint in DIR
    #[arg(long)]
    pub resume: bool,
    /// How long to train, as 90s, 10m or 2h; stops with a checkpoint and the best weights so far
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    pub time_limit: Option<Duration>,
    /// Print the validation metrics as one JSON object
    #[arg(long)]
    pub json: bool,
}

#[derive(Args, Debug)]
pub struct EvaluateArguments {
    /// The folder of a model
    pub model: PathBuf,
    /// A table with the label's column
    pub table: PathBuf,
    /// Only the rows of one split, as they were split for training
    #[arg(long, value_enum)]
    pub split: Option<SplitName>,
    /// Another model to compare with, as the one before
    #[arg(long, value_name = "MODEL")]
    pub before: Option<PathBuf>,
    /// Print one JSON object instead of tables
    #[arg(long)]
    pub json: bool,
    /// Write a report page (HTML) into this folder
    #[arg(long, value_name = "DIR")]
    pub report: Option<PathBuf>,
}

#[derive(ValueEnum, Debug, Clone, Copy)]
pub enum SplitName {
    Train,
    Val,
    Test,
    All,
}

impl SplitName {
    pub fn split(self) -> Option<Split> {
        match self {
            Self::Train => Some(Split::Train),
            Self::Val => Some(Split::Val),
            Self::Test => Some(Split::Test),
            Self::All => None,
        }
    }
}

#[derive(Args, Debug)]
pub struct PredictArguments {
    /// The folder of a model; with --labels that of a checkpoint (CLIP, SigLIP, …)
    pub model: PathBuf,
    /// A table of new rows; or give one sample with --text, --image, --audio, --video, --input
    #[arg(required_unless_present_any = ["text", "image", "audio", "video", "input"])]
    pub table: Option<PathBuf>,
    /// The sample's text
    #[arg(long, conflicts_with = "table")]
    pub text: Option<String>,
    /// The sample's image file
    #[arg(long, conflicts_with = "table", value_name = "FILE")]
    pub image: Option<String>,
    /// The sample's audio file
    #[arg(long, conflicts_with = "table", value_name = "FILE")]
    pub audio: Option<String>,
    /// The sample's video file
    #[arg(long, conflicts_with = "table", value_name = "FILE")]
    pub video: Option<String>,
    /// The sample's value of a column, where a model has several of a kind (may be repeated)
    #[arg(long, conflicts_with = "table", value_name = "COLUMN=VALUE")]
    pub input: Vec<String>,
    /// Answer with another adapter: the folder `adapter` of a model from the same base, or PEFT's
    #[arg(long, value_name = "FOLDER")]
    pub adapter: Option<PathBuf>,
    /// Sort into classes that no model was trained on, by their names alone (zero-shot), as cat,dog
    #[arg(long, value_name = "NAME,…", value_delimiter = ',', conflicts_with_all = ["adapter", "input"])]
    pub labels: Vec<String>,
    /// A sentence about a class for --labels, {} standing for its name (may be repeated)
    #[arg(long, value_name = "TEXT", requires = "labels")]
    pub template: Vec<String>,
    /// The language of the usual sentences for --labels (default: that of the names)
    #[arg(long, value_enum, requires = "labels", conflicts_with = "template")]
    pub language: Option<LanguageName>,
    /// The table's column to sort by with --labels
    #[arg(long, value_name = "NAME", requires = "labels")]
    pub column: Option<String>,
    /// The form of the answers
    #[arg(long, value_enum, default_value_t = Format::Csv)]
    pub format: Format,
    /// Write answers to a file instead of standard output; its ending .csv or .jsonl chooses the form
    #[arg(long, short, value_name = "FILE")]
    pub out: Option<PathBuf>,
    /// A row that cannot be read: stop, leave it out, or answer it with nothing
    #[arg(long, value_enum, default_value_t = OnError::Fail)]
    pub on_error: OnError,
}

#[derive(Args, Debug)]
pub struct ExtractArguments {
    /// The folder of a model or of a checkpoint of a known family, the weights file in it, or the name of one on the hub (org/name)
    #[arg(value_name = "PATH|HUB-ID")]
    pub model: String,
    /// The table: CSV, TSV, JSONL, Parquet, tar (WebDataset), or a folder of Parquet or tar shards
    pub table: PathBuf,
    /// The file of features; its ending .parquet, .safetensors, .npy or .jsonl chooses the form
    #[arg(long, short, value_name = "FEATURES")]
    pub out: PathBuf,
    /// Extract this column (may be repeated; default: every column that the model can read)
    #[arg(long, value_name = "NAME")]
    pub column: Vec<String>,
    /// One vector per row and column, pooled as the model does, instead of one per token
    #[arg(long)]
    pub pooled: bool,
    /// The hidden states after layer K, from 1; -1 is the last, -2 the one before
    #[arg(long, value_name = "K", allow_negative_numbers = true)]
    pub layer: Option<i64>,
    /// Say the type of a column instead of inferring it (may be repeated)
    #[arg(long = "type", value_name = "COLUMN=TYPE")]
    pub types: Vec<TypedColumn>,
    /// A row that cannot be read: stop, leave it out, or keep it with features missing
    #[arg(long, value_enum, default_value_t = OnError::Null)]
    pub on_error: OnError,
    /// Rows computed at a time
    #[arg(long, value_name = "N", default_value = "32")]
    pub batch_size: NonZeroUsize,
    /// Leave the result in files of some rows each, as FEATURES-00000-of-00012
    #[arg(long)]
    pub shards: bool,
    /// Rows per shard, in whole batches: what a killed run loses at most (default: by the table's size)
    #[arg(long, value_name = "N")]
    pub shard_rows: Option<NonZeroU64>,
    /// Begin anew: throw away what an interrupted run with this --out has done
    #[arg(long)]
    pub restart: bool,
}

#[derive(Args, Debug)]
pub struct QuantizeArguments {
    /// The folder of a model
    pub model: PathBuf,
    /// Where the quantised model is written
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
    /// Fix the ranges of activations from the rows of this table, and measure both models on it
    #[arg(long, value_name = "TABLE")]
    pub calibrate: Option<PathBuf>,
    /// Leave these weights as they are: a name, a part of one or its end, with * and ? (may be repeated)
    #[arg(long, value_name = "PATTERN")]
    pub keep: Vec<String>,
}

#[derive(Args, Debug)]
pub struct IndexArguments {
    /// The folder of a checkpoint whose towers meet in one space (CLIP, Chinese-CLIP, SigLIP) or of one encoder, or its name on the hub (org/name)
    #[arg(value_name = "PATH|HUB-ID")]
    pub model: String,
    /// The table (CSV, TSV, JSONL, Parquet), or a folder of pictures, sounds, videos and texts
    #[arg(value_name = "TABLE|FOLDER")]
    pub source: PathBuf,
    /// The index's folder; one that is there is brought up to date: only what is new or changed is embedded
    #[arg(long, short, value_name = "INDEX")]
    pub out: PathBuf,
    /// Keep the vectors in PostgreSQL with pgvector: postgres://USER@HOST/DATABASE?index=NAME, the password in
    /// PGPASSWORD; INDEX then only names the database
    #[arg(long, value_name = "ADDRESS")]
    pub store: Option<String>,
    /// Embed this column (may be repeated; default: every column that the model can read)
    #[arg(long, value_name = "NAME")]
    pub column: Vec<String>,
    /// The column that names rows (default: the one that looks like it, else row numbers)
    #[arg(long, value_name = "COLUMN")]
    pub id: Option<String>,
    /// Say the type of a column instead of inferring it (may be repeated)
    #[arg(long = "type", value_name = "COLUMN=TYPE")]
    pub types: Vec<TypedColumn>,
    /// Rows embedded at a time
    #[arg(long, value_name = "N", default_value = "32")]
    pub batch_size: NonZeroUsize,
    /// Keep entries that the table no longer has
    #[arg(long)]
    pub keep: bool,
    /// Vectors from which on a graph makes searches approximate and fast; 0 for never
    #[arg(long, value_name = "N", default_value = "50000")]
    pub graph_from: usize,
    /// Stop where more than this share of the rows cannot be read
    #[arg(long, value_name = "SHARE", default_value = "0.1")]
    pub max_bad: f64,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

/// A column and the value it must have, as `kind=dog`.
#[derive(Debug, Clone)]
pub struct ColumnValue {
    pub column: String,
    pub value: String,
}

impl std::str::FromStr for ColumnValue {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (column, value) = text.split_once('=').ok_or("expected COLUMN=VALUE, as kind=dog")?;
        Ok(Self { column: column.to_owned(), value: value.to_owned() })
    }
}

/// Which hits, and how they are shown.
#[derive(Args, Debug)]
pub struct HitArguments {
    /// Hits at most
    #[arg(long, value_name = "N", default_value = "10")]
    pub top: NonZeroUsize,
    /// Only rows whose column has this value (may be repeated: all must hold)
    #[arg(long = "where", value_name = "COLUMN=VALUE")]
    pub filters: Vec<ColumnValue>,
    /// Only what was embedded from this column (may be repeated)
    #[arg(long, value_name = "NAME")]
    pub column: Vec<String>,
    /// Compare every vector, also where there is a graph
    #[arg(long)]
    pub exact: bool,
    /// Write the hits as a page with small pictures, sounds and texts in it
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

#[derive(Args, Debug)]
#[command(group(clap::ArgGroup::new("query").required(true).multiple(true).args(["text", "image", "audio", "video"])))]
pub struct SearchArguments {
    /// The index's folder, or the address of one in PostgreSQL
    #[arg(value_name = "INDEX|ADDRESS")]
    pub index: PathBuf,
    /// Search for a text; several queries together stand for their mean
    #[arg(long)]
    pub text: Vec<String>,
    /// Search for what a picture shows
    #[arg(long, value_name = "FILE")]
    pub image: Vec<String>,
    /// Search for what a sound is of
    #[arg(long, value_name = "FILE")]
    pub audio: Vec<String>,
    /// Search for what a video shows
    #[arg(long, value_name = "FILE")]
    pub video: Vec<String>,
    /// The model that made the index, where it has moved
    #[arg(long, value_name = "PATH|HUB-ID")]
    pub model: Option<String>,
    #[command(flatten)]
    pub hits: HitArguments,
}

#[derive(Args, Debug)]
pub struct RecommendArguments {
    /// The index's folder, or the address of one in PostgreSQL
    #[arg(value_name = "INDEX|ADDRESS")]
    pub index: PathBuf,
    /// The names of rows that were liked
    #[arg(long, value_name = "ID,…", value_delimiter = ',', required = true)]
    pub liked: Vec<String>,
    /// The names of rows that were not liked
    #[arg(long, value_name = "ID,…", value_delimiter = ',')]
    pub disliked: Vec<String>,
    /// The names of further rows that are not to come again
    #[arg(long, value_name = "ID,…", value_delimiter = ',')]
    pub seen: Vec<String>,
    /// From 0, by nearness to the taste alone, to 1, by variety alone
    #[arg(long, value_name = "SHARE", default_value = "0.3")]
    pub variety: f32,
    #[command(flatten)]
    pub hits: HitArguments,
}

#[derive(ValueEnum, Debug, Clone, Copy)]
pub enum LanguageName {
    En,
    Zh,
}

#[derive(ValueEnum, Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    Csv,
    Jsonl,
}

#[derive(ValueEnum, Debug, Clone, Copy)]
pub enum OnError {
    Fail,
    Skip,
    Null,
}

impl From<OnError> for OnBad {
    fn from(policy: OnError) -> Self {
        match policy {
            OnError::Fail => Self::Fail,
            OnError::Skip => Self::Skip,
            OnError::Null => Self::Null,
        }
    }
}

#[derive(Args, Debug)]
pub struct ModelArguments {
    #[command(subcommand)]
    pub command: ModelCommand,
}

#[derive(Subcommand, Debug)]
pub enum ModelCommand {
    /// What a checkpoint is: files, tensors, architecture, and what of it can be used
    Info(ModelInfoArguments),
}

#[derive(Args, Debug)]
pub struct ModelInfoArguments {
    /// A folder, a weights file, or the name of a model on the hub (org/name)
    #[arg(value_name = "PATH|HUB-ID")]
    pub model: String,
    /// List every tensor: name, number format, dimensions
    #[arg(long)]
    pub tensors: bool,
    /// Print one JSON object instead of text
    #[arg(long)]
    pub json: bool,
}

#[derive(Args, Debug)]
pub struct ConvertArguments {
    /// A folder, a weights file, or the name of a model on the hub (org/name)
    #[arg(value_name = "PATH|HUB-ID")]
    pub input: String,
    /// The file to write
    #[arg(value_name = "OUT.safetensors")]
    pub out: PathBuf,
    /// The number format of floating-point tensors (default: as they are)
    #[arg(long, value_enum)]
    pub dtype: Option<FloatName>,
    /// Write over a file that is there
    #[arg(long)]
    pub force: bool,
}

#[derive(ValueEnum, Debug, Clone, Copy)]
pub enum FloatName {
    F32,
    F16,
    Bf16,
}

impl From<FloatName> for DType {
    fn from(name: FloatName) -> Self {
        match name {
            FloatName::F32 => Self::F32,
            FloatName::F16 => Self::F16,
            FloatName::Bf16 => Self::BF16,
        }
    }
}

#[derive(Args, Debug)]
pub struct ConfigArguments {
    /// Print every key with its default and a comment
    #[arg(long, required = true)]
    pub default: bool,
    /// Of the configurations for `sensorium pretrain`, not of those for `sensorium fit`
    #[arg(long)]
    pub pretrain: bool,
}

/// `90`, `90s`, `10m`, `2h`, `1.5h`.
fn parse_duration(text: &str) -> Result<Duration, String> {
    let number = text.trim_end_matches(|c: char| c.is_alphabetic());
    let factor = match &text[number.len()..] {
        "" | "s" => 1.0,
        "m" | "min" => 60.0,
        "h" => 3600.0,
        other => return Err(format!("unknown unit {other:?}; expected s, m or h, as 10m")),
    };
    let value: f64 = number.parse().map_err(|_| format!("{number:?} is not a number; expected a time as 10m"))?;
    Duration::try_from_secs_f64(value * factor).map_err(|_| format!("{text:?} is not a length of time"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_definition_is_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn durations_are_read_as_people_write_them() {
        assert_eq!(parse_duration("10m"), Ok(Duration::from_secs(600)));
        assert_eq!(parse_duration("1.5h"), Ok(Duration::from_secs(5400)));
        assert_eq!(parse_duration("30"), Ok(Duration::from_secs(30)));
        for bad in ["m", "10 days", "-3s", "1e400h", "nans"] {
            assert!(parse_duration(bad).is_err(), "{bad}");
        }
    }
}
