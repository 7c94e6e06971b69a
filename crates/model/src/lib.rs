//! Multimodal Transformers over packed sequences.
//!
//! A batch is an [`Inputs`]: for each column of the user's table the segments
//! of all samples laid end to end. A [`Tower`] turns one column into
//! [`Features`] (tokens and one pooled vector per segment, the Z = M(X) of the
//! field), a [`Fusion`] turns the features of all columns into one vector per
//! sample, whatever subset of them is present, and a linear head turns that
//! into logits or values.
//!
//! Layers hold the identifiers of their parameters; the values live in
//! [`sensorium_engine::Params`] under dotted names. `forward` takes a
//! [`Context`] (tape, parameters, randomness) and values, and returns values.

pub mod adapters;
mod audio_text;
pub mod checkpoint;
mod column_towers;
mod context;
mod decoder;
mod error;
mod features;
pub mod fusion;
pub mod heads;
mod image_text;
mod inputs;
mod joint;
pub mod layers;
mod model;
pub mod objectives;
pub mod pretrained;
mod quantize;
pub mod towers;

pub use adapters::{AdapterConfig, Adapters, Finetune, Method};
pub use audio_text::{AudioText, AudioTextConfig};
pub use column_towers::{ColumnTower, Frozen, Towers};
pub use context::Context;
pub use decoder::{Decoder, DecoderCache, DecoderConfig, DecoderOutput};
pub use error::{ModelError, Result};
pub use features::Features;
pub use fusion::{Fused, Fusion, FusionConfig, FusionKind};
pub use image_text::{ImageText, ImageTextConfig};
pub use inputs::{ColumnInput, Inputs, Values};
pub use joint::{Contrastive, Embedded, JointConfig, JointLoss, JointModel, same_contents};
pub use layers::{Block, BlockConfig, LayerNorm, Linear, NormKind, NormPlace, Transformer, TransformerConfig};
pub use model::{ModelConfig, MultimodalModel, Output};
pub use quantize::{Deviation, Quantization, quantize};
pub use towers::{Pooling, Tower, TowerConfig};
