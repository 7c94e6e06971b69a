//! Pretrain: learning from text, pictures, sounds and rows that hold what
//! belongs together, from scratch or going on from a checkpoint.
//!
//! A run leaves a folder that explains itself, in it one folder for each
//! tower, `text`, `image` and `audio`, in the layout of a known family: `fit`
//! with `text.encoder` and its likes, `extract`, `index` and `model info` open
//! it like any checkpoint, and so do other libraries. `pair` holds columns that
//! meet in one space, as a fit with `task = "retrieve"` leaves them.

mod assembly;
mod captioning;
mod check;
mod classes;
mod classifier;
mod column_sections;
mod columns;
mod config;
mod corpora;
mod encoder_folders;
mod frame_order;
mod fusion;
mod going_on;
mod image_codes;
mod matching;
mod network;
mod part;
mod pictures;
mod report;
mod save;
mod sections;
mod sounds;
mod source;
mod start;
mod structure;
mod texts;
mod together;
mod validation;

pub use column_sections::{
    CaptionSection, ContrastiveSection, FrameOrderSection, FusionObjectiveSection, ImageClassSection, ItmSection,
    PatchFeatures,
};
pub use config::{CorpusPart, CorpusSection, PretrainConfig, PretrainSection};
pub use encoder_folders::ENCODER_FOLDER;
pub use save::{AUDIO_FOLDER, CAPTION_FOLDER, FUSION_FOLDER, IMAGE_FOLDER, PAIR_FOLDER, TEXT_FOLDER, VIDEO_FOLDER};
pub use sections::{CausalStructure, ClmSection, MimMethod, MimSection, MlmSection, MsmSection};

use crate::fit::{FitOptions, Follower, say_unusable, unusable};
use crate::saved::{FIT_FILE, write};
use crate::verbs::{RunFolder, in_words};
use crate::{Error, Result};
use assembly::{Assembly, assemble};
use network::Network;
use pictures::{FrameStructure, ImageStructure};
use sensorium_engine::Tape;
use sensorium_train::{
    Event, Inventory, Observer, Source, StepContext, Stopped, Summary, TrainConfig, Trainable, Trainer,
};
use sounds::AudioStructure;
use source::Sources;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Instant;
use structure::TextStructure;

/// What a run came to.
#[derive(Debug)]
pub struct Pretraining {
    /// How training went.
    pub summary: Summary,
    /// The validation metrics of the weights that were kept; none where
    /// nothing was held out, or after an interruption.
    pub metrics: BTreeMap<String, f64>,
    /// The report page; None after an interruption.
    pub report: Option<PathBuf>,
}

/// What is trained, by modality.
#[derive(Default)]
struct Structures {
    text: Option<TextStructure>,
    image: Option<ImageStructure>,
    audio: Option<AudioStructure>,
    video: Option<FrameStructure>,
}

impl Structures {
    fn families(&self) -> Vec<&'static str> {
        let text = self.text.iter().map(|t| t.family);
        text.chain(self.image.iter().map(|i| i.family))
            .chain(self.audio.iter().map(|a| a.family))
            .chain(self.video.iter().map(|_| "ViT"))
            .collect()
    }
}

/// Pretrains a model under a configuration. Of the options, `out` is where it
/// is written.
///
/// # Errors
/// When the corpus, the table, the configuration or training fails.
pub fn pretrain(config: &PretrainConfig, options: &FitOptions, follower: &mut dyn Follower) -> Result<Pretraining> {
    let mut config = config.clone();
    config.validate()?;
    let options = &RUN_FOLDER.enter(options, follower)?;
    let out = &options.out;
    let existed = out.exists();
    let assembly = assemble(&mut config, options, follower).inspect_err(|_| {
        if !existed {
            // A start that fails leaves nothing behind: what else there is in the folder keeps it.
            _ = std::fs::remove_dir_all(out.join(assembly::CORPUS_FOLDER));
            _ = std::fs::remove_dir(out);
        }
    })?;
    let Assembly { mut network, sources, mut validation, loaders, structures, columns, encoders, mut identity } =
        assembly;
    let source = Sources::new(sources, config.pretrain.epoch_batches);
    sensorium_train::assign(&config.train, &mut network.params)?;
    identity.insert("config".into(), comparable(&config)?);
    let trainer = Trainer::new(config.train.clone(), options.run(identity.into()))?;
    trainer.check(&network, &mut validation).map_err(in_words)?;
    std::fs::create_dir_all(out).map_err(|e| Error::io("create", out, e))?;
    write_config(&config, out)?;
    save::save_structures(out, &structures, config.learns_text())?;
    follower.note(&describe(&config, &network, &source)?);
    let summary = trainer.run(&mut network, &source, &mut validation, &mut Watch(follower))?;
    loaders.iter().for_each(|training| say_unusable(training, follower));
    if summary.stopped == Stopped::Interrupted {
        return Ok(Pretraining { summary, metrics: BTreeMap::new(), report: None });
    }
    if let Some(text) = &structures.text {
        save::save_text(out, text, &network)?;
    }
    if let Some(image) = &structures.image {
        save::save_image(out, image, &network)?;
    }
    if let Some(audio) = &structures.audio {
        save::save_audio(out, audio, &network)?;
    }
    if let Some(frames) = &structures.video {
        save::save_frames(out, frames, &network)?;
    }
    if let (Some(columns), Some(together)) = (&columns, &network.together) {
        save::save_pair(out, columns, together, &network.params, &summary)?;
        for encoder in &encoders {
            encoder.save(out, columns, together, &network.params)?;
        }
        if let Some(classes) = together.classes() {
            // In the place of the encoder alone.
            classes.save(out, columns, together, &network.params)?;
        }
        if let (Some(captioning), Some(image)) = (together.captioning(), &structures.image) {
            save::save_captioning(out, captioning, image, &network)?;
        }
        if let Some(fusion) = together.fusion() {
            save::save_fusion(out, fusion, &columns.plan, &network.params)?;
        }
    }
    let metrics = if validation.is_empty() { BTreeMap::new() } else { validation.measure(&network)? };
    let unread: Vec<String> = loaders.iter().flat_map(unusable).collect();
    let report = report::write(out, (&metrics, &unread), &summary, (&structures, &network), &config)?;
    Ok(Pretraining { summary, metrics, report: Some(report) })
}

/// What a run leaves in its folder.
const RUN_FOLDER: RunFolder = RunFolder {
    head: "# The configuration of this pretraining, every automatic choice filled in.\n",
    finished: &[
        TEXT_FOLDER,
        IMAGE_FOLDER,
        AUDIO_FOLDER,
        PAIR_FOLDER,
        CAPTION_FOLDER,
        VIDEO_FOLDER,
        ENCODER_FOLDER,
        FUSION_FOLDER,
    ],
    before: &[assembly::CORPUS_FOLDER],
};

/// Passes events on.
struct Watch<'a>(&'a mut dyn Follower);

impl Observer for Watch<'_> {
    fn event(&mut self, event: &Event<'_>) {
        self.0.event(event);
    }
}

/// Writes the configuration with every automatic choice filled in.
fn write_config(config: &PretrainConfig, out: &std::path::Path) -> Result<()> {
    let mut absolute = config.clone();
    let corpus = &mut absolute.corpus;
    let parts = corpus.source.iter_mut().flat_map(|s| &mut s.files);
    for path in corpus.files.iter_mut().chain(&mut corpus.validation).chain(parts).chain(&mut absolute.data.table) {
        *path = std::path::absolute(&*path).map_err(|e| Error::io("find", &*path, e))?;
    }
    let text = toml::to_string(&absolute).map_err(|e| Error::model(out, e.to_string()))?;
    write(&out.join(FIT_FILE), format!("{}{text}", RUN_FOLDER.head).as_bytes())
}

/// The configuration as far as it determines the run, beside `[train]`.
fn comparable(config: &PretrainConfig) -> Result<serde_json::Value> {
    let mut config = config.clone();
    config.train = TrainConfig::default();
    // What the text is, is told by its fingerprint; where it lies, and how
    // media are cached, changes nothing.
    (config.corpus.files, config.corpus.validation) = (Vec::new(), Vec::new());
    config.corpus.source.iter_mut().for_each(|source| source.files = Vec::new());
    (config.data.table, config.data.cache, config.data.cache_gb) = (None, true, 0.0);
    serde_json::to_value(&config).map_err(|e| Error::Request(e.to_string()))
}

fn describe(config: &PretrainConfig, network: &Network, source: &Sources) -> Result<String> {
    let mut text = network.together.as_ref().map_or_else(String::new, |t| format!("{}\n", t.describe()));
    text += &Inventory::of(&config.train, &network.params).to_string();
    let Some(batch) = source.epoch(0, 0).next() else { return Ok(text) };
    let batch = batch.map_err(|e| Error::Request(e.to_string()))?;
    let mut best = f64::INFINITY;
    // The first pass fills the buffer pool; the second is what steps cost.
    for _ in 0..2 {
        let start = Instant::now();
        let tape = Tape::new();
        let step = network
            .loss(&tape, &batch, &StepContext::training(0, 0, 0, 0))
            .map_err(|e| Error::Request(e.to_string()))?;
        tape.backward(&step.loss)?;
        best = best.min(start.elapsed().as_secs_f64());
    }
    let steps = source.batches(0).div_ceil(config.train.grad_accumulation.max(1));
    let total = best * (source.batches(0) as u64 * config.train.epochs) as f64;
    text += &format!(
        "\n{steps} steps of about {} tokens in an epoch, at most {} epochs: {} or less",
        network.tokens(&batch) * config.train.grad_accumulation.max(1),
        config.train.epochs,
        crate::verbs::duration(total)
    );
    Ok(text)
}

#[cfg(test)]
mod tests;
