//! The differentiable operations. Each is a function of a tape and its inputs
//! that returns the output on the tape; shapes are in its documentation, its
//! gradient test is beside it.

mod activation;
mod attention;
mod elementwise;
mod layer_norm;
mod linear;
mod rms_norm;
mod rotary;

pub use activation::{Activation, activate};
pub use attention::{Attention, RelativeBias, attention, attention_weights};
pub use elementwise::{add, mean, mul, scale, sub, sum};
pub use layer_norm::{add_layer_norm, layer_norm};
pub use linear::linear;
pub use rms_norm::rms_norm;
pub use rotary::{Rotary, rotary};

use crate::{Element, EngineError, Result, Var};

/// Requires a `[rows, cols]` value and returns both.
pub(crate) fn matrix<E: Element>(op: &'static str, what: &'static str, x: &Var<E>) -> Result<(usize, usize)> {
    match x.value().dims() {
        [rows, cols] => Ok((*rows, *cols)),
        _ => Err(EngineError::shape(op, what, "[rows, cols]", x.shape())),
    }
}

/// Requires a `[len]` value.
pub(crate) fn vector<E: Element>(op: &'static str, what: &'static str, x: &Var<E>, len: usize) -> Result<()> {
    if x.value().dims() == [len] {
        return Ok(());
    }
    Err(EngineError::shape(op, what, format!("[{len}]"), x.shape()))
}

/// Requires two values of the same shape.
pub(crate) fn same<E: Element>(op: &'static str, a: &Var<E>, b: &Var<E>) -> Result<()> {
    if a.shape() == b.shape() {
        return Ok(());
    }
    Err(EngineError::shape(op, "second input", a.shape(), b.shape()))
}
