//! Columns that meet in one space, so that what belongs together lies close:
//! a picture, its caption, the sound of its name.
//!
//! Each column has its tower and, in front of the space, a projection without
//! a bias; vectors have length 1. What is trained is a contrastive loss between
//! pairs of columns, summed over the pairs (CLIP's, Radford et al. 2021;
//! SigLIP's, Zhai et al. 2023; VSE++'s, Faghri et al. 2018).

use crate::{ColumnInput, ColumnTower, Context, Features, Inputs, Linear, ModelError, Result, Towers};
use sensorium_engine::{Activation, Builder, EngineError, Init, ParamId, Params, Tensor, Var, Weights, ops};
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::ops::{Deref, DerefMut};

/// The largest scale of the similarities, CLIP's: e^4.6052 = 100.
const MAX_LOGIT_SCALE: f32 = 4.605_170_2;

/// Which loss pulls pairs together and pushes all else apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Contrastive {
    /// InfoNCE in both directions with a learned scale, as in CLIP.
    #[default]
    InfoNce,
    /// Every pair judged by itself, with a learned scale and bias, as in SigLIP.
    Sigmoid,
    /// The hardest negative of the batch must be less similar by a margin, as
    /// in VSE++.
    HardestNegative,
}

/// Settings of a model whose columns meet in one space.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JointConfig {
    /// The columns in their order.
    pub columns: Vec<ColumnTower>,
    /// Numbers per vector.
    pub dim: usize,
    /// Whether each column has a projection into the space; without, its
    /// tower's vectors are `dim` wide already (a pretrained pair).
    pub projection: bool,
    /// The columns that are compared, by their numbers.
    pub pairs: Vec<[usize; 2]>,
    /// The loss.
    pub loss: Contrastive,
    /// The margin of `hardest_negative`.
    pub margin: f64,
}

/// Vectors of one column of a batch.
#[derive(Debug, Clone)]
pub struct Embedded {
    /// One of length 1 for each segment: `[segments, dim]`.
    pub vectors: Var,
    /// The sample of each segment, ascending: `[segments]`.
    pub sample_of: Vec<u32>,
}

/// The loss of a batch.
#[derive(Debug)]
pub struct JointLoss {
    /// The sum over the pairs of columns: one number.
    pub loss: Var,
    /// The loss of each pair of columns that some sample has, and how many do.
    pub parts: Vec<(String, f64, usize)>,
}

/// Towers, projections and the scale of similarities. What it does with its
/// towers alone is in [`Towers`].
#[derive(Debug, Clone)]
pub struct JointModel {
    config: JointConfig,
    towers: Towers,
    /// One for each column that is compared.
    projections: Vec<Option<Linear>>,
    logit_scale: ParamId,
    logit_bias: Option<ParamId>,
}

impl Deref for JointModel {
    type Target = Towers;

    fn deref(&self) -> &Towers {
        &self.towers
    }
}

impl DerefMut for JointModel {
    fn deref_mut(&mut self) -> &mut Towers {
        &mut self.towers
    }
}

impl JointModel {
    /// Builds the model and its parameters: `towers.{column}`,
    /// `projections.{column}`, `logit_scale` and, for `sigmoid`, `logit_bias`.
    ///
    /// # Errors
    /// When the configuration makes no sense.
    pub fn new(config: &JointConfig, seed: u64) -> Result<(Self, Params)> {
        let mut params = Params::new();
        let model = Self::within(&mut Builder::new(&mut params, seed), config)?;
        Ok((model, params))
    }

    /// Builds a saved model from its weights; every name and shape is checked
    /// before memory is spent on it.
    ///
    /// # Errors
    /// When the configuration makes no sense or the weights are not its own.
    pub fn load(config: &JointConfig, weights: &dyn Weights) -> Result<(Self, Params)> {
        let mut params = Params::new();
        let model = Self::within(&mut Builder::loading(&mut params, weights), config)?;
        Ok((model, params))
    }

    /// As [`JointModel::new`] among the parameters of something larger. A
    /// column that is in no pair has a tower, but no projection.
    ///
    /// # Errors
    /// When the configuration makes no sense.
    pub fn within(b: &mut Builder<'_>, config: &JointConfig) -> Result<Self> {
        let wrong = |problem: String| Err(ModelError::config("joint model", problem));
        let columns = config.columns.len();
        if config.pairs.is_empty() {
            return wrong("there is no pair of columns to compare".into());
        }
        if let Some([a, b]) = config.pairs.iter().find(|[a, b]| a == b || *a.max(b) >= columns) {
            return wrong(format!("columns {a} and {b} are no pair among {columns} columns"));
        }
        if config.dim == 0 || !(config.margin.is_finite() && config.margin > 0.0) {
            return wrong(format!("dim {} and margin {} must be above 0", config.dim, config.margin));
        }
        let towers = Towers::new(b, &config.columns)?;
        let mut projections = Vec::new();
        for (i, column) in config.columns.iter().enumerate() {
            let width = column.tower.dim();
            if !config.pairs.iter().flatten().any(|c| *c == i) {
                projections.push(None);
            } else if config.projection {
                let name = towers.tower_scope(i).trim_start_matches("towers.");
                let mut b = b.scope(format!("projections.{name}"));
                projections.push(Some(Linear::new(&mut b, width, config.dim, false)?));
            } else if width != config.dim {
                return wrong(format!(
                    "the tower of {} makes {width} numbers, the space has {}, and nothing projects",
                    column.name, config.dim
                ));
            } else {
                projections.push(None);
            }
        }
        // CLIP begins at a temperature of 0.07, SigLIP at 0.1 and a bias of -10.
        let sigmoid = config.loss == Contrastive::Sigmoid;
        let start = if sigmoid { 10_f64.ln() } else { (1.0 / 0.07_f64).ln() };
        let logit_scale = b.param("logit_scale", &[1], Init::Constant(start))?;
        let logit_bias = if sigmoid { Some(b.param("logit_bias", &[1], Init::Constant(-10.0))?) } else { None };
        Ok(Self { config: config.clone(), towers, projections, logit_scale, logit_bias })
    }

    /// The configuration it was built from.
    pub fn config(&self) -> &JointConfig {
        &self.config
    }

    /// Whether a column is in some pair.
    pub fn compares(&self, column: usize) -> bool {
        self.config.pairs.iter().flatten().any(|c| *c == column)
    }

    /// The vectors of a column that no sample has, or that is in no pair.
    pub fn nothing(&self) -> Embedded {
        Embedded { vectors: Var::constant(Tensor::zeros(&[0, self.config.dim])), sample_of: Vec::new() }
    }

    /// The learned scale of the cosines and, for `sigmoid`, the bias.
    pub fn similarity(&self, params: &Params) -> (f32, Option<f32>) {
        let number = |id| params.get(id).value.data()[0];
        (number(self.logit_scale).exp(), self.logit_bias.map(number))
    }

    /// Sets the scale of the cosines, as its logarithm, and the bias where the
    /// model has one: those of the checkpoint that the towers come from.
    pub fn set_similarity(&self, params: &mut Params, logit_scale: f32, logit_bias: Option<f32>) {
        params.get_mut(self.logit_scale).value = Tensor::full(&[1], logit_scale);
        if let (Some(id), Some(bias)) = (self.logit_bias, logit_bias) {
            params.get_mut(id).value = Tensor::full(&[1], bias);
        }
    }

    /// Freezes the scale where the loss does not use it, as it has no gradient
    /// then.
    pub fn freeze_unused(&self, params: &mut Params) {
        if self.config.loss == Contrastive::HardestNegative {
            params.get_mut(self.logit_scale).trainable = false;
        }
    }

    /// Keeps the scale from 1 to 100, as CLIP does after each step.
    pub fn clamp_scale(&self, params: &mut Params) {
        let scale = params.get(self.logit_scale).value.data()[0];
        let clamped = scale.clamp(0.0, MAX_LOGIT_SCALE);
        if clamped != scale {
            params.get_mut(self.logit_scale).value = Tensor::full(&[1], clamped);
        }
    }

    /// The vectors of a column from its features.
    ///
    /// # Errors
    /// When the features are not as wide as the column's.
    pub fn project(&self, cx: &Context<'_>, column: usize, features: &Features) -> Result<Embedded> {
        let mut x = features.pooled.clone();
        if let Some(Some(projection)) = self.projections.get(column) {
            x = projection.forward(&cx.with_adapters(self.towers.adapters()), &x)?;
        }
        let vectors = ops::normalize(cx.tape, &x, 1e-12)?;
        Ok(Embedded { vectors, sample_of: features.sample_of.clone() })
    }

    /// The vectors of a column.
    ///
    /// With `sub_batch` above 0 and in training, so many segments go through
    /// the tower at a time, of which nothing is kept but their vectors;
    /// backward runs each part once more (gradient caching, Gao et al. 2021).
    /// Memory is that of a sub-batch, the loss that of the whole batch.
    ///
    /// # Errors
    /// When the input is not what the column's tower takes.
    pub fn embed(&self, cx: &Context<'_>, column: usize, input: &ColumnInput, sub_batch: usize) -> Result<Embedded> {
        let segments = input.sample_of().len();
        if sub_batch == 0 || segments <= sub_batch || !cx.tape.is_recording() {
            return self.project(cx, column, &self.towers.column_features(cx, column, input)?);
        }
        let again = cx.with_adapters(self.towers.adapters()).checkpointing(true);
        let mut parts = Vec::new();
        for first in (0..segments).step_by(sub_batch) {
            let of: Vec<usize> = (first..(first + sub_batch).min(segments)).collect();
            let (model, input) = (self.clone(), input.select(&of));
            let replay = again.replay().ok_or_else(|| ModelError::config("gradient caching", "nothing is recorded"))?;
            let run = move |tape: &sensorium_engine::Tape, _: &[Var]| {
                let vectors = replay.run(tape, |cx| model.embed(cx, column, &input, 0)).map_err(|e| match e {
                    ModelError::Engine(e) => e,
                    other => EngineError::setting("embed", other.to_string()),
                })?;
                Ok(vectors.vectors)
            };
            parts.push(ops::recompute(cx.tape, &[], run)?);
        }
        let vectors = ops::concat_rows(cx.tape, &parts.iter().collect::<Vec<_>>())?;
        Ok(Embedded { vectors, sample_of: input.sample_of().to_vec() })
    }

    /// The loss of a batch, from the vectors of its columns; of a sample's
    /// segments the first counts (see [`Inputs::one_of_each`]).
    ///
    /// `contents` `[columns][samples]` tells equal contents by equal numbers:
    /// samples with the same picture, or the same caption, are no negatives of
    /// each other.
    ///
    /// # Errors
    /// Those of the engine.
    pub fn loss(&self, cx: &Context<'_>, embedded: &[Embedded], contents: &[Vec<u64>]) -> Result<JointLoss> {
        let mut total: Option<Var> = None;
        let mut parts = Vec::new();
        for &[a, b] in &self.config.pairs {
            let (first, second) = (firsts(&embedded[a]), firsts(&embedded[b]));
            let samples: Vec<u32> = first.keys().filter(|s| second.contains_key(s)).copied().collect();
            if samples.is_empty() {
                continue;
            }
            let rows = |of: &std::collections::BTreeMap<u32, u32>| samples.iter().map(|s| of[s]).collect::<Vec<u32>>();
            let x = ops::gather_rows(cx.tape, &embedded[a].vectors, &rows(&first))?;
            let y = ops::gather_rows(cx.tape, &embedded[b].vectors, &rows(&second))?;
            let same = same_contents(&samples, [&contents[a], &contents[b]]);
            let part = self.pair_loss(cx, &x, &y, &same)?;
            let name = format!("{} ↔ {}", self.config.columns[a].name, self.config.columns[b].name);
            parts.push((name, f64::from(part.value().scalar()?), samples.len()));
            total = Some(match total {
                None => part,
                Some(sum) => ops::add(cx.tape, &sum, &part)?,
            });
        }
        let loss = total.unwrap_or_else(|| Var::constant(Tensor::zeros(&[1])));
        Ok(JointLoss { loss, parts })
    }

    fn pair_loss(&self, cx: &Context<'_>, x: &Var, y: &Var, same: &[Vec<u32>]) -> Result<Var> {
        let scale = cx.param(self.logit_scale);
        Ok(match (self.config.loss, self.logit_bias) {
            (Contrastive::HardestNegative, _) => hardest_negative(cx, x, y, same, self.config.margin)?,
            (Contrastive::Sigmoid, Some(bias)) => ops::pairwise_sigmoid(cx.tape, x, y, &scale, &cx.param(bias), same)?,
            _ => ops::info_nce(cx.tape, x, y, &scale, same)?,
        })
    }
}

/// The row of the first segment of each sample.
fn firsts(embedded: &Embedded) -> std::collections::BTreeMap<u32, u32> {
    let mut firsts = std::collections::BTreeMap::new();
    for (row, sample) in embedded.sample_of.iter().enumerate() {
        firsts.entry(*sample).or_insert(row as u32);
    }
    firsts
}

/// For each of `samples` the places of the others with the same content in one
/// of two columns: no negatives of each other.
pub fn same_contents(samples: &[u32], contents: [&Vec<u64>; 2]) -> Vec<Vec<u32>> {
    let mut same = vec![Vec::new(); samples.len()];
    for of in contents {
        let mut places: HashMap<u64, Vec<u32>> = HashMap::new();
        for (place, sample) in samples.iter().enumerate() {
            places.entry(of[*sample as usize]).or_default().push(place as u32);
        }
        for group in places.values().filter(|g| g.len() > 1) {
            for i in group {
                same[*i as usize].extend(group.iter().filter(|j| *j != i));
            }
        }
    }
    for list in &mut same {
        list.sort_unstable();
        list.dedup();
    }
    same
}

/// `1/2n Σᵢ max(0, m + xᵢ·yⱼ − xᵢ·yᵢ) + max(0, m + xₖ·yᵢ − xᵢ·yᵢ)`, j and k being
/// the hardest negatives in the batch: `[1]`. A sample without a negative
/// counts with 0.
fn hardest_negative(cx: &Context<'_>, x: &Var, y: &Var, same: &[Vec<u32>], margin: f64) -> Result<Var> {
    let (n, dim, tape) = (x.rows(), x.cols(), cx.tape);
    let cosines = ops::linear(&sensorium_engine::Tape::inference(), x, y, None, Activation::Identity)?;
    let cosine = |i: usize, j: usize| cosines.data()[i * n + j];
    let ones = Var::constant(Tensor::full(&[1, dim], 1.0));
    let dot = |a: &Var, b: &Var| ops::linear(tape, &ops::mul(tape, a, b)?, &ones, None, Activation::Identity);
    let mut sum: Option<Var> = None;
    for forward in [true, false] {
        let hardest: Vec<Option<usize>> = (0..n)
            .map(|i| {
                let others = (0..n).filter(|j| *j != i && same[i].binary_search(&(*j as u32)).is_err());
                let of = |j: usize| if forward { cosine(i, j) } else { cosine(j, i) };
                others.max_by(|a, b| of(*a).total_cmp(&of(*b)).then(b.cmp(a)))
            })
            .collect();
        let own: Vec<u32> = (0..n).filter(|i| hardest[*i].is_some()).map(|i| i as u32).collect();
        if own.is_empty() {
            continue;
        }
        let negatives: Vec<u32> = hardest.iter().flatten().map(|j| *j as u32).collect();
        let (xs, ys) = (ops::gather_rows(tape, x, &own)?, ops::gather_rows(tape, y, &own)?);
        let wrong = if forward {
            dot(&xs, &ops::gather_rows(tape, y, &negatives)?)?
        } else {
            dot(&ops::gather_rows(tape, x, &negatives)?, &ys)?
        };
        let gap = ops::sub(tape, &wrong, &dot(&xs, &ys)?)?;
        let shifted = ops::add(tape, &gap, &Var::constant(Tensor::full(&[own.len(), 1], margin as f32)))?;
        let part = ops::sum(tape, &ops::activate(tape, &shifted, Activation::Relu)?)?;
        sum = Some(match sum {
            None => part,
            Some(other) => ops::add(tape, &other, &part)?,
        });
    }
    match sum {
        Some(sum) => Ok(ops::scale(tape, &sum, 1.0 / (2 * n) as f64)?),
        None => Ok(Var::constant(Tensor::zeros(&[1]))),
    }
}

impl JointModel {
    /// The vectors of all columns, see [`JointModel::embed`].
    ///
    /// # Errors
    /// When the inputs are not those of the model.
    pub fn embed_all(&self, cx: &Context<'_>, inputs: &Inputs, sub_batch: usize) -> Result<Vec<Embedded>> {
        let columns = inputs.columns.iter().enumerate();
        columns.map(|(column, input)| self.embed(cx, column, input, sub_batch)).collect()
    }
}

#[cfg(test)]
#[path = "joint_tests.rs"]
mod tests;
