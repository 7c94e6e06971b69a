//! A page about a run that has nothing to evaluate but its own objectives.

use super::style;
use crate::plot::{LineChart, escape};
use std::fmt::Write;

/// What the page shows, with the looks of [`super::Page`].
#[derive(Debug, Clone)]
pub struct RunPage<'a> {
    /// Heading.
    pub title: &'a str,
    /// Facts of the model and the run.
    pub facts: &'a [(String, String)],
    /// Metrics by name.
    pub metrics: &'a [(String, String)],
    /// Learning curves.
    pub learning: &'a [LineChart],
}

impl RunPage<'_> {
    /// The page as text, to be written to a file as UTF-8.
    pub fn to_html(&self) -> String {
        let title = escape(self.title);
        let mut page = format!(
            "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n<meta name=\"viewport\" \
             content=\"width=device-width, initial-scale=1\">\n<meta http-equiv=\"Content-Security-Policy\" \
             content=\"default-src 'none'; img-src data:; style-src 'unsafe-inline'\">\n<title>{title}</title>\n\
             <style>\n{}</style>\n</head>\n<body>\n<main>\n<h1>{title}</h1>\n",
            style()
        );
        if !self.learning.is_empty() {
            page += "<section>\n<h2>Training</h2>\n<div class=\"figures\">\n";
            for chart in self.learning {
                let _ = writeln!(page, "<figure>{}</figure>", chart.to_svg());
            }
            page += "</div>\n</section>\n";
        }
        if !self.metrics.is_empty() {
            page += "<section>\n<h2>Metrics</h2>\n<table>\n<tbody>\n";
            for (name, value) in self.metrics {
                let _ = writeln!(page, "<tr><th>{}</th><td class=\"n\">{}</td></tr>", escape(name), escape(value));
            }
            page += "</tbody>\n</table>\n</section>\n";
        }
        if !self.facts.is_empty() {
            page += "<section>\n<h2>Model and run</h2>\n<dl>\n";
            for (name, fact) in self.facts {
                let _ = writeln!(page, "<div><dt>{}</dt><dd>{}</dd></div>", escape(name), escape(fact));
            }
            page += "</dl>\n</section>\n";
        }
        page += "</main>\n</body>\n</html>\n";
        page
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_stay_text_and_empty_parts_leave_no_heading() {
        let hostile = "<script>狗</script>".to_owned();
        let pairs = [(hostile.clone(), hostile.clone())];
        let chart = LineChart { title: hostile.clone(), ..LineChart::default() };
        let page = RunPage { title: &hostile, facts: &pairs, metrics: &pairs, learning: &[chart] }.to_html();
        assert!(!page.contains("<script") && page.contains("狗"));
        assert_eq!(page.matches("<h2>").count(), 3);
        let empty = RunPage { title: "x", facts: &[], metrics: &[], learning: &[] }.to_html();
        assert_eq!(empty.matches("<h2>").count(), 0);
    }
}
