//! Charts as SVG text, drawn without a plotting library.
//!
//! Each chart is a struct of its data with `to_svg`. Colours are set as plain attributes, so that
//! a picture stands alone in any viewer, and each element has a class (`ink`, `grid`, `fill-0` …),
//! so that a page's style sheet can restyle it, such as for dark mode. Series colours can be told
//! apart by colour-blind readers (Okabe and Ito); text is escaped and falls back to CJK fonts.

mod axes;
mod bars;
mod canvas;
mod heat_map;
mod line_chart;
mod reliability;
mod scale;
mod scatter;

pub use bars::{Bar, BarChart};
pub use heat_map::ConfusionMap;
pub use line_chart::{LineChart, Marker, Series, precision_recall_chart, roc_chart};
pub use reliability::ReliabilityDiagram;
pub use scatter::ScatterChart;

pub(crate) use canvas::escape;

/// Colours of series on white: blue, vermilion, green, purple, orange, sky blue, grey.
pub(crate) const PALETTE: [&str; 7] = ["#0072b2", "#d55e00", "#009e73", "#b0609a", "#c98a00", "#3f9fd8", "#6b7280"];

/// The same colours on a dark ground.
pub(crate) const DARK_PALETTE: [&str; 7] =
    ["#4aa8e0", "#f58a4b", "#35c79b", "#dd94c6", "#f0b840", "#86ccf5", "#a3abb8"];
