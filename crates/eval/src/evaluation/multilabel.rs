//! Multi-label tasks.

use super::classification::{RESAMPLED_RANKING_LIMIT, unique};
use super::{Evaluation, Judged, Task};
use crate::averages::{Average, ClassMetrics};
use crate::error::EvalError;
use crate::multilabel::MultiLabel;
use crate::probabilities::Probabilities;
use crate::ranking::Ranking;

/// Truths and predictions of a multi-label task.
#[derive(Debug, Clone)]
pub struct MultiLabelled {
    labels: Vec<String>,
    rows: MultiLabel,
    rankings: Vec<Ranking>,
}

impl MultiLabelled {
    /// From row-major `[rows, labels]` truths, probabilities and one threshold per label.
    pub fn new(
        labels: &[String],
        truths: Vec<bool>,
        probabilities: &Probabilities,
        thresholds: &[f64],
    ) -> Result<Self, EvalError> {
        unique(labels)?;
        if probabilities.classes() != labels.len() {
            return Err(EvalError::LengthMismatch {
                what: "a row of the probabilities",
                per: "classes",
                expected: labels.len(),
                got: probabilities.classes(),
            });
        }
        let rankings =
            (0..labels.len()).map(|label| Ranking::new(&probabilities.column(label))).collect::<Result<_, _>>()?;
        Ok(Self {
            labels: labels.to_vec(),
            rows: MultiLabel::from_probabilities(truths, probabilities, thresholds)?,
            rankings,
        })
    }

    fn named(&self, marks: &[bool]) -> String {
        let marked = self.labels.iter().zip(marks).filter(|(_, mark)| **mark);
        let names: Vec<&str> = marked.map(|(name, _)| name.as_str()).collect();
        if names.is_empty() { "(none)".to_owned() } else { names.join(", ") }
    }

    fn mean_over_labels(&self, area: impl Fn(usize) -> Option<f64>) -> Option<f64> {
        let areas: Vec<f64> = (0..self.labels.len()).filter_map(area).collect();
        (!areas.is_empty()).then(|| areas.iter().sum::<f64>() / areas.len() as f64)
    }
}

impl Judged for MultiLabelled {
    fn task(&self) -> Task {
        Task::MultiLabel
    }

    fn rows(&self) -> usize {
        self.rows.rows()
    }

    fn metrics(&self) -> Vec<String> {
        [
            "subset_accuracy",
            "hamming_loss",
            "micro_precision",
            "micro_recall",
            "micro_f1",
            "macro_precision",
            "macro_recall",
            "macro_f1",
            "weighted_f1",
            "samples_f1",
            "roc_auc",
            "average_precision",
        ]
        .map(str::to_owned)
        .to_vec()
    }

    fn measure(&self, counts: &[u32], resampled: bool) -> Vec<Option<f64>> {
        let mut totals = vec![(0, 0, 0); self.labels.len()];
        let (mut rows, mut exact, mut wrong, mut samples) = (0.0, 0.0, 0.0, 0.0);
        for (row, &count) in counts.iter().enumerate().filter(|(_, count)| **count > 0) {
            let (truth, predicted) = (self.rows.truth(row), self.rows.predicted(row));
            let (mut hits, mut either, mut mistakes) = (0, 0, 0);
            for (total, (&t, &p)) in totals.iter_mut().zip(truth.iter().zip(predicted)) {
                total.0 += u64::from(count) * u64::from(t && p);
                total.1 += u64::from(count) * u64::from(t);
                total.2 += u64::from(count) * u64::from(p);
                hits += u32::from(t && p);
                either += u32::from(t) + u32::from(p);
                mistakes += u32::from(t != p);
            }
            let count = f64::from(count);
            rows += count;
            exact += if mistakes == 0 { count } else { 0.0 };
            wrong += count * f64::from(mistakes);
            samples += count * f64::from(2 * hits) / f64::from(either.max(1));
        }
        let metrics: Vec<ClassMetrics> = totals
            .iter()
            .map(|&(hits, support, predicted)| ClassMetrics::from_counts(hits, support, predicted))
            .collect();
        let sum = |of: fn(&(u64, u64, u64)) -> u64| totals.iter().map(of).sum();
        let micro = ClassMetrics::from_counts(sum(|t| t.0), sum(|t| t.1), sum(|t| t.2));
        let macro_ = Average::weighted(metrics.iter().map(|label| (label, 1.0)));
        let weighted = Average::weighted(metrics.iter().map(|l| (l, l.support as f64)));
        let count = |row: usize| counts[row];
        let skip = resampled && self.rows() * self.labels.len() > RESAMPLED_RANKING_LIMIT;
        vec![
            Some(exact / rows),
            Some(wrong / rows / self.labels.len() as f64),
            Some(micro.precision),
            Some(micro.recall),
            Some(micro.f1),
            Some(macro_.precision),
            Some(macro_.recall),
            Some(macro_.f1),
            Some(weighted.f1),
            Some(samples / rows),
            self.mean_over_labels(|label| {
                if skip {
                    return None;
                }
                self.rankings[label].roc_auc_weighted(|row| self.rows.truth(row)[label], count)
            }),
            self.mean_over_labels(|label| {
                if skip {
                    return None;
                }
                self.rankings[label].average_precision_weighted(|row| self.rows.truth(row)[label], count)
            }),
        ]
    }

    fn truth(&self, row: usize) -> String {
        self.named(self.rows.truth(row))
    }

    fn answer(&self, row: usize) -> String {
        self.named(self.rows.predicted(row))
    }

    fn error(&self, row: usize) -> f64 {
        let pairs = self.rows.truth(row).iter().zip(self.rows.predicted(row));
        pairs.filter(|(t, p)| t != p).count() as f64
    }

    fn describe(&self, evaluation: &mut Evaluation) {
        let mut per_label = self.rows.per_label();
        for (label, metrics) in per_label.iter_mut().enumerate() {
            let positive = |row: usize| self.rows.truth(row)[label];
            let ranking = &self.rankings[label];
            metrics.roc_auc = ranking.roc_auc_weighted(positive, |_| 1);
            metrics.average_precision = ranking.average_precision_weighted(positive, |_| 1);
        }
        evaluation.per_class = self.labels.iter().cloned().zip(per_label).collect();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::evaluation::Options;
    use proptest::prelude::*;

    fn labels() -> Vec<String> {
        ["红", "green", "blue"].map(str::to_owned).to_vec()
    }

    proptest! {
        #[test]
        fn running_sums_agree_with_the_plain_metrics(
            rows in prop::collection::vec((prop::array::uniform3(any::<bool>()), prop::array::uniform3(0u8..=10)), 1..30)
        ) {
            let truths: Vec<bool> = rows.iter().flat_map(|row| row.0).collect();
            let values = rows.iter().flat_map(|row| row.1).map(|v| f64::from(v) / 10.0).collect();
            let p = Probabilities::unnormalised(values, 3).unwrap();
            let judged = MultiLabelled::new(&labels(), truths.clone(), &p, &[0.5; 3]).unwrap();
            let evaluation = Evaluation::new(&judged, &Options::default()).unwrap();
            let plain = MultiLabel::from_probabilities(truths, &p, &[0.5; 3]).unwrap();
            for (name, value) in [
                ("subset_accuracy", plain.subset_accuracy()),
                ("hamming_loss", plain.hamming_loss()),
                ("micro_f1", plain.micro_average().f1),
                ("macro_recall", plain.macro_average().recall),
                ("weighted_f1", plain.weighted_average().f1),
                ("samples_f1", plain.samples_average().f1),
            ] {
                let got = evaluation.metric(name).unwrap();
                prop_assert!((got - value).abs() < 1e-12, "{}: {} {}", name, got, value);
            }
        }
    }

    #[test]
    fn answers_are_named() {
        let p = Probabilities::unnormalised(vec![0.9, 0.8, 0.1, 0.1, 0.1, 0.1], 3).unwrap();
        let truths = vec![true, false, true, false, false, false];
        let judged = MultiLabelled::new(&labels(), truths, &p, &[0.5; 3]).unwrap();
        assert_eq!(judged.truth(0), "红, blue");
        assert_eq!(judged.answer(0), "红, green");
        assert_eq!(judged.answer(1), "(none)");
        assert_eq!((judged.error(0), judged.error(1)), (2.0, 0.0));
    }
}
