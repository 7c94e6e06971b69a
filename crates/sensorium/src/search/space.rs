//! A space in which vectors of several kinds of things can be compared.

use super::checkpoint::CheckpointSpace;
use crate::retrieve::Retriever;
use crate::{Error, Result};
use sensorium_data::DataPlan;
use sensorium_model::ColumnInput;
use std::path::Path;

/// A model that embeds into one space.
pub trait Space: Send + Sync {
    /// The ways in, one column for each: how its cells become segments. Columns
    /// of a table are matched to them by name, else by modality.
    fn inputs(&self) -> &DataPlan;

    /// Whether the ways in are columns of the table that the model learnt from:
    /// then it embeds those of a table that it knows, and leaves others alone.
    fn knows_columns(&self) -> bool {
        false
    }

    /// Numbers per vector.
    fn dim(&self) -> usize;

    /// A hash of all that decides about the vectors: structure, weights, and
    /// the way inputs are prepared.
    fn fingerprint(&self) -> String;

    /// The vector `[dim]` of each of `samples`, through one of the ways in;
    /// None where a sample lacks it. Their length does not matter.
    ///
    /// # Errors
    /// When the tower cannot take the input.
    fn embed(&self, way: usize, input: &ColumnInput, samples: usize) -> Result<Vec<Option<Vec<f32>>>>;

    /// From the cosine of two vectors to a logit.
    fn similarity(&self) -> Similarity;
}

/// From a cosine to a logit: `scale · cosine + bias`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Similarity {
    /// The (learned) scale, the inverse of a temperature.
    pub scale: f32,
    /// Where there is a bias, each pair is judged by itself with the logistic
    /// function (SigLIP); without, classes compete in a softmax (CLIP).
    pub bias: Option<f32>,
}

/// Opens the space of a model: one of ours that was fitted to retrieve, or a
/// folder with the towers of a checkpoint.
///
/// # Errors
/// When the folder is not one that is known, or its towers do not meet in one
/// space.
pub fn open(source: &Path) -> Result<Box<dyn Space>> {
    if source.join(sensorium_data::plan::PLAN_FILE).exists() {
        if Retriever::is_in(source) {
            return Ok(Box::new(Retriever::load(source)?));
        }
        return Err(Error::model(
            source,
            "predicts a label; its towers do not meet in one space. Search with a model that was fitted with \
             task = \"retrieve\", a checkpoint whose towers meet (CLIP, Chinese-CLIP, SigLIP), or one encoder (as of \
             sentence-transformers)",
        ));
    }
    Ok(Box::new(CheckpointSpace::open(source)?))
}
