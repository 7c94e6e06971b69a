//! Which adapter, with which numbers. Names and defaults are PEFT's where it
//! has them.

use crate::layers::ActivationName;
use crate::{ModelError, Result};
use serde::{Deserialize, Serialize};

/// What is attached to a model, by method.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum AdapterConfig {
    /// Low-rank changes of weights; also DoRA.
    Lora(LoraConfig),
    /// Learned factors on activations.
    Ia3(Ia3Config),
    /// Small feed-forward parts after or beside sublayers.
    Bottleneck(BottleneckConfig),
    /// Learned keys and values in front of each segment, in every layer.
    Prefix(VirtualTokens),
    /// Learned tokens in front of each segment, before the first layer.
    Prompt(VirtualTokens),
}

/// LoRA: y = x·Wᵀ + s·(x·Aᵀ)·Bᵀ with A `[rank, inputs]` and B
/// `[outputs, rank]` (Hu et al., "LoRA: low-rank adaptation of large language
/// models", 2021).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LoraConfig {
    /// The rank of the change.
    pub rank: usize,
    /// s is alpha / rank.
    pub alpha: f64,
    /// s is alpha / √rank instead (Kalajdzievski, "A rank stabilization scaling
    /// factor for fine-tuning with LoRA", 2023).
    pub rslora: bool,
    /// Dropout on what goes into A.
    pub dropout: f64,
    /// Whether the rows of the changed weight have a learned length of their
    /// own (Liu et al., "DoRA: weight-decomposed low-rank adaptation", 2024).
    pub dora: bool,
    /// Patterns of module names, matched whole or at their end.
    pub targets: Vec<String>,
}

impl Default for LoraConfig {
    fn default() -> Self {
        Self {
            rank: 8,
            alpha: 8.0,
            rslora: false,
            dropout: 0.0,
            dora: false,
            targets: vec!["query".into(), "value".into()],
        }
    }
}

impl LoraConfig {
    /// s, what the change is multiplied by.
    pub fn scaling(&self) -> f64 {
        let rank = self.rank as f64;
        self.alpha / if self.rslora { rank.sqrt() } else { rank }
    }
}

/// IA³: factors on the outputs of some layers and on the inputs of others (Liu
/// et al., "Few-shot parameter-efficient fine-tuning is better and cheaper than
/// in-context learning", 2022).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Ia3Config {
    /// Patterns of the modules that get factors.
    pub targets: Vec<String>,
    /// Patterns of those among them whose inputs are multiplied, not their
    /// outputs: the second layer of feed-forward parts.
    pub feedforward: Vec<String>,
}

impl Default for Ia3Config {
    fn default() -> Self {
        Self { targets: ["key", "value", "down"].map(str::to_owned).into(), feedforward: vec!["down".into()] }
    }
}

/// Where bottleneck adapters stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(rename_all = "snake_case")]
pub enum BottleneckKind {
    /// After attention and after the feed-forward part (Houlsby et al.,
    /// "Parameter-efficient transfer learning for NLP", 2019).
    Houlsby,
    /// After the feed-forward part only (Pfeiffer et al., "AdapterFusion", 2021).
    #[default]
    Pfeiffer,
    /// Beside the feed-forward part (He et al., "Towards a unified view of
    /// parameter-efficient transfer learning", 2022).
    Parallel,
}

/// A small feed-forward part: up(f(down(h))), added to what it stands after or
/// beside.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct BottleneckConfig {
    /// Where it stands.
    pub placement: BottleneckKind,
    /// How many times narrower than the hidden width it is inside.
    pub reduction: f64,
    /// The activation inside.
    pub activation: ActivationName,
    /// What its output is multiplied by.
    pub scale: f64,
}

impl Default for BottleneckConfig {
    fn default() -> Self {
        Self::of(BottleneckKind::default())
    }
}

impl BottleneckConfig {
    /// The usual numbers of a placement: those of the AdapterHub library.
    pub fn of(placement: BottleneckKind) -> Self {
        let (reduction, activation, scale) = match placement {
            BottleneckKind::Houlsby => (16.0, ActivationName::Silu, 1.0),
            BottleneckKind::Pfeiffer => (16.0, ActivationName::Relu, 1.0),
            BottleneckKind::Parallel => (2.0, ActivationName::Relu, 4.0),
        };
        Self { placement, reduction, activation, scale }
    }

    /// The width inside, for tokens of this width.
    pub fn width(&self, hidden: usize) -> usize {
        ((hidden as f64 / self.reduction).round() as usize).max(1)
    }
}

/// How many virtual tokens: prefix tuning (Li and Liang 2021) and prompt tuning
/// (Lester et al. 2021).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct VirtualTokens {
    /// Virtual tokens in front of each segment.
    pub tokens: usize,
}

impl Default for VirtualTokens {
    fn default() -> Self {
        Self { tokens: 16 }
    }
}

impl AdapterConfig {
    /// What the method is called in messages and in parameters' names.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Lora(c) if c.dora => "dora",
            Self::Lora(_) => "lora",
            Self::Ia3(_) => "ia3",
            Self::Bottleneck(_) => "adapter",
            Self::Prefix(_) => "prefix",
            Self::Prompt(_) => "prompt",
        }
    }

    /// Whether [`merge`](super::Adapters::merge) can fold it into the weights.
    pub fn can_merge(&self) -> bool {
        matches!(self, Self::Lora(_) | Self::Ia3(_))
    }

    /// The patterns that choose modules; None where the method chooses itself.
    pub(super) fn targets(&self) -> Option<&[String]> {
        match self {
            Self::Lora(c) => Some(&c.targets),
            Self::Ia3(c) => Some(&c.targets),
            Self::Bottleneck(_) | Self::Prefix(_) | Self::Prompt(_) => None,
        }
    }

    /// Whether the numbers make sense.
    ///
    /// # Errors
    /// When they do not; the error says what was expected.
    pub fn validate(&self) -> Result<()> {
        if self.targets().is_some_and(<[String]>::is_empty) {
            return Err(ModelError::config(self.kind(), "targets is empty: name at least one module"));
        }
        self.validate_numbers()
    }

    /// As [`AdapterConfig::validate`], but for the targets.
    pub(super) fn validate_numbers(&self) -> Result<()> {
        let err = |problem: String| Err(ModelError::config(self.kind(), problem));
        match self {
            Self::Lora(c) if c.rank == 0 || c.rank > 4096 => {
                err(format!("rank = {}, expected a number from 1 to 4096", c.rank))
            }
            Self::Lora(c) if !(c.alpha.is_finite() && c.alpha > 0.0) => {
                err(format!("alpha = {}, expected a number above 0", c.alpha))
            }
            Self::Lora(c) if !(0.0..1.0).contains(&c.dropout) => {
                err(format!("dropout = {} is not in [0, 1)", c.dropout))
            }
            Self::Bottleneck(c) if !(c.reduction.is_finite() && c.reduction > 0.0) => {
                err(format!("reduction = {}, expected a number above 0", c.reduction))
            }
            Self::Bottleneck(c) if !c.scale.is_finite() || c.scale == 0.0 => {
                err(format!("scale = {}, expected a number other than 0", c.scale))
            }
            Self::Prefix(c) | Self::Prompt(c) if c.tokens == 0 || c.tokens > 65_536 => {
                err(format!("tokens = {}, expected a number from 1 to 65536", c.tokens))
            }
            _ => Ok(()),
        }
    }
}
