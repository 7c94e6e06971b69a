//! What one row becomes: a sequence of segments and a target.

use serde::{Deserialize, Serialize};

use crate::label::Target;

/// What a column is about, whatever its cells hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Modality {
    /// Text.
    Text,
    /// Pictures.
    Image,
    /// Sound.
    Audio,
    /// Video.
    Video,
    /// Numbers, categories and features without a modality of their own.
    Tabular,
}

impl Modality {
    /// The name used in configs and reports.
    pub fn name(self) -> &'static str {
        match self {
            Modality::Text => "text",
            Modality::Image => "image",
            Modality::Audio => "audio",
            Modality::Video => "video",
            Modality::Tabular => "tabular",
        }
    }
}

/// The form in which segments of a column reach the model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SegmentKind {
    /// Token numbers.
    Tokens,
    /// One picture.
    Image,
    /// Log-mel frames, or samples.
    Audio,
    /// Several pictures in time.
    Video,
    /// Precomputed features.
    Features,
    /// One number.
    Number,
    /// One word's number.
    Category,
}

/// One column's contribution to a sample.
#[derive(Clone, Debug, PartialEq)]
pub enum Segment {
    /// Token numbers, special tokens included.
    Tokens(Vec<u32>),
    /// A normalised picture.
    Image {
        /// Rows of pixels.
        height: usize,
        /// Pixels per row.
        width: usize,
        /// `[3, height, width]`.
        data: Vec<f32>,
    },
    /// Log-mel frames, or samples.
    Audio {
        /// Frames, one every 10 ms, or samples.
        frames: usize,
        /// Mel bands; 1 for samples.
        mels: usize,
        /// `[frames, mels]`.
        data: Vec<f32>,
    },
    /// Normalised pictures in time.
    Video {
        /// Pictures.
        frames: usize,
        /// Rows of pixels.
        height: usize,
        /// Pixels per row.
        width: usize,
        /// `[frames, 3, height, width]`.
        data: Vec<f32>,
    },
    /// Standardised precomputed features.
    Features {
        /// Frames.
        rows: usize,
        /// Numbers per frame.
        dim: usize,
        /// `[rows, dim]`.
        data: Vec<f32>,
    },
    /// A standardised number.
    Number(f32),
    /// A word's number; 0 is unknown.
    Category(u32),
}

impl Segment {
    /// Its form.
    pub fn kind(&self) -> SegmentKind {
        match self {
            Segment::Tokens(_) => SegmentKind::Tokens,
            Segment::Image { .. } => SegmentKind::Image,
            Segment::Audio { .. } => SegmentKind::Audio,
            Segment::Video { .. } => SegmentKind::Video,
            Segment::Features { .. } => SegmentKind::Features,
            Segment::Number(_) => SegmentKind::Number,
            Segment::Category(_) => SegmentKind::Category,
        }
    }

    /// Its length in the unit of its kind: tokens, frames or rows; 1 for a picture, a number, a
    /// category.
    pub fn len(&self) -> usize {
        match self {
            Segment::Tokens(ids) => ids.len(),
            Segment::Audio { frames, .. } | Segment::Video { frames, .. } => *frames,
            Segment::Features { rows, .. } => *rows,
            Segment::Image { .. } | Segment::Number(_) | Segment::Category(_) => 1,
        }
    }

    /// True for a segment without tokens or frames.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Something about a row that a person should know.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// The row, counted from 0.
    pub row: u64,
    /// The column.
    pub column: String,
    /// What is wrong and how to mend it.
    pub message: String,
}

impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "row {}, column {:?}: {}", self.row + 1, self.column, self.message)
    }
}

/// One row, ready to be packed.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Sample {
    /// The row, counted from 0.
    pub row: u64,
    /// Column of the plan and segment, in the plan's order. A missing cell has no segment, a list of
    /// files or of texts has several.
    pub segments: Vec<(usize, Segment)>,
    /// What is to be predicted, where the row says it.
    pub target: Option<Target>,
    /// Cells that could not be used; they are treated as missing.
    pub problems: Vec<Problem>,
    /// Texts that were longer than `max_tokens`.
    pub truncated: u32,
}

impl Sample {
    /// True where no modality is present, so that nothing can be said about the row.
    pub fn is_empty(&self) -> bool {
        self.segments.is_empty()
    }
}
