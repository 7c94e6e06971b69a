//! Pretrained encoders in place of towers from scratch: `text.encoder` and
//! likewise name a folder, and with it come the tower's structure, its
//! weights and the way its inputs are prepared.

use crate::config::{FitConfig, TowerSection};
use crate::search::{Similarity, similarity};
use crate::{Error, Result, hub, processors};
use sensorium_data::processor::VideoProcessor;
use sensorium_data::{PlanOptions, Processor};
use sensorium_engine::Params;
use sensorium_model::pretrained::Pretrained;
use sensorium_model::towers::VideoTowerConfig;
use sensorium_model::{Pooling, TowerConfig, Towers, TransformerConfig};
use std::path::{Path, PathBuf};

/// What a fully fine-tuned encoder learns at, as a multiple of `train.lr`:
/// what it knows already is worth more than what a batch says.
const LR_SCALE: f64 = 0.06;

/// From a parameter's name within its tower to the checkpoint's.
pub(crate) type TensorName<'a> = Box<dyn Fn(&str) -> Option<String> + 'a>;

/// The encoders of a configuration.
#[derive(Default)]
pub(crate) struct Encoders {
    text: Option<Encoder>,
    image: Option<Encoder>,
    audio: Option<Encoder>,
    /// A video encoder, or an image encoder for the frames.
    video: Option<Encoder>,
}

/// A checkpoint that becomes a tower.
struct Encoder {
    source: Pretrained,
    part: &'static str,
    tower: TowerConfig,
}

impl Encoder {
    /// Opens the first of `parts` that the folder has.
    fn open(key: &str, parts: &[&'static str], folder: &Path, section: &TowerSection, pair: bool) -> Result<Self> {
        let plain = TowerSection::default();
        for (name, set) in [
            ("hidden", section.hidden.is_some()),
            ("layers", section.layers.is_some()),
            ("heads", section.heads.is_some()),
            ("pooling", section.pooling != plain.pooling),
        ] {
            if set {
                return Err(Error::Config {
                    place: format!("{key}.tower.{name}"),
                    problem: format!("is decided by {key}.encoder; leave it out, or leave out the encoder"),
                });
            }
        }
        let wrong = |problem: String| Error::Config { place: format!("{key}.encoder"), problem };
        let folder = hub::resolve(&folder.to_string_lossy(), &mut |_| {}).map_err(|e| wrong(e.to_string()))?;
        let source = Pretrained::open(&folder).map_err(|e| wrong(e.to_string()))?;
        let has = |part: &&&'static str| source.parts().iter().any(|p| p.name == **part);
        let part = *parts.iter().find(has).unwrap_or(&parts[0]);
        let mut tower = source.tower_config(part)?.clone();
        // A projection is for comparing the towers of a pair; all else has its own.
        match &mut tower {
            _ if pair => {}
            TowerConfig::Text(text) => {
                (text.projection, text.projection_bias, text.projection_activation) = (None, false, None);
            }
            TowerConfig::Image(image) => image.projection = None,
            TowerConfig::Audio(audio) => (audio.projection, audio.projection_activation) = (None, None),
            _ => {}
        }
        Ok(Self { source, part, tower })
    }

    /// Lines about it for the person, with what of the tower's section does not apply to it.
    fn describe(&self, key: &str, section: &TowerSection) -> String {
        let mut text = format!("{key} encoder: {} from {}", self.source.family().name, self.source.folder().display());
        let plain = TowerSection::default();
        let unused: Vec<&str> = [
            ("dropout", section.dropout != plain.dropout),
            ("attention_dropout", section.attention_dropout != plain.attention_dropout),
            ("drop_path", section.drop_path != plain.drop_path),
        ]
        .into_iter()
        .filter_map(|(name, set)| set.then_some(name))
        .collect();
        // The blocks over the frames of a video are not an image encoder's: theirs stand.
        let of_frames = key == "video" && self.part == "image";
        if !unused.is_empty() && !of_frames {
            text += &format!("\n{key}.tower: {} not used, the encoder has its own", unused.join(", "));
        }
        text
    }
}

impl Encoders {
    /// Opens what a configuration names.
    ///
    /// # Errors
    /// When a folder is not a checkpoint that is known, or settings
    /// contradict it.
    pub(crate) fn open(config: &FitConfig) -> Result<Self> {
        Self::open_as(config, false)
    }

    /// As [`Encoders::open`], for columns that meet in one space: where text
    /// and image (or audio) encoder are one checkpoint's, a pair that was trained
    /// together, its projections stay, and its similarity comes along.
    ///
    /// # Errors
    /// As [`Encoders::open`].
    pub(crate) fn open_to_meet(config: &FitConfig) -> Result<(Self, Option<Similarity>)> {
        let (text, image, audio) = (&config.text.encoder, &config.image.encoder, &config.audio.encoder);
        let pair = text.is_some() && (text == image || (text == audio && image.is_none()));
        let encoders = Self::open_as(config, pair)?;
        let similarity = match (&encoders.text, pair) {
            (Some(text), true) => Some(similarity(&text.source)?),
            _ => None,
        };
        Ok((encoders, similarity))
    }

    fn open_as(config: &FitConfig, pair: bool) -> Result<Self> {
        let open = |key: &str, parts: &[_], folder: &Option<PathBuf>, section| {
            folder.as_deref().map(|folder| Encoder::open(key, parts, folder, section, pair)).transpose()
        };
        let text = open("text", &["text"], &config.text.encoder, &config.text.tower)?;
        let image = open("image", &["image"], &config.image.encoder, &config.image.tower)?;
        let audio = open("audio", &["audio"], &config.audio.encoder, &config.audio.tower)?;
        let video = open("video", &["video", "image"], &config.video.encoder, &config.video.tower)?;
        for (key, encoder, patches) in
            [("image", &image, config.image.patch_size), ("video", &video, config.video.patch_size)]
        {
            if encoder.is_some() && patches.is_some() {
                return Err(Error::Config {
                    place: format!("{key}.patch_size"),
                    problem: format!("is decided by {key}.encoder; leave it out"),
                });
            }
        }
        if text.is_some() && (config.text.tokenizer.is_some() || config.text.vocab_size.is_some()) {
            return Err(Error::Config {
                place: "text".into(),
                problem: "an encoder comes with its own tokenizer; leave tokenizer and vocab_size out".into(),
            });
        }
        Ok(Self { text, image, audio, video })
    }

    /// Prepares inputs as the encoders expect them.
    ///
    /// # Errors
    /// When their files do not say how.
    pub(crate) fn prepare(&self, config: &mut FitConfig, options: &mut PlanOptions) -> Result<()> {
        if let Some(encoder) = &self.text {
            processors::prepare(&encoder.source, &encoder.tower, options)?;
            config.text.max_tokens = config.text.max_tokens.min(options.text.max_tokens);
            options.text.max_tokens = config.text.max_tokens;
        }
        if let Some(encoder) = &self.image {
            processors::prepare(&encoder.source, &encoder.tower, options)?;
            (config.image.size, config.image.crop) = (options.image.size, options.image.crop);
        }
        if let Some(encoder) = &self.video {
            options.video = match &encoder.tower {
                TowerConfig::SpaceTime(video) => {
                    if let Some(frames) = config.video.frames.filter(|frames| *frames != video.frames) {
                        return Err(Error::Config {
                            place: "video.frames".into(),
                            problem: format!(
                                "is {frames}, and the encoder has learnt with {} frames of a video; leave it out",
                                video.frames
                            ),
                        });
                    }
                    processors::space_time(&encoder.source, video)?
                }
                _ => {
                    let frames = options.video.frames;
                    VideoProcessor { frames, ..VideoProcessor::of_frames(&processors::image(&encoder.source)?) }
                }
            };
            (config.video.size, config.video.crop) = (options.video.size, options.video.crop);
        }
        if let Some(encoder) = &self.audio {
            processors::prepare(&encoder.source, &encoder.tower, options)?;
            let audio = &mut config.audio;
            if !audio.pad {
                options.audio.pad_seconds = None;
            }
            (audio.sample_rate, audio.features) = (options.audio.sample_rate, options.audio.features);
            audio.mels = options.audio.mels;
            audio.max_seconds = audio.max_seconds.min(options.audio.max_seconds);
            options.audio.max_seconds = audio.max_seconds;
        }
        Ok(())
    }

    /// The tower of a column, where an encoder makes it. `temporal` are the
    /// blocks over the frames of a video, whose width is the encoder's.
    pub(crate) fn tower(
        &self,
        processor: &Processor,
        temporal: impl FnOnce(usize) -> Result<TransformerConfig>,
    ) -> Result<Option<TowerConfig>> {
        let Some(encoder) = self.of(processor) else { return Ok(None) };
        let (Processor::Video(frames), TowerConfig::Image(image)) = (processor, &encoder.tower) else {
            return Ok(Some(encoder.tower.clone()));
        };
        Ok(Some(TowerConfig::Video(VideoTowerConfig {
            image: image.clone(),
            max_positions: frames.frames,
            pooling: Pooling::Mean,
            temporal: temporal(encoder.tower.dim())?,
        })))
    }

    fn of(&self, processor: &Processor) -> Option<&Encoder> {
        match processor {
            Processor::Text(_) => self.text.as_ref(),
            Processor::Image(_) => self.image.as_ref(),
            Processor::Audio(_) => self.audio.as_ref(),
            Processor::Video(_) => self.video.as_ref(),
            Processor::Number(_) | Processor::Category(_) | Processor::Features(_) => None,
        }
    }

    /// The checkpoint, its part and the tower that a column's encoder makes.
    pub(crate) fn source(&self, processor: &Processor) -> Option<(&Pretrained, &'static str, &TowerConfig)> {
        self.of(processor).map(|encoder| (&encoder.source, encoder.part, &encoder.tower))
    }

    /// What a column's parameters that come from the encoder begin with.
    fn scope(&self, model: &Towers, column: usize, processor: &Processor) -> String {
        let tower = model.tower_scope(column);
        let of_frames =
            matches!(processor, Processor::Video(_)) && self.of(processor).is_some_and(|e| e.part == "image");
        if of_frames { format!("{tower}.image") } else { tower.to_owned() }
    }

    /// Copies the encoders' weights into a model's towers; `processors` are
    /// those of its columns.
    ///
    /// # Errors
    /// When tensors are missing or of another shape.
    pub(crate) fn load<'p>(
        &self,
        model: &Towers,
        params: &mut Params,
        processors: impl IntoIterator<Item = &'p Processor>,
    ) -> Result<()> {
        let mut read: Vec<(&Encoder, Params)> = Vec::new();
        for (column, processor) in processors.into_iter().enumerate() {
            let Some(encoder) = self.of(processor) else { continue };
            // Columns of one encoder share its weights until training changes them.
            let known = read.iter().position(|(other, _)| std::ptr::eq(*other, encoder));
            let at = match known {
                Some(at) => at,
                None => {
                    read.push((encoder, encoder.source.load_tower_as(encoder.part, &encoder.tower)?.1));
                    read.len() - 1
                }
            };
            let scope = self.scope(model, column, processor);
            for (_, weight) in read[at].1.iter() {
                let name = format!("{scope}.{}", weight.name);
                let id = params.id(&name).ok_or_else(|| Error::Request(format!("the model has no {name}")))?;
                params.get_mut(id).value = weight.value.clone();
            }
        }
        Ok(())
    }

    /// What the names of the towers that encoders made begin with.
    pub(crate) fn scopes<'p>(
        &self,
        model: &Towers,
        processors: impl IntoIterator<Item = &'p Processor>,
    ) -> Vec<String> {
        let made = processors.into_iter().enumerate().filter(|(_, p)| self.of(p).is_some());
        made.map(|(column, p)| self.scope(model, column, p)).collect()
    }

    /// For each tower that an encoder made what its names begin with, and the
    /// checkpoint's name of one of its parameters.
    pub(crate) fn tensor_names<'s, 'p>(
        &'s self,
        model: &Towers,
        processors: impl IntoIterator<Item = &'p Processor>,
    ) -> Vec<(String, TensorName<'s>)> {
        let made = processors.into_iter().enumerate().filter_map(|(column, p)| Some((column, p, self.of(p)?)));
        made.map(|(column, p, encoder)| {
            let name = move |ours: &str| encoder.source.tensor_name(encoder.part, ours);
            (self.scope(model, column, p), Box::new(name) as TensorName<'s>)
        })
        .collect()
    }

    /// Lets the towers that encoders made learn more slowly than the rest,
    /// unless the configuration already says how fast, or freezes them.
    pub(crate) fn slow_down<'p>(
        &self,
        config: &mut FitConfig,
        model: &Towers,
        processors: impl IntoIterator<Item = &'p Processor>,
    ) {
        if !config.train.lr_scale.is_empty() || !config.train.freeze.is_empty() || config.train.layer_decay != 1.0 {
            return;
        }
        for (column, processor) in processors.into_iter().enumerate() {
            if self.of(processor).is_some() {
                config.train.lr_scale.insert(format!("{}.*", self.scope(model, column, processor)), LR_SCALE);
            }
        }
    }

    /// Lines about the encoders for the person.
    pub(crate) fn describe(&self, config: &FitConfig) -> Option<String> {
        let all = [
            ("text", &self.text, &config.text.tower),
            ("image", &self.image, &config.image.tower),
            ("audio", &self.audio, &config.audio.tower),
            ("video", &self.video, &config.video.tower),
        ];
        let lines: Vec<String> =
            all.iter().filter_map(|(key, e, section)| Some(e.as_ref()?.describe(key, section))).collect();
        (!lines.is_empty()).then(|| lines.join("\n"))
    }
}
