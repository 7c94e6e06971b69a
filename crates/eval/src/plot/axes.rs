//! The axes that lines and points stand in: grid, ticks and labels.

use super::canvas::{Anchor, Canvas, Rect, text_width};
use super::scale::{Scale, labels};

/// What to draw axes for.
#[derive(Debug, Clone, Copy)]
pub(super) struct AxesConfig<'a> {
    /// Width of the picture.
    pub(super) width: f64,
    /// Upper edge of the area.
    pub(super) top: f64,
    /// Height of the area.
    pub(super) height: f64,
    /// Ranges of the data.
    pub(super) xs: (f64, f64),
    pub(super) ys: (f64, f64),
    /// Whether x has whole ticks only.
    pub(super) whole_x: bool,
    /// Names of the axes.
    pub(super) x_label: &'a str,
    pub(super) y_label: &'a str,
}

/// Axes drawn on a canvas: where data falls.
#[derive(Debug, Clone, Copy)]
pub(super) struct Axes {
    pub(super) area: Rect,
    horizontal: Scale,
    vertical: Scale,
}

impl Axes {
    /// Draws grid, ticks and labels; 56 pixels below the area are needed for them.
    pub(super) fn draw(canvas: &mut Canvas, config: &AxesConfig<'_>) -> Self {
        let vertical = Scale::new(config.ys, (config.top + config.height, config.top));
        let y_ticks = vertical.ticks(5, false);
        let y_names = labels(&y_ticks);
        let widest = y_names.iter().map(|t| text_width(t, 12.0)).fold(0.0, f64::max);
        let left = 48.0 + widest;
        let area = Rect { x: left, y: config.top, width: config.width - left - 24.0, height: config.height };
        let horizontal = Scale::new(config.xs, (area.x, area.right()));
        let x_ticks = horizontal.ticks(8, config.whole_x);
        for (tick, name) in y_ticks.iter().zip(y_names) {
            let y = vertical.at(*tick);
            canvas.line((area.x, y), (area.right(), y), "grid");
            canvas.text((area.x - 8.0, y + 4.0), 12.0, Anchor::End, "soft", &name);
        }
        for (tick, name) in x_ticks.iter().zip(labels(&x_ticks)) {
            let x = horizontal.at(*tick);
            canvas.line((x, area.bottom()), (x, area.bottom() + 5.0), "axis");
            canvas.text((x, area.bottom() + 20.0), 12.0, Anchor::Middle, "soft", &name);
        }
        canvas.line((area.x, area.bottom()), (area.right(), area.bottom()), "axis");
        let (middle, center) = (area.x + area.width / 2.0, area.y + area.height / 2.0);
        canvas.text((middle, area.bottom() + 42.0), 13.0, Anchor::Middle, "ink", config.x_label);
        canvas.turned_text((22.0, center), 13.0, Anchor::Middle, "ink", -90.0, config.y_label);
        Self { area, horizontal, vertical }
    }

    /// Where a point of the data falls.
    pub(super) fn place(&self, (x, y): (f64, f64)) -> (f64, f64) {
        (self.horizontal.at(x), self.vertical.at(y))
    }

    /// The middle of the area.
    pub(super) fn center(&self) -> (f64, f64) {
        (self.area.x + self.area.width / 2.0, self.area.y + self.area.height / 2.0)
    }
}
