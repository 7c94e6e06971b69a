//! The parts that towers, fusions and heads are built from.

mod block;
mod linear;
mod norm;
mod transformer;

pub use block::{Block, BlockConfig, NormPlace};
pub use linear::Linear;
pub use norm::{LayerNorm, NormKind};
pub use transformer::{Transformer, TransformerConfig};
