//! Predicted against true numbers.

use super::axes::{Axes, AxesConfig};
use super::canvas::{Anchor, Canvas};
use super::scale::{drawable, padded, range_of};
use crate::names::Lang;

/// More points than this are thinned evenly: the picture would only grow, not tell more.
const POINTS: usize = 2000;
const WIDTH: f64 = 720.0;
const HEIGHT: f64 = 440.0;

/// A cloud of points, true value across and predicted value up, with the line where both are equal.
#[derive(Debug, Clone, PartialEq)]
pub struct ScatterChart {
    /// Heading.
    pub title: String,
    /// Points `(truth, predicted)`; those that are not finite are left out.
    pub points: Vec<(f64, f64)>,
    /// Language of axes.
    pub lang: Lang,
}

impl ScatterChart {
    /// Draws the chart, 720 pixels wide.
    pub fn to_svg(&self) -> String {
        let mut canvas = Canvas::new(WIDTH, 44.0 + HEIGHT + 56.0);
        canvas.title(&self.title);
        let finite: Vec<(f64, f64)> =
            self.points.iter().copied().filter(|(x, y)| drawable(*x) && drawable(*y)).collect();
        let range = padded(range_of(finite.iter().flat_map(|&(x, y)| [x, y])));
        let config = AxesConfig {
            width: WIDTH,
            top: 44.0,
            height: HEIGHT,
            xs: range,
            ys: range,
            whole_x: false,
            x_label: self.lang.pick("True value", "真实值"),
            y_label: self.lang.pick("Predicted value", "预测值"),
        };
        let axes = Axes::draw(&mut canvas, &config);
        for point in finite.iter().step_by(finite.len().div_ceil(POINTS).max(1)) {
            canvas.dot(axes.place(*point), 3.0, 0, 0.5, "");
        }
        canvas.line(axes.place((range.0, range.0)), axes.place((range.1, range.1)), "guide");
        if finite.is_empty() {
            let words = self.lang.pick("no data", "无数据");
            canvas.text(axes.center(), 14.0, Anchor::Middle, "soft", words);
        }
        let points = finite.len();
        let summary = match self.lang {
            Lang::En => format!("{}: {points} points", self.title),
            Lang::Zh => format!("{}：{points} 个点", self.title),
        };
        canvas.finish(&summary)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_points_are_thinned_and_broken_ones_left_out() {
        let mut points: Vec<(f64, f64)> = (0..9000).map(|i| (f64::from(i), f64::from(i))).collect();
        points.push((f64::NAN, 0.0));
        let chart = ScatterChart { title: String::new(), points, lang: Lang::En };
        let svg = chart.to_svg();
        assert_eq!(svg.matches("<circle").count(), 1800);
        assert!(!svg.contains("NaN") && svg.contains("9000 points"));
    }
}
