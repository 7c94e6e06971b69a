//! The sections of the page, one method each; a section without content is left out.

use super::{Example, Page, is_picture};
use crate::evaluation::{Change, Task};
use crate::names::{Lang, metric_label};
use crate::plot::{Bar, BarChart, ConfusionMap, ReliabilityDiagram, escape, precision_recall_chart, roc_chart};
use crate::ranking::Curve;
use crate::terminal::{confidence, interval, number, p_equals, p_value, row_name, signed};
use std::fmt::Write;

/// How many changed rows the page lists.
const CHANGED_ROWS: usize = 100;
/// How many confusions are told in words.
const CONFUSIONS: usize = 10;
/// How many classes get a curve of their own, those with most rows.
const CURVES: usize = 7;
/// A confusion matrix of more classes than this cannot be read on a page.
const MATRIX_CLASSES: usize = 100;

impl Page<'_> {
    fn label<'b>(&self, metric: &'b str) -> &'b str {
        metric_label(metric, self.lang)
    }

    /// "95 % interval".
    fn interval_name(&self) -> String {
        let share = confidence(self.evaluation);
        match self.lang {
            Lang::En => format!("{share} interval"),
            Lang::Zh => format!("{share} 置信区间"),
        }
    }

    pub(super) fn header(&self) -> String {
        let mut html = format!(
            "<header>\n<h1>{}</h1>\n<p class=\"lead\">{}</p>\n</header>\n<ul class=\"cards\">\n",
            escape(self.title),
            self.in_words()
        );
        let first: &[&str] = match self.evaluation.task {
            Task::Classification => &["accuracy", "macro_f1", "weighted_f1", "roc_auc"],
            Task::Ordinal => &["accuracy", "within_one_rank", "mean_rank_error", "quadratic_kappa"],
            Task::MultiLabel => &["micro_f1", "macro_f1", "subset_accuracy", "average_precision"],
            Task::Regression => &["mae", "rmse", "r2", "spearman"],
        };
        for name in first {
            let Some(value) = self.evaluation.metric(name) else {
                continue;
            };
            let around = match self.evaluation.intervals.get(*name) {
                None => String::new(),
                Some(ends) => format!("{} {}", self.interval_name(), interval(Some(ends))),
            };
            let _ = writeln!(
                html,
                "<li><div class=\"name\">{}</div><div class=\"value\">{}</div><div class=\"interval\">{around}</div></li>",
                self.label(name),
                headline(value),
            );
        }
        html + "</ul>\n"
    }

    /// The result in a sentence or two.
    fn in_words(&self) -> String {
        let evaluation = self.evaluation;
        let (rows, lang) = (evaluation.rows, self.lang);
        if evaluation.confusion.is_empty() {
            return match lang {
                Lang::En => format!("Evaluated on <strong>{rows}</strong> rows."),
                Lang::Zh => format!("在 <strong>{rows}</strong> 行数据上评估。"),
            };
        }
        let right =
            (0..evaluation.confusion.len()).filter_map(|class| evaluation.confusion[class].get(class)).sum::<u64>();
        let mut words = match lang {
            Lang::En => format!("<strong>{right} of {rows}</strong> rows are right."),
            Lang::Zh => format!("<strong>{rows} 行中 {right} 行</strong>预测正确。"),
        };
        let seen = evaluation.per_class.iter().filter(|(_, c)| c.support > 0);
        if let Some((name, class)) = seen.min_by(|a, b| a.1.f1.total_cmp(&b.1.f1)) {
            let (name, f1) = (escape(name), class.f1);
            words += &match lang {
                Lang::En => format!(" Hardest is <strong>{name}</strong> (F1 {f1:.3})."),
                Lang::Zh => format!("最难的类别是<strong>{name}</strong>（F1 {f1:.3}）。"),
            };
        }
        if let Some((truth, predicted, count)) = evaluation.confusions(1).first() {
            let (truth, predicted) = (escape(truth), escape(predicted));
            words += &match lang {
                Lang::En => format!(
                    " Most often, <strong>{truth}</strong> was taken for <strong>{predicted}</strong> ({}).",
                    rows_in(*count, lang)
                ),
                Lang::Zh => {
                    format!("最常见的错误是把<strong>{truth}</strong>当成<strong>{predicted}</strong>（{count} 行）。")
                }
            };
        }
        words
    }

    pub(super) fn models_section(&self) -> String {
        let Some(models) = self.models else {
            return String::new();
        };
        let metric = self.evaluation.headline()[0];
        let bars = models.iter().map(|(name, model)| Bar {
            name: name.clone(),
            value: model.metric(metric),
            interval: model.intervals.get(metric).copied(),
            highlight: self.highlight.contains(name),
        });
        let chart = BarChart {
            title: self.label(metric).to_owned(),
            label: if models.values().any(|m| m.intervals.contains_key(metric)) {
                self.interval_name()
            } else {
                String::new()
            },
            bars: bars.collect(),
            unit: false,
        };
        let metrics = self.evaluation.headline();
        let mut rows = String::new();
        for (name, model) in models {
            let _ = write!(rows, "<tr><th>{}</th>{}", escape(name), cell(model.rows));
            for metric in metrics {
                rows += &value_cells(model.metric(metric), model.intervals.get(*metric));
            }
            rows += "</tr>\n";
        }
        let table = self.metric_table(self.lang.pick("Model", "模型"), metrics, &rows);
        let content = format!("<figure>{}</figure>\n{table}", chart.to_svg());
        self.section("Models compared", "模型比较", &content)
    }

    /// A table of names, rows and some metrics with their intervals.
    fn metric_table(&self, first: &str, metrics: &[&str], rows: &str) -> String {
        let mut head = format!("<th>{first}</th><th class=\"n\">{}</th>", self.lang.pick("Rows", "行数"));
        for metric in metrics {
            let _ = write!(head, "<th class=\"n\">{}</th><th>{}</th>", self.label(metric), self.interval_name());
        }
        table(&head, rows)
    }

    pub(super) fn subsets_section(&self) -> String {
        let evaluation = self.evaluation;
        if evaluation.subsets.is_empty() && evaluation.gates.is_empty() {
            return String::new();
        }
        let mut content = String::new();
        if !evaluation.subsets.is_empty() {
            let metrics = evaluation.headline();
            let all = self.lang.pick("all rows", "全部").to_owned();
            let whole = evaluation.as_subset();
            let mut rows = String::new();
            for (name, subset) in std::iter::once((&all, &whole)).chain(&evaluation.subsets) {
                let _ = write!(rows, "<tr><th>{}</th>{}", escape(name), cell(subset.rows));
                for metric in metrics {
                    let value = subset.metrics.get(*metric).copied().flatten();
                    rows += &value_cells(value, subset.intervals.get(*metric));
                }
                rows += "</tr>\n";
            }
            content += &self.metric_table(self.lang.pick("Modalities", "模态"), metrics, &rows);
        }
        if !evaluation.gates.is_empty() {
            let chart = BarChart {
                title: self.lang.pick("Weight of each modality", "各模态的权重").to_owned(),
                label: self.lang.pick("mean gate", "平均门控权重").to_owned(),
                bars: evaluation
                    .gates
                    .iter()
                    .map(|(name, weight)| Bar {
                        name: name.clone(),
                        value: Some(*weight),
                        interval: None,
                        highlight: false,
                    })
                    .collect(),
                unit: true,
            };
            let _ = writeln!(content, "<figure>{}</figure>", chart.to_svg());
        }
        self.section("By modality", "按模态", &content)
    }

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

    pub(super) fn learning_section(&self) -> String {
        let mut content = String::new();
        for chart in self.learning {
            let _ = writeln!(content, "<figure>{}</figure>", chart.to_svg());
        }
        if !content.is_empty() {
            content = format!("<div class=\"figures\">\n{content}</div>\n");
        }
        self.section("Training", "训练过程", &content)
    }

    pub(super) fn metrics_section(&self) -> String {
        let head = format!(
            "<th>{}</th><th class=\"n\">{}</th><th>{}</th>",
            self.lang.pick("Metric", "指标"),
            self.lang.pick("Value", "数值"),
            if self.evaluation.intervals.is_empty() { String::new() } else { self.interval_name() },
        );
        let mut rows = String::new();
        for (name, value) in &self.evaluation.metrics {
            let _ = writeln!(
                rows,
                "<tr><th>{}</th>{}</tr>",
                escape(self.label(name)),
                value_cells(*value, self.evaluation.intervals.get(name))
            );
        }
        self.section("All metrics", "全部指标", &table(&head, &rows))
    }

    pub(super) fn facts_section(&self) -> String {
        if self.facts.is_empty() {
            return String::new();
        }
        let facts: String = self
            .facts
            .iter()
            .map(|(name, fact)| format!("<div><dt>{}</dt><dd>{}</dd></div>\n", escape(name), escape(fact)))
            .collect();
        self.section("Model and run", "模型与训练", &format!("<dl>\n{facts}</dl>\n"))
    }

    pub(super) fn comparison_section(&self) -> String {
        let Some(comparison) = self.comparison else {
            return String::new();
        };
        let pick = |english, chinese| self.lang.pick(english, chinese);
        let range = self.interval_name();
        let head = format!(
            "<th>{}</th><th class=\"n\">{}</th><th>{range}</th><th class=\"n\">{}</th><th>{range}</th><th class=\"n\">{}</th><th>{range}</th><th class=\"n\">p</th>",
            pick("Metric", "指标"),
            pick("Before", "之前"),
            pick("After", "之后"),
            pick("Difference", "差值"),
        );
        let mut rows = String::new();
        for (name, difference) in &comparison.differences {
            let higher = crate::names::higher_is_better(name).unwrap_or(true);
            let gain = if higher { difference.difference } else { -difference.difference };
            // Only what chance hardly explains is coloured.
            let clear = difference.interval.is_some_and(|i| i.low > 0.0 || i.high < 0.0);
            let class = match (clear, gain > 0.0) {
                (false, _) => "",
                (true, true) => " better",
                (true, false) => " worse",
            };
            let _ = writeln!(
                rows,
                "<tr><th>{}</th>{}{}<td class=\"n{class}\">{}</td><td class=\"quiet\">{}</td><td class=\"n\">{}</td></tr>",
                escape(self.label(name)),
                value_cells(comparison.before.metric(name), comparison.before.intervals.get(name)),
                value_cells(comparison.after.metric(name), comparison.after.intervals.get(name)),
                signed(difference.difference),
                interval(difference.interval.as_ref()),
                escape(&p_value(difference.p_value)),
            );
        }
        let mut content = table(&head, &rows);
        if let Some(test) = comparison.mcnemar {
            let p = escape(&p_equals(test.p_value));
            let (before, after) = (test.only_before, test.only_after);
            let _ = match self.lang {
                Lang::En => writeln!(
                    content,
                    "<p>Right only before: {}; right only after: {} (McNemar's exact test, {p}).</p>",
                    rows_in(before, self.lang),
                    rows_in(after, self.lang)
                ),
                Lang::Zh => writeln!(
                    content,
                    "<p>仅之前正确：{before} 行；仅之后正确：{after} 行（McNemar 精确检验，{p}）。</p>"
                ),
            };
        }
        self.section("Before and after", "前后对比", &content)
    }

    pub(super) fn changed_section(&self) -> String {
        let Some(comparison) = self.comparison.filter(|c| !c.changed.is_empty()) else {
            return String::new();
        };
        let pick = |english, chinese| self.lang.pick(english, chinese);
        let head = format!(
            "<th>{}</th><th>{}</th><th>{}</th><th>{}</th><th></th>",
            pick("Row", "行"),
            pick("Truth", "真实"),
            pick("Before", "之前"),
            pick("After", "之后"),
        );
        let mut rows = String::new();
        for row in comparison.changed.iter().take(CHANGED_ROWS) {
            let (class, word) = match row.change {
                Change::Better => ("better", pick("better", "变好")),
                Change::Worse => ("worse", pick("worse", "变差")),
                Change::Same => ("quiet", pick("still wrong", "仍然错误")),
            };
            let _ = writeln!(
                rows,
                "<tr><th>{}</th><td>{}</td><td>{}</td><td>{}</td><td class=\"{class}\">{word}</td></tr>",
                escape(&row_name(row.row, self.ids)),
                escape(&row.truth),
                escape(&row.before),
                escape(&row.after),
            );
        }
        let hidden = comparison.changed.len().saturating_sub(CHANGED_ROWS);
        let mut content = table(&head, &rows);
        if hidden > 0 {
            let _ = match self.lang {
                Lang::En => writeln!(content, "<p class=\"quiet\">… and {hidden} more.</p>"),
                Lang::Zh => writeln!(content, "<p class=\"quiet\">……另有 {hidden} 行。</p>"),
            };
        }
        self.section("Rows that changed", "发生变化的行", &content)
    }

    pub(super) fn examples_section(&self) -> String {
        if self.examples.is_empty() {
            return String::new();
        }
        let examples: String = self.examples.iter().map(|e| self.example(e)).collect();
        let content = format!("<div class=\"examples\">\n{examples}</div>\n");
        self.section("Rows to look at", "值得查看的行", &content)
    }

    fn example(&self, example: &Example) -> String {
        let pick = |english, chinese| self.lang.pick(english, chinese);
        let right = example.truth == example.answer;
        let mut html = "<div class=\"example\">".to_owned();
        for uri in example.thumbnails.iter().filter(|uri| is_picture(uri)) {
            let _ = write!(html, "<img src=\"{uri}\" alt=\"{}\">", escape(&example.id));
        }
        if let Some(text) = &example.text {
            let _ = write!(html, "<p>{}</p>", escape(&crate::table::shorten(text, 240)));
        }
        let sure = example.confidence.map_or_else(String::new, |confidence| {
            format!(" <span class=\"quiet\">{:.1} %</span>", 100.0 * confidence)
        });
        let _ = write!(
            html,
            "<p>{} <span class=\"{}\">{}</span>{sure}</p>",
            pick("Predicted:", "预测："),
            if right { "better" } else { "worse" },
            escape(&example.answer)
        );
        if !right {
            let _ = write!(html, "<p>{} <strong>{}</strong></p>", pick("True:", "真实："), escape(&example.truth));
        }
        let _ = writeln!(html, "<p class=\"quiet\">{}</p></div>", escape(&example.id));
        html
    }

    pub(super) fn footer(&self) -> String {
        let version = env!("CARGO_PKG_VERSION");
        let intervals = self.evaluation.bootstrap.map_or_else(String::new, |bootstrap| {
            let share = confidence(self.evaluation);
            let (resamples, seed) = (bootstrap.resamples, bootstrap.seed);
            match self.lang {
                Lang::En => format!(" {share} intervals by bootstrap: {resamples} resamples, seed {seed}."),
                Lang::Zh => format!("{share} 置信区间由自助法得到：{resamples} 次重采样，随机种子 {seed}。"),
            }
        });
        match self.lang {
            Lang::En => format!("<footer>Made by Sensorium {version}.{intervals}</footer>\n"),
            Lang::Zh => format!("<footer>由 Sensorium {version} 生成。{intervals}</footer>\n"),
        }
    }
}

fn table(head: &str, rows: &str) -> String {
    format!("<div class=\"scroll\"><table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{rows}</tbody>\n</table></div>\n")
}

fn cell(count: impl std::fmt::Display) -> String {
    format!("<td class=\"n\">{count}</td>")
}

fn value_cells(value: Option<f64>, ends: Option<&crate::Interval>) -> String {
    format!(
        "<td class=\"n\">{}</td><td class=\"quiet n\" style=\"text-align:left\">{}</td>",
        number(value),
        interval(ends)
    )
}

/// A headline number: three digits after the point are what an interval leaves.
fn headline(value: f64) -> String {
    if value.abs() >= 1000.0 || (value != 0.0 && value.abs() < 0.001) {
        number(Some(value))
    } else {
        format!("{value:.3}")
    }
}

fn rows_in(count: u64, lang: Lang) -> String {
    match (lang, count) {
        (Lang::Zh, _) => format!("{count} 行"),
        (Lang::En, 1) => "1 row".to_owned(),
        (Lang::En, _) => format!("{count} rows"),
    }
}
