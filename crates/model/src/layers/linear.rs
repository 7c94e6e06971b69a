//! A linear layer.

use crate::adapters::Plain;
use crate::{Context, Result};
use sensorium_engine::quantized::quantized_linears;
use sensorium_engine::{Activation, Builder, Init, ParamId, Var, ops};

/// y = f(x·Wᵀ + b), changed by what an adapter attaches to it. With a quantised
/// weight, inference computes with its codes.
#[derive(Debug, Clone)]
pub struct Linear {
    weight: ParamId,
    bias: Option<ParamId>,
}

impl Linear {
    /// Creates `weight` `[outputs, inputs]` and, if wanted, `bias` `[outputs]`.
    ///
    /// # Errors
    /// When the names are taken.
    pub fn new(b: &mut Builder<'_>, inputs: usize, outputs: usize, bias: bool) -> Result<Self> {
        Self::with_init(b, inputs, outputs, bias, Init::Xavier)
    }

    /// As [`Linear::new`] with another start of the weight.
    ///
    /// # Errors
    /// When the names are taken.
    pub fn with_init(b: &mut Builder<'_>, inputs: usize, outputs: usize, bias: bool, init: Init) -> Result<Self> {
        let weight = b.weight("weight", [outputs, inputs], init)?;
        let bias = if bias { Some(b.param("bias", &[outputs], Init::Constant(0.0))?) } else { None };
        Ok(Self { weight, bias })
    }

    /// `[rows, inputs]` to `[rows, outputs]`.
    ///
    /// # Errors
    /// When the shapes do not fit.
    pub fn forward(&self, cx: &Context<'_>, x: &Var) -> Result<Var> {
        self.forward_with(cx, x, Activation::Identity)
    }

    /// As [`Linear::forward`] with an activation in the same operation.
    ///
    /// # Errors
    /// When the shapes do not fit.
    pub fn forward_with(&self, cx: &Context<'_>, x: &Var, activation: Activation) -> Result<Var> {
        let plain = Plain { weight: self.weight, bias: self.bias, x };
        match cx.site(self.weight) {
            None => plain.forward(cx, activation),
            Some(site) => site.linear(cx, &plain, activation),
        }
    }

    /// f(u)·Wᵀ + b; where a gradient will be wanted, f(u) never stands in memory.
    ///
    /// # Errors
    /// When the shapes do not fit.
    pub fn forward_activated(&self, cx: &Context<'_>, u: &Var, activation: Activation) -> Result<Var> {
        if cx.site(self.weight).is_some() {
            return self.forward(cx, &ops::activate(cx.tape, u, activation)?);
        }
        let bias = self.bias.map(|b| cx.param(b));
        Ok(ops::activated_linear(cx.tape, u, activation, &cx.param(self.weight), bias.as_ref())?)
    }

    /// Three layers of one input, which share what they can where nothing is
    /// attached to them: the codes of the input, or the passage over the weights.
    ///
    /// # Errors
    /// When the shapes do not fit.
    pub(crate) fn forward_three(cx: &Context<'_>, layers: [&Self; 3], x: &Var) -> Result<[Var; 3]> {
        let [a, b, c] = layers;
        if layers.iter().all(|l| cx.site(l.weight).is_none()) {
            let biases = layers.map(|l| l.bias.map(|b| cx.param(b)));
            let biases = biases.iter().map(Option::as_ref);
            let outputs = if let [Some(first), Some(second), Some(third)] = layers.map(|l| cx.codes(l.weight)) {
                let all = [first, second, third].into_iter().zip(biases).collect::<Vec<_>>();
                quantized_linears(x, &all, Activation::Identity)?
            } else if layers.iter().all(|l| cx.codes(l.weight).is_none()) {
                layers.iter().for_each(|l| cx.note_input(l.weight, x));
                let weights = layers.map(|l| cx.param(l.weight));
                let all = weights.iter().zip(biases).collect::<Vec<_>>();
                ops::linears(cx.tape, x, &all, Activation::Identity)?
            } else {
                Vec::new()
            };
            if let Ok(outputs) = <[Var; 3]>::try_from(outputs) {
                return Ok(outputs);
            }
        }
        Ok([a.forward(cx, x)?, b.forward(cx, x)?, c.forward(cx, x)?])
    }

    /// Its weight, under which adapters are attached to it.
    pub(crate) fn weight(&self) -> ParamId {
        self.weight
    }
}
