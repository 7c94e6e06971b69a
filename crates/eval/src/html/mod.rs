//! The report as one HTML page that needs nothing else: no script, no font, no picture from elsewhere.
//!
//! It opens with what a reader wants to know (headline numbers with intervals, and in words what
//! was mistaken for what), then goes into detail. Light and dark follow the reader's system, and
//! it prints.

mod cells;
mod changes;
mod classes;
mod run;
mod sections;

pub use run::RunPage;

use crate::evaluation::{Comparison, Curves, Evaluation};
use crate::gain::Gain;
use crate::names::Lang;
use crate::plot::{DARK_PALETTE, LineChart, escape};
use indexmap::IndexMap;
use std::fmt::Write;

/// What a report page shows; everything but the evaluation is optional.
#[derive(Debug, Clone)]
pub struct Page<'a> {
    /// Heading, such as the name of the model and the table.
    pub title: &'a str,
    /// Language of the page's own words.
    pub lang: Lang,
    /// The evaluation the page is about.
    pub evaluation: &'a Evaluation,
    /// Facts of the model and the run, such as parameters and training time.
    pub facts: &'a [(String, String)],
    /// Several models on the same rows, each by its name; `highlight` names those to set off.
    pub models: Option<&'a IndexMap<String, Evaluation>>,
    /// What models gain over others on the same rows, shown with `models`.
    pub gains: &'a [Gain],
    /// Names of models drawn in the second colour, such as the fused ones.
    pub highlight: &'a [String],
    /// Another model on the same rows, before; the evaluation is then that of the one after.
    pub comparison: Option<&'a Comparison>,
    /// Identifiers of the rows `[rows]`, shown instead of row numbers.
    pub ids: Option<&'a [String]>,
    /// ROC and precision-recall curves.
    pub curves: Option<&'a Curves>,
    /// True and predicted numbers of a regression task `[rows]`, drawn against each other.
    pub numbers: Option<(&'a [f64], &'a [f64])>,
    /// Learning curves.
    pub learning: &'a [LineChart],
    /// Rows worth looking at, such as the most confident mistakes.
    pub examples: &'a [Example],
}

/// A row shown with its answer.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Example {
    /// What the row is called.
    pub id: String,
    /// The true answer.
    pub truth: String,
    /// The predicted answer.
    pub answer: String,
    /// Probability of the predicted answer.
    pub confidence: Option<f64>,
    /// Text of the row.
    pub text: Option<String>,
    /// Small pictures of the row as data URIs (PNG, JPEG, WebP or GIF in Base64); others are left out.
    pub thumbnails: Vec<String>,
}

impl<'a> Page<'a> {
    /// A page about an evaluation, without the optional parts.
    pub fn new(title: &'a str, evaluation: &'a Evaluation) -> Self {
        Self {
            title,
            lang: Lang::En,
            evaluation,
            facts: &[],
            models: None,
            gains: &[],
            highlight: &[],
            comparison: None,
            ids: None,
            curves: None,
            numbers: None,
            learning: &[],
            examples: &[],
        }
    }

    /// The page as text, to be written to a file as UTF-8.
    pub fn to_html(&self) -> String {
        let mut page = format!(
            "<!DOCTYPE html>\n<html lang=\"{}\">\n<head>\n<meta charset=\"utf-8\">\n<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; img-src data:; style-src 'unsafe-inline'\">\n<title>{}</title>\n<style>\n{}</style>\n</head>\n<body>\n<main>\n",
            self.lang.code(),
            escape(self.title),
            style()
        );
        page += &self.header();
        page += &self.models_section();
        page += &self.comparison_section();
        page += &self.subsets_section();
        page += &self.classes_section();
        page += &self.confusion_section();
        page += &self.scatter_section();
        page += &self.examples_section();
        page += &self.curves_section();
        page += &self.learning_section();
        page += &self.metrics_section();
        page += &self.changed_section();
        page += &self.facts_section();
        page += &self.footer();
        page += "</main>\n</body>\n</html>\n";
        page
    }

    /// A section with a heading, nothing if it would be empty.
    fn section(&self, english: &str, chinese: &str, content: &str) -> String {
        if content.is_empty() {
            return String::new();
        }
        let heading = self.lang.pick(english, chinese);
        format!("<section>\n<h2>{heading}</h2>\n{content}</section>\n")
    }
}

fn style() -> String {
    let mut series = String::new();
    for (index, color) in DARK_PALETTE.iter().enumerate() {
        let _ = writeln!(
            series,
            "  .plot .fill-{index} {{ fill: {color}; }}\n  .plot .stroke-{index} {{ stroke: {color}; }}"
        );
    }
    include_str!("style.css").replace("/*dark series*/\n", &series)
}

/// Whether this is a small picture that can stand in a page: nothing but Base64 of a raster format.
fn is_picture(uri: &str) -> bool {
    let formats = ["png", "jpeg", "webp", "gif"];
    let data = formats.iter().find_map(|format| uri.strip_prefix(&format!("data:image/{format};base64,")));
    let base64 = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'/' | b'=');
    data.is_some_and(|data| !data.is_empty() && data.bytes().all(base64))
}

#[cfg(test)]
mod tests {
    use super::*;

    use crate::evaluation::{Classification, Options, Regressed};
    use crate::{Bootstrap, Probabilities};

    const HOSTILE: &str = "<script>alert('x')</script>";

    fn evaluated(classes: &[&str]) -> (Classification, Evaluation) {
        let classes: Vec<String> = classes.iter().map(|&c| c.to_owned()).collect();
        let p = vec![0.9, 0.1, 0.2, 0.8, 0.6, 0.4, 0.7, 0.3];
        let p = Probabilities::new(p, 2).unwrap();
        let judged = Classification::new(&classes, &[0, 1, 1, 0], p).unwrap();
        let options = Options { bootstrap: Some(Bootstrap::default()), ..Options::default() };
        let evaluation = Evaluation::new(&judged, &options).unwrap();
        (judged, evaluation)
    }

    /// A page with every part there is, each with a hostile name.
    fn full(lang: Lang) -> String {
        let (judged, mut evaluation) = evaluated(&[HOSTILE, "狗"]);
        evaluation.gates.insert(HOSTILE.into(), 0.5);
        evaluation.subsets.insert(HOSTILE.into(), evaluation.as_subset());
        let before = evaluated(&[HOSTILE, "狗"]).0;
        let options = Options { bootstrap: Some(Bootstrap::default()), ..Options::default() };
        let comparison = Comparison::new(&before, &judged, &options).unwrap();
        let models = IndexMap::from([(HOSTILE.to_owned(), evaluation.clone())]);
        let gain = Gain::of(&comparison, "accuracy", HOSTILE, HOSTILE).unwrap();
        let example = Example {
            id: HOSTILE.into(),
            truth: HOSTILE.into(),
            answer: "狗".into(),
            text: Some(HOSTILE.into()),
            thumbnails: vec!["data:image/png;base64,iVBORw0KGgo=".into(), HOSTILE.into()],
            confidence: Some(0.5),
        };
        let page = Page {
            lang,
            facts: &[(HOSTILE.into(), HOSTILE.into())],
            models: Some(&models),
            gains: &[gain],
            highlight: &[HOSTILE.into()],
            comparison: Some(&comparison),
            curves: Some(&judged.curves(100).unwrap()),
            numbers: Some((&[1.0, 2.0], &[1.5, 2.5])),
            learning: &[LineChart { title: HOSTILE.into(), ..LineChart::default() }],
            examples: &[example],
            ..Page::new(HOSTILE, &evaluation)
        };
        page.to_html()
    }

    #[test]
    fn no_name_becomes_markup_and_nothing_is_fetched() {
        for lang in [Lang::En, Lang::Zh] {
            let html = full(lang);
            assert!(!html.contains("<script"), "{html}");
            let outside = html.replace("http://www.w3.org/2000/svg", "").replace("http-equiv", "");
            assert!(!outside.contains("http") && !outside.contains("url("), "{outside}");
            assert_eq!(html.matches("<img").count(), 1);
            assert!(!html.contains("NaN"));
        }
    }

    #[test]
    fn every_opened_element_is_closed() {
        let html = full(Lang::En);
        for tag in ["section", "table", "tbody", "tr", "td", "th", "figure", "svg", "div", "ul", "ol", "li", "p", "dl"]
        {
            let opened = html.matches(&format!("<{tag}>")).count() + html.matches(&format!("<{tag} ")).count();
            assert_eq!(opened, html.matches(&format!("</{tag}>")).count(), "{tag}");
        }
    }

    #[test]
    fn the_words_are_in_the_language_asked_for() {
        let (_, evaluation) = evaluated(&["猫", "狗"]);
        let html = Page { lang: Lang::Zh, ..Page::new("报告", &evaluation) }.to_html();
        assert!(html.contains("<html lang=\"zh-CN\">"));
        assert!(html.contains("4 行中 3 行") && html.contains("把<strong>狗</strong>当成<strong>猫</strong>"));
        assert!(!html.contains("rows"), "{html}");
        let html = Page::new("Report", &evaluation).to_html();
        assert!(html.contains("3 of 4</strong> rows are right"));
        assert!(html.contains("95 % intervals by bootstrap: 1000 resamples, seed 0."));
    }

    #[test]
    fn parts_that_are_not_there_leave_no_heading() {
        let judged = Regressed::new(&[1.0, 2.0], &[1.5, 2.0]).unwrap();
        let evaluation = Evaluation::new(&judged, &Options::default()).unwrap();
        let html = Page::new("Numbers", &evaluation).to_html();
        assert_eq!(html.matches("<h2>").count(), 1, "only the metrics: {html}");
    }

    #[test]
    fn only_pictures_stand_in_the_page() {
        assert!(is_picture("data:image/png;base64,iVBORw0KGgo="));
        assert!(!is_picture("data:image/svg+xml;base64,AAAA"));
        assert!(!is_picture("data:image/png;base64,A\" onload=\"x"));
        assert!(!is_picture("https://example.org/a.png"));
        assert!(!is_picture("data:image/png;base64,"));
    }
}
