//! The sections about classes: their table, what was taken for what, their curves.

use super::Page;
use super::cells::{cell, rows_in, table};
use crate::names::Lang;
use crate::plot::{ConfusionMap, ReliabilityDiagram, escape, precision_recall_chart, roc_chart};
use crate::ranking::Curve;
use crate::terminal::number;
use std::fmt::Write;

/// How many confusions are told in words.
const CONFUSIONS: usize = 10;
/// How many classes get a curve of their own, those with most rows.
const CURVES: usize = 7;
/// A confusion matrix of more classes than this cannot be read on a page.
const MATRIX_CLASSES: usize = 100;

impl Page<'_> {
    pub(super) fn classes_section(&self) -> String {
        let evaluation = self.evaluation;
        if evaluation.per_class.is_empty() {
            return String::new();
        }
        let pick = |english, chinese| self.lang.pick(english, chinese);
        let areas = evaluation.per_class.values().any(|c| c.roc_auc.is_some());
        let mut head = format!(
            "<th>{}</th><th class=\"n\">{}</th><th class=\"n\">{}</th><th class=\"n\">F1</th><th class=\"n\">{}</th>",
            pick("Class", "类别"),
            pick("Precision", "精确率"),
            pick("Recall", "召回率"),
            pick("Support", "样本数"),
        );
        if areas {
            head += "<th class=\"n\">ROC-AUC</th><th class=\"n\">PR-AUC</th>";
        }
        let mut rows = String::new();
        for (name, class) in &evaluation.per_class {
            let value = |metric: &str, value: f64| {
                if class.undefined.iter().any(|name| name == metric) {
                    "<td class=\"n quiet\">–</td>".to_owned()
                } else {
                    format!("<td class=\"n\">{value:.4}</td>")
                }
            };
            let _ = write!(
                rows,
                "<tr><th class=\"bar\" style=\"--share:{:.1}%\">{}</th>{}{}{}{}",
                100.0 * class.f1,
                escape(name),
                value("precision", class.precision),
                value("recall", class.recall),
                value("f1", class.f1),
                cell(class.support),
            );
            if areas {
                for area in [class.roc_auc, class.average_precision] {
                    let _ = write!(rows, "<td class=\"n\">{}</td>", number(area));
                }
            }
            rows += "</tr>\n";
        }
        let support: u64 = evaluation.per_class.values().map(|c| c.support).sum();
        for (name, average) in evaluation.averages() {
            let name = match name {
                "micro" => pick("micro average", "微平均"),
                "macro" => pick("macro average", "宏平均"),
                _ => pick("weighted average", "加权平均"),
            };
            let _ = writeln!(
                rows,
                "<tr class=\"total\"><th>{name}</th><td class=\"n\">{:.4}</td><td class=\"n\">{:.4}</td><td class=\"n\">{:.4}</td>{}{}</tr>",
                average.precision,
                average.recall,
                average.f1,
                cell(support),
                if areas { "<td></td><td></td>" } else { "" },
            );
        }
        let note = pick(
            "<p class=\"quiet\">The shade behind a name is its F1. A dash: undefined for want of rows, counted as 0.</p>\n",
            "<p class=\"quiet\">类别名后的底色表示 F1。短横线：样本不足，无定义，按 0 计。</p>\n",
        );
        let content = table(&head, &rows) + note;
        self.section("By class", "按类别", &content)
    }

    pub(super) fn confusion_section(&self) -> String {
        let evaluation = self.evaluation;
        let classes = evaluation.per_class.len();
        if evaluation.confusion.len() != classes || classes == 0 {
            return String::new();
        }
        let mut content = String::new();
        if classes <= MATRIX_CLASSES {
            let map = ConfusionMap {
                classes: evaluation.per_class.keys().cloned().collect(),
                counts: evaluation.confusion.clone(),
                lang: self.lang,
            };
            let _ = writeln!(content, "<figure>{}</figure>", map.to_svg());
        }
        let confusions = evaluation.confusions(CONFUSIONS);
        if !confusions.is_empty() {
            content += "<ol class=\"confusions\">\n";
            for (truth, predicted, count) in confusions {
                let (truth, predicted) = (escape(truth), escape(predicted));
                let _ = match self.lang {
                    Lang::En => writeln!(
                        content,
                        "<li><strong>{truth}</strong> taken for <strong>{predicted}</strong>: {}</li>",
                        rows_in(count, self.lang)
                    ),
                    Lang::Zh => writeln!(
                        content,
                        "<li>把<strong>{truth}</strong>当成<strong>{predicted}</strong>：{count} 行</li>"
                    ),
                };
            }
            content += "</ol>\n";
        }
        self.section("What was taken for what", "混淆情况", &content)
    }

    pub(super) fn curves_section(&self) -> String {
        let mut content = String::new();
        if let Some(curves) = self.curves {
            let roc = self.largest(&curves.roc, |class| class.roc_auc);
            let precision = self.largest(&curves.precision_recall, |c| c.average_precision);
            for chart in [roc_chart(&roc, self.lang), precision_recall_chart(&precision, self.lang)] {
                if !chart.series.is_empty() {
                    let _ = writeln!(content, "<figure>{}</figure>", chart.to_svg());
                }
            }
        }
        if let Some(calibration) = &self.evaluation.calibration {
            let diagram = ReliabilityDiagram { calibration: calibration.clone(), lang: self.lang };
            let _ = writeln!(content, "<figure>{}</figure>", diagram.to_svg());
        }
        if !content.is_empty() {
            content = format!("<div class=\"figures\">\n{content}</div>\n");
        }
        self.section("Ranking and calibration", "排序与校准", &content)
    }

    /// The curves of the classes with most rows, the area in their names.
    fn largest(
        &self,
        curves: &[(String, Curve)],
        area: impl Fn(&crate::ClassMetrics) -> Option<f64>,
    ) -> Vec<(String, Curve)> {
        let support = |name: &str| self.evaluation.per_class.get(name).map_or(0, |c| c.support);
        let mut curves: Vec<_> = curves.iter().collect();
        curves.sort_by_key(|(name, _)| u64::MAX - support(name));
        curves
            .into_iter()
            .take(CURVES)
            .map(|(name, curve)| {
                let class = self.evaluation.per_class.get(name);
                let area = class.and_then(&area);
                let name = crate::table::shorten(name, 24);
                let name = area.map_or(name.clone(), |area| format!("{name} ({area:.3})"));
                (name, curve.clone())
            })
            .collect()
    }
}
