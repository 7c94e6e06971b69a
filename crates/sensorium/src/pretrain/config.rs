//! The configuration of a pretraining run: one TOML file, every key with a
//! default, sections shared with [`crate::FitConfig`] where they mean the same.

use super::column_sections::{
    CaptionSection, ContrastiveSection, FrameOrderSection, FusionObjectiveSection, ImageClassSection, ItmSection,
};
use super::sections::{ClmSection, MimSection, MlmSection, MsmSection};
use crate::config::{AudioSection, DataSection, ImageSection, TextSection, VideoSection};
use crate::{Error, Result};
use sensorium_data::processor::{AudioFeatures, CropMode};
use sensorium_data::{Unit, WordsBy};
use sensorium_media::Limits;
use sensorium_train::TrainConfig;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// The configuration of a pretraining run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PretrainConfig {
    /// The running text that is learnt from.
    pub corpus: CorpusSection,
    /// The table that is learnt from.
    pub data: DataSection,
    /// What is learnt of them.
    pub pretrain: PretrainSection,
    /// How texts are tokenised and encoded.
    pub text: TextSection,
    /// How pictures are prepared and encoded.
    pub image: ImageSection,
    /// How sound is prepared and encoded.
    pub audio: AudioSection,
    /// How videos are prepared and encoded.
    pub video: VideoSection,
    /// How the model is trained.
    pub train: TrainConfig,
    /// What media files may cost.
    pub limits: Limits,
}

impl Default for PretrainConfig {
    fn default() -> Self {
        Self {
            corpus: CorpusSection::default(),
            data: DataSection::default(),
            pretrain: PretrainSection::default(),
            text: TextSection::default(),
            // A ViT's files can say this, but not how pictures were filled up.
            image: ImageSection { crop: CropMode::Squash, ..ImageSection::default() },
            // What an Audio Spectrogram Transformer hears.
            audio: AudioSection { features: AudioFeatures::Kaldi, ..AudioSection::default() },
            video: VideoSection::default(),
            train: TrainConfig::default(),
            limits: Limits::default(),
        }
    }
}

/// `[corpus]`: the running text that is learnt from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CorpusSection {
    /// Text files (UTF-8), shards (tar in the WebDataset layout, Parquet, JSON lines), or folders of
    /// them; relative to the configuration file.
    pub files: Vec<PathBuf>,
    /// Files for validation; without any, a share of all others is held out.
    pub validation: Vec<PathBuf>,
    /// The column of shards that holds the texts (automatic: text, txt or content).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub column: Option<String>,
    /// The share of the pieces that is held out for validation where no files are.
    pub val: f64,
    /// Which of the possible shares, apart from `train.seed`.
    pub seed: u64,
    /// What one sample is: `block`, `text.max_tokens` tokens of the running text; `line`; or
    /// `document`, lines up to an empty one. Longer lines and documents come in parts.
    pub unit: Unit,
    /// What `whole_word` takes for a word: `pieces`, what the tokenizer splits no further but into
    /// pieces, of Chinese each character; or `blanks`, what stands between blanks, for text that
    /// was segmented so.
    pub words: WordsBy,
    /// Further sources, as `[[corpus.source]]` with `files`, `column` and `weight`: how many times
    /// an epoch goes through it (`files` above: once).
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub source: Vec<CorpusPart>,
}

/// `[[corpus.source]]`: files that are mixed in.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CorpusPart {
    /// Text files, shards, or folders of them.
    pub files: Vec<PathBuf>,
    /// The column of shards that holds the texts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub column: Option<String>,
    /// How many times an epoch goes through them; of a part of a pass the rest comes in the next
    /// epoch.
    pub weight: f64,
}

impl Default for CorpusPart {
    fn default() -> Self {
        Self { files: Vec::new(), column: None, weight: 1.0 }
    }
}

impl Default for CorpusSection {
    fn default() -> Self {
        Self {
            files: Vec::new(),
            validation: Vec::new(),
            val: 0.02,
            seed: 0,
            unit: Unit::Block,
            words: WordsBy::Pieces,
            column: None,
            source: Vec::new(),
        }
    }
}

/// `[pretrain]`: the objectives. The loss is the sum of theirs, each times its weight; a weight of
/// 0 leaves an objective out.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PretrainSection {
    /// Batches in an epoch, after each of which is validated; 0: one pass over the data.
    pub epoch_batches: usize,
    /// Masked language modelling: hidden tokens are guessed from both sides.
    pub mlm: MlmSection,
    /// Causal language modelling: each token is guessed from those before it.
    pub clm: ClmSection,
    /// Masked image modelling: the pixels of hidden patches are guessed.
    pub mim: MimSection,
    /// Masked spectrogram modelling: hidden squares of a spectrogram are guessed.
    pub msm: MsmSection,
    /// Contrastive learning: what stands in one row of a table lies close in one space.
    pub contrastive: ContrastiveSection,
    /// Image-text matching: do a picture and a text belong together?
    pub itm: ItmSection,
    /// Captions: a decoder writes the text of a picture.
    pub caption: CaptionSection,
    /// The class of a picture, as an auxiliary objective with labels.
    pub image_class: ImageClassSection,
    /// The order of a video's frames.
    pub frame_order: FrameOrderSection,
    /// Text and pictures as one sequence of tokens.
    pub fusion: FusionObjectiveSection,
}

impl PretrainConfig {
    /// Reads a configuration file and applies overrides such as
    /// `train.lr=2e-5`. Relative paths are relative to the file.
    ///
    /// # Errors
    /// As [`crate::config::read`].
    pub fn read(path: &Path, overrides: &[String]) -> Result<Self> {
        let text = std::fs::read_to_string(path).map_err(|e| Error::io("read", path, e))?;
        let mut config = Self::parse(&text, &path.display().to_string(), overrides)?;
        let folder = path.parent().unwrap_or(Path::new(""));
        let corpus = &mut config.corpus;
        let parts = corpus.source.iter_mut().flat_map(|s| &mut s.files);
        let named = corpus.files.iter_mut().chain(&mut corpus.validation).chain(parts);
        for file in named.chain(&mut config.text.tokenizer).chain(&mut config.data.table) {
            *file = folder.join(&*file);
        }
        for encoder in
            [&mut config.text.encoder, &mut config.image.encoder, &mut config.audio.encoder, &mut config.video.encoder]
                .into_iter()
                .flatten()
        {
            // What is no folder beside the file may be the name of a model on the hub.
            let beside = folder.join(&*encoder);
            if beside.exists() {
                *encoder = beside;
            }
        }
        Ok(config)
    }

    /// As [`PretrainConfig::read`] from a text, whose relative paths stay as
    /// they are.
    ///
    /// # Errors
    /// As there.
    pub fn from_toml(text: &str, overrides: &[String]) -> Result<Self> {
        Self::parse(text, "configuration", overrides)
    }

    fn parse(text: &str, place: &str, overrides: &[String]) -> Result<Self> {
        crate::config::parse(text, place, overrides, |table| {
            // Within a section that is there, keys left out take the section's
            // own defaults; these are others here.
            for (section, key, value) in [("image", "crop", "squash"), ("audio", "features", "kaldi")] {
                if let Some(toml::Value::Table(section)) = table.get_mut(section) {
                    section.entry(key).or_insert_with(|| value.into());
                }
            }
        })
    }

    /// Whether something is learnt of text.
    pub(crate) fn learns_text(&self) -> bool {
        self.pretrain.mlm.weight > 0.0 || self.pretrain.clm.weight > 0.0
    }

    /// Whether columns of a table are learnt from together.
    pub(crate) fn learns_columns(&self) -> bool {
        let p = &self.pretrain;
        let single = ["mlm", "clm", "mim", "msm"];
        p.weights().iter().any(|(name, weight)| !single.contains(name) && *weight > 0.0)
    }

    /// Whether the texts are those of the table, as no corpus is named.
    pub(crate) fn texts_of_table(&self) -> bool {
        self.learns_text() && self.corpus.files.is_empty() && self.corpus.source.is_empty()
    }

    /// What words are, where they are hidden as wholes.
    pub(crate) fn words(&self) -> Option<WordsBy> {
        let mlm = &self.pretrain.mlm;
        (mlm.whole_word || mlm.span > 0.0).then_some(self.corpus.words)
    }

    /// Whether something is learnt of pictures.
    pub(crate) fn learns_images(&self) -> bool {
        self.pretrain.mim.weight > 0.0
    }

    /// Whether something is learnt of sounds.
    pub(crate) fn learns_sounds(&self) -> bool {
        self.pretrain.msm.weight > 0.0
    }
}

impl PretrainSection {
    /// The weight of each objective by its name.
    pub fn weights(&self) -> [(&'static str, f64); 10] {
        [
            ("mlm", self.mlm.weight),
            ("clm", self.clm.weight),
            ("mim", self.mim.weight),
            ("msm", self.msm.weight),
            ("contrastive", self.contrastive.weight),
            ("itm", self.itm.weight),
            ("caption", self.caption.weight),
            ("image_class", self.image_class.weight),
            ("frame_order", self.frame_order.weight),
            ("fusion", self.fusion.weight),
        ]
    }

    /// Whether nothing is to be learnt.
    pub fn is_empty(&self) -> bool {
        self.weights().iter().all(|(_, weight)| *weight == 0.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_keys_name_the_near_one() {
        let error = |text: &str| PretrainConfig::from_toml(text, &[]).expect_err("unknown").to_string();
        assert!(error("[pretrain.mlm]\nwieght = 1\n").contains("did you mean \"weight\"?"));
        assert!(error("[corpsu]\n").contains("did you mean \"corpus\"?"));
        assert!(error("[label]\ncolumn = \"x\"\n").contains("label"), "a label is nothing to learn from here");
    }

    #[test]
    fn the_examples_of_the_book_are_valid() {
        let page = include_str!("../../../../docs/pretraining.md");
        let examples: Vec<&str> =
            page.split("```toml\n").skip(1).map(|rest| rest.split("```").next().unwrap_or_default()).collect();
        assert!(examples.len() >= 4, "{} examples", examples.len());
        for example in examples {
            let config = PretrainConfig::from_toml(example, &[]).unwrap_or_else(|e| panic!("{e}\n{example}"));
            config.validate().unwrap_or_else(|e| panic!("{e}\n{example}"));
        }
    }
}
