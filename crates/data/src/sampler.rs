//! Rows to samples, by the plan.

use std::path::PathBuf;
use std::sync::Arc;

use sensorium_media::image::augment::ImageAugment;
use sensorium_media::image::{self, Image};

use crate::augment::{AugmentKey, Augmentation, cut_mel, stretch_start};
use crate::cache::Cache;
use crate::error::{DataError, Result};
use crate::features::read_features;
use crate::media_ref::{MediaRef, parse_media};
use crate::plan::{ColumnPlan, DataPlan};
use crate::prepare::Preparer;
use crate::processor::{AudioFeatures, AudioProcessor, FeaturesProcessor, ImageProcessor, Processor, VideoProcessor};
use crate::segment::{Problem, Sample, Segment};
use crate::table::{FeatureMatrix, Table, Value};

/// Turns cells into samples.
#[derive(Clone, Debug)]
pub struct Sampler {
    plan: Arc<DataPlan>,
    preparer: Preparer,
    folder: PathBuf,
}

/// Where each input of a plan and its label stand in a table.
#[derive(Clone, Debug)]
pub struct Binding {
    inputs: Vec<Option<usize>>,
    label: Option<usize>,
}

impl Binding {
    /// Finds the plan's columns in a table by name. Inputs that the table lacks are missing in every
    /// row.
    ///
    /// # Errors
    /// A table with none of the inputs.
    pub fn new(plan: &DataPlan, table: &Table) -> Result<Binding> {
        let find = |name: &str| table.columns().iter().position(|column| column == name);
        let inputs: Vec<Option<usize>> = plan.columns.iter().map(|column| find(&column.source)).collect();
        if inputs.iter().all(Option::is_none) {
            return Err(DataError::Options(format!(
                "{:?} has none of the model's input columns ({}); its columns are: {}",
                table.path(),
                plan.columns.iter().map(|column| column.source.as_str()).collect::<Vec<_>>().join(", "),
                table.columns().join(", ")
            )));
        }
        Ok(Binding { inputs, label: plan.label.as_ref().and_then(|label| find(&label.column)) })
    }

    /// The inputs of the plan that the table lacks.
    pub fn absent<'p>(&self, plan: &'p DataPlan) -> Vec<&'p str> {
        let absent = plan.columns.iter().zip(&self.inputs).filter(|(_, at)| at.is_none());
        absent.map(|(column, _)| column.name.as_str()).collect()
    }

    /// The table column of each input of the plan.
    pub(crate) fn inputs(&self) -> &[Option<usize>] {
        &self.inputs
    }

    /// Whether the table has the label's column.
    pub fn has_label(&self) -> bool {
        self.label.is_some()
    }
}

impl Sampler {
    /// A sampler for rows whose relative paths start at `folder`.
    pub fn new(plan: Arc<DataPlan>, folder: impl Into<PathBuf>, cache: Option<Arc<Cache>>) -> Self {
        let preparer = Preparer { limits: plan.limits.clone(), cache };
        Sampler { plan, preparer, folder: folder.into() }
    }

    /// The plan that is followed.
    pub fn plan(&self) -> &Arc<DataPlan> {
        &self.plan
    }

    /// Reads one row of a table. Cells that cannot be used are listed in the sample's problems.
    ///
    /// # Errors
    /// A row that cannot be read from the table at all.
    pub fn row(
        &self,
        table: &Table,
        binding: &Binding,
        row: u64,
        augmentation: Option<(&Augmentation, AugmentKey)>,
    ) -> Result<Sample> {
        let values = table.row(row)?.values;
        let cell = |at: Option<usize>| at.map_or(&Value::Missing, |at| &values[at]);
        let inputs: Vec<&Value> = binding.inputs.iter().map(|at| cell(*at)).collect();
        Ok(self.sample(row, &inputs, cell(binding.label), augmentation))
    }

    /// Makes a sample of values given by column name, as for a single prediction. Inputs that are
    /// not given are missing.
    ///
    /// # Errors
    /// A name that is no input of the plan, with the nearest one.
    pub fn from_values(&self, row: u64, values: &[(String, Value)]) -> Result<Sample> {
        let names = || self.plan.columns.iter().map(|column| column.source.as_str());
        for (name, _) in values {
            let label = self.plan.label.as_ref().is_some_and(|label| label.column == *name);
            if !label && !names().any(|known| known == name) {
                return Err(DataError::Options(format!(
                    "the model has no input {name:?}{}; its inputs are: {}",
                    crate::error::nearest(name, names())
                        .map(|near| format!(" (did you mean {near:?}?)"))
                        .unwrap_or_default(),
                    names().collect::<Vec<_>>().join(", ")
                )));
            }
        }
        let find =
            |wanted: &str| values.iter().find(|(name, _)| name == wanted).map_or(&Value::Missing, |(_, value)| value);
        let inputs: Vec<&Value> = self.plan.columns.iter().map(|column| find(&column.source)).collect();
        let label = self.plan.label.as_ref().map_or(&Value::Missing, |label| find(&label.column));
        Ok(self.sample(row, &inputs, label, None))
    }

    fn sample(
        &self,
        row: u64,
        inputs: &[&Value],
        label: &Value,
        augmentation: Option<(&Augmentation, AugmentKey)>,
    ) -> Sample {
        let mut sample = Sample { row, ..Default::default() };
        for (i, (column, value)) in self.plan.columns.iter().zip(inputs).enumerate() {
            if value.is_missing() {
                continue;
            }
            let context =
                Context { sampler: self, column, augmentation: augmentation.map(|(a, key)| (a, key.column(i))) };
            let mut segments = Vec::new();
            let outcome = context.segments(value, &mut segments, &mut sample.truncated);
            sample.segments.extend(segments.into_iter().filter(|s| !s.is_empty()).map(|segment| (i, segment)));
            if let Err(message) = outcome {
                sample.problems.push(Problem { row, column: column.name.clone(), message });
            }
        }
        if let Some(spec) = &self.plan.label {
            match spec.encode(label) {
                Ok(target) => sample.target = target,
                Err(message) => sample.problems.push(Problem { row, column: spec.column.clone(), message }),
            }
        }
        sample
    }
}

/// One cell's surroundings.
struct Context<'s> {
    sampler: &'s Sampler,
    column: &'s ColumnPlan,
    augmentation: Option<(&'s Augmentation, AugmentKey)>,
}

impl Context<'_> {
    /// Appends the segments of a cell; those before a broken part are kept.
    fn segments(
        &self,
        value: &Value,
        segments: &mut Vec<Segment>,
        truncated: &mut u32,
    ) -> std::result::Result<(), String> {
        match &self.column.processor {
            Processor::Text(config) => {
                let tokenizer = self.sampler.plan.tokenizer.as_ref().ok_or("the plan has no tokenizer")?;
                for text in value.texts() {
                    let tokens = tokenizer.encode(&text, config.max_tokens).map_err(|error| error.to_string())?;
                    *truncated += u32::from(tokens.truncated);
                    segments.push(Segment::Tokens(tokens.ids));
                }
            }
            Processor::Number(config) => {
                let number = value
                    .as_number()
                    .ok_or_else(|| format!("{:?} is not a number", value.as_text().unwrap_or_default()))?;
                segments.push(Segment::Number(config.apply(number)));
            }
            Processor::Category(config) => {
                segments.push(Segment::Category(config.id(&value.as_text().unwrap_or_default())));
            }
            Processor::Features(config) => segments.push(self.features(value, config)?),
            Processor::Image(config) => {
                self.each(value, segments, |media, part| self.image(media, config, part).map(Some))?
            }
            Processor::Video(config) => {
                self.each(value, segments, |media, part| self.video(media, config, part).map(Some))?
            }
            Processor::Audio(config) => self.each(value, segments, |media, part| self.audio(media, config, part))?,
        }
        Ok(())
    }

    fn each(
        &self,
        value: &Value,
        segments: &mut Vec<Segment>,
        prepare: impl Fn(&MediaRef, usize) -> std::result::Result<Option<Segment>, String>,
    ) -> std::result::Result<(), String> {
        for (part, media) in parse_media(value, &self.sampler.folder)?.iter().enumerate() {
            segments.extend(prepare(media, part)?);
        }
        Ok(())
    }

    fn features(&self, value: &Value, config: &FeaturesProcessor) -> std::result::Result<Segment, String> {
        let FeatureMatrix { rows, dim, data } = config.apply(read_features(value, &self.sampler.folder)?)?;
        Ok(Segment::Features { rows, dim, data })
    }

    fn image(&self, media: &MediaRef, config: &ImageProcessor, part: usize) -> std::result::Result<Segment, String> {
        let augment = self.augmentation.and_then(|(augmentation, _)| augmentation.image.as_ref());
        let prepared = self.sampler.preparer.image(media, config, augment.is_some())?;
        let image = self.vary(augment, prepared, config, part)?;
        let data = image::to_normalized_chw(&image, config.mean, config.std);
        Ok(Segment::Image { height: config.size, width: config.size, data })
    }

    fn video(&self, media: &MediaRef, config: &VideoProcessor, part: usize) -> std::result::Result<Segment, String> {
        let augment = self.augmentation.and_then(|(augmentation, _)| augmentation.video.as_ref());
        let frames = self.sampler.preparer.video(media, config, augment.is_some())?;
        let mut data = Vec::with_capacity(frames.len() * 3 * config.size * config.size);
        let count = frames.len();
        for frame in frames {
            // All frames are varied alike, so that the video still moves as it did.
            let image = self.vary(augment, frame, &config.frame(), part)?;
            data.extend(image::to_normalized_chw(&image, config.mean, config.std));
        }
        Ok(Segment::Video { frames: count, height: config.size, width: config.size, data })
    }

    fn vary(
        &self,
        augment: Option<&ImageAugment>,
        image: Image,
        config: &ImageProcessor,
        part: usize,
    ) -> std::result::Result<Image, String> {
        match augment.zip(self.augmentation) {
            Some((augment, (_, key))) => augment
                .apply(&image, (config.size, config.size), config.filter, key.part(part))
                .map_err(|error| error.to_string()),
            None => Ok(image),
        }
    }

    fn audio(
        &self,
        media: &MediaRef,
        config: &AudioProcessor,
        part: usize,
    ) -> std::result::Result<Option<Segment>, String> {
        let preparer = &self.sampler.preparer;
        let augmentation = self.augmentation.filter(|(augmentation, _)| augmentation.varies_sound());
        let key = augmentation.map(|(_, key)| key.part(part));
        let longest = config.most_frames();
        let waveform =
            augmentation.and_then(|(augmentation, key)| Some((augmentation.waveform.as_ref()?, key.part(part))));
        let mel = match waveform {
            Some((augment, key)) => match preparer.sound(media, config, self.column.sound_track)? {
                None => None,
                Some(mut sound) => {
                    let samples = (config.max_seconds * f64::from(sound.sample_rate)).ceil() as usize;
                    let start = stretch_start(sound.samples.len(), samples, key);
                    sound.samples.drain(..start);
                    sound.samples.truncate(samples);
                    augment.apply(&mut sound, key).map_err(|error| error.to_string())?;
                    Some(preparer.log_mel(media, &sound, config)?)
                }
            },
            None => preparer.mel(media, config, self.column.sound_track, key.is_some())?,
        };
        let Some(mel) = mel else { return Ok(None) };
        let mut mel = cut_mel(mel, longest, key);
        config.finish(&mut mel);
        let masks = augmentation
            .filter(|_| config.features != AudioFeatures::Waveform)
            .and_then(|(augmentation, key)| Some((augmentation.spectrogram.as_ref()?, key.part(part))));
        if let Some((masks, key)) = masks {
            masks.apply(&mut mel, key).map_err(|error| error.to_string())?;
        }
        Ok(Some(Segment::Audio { frames: mel.frames, mels: mel.mels, data: mel.data }))
    }
}
