//! What of a table reaches the model, and how: fitted once, saved with the model.

use std::collections::{BTreeMap, HashSet};
use std::path::Path;

use sensorium_media::Limits;
use serde::{Deserialize, Serialize};

use crate::error::{DataError, Result};
use crate::features::read_features;
use crate::files::write_atomically;
use crate::label::{LabelOptions, LabelSpec};
use crate::media_ref::parse_media;
use crate::prepare::Preparer;
use crate::processor::{
    AudioFeatures, AudioProcessor, CategoryProcessor, FeatureFitter, FeaturesProcessor, ImageProcessor,
    NumberProcessor, Processor, TextProcessor, VideoProcessor, usable_std,
};
use crate::schema::{ColumnType, Schema};
use crate::segment::{Modality, SegmentKind};
use crate::statistics::Moments;
use crate::table::{Table, Value};
use crate::tokenizer::{Tokenizer, TokenizerOptions};

/// The plan's file in a model's folder.
pub const PLAN_FILE: &str = "data.json";
/// The tokenizer's file in a model's folder.
pub const TOKENIZER_FILE: &str = "tokenizer.json";
/// Texts that a vocabulary is learnt from, at most; spread evenly over the training rows.
const MAX_TOKENIZER_TEXTS: usize = 200_000;
/// Sounds that the mean of Kaldi's features is learnt from, at most.
const MAX_FITTED_SOUNDS: usize = 200;

/// One input of the model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ColumnPlan {
    /// The input's name: the column's, or `COLUMN (sound)` for the sound track of a video.
    pub name: String,
    /// The table's column.
    pub source: String,
    /// What it is about.
    pub modality: Modality,
    /// How cells become segments.
    pub processor: Processor,
    /// True for the sound track of a video column.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub sound_track: bool,
}

impl ColumnPlan {
    /// The form of the column's segments.
    pub fn segment_kind(&self) -> SegmentKind {
        match self.processor {
            Processor::Text(_) => SegmentKind::Tokens,
            Processor::Image(_) => SegmentKind::Image,
            Processor::Audio(_) => SegmentKind::Audio,
            Processor::Video(_) => SegmentKind::Video,
            Processor::Number(_) => SegmentKind::Number,
            Processor::Category(_) => SegmentKind::Category,
            Processor::Features(_) => SegmentKind::Features,
        }
    }
}

/// How to fit a plan.
#[derive(Clone, Debug, Default)]
pub struct PlanOptions {
    /// Text columns.
    pub text: TextProcessor,
    /// Image columns.
    pub image: ImageProcessor,
    /// Audio columns, and the sound tracks of videos.
    pub audio: AudioProcessor,
    /// Video columns.
    pub video: VideoProcessor,
    /// A tokenizer to use; without one, one is learnt from the training texts.
    pub tokenizer: Option<Tokenizer>,
    /// How to learn the tokenizer.
    pub train_tokenizer: TokenizerOptions,
    /// The label.
    pub label: LabelOptions,
    /// Whether the sound track of each video column is an input of its own.
    pub sound_tracks: bool,
    /// Limits on media files.
    pub limits: Limits,
}

/// What of a table reaches the model, and how.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DataPlan {
    /// The version of this file's format.
    pub version: u32,
    /// The inputs, in the order of the model's.
    pub columns: Vec<ColumnPlan>,
    /// What is predicted.
    pub label: Option<LabelSpec>,
    /// Limits on media files.
    #[serde(default)]
    pub limits: Limits,
    /// The tokenizer of all text columns; in its own file.
    #[serde(skip)]
    pub tokenizer: Option<Tokenizer>,
}

/// The version of [`PLAN_FILE`] that this program writes.
pub const VERSION: u32 = 1;

impl DataPlan {
    /// Learns a plan from the training rows: which columns are inputs, the statistics of numbers and
    /// features, vocabularies, the tokenizer, the label.
    ///
    /// Cells that cannot be read are left out of the statistics; loading reports them.
    ///
    /// # Errors
    /// No input columns, a label that cannot be learnt, configs that make no sense.
    pub fn fit(table: &Table, schema: &Schema, train_rows: &[u64], options: &PlanOptions) -> Result<DataPlan> {
        let mut fitters = Vec::new();
        for column in schema.inputs() {
            fitters.push(Fitter::new(column.kind, column.precomputed, table.column_index(&column.name)?));
        }
        if fitters.is_empty() {
            return Err(DataError::Options(format!(
                "no column of {:?} is an input; types: {}",
                table.path(),
                schema.columns.iter().map(|c| format!("{}={}", c.name, c.kind)).collect::<Vec<_>>().join(", ")
            )));
        }
        if fitters.iter().any(|fitter| fitter.needs_rows()) {
            for &row in train_rows {
                let values = table.row(row)?.values;
                fitters.iter_mut().for_each(|fitter| fitter.add(&values[fitter.at], table.folder()));
            }
        }
        let mut columns = Vec::new();
        for (column, fitter) in schema.inputs().zip(&fitters) {
            let processor = fitter.finish(options).ok_or_else(|| {
                DataError::Options(format!(
                    "column {:?} is {}, and no training row has a usable cell in it; ignore it with --ignore {}",
                    column.name, column.kind, column.name
                ))
            })?;
            columns.push(ColumnPlan {
                name: column.name.clone(),
                source: column.name.clone(),
                modality: modality(column.kind),
                processor,
                sound_track: false,
            });
            if options.sound_tracks && column.kind == ColumnType::Video && !column.precomputed {
                columns.push(ColumnPlan {
                    name: format!("{} (sound)", column.name),
                    source: column.name.clone(),
                    modality: Modality::Audio,
                    processor: Processor::Audio(options.audio.clone()),
                    sound_track: true,
                });
            }
        }
        let label =
            schema.label().map(|label| LabelSpec::fit(table, &label.name, train_rows, &options.label)).transpose()?;
        let mut plan = DataPlan { version: VERSION, columns, label, limits: options.limits.clone(), tokenizer: None };
        plan.validate().map_err(DataError::Options)?;
        if plan.columns.iter().any(|column| matches!(column.processor, Processor::Text(_))) {
            plan.tokenizer = Some(match &options.tokenizer {
                Some(tokenizer) => tokenizer.clone(),
                None => plan.train_tokenizer(table, train_rows, &options.train_tokenizer)?,
            });
        }
        plan.fit_audio(table, train_rows)?;
        Ok(plan)
    }

    fn train_tokenizer(&self, table: &Table, train_rows: &[u64], options: &TokenizerOptions) -> Result<Tokenizer> {
        let mut at = Vec::new();
        for column in self.columns.iter().filter(|c| matches!(c.processor, Processor::Text(_))) {
            at.push(table.column_index(&column.source)?);
        }
        let texts = spread(train_rows, MAX_TOKENIZER_TEXTS / at.len()).flat_map(|row| match table.row(row) {
            Err(error) => vec![Err(error)],
            Ok(row) => at.iter().flat_map(|at| row.values[*at].texts()).map(Ok).collect(),
        });
        Tokenizer::train(texts, options)
    }

    /// Learns the mean and deviation of Kaldi's features where none were given; Whisper's are
    /// scaled by their definition.
    fn fit_audio(&mut self, table: &Table, train_rows: &[u64]) -> Result<()> {
        let preparer = Preparer { limits: self.limits.clone(), cache: None };
        for column in &mut self.columns {
            let Processor::Audio(config) = &mut column.processor else { continue };
            if config.features != AudioFeatures::Kaldi || (config.mean, config.std) != (0.0, 1.0) {
                continue;
            }
            let at = table.column_index(&column.source)?;
            let mut moments = Moments::default();
            for row in spread(train_rows, MAX_FITTED_SOUNDS) {
                let value = table.row(row)?.values.swap_remove(at);
                let Ok(media) = parse_media(&value, table.folder()) else { continue };
                for media in media {
                    if let Ok(Some(mel)) = preparer.mel(&media, config, column.sound_track, false) {
                        mel.data.iter().for_each(|x| moments.add(f64::from(*x)));
                    }
                }
            }
            config.mean = moments.mean() as f32;
            config.std = usable_std(moments.std());
        }
        Ok(())
    }

    /// The position of an input.
    pub fn column(&self, name: &str) -> Option<usize> {
        self.columns.iter().position(|column| column.name == name)
    }

    /// Writes `data.json` and, where there is one, `tokenizer.json` into a folder.
    pub fn save(&self, folder: &Path) -> Result<()> {
        let path = folder.join(PLAN_FILE);
        if let Some(tokenizer) = &self.tokenizer {
            tokenizer.save(&folder.join(TOKENIZER_FILE))?;
        }
        let json = serde_json::to_vec_pretty(self)
            .map_err(|error| DataError::Plan { path: path.clone(), problem: error.to_string() })?;
        write_atomically(&path, &json)
    }

    /// Reads what [`save`](Self::save) wrote, and checks it.
    pub fn load(folder: &Path) -> Result<DataPlan> {
        let path = folder.join(PLAN_FILE);
        let problem = |problem: String| DataError::Plan { path: path.clone(), problem };
        let json = std::fs::read(&path).map_err(|source| DataError::io("read", &path, source))?;
        let version = serde_json::from_slice::<serde_json::Value>(&json)
            .map_err(|error| problem(format!("is not JSON: {error}")))?
            .get("version")
            .and_then(serde_json::Value::as_u64);
        if version != Some(u64::from(VERSION)) {
            return Err(problem(format!(
                "has version {version:?}, and this program reads version {VERSION}; use the program that wrote it, or fit again"
            )));
        }
        let mut plan: DataPlan =
            serde_json::from_slice(&json).map_err(|error| problem(format!("cannot be read: {error}")))?;
        plan.validate().map_err(problem)?;
        if plan.columns.iter().any(|column| matches!(column.processor, Processor::Text(_))) {
            plan.tokenizer = Some(Tokenizer::load(&folder.join(TOKENIZER_FILE))?);
        }
        Ok(plan)
    }

    fn validate(&self) -> std::result::Result<(), String> {
        let mut names = HashSet::new();
        for column in &self.columns {
            if !names.insert(&column.name) {
                return Err(format!("there are two inputs named {:?}", column.name));
            }
            column.processor.validate().map_err(|problem| format!("input {:?}: {problem}", column.name))?;
        }
        self.label.as_ref().map_or(Ok(()), LabelSpec::validate)
    }
}

fn modality(kind: ColumnType) -> Modality {
    match kind {
        ColumnType::Text => Modality::Text,
        ColumnType::Image => Modality::Image,
        ColumnType::Audio => Modality::Audio,
        ColumnType::Video => Modality::Video,
        _ => Modality::Tabular,
    }
}

/// Up to `count` of the rows, at even distances.
fn spread(rows: &[u64], count: usize) -> impl Iterator<Item = u64> + '_ {
    let taken = rows.len().min(count);
    (0..taken).map(move |i| rows[i * rows.len() / taken])
}

/// Collects what one column's processor needs.
struct Fitter {
    at: usize,
    state: FitterState,
}

enum FitterState {
    Media(ColumnType),
    Number(Moments),
    Category(BTreeMap<String, u64>),
    Features(FeatureFitter),
}

impl Fitter {
    fn new(kind: ColumnType, precomputed: bool, at: usize) -> Self {
        let state = match kind {
            _ if precomputed => FitterState::Features(FeatureFitter::default()),
            ColumnType::Number => FitterState::Number(Moments::default()),
            ColumnType::Category => FitterState::Category(BTreeMap::new()),
            other => FitterState::Media(other),
        };
        Fitter { at, state }
    }

    fn needs_rows(&self) -> bool {
        !matches!(self.state, FitterState::Media(_))
    }

    fn add(&mut self, value: &Value, folder: &Path) {
        if value.is_missing() {
            return;
        }
        match &mut self.state {
            FitterState::Media(_) => {}
            FitterState::Number(moments) => {
                if let Some(number) = value.as_number() {
                    moments.add(number);
                }
            }
            FitterState::Category(counts) => {
                if let Some(word) = value.as_text() {
                    *counts.entry(word.trim().to_string()).or_insert(0) += 1;
                }
            }
            FitterState::Features(fitter) => {
                // A matrix of another width is reported when the row is loaded.
                if let Ok(matrix) = read_features(value, folder) {
                    fitter.add(&matrix);
                }
            }
        }
    }

    fn finish(&self, options: &PlanOptions) -> Option<Processor> {
        match &self.state {
            FitterState::Media(ColumnType::Text) => Some(Processor::Text(options.text.clone())),
            FitterState::Media(ColumnType::Image) => Some(Processor::Image(options.image.clone())),
            FitterState::Media(ColumnType::Audio) => Some(Processor::Audio(options.audio.clone())),
            FitterState::Media(ColumnType::Video) => Some(Processor::Video(options.video.clone())),
            FitterState::Media(_) => None,
            FitterState::Number(moments) if moments.count() == 0 => None,
            FitterState::Number(moments) => Some(Processor::Number(NumberProcessor::fit(moments))),
            FitterState::Category(counts) if counts.is_empty() => None,
            FitterState::Category(counts) => Some(Processor::Category(CategoryProcessor::fit(counts))),
            FitterState::Features(fitter) => {
                fitter.finish().map(|features: FeaturesProcessor| Processor::Features(features))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sampler::Sampler;
    use crate::segment::Segment;
    use crate::test_support::{Fixture, small_options};
    use crate::{SchemaOptions, TokenizerKind};
    use std::sync::Arc;

    #[test]
    fn a_plan_is_fitted_on_the_training_rows_alone() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("t.csv");
        let mut csv = String::from("text,size,colour,label\n");
        for i in 0..30 {
            csv += &format!("some word{i} here,{},{},{}\n", i % 4, ["a", "b"][i % 2], i % 2);
        }
        csv += "secret secret secret,1000,zebra,7\n".repeat(3).as_str();
        std::fs::write(&path, csv).expect("write");
        let table = Table::open(&path, &Default::default()).expect("table");
        let schema = Schema::infer(&table, &Default::default()).expect("schema");
        let train: Vec<u64> = (0..30).collect();
        let options = PlanOptions {
            train_tokenizer: TokenizerOptions { kind: TokenizerKind::WordPiece, ..Default::default() },
            ..Default::default()
        };
        let plan = DataPlan::fit(&table, &schema, &train, &options).expect("plan");
        assert_eq!(plan.label.as_ref().map(|label| label.classes.len()), Some(2));
        let Processor::Number(number) = &plan.columns[1].processor else { panic!("not a number") };
        assert!(number.mean < 3.0);
        let Processor::Category(category) = &plan.columns[2].processor else { panic!("no category") };
        assert_eq!(category.vocabulary, ["a", "b"]);
        let tokenizer = plan.tokenizer.as_ref().expect("tokenizer");
        assert!(tokenizer.token_id("some").is_some() && tokenizer.token_id("secret").is_none());
    }

    #[test]
    fn a_saved_plan_gives_the_same_samples() {
        let fixture = Fixture::new(20);
        let (table, plan) = (fixture.table(), fixture.plan());
        let folder = tempfile::tempdir().expect("folder");
        plan.save(folder.path()).expect("save");
        let loaded = DataPlan::load(folder.path()).expect("load");
        assert_eq!(loaded, *plan);
        let binding = crate::Binding::new(&loaded, &table).expect("binding");
        let samples = |plan: Arc<DataPlan>| -> Vec<_> {
            let sampler = Sampler::new(plan, table.folder(), None);
            (0..20).map(|row| sampler.row(&table, &binding, row, None).expect("sample")).collect()
        };
        assert!(samples(plan) == samples(Arc::new(loaded)));
    }

    #[test]
    fn damaged_plans_are_refused() {
        let fixture = Fixture::new(20);
        let folder = tempfile::tempdir().expect("folder");
        fixture.plan().save(folder.path()).expect("save");
        let path = folder.path().join(PLAN_FILE);
        let text = std::fs::read_to_string(&path).expect("read");
        for (from, to) in [
            ("\"version\": 1", "\"version\": 2"),
            ("\"size\": 8", "\"size\": 0"),
            ("\"size\": 8", "\"sise\": 8"),
            ("\"yes\"", "\"yes\", \"maybe\""),
            ("\"dim\": 3", "\"dim\": 4"),
        ] {
            assert!(text.contains(from), "{from}");
            std::fs::write(&path, text.replacen(from, to, 1)).expect("write");
            assert!(matches!(DataPlan::load(folder.path()), Err(DataError::Plan { .. })), "{to}");
        }
        std::fs::write(&path, text).expect("write");
        std::fs::remove_file(folder.path().join(TOKENIZER_FILE)).expect("remove");
        assert!(matches!(DataPlan::load(folder.path()), Err(DataError::Io { .. })));
    }

    #[test]
    fn features_may_stand_for_any_modality() {
        let fixture = Fixture::new(20);
        let table = fixture.table();
        let options = SchemaOptions {
            types: BTreeMap::from([("vector".to_string(), ColumnType::Audio)]),
            ignore: vec!["text".into(), "picture".into(), "sound".into()],
            ..Default::default()
        };
        let schema = Schema::infer(&table, &options).expect("schema");
        let rows: Vec<u64> = (0..20).collect();
        let plan = DataPlan::fit(&table, &schema, &rows, &small_options()).expect("plan");
        let at = plan.column("vector").expect("vector");
        assert_eq!(plan.columns[at].modality, Modality::Audio);
        assert_eq!(plan.columns[at].segment_kind(), SegmentKind::Features);
        assert!(plan.tokenizer.is_none());
        let sampler = Sampler::new(Arc::new(plan), table.folder(), None);
        let sample = sampler.from_values(0, &[("vector".into(), Value::Text("[1, 2, 3]".into()))]).expect("sample");
        assert!(matches!(&sample.segments[..], [(i, Segment::Features { rows: 1, dim: 3, .. })] if *i == at));
        let wrong = sampler.from_values(0, &[("vector".into(), Value::Text("[1, 2]".into()))]).expect("sample");
        assert!(wrong.problems[0].message.contains("expected 3"), "{}", wrong.problems[0]);
        let error = sampler.from_values(0, &[("vektor".into(), Value::Missing)]).expect_err("unknown");
        assert!(error.to_string().contains("did you mean \"vector\"?"), "{error}");
    }

    #[test]
    fn bytes_may_stand_for_files() {
        let fixture = Fixture::new(20);
        let plan = fixture.plan();
        let sampler = Sampler::new(plan.clone(), ".", None);
        let picture = crate::test_support::bmp(9, 9, [255, 0, 0]);
        let values = [("picture".to_string(), Value::Bytes(picture)), ("sound".into(), Value::Bytes(b"?".to_vec()))];
        let sample = sampler.from_values(0, &values).expect("sample");
        assert!(
            matches!(&sample.segments[..], [(_, Segment::Image { height: 8, width: 8, data })] if data[0] == 1.0 && data[64] == -1.0)
        );
        assert_eq!(sample.problems[0].column, "sound");
    }
}
