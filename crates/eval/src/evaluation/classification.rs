//! Single-label tasks, their classes in order or not.

use super::{Evaluation, Judged, Task};
use crate::averages::Tally;
use crate::confusion::Confusion;
use crate::error::{EvalError, same_length};
use crate::probabilities::{CALIBRATION_BINS, Probabilities, calibration};
use crate::ranking::{Curve, Ranking, thin};

/// Beyond this many rows times classes, areas under curves get no interval: it would take minutes.
pub(super) const RESAMPLED_RANKING_LIMIT: usize = 1_000_000;

/// Truths and predictions of a single-label task.
#[derive(Debug, Clone)]
pub struct Classification {
    classes: Vec<String>,
    truths: Vec<usize>,
    predicted: Vec<usize>,
    ordinal: bool,
    scores: Option<Scores>,
}

/// What probabilities add, worked out once for all resamples.
#[derive(Debug, Clone)]
struct Scores {
    probabilities: Probabilities,
    /// One per class; with two classes only of the second.
    rankings: Vec<(usize, Ranking)>,
    log_loss: Vec<f64>,
    brier: Vec<f64>,
    /// How many classes rank before the truth.
    rank: Vec<usize>,
}

impl Classification {
    /// From true class indices `[rows]` and the probabilities `[rows, classes]`.
    pub fn new(classes: &[String], truths: &[usize], probabilities: Probabilities) -> Result<Self, EvalError> {
        if probabilities.classes() != classes.len() {
            return Err(EvalError::LengthMismatch {
                what: "a row of the probabilities",
                per: "classes",
                expected: classes.len(),
                got: probabilities.classes(),
            });
        }
        same_length("probabilities", truths.len(), probabilities.rows())?;
        let mut judged = Self::from_labels(classes, truths, &probabilities.predicted())?;
        judged.scores = Some(Scores::new(truths, probabilities)?);
        Ok(judged)
    }

    /// From true and predicted class indices `[rows]`, without probabilities.
    pub fn from_labels(classes: &[String], truths: &[usize], predicted: &[usize]) -> Result<Self, EvalError> {
        unique(classes)?;
        Confusion::new(truths, predicted, classes.len())?;
        Ok(Self {
            classes: classes.to_vec(),
            truths: truths.to_vec(),
            predicted: predicted.to_vec(),
            ordinal: false,
            scores: None,
        })
    }

    /// Says that the classes are in order, lowest first: adds rank errors and quadratic kappa.
    pub fn ordinal(mut self) -> Self {
        self.ordinal = true;
        self
    }

    /// ROC and precision-recall curves by class name, at most `limit` points each; with two
    /// classes those of the second, otherwise of each class against the rest.
    pub fn curves(&self, limit: usize) -> Result<Curves, EvalError> {
        let mut curves = Curves::default();
        for (class, ranking) in self.scores.iter().flat_map(|scores| &scores.rankings) {
            let positive: Vec<bool> = self.truths.iter().map(|t| t == class).collect();
            let name = &self.classes[*class];
            let roc = thin(&ranking.roc_curve(&positive)?, limit);
            let precision_recall = thin(&ranking.precision_recall_curve(&positive)?, limit);
            if !roc.is_empty() {
                curves.roc.push((name.clone(), roc));
                curves.precision_recall.push((name.clone(), precision_recall));
            }
        }
        Ok(curves)
    }

    fn top(&self) -> Vec<usize> {
        let few = [3, 5].into_iter();
        few.filter(|k| *k < self.classes.len()).collect()
    }
}

/// Curves of a classification by class name.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Curves {
    /// False positive rate to true positive rate.
    pub roc: Vec<(String, Curve)>,
    /// Recall to precision.
    pub precision_recall: Vec<(String, Curve)>,
}

impl Scores {
    fn new(truths: &[usize], probabilities: Probabilities) -> Result<Self, EvalError> {
        let classes = probabilities.classes();
        let ranked = if classes == 2 { 1..2 } else { 0..classes };
        let rankings = ranked
            .map(|class| Ok((class, Ranking::new(&probabilities.column(class))?)))
            .collect::<Result<_, EvalError>>()?;
        let (mut log_loss, mut brier, mut rank) = (Vec::new(), Vec::new(), Vec::new());
        for (row, &truth) in truths.iter().enumerate() {
            log_loss.push(probabilities.row_log_loss(row, truth));
            brier.push(probabilities.row_brier(row, truth));
            rank.push(probabilities.row_rank(row, truth));
        }
        Ok(Self { probabilities, rankings, log_loss, brier, rank })
    }

    /// Areas under the ROC curve, macro and weighted, and the mean average precision.
    fn areas(&self, truths: &[usize], counts: &[u32], support: &[u64]) -> [Option<f64>; 3] {
        let mut sums = [(0.0, 0.0); 3];
        for (class, ranking) in &self.rankings {
            let positive = |row: usize| truths[row] == *class;
            let count = |row: usize| counts[row];
            if let Some(area) = ranking.roc_auc_weighted(positive, count) {
                for (sum, weight) in [(0, 1.0), (1, support[*class] as f64)] {
                    sums[sum].0 += weight * area;
                    sums[sum].1 += weight;
                }
            }
            if let Some(precision) = ranking.average_precision_weighted(positive, count) {
                sums[2].0 += precision;
                sums[2].1 += 1.0;
            }
        }
        sums.map(|(sum, weight)| (weight > 0.0).then(|| sum / weight))
    }
}

impl Judged for Classification {
    fn task(&self) -> Task {
        if self.ordinal { Task::Ordinal } else { Task::Classification }
    }

    fn rows(&self) -> usize {
        self.truths.len()
    }

    fn metrics(&self) -> Vec<String> {
        let mut names = vec![
            "accuracy",
            "balanced_accuracy",
            "macro_precision",
            "macro_recall",
            "macro_f1",
            "weighted_precision",
            "weighted_recall",
            "weighted_f1",
            "matthews",
            "kappa",
        ];
        if self.ordinal {
            names.extend(["mean_rank_error", "within_one_rank", "quadratic_kappa"]);
        }
        let mut names: Vec<String> = names.into_iter().map(str::to_owned).collect();
        if self.scores.is_some() {
            names.extend(self.top().iter().map(|k| format!("top_{k}_accuracy")));
            let of_scores =
                ["roc_auc", "roc_auc_weighted", "average_precision", "log_loss", "brier", "calibration_error"];
            names.extend(of_scores.map(str::to_owned));
        }
        names
    }

    fn measure(&self, counts: &[u32], resampled: bool) -> Vec<Option<f64>> {
        let mut tally = Tally::empty(self.classes.len());
        let mut ranks = RankSums::default();
        for (row, &count) in counts.iter().enumerate().filter(|(_, count)| **count > 0) {
            let (truth, predicted) = (self.truths[row], self.predicted[row]);
            tally.add(truth, predicted, u64::from(count));
            if self.ordinal {
                ranks.add(truth, predicted, f64::from(count));
            }
        }
        let (macro_, weighted) = (tally.macro_average(), tally.weighted_average());
        let mut values = vec![
            Some(tally.accuracy()),
            Some(tally.balanced_accuracy()),
            Some(macro_.precision),
            Some(macro_.recall),
            Some(macro_.f1),
            Some(weighted.precision),
            Some(weighted.recall),
            Some(weighted.f1),
            Some(tally.matthews()),
            tally.kappa(),
        ];
        if self.ordinal {
            values.extend(ranks.values());
        }
        if let Some(scores) = &self.scores {
            let rows = tally.rows() as f64;
            let weighted = |of: &dyn Fn(usize) -> f64| -> Option<f64> {
                let drawn = counts.iter().enumerate().filter(|(_, count)| **count > 0);
                let sum: f64 = drawn.map(|(row, &c)| of(row) * f64::from(c)).sum();
                Some(sum / rows)
            };
            for k in self.top() {
                values.push(weighted(&|row| f64::from(u8::from(scores.rank[row] < k))));
            }
            let costly = self.truths.len() * self.classes.len() > RESAMPLED_RANKING_LIMIT;
            values.extend(if resampled && costly {
                [None; 3]
            } else {
                scores.areas(&self.truths, counts, tally.support())
            });
            values.push(weighted(&|row| scores.log_loss[row]));
            values.push(weighted(&|row| scores.brier[row]));
            // Resampling adds noise to every bin, so a bootstrapped calibration error is biased upwards.
            values.push(if resampled { None } else { self.calibration_error(scores, counts) });
        }
        values
    }

    fn truth(&self, row: usize) -> String {
        self.classes[self.truths[row]].clone()
    }

    fn answer(&self, row: usize) -> String {
        self.classes[self.predicted[row]].clone()
    }

    fn error(&self, row: usize) -> f64 {
        let (truth, predicted) = (self.truths[row], self.predicted[row]);
        if self.ordinal { truth.abs_diff(predicted) as f64 } else { f64::from(u8::from(truth != predicted)) }
    }

    fn describe(&self, evaluation: &mut Evaluation) {
        let Ok(confusion) = Confusion::new(&self.truths, &self.predicted, self.classes.len()) else {
            return;
        };
        let per_class = confusion.tally().per_class();
        evaluation.per_class = self.classes.iter().cloned().zip(per_class).collect();
        evaluation.confusion = confusion.to_rows();
        let Some(scores) = &self.scores else { return };
        for (class, ranking) in &scores.rankings {
            if let Some((_, metrics)) = evaluation.per_class.get_index_mut(*class) {
                let positive = |row: usize| self.truths[row] == *class;
                metrics.roc_auc = ranking.roc_auc_weighted(positive, |_| 1);
                metrics.average_precision = ranking.average_precision_weighted(positive, |_| 1);
            }
        }
        evaluation.calibration = calibration(&self.truths, &scores.probabilities, CALIBRATION_BINS).ok();
    }
}

impl Classification {
    fn calibration_error(&self, scores: &Scores, counts: &[u32]) -> Option<f64> {
        let picked: Vec<usize> = (0..counts.len()).filter(|row| counts[*row] > 0).collect();
        let truths: Vec<usize> = picked.iter().map(|&row| self.truths[row]).collect();
        let probabilities = scores.probabilities.select(&picked);
        let result = calibration(&truths, &probabilities, CALIBRATION_BINS);
        result.ok().map(|calibration| calibration.error)
    }
}

/// Sums over rows from which the ordinal metrics follow.
#[derive(Default)]
struct RankSums {
    rows: f64,
    distance: f64,
    near: f64,
    squares: f64,
    truth: (f64, f64),
    predicted: (f64, f64),
}

impl RankSums {
    fn add(&mut self, truth: usize, predicted: usize, count: f64) {
        let distance = truth.abs_diff(predicted) as f64;
        let (truth, predicted) = (truth as f64, predicted as f64);
        self.rows += count;
        self.distance += count * distance;
        self.near += if distance <= 1.0 { count } else { 0.0 };
        self.squares += count * distance * distance;
        self.truth.0 += count * truth;
        self.truth.1 += count * truth * truth;
        self.predicted.0 += count * predicted;
        self.predicted.1 += count * predicted * predicted;
    }

    /// Mean rank error, share within one rank, and quadratic kappa:
    /// `1 - E(t - p)^2 / (expected if t and p were independent)`.
    fn values(&self) -> [Option<f64>; 3] {
        let chance = self.truth.1 + self.predicted.1 - 2.0 * self.truth.0 * self.predicted.0 / self.rows;
        [
            Some(self.distance / self.rows),
            Some(self.near / self.rows),
            (chance > 1e-9 * self.rows).then(|| 1.0 - self.squares / chance),
        ]
    }
}

/// Checks that no two classes share a name.
pub(super) fn unique(classes: &[String]) -> Result<(), EvalError> {
    let mut seen = std::collections::HashSet::new();
    match classes.iter().find(|name| !seen.insert(name.as_str())) {
        None => Ok(()),
        Some(name) => Err(EvalError::DuplicateClass { name: name.clone() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::confusion::KappaWeights;
    use crate::evaluation::Options;
    use proptest::prelude::*;

    fn classes(count: usize) -> Vec<String> {
        (0..count).map(|c| format!("class {c}")).collect()
    }

    #[test]
    fn two_classes_of_one_name_are_refused() {
        let names = vec!["a".to_owned(), "a".to_owned()];
        let error = Classification::from_labels(&names, &[0], &[1]).unwrap_err();
        assert!(matches!(error, EvalError::DuplicateClass { .. }));
    }

    #[test]
    fn probabilities_add_their_metrics() {
        let p = Probabilities::new(vec![0.9, 0.1, 0.4, 0.6, 0.7, 0.3, 0.2, 0.8], 2).unwrap();
        let judged = Classification::new(&classes(2), &[0, 1, 1, 1], p).unwrap();
        let evaluation = Evaluation::new(&judged, &Options::default()).unwrap();
        assert_eq!(evaluation.metric("accuracy"), Some(0.75));
        assert_eq!(evaluation.metric("roc_auc"), Some(1.0));
        assert_eq!(evaluation.per_class["class 1"].roc_auc, Some(1.0));
        assert!(evaluation.calibration.is_some());
        let names = judged.metrics();
        assert_eq!(names.len(), judged.measure(&[1; 4], true).len());
        let curves = judged.curves(100).unwrap();
        assert_eq!(curves.roc.len(), 1);
        assert_eq!(curves.roc[0].0, "class 1");
    }

    proptest! {
        #[test]
        fn running_rank_sums_agree_with_the_matrix(
            rows in prop::collection::vec((0usize..5, 0usize..5), 1..40)
        ) {
            let (truths, predicted): (Vec<_>, Vec<_>) = rows.into_iter().unzip();
            let judged = Classification::from_labels(&classes(5), &truths, &predicted);
            let evaluation = Evaluation::new(&judged.unwrap().ordinal(), &Options::default());
            let evaluation = evaluation.unwrap();
            let confusion = Confusion::new(&truths, &predicted, 5).unwrap();
            let error = evaluation.metric("mean_rank_error").unwrap();
            prop_assert!((error - confusion.mean_rank_error()).abs() < 1e-12);
            let near = evaluation.metric("within_one_rank").unwrap();
            prop_assert!((near - confusion.within_one_rank()).abs() < 1e-12);
            let kappa = evaluation.metric("quadratic_kappa");
            match (kappa, confusion.kappa(KappaWeights::Quadratic)) {
                (Some(a), Some(b)) => prop_assert!((a - b).abs() < 1e-9),
                (a, b) => prop_assert_eq!(a, b),
            }
        }
    }
}
