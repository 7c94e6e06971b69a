//! The multimodal model: towers, fusion, head.

use crate::{
    Adapters, ColumnInput, Context, Features, Fusion, FusionConfig, Inputs, Linear, ModelError, Result, Tower,
    TowerConfig,
};
use sensorium_engine::{Builder, Offsets, Params, Tensor, Var, Weights};
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

/// How much of a tower is frozen, from below.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Frozen {
    /// The lowest part is trained.
    Nothing,
    /// What is below the Transformer, and its first layers.
    Layers(usize),
    /// Everything.
    All,
}

/// Parts of a tower behind its Transformer.
const ABOVE: [&str; 5] = ["encoder.norm.", "pooler.", "projection.", "pooled_norm.", "attention_pool."];

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
    gradient_checkpointing: bool,
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
        Ok(Self {
            config: config.clone(),
            towers,
            scopes,
            fusion,
            head,
            adapters: Adapters::default(),
            gradient_checkpointing: false,
        })
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

    /// The tower of a column.
    pub fn tower(&self, column: usize) -> &Tower {
        &self.towers[column]
    }

    /// Whether training keeps of every block only its input.
    pub fn gradient_checkpointing(&self) -> bool {
        self.gradient_checkpointing
    }

    /// Says whether training keeps of every block only its input, and computes
    /// the rest once more in backward: less memory, more time, the same
    /// gradients (see [`Context::checkpointing`]).
    pub fn set_gradient_checkpointing(&mut self, on: bool) {
        self.gradient_checkpointing = on;
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

    /// The features of one column. What is frozen of a tower, from below, runs
    /// as in inference: dropout has nothing to regularise there.
    ///
    /// # Errors
    /// When the input is not what the column's tower takes.
    pub fn column_features(&self, cx: &Context<'_>, column: usize, input: &ColumnInput) -> Result<Features> {
        let training = &cx.with_adapters(&self.adapters);
        let still = Context::inference(cx.tape, cx.params);
        let still = &still.with_adapters(&self.adapters);
        let tower = &self.towers[column];
        let features = match self.frozen(cx.params, column) {
            _ if !cx.is_training() => tower.forward(training, input),
            Frozen::Nothing => tower.forward(training, input),
            Frozen::All => tower.forward(still, input),
            Frozen::Layers(n) => tower.lower(still, input, n).and_then(|below| tower.upper(training, below, n, input)),
        };
        features.map_err(|e| self.named(e, column))
    }

    /// The hidden states of a column after the first `layers` layers of its
    /// tower, as in inference.
    ///
    /// # Errors
    /// When the input is not what the column's tower takes.
    pub fn column_lower(
        &self,
        cx: &Context<'_>,
        column: usize,
        input: &ColumnInput,
        layers: usize,
    ) -> Result<(Var, Offsets)> {
        let below = self.towers[column].lower(&cx.with_adapters(&self.adapters), input, layers);
        below.map_err(|e| self.named(e, column))
    }

    /// The features of a column from its hidden states after the first
    /// `layers` layers of its tower.
    ///
    /// # Errors
    /// When the tower cannot be cut there.
    pub fn column_upper(
        &self,
        cx: &Context<'_>,
        column: usize,
        below: (Var, Offsets),
        layers: usize,
        input: &ColumnInput,
    ) -> Result<Features> {
        self.towers[column].upper(&cx.with_adapters(&self.adapters), below, layers, input)
    }

    fn named(&self, error: ModelError, column: usize) -> ModelError {
        match error {
            ModelError::Input { expected, got, .. } => {
                ModelError::Input { column: self.config.columns[column].name.clone(), expected, got }
            }
            other => other,
        }
    }

    /// How much of a column's tower is frozen, from below: no parameter there,
    /// adapters included, is trainable.
    pub fn frozen(&self, params: &Params, column: usize) -> Frozen {
        let layers = self.towers[column].layers();
        let trained = params.iter().filter(|(_, p)| p.trainable).filter_map(|(_, p)| {
            let name = p.name.strip_prefix(self.scopes[column].as_str())?.strip_prefix('.')?;
            // The layer from which on something is trained; what stands behind
            // the Transformer is above all of them.
            Some(match (name.strip_prefix("encoder.layer."), layers) {
                (Some(rest), Some(_)) => rest.split('.').next().and_then(|i| i.parse().ok()).unwrap_or(0),
                (None, Some(n)) if ABOVE.iter().any(|part| name.starts_with(part)) => n,
                _ => 0,
            })
        });
        match trained.min() {
            None => Frozen::All,
            Some(0) => Frozen::Nothing,
            Some(n) => Frozen::Layers(n),
        }
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
