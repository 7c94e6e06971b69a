//! The confusion matrix as a heat map.

use super::canvas::{Anchor, Canvas, EM, Rect, text_width};
use crate::names::Lang;
use crate::table::shorten;

/// A confusion matrix to be drawn: each row shaded by its share of the row's truths.
#[derive(Debug, Clone, PartialEq)]
pub struct ConfusionMap {
    /// Names of the classes.
    pub classes: Vec<String>,
    /// Counts `[truth][predicted]`.
    pub counts: Vec<Vec<u64>>,
    /// Language of heading and axes.
    pub lang: Lang,
}

/// Names longer than this many columns are cut; the full one is the tooltip.
const NAME_COLUMNS: usize = 22;

impl ConfusionMap {
    /// Draws the matrix, about 720 pixels wide.
    pub fn to_svg(&self) -> String {
        let classes = self.classes.len().max(1);
        let cell = (560.0 / classes as f64).clamp(11.0, 84.0);
        let size = (cell * 0.62).clamp(8.0, 13.0);
        let names: Vec<String> = self.classes.iter().map(|name| shorten(name, NAME_COLUMNS)).collect();
        let longest = names.iter().map(|n| text_width(n, size)).fold(20.0, f64::max);
        // Names over the columns lie flat where they fit, else they stand on end.
        let flat = longest <= cell - 6.0;
        let head = if flat { size + 8.0 } else { longest + 10.0 };
        let area =
            Rect { x: 52.0 + longest, y: 60.0 + head, width: cell * classes as f64, height: cell * classes as f64 };
        let mut canvas = Canvas::new((area.right() + 24.0).max(420.0), area.bottom() + 24.0);
        canvas.title(self.lang.pick("Confusion matrix", "混淆矩阵"));
        canvas.text(
            (area.x + area.width / 2.0, 50.0),
            13.0,
            Anchor::Middle,
            "ink",
            self.lang.pick("predicted", "预测"),
        );
        canvas.turned_text(
            (22.0, area.y + area.height / 2.0),
            13.0,
            Anchor::Middle,
            "ink",
            -90.0,
            self.lang.pick("true", "真实"),
        );
        for (index, name) in names.iter().enumerate() {
            let middle = (index as f64 + 0.5) * cell;
            let base = area.y + middle + 0.36 * size;
            canvas.text((area.x - 8.0, base), size, Anchor::End, "ink", name);
            if flat {
                let place = (area.x + middle, area.y - 8.0);
                canvas.text(place, size, Anchor::Middle, "ink", name);
            } else {
                let place = (area.x + middle + 0.36 * size, area.y - 8.0);
                canvas.turned_text(place, size, Anchor::Start, "ink", -90.0, name);
            }
        }
        for (truth, row) in self.counts.iter().enumerate() {
            let total = row.iter().sum::<u64>().max(1) as f64;
            for (predicted, &count) in row.iter().enumerate().filter(|(_, c)| **c > 0) {
                let share = count as f64 / total;
                let rect = Rect {
                    x: area.x + predicted as f64 * cell,
                    y: area.y + truth as f64 * cell,
                    width: cell,
                    height: cell,
                };
                let tip = format!("{} → {}: {count} ({:.1} %)", self.name(truth), self.name(predicted), 100.0 * share);
                // The right answers are blue, mistakes vermilion; both clear of white from one row on.
                let series = usize::from(truth != predicted);
                canvas.bar(rect, series, 0.12 + 0.88 * share, &tip);
                let text = count.to_string();
                let fits = text.len() as f64 * EM * size * 1.1 <= cell;
                if cell >= 14.0 && fits {
                    let class = if share > 0.5 { "on-fill" } else { "ink" };
                    let place = (rect.x + cell / 2.0, rect.y + cell / 2.0 + 0.36 * size);
                    canvas.text(place, size, Anchor::Middle, class, &text);
                }
            }
        }
        for line in 0..=classes {
            let shift = line as f64 * cell;
            canvas.line((area.x + shift, area.y), (area.x + shift, area.bottom()), "grid");
            canvas.line((area.x, area.y + shift), (area.right(), area.y + shift), "grid");
        }
        canvas.finish(&self.summary())
    }

    fn name(&self, class: usize) -> &str {
        self.classes.get(class).map_or("", String::as_str)
    }

    fn summary(&self) -> String {
        let right: u64 = (0..self.counts.len()).filter_map(|class| self.counts[class].get(class)).sum();
        let all: u64 = self.counts.iter().flatten().sum();
        match self.lang {
            Lang::En => format!("Confusion matrix: {right} of {all} rows on the diagonal"),
            Lang::Zh => format!("混淆矩阵：{all} 行中 {right} 行在对角线上"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_cell_that_has_rows_is_drawn() {
        let map = ConfusionMap {
            classes: vec!["猫".into(), "<dog>".into()],
            counts: vec![vec![3, 1], vec![0, 2]],
            lang: Lang::Zh,
        };
        let svg = map.to_svg();
        assert_eq!(svg.matches("class=\"fill-0\"").count(), 2);
        assert_eq!(svg.matches("class=\"fill-1\"").count(), 1);
        assert!(svg.contains("猫 → &lt;dog&gt;: 1 (25.0 %)"));
        assert!(svg.contains("6 行中 5 行在对角线上"));
    }
}
