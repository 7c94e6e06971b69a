//! The sections about the result as a whole; a section without content is left out.

use super::Page;
use super::cells::{cell, rows_in, table, value_cells};
use crate::evaluation::Task;
use crate::names::{Lang, metric_label};
use crate::plot::{Bar, BarChart, ScatterChart, escape};
use crate::terminal::{confidence, interval, number, p_value, signed};
use std::fmt::Write;

impl Page<'_> {
    pub(super) fn label<'b>(&self, metric: &'b str) -> &'b str {
        metric_label(metric, self.lang)
    }

    /// "95 % interval".
    pub(super) fn interval_name(&self) -> String {
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
                Some(ends) => format!("{} <span>{}</span>", self.interval_name(), interval(Some(ends))),
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
        let content = format!("<figure>{}</figure>\n{table}{}", chart.to_svg(), self.gains_table());
        self.section("Models compared", "模型比较", &content)
    }

    /// What models gain over others, paired by row; nothing where none is given.
    fn gains_table(&self) -> String {
        if self.gains.is_empty() {
            return String::new();
        }
        let pick = |english, chinese| self.lang.pick(english, chinese);
        let head = format!(
            "<th>{}</th><th>{}</th><th>{}</th><th class=\"n\">{}</th><th>{}</th><th class=\"n\">p</th>",
            pick("Model", "模型"),
            pick("Against", "对比"),
            pick("Metric", "指标"),
            pick("Difference", "差值"),
            self.interval_name(),
        );
        let mut rows = String::new();
        for gain in self.gains {
            let class = match gain.clear() {
                None => "",
                Some(true) => " better",
                Some(false) => " worse",
            };
            let _ = writeln!(
                rows,
                "<tr><th>{}</th><td>{}</td><td>{}</td><td class=\"n{class}\">{}</td><td class=\"quiet\">{}</td><td class=\"n\">{}</td></tr>",
                escape(&gain.model),
                escape(&gain.over),
                escape(self.label(&gain.metric)),
                signed(gain.difference.difference),
                interval(gain.difference.interval.as_ref()),
                escape(&p_value(gain.difference.p_value)),
            );
        }
        let why = pick(
            "Differences on the same rows: both models are drawn with the same resamples, so the intervals are those of the difference.",
            "同一批样本上的差值：两个模型使用相同的重采样，因此区间就是差值的区间。",
        );
        format!("<p>{why}</p>\n{}", table(&head, &rows))
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

    pub(super) fn scatter_section(&self) -> String {
        let Some((truths, predicted)) = self.numbers else {
            return String::new();
        };
        let chart = ScatterChart {
            title: self.lang.pick("Predicted against true", "预测值与真实值").to_owned(),
            points: truths.iter().copied().zip(predicted.iter().copied()).collect(),
            lang: self.lang,
        };
        let content = format!("<figure>{}</figure>\n", chart.to_svg());
        self.section("How near the answers are", "预测的接近程度", &content)
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

/// A headline number: three digits after the point are what an interval leaves.
fn headline(value: f64) -> String {
    if value.abs() >= 1000.0 || (value != 0.0 && value.abs() < 0.001) {
        number(Some(value))
    } else {
        format!("{value:.3}")
    }
}
