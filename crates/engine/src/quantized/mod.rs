//! Whole numbers of eight bits for inference: weights at a quarter of their
//! size, and products that take a fraction of the time.
//!
//! A weight w of output c is the code q = round(w / s_c) in −127…127, with a
//! scale s_c of its own for each output (each row of a table). A row x of
//! activations becomes codes u = round(x / s) + z in 0…255, with a scale s and
//! a zero z from the row's own range, or from one that calibration has fixed.
//! The product is exact in 32 bits,
//!
//! y_c = s·s_c·(Σ u·q − z·Σ q) + b_c,
//!
//! so every instruction set gives the same numbers ([`Kernel`]), and so does
//! any number of threads. Only inference knows of codes: a tape that records
//! gets the weights back as they were rounded.

mod bytes;
mod calibration;
mod kernels;
mod linear;
mod product;
mod rows;
mod weights;

pub use calibration::{Calibration, Histogram};
pub use kernels::Kernel;
pub use linear::{quantized_embedding, quantized_linear, quantized_linears};
pub use rows::Range;
pub use weights::Quantized;

/// The largest number of inputs: beyond, 255 · 128 · inputs would leave 32 bits.
pub const MOST_INPUTS: usize = 65_536;
