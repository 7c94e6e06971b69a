//! The `[train]` section of a configuration.

use crate::error::{Result, TrainError};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// How to train. Every field has a default; 0 switches an option off where it says so.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TrainConfig {
    /// The update rule: `adamw`, `adam` or `sgd`.
    pub optimizer: OptimizerKind,
    /// The highest learning rate, reached after the warm-up.
    pub lr: f64,
    /// Passes over the training data; 0: `sensorium fit` chooses by the number of rows, with
    /// a patience to match. May grow when a run is resumed; from there on the
    /// schedule is that of the longer run.
    pub epochs: u64,
    /// Samples in a batch.
    pub batch_size: usize,
    /// Tokens (patches, frames) in a batch at most; 0: no such limit.
    pub token_budget: usize,
    /// The seed of everything random: starting weights, order, dropout, augmentation.
    pub seed: u64,
    /// Decoupled weight decay for `adamw`, an L2 penalty for `adam` and `sgd`.
    /// Biases, norms, position embeddings and special tokens are never decayed.
    pub weight_decay: f64,
    /// Momentum of `sgd`.
    pub momentum: f64,
    /// Decay rates of the first and second moment of `adamw` and `adam`.
    pub betas: [f64; 2],
    /// The term that keeps `adamw` and `adam` from dividing by zero.
    pub eps: f64,
    /// What the learning rate does after the warm-up: `constant`, `linear` or `cosine` decay.
    pub schedule: ScheduleKind,
    /// The warm-up: below 1 a fraction of all steps, from 1 on a number of steps; 0: none.
    pub warmup: f64,
    /// Where `linear` and `cosine` end, as a fraction of `lr`.
    pub min_lr_ratio: f64,
    /// Batches whose gradients are averaged into one step.
    pub grad_accumulation: usize,
    /// The largest global norm of the gradients, longer ones are scaled down; 0: no clipping.
    pub clip_norm: f64,
    /// Whether each validation is shown as a whole report, for classes with precision, recall
    /// and F1 of each, not only in one line.
    pub report_every_epoch: bool,
    /// When to stop before the last epoch, and by what the best weights are chosen.
    pub early_stopping: EarlyStopping,
    /// Each layer of a tower learns at this multiple of the rate of the layer above it,
    /// the embeddings below the first layer likewise; 1: all the same.
    pub layer_decay: f64,
    /// Multiples of the learning rate by parameter name pattern, as `"towers.caption.*" = 0.1`.
    /// Where several patterns match, all of them multiply.
    pub lr_scale: BTreeMap<String, f64>,
    /// Patterns of parameters that stay as they are.
    pub freeze: Vec<String>,
    /// Whether blocks keep only their inputs for backward and are computed once more there:
    /// the same gradients to the bit, with less memory, in more time.
    pub gradient_checkpointing: bool,
    /// Decay of the exponential moving average of the weights, which then is what is
    /// validated and kept; 0: none.
    pub ema: f64,
    /// How often a checkpoint is written besides the one at the end.
    pub checkpoint_every: CheckpointEvery,
    /// Checkpoints kept; one more than needed, should the newest be damaged.
    pub keep_checkpoints: usize,
}

/// The update rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OptimizerKind {
    /// Adam with decoupled weight decay (Loshchilov and Hutter 2019).
    AdamW,
    /// Adam with an L2 penalty (Kingma and Ba 2015).
    Adam,
    /// Stochastic gradient descent with momentum and an L2 penalty.
    Sgd,
}

/// What the learning rate does after the warm-up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ScheduleKind {
    /// Stays.
    Constant,
    /// Falls on a straight line.
    Linear,
    /// Falls along half a cosine.
    Cosine,
}

/// When to stop before the last epoch.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct EarlyStopping {
    /// The validation metric to watch. Losses and errors are better lower, all else higher.
    pub metric: String,
    /// Epochs without a gain after which training stops; 0: never.
    pub patience: u32,
    /// How much better the metric must become to count as a gain.
    pub min_gain: f64,
}

/// How often a checkpoint is written. It is written after whichever comes first.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CheckpointEvery {
    /// Seconds since the last one; 0: not by time.
    pub seconds: f64,
    /// Steps since the last one; 0: not by steps.
    pub steps: u64,
    /// Epochs since the last one; 0: not by epochs.
    pub epochs: u64,
}

impl Default for TrainConfig {
    fn default() -> Self {
        Self {
            optimizer: OptimizerKind::AdamW,
            lr: 5e-4,
            epochs: 10,
            batch_size: 32,
            token_budget: 0,
            seed: 0,
            weight_decay: 0.01,
            momentum: 0.9,
            betas: [0.9, 0.999],
            eps: 1e-8,
            schedule: ScheduleKind::Cosine,
            warmup: 0.1,
            min_lr_ratio: 0.0,
            grad_accumulation: 1,
            clip_norm: 1.0,
            report_every_epoch: false,
            early_stopping: EarlyStopping::default(),
            layer_decay: 1.0,
            lr_scale: BTreeMap::new(),
            freeze: Vec::new(),
            gradient_checkpointing: false,
            ema: 0.0,
            checkpoint_every: CheckpointEvery::default(),
            keep_checkpoints: 2,
        }
    }
}

impl Default for EarlyStopping {
    fn default() -> Self {
        Self { metric: "loss".into(), patience: 0, min_gain: 0.0 }
    }
}

impl Default for CheckpointEvery {
    fn default() -> Self {
        Self { seconds: 300.0, steps: 0, epochs: 1 }
    }
}

/// The keys that may differ between a checkpoint and the run that resumes it: they
/// decide when to stop and what to write, not what the weights become.
pub(crate) const MAY_CHANGE: [&str; 6] = [
    "epochs",
    "report_every_epoch",
    "early_stopping.patience",
    "early_stopping.min_gain",
    "checkpoint_every",
    "keep_checkpoints",
];

impl TrainConfig {
    /// Checks that every setting is in range.
    ///
    /// # Errors
    /// The first one that is not, with what was expected.
    pub fn validate(&self) -> Result<()> {
        let need = |holds: bool, key: &str, value: &dyn std::fmt::Display, expected: &str| {
            if holds { Ok(()) } else { Err(TrainError::config(key, format!("{value} is not {expected}"))) }
        };
        let positive = |key: &str, x: f64| need(x.is_finite() && x > 0.0, key, &x, "a number above 0");
        let not_negative = |key: &str, x: f64| need(x.is_finite() && x >= 0.0, key, &x, "a number from 0 up");
        let below_one = |key: &str, x: f64| need((0.0..1.0).contains(&x), key, &x, "from 0 up and below 1");
        positive("lr", self.lr)?;
        need(self.epochs > 0, "epochs", &self.epochs, "at least 1")?;
        need(self.batch_size > 0, "batch_size", &self.batch_size, "at least 1")?;
        not_negative("weight_decay", self.weight_decay)?;
        below_one("momentum", self.momentum)?;
        below_one("betas", self.betas[0])?;
        below_one("betas", self.betas[1])?;
        positive("eps", self.eps)?;
        not_negative("warmup", self.warmup)?;
        let whole = self.warmup < 1.0 || self.warmup.fract() == 0.0;
        need(whole, "warmup", &self.warmup, "a fraction below 1 or a whole number of steps")?;
        need((0.0..=1.0).contains(&self.min_lr_ratio), "min_lr_ratio", &self.min_lr_ratio, "from 0 to 1")?;
        need(self.grad_accumulation > 0, "grad_accumulation", &self.grad_accumulation, "at least 1")?;
        not_negative("clip_norm", self.clip_norm)?;
        let metric = &self.early_stopping.metric;
        need(!metric.is_empty(), "early_stopping.metric", metric, "the name of a metric, such as \"loss\"")?;
        not_negative("early_stopping.min_gain", self.early_stopping.min_gain)?;
        let decay = self.layer_decay;
        need(decay > 0.0 && decay <= 1.0, "layer_decay", &decay, "above 0 and at most 1")?;
        for (pattern, scale) in &self.lr_scale {
            not_negative(&format!("lr_scale.\"{pattern}\""), *scale)?;
        }
        below_one("ema", self.ema)?;
        not_negative("checkpoint_every.seconds", self.checkpoint_every.seconds)?;
        need(self.keep_checkpoints > 0, "keep_checkpoints", &self.keep_checkpoints, "at least 1")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_section_is_the_default_and_the_default_is_valid() {
        let config: TrainConfig = toml::from_str("").expect("empty");
        assert_eq!(config, TrainConfig::default());
        assert!(config.validate().is_ok());
        let text = toml::to_string(&config).expect("serializes");
        assert_eq!(toml::from_str::<TrainConfig>(&text).expect("round trip"), config);
    }

    #[test]
    fn unknown_keys_are_refused() {
        let error = toml::from_str::<TrainConfig>("learning_rate = 1").expect_err("unknown").to_string();
        assert!(error.contains("learning_rate") && error.contains("`lr`"), "{error}");
        assert!(toml::from_str::<TrainConfig>("early_stopping = { patients = 3 }").is_err());
    }

    #[test]
    fn values_out_of_range_are_named() {
        for (text, expected) in [
            ("lr = 0.0", "train.lr: 0 is not a number above 0"),
            ("lr = nan", "train.lr: NaN is not a number above 0"),
            ("epochs = 0", "train.epochs: 0 is not at least 1"),
            ("betas = [0.9, 1.0]", "train.betas: 1 is not from 0 up and below 1"),
            ("warmup = 1.5", "train.warmup: 1.5 is not a fraction below 1 or a whole number of steps"),
            ("layer_decay = 0.0", "train.layer_decay: 0 is not above 0 and at most 1"),
            ("ema = 1.0", "train.ema: 1 is not from 0 up and below 1"),
            ("lr_scale = { \"text.*\" = -1.0 }", "train.lr_scale.\"text.*\": -1 is not a number from 0 up"),
        ] {
            let config: TrainConfig = toml::from_str(text).expect(text);
            assert_eq!(config.validate().expect_err(text).to_string(), expected);
        }
    }
}
