//! `[retrieve]`: which columns meet in one space, and by which loss.

use sensorium_model::Contrastive;
use serde::{Deserialize, Serialize};

/// `[retrieve]`: which columns meet in one space, for `task = "retrieve"`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RetrieveSection {
    /// Pairs of columns that are compared, as `[["photo", "caption"]]` (automatic: every two of
    /// text, image, audio, video and features).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pairs: Option<Vec<[String; 2]>>,
    /// Numbers per vector (automatic: the widest tower's; a pretrained pair's own).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dim: Option<usize>,
    /// `info_nce` (as CLIP), `sigmoid` (as SigLIP), or `hardest_negative`: a margin to the most
    /// similar wrong one of the batch (as VSE++).
    pub loss: Contrastive,
    /// The margin of `hardest_negative`, in cosine.
    pub margin: f64,
    /// Samples that go through a tower at a time, the loss still being that of the whole batch
    /// (gradient caching): memory for a small batch, a third more time; 0: all at once.
    pub sub_batch: usize,
}

impl Default for RetrieveSection {
    fn default() -> Self {
        Self { pairs: None, dim: None, loss: Contrastive::InfoNce, margin: 0.2, sub_batch: 0 }
    }
}
