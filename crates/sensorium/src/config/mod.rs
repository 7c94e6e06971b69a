//! The configuration of a run: one TOML file, every key with a default.
//!
//! [`FitConfig`] is what a person writes; keys left out are chosen from the
//! data ("automatic") when the model is assembled, and the resolved
//! configuration is written beside the model. [`read`] reads it, with
//! overrides; [`reference`] prints it with comments.

mod finetune;
mod read;
mod reference;
mod retrieve;
mod sections;

pub use finetune::{FinetuneSection, MethodName};
pub(crate) use read::parse;
pub use read::{from_toml, read};
pub use reference::{pretrain_reference, reference};
pub use retrieve::RetrieveSection;
pub(crate) use retrieve::meeting_section;
pub use sections::{
    AudioSection, ClassWeights, DataSection, FeaturesSection, ImageSection, LabelSection, RegressionLoss, TextSection,
    TowerSection, VideoSection,
};

use sensorium_media::Limits;
use sensorium_model::FusionConfig;
use sensorium_train::TrainConfig;
use serde::{Deserialize, Serialize};

/// The configuration of a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct FitConfig {
    /// What the model is for: `predict` a label, or `retrieve`: find what belongs together.
    pub task: TaskName,
    /// The table, its columns and splits.
    pub data: DataSection,
    /// What is predicted and by which loss.
    pub label: LabelSection,
    /// How texts are tokenised and encoded.
    pub text: TextSection,
    /// How images are prepared and encoded.
    pub image: ImageSection,
    /// How sound is prepared and encoded.
    pub audio: AudioSection,
    /// How videos are prepared and encoded.
    pub video: VideoSection,
    /// How precomputed features are encoded.
    pub features: FeaturesSection,
    /// How the modalities are fused.
    pub fusion: FusionSection,
    /// Which columns meet in one space, for `task = "retrieve"`.
    pub retrieve: RetrieveSection,
    /// How pretrained towers are fine-tuned.
    pub finetune: FinetuneSection,
    /// How the model is trained.
    pub train: TrainConfig,
    /// What media files may cost.
    pub limits: Limits,
}

/// What a model is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TaskName {
    /// A label is predicted.
    #[default]
    Predict,
    /// Columns meet in one space, so that what belongs together is found.
    Retrieve,
}

impl Default for FitConfig {
    fn default() -> Self {
        Self {
            task: TaskName::default(),
            data: DataSection::default(),
            label: LabelSection::default(),
            text: TextSection::default(),
            image: ImageSection::default(),
            audio: AudioSection::default(),
            video: VideoSection::default(),
            features: FeaturesSection::default(),
            fusion: FusionSection::default(),
            retrieve: RetrieveSection::default(),
            finetune: FinetuneSection::default(),
            // How long to train is chosen by the number of rows.
            train: TrainConfig { epochs: 0, ..TrainConfig::default() },
            limits: Limits::default(),
        }
    }
}

/// How the modalities are fused; keys left out follow the towers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct FusionSection {
    /// `concat`, `weighted` or `attention`.
    pub kind: sensorium_model::FusionKind,
    /// Width of the fused vector (automatic: the towers').
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dim: Option<usize>,
    /// Dropout on and inside the fusion.
    pub dropout: f64,
    /// Probability of leaving out each present modality of a sample in training.
    pub modality_dropout: f64,
    /// Weight of the sum of the losses that each column alone has, in training: keeps slower
    /// modalities learning when a fast one already explains the training rows; 0: none.
    pub unimodal_loss: f64,
    /// Blocks of `attention`.
    pub layers: usize,
    /// Bottleneck tokens of `attention`; 0 lets all tokens see each other.
    pub bottleneck: usize,
}

impl Default for FusionSection {
    fn default() -> Self {
        let FusionConfig { kind, dropout, layers, bottleneck, .. } = FusionConfig::default();
        Self { kind, dim: None, dropout, modality_dropout: 0.15, unimodal_loss: 0.0, layers, bottleneck }
    }
}
