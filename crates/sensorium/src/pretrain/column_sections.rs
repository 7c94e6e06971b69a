//! The sections of objectives over columns of a table that belong together.

use crate::config::{RetrieveSection, meeting_section};
use sensorium_model::Contrastive;
use serde::{Deserialize, Serialize};

meeting_section! {
/// `[pretrain.contrastive]`: columns meet in one space, what stands in one row close to each other.
pub struct ContrastiveSection {
    /// Its weight in the loss.
    pub weight: f64 = 0.0,
    ..meeting,
    /// The column with the class of a row, for zero-shot accuracy in validation (automatic: none).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub zero_shot: Option<String> = None,
    /// Sentences with `{}` for the class; without any, some that suit what is sorted.
    pub templates: Vec<String> = Vec::new(),
}
}

impl ContrastiveSection {
    /// What a fit's section of the same meaning says.
    pub(crate) fn retrieve(&self) -> RetrieveSection {
        let Self { pairs, dim, loss, margin, sub_batch, .. } = self.clone();
        RetrieveSection { pairs, dim, loss, margin, sub_batch }
    }
}

/// `[pretrain.itm]`: image-text matching: whether a picture and a text belong together.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ItmSection {
    /// Its weight in the loss.
    pub weight: f64,
    /// The column of pictures and that of texts, as `["photo", "caption"]` (automatic: the only ones).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub columns: Option<[String; 2]>,
    /// Blocks in which the text sees the picture.
    pub layers: usize,
    /// Width of these blocks (automatic: the text's).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hidden: Option<usize>,
    /// Whether what does not belong together is drawn in proportion to contrastive similarity,
    /// where that is learnt too; all alike otherwise.
    pub hard_negatives: bool,
}

impl Default for ItmSection {
    fn default() -> Self {
        Self { weight: 0.0, columns: None, layers: 2, hidden: None, hard_negatives: true }
    }
}

/// `[pretrain.caption]`: a decoder writes the text of a picture, token by token.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CaptionSection {
    /// Its weight in the loss.
    pub weight: f64,
    /// The column of pictures and that of texts, as `["photo", "caption"]` (automatic: the only ones).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub columns: Option<[String; 2]>,
    /// Blocks of the decoder, which is as wide as the picture's tower.
    pub layers: usize,
}

impl Default for CaptionSection {
    fn default() -> Self {
        Self { weight: 0.0, columns: None, layers: 2 }
    }
}

/// `[pretrain.image_class]`: the class of a picture, as an auxiliary objective with labels.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ImageClassSection {
    /// Its weight in the loss.
    pub weight: f64,
    /// The column with the class of a row.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
    /// The column of pictures (automatic: the only one).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub column: Option<String>,
    /// Share of the target that is spread over all classes.
    pub label_smoothing: f64,
}

/// `[pretrain.frame_order]`: the frames of a video are shuffled; where did each stand?
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct FrameOrderSection {
    /// Its weight in the loss.
    pub weight: f64,
    /// The column of videos (automatic: the only one).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub column: Option<String>,
    /// The weight, beside it, of guessing the mean colours of the patches of one hidden frame from
    /// the others in their order; 0: none is hidden.
    pub hidden_frame: f64,
}

/// `[pretrain.fusion]`: text and picture as one sequence of tokens, each guessed from those before
/// it; the tokens of a picture are codes of its patches.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct FusionObjectiveSection {
    /// Its weight in the loss.
    pub weight: f64,
    /// The weight of the loss over the tokens of pictures, that over those of texts being 1.
    pub image_weight: f64,
    /// The column of pictures and that of texts, as `["photo", "caption"]` (automatic: the only ones).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub columns: Option<[String; 2]>,
    /// What of a patch becomes a code: its `pixels`, or what a frozen `encoder` (`image.encoder`)
    /// makes of it.
    pub features: PatchFeatures,
    /// Codes of the codebook, which k-means learns of the patches of training pictures.
    pub codes: usize,
    /// Rounds of k-means at most.
    pub iterations: usize,
    /// Pixels of each side of a patch that becomes a token (automatic: an eighth of `image.size`; an
    /// encoder has its own).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub patch_size: Option<usize>,
    /// Blocks of the decoder.
    pub layers: usize,
    /// Its width (automatic: that of the texts' tower).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hidden: Option<usize>,
}

impl Default for FusionObjectiveSection {
    fn default() -> Self {
        Self {
            weight: 0.0,
            image_weight: 1.0,
            columns: None,
            features: PatchFeatures::Pixels,
            codes: 256,
            iterations: 20,
            patch_size: None,
            layers: 4,
            hidden: None,
        }
    }
}

/// What stands for a patch of a picture when it becomes a code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs)]
pub enum PatchFeatures {
    #[default]
    Pixels,
    Encoder,
}
