//! The small pieces that sections are made of.

use crate::names::Lang;
use crate::terminal::{interval, number};

/// A table with its head cells and rows.
pub(super) fn table(head: &str, rows: &str) -> String {
    format!("<div class=\"scroll\"><table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{rows}</tbody>\n</table></div>\n")
}

pub(super) fn cell(count: impl std::fmt::Display) -> String {
    format!("<td class=\"n\">{count}</td>")
}

pub(super) fn value_cells(value: Option<f64>, ends: Option<&crate::Interval>) -> String {
    format!(
        "<td class=\"n\">{}</td><td class=\"quiet n\" style=\"text-align:left\">{}</td>",
        number(value),
        interval(ends)
    )
}

pub(super) fn rows_in(count: u64, lang: Lang) -> String {
    match (lang, count) {
        (Lang::Zh, _) => format!("{count} 行"),
        (Lang::En, 1) => "1 row".to_owned(),
        (Lang::En, _) => format!("{count} rows"),
    }
}
