//! Reports as text: for the terminal, and comparisons of models also as Markdown.

use crate::averages::Average;
use crate::bootstrap::Interval;
use crate::evaluation::{Change, Comparison, Evaluation, Task};
use crate::names::{Lang, metric_label};
use crate::table::{Align, Table, shorten};
use indexmap::IndexMap;
use std::fmt::Write;
use unicode_width::UnicodeWidthStr;

/// The widest name of a class, answer or subset in a terminal table, in columns.
pub(crate) const NAME_WIDTH: usize = 32;
/// More classes than this make a confusion matrix wider than a terminal: the largest confusions are listed.
const MATRIX_CLASSES: usize = 20;
/// Columns of names wider than this, in all, are numbered instead.
const MATRIX_WIDTH: usize = 64;
/// How many confusions are listed in words.
const CONFUSIONS: usize = 10;
/// How many changed rows are listed.
const CHANGED_ROWS: usize = 20;

/// A value with up to four digits after the point; "–" where undefined.
pub(crate) fn number(value: Option<f64>) -> String {
    match value.filter(|v| v.is_finite()) {
        None => "–".to_owned(),
        Some(v) if v.abs() >= 1e6 || (v != 0.0 && v.abs() < 1e-4) => format!("{v:.3e}"),
        Some(v) if v.abs() >= 100.0 => format!("{v:.2}"),
        Some(v) => format!("{v:.4}"),
    }
}

/// An interval beside its value, with one digit less.
pub(crate) fn interval(interval: Option<&Interval>) -> String {
    let end = |value: f64| {
        if value.abs() >= 100.0 { format!("{value:.1}") } else { format!("{value:.3}") }
    };
    interval.map_or_else(String::new, |interval| format!("[{}, {}]", end(interval.low), end(interval.high)))
}

/// A p-value as papers print it.
pub(crate) fn p_value(value: Option<f64>) -> String {
    match value {
        None => "–".to_owned(),
        Some(p) if p < 0.001 => "< 0.001".to_owned(),
        Some(p) => format!("{p:.3}"),
    }
}

/// "p = 0.012" or "p < 0.001".
pub(crate) fn p_equals(value: f64) -> String {
    match p_value(Some(value)) {
        small if small.starts_with('<') => format!("p {small}"),
        value => format!("p = {value}"),
    }
}

/// "95 %" of an evaluation's intervals.
pub(crate) fn confidence(evaluation: &Evaluation) -> String {
    let share = evaluation.bootstrap.map_or(0.95, |b| b.confidence);
    let percent = format!("{:.1}", 100.0 * share);
    format!("{} %", percent.trim_end_matches(".0"))
}

impl Evaluation {
    /// The whole report: metrics, classes, confusions, subsets and gates, as far as there are any.
    pub fn to_text(&self) -> String {
        let sections = [
            self.metrics_table(),
            self.classes_table(),
            self.confusion_text(),
            self.subsets_table(),
            self.gates_table(),
        ];
        let sections: Vec<String> = sections.into_iter().filter(|s| !s.is_empty()).collect();
        sections.join("\n")
    }

    /// Every metric with its interval.
    pub fn metrics_table(&self) -> String {
        let mut table = Table::new([
            (format!("{} rows", self.rows), Align::Left),
            ("value".to_owned(), Align::Right),
            (if self.intervals.is_empty() { String::new() } else { confidence(self) }, Align::Left),
        ]);
        for (name, value) in &self.metrics {
            table.row([metric_label(name, Lang::En).to_owned(), number(*value), interval(self.intervals.get(name))]);
        }
        table.to_text()
    }

    /// Precision, recall, F1 and support by class and their averages; empty for regression.
    pub fn classes_table(&self) -> String {
        if self.per_class.is_empty() {
            return String::new();
        }
        let first = if self.task == Task::MultiLabel { "label" } else { "class" };
        let mut table = Table::new([
            (first, Align::Left),
            ("precision", Align::Right),
            ("recall", Align::Right),
            ("F1", Align::Right),
            ("support", Align::Right),
        ]);
        let mut undefined = false;
        for (name, class) in &self.per_class {
            let value = |metric: &str, value: f64| {
                let mark = class.undefined.iter().any(|name| name == metric);
                format!("{}{value:.4}", if mark { "*" } else { "" })
            };
            undefined |= !class.undefined.is_empty();
            table.row([
                shorten(name, NAME_WIDTH),
                value("precision", class.precision),
                value("recall", class.recall),
                value("f1", class.f1),
                class.support.to_string(),
            ]);
        }
        table.gap();
        let support: u64 = self.per_class.values().map(|class| class.support).sum();
        for (name, average) in self.averages() {
            table.row([
                name.to_owned(),
                format!("{:.4}", average.precision),
                format!("{:.4}", average.recall),
                format!("{:.4}", average.f1),
                support.to_string(),
            ]);
        }
        let note = "* undefined for want of rows, counted as 0\n";
        table.to_text() + if undefined { note } else { "" }
    }

    /// Macro, weighted and (where it says more than accuracy) micro averages.
    pub(crate) fn averages(&self) -> Vec<(&'static str, Average)> {
        let of = |kind: &str| {
            Some(Average {
                precision: self.metric(&format!("{kind}_precision"))?,
                recall: self.metric(&format!("{kind}_recall"))?,
                f1: self.metric(&format!("{kind}_f1"))?,
            })
        };
        let kinds = ["micro", "macro", "weighted"];
        kinds.into_iter().filter_map(|kind| Some((kind, of(kind)?))).collect()
    }

    /// The confusion matrix, or for many classes the largest confusions in words.
    pub fn confusion_text(&self) -> String {
        let names: Vec<&String> = self.per_class.keys().collect();
        if self.confusion.is_empty() || self.confusion.len() != names.len() {
            return String::new();
        }
        if names.len() > MATRIX_CLASSES {
            let mut text = "what was taken for what\n".to_owned();
            for (truth, predicted, rows) in self.confusions(CONFUSIONS) {
                let (truth, predicted) = (shorten(truth, NAME_WIDTH), shorten(predicted, NAME_WIDTH));
                let _ = writeln!(text, "  {truth} → {predicted}: {rows}");
            }
            return text;
        }
        // Where names over the columns would not fit a terminal, numbers stand for them.
        let width: usize = names.iter().map(|name| shorten(name, NAME_WIDTH).width() + 2).sum();
        let numbered = width > MATRIX_WIDTH;
        let name = |at: usize| {
            let short = shorten(names[at], NAME_WIDTH);
            if numbered { format!("{} {short}", at + 1) } else { short }
        };
        let columns = (0..names.len()).map(|at| {
            let head = if numbered { (at + 1).to_string() } else { name(at) };
            (head, Align::Right)
        });
        let head = [("true ╲ predicted".to_owned(), Align::Left)];
        let mut table = Table::new(head.into_iter().chain(columns));
        for (at, row) in self.confusion.iter().enumerate() {
            let counts = row.iter().map(|&count| match count {
                0 => "·".to_owned(),
                count => count.to_string(),
            });
            table.row([name(at)].into_iter().chain(counts));
        }
        table.to_text()
    }

    /// The largest confusions: (truth, predicted, rows), most rows first.
    pub fn confusions(&self, limit: usize) -> Vec<(&str, &str, u64)> {
        let Ok(confusion) = crate::Confusion::from_rows(&self.confusion) else {
            return Vec::new();
        };
        let name = |class: usize| self.per_class.get_index(class).map(|(name, _)| name.as_str());
        confusion
            .most_confused(limit)
            .into_iter()
            .filter_map(|(truth, predicted, rows)| Some((name(truth)?, name(predicted)?, rows)))
            .collect()
    }

    /// The headline metrics of each subset of modalities; empty without subsets.
    pub fn subsets_table(&self) -> String {
        if self.subsets.is_empty() {
            return String::new();
        }
        let metrics = self.headline();
        let mut columns = vec![("modalities".to_owned(), Align::Left), ("rows".to_owned(), Align::Right)];
        for name in metrics {
            columns.push((metric_label(name, Lang::En).to_owned(), Align::Right));
            columns.push((String::new(), Align::Left));
        }
        let mut table = Table::new(columns);
        let all = [("all".to_owned(), self.as_subset())];
        for (name, subset) in all.iter().map(|(n, s)| (n, s)).chain(&self.subsets) {
            let mut cells = vec![shorten(name, NAME_WIDTH), subset.rows.to_string()];
            for metric in metrics {
                cells.push(number(subset.metrics.get(*metric).copied().flatten()));
                cells.push(interval(subset.intervals.get(*metric)));
            }
            table.row(cells);
        }
        table.to_text()
    }

    /// The metrics that a reader looks at first.
    pub(crate) fn headline(&self) -> &'static [&'static str] {
        match self.task {
            Task::Classification => &["accuracy", "macro_f1"],
            Task::Ordinal => &["accuracy", "mean_rank_error"],
            Task::MultiLabel => &["micro_f1", "macro_f1"],
            Task::Regression => &["mae", "r2"],
        }
    }

    /// The mean weight of each modality; empty where fusion has no gates.
    pub fn gates_table(&self) -> String {
        if self.gates.is_empty() {
            return String::new();
        }
        let mut table = Table::new([("modality", Align::Left), ("mean weight", Align::Right), ("", Align::Left)]);
        for (name, weight) in &self.gates {
            let bar = (weight.clamp(0.0, 1.0) * 20.0).round() as usize;
            table.row([shorten(name, NAME_WIDTH), format!("{weight:.4}"), "█".repeat(bar)]);
        }
        table.to_text()
    }
}

impl Comparison {
    /// Metrics side by side with the difference, its interval and p-value.
    pub fn metrics_table(&self) -> String {
        let mut table = Table::new([
            (format!("{} rows", self.after.rows), Align::Left),
            ("before".to_owned(), Align::Right),
            (confidence(&self.before), Align::Left),
            ("after".to_owned(), Align::Right),
            (confidence(&self.after), Align::Left),
            ("difference".to_owned(), Align::Right),
            (confidence(&self.after), Align::Left),
            ("p".to_owned(), Align::Right),
        ]);
        for (name, difference) in &self.differences {
            table.row([
                metric_label(name, Lang::En).to_owned(),
                number(self.before.metric(name)),
                interval(self.before.intervals.get(name)),
                number(self.after.metric(name)),
                interval(self.after.intervals.get(name)),
                signed(difference.difference),
                interval(difference.interval.as_ref()),
                p_value(difference.p_value),
            ]);
        }
        table.to_text()
    }

    /// [`Comparison::metrics_table`], then the changed rows.
    ///
    /// `ids` names the rows, such as by an identifier column; without it they count from 1.
    pub fn to_text(&self, ids: Option<&[String]>) -> String {
        let mut text = self.metrics_table();
        if let Some(test) = &self.mcnemar {
            let _ = writeln!(
                text,
                "\nright only before: {}, right only after: {} (McNemar's exact test: {})",
                test.only_before,
                test.only_after,
                p_equals(test.p_value),
            );
        }
        text + &self.changed_text(ids)
    }

    fn changed_text(&self, ids: Option<&[String]>) -> String {
        if self.changed.is_empty() {
            return "\nno row changed its answer\n".to_owned();
        }
        let mut table = Table::new([
            ("row", Align::Right),
            ("truth", Align::Left),
            ("before", Align::Left),
            ("after", Align::Left),
            ("", Align::Left),
        ]);
        for row in self.changed.iter().take(CHANGED_ROWS) {
            table.row([
                row_name(row.row, ids),
                shorten(&row.truth, NAME_WIDTH),
                shorten(&row.before, NAME_WIDTH),
                shorten(&row.after, NAME_WIDTH),
                match row.change {
                    Change::Better => "better",
                    Change::Worse => "worse",
                    Change::Same => "still wrong",
                }
                .to_owned(),
            ]);
        }
        let count = |change: Change| self.changed.iter().filter(|r| r.change == change).count();
        let hidden = self.changed.len().saturating_sub(CHANGED_ROWS);
        format!(
            "\n{} rows changed: {} better, {} worse\n{}{}",
            self.changed.len(),
            count(Change::Better),
            count(Change::Worse),
            table.to_text(),
            if hidden > 0 { format!("… and {hidden} more\n") } else { String::new() }
        )
    }
}

/// A difference with its sign.
pub(crate) fn signed(value: f64) -> String {
    let text = number(Some(value));
    if value > 0.0 { format!("+{text}") } else { text.replace('-', "−") }
}

/// A row by its identifier, or by its number from 1.
pub(crate) fn row_name(row: usize, ids: Option<&[String]>) -> String {
    let id = ids.and_then(|ids| ids.get(row));
    id.map_or_else(|| (row + 1).to_string(), |id| shorten(id, NAME_WIDTH))
}

/// Several models on one table, each metric with its interval: terminal text or Markdown.
///
/// The best value of each metric is marked (`*`, in Markdown bold).
pub fn compare_models(models: &IndexMap<String, Evaluation>, metrics: &[&str], markdown: bool) -> String {
    let share = models.values().next().map_or_else(String::new, confidence);
    let columns = metrics.iter().map(|name| {
        let any = models.values().any(|m| m.intervals.contains_key(*name));
        let share = if any { format!(" [{share}]") } else { String::new() };
        (metric_label(name, Lang::En).to_owned() + &share, Align::Left)
    });
    let first = [("model".to_owned(), Align::Left), ("rows".to_owned(), Align::Right)];
    let mut table = Table::new(first.into_iter().chain(columns));
    for (name, model) in models {
        let rows = match model.without_input {
            0 => model.rows.to_string(),
            without => format!("{} ({without} without input)", model.rows),
        };
        let mut cells = vec![shorten(name, 2 * NAME_WIDTH), rows];
        for metric in metrics {
            let value = model.metric(metric);
            let best = value.is_some() && best(models, metric) == value;
            let cell = match (best, markdown) {
                (true, true) => format!("**{}**", number(value)),
                (true, false) => number(value) + "*",
                (false, true) => number(value),
                (false, false) => number(value) + " ",
            };
            let interval = interval(model.intervals.get(*metric));
            cells.push(format!("{cell} {interval}").trim_end().to_owned());
        }
        table.row(cells);
    }
    if markdown { table.to_markdown() } else { table.to_text() }
}

fn best(models: &IndexMap<String, Evaluation>, metric: &str) -> Option<f64> {
    let higher = crate::names::higher_is_better(metric).unwrap_or(true);
    let values = models.values().filter_map(|model| model.metric(metric));
    values.reduce(|a, b| if (a > b) == higher { a } else { b })
}
