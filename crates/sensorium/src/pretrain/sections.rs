//! The sections of objectives over one modality.

use sensorium_model::objectives::{PatchMasking, TokenMasking};
use serde::{Deserialize, Serialize};

/// `[pretrain.mlm]`: masked language modelling.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MlmSection {
    /// Its weight in the loss.
    pub weight: f64,
    /// The share of tokens that are chosen.
    pub share: f64,
    /// The share of the chosen that become the mask token.
    pub mask: f64,
    /// The share of the chosen that become any token of the vocabulary; the rest stay as they are.
    pub random: f64,
    /// Whether all tokens of a word are chosen together.
    pub whole_word: bool,
    /// The mean length in words of runs that are chosen together (SpanBERT: 3.8); 0: none.
    pub span: f64,
}

impl Default for MlmSection {
    fn default() -> Self {
        let TokenMasking { share, mask, random, whole_word, span } = TokenMasking::default();
        Self { weight: 0.0, share, mask, random, whole_word, span }
    }
}

impl MlmSection {
    /// How tokens are chosen and replaced.
    pub fn masking(&self) -> TokenMasking {
        let Self { share, mask, random, whole_word, span, .. } = *self;
        TokenMasking { share, mask, random, whole_word, span }
    }
}

/// `[pretrain.clm]`: causal language modelling.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ClmSection {
    /// Its weight in the loss.
    pub weight: f64,
    /// The structure of a model from scratch: `gpt2`, or `llama` (RMS norms, gated feed-forward
    /// parts, rotary positions).
    pub structure: CausalStructure,
}

/// `[pretrain.mim]`: masked image modelling.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MimSection {
    /// Its weight in the loss.
    pub weight: f64,
    /// `mae`: the encoder sees only the patches that are not hidden, a light decoder guesses the
    /// others; or `simmim`: the encoder sees a mask token in their place.
    pub method: MimMethod,
    /// The share of patches that are hidden (automatic: 0.75 for mae, 0.6 for simmim).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub share: Option<f64>,
    /// The side, in patches, of the squares that are hidden together.
    pub block: usize,
    /// Width of the decoder of `mae`.
    pub decoder_hidden: usize,
    /// Blocks of the decoder of `mae`.
    pub decoder_layers: usize,
    /// Whether `mae` compares patches with mean 0 and variance 1.
    pub normalise: bool,
}

impl Default for MimSection {
    fn default() -> Self {
        Self {
            weight: 0.0,
            method: MimMethod::Mae,
            share: None,
            block: 1,
            decoder_hidden: 128,
            decoder_layers: 2,
            normalise: true,
        }
    }
}

/// `[pretrain.msm]`: masked spectrogram modelling.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MsmSection {
    /// Its weight in the loss.
    pub weight: f64,
    /// The share of squares that are hidden.
    pub share: f64,
    /// The side, in squares of 16 bands and 16 frames, of what is hidden together.
    pub block: usize,
}

impl Default for MsmSection {
    fn default() -> Self {
        Self { weight: 0.0, share: 0.6, block: 1 }
    }
}

impl MsmSection {
    /// How squares are chosen.
    pub fn masking(&self) -> PatchMasking {
        PatchMasking { share: self.share, block: self.block }
    }
}

/// A method of masked image modelling.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs)]
pub enum MimMethod {
    #[default]
    Mae,
    Simmim,
}

impl MimSection {
    /// The share of patches that are hidden.
    pub fn share(&self) -> f64 {
        self.share.unwrap_or(match self.method {
            MimMethod::Mae => 0.75,
            MimMethod::Simmim => 0.6,
        })
    }

    /// How patches are chosen.
    pub fn masking(&self) -> PatchMasking {
        PatchMasking { share: self.share(), block: self.block }
    }

    pub(super) fn decoder_heads(&self) -> usize {
        (self.decoder_hidden / 32).max(1)
    }
}

/// The structure of a decoder.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs)]
pub enum CausalStructure {
    #[default]
    Gpt2,
    Llama,
}
