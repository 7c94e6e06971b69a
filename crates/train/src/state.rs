//! The numbers a run stands at, and what must not change between runs.

use crate::config::{EarlyStopping, MAY_CHANGE, TrainConfig};
use crate::error::{Result, TrainError};
use crate::record::finite_or_null_map;
use sensorium_engine::Params;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::path::Path;

/// Everything in a checkpoint that is not a tensor.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct State {
    /// Steps begun, skipped ones included.
    pub(crate) step: u64,
    /// Epochs done.
    pub(crate) epoch: u64,
    /// Batches of the epoch done.
    pub(crate) batch: usize,
    /// Steps the optimizer has taken: what its bias correction counts.
    pub(crate) updates: u64,
    /// Steps skipped.
    pub(crate) skipped: u64,
    /// Steps skipped in a row.
    pub(crate) skipped_in_a_row: u32,
    /// The epoch so far.
    pub(crate) sums: Sums,
    /// The best epoch so far.
    pub(crate) best: Option<Best>,
    /// What patience is counted from.
    pub(crate) gain: Gain,
    /// The length of `metrics.jsonl`.
    pub(crate) log_bytes: u64,
    /// Seconds spent.
    pub(crate) seconds: f64,
    /// What determines the run.
    pub(crate) settings: Value,
}

/// Weighted sums over batches.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Sums {
    loss: f64,
    weight: f64,
    #[serde(with = "finite_or_null_map")]
    parts: BTreeMap<String, f64>,
    pub(crate) samples: u64,
    pub(crate) tokens: u64,
}

impl Sums {
    pub(crate) fn add(&mut self, loss: f64, parts: &[(String, f64)], weight: f64) {
        self.loss += loss * weight;
        self.weight += weight;
        for (name, value) in parts {
            *self.parts.entry(name.clone()).or_default() += value * weight;
        }
    }

    pub(crate) fn absorb(&mut self, other: &Sums) {
        self.loss += other.loss;
        self.weight += other.weight;
        for (name, value) in &other.parts {
            *self.parts.entry(name.clone()).or_default() += value;
        }
        self.samples += other.samples;
        self.tokens += other.tokens;
    }

    pub(crate) fn weight(&self) -> f64 {
        self.weight
    }

    /// NaN where nothing was added.
    pub(crate) fn loss(&self) -> f64 {
        self.loss / self.weight
    }

    pub(crate) fn parts(&self) -> BTreeMap<String, f64> {
        self.parts.iter().map(|(name, sum)| (name.clone(), sum / self.weight)).collect()
    }
}

/// The weights that did best on validation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Best {
    /// The epoch, counted from 1.
    pub epoch: u64,
    /// The steps taken by then.
    pub step: u64,
    /// The metric that decided.
    pub metric: String,
    /// Its value.
    pub value: f64,
    /// All validation metrics.
    #[serde(with = "finite_or_null_map")]
    pub metrics: BTreeMap<String, f64>,
}

/// Early stopping's memory.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Gain {
    reference: Option<f64>,
    epochs_without: u32,
}

impl Gain {
    /// Takes note of an epoch's value.
    pub(crate) fn note(&mut self, rule: &EarlyStopping, value: f64) {
        let gained = match self.reference {
            None => !value.is_nan(),
            Some(reference) => {
                let gain = if lower_is_better(&rule.metric) { reference - value } else { value - reference };
                gain > rule.min_gain
            }
        };
        if gained {
            *self = Self { reference: Some(value), epochs_without: 0 };
        } else {
            self.epochs_without += 1;
        }
    }

    /// Whether patience has run out.
    pub(crate) fn exhausted(&self, rule: &EarlyStopping) -> bool {
        rule.patience > 0 && self.epochs_without >= rule.patience
    }
}

/// Whether a value of a metric beats another; NaN beats nothing.
pub(crate) fn better(metric: &str, value: f64, than: f64) -> bool {
    if lower_is_better(metric) { value < than } else { value > than }
}

/// Whether a metric is better the lower it is: losses, errors, distances and ranks are.
pub fn lower_is_better(metric: &str) -> bool {
    const LOWER: [&str; 15] = [
        "loss",
        "error",
        "mae",
        "mse",
        "rmse",
        "nll",
        "perplexity",
        "ppl",
        "bits",
        "wer",
        "cer",
        "ece",
        "brier",
        "rank",
        "distance",
    ];
    metric.split(|c: char| !c.is_alphanumeric()).any(|word| LOWER.contains(&word.to_ascii_lowercase().as_str()))
}

/// What determines a run: the configuration, what the caller adds, the model's shapes.
pub(crate) fn settings(config: &TrainConfig, identity: &Value, params: &Params) -> Value {
    let shapes: Map<String, Value> =
        params.iter().map(|(_, p)| (p.name.clone(), Value::from(p.value.dims().to_vec()))).collect();
    let mut settings = serde_json::json!({ "train": config, "run": identity, "model": shapes });
    if let Some(frozen) = frozen(params) {
        settings["frozen"] = frozen.into();
    }
    settings
}

/// A hash of the frozen parameters, which checkpoints do not hold.
fn frozen(params: &Params) -> Option<String> {
    let mut hash = blake3::Hasher::new();
    let mut bytes = Vec::new();
    for (_, p) in params.iter().filter(|(_, p)| !p.trainable) {
        hash.update(p.name.as_bytes());
        for chunk in p.value.data().chunks(1 << 14) {
            bytes.clear();
            bytes.extend(chunk.iter().flat_map(|x| x.to_le_bytes()));
            hash.update(&bytes);
        }
    }
    (hash.count() > 0).then(|| hash.finalize().to_hex().to_string())
}

/// Refuses to go on under settings other than those of the checkpoint.
pub(crate) fn same_settings(path: &Path, then: &Value, now: &Value) -> Result<()> {
    let flat = |value: &Value| {
        let mut out = BTreeMap::new();
        flatten("", value, &mut out);
        let free = |key: &str| {
            MAY_CHANGE.iter().any(|f| key.strip_prefix(f).is_some_and(|r| r.is_empty() || r.starts_with('.')))
        };
        out.retain(|key, _| !key.strip_prefix("train.").is_some_and(free));
        out
    };
    let (then, now) = (flat(then), flat(now));
    let absent = || "absent".to_owned();
    let mut keys: Vec<_> = then.keys().chain(now.keys()).collect();
    keys.sort_unstable();
    keys.dedup();
    keys.retain(|key| then.get(*key) != now.get(*key));
    // Other shapes follow from other settings: they are told only where nothing else is.
    keys.sort_by_key(|key| key.starts_with("model."));
    if let Some(shapes) = keys.iter().position(|key| key.starts_with("model.")) {
        keys.truncate(if shapes == 0 { keys.len() } else { shapes });
    }
    let mut differences: Vec<String> = keys
        .into_iter()
        .map(|key| {
            let value = |of: &BTreeMap<String, String>| of.get(key).cloned().unwrap_or_else(absent);
            format!("{} was {}, is now {}", key.strip_prefix("run.").unwrap_or(key), value(&then), value(&now))
        })
        .collect();
    if differences.is_empty() {
        return Ok(());
    }
    let more = differences.len().saturating_sub(5);
    differences.truncate(5);
    if more > 0 {
        differences.push(format!("and {more} more"));
    }
    Err(TrainError::Changed { path: path.into(), differences })
}

fn flatten(prefix: &str, value: &Value, out: &mut BTreeMap<String, String>) {
    match value {
        Value::Object(map) => {
            for (key, inner) in map {
                let path = if prefix.is_empty() { key.clone() } else { format!("{prefix}.{key}") };
                flatten(&path, inner, out);
            }
        }
        leaf => {
            out.insert(prefix.to_owned(), leaf.to_string());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_direction_of_a_metric_follows_from_its_name() {
        for metric in ["loss", "val.loss", "calibration_error", "mae", "median_rank", "RMSE"] {
            assert!(lower_is_better(metric), "{metric}");
        }
        for metric in ["accuracy", "macro_f1", "roc_auc", "r2", "ranking_quality"] {
            assert!(!lower_is_better(metric), "{metric}");
        }
    }

    #[test]
    fn frozen_weights_are_the_same_when_a_run_goes_on() {
        let settings = |value, trainable| {
            let mut params = Params::new();
            let id = params.insert("w", sensorium_engine::Tensor::full(&[2], value)).expect("new name");
            params.get_mut(id).trainable = trainable;
            settings(&TrainConfig::default(), &Value::Null, &params)
        };
        let path = Path::new("checkpoint");
        assert!(same_settings(path, &settings(1.0, true), &settings(2.0, true)).is_ok(), "trained ones are restored");
        assert!(same_settings(path, &settings(1.0, false), &settings(1.0, false)).is_ok());
        let error = same_settings(path, &settings(1.0, false), &settings(2.0, false)).expect_err("another base");
        assert!(error.to_string().contains("frozen"), "{error}");
    }

    #[test]
    fn patience_counts_epochs_without_enough_gain() {
        let rule = EarlyStopping { metric: "accuracy".into(), patience: 2, min_gain: 0.05 };
        let mut gain = Gain::default();
        let exhausted: Vec<_> = [f64::NAN, 0.5, 0.54, 0.56, 0.57, f64::NAN]
            .into_iter()
            .map(|value| {
                gain.note(&rule, value);
                gain.exhausted(&rule)
            })
            .collect();
        assert_eq!(exhausted, [false, false, false, false, false, true]);
        assert!(!gain.exhausted(&EarlyStopping { patience: 0, ..rule }));
    }

    #[test]
    fn differences_are_named_and_free_keys_are_not() {
        let then =
            serde_json::json!({ "train": { "lr": 0.1, "epochs": 3 }, "run": { "data": "a" }, "model": { "w": [2] } });
        let now =
            serde_json::json!({ "train": { "lr": 0.2, "epochs": 5 }, "run": { "data": "a" }, "model": { "w": [2] } });
        let error = same_settings(Path::new("c"), &then, &now).expect_err("lr").to_string();
        assert!(error.contains("(train.lr was 0.1, is now 0.2)"), "{error}");
        let now =
            serde_json::json!({ "train": { "lr": 0.1, "epochs": 5 }, "run": { "data": "b" }, "model": { "v": [2] } });
        let error = same_settings(Path::new("c"), &then, &now).expect_err("data").to_string();
        assert!(error.contains("data was \"a\", is now \"b\"") && !error.contains("model.v"), "{error}");
        let now =
            serde_json::json!({ "train": { "lr": 0.1, "epochs": 5 }, "run": { "data": "a" }, "model": { "v": [2] } });
        let error = same_settings(Path::new("c"), &then, &now).expect_err("shapes").to_string();
        assert!(error.contains("model.v was absent"), "{error}");
        assert!(same_settings(Path::new("c"), &then, &then).is_ok());
    }
}
