//! The engine of Sensorium: tensors in pooled buffers, a tape, and the few
//! fused differentiable operations that multimodal Transformers are made of.
//!
//! Operations run at once ([`ops`]); a [`Tape`] records what backward needs.
//! Everything is dense and row-major with explicit shapes: `[rows, cols]`,
//! where the rows of a pack are the tokens of all its samples laid end to end
//! and [`Offsets`] say where each sample begins. There is no padding and no
//! broadcasting.
//!
//! ```
//! use sensorium_engine::{Activation, Builder, Init, Params, Tape, Tensor, Var, ops};
//! # fn main() -> sensorium_engine::Result<()> {
//! let mut params = Params::<f32>::new();
//! let weight = Builder::new(&mut params, 0).param("weight", &[1, 2], Init::Xavier)?;
//! let tape = Tape::new();
//! let x = Var::constant(Tensor::from_slice(&[3, 2], &[1.0; 6])?);
//! let w = tape.param(&params, weight);
//! let y = ops::linear(&tape, &x, &w, None, Activation::Tanh)?;
//! let loss = ops::mean(&tape, &y)?;
//! let gradients = tape.backward(&loss)?;
//! assert!(gradients.param(weight).is_some());
//! # Ok(())
//! # }
//! ```

#[cfg(target_arch = "x86_64")]
mod ahead;
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
mod amx;
mod buffer;
pub mod check;
mod element;
mod error;
pub mod matmul;
mod offsets;
pub mod ops;
pub mod optim;
mod pages;
mod parallel;
mod params;
pub mod pattern;
pub mod quantized;
mod random;
mod row_gradient;
mod simd;
pub mod similarity;
#[cfg(target_arch = "x86_64")]
mod spans;
#[cfg(target_arch = "x86_64")]
mod standby;
mod tape;
mod tensor;
mod vector;

pub use buffer::{Buffer, memory_in_use};
pub use element::Element;
pub use error::{EngineError, Result};
pub use offsets::Offsets;
pub use ops::Activation;
pub use pages::huge_pages;
pub use parallel::with_threads;
pub use params::{Builder, Init, Param, ParamId, Params, Weights};
pub use quantized::Quantized;
pub use random::Random;
pub use simd::{Level, level};
pub use tape::{Gradients, Tape, Var};
pub use tensor::{Shape, Tensor};
