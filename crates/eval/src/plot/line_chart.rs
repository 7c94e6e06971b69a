//! Lines over a common axis: learning curves, ROC and precision-recall curves.

use super::PALETTE;
use super::axes::{Axes, AxesConfig};
use super::canvas::{Anchor, Canvas, text_width};
use super::scale::{drawable, padded, range_of};
use crate::names::Lang;
use crate::ranking::Curve;
use crate::table::shorten;
use crate::terminal::number;

/// A named line; points that are not finite interrupt it.
#[derive(Debug, Clone, PartialEq)]
pub struct Series {
    /// What the legend calls it.
    pub name: String,
    /// Points `(x, y)` from left to right.
    pub points: Curve,
}

/// A vertical line that marks a place, such as the best epoch.
#[derive(Debug, Clone, PartialEq)]
pub struct Marker {
    /// Where.
    pub x: f64,
    /// What.
    pub label: String,
}

/// A chart of lines with axes and a legend.
#[derive(Debug, Clone, PartialEq)]
pub struct LineChart {
    /// Heading.
    pub title: String,
    /// Name of the horizontal axis.
    pub x_label: String,
    /// Name of the vertical axis.
    pub y_label: String,
    /// The lines, at most 21 of which can be told apart.
    pub series: Vec<Series>,
    /// A place to mark.
    pub marker: Option<Marker>,
    /// Whether x counts something, such as epochs: ticks are then whole numbers.
    pub whole_x: bool,
    /// Fixed ranges of x and y, instead of those of the data.
    pub ranges: Option<[(f64, f64); 2]>,
    /// A dashed line between two points, such as chance.
    pub guide: Option<[(f64, f64); 2]>,
    /// Language of the words the chart itself adds.
    pub lang: Lang,
}

impl Default for LineChart {
    fn default() -> Self {
        Self {
            title: String::new(),
            x_label: String::new(),
            y_label: String::new(),
            series: Vec::new(),
            marker: None,
            whole_x: false,
            ranges: None,
            guide: None,
            lang: Lang::En,
        }
    }
}

const WIDTH: f64 = 720.0;
const LEGEND_LINE: f64 = 20.0;
/// Lines of up to this many points show each as a dot.
const DOTS: usize = 25;

impl LineChart {
    /// Draws the chart, 720 pixels wide.
    pub fn to_svg(&self) -> String {
        let rows = self.legend_rows();
        let marked = if self.marker.is_some() { 16.0 } else { 0.0 };
        let top = 44.0 + rows.len() as f64 * LEGEND_LINE + marked;
        let square = self.ranges.is_some();
        let inner = if square { 400.0 } else { 270.0 };
        let mut canvas = Canvas::new(WIDTH, top + inner + 56.0);
        canvas.title(&self.title);
        self.draw_legend(&mut canvas, &rows);

        let all = || self.series.iter().flat_map(|series| &series.points);
        let drawn = || all().filter(|(x, y)| drawable(*x) && drawable(*y));
        let [xs, ys] =
            self.ranges.unwrap_or_else(|| [range_of(drawn().map(|p| p.0)), padded(range_of(drawn().map(|p| p.1)))]);
        let config = AxesConfig {
            width: WIDTH,
            top,
            height: inner,
            xs,
            ys,
            whole_x: self.whole_x,
            x_label: &self.x_label,
            y_label: &self.y_label,
        };
        let axes = Axes::draw(&mut canvas, &config);
        let area = axes.area;
        if let Some([from, to]) = &self.guide {
            canvas.line(axes.place(*from), axes.place(*to), "guide");
        }
        if let Some(marker) = self.marker.as_ref().filter(|m| m.x >= xs.0 && m.x <= xs.1) {
            let x = axes.place((marker.x, ys.0)).0;
            canvas.line((x, area.y), (x, area.bottom()), "guide");
            // Above the lines, and not beyond the right edge.
            let half = text_width(&marker.label, 12.0) / 2.0;
            let at = (x.clamp(half + 8.0, WIDTH - half - 8.0), area.y - 8.0);
            canvas.text(at, 12.0, Anchor::Middle, "ink", &marker.label);
        }
        for (index, series) in self.series.iter().enumerate() {
            let dots = series.points.len() <= DOTS && !square;
            for piece in series.points.split(|(x, y)| !(drawable(*x) && drawable(*y))).filter(|piece| !piece.is_empty())
            {
                let places: Vec<_> = piece.iter().map(|point| axes.place(*point)).collect();
                canvas.path(&places, index);
                for (at, point) in places.iter().zip(piece) {
                    if dots || piece.len() == 1 {
                        let tip = format!("{}: {}", series.name, number(Some(point.1)));
                        canvas.dot(*at, 3.0, index, 1.0, &tip);
                    }
                }
            }
        }
        if drawn().next().is_none() {
            let words = self.lang.pick("no data", "无数据");
            canvas.text(axes.center(), 14.0, Anchor::Middle, "soft", words);
        }
        canvas.finish(&self.summary())
    }

    /// Which series stand in which line of the legend; one series needs none.
    fn legend_rows(&self) -> Vec<Vec<usize>> {
        if self.series.len() < 2 {
            return Vec::new();
        }
        let mut rows: Vec<Vec<usize>> = vec![Vec::new()];
        let mut used = 0.0;
        for index in 0..self.series.len() {
            let width = self.legend_width(index);
            let full = used + width > WIDTH - 32.0;
            match rows.last_mut() {
                Some(row) if !full || row.is_empty() => row.push(index),
                _ => {
                    rows.push(vec![index]);
                    used = 0.0;
                }
            }
            used += width;
        }
        rows
    }

    fn legend_width(&self, index: usize) -> f64 {
        48.0 + text_width(&legend_name(&self.series[index].name), 12.0)
    }

    fn draw_legend(&self, canvas: &mut Canvas, rows: &[Vec<usize>]) {
        for (line, row) in rows.iter().enumerate() {
            let (mut x, y) = (16.0, 48.0 + line as f64 * LEGEND_LINE);
            for &index in row {
                canvas.path(&[(x, y - 4.0), (x + 22.0, y - 4.0)], index);
                let name = legend_name(&self.series[index].name);
                canvas.text((x + 28.0, y), 12.0, Anchor::Start, "ink", &name);
                x += self.legend_width(index);
            }
        }
    }

    fn summary(&self) -> String {
        let last = |series: &Series| {
            let finite = series.points.iter().rev().find(|p| p.1.is_finite());
            finite.map_or_else(String::new, |p| format!(" ({})", number(Some(p.1))))
        };
        let ends = self.ranges.is_none();
        let series: Vec<String> =
            self.series.iter().map(|s| s.name.clone() + &if ends { last(s) } else { String::new() }).collect();
        format!("{}: {}", self.title, series.join(", "))
    }
}

fn legend_name(name: &str) -> String {
    shorten(name, 44)
}

/// ROC curves with the line of chance; names may carry the area. The first 14 are drawn.
pub fn roc_chart(curves: &[(String, Curve)], lang: Lang) -> LineChart {
    LineChart {
        title: lang.pick("ROC curves", "ROC 曲线").to_owned(),
        x_label: lang.pick("False positive rate", "假正率").to_owned(),
        y_label: lang.pick("True positive rate", "真正率").to_owned(),
        guide: Some([(0.0, 0.0), (1.0, 1.0)]),
        ..unit_chart(curves, lang)
    }
}

/// Precision-recall curves; names may carry the area. The first 14 are drawn.
pub fn precision_recall_chart(curves: &[(String, Curve)], lang: Lang) -> LineChart {
    LineChart {
        title: lang.pick("Precision-recall curves", "精确率-召回率曲线").to_owned(),
        x_label: lang.pick("Recall", "召回率").to_owned(),
        y_label: lang.pick("Precision", "精确率").to_owned(),
        ..unit_chart(curves, lang)
    }
}

fn unit_chart(curves: &[(String, Curve)], lang: Lang) -> LineChart {
    let shown = curves.iter().take(2 * PALETTE.len());
    LineChart {
        series: shown.map(|(name, points)| Series { name: name.clone(), points: points.clone() }).collect(),
        ranges: Some([(0.0, 1.0), (0.0, 1.02)]),
        lang,
        ..LineChart::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn series(name: &str, ys: &[f64]) -> Series {
        let points = ys.iter().enumerate().map(|(i, &y)| (i as f64 + 1.0, y));
        Series { name: name.to_owned(), points: points.collect() }
    }

    fn chart(series: Vec<Series>) -> String {
        let chart = LineChart { title: "Loss <训练>".to_owned(), series, whole_x: true, ..LineChart::default() };
        let svg = chart.to_svg();
        assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
        assert!(!svg.contains("<训练>"));
        svg
    }

    #[test]
    fn nan_interrupts_a_line() {
        let svg = chart(vec![series("a", &[1.0, 0.8, f64::NAN, 0.5, f64::INFINITY])]);
        assert_eq!(svg.matches("class=\"stroke-0\"").count(), 2);
    }

    #[test]
    fn one_point_is_a_dot_and_none_says_so() {
        assert!(chart(vec![series("a", &[0.7])]).contains("<circle"));
        assert!(chart(vec![series("a", &[f64::NAN])]).contains("no data"));
        assert!(chart(Vec::new()).contains("no data"));
    }

    #[test]
    fn long_legends_take_several_lines() {
        let many: Vec<Series> = (0..12).map(|i| series(&format!("第 {i} 个系列"), &[1.0])).collect();
        let chart = LineChart { series: many, ..LineChart::default() };
        assert!(chart.legend_rows().len() > 1);
        assert_eq!(chart.legend_rows().concat(), (0..12).collect::<Vec<_>>());
    }
}
