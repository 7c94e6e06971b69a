//! The picture being drawn: shapes and text in, SVG out.

use super::PALETTE;
use std::fmt::Write;
use unicode_width::UnicodeWidthStr;

/// Fonts with Chinese, Japanese and Korean on each system.
const FONTS: &str = "'Noto Sans','Segoe UI',Helvetica,Arial,'Noto Sans CJK SC','Microsoft YaHei','PingFang SC','WenQuanYi Zen Hei',sans-serif";

/// Where text stands relative to its point.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Anchor {
    Start,
    Middle,
    End,
}

/// An SVG picture in the making; y grows downwards, lengths are pixels at natural size.
#[derive(Debug)]
pub(super) struct Canvas {
    width: f64,
    height: f64,
    body: String,
}

impl Canvas {
    pub(super) fn new(width: f64, height: f64) -> Self {
        Self { width, height, body: String::new() }
    }

    /// Text of a size in pixels; class `ink` is the text colour, `soft` a quieter one.
    pub(super) fn text(&mut self, at: (f64, f64), size: f64, anchor: Anchor, class: &str, text: &str) {
        self.turned_text(at, size, anchor, class, 0.0, text);
    }

    /// Text turned by an angle in degrees, clockwise, about its point.
    pub(super) fn turned_text(
        &mut self,
        (x, y): (f64, f64),
        size: f64,
        anchor: Anchor,
        class: &str,
        angle: f64,
        text: &str,
    ) {
        let color = match class {
            "soft" => "#5b6472",
            "on-fill" => "#ffffff",
            _ => "#1f2933",
        };
        let anchor = match anchor {
            Anchor::Start => "",
            Anchor::Middle => " text-anchor=\"middle\"",
            Anchor::End => " text-anchor=\"end\"",
        };
        let turn =
            if angle == 0.0 { String::new() } else { format!(" transform=\"rotate({} {} {})\"", n(angle), n(x), n(y)) };
        let weight = if class == "title" { " font-weight=\"600\"" } else { "" };
        let class = if class == "title" { "ink" } else { class };
        let _ = writeln!(
            self.body,
            "<text x=\"{}\" y=\"{}\" font-size=\"{}\" fill=\"{color}\" class=\"{class}\"{anchor}{weight}{turn}>{}</text>",
            n(x),
            n(y),
            n(size),
            escape(text)
        );
    }

    /// The title of the picture, at its upper left.
    pub(super) fn title(&mut self, text: &str) {
        let room = ((self.width - 32.0) / (15.0 * EM)) as usize;
        let text = crate::table::shorten(text, room);
        self.text((16.0, 26.0), 15.0, Anchor::Start, "title", &text);
    }

    /// A straight line of class `grid`, `axis` or `guide` (dashed).
    pub(super) fn line(&mut self, from: (f64, f64), to: (f64, f64), class: &str) {
        let style = match class {
            "grid" => "stroke=\"#e4e7eb\"",
            "axis" => "stroke=\"#9aa5b1\"",
            "error" => "stroke=\"#1f2933\" stroke-width=\"1.5\"",
            _ => "stroke=\"#7b8794\" stroke-dasharray=\"4 4\"",
        };
        let _ = writeln!(
            self.body,
            "<line x1=\"{}\" y1=\"{}\" x2=\"{}\" y2=\"{}\" {style} class=\"{class}\"/>",
            n(from.0),
            n(from.1),
            n(to.0),
            n(to.1)
        );
    }

    /// A bar in the colour of a series; `opacity` below one mixes it with the ground.
    pub(super) fn bar(&mut self, rect: Rect, series: usize, opacity: f64, tip: &str) {
        let series = series % PALETTE.len();
        let opacity = fill_opacity(opacity);
        let _ = writeln!(
            self.body,
            "<rect x=\"{}\" y=\"{}\" width=\"{}\" height=\"{}\" fill=\"{}\" class=\"fill-{series}\"{opacity}>{}</rect>",
            n(rect.x),
            n(rect.y),
            n(rect.width.max(0.0)),
            n(rect.height.max(0.0)),
            PALETTE[series],
            tooltip(tip)
        );
    }

    /// A dot in the colour of a series.
    pub(super) fn dot(&mut self, (x, y): (f64, f64), radius: f64, series: usize, opacity: f64, tip: &str) {
        let series = series % PALETTE.len();
        let opacity = fill_opacity(opacity);
        let _ = writeln!(
            self.body,
            "<circle cx=\"{}\" cy=\"{}\" r=\"{}\" fill=\"{}\" class=\"fill-{series}\"{opacity}>{}</circle>",
            n(x),
            n(y),
            n(radius),
            PALETTE[series],
            tooltip(tip)
        );
    }

    /// A line through points in the colour of a series; series past the palette are dashed.
    pub(super) fn path(&mut self, points: &[(f64, f64)], series: usize) {
        let dash = match series / PALETTE.len() {
            0 => "",
            1 => " stroke-dasharray=\"7 4\"",
            _ => " stroke-dasharray=\"2 3\"",
        };
        let series = series % PALETTE.len();
        let mut path = String::new();
        for (at, (x, y)) in points.iter().enumerate() {
            let verb = if at == 0 { 'M' } else { 'L' };
            let _ = write!(path, "{verb}{} {}", n(*x), n(*y));
        }
        let _ = writeln!(
            self.body,
            "<path d=\"{path}\" fill=\"none\" stroke=\"{}\" stroke-width=\"2\" stroke-linejoin=\"round\" stroke-linecap=\"round\" class=\"stroke-{series}\"{dash}/>",
            PALETTE[series]
        );
    }

    /// The finished picture; `summary` tells its content to readers who cannot see it.
    pub(super) fn finish(self, summary: &str) -> String {
        let (width, height) = (n(self.width), n(self.height));
        format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" viewBox=\"0 0 {width} {height}\" role=\"img\" aria-label=\"{0}\" class=\"plot\" font-family=\"{FONTS}\">\n<title>{0}</title>\n<rect width=\"{width}\" height=\"{height}\" fill=\"#ffffff\" class=\"paper\"/>\n{1}</svg>\n",
            escape(summary),
            self.body
        )
    }
}

/// A rectangle by its upper left corner and size.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rect {
    pub(super) x: f64,
    pub(super) y: f64,
    pub(super) width: f64,
    pub(super) height: f64,
}

impl Rect {
    pub(super) fn right(&self) -> f64 {
        self.x + self.width
    }

    pub(super) fn bottom(&self) -> f64 {
        self.y + self.height
    }
}

/// Width of one terminal column of text as a share of the font size; wide characters take two.
pub(super) const EM: f64 = 0.54;

/// About how wide text of a size is, in pixels.
pub(super) fn text_width(text: &str, size: f64) -> f64 {
    text.width() as f64 * EM * size
}

fn tooltip(text: &str) -> String {
    if text.is_empty() { String::new() } else { format!("<title>{}</title>", escape(text)) }
}

fn fill_opacity(opacity: f64) -> String {
    if opacity < 1.0 { format!(" fill-opacity=\"{}\"", (opacity * 1000.0).round() / 1000.0) } else { String::new() }
}

/// A coordinate: two digits after the point are below what a screen shows.
fn n(value: f64) -> f64 {
    (value * 100.0).round() / 100.0 + 0.0
}

/// Text for XML and HTML: markup escaped, characters that XML forbids replaced.
pub(crate) fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            '\t' | '\n' | '\r' => escaped.push(' '),
            c if c.is_control() || matches!(c, '\u{fffe}' | '\u{ffff}') => escaped.push('\u{fffd}'),
            c => escaped.push(c),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn markup_in_names_stays_text() {
        assert_eq!(escape("<b a=\"1\">&'\u{0}\n中"), "&lt;b a=&quot;1&quot;&gt;&amp;&#39;\u{fffd} 中");
    }

    #[test]
    fn chinese_takes_twice_the_room() {
        assert_eq!(text_width("中文", 10.0), text_width("abcd", 10.0));
    }
}
