//! LoRA and DoRA: low-rank changes of weights.

use super::site::Plain;
use crate::{Context, Result};
use sensorium_engine::matmul::{Matrix, Output, product};
use sensorium_engine::{Activation, ParamId, Tensor, Var, ops};

/// A low-rank change of a linear layer.
#[derive(Debug, Clone)]
pub(crate) struct Lora {
    /// A `[rank, inputs]`
    pub a: ParamId,
    /// B `[outputs, rank]`
    pub b: ParamId,
    /// DoRA: the length of each row of the changed weight, `[outputs]`.
    pub magnitude: Option<ParamId>,
    pub scaling: f64,
    pub dropout: f64,
}

impl Lora {
    /// The changed layer, without activation.
    pub fn forward(&self, cx: &Context<'_>, plain: &Plain<'_>) -> Result<Var> {
        let dropped = match self.dropout > 0.0 && cx.is_training() {
            true => Some(cx.dropout(plain.x.clone(), self.dropout)?),
            false => None,
        };
        let x = dropped.as_ref().unwrap_or(plain.x);
        let change = self.change(cx, x)?;
        let Some(magnitude) = self.magnitude else {
            let y = plain.forward(cx, Activation::Identity)?;
            return Ok(ops::add(cx.tape, &y, &change)?);
        };
        // m / ‖W + s·B·A‖ by row; the length counts as a constant in backward
        // (section 4.3 of the paper).
        let value = |id| &cx.params.get(id).value;
        let mut inverse = row_norms(value(plain.weight), value(self.a), value(self.b), self.scaling);
        inverse.data_mut().iter_mut().for_each(|n| *n = 1.0 / *n);
        let factors = ops::mul(cx.tape, &cx.param(magnitude), &Var::constant(inverse))?;
        let weight = cx.param(plain.weight);
        let direct = |x: &Var| ops::linear(cx.tape, x, &weight, None, Activation::Identity);
        let y = match &dropped {
            None => {
                let sum = ops::add(cx.tape, &direct(plain.x)?, &change)?;
                ops::mul_vector(cx.tape, &sum, &factors)?
            }
            // As PEFT: what is dropped is dropped from the change alone, so
            // that W·x stays whole.
            Some(x) => {
                let part = direct(x)?;
                let sum = ops::add(cx.tape, &part, &change)?;
                let scaled = ops::mul_vector(cx.tape, &sum, &factors)?;
                let change = ops::sub(cx.tape, &scaled, &part)?;
                ops::add(cx.tape, &direct(plain.x)?, &change)?
            }
        };
        match plain.bias {
            Some(bias) => {
                let bias = ops::reshape(cx.tape, &cx.param(bias), &[1, y.cols()])?;
                Ok(ops::add_rows_broadcast(cx.tape, &y, &bias, &vec![0; y.rows()])?)
            }
            None => Ok(y),
        }
    }

    /// s·(x·Aᵀ)·Bᵀ
    fn change(&self, cx: &Context<'_>, x: &Var) -> Result<Var> {
        let low = ops::linear(cx.tape, x, &cx.param(self.a), None, Activation::Identity)?;
        let low = ops::scale(cx.tape, &low, self.scaling)?;
        Ok(ops::linear(cx.tape, &low, &cx.param(self.b), None, Activation::Identity)?)
    }
}

/// A low-rank change of a table of embeddings.
#[derive(Debug, Clone)]
pub(crate) struct TableLora {
    /// Aᵀ `[entries, rank]`
    pub a: ParamId,
    /// B `[dim, rank]`
    pub b: ParamId,
    pub scaling: f64,
}

impl TableLora {
    /// The rows of the changed table for `ids`, given those of the table.
    pub fn forward(&self, cx: &Context<'_>, rows: &Var, ids: &[u32]) -> Result<Var> {
        let low = ops::embedding(cx.tape, &cx.param(self.a), ids)?;
        let low = ops::scale(cx.tape, &low, self.scaling)?;
        let change = ops::linear(cx.tape, &low, &cx.param(self.b), None, Activation::Identity)?;
        Ok(ops::add(cx.tape, rows, &change)?)
    }
}

/// W + s·B·A for W `[outputs, inputs]`, A `[rank, inputs]`, B `[outputs, rank]`.
pub(super) fn changed_weight(weight: &Tensor, a: &Tensor, b: &Tensor, scaling: f64) -> Tensor {
    let (rank, inputs) = (a.shape().rows(), a.shape().cols());
    let outputs = weight.shape().rows();
    let mut scaled = b.clone();
    scaled.data_mut().iter_mut().for_each(|x| *x *= scaling as f32);
    let mut sum = weight.clone();
    product(
        Matrix::dense(scaled.data(), outputs, rank),
        Matrix::dense(a.data(), rank, inputs),
        Output::dense(sum.data_mut(), outputs, inputs),
        true,
    );
    sum
}

/// The length of each row of W + s·B·A: `[outputs]`.
pub(super) fn row_norms(weight: &Tensor, a: &Tensor, b: &Tensor, scaling: f64) -> Tensor {
    let sum = changed_weight(weight, a, b, scaling);
    let cols = sum.shape().cols().max(1);
    let mut norms = Tensor::zeros(&[weight.shape().rows()]);
    for (n, row) in norms.data_mut().iter_mut().zip(sum.data().chunks_exact(cols)) {
        *n = row.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt() as f32;
    }
    norms
}
