//! The run's record: what `metrics.jsonl` holds, line by line.

use crate::error::{Result, TrainError};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::Path;

/// One optimizer step.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StepRecord {
    /// Steps taken, this one included.
    pub step: u64,
    /// The epoch, counted from 1.
    pub epoch: u64,
    /// The mean loss of the step's batches.
    #[serde(with = "finite_or_null")]
    pub loss: f64,
    /// The mean of each named part.
    #[serde(with = "finite_or_null_map", skip_serializing_if = "BTreeMap::is_empty", default)]
    pub parts: BTreeMap<String, f64>,
    /// The learning rate before the parameters' own multiples.
    pub lr: f64,
    /// The global norm of the gradients before clipping.
    pub grad_norm: f64,
    /// Samples in the step.
    pub samples: u64,
    /// Tokens in the step.
    pub tokens: u64,
}

/// A step that was skipped.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SkipRecord {
    /// The step, counted as [`StepRecord::step`].
    pub step: u64,
    /// The epoch, counted from 1.
    pub epoch: u64,
    /// What was not finite.
    pub cause: String,
}

/// One epoch.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EpochRecord {
    /// The epoch, counted from 1.
    pub epoch: u64,
    /// Steps taken so far.
    pub step: u64,
    /// The mean loss over the epoch's training batches, as they were when trained on.
    #[serde(with = "finite_or_null")]
    pub train_loss: f64,
    /// The mean of each named part over the epoch.
    #[serde(with = "finite_or_null_map", skip_serializing_if = "BTreeMap::is_empty", default)]
    pub parts: BTreeMap<String, f64>,
    /// The validation metrics.
    #[serde(with = "finite_or_null_map", default)]
    pub metrics: BTreeMap<String, f64>,
    /// Whether the watched metric is the best so far.
    pub best: bool,
    /// Samples trained on in the epoch.
    pub samples: u64,
    /// Tokens trained on in the epoch.
    pub tokens: u64,
    /// Seconds of the run so far, interruptions not counted.
    pub seconds: f64,
    /// Seconds of this epoch, validation included; after a resumption within it, since then.
    pub seconds_epoch: f64,
    /// Seconds of this epoch that the loop waited for data.
    pub seconds_waiting: f64,
    /// Seconds of this epoch spent on validation.
    pub seconds_validating: f64,
}

impl EpochRecord {
    /// The share of the training time that the loop waited for data, from 0 to 1.
    pub fn waiting_share(&self) -> f64 {
        let training = self.seconds_epoch - self.seconds_validating;
        if training > 0.0 { (self.seconds_waiting / training).clamp(0.0, 1.0) } else { 0.0 }
    }
}

/// One line of `metrics.jsonl`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "lowercase")]
pub enum Record {
    /// A step.
    Step(StepRecord),
    /// A skipped step.
    Skip(SkipRecord),
    /// An epoch.
    Epoch(EpochRecord),
}

/// The whole run, for learning curves.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct History {
    /// The steps.
    pub steps: Vec<StepRecord>,
    /// The skipped steps.
    pub skips: Vec<SkipRecord>,
    /// The epochs.
    pub epochs: Vec<EpochRecord>,
}

impl History {
    /// Reads `metrics.jsonl`.
    ///
    /// # Errors
    /// When the file cannot be read or a line is not a record.
    pub fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).map_err(TrainError::io("read", path))?;
        let mut history = Self::default();
        for (number, line) in text.lines().enumerate() {
            let record = serde_json::from_str(line).map_err(|e| {
                let problem = format!("line {} is not a record of a run: {e}", number + 1);
                TrainError::io("read", path)(std::io::Error::new(std::io::ErrorKind::InvalidData, problem))
            })?;
            match record {
                Record::Step(r) => history.steps.push(r),
                Record::Skip(r) => history.skips.push(r),
                Record::Epoch(r) => history.epochs.push(r),
            }
        }
        Ok(history)
    }
}

/// JSON has no NaN: what is not finite is written as null and read as NaN.
mod finite_or_null {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub(super) fn serialize<S: Serializer>(x: &f64, s: S) -> Result<S::Ok, S::Error> {
        Some(*x).filter(|x| x.is_finite()).serialize(s)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<f64, D::Error> {
        Ok(Option::deserialize(d)?.unwrap_or(f64::NAN))
    }
}

/// [`finite_or_null`] for each value of a map.
pub(crate) mod finite_or_null_map {
    use serde::{Deserialize, Deserializer, Serializer};
    use std::collections::BTreeMap;

    pub(crate) fn serialize<S: Serializer>(map: &BTreeMap<String, f64>, s: S) -> Result<S::Ok, S::Error> {
        s.collect_map(map.iter().map(|(k, x)| (k, Some(*x).filter(|x| x.is_finite()))))
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<BTreeMap<String, f64>, D::Error> {
        let map = BTreeMap::<String, Option<f64>>::deserialize(d)?;
        Ok(map.into_iter().map(|(k, x)| (k, x.unwrap_or(f64::NAN))).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn not_a_number_survives_as_null() {
        let epoch = EpochRecord {
            epoch: 1,
            step: 3,
            train_loss: 0.1 + 0.2,
            parts: BTreeMap::new(),
            metrics: [("auc".to_owned(), f64::NAN), ("loss".to_owned(), 0.1)].into(),
            best: true,
            samples: 6,
            tokens: 60,
            seconds: 4.5,
            seconds_epoch: 1.5,
            seconds_waiting: 0.25,
            seconds_validating: 0.5,
        };
        assert_eq!(epoch.waiting_share(), 0.25);
        let line = serde_json::to_string(&Record::Epoch(epoch)).expect("serializes");
        assert!(line.starts_with(r#"{"event":"epoch","#) && line.contains(r#""auc":null"#), "{line}");
        let Record::Epoch(back) = serde_json::from_str(&line).expect("reads") else { panic!("{line}") };
        assert!(back.metrics["auc"].is_nan());
        assert_eq!((back.train_loss, back.metrics["loss"]), (0.1 + 0.2, 0.1));
    }
}
