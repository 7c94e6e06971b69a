//! The multimodal model: towers, fusion, head.

use crate::{
    Adapters, ColumnInput, Context, Features, Fusion, FusionConfig, Inputs, Linear, ModelError, Result, Tower,
    TowerConfig,
};
use sensorium_engine::{Builder, Params, Tensor, Var, Weights};
use serde::{Deserialize, Serialize};
use std::borrow::Cow;

/// One column and its tower.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ColumnTower {
    /// The column's name.
    pub name: String,
    /// Its tower.
    pub tower: TowerConfig,
}

/// Everything needed to build a model anew: the `config.json` of a saved one.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelConfig {
    /// The columns in their order.
    pub columns: Vec<ColumnTower>,
    /// How they are fused.
    pub fusion: FusionConfig,
    /// Numbers that the head gives per sample: classes, labels, thresholds
    /// or 1 for regression.
    pub outputs: usize,
}

/// What a forward pass gives.
pub struct Output {
    /// `[samples, outputs]`
    pub logits: Var,
    /// The fused vectors `[samples, dim]`.
    pub vectors: Var,
    /// The weight of each column `[samples, columns]`, from `weighted` fusion.
    pub gates: Option<Tensor>,
}

/// Towers, fusion and head over named columns.
#[derive(Debug, Clone)]
pub struct MultimodalModel {
    config: ModelConfig,
    towers: Vec<Tower>,
    scopes: Vec<String>,
    fusion: Fusion,
    head: Linear,
    adapters: Adapters,
}

impl MultimodalModel {
    /// Builds the model and its parameters: `towers.{column}`, `fusion`, `head`.
    ///
    /// # Errors
    /// When the configuration makes no sense.
    pub fn new(config: &ModelConfig, seed: u64) -> Result<(Self, Params)> {
        let mut params = Params::new();
        let model = Self::build(config, Builder::new(&mut params, seed))?;
        Ok((model, params))
    }

    /// Builds a saved model from its weights; every name and shape is checked
    /// before memory is spent on it.
    ///
    /// # Errors
    /// When the configuration makes no sense or the weights are not its own.
    pub fn load(config: &ModelConfig, weights: &dyn Weights) -> Result<(Self, Params)> {
        let mut params = Params::new();
        let model = Self::build(config, Builder::loading(&mut params, weights))?;
        Ok((model, params))
    }

    fn build(config: &ModelConfig, mut b: Builder<'_>) -> Result<Self> {
        if config.columns.is_empty() || config.outputs == 0 {
            return Err(ModelError::config("model", "needs at least one column and one output"));
        }
        let mut names = std::collections::HashSet::new();
        let mut towers = Vec::with_capacity(config.columns.len());
        let mut scopes = Vec::with_capacity(config.columns.len());
        for (i, c) in config.columns.iter().enumerate() {
            let mut name = part_name(&c.name);
            if !names.insert(name.clone()) {
                name = format!("{name}-{i}");
                names.insert(name.clone());
            }
            let scope = format!("towers.{name}");
            towers.push(Tower::new(&mut b.scope(&scope), &c.tower)?);
            scopes.push(scope);
        }
        let dims: Vec<usize> = config.columns.iter().map(|c| c.tower.dim()).collect();
        let fusion = Fusion::new(&mut b.scope("fusion"), &config.fusion, &dims)?;
        let head = Linear::new(&mut b.scope("head"), config.fusion.dim, config.outputs, true)?;
        Ok(Self { config: config.clone(), towers, scopes, fusion, head, adapters: Adapters::default() })
    }

    /// The configuration it was built from.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// Its adapters.
    pub fn adapters(&self) -> &Adapters {
        &self.adapters
    }

    /// Its adapters, to attach and switch them.
    pub fn adapters_mut(&mut self) -> &mut Adapters {
        &mut self.adapters
    }

    /// What the names of a column's tower's parameters begin with.
    pub fn tower_scope(&self, column: usize) -> &str {
        &self.scopes[column]
    }

    /// Z = M(X): the features of each column.
    ///
    /// # Errors
    /// When the inputs are not those of the model.
    pub fn features(&self, cx: &Context<'_>, inputs: &Inputs) -> Result<Vec<Features>> {
        if inputs.columns.len() != self.towers.len() {
            return Err(ModelError::config(
                "model",
                format!("takes {} columns, the batch has {}", self.towers.len(), inputs.columns.len()),
            ));
        }
        inputs.columns.iter().enumerate().map(|(column, input)| self.column_features(cx, column, input)).collect()
    }

    /// The features of one column. A tower of which nothing is trained runs as
    /// in inference: dropout has nothing to regularise there.
    ///
    /// # Errors
    /// When the input is not what the column's tower takes.
    pub fn column_features(&self, cx: &Context<'_>, column: usize, input: &ColumnInput) -> Result<Features> {
        let still;
        let cx = if cx.is_training() && self.is_frozen(cx.params, column) {
            still = Context::inference(cx.tape, cx.params);
            &still.with_adapters(&self.adapters)
        } else {
            &cx.with_adapters(&self.adapters)
        };
        self.towers[column].forward(cx, input).map_err(|e| match e {
            ModelError::Input { expected, got, .. } => {
                ModelError::Input { column: self.config.columns[column].name.clone(), expected, got }
            }
            other => other,
        })
    }

    /// Whether no parameter of a column's tower, adapters included, is
    /// trainable.
    pub fn is_frozen(&self, params: &Params, column: usize) -> bool {
        let scope = &self.scopes[column];
        let of_tower = |name: &str| name.strip_prefix(scope.as_str()).is_some_and(|rest| rest.starts_with('.'));
        params.iter().all(|(_, p)| !p.trainable || !of_tower(&p.name))
    }

    /// Tokens that the towers make of a batch, patches and frames included: a
    /// measure of the work.
    pub fn tokens(&self, inputs: &Inputs) -> usize {
        let columns = inputs.columns.iter().zip(&self.config.columns);
        columns.map(|(column, named)| named.tower.tokens(column.offsets().total())).sum()
    }

    /// Inputs to logits; in training, modalities are dropped as configured.
    ///
    /// # Errors
    /// When the inputs are not those of the model.
    pub fn forward(&self, cx: &Context<'_>, inputs: &Inputs) -> Result<Output> {
        let features = self.features(cx, &self.kept_inputs(cx, inputs))?;
        self.fuse(cx, &features, inputs.samples)
    }

    /// The inputs; in training, those of the modalities that modality dropout
    /// keeps.
    pub fn kept_inputs<'i>(&self, cx: &Context<'_>, inputs: &'i Inputs) -> Cow<'i, Inputs> {
        let probability = self.config.fusion.modality_dropout;
        match cx.next_random() {
            Some(random) if probability > 0.0 => Cow::Owned(inputs.drop_modalities(probability, random)),
            _ => Cow::Borrowed(inputs),
        }
    }

    /// Features to logits: fusion and head alone.
    ///
    /// # Errors
    /// When the features are not those of the model's columns.
    pub fn fuse(&self, cx: &Context<'_>, features: &[Features], samples: usize) -> Result<Output> {
        let fused = self.fusion.forward(&cx.with_adapters(&self.adapters), features, samples)?;
        let logits = self.head(cx, &fused.vectors)?;
        Ok(Output { logits, vectors: fused.vectors, gates: fused.gates })
    }

    /// Fused vectors `[samples, dim]` to logits `[samples, outputs]`: the head
    /// alone.
    ///
    /// # Errors
    /// When the vectors are not as wide as the model's.
    pub fn head(&self, cx: &Context<'_>, vectors: &Var) -> Result<Var> {
        self.head.forward(&cx.with_adapters(&self.adapters), vectors)
    }
}

/// A column's name as a part of parameters' names: no dots, no blanks.
fn part_name(column: &str) -> String {
    column.chars().map(|c| if c.is_alphanumeric() || c == '-' { c } else { '_' }).collect()
}
