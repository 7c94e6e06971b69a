//! Models of the field, from the folders in which they are shared.
//!
//! A [`Pretrained`] is a folder with a `config.json` and weights. Its
//! `model_type` names a [`Family`]: a table from the configuration to
//! [`Part`]s (towers, heads, decoders), each a configuration of our own
//! modules and a [`KeyMap`] from our parameter names to the checkpoint's. No
//! family has a Transformer of its own. What is not known is refused, with
//! the nearest known ones; a tensor that is missing or of another shape is
//! named, and nothing is ever filled in silently.

mod audio;
mod beit;
mod bert;
mod blip;
mod clap;
mod clip;
mod config;
mod dinov2;
mod export;
mod gpt2;
mod grid;
mod key_map;
mod llama;
mod modernbert;
mod sentence_transformer;
mod siglip;
mod swin;
mod t5;
mod video;
mod vision_encoder_decoder;
mod vit;

pub use config::Config;
pub use key_map::{Convert, Form, KeyMap, Mapped};

use crate::checkpoint::Checkpoint;
use crate::heads::{Head, HeadConfig};
use crate::{
    AudioText, AudioTextConfig, Decoder, DecoderConfig, DecoderOutput, ImageText, ImageTextConfig, ModelError, Result,
    Tower, TowerConfig,
};
use sensorium_engine::{Builder, Params};
use sentence_transformer::SentenceTransformer;
use serde_json::Value;
use std::path::{Path, PathBuf};

/// A family of architectures.
pub struct Family {
    /// Its name among people.
    pub name: &'static str,
    /// The `model_type`s of its configurations.
    pub model_types: &'static [&'static str],
    parts: fn(&Config) -> Result<Vec<Part>>,
}

/// Every family there is.
pub const FAMILIES: &[Family] = &[
    bert::BERT,
    bert::ROBERTA,
    bert::DISTILBERT,
    bert::MPNET,
    bert::ALBERT,
    bert::ELECTRA,
    modernbert::MODERNBERT,
    vit::VIT,
    vit::VIT_MAE,
    vit::DEIT,
    vision_encoder_decoder::VISION_ENCODER_DECODER,
    dinov2::DINOV2,
    clip::CLIP,
    clip::CHINESE_CLIP,
    siglip::SIGLIP,
    blip::BLIP,
    beit::BEIT,
    swin::SWIN,
    video::VIDEOMAE,
    video::TIMESFORMER,
    gpt2::GPT2,
    llama::LLAMA,
    llama::MISTRAL,
    llama::QWEN2,
    llama::QWEN3,
    llama::SMOLLM3,
    t5::T5,
    t5::MT5,
    audio::WHISPER,
    audio::OPENAI_WHISPER,
    audio::WAV2VEC2,
    audio::WAVLM,
    audio::AST,
    clap::CLAP,
];

/// What a part of a checkpoint is.
#[derive(Debug, Clone)]
pub enum PartConfig {
    /// An encoder of one modality.
    Tower(Box<TowerConfig>),
    /// An output layer over a tower's features.
    Head(HeadConfig),
    /// A tower of texts, one of pictures, and the scale of their similarity.
    ImageText(Box<ImageTextConfig>),
    /// A tower of texts, one of sounds, and the scales of their similarity.
    AudioText(Box<AudioTextConfig>),
    /// Texts token by token.
    Decoder(Box<DecoderConfig>),
}

/// A part of a checkpoint: what it is, and the names of its tensors.
#[derive(Debug, Clone)]
pub struct Part {
    /// `text`, `image`, `audio`, `head`, …
    pub name: &'static str,
    /// Its configuration.
    pub config: PartConfig,
    /// From our names to the checkpoint's.
    pub keys: KeyMap,
}

impl Part {
    /// An encoder.
    pub fn tower(name: &'static str, config: TowerConfig, keys: KeyMap) -> Self {
        Self { name, config: PartConfig::Tower(Box::new(config)), keys }
    }

    /// An output layer.
    pub fn head(name: &'static str, config: HeadConfig, keys: KeyMap) -> Self {
        Self { name, config: PartConfig::Head(config), keys }
    }

    /// A pair of towers and the scale of their similarity.
    pub fn image_text(name: &'static str, config: ImageTextConfig, keys: KeyMap) -> Self {
        Self { name, config: PartConfig::ImageText(Box::new(config)), keys }
    }

    /// A pair of towers of sounds and texts.
    pub fn audio_text(name: &'static str, config: AudioTextConfig, keys: KeyMap) -> Self {
        Self { name, config: PartConfig::AudioText(Box::new(config)), keys }
    }

    /// A decoder.
    pub fn decoder(name: &'static str, config: DecoderConfig, keys: KeyMap) -> Self {
        Self { name, config: PartConfig::Decoder(Box::new(config)), keys }
    }

    /// What it is, in words.
    pub fn kind(&self) -> &'static str {
        match self.config {
            PartConfig::Tower(_) => "tower",
            PartConfig::Head(_) => "head",
            PartConfig::ImageText(_) | PartConfig::AudioText(_) => "pair of towers",
            PartConfig::Decoder(_) => "decoder",
        }
    }
}

/// The family of a configuration and all parts that it describes, whether or
/// not there are tensors for them. `folder` is where it comes from, for errors.
///
/// # Errors
/// When the architecture is not known, or its settings mean something that is
/// not computed here.
pub fn describe(config: &Config, folder: &Path) -> Result<(&'static Family, Vec<Part>)> {
    let model_type = config.str_or("model_type", "")?;
    let family =
        FAMILIES.iter().find(|f| f.model_types.contains(&model_type)).ok_or_else(|| unknown(folder, model_type))?;
    Ok((family, (family.parts)(config)?))
}

/// A checkpoint whose architecture is known.
pub struct Pretrained {
    folder: PathBuf,
    config: Config,
    checkpoint: Checkpoint,
    family: &'static Family,
    parts: Vec<Part>,
}

impl Pretrained {
    /// Opens a folder, or a weights file with the folder that it lies in:
    /// reads its configuration and the headers of its weights. The parts are
    /// those that the checkpoint holds. Whisper's original weights need no
    /// folder and no configuration: the file will do.
    ///
    /// # Errors
    /// When files are missing or broken, the architecture is not known, or
    /// its settings mean something that is not computed here.
    pub fn open(path: &Path) -> Result<Self> {
        let file = path.is_file().then_some(path);
        // Beside a weights file lies what describes it.
        let home = match file.and_then(Path::parent) {
            Some(parent) if parent.as_os_str().is_empty() => Path::new("."),
            Some(parent) => parent,
            None => path,
        };
        let sentence = SentenceTransformer::of(home)?;
        let mut folder = sentence.as_ref().map_or(home.to_owned(), |s| s.transformer.clone());
        let checkpoint = Checkpoint::open(file.unwrap_or(&folder))?;
        let described = folder.join("config.json");
        // The files of Whisper's authors come without a description.
        let config = match audio::openai_config(&checkpoint).filter(|_| file.is_some() || !described.is_file()) {
            Some(config) => {
                folder = file.map_or(folder, Path::to_owned);
                Config::new("the tensors' shapes", config)?
            }
            None if file.is_some() && !described.is_file() => {
                let problem = "its tensors can be read, but not what they are of: that is told by a config.json, and \
                               none lies beside it; give a folder that holds both";
                return Err(ModelError::checkpoint(path, problem));
            }
            None => Config::new("config.json", read_json(&described)?)?,
        };
        let (family, mut parts) = describe(&config, &folder)?;
        parts.retain(|p| p.keys.is_in(&checkpoint));
        for part in &mut parts {
            let has = |ours| has(&checkpoint, &part.keys, ours);
            match &mut part.config {
                PartConfig::Tower(tower) => match tower.as_mut() {
                    // Poolers and projections are trained with another task
                    // and left out of many checkpoints.
                    TowerConfig::Text(text) => {
                        text.pooler = text.pooler.filter(|_| has("pooler.weight"));
                        text.projection = text.projection.filter(|_| has("projection.weight"));
                        siglip::settle_padding(text, &folder)?;
                        if let Some(sentence) = &sentence {
                            (text.pooler, text.pooling, text.normalize) = (None, sentence.pooling, sentence.normalize);
                        }
                    }
                    TowerConfig::Image(image) => {
                        image.pooler = image.pooler.filter(|_| has("pooler.weight"));
                        image.projection = image.projection.filter(|_| has("projection.weight"));
                        vit::settle_size(image, &folder)?;
                    }
                    TowerConfig::SpaceTime(video) => {
                        video.pooled_norm_eps = video.pooled_norm_eps.filter(|_| has("pooled_norm.weight"));
                    }
                    _ => {}
                },
                PartConfig::ImageText(pair) => {
                    siglip::settle_padding(&mut pair.text, &folder)?;
                    vit::settle_size(&mut pair.image, &folder)?;
                }
                PartConfig::Head(_) | PartConfig::AudioText(_) => {}
                PartConfig::Decoder(decoder) => {
                    if decoder.output == DecoderOutput::Untied && !has("decoder.output.weight") {
                        // T5 then writes with its embeddings; others hold only
                        // what makes hidden states.
                        let seq2seq = decoder.transformer.block.cross_attention;
                        decoder.output = if seq2seq { DecoderOutput::Tied } else { DecoderOutput::None };
                    }
                }
            }
        }
        Ok(Self { folder, config, checkpoint, family, parts })
    }

    /// The folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The family that it belongs to.
    pub fn family(&self) -> &'static Family {
        self.family
    }

    /// Its `config.json`.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Its weights.
    pub fn checkpoint(&self) -> &Checkpoint {
        &self.checkpoint
    }

    /// The parts that it holds.
    pub fn parts(&self) -> &[Part] {
        &self.parts
    }

    /// Whether it is Whisper as its authors share it, without a file that says
    /// how sounds are prepared.
    pub fn is_openai_whisper(&self) -> bool {
        self.family.model_types == audio::OPENAI_WHISPER.model_types
    }

    /// A part by its name.
    ///
    /// # Errors
    /// When there is none, with those that there are.
    pub fn part(&self, name: &str) -> Result<&Part> {
        self.parts.iter().find(|p| p.name == name).ok_or_else(|| {
            let names: Vec<_> = self.parts.iter().map(|p| p.name).collect();
            self.problem(format!("a {} checkpoint with {} has no {name} part", self.family.name, names.join(", ")))
        })
    }

    /// The configuration of a tower.
    ///
    /// # Errors
    /// When there is none of that name.
    pub fn tower_config(&self, name: &str) -> Result<&TowerConfig> {
        match &self.part(name)?.config {
            PartConfig::Tower(config) => Ok(config),
            _ => Err(self.wrong_kind(name, "tower")),
        }
    }

    /// A tower with its weights, under their names without a prefix.
    ///
    /// # Errors
    /// When there is none, or tensors are missing or of another shape: all of
    /// them are named.
    pub fn load_tower(&self, name: &str) -> Result<(Tower, Params)> {
        self.load_tower_as(name, self.tower_config(name)?)
    }

    /// As [`Pretrained::load_tower`] with settings that leave the weights
    /// alone changed (dropout, pooling, a projection left out).
    ///
    /// # Errors
    /// As there.
    pub fn load_tower_as(&self, name: &str, config: &TowerConfig) -> Result<(Tower, Params)> {
        let mut params = Params::new();
        let tower = self.load_into(&mut params, name, |b| Tower::new(b, config))?;
        Ok((tower, params))
    }

    /// A head with its weights, after the parameters of its tower.
    ///
    /// # Errors
    /// When there is none, or tensors are missing or of another shape.
    pub fn load_head(&self, name: &str, params: &mut Params) -> Result<Head> {
        match &self.part(name)?.config {
            PartConfig::Head(config) => self.load_into(params, name, |b| Head::new(b, config)),
            _ => Err(self.wrong_kind(name, "head")),
        }
    }

    /// Both towers and the scale of their similarity, with their weights.
    ///
    /// # Errors
    /// When the checkpoint is not such a pair, or tensors are missing or of
    /// another shape.
    pub fn load_image_text(&self) -> Result<(ImageText, Params)> {
        let PartConfig::ImageText(config) = &self.part("image_text")?.config else {
            return Err(self.problem("image_text is not a pair of towers".to_owned()));
        };
        let mut params = Params::new();
        let pair = self.load_into(&mut params, "image_text", |b| ImageText::new(b, config))?;
        Ok((pair, params))
    }

    /// Both towers of sounds and texts and the scales of their similarity, with
    /// their weights.
    ///
    /// # Errors
    /// When the checkpoint is not such a pair, or tensors are missing or of
    /// another shape.
    pub fn load_audio_text(&self) -> Result<(AudioText, Params)> {
        let PartConfig::AudioText(config) = &self.part("audio_text")?.config else {
            return Err(self.problem("audio_text is not a pair of towers".to_owned()));
        };
        let mut params = Params::new();
        let pair = self.load_into(&mut params, "audio_text", |b| AudioText::new(b, config))?;
        Ok((pair, params))
    }

    /// The configuration of a decoder.
    ///
    /// # Errors
    /// When there is none of that name.
    pub fn decoder_config(&self, name: &str) -> Result<&DecoderConfig> {
        match &self.part(name)?.config {
            PartConfig::Decoder(config) => Ok(config),
            _ => Err(self.wrong_kind(name, "decoder")),
        }
    }

    /// A decoder with its weights, after the parameters of its encoder if it
    /// has one. Embeddings that a checkpoint stores once for both become two
    /// tables; to keep one, give the encoder's to [`Decoder::sharing`] within
    /// [`Pretrained::load_into`].
    ///
    /// # Errors
    /// When there is none, or tensors are missing or of another shape.
    pub fn load_decoder(&self, name: &str, params: &mut Params) -> Result<Decoder> {
        let config = self.decoder_config(name)?;
        self.load_into(params, name, |b| Decoder::new(b, config))
    }

    /// Loads a part to see that it fits; returns the number of its parameters.
    ///
    /// # Errors
    /// When there is none, or tensors are missing or of another shape.
    pub fn try_part(&self, name: &str) -> Result<usize> {
        let mut params = Params::new();
        match &self.part(name)?.config {
            PartConfig::Tower(config) => self.load_into(&mut params, name, |b| Tower::new(b, config)).map(|_| ()),
            PartConfig::Head(config) => self.load_into(&mut params, name, |b| Head::new(b, config)).map(|_| ()),
            PartConfig::ImageText(config) => {
                self.load_into(&mut params, name, |b| ImageText::new(b, config)).map(|_| ())
            }
            PartConfig::AudioText(config) => {
                self.load_into(&mut params, name, |b| AudioText::new(b, config)).map(|_| ())
            }
            PartConfig::Decoder(config) => self.load_into(&mut params, name, |b| Decoder::new(b, config)).map(|_| ()),
        }?;
        Ok(params.count().0)
    }

    fn wrong_kind(&self, name: &str, expected: &str) -> ModelError {
        let is = self.part(name).map_or("nothing", Part::kind);
        self.problem(format!("{name} is a {is}, not a {expected}"))
    }

    /// Builds any module from the weights of a part, its parameters after
    /// those that are there.
    ///
    /// # Errors
    /// When tensors are missing or of another shape: all of them are named.
    pub fn load_into<T>(
        &self,
        params: &mut Params,
        part: &str,
        build: impl FnOnce(&mut Builder<'_>) -> Result<T>,
    ) -> Result<T> {
        let mapped = self.part(part)?.keys.over(&self.checkpoint);
        let built = build(&mut Builder::loading(params, &mapped))?;
        mapped.finish(&format!("{} ({part})", self.folder.display()))?;
        Ok(built)
    }

    /// The checkpoint's name of a parameter of a part.
    pub fn tensor_name(&self, part: &str, ours: &str) -> Option<String> {
        self.part(part).ok()?.keys.over(&self.checkpoint).tensor_name(ours)
    }

    /// Tensors of the checkpoint that no part knows.
    pub fn unexpected(&self) -> Vec<&str> {
        let known = |name: &str| self.parts.iter().any(|p| p.keys.claims_in(&self.checkpoint, name));
        self.checkpoint.names().filter(|n| !known(n)).collect()
    }

    /// The classes of a classification head, in the order of its outputs.
    pub fn labels(&self) -> Option<Vec<String>> {
        let labels = self.config.get("id2label")?.as_object()?;
        let named: Option<Vec<_>> =
            (0..labels.len()).map(|i| labels.get(&i.to_string())?.as_str().map(str::to_owned)).collect();
        named
    }

    fn problem(&self, problem: String) -> ModelError {
        ModelError::config(self.folder.display().to_string(), problem)
    }
}

fn has(checkpoint: &Checkpoint, keys: &KeyMap, ours: &str) -> bool {
    keys.theirs(ours).is_some_and(|theirs| checkpoint.names().any(|n| n.ends_with(&theirs)))
}

fn read_json(path: &Path) -> Result<Value> {
    let place = || path.display().to_string();
    let file = std::fs::read(path).map_err(|e| ModelError::config(place(), format!("cannot be read: {e}")))?;
    serde_json::from_slice(&file).map_err(|e| ModelError::config(place(), format!("is not JSON: {e}")))
}

fn unknown(folder: &Path, model_type: &str) -> ModelError {
    let mut known: Vec<&str> = FAMILIES.iter().flat_map(|f| f.model_types).copied().collect();
    known.sort_by_key(|name| std::cmp::Reverse(shared_prefix(name, model_type)));
    let nearest = known.iter().take(3).copied().collect::<Vec<_>>().join(", ");
    known.sort_unstable();
    let known = known.join(", ");
    let problem = if model_type.is_empty() && folder.join("data.json").is_file() {
        "it is a whole model that Sensorium trained, with columns of its own (predict, evaluate or index take it); \
         an encoder is the checkpoint of one family, as `sensorium pretrain` leaves in text/, image/, audio/, video/ \
         or encoder/"
            .into()
    } else if model_type.is_empty() {
        format!("its config.json has no model_type; known ones: {known}")
    } else {
        format!("model_type {model_type:?} is not known; nearest: {nearest}; all known: {known}")
    };
    ModelError::config(folder.display().to_string(), problem)
}

fn shared_prefix(a: &str, b: &str) -> usize {
    a.bytes().zip(b.bytes()).take_while(|(x, y)| x == y).count()
}
