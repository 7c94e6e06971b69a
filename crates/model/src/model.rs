//! The multimodal model: towers, fusion, head.

use crate::{ColumnTower, Context, Features, Fusion, FusionConfig, Inputs, Linear, ModelError, Result, Towers};
use sensorium_engine::{Builder, Params, Tensor, Var, Weights};
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::ops::{Deref, DerefMut};

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

/// Towers, fusion and head over named columns. What it does with its towers
/// alone is in [`Towers`].
#[derive(Debug, Clone)]
pub struct MultimodalModel {
    config: ModelConfig,
    towers: Towers,
    fusion: Fusion,
    head: Linear,
}

impl Deref for MultimodalModel {
    type Target = Towers;

    fn deref(&self) -> &Towers {
        &self.towers
    }
}

impl DerefMut for MultimodalModel {
    fn deref_mut(&mut self) -> &mut Towers {
        &mut self.towers
    }
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
        if config.outputs == 0 {
            return Err(ModelError::config("model", "needs at least one output"));
        }
        let towers = Towers::new(&mut b, &config.columns)?;
        let dims: Vec<usize> = config.columns.iter().map(|c| c.tower.dim()).collect();
        let fusion = Fusion::new(&mut b.scope("fusion"), &config.fusion, &dims)?;
        let head = Linear::new(&mut b.scope("head"), config.fusion.dim, config.outputs, true)?;
        Ok(Self { config: config.clone(), towers, fusion, head })
    }

    /// The configuration it was built from.
    pub fn config(&self) -> &ModelConfig {
        &self.config
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
        let fused = self.fusion.forward(&cx.with_adapters(self.adapters()), features, samples)?;
        let logits = self.head(cx, &fused.vectors)?;
        Ok(Output { logits, vectors: fused.vectors, gates: fused.gates })
    }

    /// Fused vectors `[samples, dim]` to logits `[samples, outputs]`: the head
    /// alone.
    ///
    /// # Errors
    /// When the vectors are not as wide as the model's.
    pub fn head(&self, cx: &Context<'_>, vectors: &Var) -> Result<Var> {
        self.head.forward(&cx.with_adapters(self.adapters()), vectors)
    }
}
