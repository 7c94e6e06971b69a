//! Horizontal bars with intervals: models compared, weights of gates.

use super::canvas::{Anchor, Canvas, EM, Rect, text_width};
use super::scale::{Scale, drawable, labels, range_of};
use crate::bootstrap::Interval;
use crate::table::shorten;
use crate::terminal::number;

/// One bar.
#[derive(Debug, Clone, PartialEq)]
pub struct Bar {
    /// What it stands for.
    pub name: String,
    /// Its length; none is drawn where undefined.
    pub value: Option<f64>,
    /// The interval drawn over its end.
    pub interval: Option<Interval>,
    /// Whether to draw it in the second colour, such as the fused model among single modalities.
    pub highlight: bool,
}

/// A chart of horizontal bars from zero, one line each.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct BarChart {
    /// Heading.
    pub title: String,
    /// Name of the axis.
    pub label: String,
    /// The bars from top to bottom.
    pub bars: Vec<Bar>,
    /// Whether the axis runs from 0 to 1 whatever the values.
    pub unit: bool,
}

const WIDTH: f64 = 720.0;
const LINE: f64 = 30.0;

impl BarChart {
    /// Draws the chart, 720 pixels wide and 30 more high for each bar.
    pub fn to_svg(&self) -> String {
        let top = 44.0;
        let inner = self.bars.len().max(1) as f64 * LINE;
        let mut canvas = Canvas::new(WIDTH, top + inner + 52.0);
        canvas.title(&self.title);

        let texts: Vec<String> = self.bars.iter().map(Bar::text).collect();
        let widest =
            |texts: &mut dyn Iterator<Item = &str>| texts.map(|text| text_width(text, 13.0)).fold(0.0, f64::max);
        let names = widest(&mut self.bars.iter().map(|bar| bar.name.as_str())).min(230.0);
        let values = widest(&mut texts.iter().map(String::as_str));
        let area = Rect { x: names + 28.0, y: top, width: WIDTH - names - values - 56.0, height: inner };
        let ends = self.bars.iter().flat_map(|bar| {
            let interval = bar.interval.map(|i| [i.low, i.high]);
            bar.value.into_iter().chain(interval.into_iter().flatten())
        });
        let mut range = range_of(ends.chain([0.0]));
        if self.unit || (range.0 >= 0.0 && range.1 <= 1.0 && range.1 > 0.5) {
            range = (range.0.min(0.0), range.1.max(1.0));
        } else {
            let air = 0.05 * (range.1 - range.0);
            range.1 += if range.1 > 0.0 { air } else { 0.0 };
            range.0 -= if range.0 < 0.0 { air } else { 0.0 };
        }
        let scale = Scale::new(range, (area.x, area.right()));
        let ticks = scale.ticks(5, false);
        for (tick, name) in ticks.iter().zip(labels(&ticks)) {
            let x = scale.at(*tick);
            canvas.line((x, area.y), (x, area.bottom()), "grid");
            canvas.text((x, area.bottom() + 18.0), 12.0, Anchor::Middle, "soft", &name);
        }
        let middle = area.x + area.width / 2.0;
        canvas.text((middle, area.bottom() + 40.0), 13.0, Anchor::Middle, "ink", &self.label);
        let room = (names / (13.0 * EM)).floor() as usize;
        for (index, (bar, text)) in self.bars.iter().zip(&texts).enumerate() {
            let y = area.y + index as f64 * LINE;
            let name = shorten(&bar.name, room.max(4));
            let base = y + LINE / 2.0 + 4.5;
            canvas.text((area.x - 12.0, base), 13.0, Anchor::End, "ink", &name);
            canvas.text((area.right() + 14.0, base), 13.0, Anchor::Start, "ink", text);
            let Some(value) = bar.value.filter(|value| drawable(*value)) else {
                continue;
            };
            let (from, to) = (scale.at(value.min(0.0)), scale.at(value.max(0.0)));
            let rect = Rect { x: from, y: y + 5.0, width: to - from, height: LINE - 10.0 };
            let tip = format!("{}: {text}", bar.name);
            canvas.bar(rect, usize::from(bar.highlight), 1.0, &tip);
            if let Some(interval) = bar.interval.filter(|i| drawable(i.low) && drawable(i.high)) {
                let (low, high, y) = (scale.at(interval.low), scale.at(interval.high), y + LINE / 2.0);
                canvas.line((low, y), (high, y), "error");
                canvas.line((low, y - 5.0), (low, y + 5.0), "error");
                canvas.line((high, y - 5.0), (high, y + 5.0), "error");
            }
        }
        canvas.line((scale.at(0.0), area.y), (scale.at(0.0), area.bottom()), "axis");
        let all: Vec<String> = self.bars.iter().zip(&texts).map(|(bar, text)| format!("{} {text}", bar.name)).collect();
        canvas.finish(&format!("{}: {}", self.title, all.join(", ")))
    }
}

impl Bar {
    fn text(&self) -> String {
        match (self.value, self.interval) {
            (Some(_), Some(interval)) => {
                format!("{} {}", number(self.value), crate::terminal::interval(Some(&interval)))
            }
            _ => number(self.value),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bar(name: &str, value: f64) -> Bar {
        Bar {
            name: name.to_owned(),
            value: Some(value),
            interval: Some(Interval { low: value - 0.1, high: value + 0.1 }),
            highlight: false,
        }
    }

    #[test]
    fn bars_start_at_zero_also_below_it() {
        let chart = BarChart { bars: vec![bar("a", -0.5), bar("b", 0.8)], ..BarChart::default() };
        let svg = chart.to_svg();
        assert!(!svg.contains("width=\"-"), "{svg}");
        assert_eq!(svg.matches("class=\"fill-0\"").count(), 2);
        assert_eq!(svg.matches("class=\"error\"").count(), 6);
    }

    #[test]
    fn an_undefined_value_has_no_bar() {
        let mut undefined = bar("a", 0.0);
        undefined.value = None;
        let chart = BarChart { bars: vec![undefined], ..BarChart::default() };
        let svg = chart.to_svg();
        assert!(!svg.contains("fill-0") && svg.contains("–"));
        assert!(!BarChart::default().to_svg().contains("NaN"));
    }
}
