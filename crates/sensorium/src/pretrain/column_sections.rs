//! The sections of objectives over columns of a table that belong together.

use crate::config::RetrieveSection;
use sensorium_model::Contrastive;
use serde::{Deserialize, Serialize};

/// `[pretrain.contrastive]`: columns meet in one space, what stands in one row close to each other.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ContrastiveSection {
    /// Its weight in the loss.
    pub weight: f64,
    /// Pairs of columns that are compared, as `[["photo", "caption"]]` (automatic: every two of
    /// text, image, audio, video and features).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pairs: Option<Vec<[String; 2]>>,
    /// Numbers per vector (automatic: the widest tower's; a pretrained pair's own).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dim: Option<usize>,
    /// `info_nce` (as CLIP), `sigmoid` (as SigLIP), or `hardest_negative` (as VSE++).
    pub loss: Contrastive,
    /// The margin of `hardest_negative`, in cosine.
    pub margin: f64,
    /// Samples that go through a tower at a time, the loss still being that of the whole batch
    /// (gradient caching); 0: all at once.
    pub sub_batch: usize,
    /// The column with the class of a row, for zero-shot accuracy in validation (automatic: none).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub zero_shot: Option<String>,
    /// Sentences with `{}` for the class; without any, some that suit what is sorted.
    pub templates: Vec<String>,
}

impl Default for ContrastiveSection {
    fn default() -> Self {
        let RetrieveSection { pairs, dim, loss, margin, sub_batch } = RetrieveSection::default();
        Self { weight: 0.0, pairs, dim, loss, margin, sub_batch, zero_shot: None, templates: Vec::new() }
    }
}

impl ContrastiveSection {
    /// What a fit's section of the same meaning says.
    pub(crate) fn retrieve(&self) -> RetrieveSection {
        let Self { pairs, dim, loss, margin, sub_batch, .. } = self.clone();
        RetrieveSection { pairs, dim, loss, margin, sub_batch }
    }
}
