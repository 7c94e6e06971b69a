//! Normalisation of rows.

use crate::{Context, Result};
use sensorium_engine::{Builder, Init, ParamId, Var, ops};
use serde::{Deserialize, Serialize};

/// Which normalisation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(rename_all = "snake_case")]
pub enum NormKind {
    /// Layer normalisation with weight and bias.
    #[default]
    LayerNorm,
    /// Root-mean-square normalisation with weight.
    RmsNorm,
}

/// A normalisation layer.
#[derive(Debug, Clone)]
pub struct LayerNorm {
    kind: NormKind,
    weight: ParamId,
    bias: Option<ParamId>,
    eps: f64,
}

impl LayerNorm {
    /// Creates `weight` `[dim]` and, for layer normalisation, `bias` `[dim]`.
    ///
    /// # Errors
    /// When the names are taken.
    pub fn new(b: &mut Builder<'_>, dim: usize, kind: NormKind, eps: f64) -> Result<Self> {
        Self::with_bias(b, dim, kind, eps, true)
    }

    /// As [`LayerNorm::new`]; layer normalisation without a bias if not wanted.
    ///
    /// # Errors
    /// When the names are taken.
    pub fn with_bias(b: &mut Builder<'_>, dim: usize, kind: NormKind, eps: f64, bias: bool) -> Result<Self> {
        let weight = b.param("weight", &[dim], Init::Constant(1.0))?;
        let bias = match kind {
            NormKind::LayerNorm if bias => Some(b.param("bias", &[dim], Init::Constant(0.0))?),
            _ => None,
        };
        Ok(Self { kind, weight, bias, eps })
    }

    /// `[rows, dim]` to `[rows, dim]`.
    ///
    /// # Errors
    /// When the shapes do not fit.
    pub fn forward(&self, cx: &Context<'_>, x: &Var) -> Result<Var> {
        let weight = cx.param(self.weight);
        let bias = self.bias.map(|b| cx.param(b));
        Ok(match self.kind {
            NormKind::LayerNorm => ops::layer_norm(cx.tape, x, &weight, bias.as_ref(), self.eps)?,
            NormKind::RmsNorm => ops::rms_norm(cx.tape, x, &weight, self.eps)?,
        })
    }

    /// The sum of two `[rows, dim]` and its normalisation, as one operation.
    ///
    /// # Errors
    /// When the shapes do not fit.
    pub fn after_sum(&self, cx: &Context<'_>, a: &Var, b: &Var) -> Result<(Var, Var)> {
        let weight = cx.param(self.weight);
        let bias = self.bias.map(|b| cx.param(b));
        Ok(match self.kind {
            NormKind::LayerNorm => ops::add_layer_norm(cx.tape, (a, b), &weight, bias.as_ref(), self.eps)?,
            NormKind::RmsNorm => ops::add_rms_norm(cx.tape, (a, b), &weight, self.eps)?,
        })
    }
}
