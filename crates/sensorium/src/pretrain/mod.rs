//! Pretrain: learning from text, pictures, sounds and rows that hold what
//! belongs together, from scratch or going on from a checkpoint.
//!
//! A run leaves a folder that explains itself, in it one folder for each
//! tower, `text`, `image` and `audio`, in the layout of a known family: `fit`
//! with `text.encoder` and its likes, `extract`, `index` and `model info` open
//! it like any checkpoint, and so do other libraries. `pair` holds columns that
//! meet in one space, as a fit with `task = "retrieve"` leaves them.

mod captioning;
mod classes;
mod column_sections;
mod columns;
mod config;
mod corpora;
mod encoder_folders;
mod frame_order;
mod fusion;
mod matching;
mod network;
mod pictures;
mod report;
mod save;
mod sections;
mod sounds;
mod source;
mod structure;
mod texts;
mod together;
mod validation;

pub use column_sections::{
    CaptionSection, ContrastiveSection, FrameOrderSection, FusionObjectiveSection, ImageClassSection, ItmSection,
};
pub use config::{CorpusPart, CorpusSection, PretrainConfig, PretrainSection};
pub use encoder_folders::ENCODER_FOLDER;
pub use save::{AUDIO_FOLDER, CAPTION_FOLDER, FUSION_FOLDER, IMAGE_FOLDER, PAIR_FOLDER, TEXT_FOLDER, VIDEO_FOLDER};
pub use sections::{CausalStructure, ClmSection, MimMethod, MimSection, MlmSection, MsmSection};

use crate::fit::{FitOptions, Follower};
use crate::saved::{FIT_FILE, write};
use crate::{Error, Result};
use columns::{Columns, Shares};
use corpora::{Corpora, TextSource};
use encoder_folders::EncoderFolder;
use network::Network;
use pictures::{FrameStructure, ImageStructure, Media};
use sensorium_data::{ColumnType, CorpusOptions};
use sensorium_engine::Tape;
use sensorium_train::{
    Event, Inventory, Observer, RunOptions, Source, StepContext, Stopped, Summary, TrainConfig, Trainable, Trainer,
};
use sounds::AudioStructure;
use source::{Batch, BatchSize, CorpusSource, PictureSource, SoundSource, Sources, held_out};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;
use structure::{TextStructure, Texts};
use texts::{RowTexts, Words};
use together::Together;
use validation::Validation;

/// Where the token numbers of a corpus lie, within the folder of a run.
const CORPUS_FOLDER: &str = "corpus";

/// What is said where a checkpoint brings no decoder or head of its own.
const NEW_PIXEL_HEAD: &str = "the checkpoint has no head for this masked image modelling: a new one begins";

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

/// A run as it is put together, modality by modality.
struct Assembly {
    network: Network,
    sources: Vec<Box<dyn Source<Batch>>>,
    validation: Validation,
    structures: Structures,
    columns: Option<Columns>,
    /// Encoders that columns began with, to be written with what they learnt.
    encoders: Vec<EncoderFolder>,
    /// What determines the run beside its configuration.
    identity: serde_json::Map<String, serde_json::Value>,
}

/// Pretrains a model under a configuration. Of the options, `out` is where it
/// is written.
///
/// # Errors
/// When the corpus, the table, the configuration or training fails.
pub fn pretrain(config: &PretrainConfig, options: &FitOptions, follower: &mut dyn Follower) -> Result<Pretraining> {
    let mut config = config.clone();
    config.validate()?;
    refuse_to_overwrite(options)?;
    let out = &options.out;
    std::fs::create_dir_all(out).map_err(|e| Error::io("create", out, e))?;
    let assembly = assemble(&mut config, options, follower)?;
    let Assembly { mut network, sources, mut validation, structures, columns, encoders, mut identity } = assembly;
    let source = Sources::new(sources, config.pretrain.epoch_batches);
    sensorium_train::assign(&config.train, &mut network.params)?;
    write_config(&config, out)?;
    follower.note(&describe(&config, &network, &source)?);
    identity.insert("config".into(), comparable(&config)?);

    let run = RunOptions {
        dir: out.clone(),
        resume: options.resume,
        time_limit: options.time_limit,
        stop: options.stop.clone(),
        identity: identity.into(),
    };
    let trainer = Trainer::new(config.train.clone(), run)?;
    let summary = trainer.run(&mut network, &source, &mut validation, &mut Watch(follower))?;
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
        if let (Some(captioning), Some(image)) = (together.captioning(), &structures.image) {
            save::save_captioning(out, captioning, image, &network)?;
        }
        if let Some(fusion) = together.fusion() {
            save::save_fusion(out, fusion, &columns.plan, &network.params)?;
        }
    }
    let metrics = if validation.is_empty() { BTreeMap::new() } else { validation.measure(&network)? };
    let report = report::write(out, &metrics, &summary, (&structures, &network), &config)?;
    Ok(Pretraining { summary, metrics, report: Some(report) })
}

/// Puts a run together; what was automatic in the configuration is filled in.
fn assemble(config: &mut PretrainConfig, options: &FitOptions, follower: &mut dyn Follower) -> Result<Assembly> {
    let mut assembly = Assembly {
        network: Network::new(config.train.gradient_checkpointing),
        sources: Vec::new(),
        validation: Validation::new(config.corpus.seed),
        structures: Structures::default(),
        columns: None,
        encoders: Vec::new(),
        identity: serde_json::Map::new(),
    };
    if config.learns_columns() {
        assembly.add_columns(config, options, follower)?;
    }
    // What a column's tower learns has been added with it.
    if config.learns_text() && !(config.texts_of_table() && assembly.structures.text.is_some()) {
        assembly.add_text(config, options, follower)?;
    }
    if config.learns_images() && assembly.structures.image.is_none() {
        assembly.add_images(config, options, follower)?;
    }
    if config.learns_sounds() && assembly.structures.audio.is_none() {
        assembly.add_sounds(config, options, follower)?;
    }
    Ok(assembly)
}

impl Assembly {
    fn add_text(
        &mut self,
        config: &mut PretrainConfig,
        options: &FitOptions,
        follower: &mut dyn Follower,
    ) -> Result<()> {
        if config.texts_of_table() {
            return self.add_row_texts(config, options, follower);
        }
        let out = &options.out;
        let sources = TextSource::of(&config.corpus)?;
        // A column's tower, where one shares it.
        let structure = match self.structures.text.take() {
            Some(structure) => structure,
            None => TextStructure::new(config, Texts { sources: &sources, cells: &[] }, kept(options).as_deref())?,
        };
        let how = CorpusOptions {
            unit: config.corpus.unit,
            max_tokens: structure.max_tokens,
            words: config.corpus.words,
            column: None,
        };
        let open = |sources: &[TextSource], name: &str| {
            Corpora::open(sources, &structure.tokenizer, &how, &out.join(CORPUS_FOLDER), name).map(Arc::new)
        };
        let training = open(&sources, "train")?;
        describe_corpora("corpus", &training, follower);
        let (train, (val_corpus, val)) = match TextSource::validation(&config.corpus)? {
            None => {
                let (train, val) = held_out(training.len(), config.corpus.val, config.corpus.seed);
                (train, (Arc::clone(&training), val))
            }
            Some(given) => {
                let validation = open(&[given], "validation")?;
                describe_corpora("validation", &validation, follower);
                let pieces = (0..validation.len() as u32).collect();
                ((0..training.len() as u32).collect(), (validation, pieces))
            }
        };
        if train.is_empty() {
            return Err(Error::Request("the corpus has no piece that is long enough to learn from".into()));
        }
        let size = BatchSize {
            pieces: if config.train.token_budget > 0 { usize::MAX } else { config.train.batch_size.max(1) },
            tokens: config.train.token_budget,
        };
        let fingerprints = [training.fingerprints(), val_corpus.fingerprints()].concat();
        self.identity.insert("corpora".into(), serde_json::json!(fingerprints));
        self.identity.insert("text".into(), structure.config.clone());
        self.validation.add_text(val_corpus, val, size);
        self.sources.push(Box::new(CorpusSource::new(training, &train, size, config.train.seed)));
        self.learn_text(config, structure, options, follower)
    }

    /// Adds what is learnt of texts, wherever they come from: over a column's
    /// tower where one has its structure.
    fn learn_text(
        &mut self,
        config: &PretrainConfig,
        structure: TextStructure,
        options: &FitOptions,
        follower: &mut dyn Follower,
    ) -> Result<()> {
        save::save_text_structure(&options.out, &structure, true)?;
        let p = &config.pretrain;
        let weight = if p.mlm.weight > 0.0 { p.mlm.weight } else { p.clm.weight };
        let column = self.columns.as_ref().and_then(|c| c.text);
        let shared = self.network.together.as_ref().zip(column).and_then(|(t, column)| t.text(column));
        if self.network.add_text(&structure, shared, p.mlm.masking(), weight, config.train.seed)? {
            follower.note("the checkpoint has no head for masked language modelling: a new one begins");
        }
        self.structures.text = Some(structure);
        Ok(())
    }

    /// Texts of a table, of which nothing else is learnt.
    fn add_row_texts(
        &mut self,
        config: &mut PretrainConfig,
        options: &FitOptions,
        follower: &mut dyn Follower,
    ) -> Result<()> {
        let Some(path) = config.data.table.clone() else { return Ok(()) };
        let dataset = pictures::open(config, &path, ColumnType::Text)?;
        let names: Vec<String> = dataset.schema.inputs().map(|c| c.name.clone()).collect();
        let cells = columns::cells(&dataset, &names)?;
        let structure = TextStructure::new(config, Texts { sources: &[], cells: &cells }, kept(options).as_deref())?;
        drop(cells);
        let texts = Media::new(&dataset, config, structure.plan(config, &dataset)?)?;
        follower.note(&format!("texts: {}", texts.describe()));
        self.identity.insert("texts".into(), serde_json::json!([texts.rows, texts.held_out]));
        self.identity.insert("text".into(), structure.config.clone());
        let words = Arc::new(Words::new(&dataset.table, &names, &structure.tokenizer, config.words())?);
        if texts.held_out > 0 {
            self.validation.add(Box::new(RowTexts { loader: texts.validation, words: Arc::clone(&words) }));
        }
        self.sources.push(Box::new(RowTexts { loader: texts.training, words }));
        self.learn_text(config, structure, options, follower)
    }

    /// Freezes towers that nothing learns with, and forgets their structure:
    /// they are not written.
    fn leave_idle(
        &mut self,
        config: &PretrainConfig,
        together: &Together,
        columns: &Columns,
        structures: &mut Structures,
    ) {
        let learnt = [
            (columns.text, config.texts_of_table() || config.pretrain.mlm.weight > 0.0),
            (columns.image, config.learns_images()),
            (columns.audio, config.learns_sounds()),
        ];
        let learnt = |column: usize| learnt.iter().any(|(at, learnt)| *at == Some(column) && *learnt);
        for column in (0..columns.plan.columns.len()).filter(|c| together.idle(*c) && !learnt(*c)) {
            let beneath = format!("{}.", together.scope(column));
            for (_, p) in self.network.params.iter_mut().filter(|(_, p)| p.name.starts_with(&beneath)) {
                p.trainable = false;
            }
            if columns.text == Some(column) {
                structures.text = None;
            }
            if columns.image == Some(column) {
                structures.image = None;
            }
        }
    }

    /// Columns that are learnt from together, and what objectives of one
    /// modality learn of them with the same towers.
    fn add_columns(
        &mut self,
        config: &mut PretrainConfig,
        options: &FitOptions,
        follower: &mut dyn Follower,
    ) -> Result<()> {
        let Some(path) = config.data.table.clone() else { return Ok(()) };
        let sources = TextSource::of(&config.corpus)?;
        let (mut columns, mut structures) = Columns::new(config, &path, &sources, kept(options).as_deref())?;
        follower.note(&columns.describe());
        self.identity.insert("columns".into(), columns.identity());
        let together = Together::new(&mut self.network.params, &mut columns, &structures, config)?;
        let mut shares = Shares::default();
        self.leave_idle(config, &together, &columns, &mut structures);
        let note = &mut |text: &str| follower.note(text);
        self.encoders = EncoderFolder::of(&columns, &together, &self.network.params, note);
        let seed = config.train.seed;
        if let Some((at, structure)) = columns.text.zip(structures.text.as_ref()) {
            save::save_text_structure(&options.out, structure, config.learns_text())?;
            if config.texts_of_table() {
                let name = columns.plan.columns[at].source.clone();
                let words = Words::new(&columns.dataset.table, &[name], &structure.tokenizer, config.words())?;
                shares.texts = Some((at, Arc::new(words)));
            }
            self.network.scopes.text = together.scope(at).to_owned();
        }
        if let Some((at, structure)) = columns.image.zip(structures.image.as_mut()) {
            if config.pretrain.mim.weight == 0.0
                && let Some(classes) = together.classes()
            {
                structure.name_classes(classes.id2label());
            }
            save::save_image_structure(&options.out, structure)?;
            self.network.scopes.image = together.scope(at).to_owned();
            let mim = &config.pretrain.mim;
            if mim.weight > 0.0 {
                shares.images = Some(at);
                if self.network.add_image(structure, together.image(at), mim.masking(), mim.weight, seed)? {
                    follower.note(NEW_PIXEL_HEAD);
                }
            }
        }
        if let Some((at, structure)) = columns.audio.zip(structures.audio.as_ref()) {
            save::save_audio_structure(&options.out, structure)?;
            self.network.scopes.audio = together.scope(at).to_owned();
            shares.sounds = Some((at, structure.shortest()));
            let msm = &config.pretrain.msm;
            self.network.add_audio(structure, together.audio(at), msm.masking(), msm.weight, seed)?;
        }
        if let Some((at, structure)) = columns.video.zip(structures.video.as_ref()) {
            save::save_frame_structure(&options.out, structure)?;
            self.network.scopes.frames = together.frames_scope(at);
        }
        if !columns.dataset.splits.val.is_empty() {
            self.validation.add(Box::new(columns.held_out(shares.clone())?));
            self.validation.compare(&columns, config)?;
        }
        self.sources.push(Box::new(columns.source(shares)?));
        self.network.together = Some(together);
        self.columns = Some(columns);
        self.structures = structures;
        match self.structures.text.take() {
            Some(structure) if config.texts_of_table() => self.learn_text(config, structure, options, follower),
            text => {
                self.structures.text = text;
                Ok(())
            }
        }
    }

    fn add_images(
        &mut self,
        config: &mut PretrainConfig,
        options: &FitOptions,
        follower: &mut dyn Follower,
    ) -> Result<()> {
        let Some(path) = config.data.table.clone() else { return Ok(()) };
        let dataset = pictures::open(config, &path, ColumnType::Image)?;
        let structure = ImageStructure::new(config, dataset.splits.train.len())?;
        save::save_image_structure(&options.out, &structure)?;
        let pictures = Media::new(&dataset, config, structure.plan(config, &dataset)?)?;
        follower.note(&format!("pictures: {}", pictures.describe()));
        self.identity.insert("pictures".into(), serde_json::json!([pictures.rows, pictures.held_out]));
        self.identity.insert("image".into(), structure.config.clone());
        if pictures.held_out > 0 {
            self.validation.add(Box::new(PictureSource(pictures.validation)));
        }
        self.sources.push(Box::new(PictureSource(pictures.training)));
        let mim = &config.pretrain.mim;
        if self.network.add_image(&structure, None, mim.masking(), mim.weight, config.train.seed)? {
            follower.note(NEW_PIXEL_HEAD);
        }
        self.structures.image = Some(structure);
        Ok(())
    }

    fn add_sounds(
        &mut self,
        config: &mut PretrainConfig,
        options: &FitOptions,
        follower: &mut dyn Follower,
    ) -> Result<()> {
        let Some(path) = config.data.table.clone() else { return Ok(()) };
        let dataset = pictures::open(config, &path, ColumnType::Audio)?;
        let structure = AudioStructure::new(config, &dataset)?;
        save::save_audio_structure(&options.out, &structure)?;
        let sounds = Media::new(&dataset, config, Arc::clone(&structure.plan))?;
        follower.note(&format!("sounds: {}", sounds.describe()));
        self.identity.insert("sounds".into(), serde_json::json!([sounds.rows, sounds.held_out]));
        self.identity.insert("audio".into(), structure.config.clone());
        let shortest = structure.shortest();
        if sounds.held_out > 0 {
            self.validation.add(Box::new(SoundSource(sounds.validation, shortest)));
        }
        self.sources.push(Box::new(SoundSource(sounds.training, shortest)));
        let msm = &config.pretrain.msm;
        self.network.add_audio(&structure, None, msm.masking(), msm.weight, config.train.seed)?;
        self.structures.audio = Some(structure);
        Ok(())
    }
}

/// A finished model is not overwritten unseen.
fn refuse_to_overwrite(options: &FitOptions) -> Result<()> {
    let written = |folder: &str| options.out.join(folder).join(save::WEIGHTS_FILE).exists();
    let started = sensorium_train::checkpoints_dir(&options.out).exists()
        || written(TEXT_FOLDER)
        || written(IMAGE_FOLDER)
        || written(AUDIO_FOLDER)
        || written(PAIR_FOLDER)
        || written(CAPTION_FOLDER)
        || written(VIDEO_FOLDER)
        || written(ENCODER_FOLDER)
        || written(FUSION_FOLDER);
    if started && !options.resume {
        return Err(Error::Request(format!(
            "{:?} already holds a run; go on with it with --resume, or choose another folder with --out",
            options.out
        )));
    }
    Ok(())
}

/// Passes events on.
struct Watch<'a>(&'a mut dyn Follower);

impl Observer for Watch<'_> {
    fn event(&mut self, event: &Event<'_>) {
        self.0.event(event);
    }
}

/// The tokenizer that a resumed run has begun with.
fn kept(options: &FitOptions) -> Option<PathBuf> {
    let kept = options.out.join(TEXT_FOLDER).join("tokenizer.json");
    (options.resume && kept.is_file()).then_some(kept)
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
    let head = "# The configuration of this pretraining, every automatic choice filled in.\n";
    write(&out.join(FIT_FILE), format!("{head}{text}").as_bytes())
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

fn describe_corpora(name: &str, corpora: &Corpora, follower: &mut dyn Follower) {
    for corpus in corpora.parts() {
        let characters = corpus.characters() as f64 / corpus.tokens().max(1) as f64;
        follower.note(&format!(
            "{name}: {} texts, {} tokens of {characters:.1} characters on average, {} pieces",
            corpus.texts(),
            corpus.tokens(),
            corpus.len()
        ));
    }
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
