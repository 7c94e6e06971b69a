//! The reliability diagram: accuracy over confidence.

use super::canvas::{Anchor, Canvas, Rect};
use super::scale::{Scale, labels};
use crate::names::Lang;
use crate::probabilities::Calibration;

/// A calibration to be drawn: accuracy of each bin as a bar, perfect calibration as a dashed line,
/// and below it how many rows each bin holds.
#[derive(Debug, Clone, PartialEq)]
pub struct ReliabilityDiagram {
    /// The bins.
    pub calibration: Calibration,
    /// Language of heading and axes.
    pub lang: Lang,
}

const WIDTH: f64 = 720.0;

impl ReliabilityDiagram {
    /// Draws the diagram, 720 pixels wide.
    pub fn to_svg(&self) -> String {
        let lang = self.lang;
        let error = self.calibration.error;
        let title = match lang {
            Lang::En => format!("Reliability (calibration error {error:.4})"),
            Lang::Zh => format!("可靠性图（校准误差 {error:.4}）"),
        };
        let mut canvas = Canvas::new(WIDTH, 500.0);
        canvas.title(&title);
        let legend = lang.pick(
            "bars: accuracy of the rows in a bin · dots: at their mean confidence · dashed: perfect calibration",
            "柱：该区间内的准确率 · 点：位于平均置信度处 · 虚线：完全校准",
        );
        canvas.text((16.0, 48.0), 12.0, Anchor::Start, "soft", legend);
        let area = Rect { x: 72.0, y: 68.0, width: WIDTH - 96.0, height: 270.0 };
        let strip = Rect { y: area.bottom() + 18.0, height: 70.0, ..area };
        let horizontal = Scale::new((0.0, 1.0), (area.x, area.right()));
        let vertical = Scale::new((0.0, 1.0), (area.bottom(), area.y));
        let ticks = vertical.ticks(5, false);
        for (tick, name) in ticks.iter().zip(labels(&ticks)) {
            let (x, y) = (horizontal.at(*tick), vertical.at(*tick));
            canvas.line((area.x, y), (area.right(), y), "grid");
            canvas.text((area.x - 8.0, y + 4.0), 12.0, Anchor::End, "soft", &name);
            canvas.text((x, strip.bottom() + 18.0), 12.0, Anchor::Middle, "soft", &name);
        }
        let most = self.calibration.bins.iter().map(|bin| bin.rows).max();
        let most = most.unwrap_or(0).max(1) as f64;
        for bin in self.calibration.bins.iter().filter(|bin| bin.rows > 0) {
            let (from, to) = (horizontal.at(bin.low) + 1.0, horizontal.at(bin.high) - 1.0);
            let tip = match lang {
                Lang::En => {
                    format!("confidence {:.3}, accuracy {:.3}, {} rows", bin.confidence, bin.accuracy, bin.rows)
                }
                Lang::Zh => format!("置信度 {:.3}，准确率 {:.3}，{} 行", bin.confidence, bin.accuracy, bin.rows),
            };
            let column = |y: f64, bottom: f64| Rect { x: from, y, width: to - from, height: bottom - y };
            let top = vertical.at(bin.accuracy);
            canvas.bar(column(top, area.bottom()), 0, 0.45, &tip);
            canvas.dot((horizontal.at(bin.confidence), top), 4.0, 1, 1.0, &tip);
            let height = strip.height * bin.rows as f64 / most;
            canvas.bar(column(strip.bottom() - height, strip.bottom()), 6, 0.7, &tip);
        }
        canvas.line((area.x, area.bottom()), (area.right(), area.y), "guide");
        for bottom in [area.bottom(), strip.bottom()] {
            canvas.line((area.x, bottom), (area.right(), bottom), "axis");
        }
        let middle = area.x + area.width / 2.0;
        canvas.text((middle, strip.bottom() + 40.0), 13.0, Anchor::Middle, "ink", lang.pick("Confidence", "置信度"));
        canvas.turned_text(
            (22.0, area.y + area.height / 2.0),
            13.0,
            Anchor::Middle,
            "ink",
            -90.0,
            lang.pick("Accuracy", "准确率"),
        );
        canvas.turned_text(
            (22.0, strip.y + strip.height / 2.0),
            13.0,
            Anchor::Middle,
            "ink",
            -90.0,
            lang.pick("Rows", "行数"),
        );
        canvas.text((area.x - 8.0, strip.y + 8.0), 12.0, Anchor::End, "soft", &format!("{most}"));
        canvas.finish(&title)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::probabilities::{Probabilities, calibration};

    #[test]
    fn bins_without_rows_are_not_drawn() {
        let p = Probabilities::new(vec![0.9, 0.1, 0.6, 0.4, 0.95, 0.05], 2).unwrap();
        let diagram = ReliabilityDiagram { calibration: calibration(&[0, 1, 0], &p, 10).unwrap(), lang: Lang::En };
        let svg = diagram.to_svg();
        assert_eq!(svg.matches("class=\"fill-0\"").count(), 3);
        assert!(svg.contains("confidence 0.900, accuracy 1.000, 1 rows"));
    }
}
