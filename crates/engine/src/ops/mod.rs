//! The differentiable operations. Each is a function of a tape and its inputs
//! that returns the output on the tape; shapes are in its documentation, its
//! gradient test is beside it.

mod activation;
mod attention;
mod concat;
mod contrastive;
mod conv_1d;
mod cross_entropy;
mod dropout;
mod element_losses;
mod elementwise;
mod embedding;
mod gated;
mod instance_norm;
mod layer_norm;
mod linear;
pub(crate) mod loops;
mod normalize;
mod pool;
mod recompute;
mod residual;
mod rms_norm;
mod rotary;
mod scale_rows;
pub(crate) mod scatter;
mod segments;
mod softmax;
mod unfold;
mod unfold_2d;
mod vocabulary_cross_entropy;
mod weight_norm;

pub(crate) use activation::forward_loop;
pub use activation::{Activation, activate};
pub use attention::{Attention, Places, RelativeBias, attention, attention_weights};
pub use concat::{concat_cols, concat_rows, reshape, split_cols};
pub use contrastive::{info_nce, pairwise_sigmoid};
pub use conv_1d::{Convolution1d, conv_1d};
pub use cross_entropy::{CrossEntropy, cross_entropy, soft_cross_entropy};
pub use dropout::{drop_path, dropout};
pub use element_losses::{binary_cross_entropy, huber, mae, mse};
pub use elementwise::{add, exp, mean, mul, scale, sub, sum};
pub use embedding::{add_rows_broadcast, embedding, gather_rows};
pub use gated::gated;
pub use instance_norm::instance_norm;
pub use layer_norm::{add_layer_norm, layer_norm};
pub use linear::{activated_linear, linear, linears};
pub use normalize::normalize;
pub use pool::{Pooling, pool, repeat_segments};
pub use recompute::recompute;
pub use rms_norm::{add_rms_norm, rms_norm};
pub use rotary::{Rotary, rotary};
pub use scale_rows::{mul_vector, scale_rows, segment_weighted_sum};
pub use softmax::{log_softmax, segment_softmax, softmax};
pub use unfold::{unfold_1d, unfold_patches};
pub use unfold_2d::unfold_2d;
pub use vocabulary_cross_entropy::vocabulary_cross_entropy;
pub use weight_norm::weight_norm;

pub(crate) use attention::{
    Kernels as AttentionKernels, kernels_f32 as attention_kernels_f32, kernels_portable as attention_kernels_portable,
};

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
