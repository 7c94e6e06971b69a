//! From logits to a loss and to predictions, for each kind of label.

use crate::config::{ClassWeights, LabelSection, RegressionLoss};
use crate::{Error, Result};
use sensorium_data::{LabelSpec, LabelTask, Target};
use sensorium_engine::{Tape, Tensor, Var, ops};
use serde::{Deserialize, Serialize};

/// The loss and the decoding of one label.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Objective {
    /// The label.
    pub label: LabelSpec,
    /// Weight of each class in the loss; none for all alike.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub class_weights: Option<Vec<f64>>,
    /// Share of the target spread over all classes.
    #[serde(default)]
    pub label_smoothing: f64,
    /// Mixup's alpha; 0 for none.
    #[serde(default)]
    pub mixup: f64,
    /// The loss of a regression.
    #[serde(default)]
    pub regression_loss: RegressionLoss,
}

/// What the model says of one sample.
#[derive(Debug, Clone, PartialEq)]
pub enum Decision {
    /// One class: its number, and the probability of each.
    Class(usize, Vec<f64>),
    /// The probability of each label; those from 0.5 on apply.
    Labels(Vec<f64>),
    /// A number, in the units of the table.
    Value(f64),
}

impl Objective {
    /// The objective of a label under a configuration.
    ///
    /// # Errors
    /// When the settings do not fit the kind of label.
    pub fn new(label: LabelSpec, section: &LabelSection) -> Result<Self> {
        let wrong = |key: &str, problem: &str| Error::Config { place: format!("label.{key}"), problem: problem.into() };
        if !(0.0..1.0).contains(&section.label_smoothing) {
            return Err(wrong("label_smoothing", "expected a number from 0 up to, but not, 1"));
        }
        let single = label.task == LabelTask::SingleLabel;
        if section.label_smoothing > 0.0 && !single {
            return Err(wrong("label_smoothing", "applies to single_label only"));
        }
        if !(0.0..=10.0).contains(&section.mixup) {
            return Err(wrong("mixup", "expected a number from 0 (none) to 10; 0.2 is usual"));
        }
        if section.mixup > 0.0 && (!single || section.class_weights != ClassWeights::None) {
            return Err(wrong("mixup", "applies to single_label without class_weights only"));
        }
        let class_weights = match section.class_weights {
            ClassWeights::None => None,
            ClassWeights::Balanced if !single => {
                return Err(wrong("class_weights", "balanced applies to single_label only"));
            }
            ClassWeights::Balanced => {
                let total: u64 = label.counts.iter().sum();
                let classes = label.counts.len() as f64;
                Some(label.counts.iter().map(|n| total as f64 / (classes * (*n).max(1) as f64)).collect())
            }
        };
        Ok(Self {
            label,
            class_weights,
            label_smoothing: section.label_smoothing,
            mixup: section.mixup,
            regression_loss: section.regression_loss,
        })
    }

    /// Numbers that the head must give per sample.
    pub fn outputs(&self) -> usize {
        match self.label.task {
            LabelTask::SingleLabel | LabelTask::MultiLabel => self.label.classes.len(),
            LabelTask::Ordinal => self.label.classes.len() - 1,
            LabelTask::Regression => 1,
        }
    }

    /// The mean loss over the samples that have a target, and the weight that
    /// the mean is over (0 where none has one).
    ///
    /// # Errors
    /// When a target is of another kind than the label.
    pub fn loss(&self, tape: &Tape, logits: &Var, targets: &[Option<Target>]) -> Result<(Var, f64)> {
        let outputs = self.outputs();
        let known = targets.iter().flatten().count() as f64;
        match self.label.task {
            LabelTask::SingleLabel => {
                let classes: Vec<Option<u32>> = targets
                    .iter()
                    .map(|t| match t {
                        Some(Target::Class(c)) => Ok(Some(*c)),
                        None => Ok(None),
                        Some(other) => Err(mismatch(other)),
                    })
                    .collect::<Result<_>>()?;
                let settings = ops::CrossEntropy {
                    class_weights: self.class_weights.clone(),
                    label_smoothing: self.label_smoothing,
                };
                let weight = match &self.class_weights {
                    Some(w) => classes.iter().flatten().map(|c| w[*c as usize]).sum(),
                    None => known,
                };
                Ok((ops::cross_entropy(tape, logits, &classes, &settings)?, weight))
            }
            LabelTask::MultiLabel | LabelTask::Ordinal => {
                let (mut wanted, mut mask) = (Vec::new(), Vec::new());
                for target in targets {
                    mask.extend(std::iter::repeat_n(target.is_some(), outputs));
                    match target {
                        Some(Target::MultiLabel(labels)) => wanted.extend(labels.iter().map(|l| f32::from(*l))),
                        // Cumulative thresholds: output k says "above class k"
                        // (Frank and Hall 2001; CORAL's decoding).
                        Some(Target::Ordinal(c)) => wanted.extend((0..outputs).map(|k| f32::from(*c as usize > k))),
                        None => wanted.extend(std::iter::repeat_n(0.0, outputs)),
                        Some(other) => return Err(mismatch(other)),
                    }
                }
                Ok((ops::binary_cross_entropy(tape, logits, &wanted, Some(&mask), None)?, known * outputs as f64))
            }
            LabelTask::Regression => {
                let wanted: Vec<f32> = targets
                    .iter()
                    .map(|t| match t {
                        Some(Target::Value(v)) => Ok(((f64::from(*v) - self.label.mean) / self.label.std) as f32),
                        None => Ok(0.0),
                        Some(other) => Err(mismatch(other)),
                    })
                    .collect::<Result<_>>()?;
                let mask: Vec<bool> = targets.iter().map(Option::is_some).collect();
                let loss = match self.regression_loss {
                    RegressionLoss::Mse => ops::mse(tape, logits, &wanted, Some(&mask))?,
                    RegressionLoss::Huber => ops::huber(tape, logits, &wanted, Some(&mask), 1.0)?,
                };
                Ok((loss, known))
            }
        }
    }

    /// What the logits of each sample say.
    pub fn decide(&self, logits: &Tensor) -> Vec<Decision> {
        let outputs = self.outputs();
        logits
            .data()
            .chunks_exact(outputs)
            .map(|row| {
                let sigma = |x: f32| 1.0 / (1.0 + (-f64::from(x)).exp());
                match self.label.task {
                    LabelTask::SingleLabel => {
                        let largest = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
                        let powers: Vec<f64> = row.iter().map(|x| f64::from(x - largest).exp()).collect();
                        let total: f64 = powers.iter().sum();
                        Decision::class(powers.into_iter().map(|p| p / total).collect())
                    }
                    LabelTask::MultiLabel => Decision::Labels(row.iter().map(|x| sigma(*x)).collect()),
                    LabelTask::Ordinal => {
                        // P(class = k) = P(above k-1) - P(above k), the thresholds
                        // made non-increasing first.
                        let mut above = 1.0_f64;
                        let mut probabilities = Vec::with_capacity(outputs + 1);
                        for x in row {
                            let next = sigma(*x).min(above);
                            probabilities.push(above - next);
                            above = next;
                        }
                        probabilities.push(above);
                        Decision::class(probabilities)
                    }
                    LabelTask::Regression => Decision::Value(f64::from(row[0]) * self.label.std + self.label.mean),
                }
            })
            .collect()
    }

    /// The answer where nothing is known of a sample: the classes as frequent
    /// as in training, no label, or the mean.
    pub fn prior(&self) -> Decision {
        let total: u64 = self.label.counts.iter().sum();
        let shares = || self.label.counts.iter().map(|n| *n as f64 / total.max(1) as f64).collect();
        match self.label.task {
            LabelTask::SingleLabel | LabelTask::Ordinal => Decision::class(shares()),
            LabelTask::MultiLabel => Decision::Labels(vec![0.0; self.label.classes.len()]),
            LabelTask::Regression => Decision::Value(self.label.mean),
        }
    }

    /// A decision in words: the class, the labels with `|` between, or the number.
    pub fn describe(&self, decision: &Decision) -> String {
        match decision {
            Decision::Class(c, _) => self.label.classes[*c].clone(),
            Decision::Labels(p) => {
                let on: Vec<&str> =
                    self.label.classes.iter().zip(p).filter(|(_, p)| **p >= 0.5).map(|(c, _)| c.as_str()).collect();
                on.join("|")
            }
            Decision::Value(v) => format!("{v}"),
        }
    }
}

impl Decision {
    fn class(probabilities: Vec<f64>) -> Self {
        let best =
            (0..probabilities.len()).max_by(|a, b| probabilities[*a].total_cmp(&probabilities[*b]).then(b.cmp(a)));
        Self::Class(best.unwrap_or(0), probabilities)
    }

    /// The probabilities of the classes or labels, if there are any.
    pub fn probabilities(&self) -> Option<&[f64]> {
        match self {
            Self::Class(_, p) | Self::Labels(p) => Some(p),
            Self::Value(_) => None,
        }
    }
}

fn mismatch(target: &Target) -> Error {
    Error::Request(format!("a target {target:?} does not fit the model's label"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn objective(task: LabelTask) -> Objective {
        let label = LabelSpec {
            column: "y".into(),
            task,
            classes: vec!["a".into(), "b".into(), "c".into()],
            counts: vec![2, 1, 1],
            mean: 10.0,
            std: 2.0,
        };
        Objective { label, class_weights: None, label_smoothing: 0.0, mixup: 0.0, regression_loss: RegressionLoss::Mse }
    }

    #[test]
    fn ordinal_probabilities_sum_to_one_even_where_thresholds_cross() -> Result<()> {
        let o = objective(LabelTask::Ordinal);
        for logits in [[2.0, -1.0], [-1.0, 2.0], [5.0, 5.0]] {
            let decisions = o.decide(&Tensor::from_slice(&[1, 2], &logits)?);
            let p = decisions[0].probabilities().expect("classes");
            assert!((p.iter().sum::<f64>() - 1.0).abs() < 1e-12 && p.iter().all(|p| *p >= 0.0), "{p:?}");
        }
        let top = o.decide(&Tensor::from_slice(&[1, 2], &[5.0, 5.0])?);
        assert!(matches!(top[0], Decision::Class(2, _)));
        Ok(())
    }

    #[test]
    fn missing_targets_do_not_count() -> Result<()> {
        let tape = Tape::inference();
        for (task, target, outputs) in [
            (LabelTask::SingleLabel, Target::Class(1), 3),
            (LabelTask::MultiLabel, Target::MultiLabel(vec![true, false, true]), 3),
            (LabelTask::Ordinal, Target::Ordinal(2), 2),
            (LabelTask::Regression, Target::Value(12.0), 1),
        ] {
            let o = objective(task);
            let logits: Vec<f32> = (0..outputs).map(|i| 0.3 * i as f32).collect();
            let one = Var::constant(Tensor::from_slice(&[1, outputs], &logits)?);
            let (alone, weight) = o.loss(&tape, &one, &[Some(target.clone())])?;
            let both = [logits.clone(), vec![9.0; outputs]].concat();
            let two = Var::constant(Tensor::from_slice(&[2, outputs], &both)?);
            let (beside, same) = o.loss(&tape, &two, &[Some(target), None])?;
            assert!((alone.data()[0] - beside.data()[0]).abs() < 1e-6, "{task:?}");
            assert_eq!(weight, same);
        }
        Ok(())
    }

    #[test]
    fn a_regression_is_in_the_units_of_the_table() -> Result<()> {
        let o = objective(LabelTask::Regression);
        assert_eq!(o.decide(&Tensor::from_slice(&[1, 1], &[1.5])?), [Decision::Value(13.0)]);
        Ok(())
    }

    #[test]
    fn balanced_weights_are_scikit_learns() -> Result<()> {
        let section = LabelSection { class_weights: ClassWeights::Balanced, ..LabelSection::default() };
        let o = Objective::new(objective(LabelTask::SingleLabel).label, &section)?;
        let want = [4.0 / 6.0, 4.0 / 3.0, 4.0 / 3.0];
        assert_eq!(o.class_weights.as_deref(), Some(&want[..]));
        Ok(())
    }
}
