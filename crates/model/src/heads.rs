//! Output layers over a tower's features, as checkpoints bring them.

use crate::layers::{ActivationName, LayerNorm, Linear, NormKind};
use crate::{Context, Features, Result};
use sensorium_engine::{Builder, Var, ops};
use serde::{Deserialize, Serialize};

/// What a head reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HeadInput {
    /// The pooled vector of each segment.
    Pooled,
    /// The first token of each segment.
    First,
    /// The mean over the tokens of each segment.
    Mean,
    /// The mean over the tokens of each segment but the first few.
    MeanAfter(usize),
    /// The first token and, beside it, that mean (DINOv2).
    FirstAndMeanAfter(usize),
    /// The first token and the second, each with an output of its own, of
    /// which the mean is the answer (DeiT's distillation token).
    FirstTwo,
    /// Every token.
    Tokens,
}

/// Settings of a head: dense layer, norm, output, the first two optional.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HeadConfig {
    /// What it reads.
    pub input: HeadInput,
    /// Width of what it reads.
    pub inputs: usize,
    /// The activation of a dense layer before the output; none without.
    pub dense: Option<ActivationName>,
    /// Width of that layer; `inputs` when left out.
    pub dense_width: Option<usize>,
    /// Whether that layer has a bias.
    #[serde(default = "yes", skip_serializing_if = "is_yes")]
    pub dense_bias: bool,
    /// Variance offset of a layer norm before the output; none without.
    pub norm_eps: Option<f64>,
    /// Whether that norm has a bias.
    #[serde(default = "yes", skip_serializing_if = "is_yes")]
    pub norm_bias: bool,
    /// Numbers given per row: classes, or tokens of a vocabulary.
    pub outputs: usize,
    /// Whether the output has a bias.
    pub bias: bool,
}

impl HeadConfig {
    /// One layer with a bias from `inputs` to `outputs` numbers.
    pub fn linear(input: HeadInput, inputs: usize, outputs: usize) -> Self {
        Self {
            input,
            inputs,
            dense: None,
            dense_width: None,
            dense_bias: true,
            norm_eps: None,
            norm_bias: true,
            outputs,
            bias: true,
        }
    }
}

fn yes() -> bool {
    true
}

fn is_yes(x: &bool) -> bool {
    *x
}

/// What a head does before its output: a dense layer and a norm, each where it
/// is wanted.
#[derive(Debug, Clone)]
pub(crate) struct Transform {
    dense: Option<(Linear, ActivationName)>,
    norm: Option<LayerNorm>,
    /// Features that it gives.
    pub(crate) width: usize,
}

impl Transform {
    /// Creates `dense` and `norm`.
    ///
    /// # Errors
    /// When names are taken.
    pub(crate) fn new(b: &mut Builder<'_>, c: &HeadConfig) -> Result<Self> {
        let width = if c.dense.is_some() { c.dense_width.unwrap_or(c.inputs) } else { c.inputs };
        let dense = match c.dense {
            Some(f) => Some((Linear::new(&mut b.scope("dense"), c.inputs, width, c.dense_bias)?, f)),
            None => None,
        };
        let norm = match c.norm_eps {
            Some(eps) => {
                let (kind, mut b) = (NormKind::LayerNorm, b.scope("norm"));
                Some(LayerNorm::with_bias(&mut b, width, kind, eps, c.norm_bias)?)
            }
            None => None,
        };
        Ok(Self { dense, norm, width })
    }

    /// `[rows, inputs]` to `[rows, width]`.
    ///
    /// # Errors
    /// When the features are not as wide as the inputs.
    pub(crate) fn forward(&self, cx: &Context<'_>, mut x: Var) -> Result<Var> {
        if let Some((dense, activation)) = &self.dense {
            x = dense.forward_with(cx, &x, (*activation).into())?;
        }
        match &self.norm {
            Some(norm) => norm.forward(cx, &x),
            None => Ok(x),
        }
    }
}

/// A head.
#[derive(Debug, Clone)]
pub struct Head {
    input: HeadInput,
    transform: Transform,
    output: Linear,
    second: Option<Linear>,
}

impl Head {
    /// Creates `dense`, `norm`, `output` and `second`, each where it is wanted.
    ///
    /// # Errors
    /// When names are taken.
    pub fn new(b: &mut Builder<'_>, c: &HeadConfig) -> Result<Self> {
        let transform = Transform::new(b, c)?;
        let width = transform.width;
        let output = Linear::new(&mut b.scope("output"), width, c.outputs, c.bias)?;
        let second = match c.input {
            HeadInput::FirstTwo => Some(Linear::new(&mut b.scope("second"), width, c.outputs, c.bias)?),
            _ => None,
        };
        Ok(Self { input: c.input, transform, output, second })
    }

    /// Features to `[segments, outputs]`, or `[tokens, outputs]` for a head
    /// that reads tokens.
    ///
    /// # Errors
    /// When the features are not as wide as the head's inputs.
    pub fn forward(&self, cx: &Context<'_>, features: &Features) -> Result<Var> {
        let pool = |how| ops::pool(cx.tape, &features.tokens, &features.offsets, how);
        let after = |skip| -> Result<_> { Features::without_first(cx, &features.tokens, &features.offsets, skip) };
        let mean_after = |skip| -> Result<_> {
            let (tokens, offsets) = after(skip)?;
            Ok(ops::pool(cx.tape, &tokens, &offsets, ops::Pooling::Mean)?)
        };
        let x = match self.input {
            HeadInput::Pooled => features.pooled.clone(),
            HeadInput::First | HeadInput::FirstTwo => pool(ops::Pooling::First)?,
            HeadInput::Mean => pool(ops::Pooling::Mean)?,
            HeadInput::MeanAfter(skip) => mean_after(skip)?,
            HeadInput::FirstAndMeanAfter(skip) => {
                ops::concat_cols(cx.tape, &[&pool(ops::Pooling::First)?, &mean_after(skip)?])?
            }
            HeadInput::Tokens => features.tokens.clone(),
        };
        let y = self.output.forward(cx, &self.transform.forward(cx, x)?)?;
        let Some(second) = &self.second else { return Ok(y) };
        let (tokens, offsets) = after(1)?;
        let other = second.forward(cx, &ops::pool(cx.tape, &tokens, &offsets, ops::Pooling::First)?)?;
        Ok(ops::scale(cx.tape, &ops::add(cx.tape, &y, &other)?, 0.5)?)
    }
}
