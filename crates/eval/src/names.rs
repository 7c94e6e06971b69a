//! What metrics are called for people, and which way is better.

use serde::{Deserialize, Serialize};

/// Language of the words in a report.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Lang {
    /// English.
    #[default]
    En,
    /// Chinese, simplified.
    Zh,
}

impl Lang {
    /// The words in this language.
    pub(crate) fn pick<'a>(self, english: &'a str, chinese: &'a str) -> &'a str {
        match self {
            Self::En => english,
            Self::Zh => chinese,
        }
    }

    /// Its code for the `lang` attribute of HTML.
    pub fn code(self) -> &'static str {
        self.pick("en", "zh-CN")
    }
}

/// Metrics with their names in English and Chinese and whether more is better.
const METRICS: [(&str, &str, &str, bool); 37] = [
    ("accuracy", "Accuracy", "准确率", true),
    ("balanced_accuracy", "Balanced accuracy", "平衡准确率", true),
    ("macro_precision", "Macro precision", "宏平均精确率", true),
    ("macro_recall", "Macro recall", "宏平均召回率", true),
    ("macro_f1", "Macro F1", "宏平均 F1", true),
    ("weighted_precision", "Weighted precision", "加权精确率", true),
    ("weighted_recall", "Weighted recall", "加权召回率", true),
    ("weighted_f1", "Weighted F1", "加权 F1", true),
    ("micro_precision", "Micro precision", "微平均精确率", true),
    ("micro_recall", "Micro recall", "微平均召回率", true),
    ("micro_f1", "Micro F1", "微平均 F1", true),
    ("samples_f1", "F1 per row", "逐样本 F1", true),
    ("subset_accuracy", "All labels right", "全部标签正确率", true),
    ("hamming_loss", "Hamming loss", "汉明损失", false),
    ("matthews", "Matthews correlation", "马修斯相关系数", true),
    ("kappa", "Cohen's kappa", "Cohen κ 系数", true),
    ("quadratic_kappa", "Quadratic kappa", "二次加权 κ 系数", true),
    ("mean_rank_error", "Mean rank error", "平均等级误差", false),
    ("within_one_rank", "Within one rank", "相差不超过一级", true),
    ("top_3_accuracy", "Top-3 accuracy", "前 3 准确率", true),
    ("top_5_accuracy", "Top-5 accuracy", "前 5 准确率", true),
    ("roc_auc", "ROC-AUC", "ROC-AUC", true),
    ("roc_auc_weighted", "ROC-AUC, weighted", "加权 ROC-AUC", true),
    ("average_precision", "PR-AUC", "PR-AUC", true),
    ("log_loss", "Log loss", "对数损失", false),
    ("brier", "Brier score", "Brier 分数", false),
    ("calibration_error", "Calibration error", "校准误差", false),
    ("mae", "Mean absolute error", "平均绝对误差", false),
    ("rmse", "Root mean squared error", "均方根误差", false),
    ("mse", "Mean squared error", "均方误差", false),
    ("median_ae", "Median absolute error", "绝对误差中位数", false),
    ("max_error", "Largest error", "最大误差", false),
    ("r2", "R²", "R²", true),
    ("pearson", "Pearson correlation", "皮尔逊相关系数", true),
    ("spearman", "Spearman correlation", "斯皮尔曼相关系数", true),
    ("kendall", "Kendall's tau", "肯德尔 τ", true),
    ("loss", "Loss", "损失", false),
];

/// What a metric is called for people; unknown ones keep their name.
pub fn metric_label(name: &str, lang: Lang) -> &str {
    let known = METRICS.iter().find(|metric| metric.0 == name);
    known.map_or(name, |metric| lang.pick(metric.1, metric.2))
}

/// Whether more of a metric is better; none for a name that is no metric.
pub fn higher_is_better(name: &str) -> Option<bool> {
    let known = METRICS.iter().find(|metric| metric.0 == name);
    known.map(|metric| metric.3)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Classification, Judged, MultiLabelled, Probabilities, Regressed};

    #[test]
    fn every_metric_that_is_measured_has_a_name() {
        let classes: Vec<String> = (0..6).map(|c| c.to_string()).collect();
        let p = Probabilities::new(vec![0.25, 0.25, 0.25, 0.25, 0.0, 0.0], 6).unwrap();
        let single = Classification::new(&classes, &[0], p.clone()).unwrap();
        let multi = MultiLabelled::new(&classes, vec![true; 6], &p, &[0.5; 6]).unwrap();
        let number = Regressed::new(&[0.0], &[0.0]).unwrap();
        for judged in [&single.ordinal() as &dyn Judged, &multi, &number] {
            for name in judged.metrics() {
                assert!(higher_is_better(&name).is_some(), "{name}");
                assert_ne!(metric_label(&name, Lang::En), name);
            }
        }
        assert_eq!(higher_is_better("macro f1"), None);
        assert_eq!(metric_label("accuracy", Lang::Zh), "准确率");
    }
}
