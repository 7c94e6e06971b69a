//! The sections of a configuration, but `[train]`, `[fusion]` and `[limits]`.

use sensorium_data::processor::{AudioFeatures, CropMode};
use sensorium_data::{ColumnType, LabelTask, OnBad};
use sensorium_model::Pooling;
use sensorium_model::towers::ImageStem;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::PathBuf;

/// `[data]`: the table, its columns and splits.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DataSection {
    /// The table: CSV, TSV, JSONL or Parquet; relative to the configuration file.
    pub table: Option<PathBuf>,
    /// Types of columns that should not be inferred, as `photo = "image"`.
    pub types: BTreeMap<String, ColumnType>,
    /// Columns to leave out; `--set data.ignore=[…]` replaces the list, `--ignore` adds to it.
    pub ignore: Vec<String>,
    /// The column that says which split a row belongs to.
    pub split: Option<String>,
    /// Rows with the same value in this column stay in one split. A category, a number or a code is
    /// then no input, unless `[data.types]` says so.
    pub group: Option<String>,
    /// Whether each class gets its share of every split.
    pub stratify: bool,
    /// Which of the possible splits, apart from `train.seed` (automatic: 0).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seed: Option<u64>,
    /// Share of the rows for validation.
    pub val: f64,
    /// Share of the rows for the test.
    pub test: f64,
    /// What becomes of a cell that cannot be read: `fail`, `skip` its row, or `null`: as if missing.
    pub on_error: OnBad,
    /// Training stops when more than this share of the rows is unreadable.
    pub max_bad_fraction: f64,
    /// Whether the sound of video columns is a modality of its own.
    pub sound_tracks: bool,
    /// Whether decoded media are kept on disk, so that they are decoded once.
    pub cache: bool,
    /// The most gigabytes that the cache may hold.
    pub cache_gb: f64,
}

impl Default for DataSection {
    fn default() -> Self {
        Self {
            table: None,
            types: BTreeMap::new(),
            ignore: Vec::new(),
            split: None,
            group: None,
            stratify: true,
            seed: None,
            val: 0.1,
            test: 0.2,
            on_error: OnBad::Null,
            max_bad_fraction: 0.05,
            sound_tracks: true,
            cache: true,
            cache_gb: 4.0,
        }
    }
}

/// `[label]`: what is predicted and by which loss.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LabelSection {
    /// The column to predict.
    pub column: Option<String>,
    /// `single_label`, `multi_label`, `ordinal` or `regression` (automatic: from the column).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub task: Option<LabelTask>,
    /// The classes in their order, for `ordinal`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub classes: Option<Vec<String>>,
    /// `none`, or `balanced`: rare classes weigh more.
    pub class_weights: ClassWeights,
    /// Share of the target that is spread over all classes.
    pub label_smoothing: f64,
    /// Alpha of mixup, which trains on blends of samples (0.2 is usual); 0: none.
    pub mixup: f64,
    /// `mse` or `huber`, for regression.
    pub regression_loss: RegressionLoss,
}

/// How classes are weighted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ClassWeights {
    /// All alike.
    #[default]
    None,
    /// In inverse proportion to their number, as scikit-learn's `balanced`.
    Balanced,
}

/// The loss of a regression.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RegressionLoss {
    /// The mean squared error.
    #[default]
    Mse,
    /// Squared near zero, linear beyond one standard deviation of the target.
    Huber,
}

/// `[text.tower]` and likewise: the Transformer of a modality. Keys left out
/// are chosen by the number of training rows.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TowerSection {
    /// Width of the tokens (automatic).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hidden: Option<usize>,
    /// Blocks (automatic).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub layers: Option<usize>,
    /// Attention heads (automatic: one per 32 features).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub heads: Option<usize>,
    /// Dropout on embeddings and sublayers.
    pub dropout: f64,
    /// Dropout on attention weights.
    pub attention_dropout: f64,
    /// Stochastic depth in the last block; less below.
    pub drop_path: f64,
    /// How tokens become one vector: `mean`, `first` or `max`.
    pub pooling: Pooling,
}

impl Default for TowerSection {
    fn default() -> Self {
        Self {
            hidden: None,
            layers: None,
            heads: None,
            dropout: 0.1,
            attention_dropout: 0.0,
            drop_path: 0.0,
            pooling: Pooling::Mean,
        }
    }
}

/// `[text]`: how texts are tokenised and encoded.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TextSection {
    /// A folder (or the name on the hub) of a pretrained text encoder (BERT and kin, sentence-transformers) to start
    /// from, with its own tokenizer; without one, a tower is trained from scratch.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub encoder: Option<PathBuf>,
    /// Longer texts lose their end.
    pub max_tokens: usize,
    /// A `tokenizer.json` to use; without one, a vocabulary is learnt from the training texts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tokenizer: Option<PathBuf>,
    /// Tokens of a learnt vocabulary (automatic: by the amount of text).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vocab_size: Option<usize>,
    /// Whether a learnt vocabulary ignores case.
    pub lowercase: bool,
    /// The Transformer.
    pub tower: TowerSection,
}

impl Default for TextSection {
    fn default() -> Self {
        Self {
            encoder: None,
            max_tokens: 256,
            tokenizer: None,
            vocab_size: None,
            lowercase: true,
            tower: TowerSection::default(),
        }
    }
}

/// `[image]`: how images are prepared and encoded.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ImageSection {
    /// A folder (or the name on the hub) of a pretrained image encoder (ViT, DeiT, DINOv2, Swin, CLIP) to start from, with its own way of preparing
    /// images; without one, a tower is trained from scratch.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub encoder: Option<PathBuf>,
    /// Pixels of each side.
    pub size: usize,
    /// What becomes of images that are not square: `center`, `squash` or `pad`.
    pub crop: CropMode,
    /// How pixels become tokens: `patch`, one linear layer as in ViT, or `conv`, strided
    /// convolutions; `patch_size` is then a power of two.
    pub stem: ImageStem,
    /// Pixels of each side of a patch (automatic: an eighth of `size`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub patch_size: Option<usize>,
    /// Pixels from one patch to the next (automatic: `patch_size`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub patch_stride: Option<usize>,
    /// Whether training images are varied (crops, flips, colours).
    pub augment: bool,
    /// The Transformer.
    pub tower: TowerSection,
}

impl Default for ImageSection {
    fn default() -> Self {
        Self {
            encoder: None,
            size: 64,
            crop: CropMode::Pad,
            stem: ImageStem::Patch,
            patch_size: None,
            patch_stride: None,
            augment: true,
            tower: TowerSection::default(),
        }
    }
}

/// `[audio]`: how sound is prepared and encoded.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AudioSection {
    /// A folder (or the name on the hub) of a pretrained audio encoder (Whisper, wav2vec 2.0, WavLM, AST) to start from, with its own way of preparing
    /// sound; without one, a tower is trained from scratch.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub encoder: Option<PathBuf>,
    /// Samples per second after resampling.
    pub sample_rate: u32,
    /// `whisper` or `kaldi` log-mel features.
    pub features: AudioFeatures,
    /// Mel bands.
    pub mels: usize,
    /// Longer sounds lose their end.
    pub max_seconds: f64,
    /// Whether sounds are padded to the length that a pretrained encoder has always seen (30 s
    /// for Whisper): its numbers are then the reference's; without, a second costs a second.
    pub pad: bool,
    /// Strides of the convolutions before the Transformer; a frame is 10 ms.
    pub strides: Vec<usize>,
    /// Whether training sounds are varied (masks, shifts).
    pub augment: bool,
    /// The Transformer.
    pub tower: TowerSection,
}

impl Default for AudioSection {
    fn default() -> Self {
        Self {
            encoder: None,
            sample_rate: 16_000,
            features: AudioFeatures::Whisper,
            mels: 80,
            max_seconds: 30.0,
            pad: true,
            strides: vec![2, 2],
            augment: true,
            tower: TowerSection::default(),
        }
    }
}

/// `[video]`: how videos are prepared and encoded.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct VideoSection {
    /// A folder (or the name on the hub) of a pretrained video encoder, or of an image encoder for the frames; the
    /// Transformer over those frames is trained from scratch.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub encoder: Option<PathBuf>,
    /// Frames per video, at even distances (automatic: 8, or as many as a video encoder has learnt with).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub frames: Option<usize>,
    /// Pixels of each side of a frame.
    pub size: usize,
    /// What becomes of frames that are not square: `center`, `squash` or `pad`.
    pub crop: CropMode,
    /// How pixels become tokens, as for images: `patch` or `conv`.
    pub stem: ImageStem,
    /// Pixels of each side of a patch (automatic: an eighth of `size`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub patch_size: Option<usize>,
    /// Whether training frames are varied.
    pub augment: bool,
    /// The Transformer over the patches of a frame.
    pub tower: TowerSection,
    /// Blocks over the frames.
    pub temporal_layers: usize,
}

impl Default for VideoSection {
    fn default() -> Self {
        Self {
            encoder: None,
            frames: None,
            size: 64,
            crop: CropMode::Center,
            stem: ImageStem::Patch,
            patch_size: None,
            augment: true,
            tower: TowerSection::default(),
            temporal_layers: 1,
        }
    }
}

/// `[features]`: how precomputed features are encoded.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct FeaturesSection {
    /// Dropout on the features themselves.
    pub input_dropout: f64,
    /// The Transformer, where features are sequences.
    pub tower: TowerSection,
}

impl Default for FeaturesSection {
    fn default() -> Self {
        Self { input_dropout: 0.0, tower: TowerSection::default() }
    }
}
