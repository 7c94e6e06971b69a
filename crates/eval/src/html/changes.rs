//! The sections about single rows and about what changed between two models.

use super::cells::{rows_in, table, value_cells};
use super::{Example, Page, is_picture};
use crate::evaluation::Change;
use crate::names::Lang;
use crate::plot::escape;
use crate::terminal::{interval, p_equals, p_value, row_name, signed};
use std::fmt::Write;

/// How many changed rows the page lists.
const CHANGED_ROWS: usize = 100;

impl Page<'_> {
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
}
