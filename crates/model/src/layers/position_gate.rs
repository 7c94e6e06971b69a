//! How much biases by distance count for each token.

use crate::{Context, Result};
use sensorium_engine::{Activation, Builder, Init, ParamId, Tensor, Var, ops};

/// A gate for each token and head on the biases by distance of its row of
/// scores: r·(u·s − 1) + 2, where r and u, between 0 and 1, follow from the
/// token, and s is learned for each head (WavLM, Chen et al. 2022, after Chi
/// et al. 2022).
#[derive(Debug, Clone)]
pub(super) struct PositionGate {
    heads: usize,
    weight: ParamId,
    bias: ParamId,
    scale: ParamId,
}

impl PositionGate {
    /// Numbers of a token's head that are added up to each of r and u.
    const TERMS: usize = 4;

    /// Creates `weight` `[8, head_dim]` and `bias` `[8]`, which all heads
    /// share, and `scale` `[heads]`.
    pub(super) fn new(b: &mut Builder<'_>, heads: usize, head_dim: usize) -> Result<Self> {
        Ok(Self {
            heads,
            weight: b.param("weight", &[2 * Self::TERMS, head_dim], Init::Xavier)?,
            bias: b.param("bias", &[2 * Self::TERMS], Init::Constant(0.0))?,
            scale: b.param("scale", &[heads], Init::Constant(1.0))?,
        })
    }

    /// Tokens `[tokens, heads · head_dim]` to `[tokens, heads]`.
    pub(super) fn forward(&self, cx: &Context<'_>, x: &Var) -> Result<Var> {
        let (tape, plain, pairs) = (cx.tape, Activation::Identity, x.rows() * self.heads);
        let constant = |dims: &[usize], of: &dyn Fn(usize) -> f32| {
            let data: Vec<f32> = (0..dims.iter().product()).map(of).collect();
            Tensor::from_slice(dims, &data).map(Var::constant)
        };
        let by_head = ops::reshape(tape, x, &[pairs, x.cols() / self.heads])?;
        let terms = ops::linear(tape, &by_head, &cx.param(self.weight), Some(&cx.param(self.bias)), plain)?;
        // σ(y) = tanh(y / 2) / 2 + 1 / 2 of each sum of four.
        let half_sums = constant(&[2, 2 * Self::TERMS], &|i| {
            let (row, column) = (i / (2 * Self::TERMS), i % (2 * Self::TERMS));
            if column / Self::TERMS == row { 0.5 } else { 0.0 }
        })?;
        let both = ops::linear(tape, &terms, &half_sums, None, Activation::Tanh)?;
        let (half, also) = (constant(&[1, 1], &|_| 0.5)?, constant(&[1], &|_| 0.5)?);
        let both = ops::linear(tape, &ops::reshape(tape, &both, &[2 * pairs, 1])?, &half, Some(&also), plain)?;
        let both = ops::split_cols(tape, &ops::reshape(tape, &both, &[pairs, 2])?, &[1, 1])?;
        let reset = ops::reshape(tape, &both[0], &[x.rows(), self.heads])?;
        let update = ops::reshape(tape, &both[1], &[x.rows(), self.heads])?;
        let scaled = ops::mul(tape, &reset, &ops::mul_vector(tape, &update, &cx.param(self.scale))?)?;
        let two = constant(&[1, self.heads], &|_| 2.0)?;
        Ok(ops::add_rows_broadcast(tape, &ops::sub(tape, &scaled, &reset)?, &two, &vec![0; x.rows()])?)
    }
}
