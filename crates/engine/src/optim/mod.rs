//! Optimizer steps, fused over all parameters.
//!
//! An [`Optimizer`] holds its [`Method`] and the moments of every parameter it
//! has met; the learning rate and weight decay of each parameter come with
//! every step ([`Hyper`]), so schedules, parameter groups and layer-wise decay
//! are the caller's. Clipping is a factor of the step: take [`global_norm`]
//! and [`clip_factor`]. [`Ema`] keeps a moving average of the parameters.
//! All state can be taken out by name and put back, to the bit.

mod average;
mod norm;
mod optimizer;
mod rows;
mod update;

pub use average::Ema;
pub use norm::{clip_factor, global_norm};
pub use optimizer::{Hyper, Method, Optimizer};
