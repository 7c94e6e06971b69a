//! The metrics against scikit-learn, SciPy and NumPy (values by tools/eval_golden.py).

use sensorium_eval::{
    Average, ClassMetrics, Classification, Confusion, Evaluation, KappaWeights, McNemar, MultiLabel, Options,
    Probabilities, Ranking, Regression, brier_score, calibration, log_loss, normal_quantile, top_k_accuracy, wilson,
};
use serde_json::Value;

fn cases(kind: &str) -> Vec<Value> {
    let golden: Value = serde_json::from_str(include_str!("golden/metrics.json")).unwrap();
    let cases = golden[kind].as_array().unwrap().clone();
    assert!(!cases.is_empty());
    cases
}

fn numbers(value: &Value) -> Vec<f64> {
    let values = value.as_array().unwrap();
    values.iter().map(|v| v.as_f64().unwrap()).collect()
}

fn indices(value: &Value) -> Vec<usize> {
    let values = value.as_array().unwrap();
    values.iter().map(|v| v.as_u64().unwrap() as usize).collect()
}

fn rows(value: &Value) -> Vec<Vec<f64>> {
    value.as_array().unwrap().iter().map(numbers).collect()
}

#[track_caller]
fn close(case: &Value, what: &str, got: impl Into<Option<f64>>, expected: &Value) {
    let name = &case["name"];
    match (got.into(), expected.as_f64()) {
        (Some(got), Some(want)) => {
            assert!((got - want).abs() <= 1e-10 * want.abs().max(1.0), "{name}, {what}: got {got}, expected {want}")
        }
        (got, _) => assert!(got.is_none() && expected.is_null(), "{name}, {what}: got {got:?}, expected {expected}"),
    }
}

#[track_caller]
fn close_average(case: &Value, what: &str, got: Average) {
    let expected = &case["expected"][what];
    close(case, what, got.precision, &expected["precision"]);
    close(case, what, got.recall, &expected["recall"]);
    close(case, what, got.f1, &expected["f1"]);
}

#[track_caller]
fn close_classes(case: &Value, what: &str, got: &[ClassMetrics]) {
    let expected = &case["expected"][what];
    assert_eq!(got.len(), expected["f1"].as_array().unwrap().len());
    for (class, metrics) in got.iter().enumerate() {
        close(case, what, metrics.precision, &expected["precision"][class]);
        close(case, what, metrics.recall, &expected["recall"][class]);
        close(case, what, metrics.f1, &expected["f1"][class]);
        let support = metrics.support as f64;
        close(case, what, support, &expected["support"][class]);
    }
}

#[test]
fn classification_by_labels() {
    for case in &cases("labels") {
        let expected = &case["expected"];
        let classes = case["classes"].as_u64().unwrap() as usize;
        let (truths, predicted) = (indices(&case["truths"]), indices(&case["predicted"]));
        let confusion = Confusion::new(&truths, &predicted, classes).unwrap();
        assert_eq!(serde_json::to_value(confusion.to_rows()).unwrap(), expected["confusion"]);
        let tally = confusion.tally();
        close_classes(case, "per_class", &tally.per_class());
        close_average(case, "macro", tally.macro_average());
        close_average(case, "weighted", tally.weighted_average());
        close_average(case, "micro", tally.micro_average());
        let scalars = [
            ("accuracy", Some(tally.accuracy())),
            ("balanced_accuracy", Some(tally.balanced_accuracy())),
            ("matthews", Some(tally.matthews())),
            ("kappa", tally.kappa()),
            ("kappa", confusion.kappa(KappaWeights::None)),
            ("linear_kappa", confusion.kappa(KappaWeights::Linear)),
            ("quadratic_kappa", confusion.kappa(KappaWeights::Quadratic)),
            ("mean_rank_error", Some(confusion.mean_rank_error())),
        ];
        for (what, got) in scalars {
            close(case, what, got, &expected[what]);
        }
    }
}

#[test]
fn classification_by_probabilities() {
    for case in &cases("probabilities") {
        let expected = &case["expected"];
        let truths = indices(&case["truths"]);
        let values = rows(&case["probabilities"]);
        let classes = values[0].len();
        let p = Probabilities::from_rows(&values, classes).unwrap();
        for class in 0..classes {
            let ranking = Ranking::new(&p.column(class)).unwrap();
            let positive: Vec<bool> = truths.iter().map(|&t| t == class).collect();
            let auc = ranking.roc_auc(&positive).unwrap();
            close(case, "roc_auc", auc, &expected["roc_auc"][class]);
            let precision = ranking.average_precision(&positive).unwrap();
            let want = &expected["average_precision"][class];
            close(case, "average_precision", precision, want);
            if class == 1 && expected["roc_curve"].is_array() {
                close(case, "roc_auc_binary", auc, &expected["roc_auc_binary"]);
                let curves = [
                    ("roc_curve", ranking.roc_curve(&positive).unwrap()),
                    ("precision_recall_curve", ranking.precision_recall_curve(&positive).unwrap()),
                ];
                for (what, curve) in curves {
                    assert_eq!(curve.len(), expected[what].as_array().unwrap().len());
                    for (at, (x, y)) in curve.into_iter().enumerate() {
                        close(case, what, x, &expected[what][at][0]);
                        close(case, what, y, &expected[what][at][1]);
                    }
                }
            }
        }
        let names: Vec<String> = (0..classes).map(|class| class.to_string()).collect();
        let judged = Classification::new(&names, &truths, p.clone()).unwrap();
        let evaluation = Evaluation::new(&judged, &Options::default()).unwrap();
        let pairs = [
            ("roc_auc", "roc_auc_macro"),
            ("roc_auc_weighted", "roc_auc_weighted"),
            ("roc_auc", "roc_auc_binary"),
            ("log_loss", "log_loss"),
            ("brier", "brier"),
            ("calibration_error", "calibration_error"),
        ];
        for (ours, theirs) in pairs {
            if expected[theirs].is_number() {
                close(case, ours, evaluation.metric(ours), &expected[theirs]);
            }
        }
        let loss = log_loss(&truths, &p).unwrap();
        close(case, "log_loss", loss, &expected["log_loss"]);
        close(case, "brier", brier_score(&truths, &p).unwrap(), &expected["brier"]);
        let error = calibration(&truths, &p, 15).unwrap().error;
        close(case, "calibration", error, &expected["calibration_error"]);
        if expected["top_2"].is_number() {
            let top = top_k_accuracy(&truths, &p, 2).unwrap();
            close(case, "top_2", top, &expected["top_2"]);
        }
    }
}

#[test]
fn multilabel() {
    for case in &cases("multilabel") {
        let expected = &case["expected"];
        let values = rows(&case["probabilities"]);
        let labels = values[0].len();
        let p = Probabilities::unnormalised_from_rows(&values, labels).unwrap();
        let truths = rows(&case["truths"]).concat();
        let truths = truths.into_iter().map(|t| t == 1.0).collect();
        let thresholds = vec![case["threshold"].as_f64().unwrap(); labels];
        let result = MultiLabel::from_probabilities(truths, &p, &thresholds).unwrap();
        close_classes(case, "per_label", &result.per_label());
        close_average(case, "macro", result.macro_average());
        close_average(case, "weighted", result.weighted_average());
        close_average(case, "micro", result.micro_average());
        close_average(case, "samples", result.samples_average());
        let accuracy = result.subset_accuracy();
        close(case, "subset_accuracy", accuracy, &expected["subset_accuracy"]);
        close(case, "hamming_loss", result.hamming_loss(), &expected["hamming_loss"]);
        let per_label =
            [("average_precision", result.average_precision(&p).unwrap()), ("roc_auc", result.roc_auc(&p).unwrap())];
        for (what, areas) in per_label {
            for (label, area) in areas.into_iter().enumerate() {
                close(case, what, area, &expected[what][label]);
            }
        }
        let (precision, auc) = result.micro_ranking(&p).unwrap();
        close(case, "micro AP", precision, &expected["micro_average_precision"]);
        close(case, "micro AUC", auc, &expected["micro_roc_auc"]);
    }
}

#[test]
fn regression() {
    for case in &cases("regression") {
        let (truths, predicted) = (numbers(&case["truths"]), numbers(&case["predicted"]));
        let result = Regression::new(&truths, &predicted).unwrap();
        let scalars = [
            ("mae", Some(result.mae())),
            ("mse", Some(result.mse())),
            ("rmse", Some(result.rmse())),
            ("median_ae", Some(result.median_absolute_error())),
            ("max_error", Some(result.maximum_error())),
            ("r2", result.r2()),
            ("pearson", result.pearson()),
            ("spearman", result.spearman()),
            ("kendall", result.kendall()),
        ];
        for (what, got) in scalars {
            close(case, what, got, &case["expected"][what]);
        }
    }
}

#[test]
fn statistics() {
    let golden: Value = serde_json::from_str(include_str!("golden/metrics.json")).unwrap();
    let values = &golden["statistics"];
    for (p, quantile) in rows(&values["quantiles"]).iter().map(|row| (row[0], row[1])) {
        let got = normal_quantile(p);
        assert!((got - quantile).abs() < 1e-12 * quantile.abs().max(1.0), "{p}: {got}");
    }
    for row in rows(&values["wilson"]) {
        let got = wilson(row[0] as u64, row[1] as u64, row[2]).unwrap();
        assert!((got.low - row[3]).abs() < 1e-12 && (got.high - row[4]).abs() < 1e-12);
    }
    for row in rows(&values["mcnemar"]) {
        let (b, c) = (row[0] as usize, row[1] as usize);
        let before: Vec<bool> = (0..b + c).map(|i| i < b).collect();
        let after: Vec<bool> = before.iter().map(|right| !right).collect();
        let got = McNemar::new(&before, &after).unwrap().p_value;
        assert!((got - row[2]).abs() < 1e-9 * row[2], "{b}, {c}: {got}, {}", row[2]);
    }
}
