//! The parts that towers, fusions and heads are built from.

mod arrangement;
mod attention;
mod block;
mod cache;
mod convolution;
mod grid;
mod linear;
mod norm;
mod position_gate;
mod recompute;
mod relative;
mod rotary;
mod stages;
mod time_attention;
mod transformer;
mod windows;

pub use arrangement::Arrangement;
pub use attention::{AttentionBias, MultiHeadAttention};
pub use block::{ActivationName, Block, BlockConfig, NormPlace, Surroundings};
pub use cache::KeyValueCache;
pub use convolution::{ConvolutionPositions, TimeConvolution};
pub use grid::{GridPositions, GridPositionsConfig};
pub use linear::Linear;
pub use norm::{LayerNorm, NormKind};
pub use relative::{DistanceBias, RelativePositions, RelativePositionsConfig};
pub use rotary::RotaryScaling;
pub use stages::{Stages, StagesConfig};
pub use transformer::{Transformer, TransformerConfig};
