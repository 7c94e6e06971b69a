//! What a model learns without labels: parts of its own input are hidden, or
//! still to come, and it says what they are.
//!
//! An objective is a head over the tokens of a tower and a loss. What is
//! hidden is a function of a stream of random numbers and of places, so that
//! a run that goes on hides the same as one that was never stopped.

mod codebook;
mod frame_order;
mod masked_image;
mod masked_language;
mod masked_spectrogram;
mod matching;
mod patch_masking;
mod token_masking;

pub use codebook::Codebook;
pub use frame_order::{FrameOrderConfig, FrameOrderHead, HiddenFrame, Order};
pub use masked_image::{HiddenLoss, PixelDecoder, PixelDecoderConfig, PixelHead};
pub use masked_language::{MaskedLanguageHead, best_is};
pub use masked_spectrogram::SquareHead;
pub use matching::{MatchingConfig, MatchingHead, Tokens, negatives, of_segments};
pub use patch_masking::PatchMasking;
pub use token_masking::{MaskedTokens, TokenMasking, Vocabulary};
