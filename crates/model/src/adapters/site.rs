//! What is attached to one module, how it starts, and what it does to the
//! module's forward pass.

use super::bottleneck::Bottleneck;
use super::lora::{Lora, TableLora, row_norms};
use super::modules::{Module, targets};
use super::{AdapterConfig, BottleneckKind};
use crate::{Context, ModelError, Result};
use sensorium_engine::quantized::quantized_linear;
use sensorium_engine::{Activation, ParamId, Params, Random, Tensor, Var, ops};
use std::collections::HashMap;

/// What an adapter attaches, by the weight of the module it is attached to.
pub(crate) type Sites = HashMap<ParamId, Site>;

/// What is attached to one module.
#[derive(Debug, Clone)]
pub(crate) enum Site {
    /// A low-rank change of a linear layer.
    Lora(Lora),
    /// A low-rank change of a table.
    TableLora(TableLora),
    /// IA³: factors `[outputs]` on the output.
    ScaleOutput(ParamId),
    /// IA³: factors `[inputs]` on the input.
    ScaleInput(ParamId),
    /// A bottleneck after the layer.
    After(Bottleneck),
    /// A bottleneck beside the feed-forward part that the layer ends.
    Beside(Bottleneck),
    /// Rows `[tokens, width]` in front of each segment's keys or values.
    Prefix(ParamId),
    /// Tokens `[tokens, hidden]` in front of each segment of the stack of
    /// blocks that the layer begins.
    Prompt(ParamId),
}

/// The plain layer that a site is attached to.
pub(crate) struct Plain<'a> {
    pub weight: ParamId,
    pub bias: Option<ParamId>,
    pub x: &'a Var,
}

impl Plain<'_> {
    /// x·Wᵀ + b
    pub fn forward(&self, cx: &Context<'_>, activation: Activation) -> Result<Var> {
        let bias = self.bias.map(|b| cx.param(b));
        cx.note_input(self.weight, self.x);
        if let Some(codes) = cx.codes(self.weight) {
            return Ok(quantized_linear(self.x, codes, bias.as_ref(), activation)?);
        }
        Ok(ops::linear(cx.tape, self.x, &cx.param(self.weight), bias.as_ref(), activation)?)
    }
}

impl Site {
    /// f(linear layer, changed).
    pub fn linear(&self, cx: &Context<'_>, plain: &Plain<'_>, activation: Activation) -> Result<Var> {
        let changed = match self {
            Self::Lora(lora) => lora.forward(cx, plain)?,
            Self::ScaleOutput(factors) => {
                let y = plain.forward(cx, Activation::Identity)?;
                ops::mul_vector(cx.tape, &y, &cx.param(*factors))?
            }
            Self::ScaleInput(factors) => {
                let x = ops::mul_vector(cx.tape, plain.x, &cx.param(*factors))?;
                return Plain { x: &x, ..*plain }.forward(cx, activation);
            }
            Self::After(bottleneck) => {
                let y = plain.forward(cx, Activation::Identity)?;
                let change = bottleneck.forward(cx, &y)?;
                ops::add(cx.tape, &y, &change)?
            }
            Self::TableLora(_) | Self::Beside(_) | Self::Prefix(_) | Self::Prompt(_) => {
                return plain.forward(cx, activation);
            }
        };
        match activation {
            Activation::Identity => Ok(changed),
            f => Ok(ops::activate(cx.tape, &changed, f)?),
        }
    }

    /// The rank and the factor of a low-rank change.
    pub fn rank_and_scaling(&self, params: &Params) -> Option<(usize, f64)> {
        let rank = |b: ParamId| params.get(b).value.shape().cols();
        match self {
            Self::Lora(l) => Some((rank(l.b), l.scaling)),
            Self::TableLora(l) => Some((rank(l.b), l.scaling)),
            _ => None,
        }
    }

    /// Its parameters.
    pub fn parameters(&self) -> Vec<ParamId> {
        match self {
            Self::Lora(l) => [Some(l.a), Some(l.b), l.magnitude].into_iter().flatten().collect(),
            Self::TableLora(l) => vec![l.a, l.b],
            Self::ScaleOutput(p) | Self::ScaleInput(p) | Self::Prefix(p) | Self::Prompt(p) => vec![*p],
            Self::After(b) | Self::Beside(b) => b.parameters().to_vec(),
        }
    }
}

/// How a parameter of an adapter starts.
#[derive(Debug, Clone, Copy)]
pub(super) enum Start {
    /// The same value everywhere.
    Constant(f64),
    /// Uniform in ±bound.
    Uniform(f64),
    /// Normal with this standard deviation.
    Normal(f64),
    /// Normal with this standard deviation, cut at two of them.
    CutNormal(f64),
}

/// Where the values of an adapter come from: the parameter's module, its part
/// (`lora_A.weight`), its dimensions and how it would start.
pub(super) type Source<'a> = dyn Fn(&Module, &str, &[usize], Start, &str) -> Result<Tensor> + 'a;

/// Creates the sites of a new adapter.
pub(super) fn create(
    params: &mut Params,
    set: &str,
    config: &AdapterConfig,
    modules: &[Module],
    seed: u64,
) -> Result<Sites> {
    let random = Random::new(seed).purpose("adapter");
    create_from(params, set, config, modules, &|_, _, dims, start, name| Ok(draw(dims, start, random.purpose(name))))
}

/// Creates the sites of an adapter from given values.
pub(super) fn create_from(
    params: &mut Params,
    set: &str,
    config: &AdapterConfig,
    modules: &[Module],
    source: &Source<'_>,
) -> Result<Sites> {
    let mut sites = Sites::new();
    for module in modules {
        let mut maker = Maker { params, set, module, source };
        sites.insert(module.weight, maker.site(config)?);
    }
    Ok(sites)
}

/// Creates the parameters of one site.
struct Maker<'a> {
    params: &'a mut Params,
    set: &'a str,
    module: &'a Module,
    source: &'a Source<'a>,
}

impl Maker<'_> {
    fn site(&mut self, config: &AdapterConfig) -> Result<Site> {
        let (inputs, outputs) = (self.module.inputs, self.module.outputs);
        Ok(match config {
            AdapterConfig::Lora(c) if self.module.table => {
                if c.dora {
                    let problem = format!("{} is a table of embeddings, which DoRA does not take", self.module.name);
                    return Err(ModelError::config("dora", problem));
                }
                Site::TableLora(TableLora {
                    a: self.param("lora_embedding_A", &[inputs, c.rank], Start::Constant(0.0))?,
                    b: self.param("lora_embedding_B", &[outputs, c.rank], Start::Normal(1.0))?,
                    scaling: c.scaling(),
                })
            }
            AdapterConfig::Lora(c) => {
                // Kaiming-uniform with a = √5, as PEFT and torch's own linear layers.
                let bound = 1.0 / (inputs.max(1) as f64).sqrt();
                let mut lora = Lora {
                    a: self.param("lora_A.weight", &[c.rank, inputs], Start::Uniform(bound))?,
                    b: self.param("lora_B.weight", &[outputs, c.rank], Start::Constant(0.0))?,
                    magnitude: None,
                    scaling: c.scaling(),
                    dropout: c.dropout,
                };
                if c.dora {
                    lora.magnitude = Some(self.magnitude(&lora)?);
                }
                Site::Lora(lora)
            }
            AdapterConfig::Ia3(c) => {
                if self.module.table {
                    let problem = format!("{} is a table of embeddings, which IA³ does not take", self.module.name);
                    return Err(ModelError::config("ia3", problem));
                }
                if c.feedforward.iter().any(|p| targets(p, &self.module.name)) {
                    Site::ScaleInput(self.param("ia3_l", &[inputs], Start::Constant(1.0))?)
                } else {
                    Site::ScaleOutput(self.param("ia3_l", &[outputs], Start::Constant(1.0))?)
                }
            }
            AdapterConfig::Bottleneck(c) => {
                let width = c.width(outputs);
                let parallel = c.placement == BottleneckKind::Parallel;
                // Beside: as LoRA, so that it starts as nothing. After: close to
                // nothing, as in Houlsby et al.
                let (down, up) = if parallel {
                    (Start::Uniform(1.0 / (outputs.max(1) as f64).sqrt()), Start::Constant(0.0))
                } else {
                    (Start::CutNormal(0.01), Start::CutNormal(0.01))
                };
                let bottleneck = Bottleneck {
                    down: self.param("adapter_down.weight", &[width, outputs], down)?,
                    down_bias: self.param("adapter_down.bias", &[width], Start::Constant(0.0))?,
                    up: self.param("adapter_up.weight", &[outputs, width], up)?,
                    up_bias: self.param("adapter_up.bias", &[outputs], Start::Constant(0.0))?,
                    activation: c.activation.into(),
                    scale: c.scale,
                };
                if parallel { Site::Beside(bottleneck) } else { Site::After(bottleneck) }
            }
            AdapterConfig::Prefix(c) => Site::Prefix(self.param("prefix", &[c.tokens, outputs], Start::Normal(1.0))?),
            AdapterConfig::Prompt(c) => Site::Prompt(self.param("prompt", &[c.tokens, inputs], Start::Normal(1.0))?),
        })
    }

    /// DoRA's lengths start as those of the weight's rows.
    fn magnitude(&mut self, lora: &Lora) -> Result<ParamId> {
        let id = self.param("lora_magnitude_vector", &[self.module.outputs], Start::Constant(f64::NAN))?;
        if self.params.get(id).value.data().iter().all(|m| m.is_nan()) {
            let weight = &self.params.get(self.module.weight).value;
            let (a, b) = (&self.params.get(lora.a).value, &self.params.get(lora.b).value);
            let norms = row_norms(weight, a, b, lora.scaling);
            self.params.get_mut(id).value = norms;
        }
        Ok(id)
    }

    /// `….query.lora_A.NAME.weight` for the part `lora_A.weight`.
    fn param(&mut self, part: &str, dims: &[usize], start: Start) -> Result<ParamId> {
        let name = match part.split_once('.') {
            Some((head, tail)) => format!("{}.{head}.{}.{tail}", self.module.name, self.set),
            None => format!("{}.{part}.{}", self.module.name, self.set),
        };
        let value = (self.source)(self.module, part, dims, start, &name)?;
        Ok(self.params.insert(name, value)?)
    }
}

fn draw(dims: &[usize], start: Start, random: Random) -> Tensor {
    let mut value = Tensor::any(dims);
    for (i, x) in value.data_mut().iter_mut().enumerate() {
        let at = i as u64;
        *x = match start {
            Start::Constant(c) => c,
            Start::Uniform(bound) => (f64::from(random.uniform(at)) * 2.0 - 1.0) * bound,
            Start::Normal(std) => random.normal(at) * std,
            Start::CutNormal(std) => random.normal(at).clamp(-2.0, 2.0) * std,
        } as f32;
    }
    value
}
