//! A run is put together modality by modality: what is learnt from, the model
//! under its objectives, and what it is validated on.

use super::columns::{self, Columns, Shares};
use super::config::PretrainConfig;
use super::corpora::{Corpora, TextSource};
use super::encoder_folders::EncoderFolder;
use super::network::Network;
use super::pictures::{self, ImageStructure, Media};
use super::sounds::AudioStructure;
use super::source::{Batch, BatchSize, CorpusSource, PictureSource, SoundSource, held_out};
use super::structure::{TextStructure, Texts};
use super::texts::{RowTexts, Words};
use super::together::Together;
use super::validation::Validation;
use super::{Structures, TEXT_FOLDER};
use crate::fit::{FitOptions, Follower};
use crate::{Dataset, Error, Result};
use sensorium_data::{ColumnType, CorpusOptions, Loader};
use sensorium_train::Source;
use std::path::PathBuf;
use std::sync::Arc;

/// Where the token numbers of a corpus lie, within the folder of a run.
pub(super) const CORPUS_FOLDER: &str = "corpus";

/// What is said where a checkpoint brings no decoder or head of its own.
const NEW_PIXEL_HEAD: &str = "the checkpoint has no head for this masked image modelling: a new one begins";

/// A run as it is put together.
pub(super) struct Assembly {
    pub network: Network,
    pub sources: Vec<Box<dyn Source<Batch>>>,
    pub validation: Validation,
    /// What training rows of tables are read by.
    pub loaders: Vec<Loader>,
    pub structures: Structures,
    pub columns: Option<Columns>,
    /// Encoders that columns began with, to be written with what they learnt.
    pub encoders: Vec<EncoderFolder>,
    /// What determines the run beside its configuration.
    pub identity: serde_json::Map<String, serde_json::Value>,
}

/// Puts a run together; what was automatic in the configuration is filled in.
pub(super) fn assemble(
    config: &mut PretrainConfig,
    options: &FitOptions,
    follower: &mut dyn Follower,
) -> Result<Assembly> {
    let mut assembly = Assembly {
        network: Network::new(config.train.gradient_checkpointing),
        sources: Vec::new(),
        validation: Validation::new(config.corpus.seed),
        loaders: Vec::new(),
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
        assembly.add_images(config, follower)?;
    }
    if config.learns_sounds() && assembly.structures.audio.is_none() {
        assembly.add_sounds(config, follower)?;
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
            let place = (&*out.join(CORPUS_FOLDER), name);
            Corpora::open(sources, &structure.tokenizer, &how, place, options.resume).map(Arc::new)
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
        let tokens = training.plain_tokens(&structure.tokenizer);
        let p = &config.pretrain;
        let targets = if p.mlm.weight > 0.0 { tokens as f64 * p.mlm.share } else { tokens as f64 - 1.0 };
        if train.is_empty() || targets < 1.0 {
            let files: Vec<String> = sources.iter().flat_map(|s| &s.files).map(|f| f.display().to_string()).collect();
            let of = files[..files.len().min(3)].join(", ");
            let more = if files.len() > 3 { format!(" and {} more files", files.len() - 3) } else { String::new() };
            return Err(Error::Request(format!("{of}{more}: {tokens} tokens of text are too few to learn from")));
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
        self.learn_text(config, structure, follower)
    }

    /// Adds what is learnt of texts, wherever they come from: over a column's
    /// tower where one has its structure.
    fn learn_text(
        &mut self,
        config: &PretrainConfig,
        structure: TextStructure,
        follower: &mut dyn Follower,
    ) -> Result<()> {
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
        let Some(dataset) = open_rows(config, ColumnType::Text)? else { return Ok(()) };
        let names: Vec<String> = dataset.schema.inputs().map(|c| c.name.clone()).collect();
        let cells = columns::cells(&dataset, &names)?;
        let structure = TextStructure::new(config, Texts { sources: &[], cells: &cells }, kept(options).as_deref())?;
        drop(cells);
        let texts = Media::new(&dataset, config, structure.plan(config, &dataset)?)?;
        self.identity.insert("text".into(), structure.config.clone());
        let words = Arc::new(Words::new(&dataset.table, &names, &structure.tokenizer, config.words())?);
        self.add_rows("texts", texts, follower, |loader| RowTexts { loader, words: Arc::clone(&words) });
        self.learn_text(config, structure, follower)
    }

    /// Rows of a table as a source of their own, and those that are held out as
    /// validation.
    fn add_rows<S: Source<Batch> + 'static>(
        &mut self,
        name: &str,
        media: Media,
        follower: &mut dyn Follower,
        source: impl Fn(Loader) -> S,
    ) {
        follower.note(&format!("{name}: {}", media.describe()));
        self.identity.insert(name.into(), serde_json::json!([media.rows, media.held_out]));
        if media.held_out > 0 {
            self.validation.add(Box::new(source(media.validation)));
        }
        self.loaders.push(media.training.clone());
        self.sources.push(Box::new(source(media.training)));
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
        if let Some(fusion) = together.fusion() {
            self.identity.insert("codebook".into(), fusion.codes().identity().into());
        }
        let mut shares = Shares::default();
        self.leave_idle(config, &together, &columns, &mut structures);
        let note = &mut |text: &str| follower.note(text);
        self.encoders = EncoderFolder::of(&columns, &together, &self.network.params, note);
        let seed = config.train.seed;
        if let Some((at, structure)) = columns.text.zip(structures.text.as_ref()) {
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
            self.network.scopes.audio = together.scope(at).to_owned();
            shares.sounds = Some((at, structure.shortest()));
            let msm = &config.pretrain.msm;
            self.network.add_audio(structure, together.audio(at), msm.masking(), msm.weight, seed)?;
        }
        if let Some(at) = columns.video.filter(|_| structures.video.is_some()) {
            self.network.scopes.frames = together.frames_scope(at);
        }
        if !columns.dataset.splits.val.is_empty() {
            self.validation.add(Box::new(columns.held_out(shares.clone())?));
            self.validation.compare(&columns, config)?;
        }
        let training = columns.source(shares)?;
        self.loaders.push(training.loader.clone());
        self.sources.push(Box::new(training));
        self.network.together = Some(together);
        self.columns = Some(columns);
        self.structures = structures;
        match self.structures.text.take() {
            Some(structure) if config.texts_of_table() => self.learn_text(config, structure, follower),
            text => {
                self.structures.text = text;
                Ok(())
            }
        }
    }

    fn add_images(&mut self, config: &mut PretrainConfig, follower: &mut dyn Follower) -> Result<()> {
        let Some(dataset) = open_rows(config, ColumnType::Image)? else { return Ok(()) };
        let structure = ImageStructure::new(config, dataset.splits.train.len())?;
        let pictures = Media::new(&dataset, config, structure.plan(config, &dataset)?)?;
        self.identity.insert("image".into(), structure.config.clone());
        self.add_rows("pictures", pictures, follower, PictureSource);
        let mim = &config.pretrain.mim;
        if self.network.add_image(&structure, None, mim.masking(), mim.weight, config.train.seed)? {
            follower.note(NEW_PIXEL_HEAD);
        }
        self.structures.image = Some(structure);
        Ok(())
    }

    fn add_sounds(&mut self, config: &mut PretrainConfig, follower: &mut dyn Follower) -> Result<()> {
        let Some(dataset) = open_rows(config, ColumnType::Audio)? else { return Ok(()) };
        let structure = AudioStructure::new(config, &dataset)?;
        let sounds = Media::new(&dataset, config, Arc::clone(&structure.plan))?;
        self.identity.insert("audio".into(), structure.config.clone());
        let shortest = structure.shortest();
        self.add_rows("sounds", sounds, follower, |loader| SoundSource(loader, shortest));
        let msm = &config.pretrain.msm;
        self.network.add_audio(&structure, None, msm.masking(), msm.weight, config.train.seed)?;
        self.structures.audio = Some(structure);
        Ok(())
    }
}

/// The table with its columns of a type, of which nothing else is learnt; None
/// where there is no table.
fn open_rows(config: &PretrainConfig, kind: ColumnType) -> Result<Option<Dataset>> {
    config.data.table.as_ref().map(|path| pictures::open(config, path, kind)).transpose()
}

/// The tokenizer that a resumed run has begun with.
fn kept(options: &FitOptions) -> Option<PathBuf> {
    let kept = options.out.join(TEXT_FOLDER).join("tokenizer.json");
    (options.resume && kept.is_file()).then_some(kept)
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
