//! Columns of a table that are learnt from together: which ones, the towers
//! that they share with the objectives over one modality, and their batches.

use super::Structures;
use super::config::PretrainConfig;
use super::corpora::TextSource;
use super::pictures::{FrameStructure, ImageStructure, as_fit, open_columns};
use super::sounds::AudioStructure;
use super::source::{Batch, pictures_of};
use super::structure::{TextModel, TextStructure, Texts};
use super::texts::Words;
use crate::assemble::{augmentation, column_towers, plan_options, resolve};
use crate::config::{FitConfig, TaskName};
use crate::encoders::Encoders;
use crate::retrieve::Cells;
use crate::search::Similarity;
use crate::{Dataset, Error, Result};
use sensorium_data::processor::VideoProcessor;
use sensorium_data::{ColumnType, DataPlan, Loader, Modality};
use sensorium_engine::Params;
use sensorium_model::{ColumnTower, TowerConfig, Towers};
use sensorium_train::{Batches, BoxError, Source};
use std::path::Path;
use std::sync::Arc;

/// Texts that a vocabulary is learnt from, at most; spread evenly over the training rows.
const MAX_TEXTS: usize = 200_000;

/// Columns that are learnt from together.
pub(super) struct Columns {
    /// The table.
    pub dataset: Dataset,
    /// How its rows become inputs.
    pub plan: Arc<DataPlan>,
    /// What a fit to the same columns would have been configured with.
    pub fit: FitConfig,
    /// The tower of each column.
    pub towers: Vec<ColumnTower>,
    /// That of the pair that encoders brought along.
    pub similarity: Option<Similarity>,
    /// The column of texts whose tower has the structure of a family.
    pub text: Option<usize>,
    /// Likewise of pictures.
    pub image: Option<usize>,
    /// Likewise of sounds.
    pub audio: Option<usize>,
    /// Likewise of videos, of whose tower that of the frames has it.
    pub video: Option<usize>,
    /// The checkpoints that become towers.
    pub encoders: Encoders,
}

/// The columns of a configuration by how they are wanted: by name, or all of
/// a type.
struct Wanted {
    names: Vec<String>,
    types: Vec<ColumnType>,
    labels: Vec<String>,
}

impl Wanted {
    fn of(config: &PretrainConfig) -> Self {
        let p = &config.pretrain;
        let mut wanted = Self { names: Vec::new(), types: Vec::new(), labels: Vec::new() };
        if p.contrastive.weight > 0.0 {
            match &p.contrastive.pairs {
                Some(pairs) => wanted.names.extend(pairs.iter().flatten().cloned()),
                None => wanted.types.extend([
                    ColumnType::Text,
                    ColumnType::Image,
                    ColumnType::Audio,
                    ColumnType::Video,
                    ColumnType::Features,
                ]),
            }
            wanted.labels.extend(p.contrastive.zero_shot.clone());
        }
        let pairs = [
            (p.itm.weight, &p.itm.columns),
            (p.caption.weight, &p.caption.columns),
            (p.fusion.weight, &p.fusion.columns),
        ];
        for (weight, columns) in pairs {
            match columns {
                Some(columns) if weight > 0.0 => wanted.names.extend(columns.iter().cloned()),
                None if weight > 0.0 => wanted.types.extend([ColumnType::Image, ColumnType::Text]),
                _ => {}
            }
        }
        if p.image_class.weight > 0.0 {
            wanted.name_or_all(&p.image_class.column, ColumnType::Image);
            wanted.labels.extend(p.image_class.label.clone());
        }
        if p.frame_order.weight > 0.0 {
            wanted.name_or_all(&p.frame_order.column, ColumnType::Video);
        }
        wanted
    }

    fn name_or_all(&mut self, name: &Option<String>, kind: ColumnType) {
        match name {
            Some(name) => self.names.push(name.clone()),
            None => self.types.push(kind),
        }
    }

    fn has(&self, name: &str, kind: ColumnType) -> bool {
        let named = self.names.iter().any(|n| n == name);
        named || self.types.contains(&kind) && !self.labels.iter().any(|l| l == name)
    }
}

impl Columns {
    /// Decides on columns, structures and towers; fills in the sizes of the
    /// configuration. `kept` is the tokenizer that a run has begun with, where
    /// it is resumed; `sources` are texts that the vocabulary is learnt from too.
    ///
    /// # Errors
    /// When columns are missing, settings contradict each other, or sizes do
    /// not fit.
    pub(super) fn new(
        config: &mut PretrainConfig,
        path: &Path,
        sources: &[TextSource],
        kept: Option<&Path>,
    ) -> Result<(Self, Structures)> {
        let wanted = Wanted::of(config);
        let dataset = open_columns(config, path, |name, kind| wanted.has(name, kind))?;
        for name in wanted.names.iter().chain(&wanted.labels) {
            dataset.table.column_index(name)?;
        }
        if dataset.splits.train.is_empty() {
            return Err(Error::Request(format!("no row is left to learn from ({})", dataset.splits.summary())));
        }
        let of = |kind: ColumnType| dataset.schema.columns.iter().filter(move |c| c.kind == kind);
        let shared = |objective: &str, weight: f64, kind: ColumnType| match of(kind).count() {
            n if n > 1 && weight > 0.0 => Err(Error::Config {
                place: format!("pretrain.{objective}"),
                problem: format!(
                    "learns one tower, and {n} columns of type {kind} are learnt from: {}; leave all but one out, with \
                     data.ignore or by naming the columns of the other objectives",
                    of(kind).map(|c| c.name.as_str()).collect::<Vec<_>>().join(", ")
                ),
            }),
            n => Ok(n == 1),
        };
        let (mlm, mim, msm) = (config.pretrain.mlm.weight, config.pretrain.mim.weight, config.pretrain.msm.weight);
        let caption = config.pretrain.caption.weight;
        if config.pretrain.clm.weight > 0.0 && of(ColumnType::Text).next().is_some() {
            let problem = "a causal model is no encoder of the table's texts; leave one of them out, or set the weight \
                           of mlm instead";
            return Err(Error::Config { place: "pretrain.clm".into(), problem: problem.into() });
        }
        // Of a column whose encoder is a pair's, or any, everything comes from the checkpoint.
        let text = shared("mlm", mlm, ColumnType::Text)? && (mlm > 0.0 || config.text.encoder.is_none());
        shared("caption", caption, ColumnType::Image)?;
        let one_image = shared("mim", mim, ColumnType::Image)?;
        let image = one_image && (mim > 0.0 || caption > 0.0 || config.image.encoder.is_none());
        let audio = shared("msm", msm, ColumnType::Audio)? && msm > 0.0;
        let rows = dataset.splits.train.len();
        let text = match text {
            true => {
                let cells = cells(&dataset, &of(ColumnType::Text).map(|c| c.name.clone()).collect::<Vec<_>>())?;
                Some(TextStructure::new(config, Texts { sources, cells: &cells }, kept)?)
            }
            false => None,
        };
        let image = if image { Some(ImageStructure::new(config, rows)?) } else { None };
        let video = match of(ColumnType::Video).count() == 1 && config.video.encoder.is_none() {
            true => Some(FrameStructure::new(config, rows)?),
            false => None,
        };
        let audio = if audio { Some(AudioStructure::new(config, &only(&dataset, ColumnType::Audio))?) } else { None };

        let mut fit = as_fit(config);
        fit.task = TaskName::Retrieve;
        fit.retrieve = config.pretrain.contrastive.retrieve();
        for (section, structured) in [
            (&mut fit.text.encoder, text.is_some()),
            (&mut fit.image.encoder, image.is_some()),
            (&mut fit.audio.encoder, audio.is_some()),
        ] {
            if structured {
                *section = None;
            }
        }
        let (encoders, similarity) = Encoders::open_to_meet(&fit)?;
        resolve(&mut fit, rows);
        let mut how = plan_options(&fit)?;
        encoders.prepare(&mut fit, &mut how)?;
        if let Some(text) = &text {
            (how.tokenizer, how.text.max_tokens) = (Some(text.tokenizer.clone()), text.max_tokens);
        }
        if let Some(image) = &image {
            how.image = image.processor.clone();
        }
        if let Some(audio) = &audio {
            how.audio = audio.processor.clone();
        }
        if let Some(video) = &video {
            how.video = VideoProcessor { frames: how.video.frames, ..VideoProcessor::of_frames(&video.processor) };
        }
        let mut plan = DataPlan::fit(&dataset.table, &dataset.schema, &dataset.splits.train, &how)?;
        // The sound of a video is there where everything of it is, or it is named.
        plan.columns.retain(|c| !c.sound_track || wanted.has(&c.name, ColumnType::Audio));
        let mut towers = column_towers(&plan, &fit, &encoders)?;
        let at = |kind: ColumnType| {
            let name = of(kind).next().map(|c| c.name.clone())?;
            plan.columns.iter().position(|c| c.name == name)
        };
        let text_at = text.as_ref().and_then(|_| at(ColumnType::Text));
        let image_at = image.as_ref().and_then(|_| at(ColumnType::Image));
        let audio_at = audio.as_ref().and_then(|_| at(ColumnType::Audio));
        if let Some((at, TextStructure { model: TextModel::Masked { tower, .. }, .. })) = text_at.zip(text.as_ref()) {
            towers[at].tower = TowerConfig::Text((**tower).clone());
        }
        if let Some((at, structure)) = image_at.zip(image.as_ref()) {
            towers[at].tower = TowerConfig::Image(structure.tower.clone());
        }
        if let Some((at, structure)) = audio_at.zip(audio.as_ref()) {
            towers[at].tower = TowerConfig::Audio(structure.tower.clone());
        }
        let video_at = video.as_ref().and_then(|_| at(ColumnType::Video));
        if let Some((at, structure)) = video_at.zip(video.as_ref())
            && let TowerConfig::Video(tower) = &mut towers[at].tower
        {
            tower.image = structure.tower.clone();
        }
        let columns = Self {
            plan: Arc::new(plan),
            dataset,
            fit,
            towers,
            similarity,
            text: text_at,
            image: image_at,
            audio: audio_at,
            video: video_at,
            encoders,
        };
        Ok((columns, Structures { text, image, audio, video }))
    }

    /// The place of a column of a modality that a key of the configuration
    /// names, or of the only one.
    ///
    /// # Errors
    /// When there is none of that name and modality, or none or several
    /// without a name.
    pub(super) fn one(&self, place: &str, modality: Modality, named: Option<&String>) -> Result<usize> {
        let of = self.plan.columns.iter().enumerate().filter(|(_, c)| c.modality == modality);
        let known: Vec<(usize, &str)> = of.map(|(at, c)| (at, c.name.as_str())).collect();
        let list = || known.iter().map(|(_, name)| *name).collect::<Vec<_>>().join(", ");
        let wrong = |problem: String| Err(Error::Config { place: place.into(), problem });
        match (named, &known[..]) {
            (Some(name), known) => match known.iter().find(|(_, known)| known == name) {
                Some((at, _)) => Ok(*at),
                None => wrong(format!("{name:?} is no column of type {}; these are: {}", modality.name(), list())),
            },
            (None, [(at, _)]) => Ok(*at),
            (None, []) => wrong(format!(
                "there is no column of type {0} to learn from; say which one is, as [data.types] COLUMN = \"{0}\"",
                modality.name()
            )),
            (None, _) => wrong(format!(
                "there are several columns of type {}: {}; name one here, or leave the others out: --set 'data.ignore=[{:?}]'",
                modality.name(),
                list(),
                known[1].1
            )),
        }
    }

    /// The places of a column of pictures and one of texts, likewise.
    ///
    /// # Errors
    /// As there.
    pub(super) fn image_and_text(&self, place: &str, named: Option<&[String; 2]>) -> Result<[usize; 2]> {
        let name = |at: usize| named.map(|named| &named[at]);
        Ok([self.one(place, Modality::Image, name(0))?, self.one(place, Modality::Text, name(1))?])
    }

    /// Copies the weights of encoders into towers.
    ///
    /// # Errors
    /// When tensors are missing or of another shape.
    pub(super) fn load(&self, towers: &Towers, params: &mut Params) -> Result<()> {
        self.encoders.load(towers, params, self.plan.columns.iter().map(|c| &c.processor))
    }

    /// The training rows, of which the objectives of one modality take their
    /// part.
    ///
    /// # Errors
    /// When the table lacks the plan's columns.
    pub(super) fn source(&self, shares: Shares) -> Result<ColumnSource> {
        let loader = self.dataset.for_training(&self.plan, &self.fit, augmentation(&self.fit))?;
        Ok(ColumnSource { loader, cells: Cells::new(&self.dataset.table, &self.plan)?, shares })
    }

    /// The rows that are held out, likewise.
    ///
    /// # Errors
    /// When the table lacks the plan's columns.
    pub(super) fn held_out(&self, shares: Shares) -> Result<ColumnSource> {
        let loader = self.dataset.in_order(&self.plan, &self.dataset.splits.val, &self.fit, false)?;
        Ok(ColumnSource { loader, cells: Cells::new(&self.dataset.table, &self.plan)?, shares })
    }

    /// The columns in words.
    pub(super) fn describe(&self) -> String {
        let columns: Vec<String> =
            self.plan.columns.iter().map(|c| format!("{} ({})", c.name, c.modality.name())).collect();
        let (train, val) = (self.dataset.splits.train.len(), self.dataset.splits.val.len());
        let mut text = format!("columns: {}; {train} rows to learn from, {val} held out", columns.join(", "));
        if let Some(encoders) = self.encoders.describe(&self.fit) {
            text += &format!("\n{encoders}");
        }
        text
    }

    /// What decides about the inputs, for a resumed run.
    pub(super) fn identity(&self) -> serde_json::Value {
        let tokenizer = self.plan.tokenizer.as_ref().map(|t| blake3::hash(t.json()).to_hex().to_string());
        let splits = &self.dataset.splits;
        serde_json::json!({
            "plan": &*self.plan,
            "tokenizer": tokenizer,
            "towers": &self.towers,
            "rows": [splits.train.len(), splits.val.len()],
        })
    }
}

/// A data set with only its columns of a type.
fn only(dataset: &Dataset, kind: ColumnType) -> Dataset {
    let mut only = dataset.clone();
    only.schema.columns.retain(|c| c.kind == kind || c.kind == ColumnType::Identifier);
    only
}

/// The texts of some columns in the training rows, spread evenly where they
/// are many.
pub(super) fn cells(dataset: &Dataset, columns: &[String]) -> Result<Vec<String>> {
    let rows = &dataset.splits.train;
    let every = (rows.len() * columns.len()).div_ceil(MAX_TEXTS).max(1);
    let at = columns.iter().map(|c| Ok(dataset.table.column_index(c)?)).collect::<Result<Vec<_>>>()?;
    let mut texts = Vec::new();
    for row in rows.iter().step_by(every) {
        let values = dataset.table.row(*row)?.values;
        texts.extend(at.iter().flat_map(|at| values[*at].texts()));
    }
    Ok(texts)
}

/// What objectives of one modality take of a batch of columns.
#[derive(Clone, Default)]
pub(super) struct Shares {
    /// The texts of a column, and what their words are.
    pub texts: Option<(usize, Arc<Words>)>,
    /// The pictures of a column.
    pub images: Option<usize>,
    /// The sounds of a column that have so many frames.
    pub sounds: Option<(usize, usize)>,
}

/// Rows of a table as batches.
pub(super) struct ColumnSource {
    pub loader: Loader,
    cells: Cells,
    shares: Shares,
}

impl ColumnSource {
    fn batch(&self, pack: sensorium_data::Result<sensorium_data::Pack>) -> Result<Batch> {
        let rows = self.cells.batch(pack?)?;
        let columns = &rows.batch.inputs.columns;
        let text = match &self.shares.texts {
            Some((at, words)) => words.batch(&columns[*at..=*at], &rows.batch.rows)?,
            None => None,
        };
        let images = match self.shares.images {
            Some(at) => pictures_of(&columns[at..=at])?,
            None => None,
        };
        let long_enough = |(at, frames): (usize, usize)| super::source::long_enough(&columns[at], frames);
        let sounds = self.shares.sounds.and_then(long_enough);
        Ok(Batch { text, images, sounds, rows: Some(rows) })
    }
}

impl Source<Batch> for ColumnSource {
    fn batches(&self, epoch: u64) -> usize {
        self.loader.batches(epoch)
    }

    fn epoch(&self, epoch: u64, start_batch: usize) -> Batches<'_, Batch> {
        let batches = self.loader.epoch(epoch, start_batch);
        Box::new(batches.map(|pack| self.batch(pack).map_err(BoxError::from)))
    }
}
