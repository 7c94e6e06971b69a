//! What models gain over others on the same rows: paired differences, much
//! narrower than the distance between two separate intervals.

use crate::evaluation::{Comparison, Difference};
use crate::names::{Lang, metric_label};
use crate::table::{Align, Table, shorten};
use crate::terminal::{NAME_WIDTH, interval, p_value, signed};
use serde::{Deserialize, Serialize};

/// What one model gains over another by one metric.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Gain {
    /// The model.
    pub model: String,
    /// The model that it is compared with.
    pub over: String,
    /// The metric's name.
    pub metric: String,
    /// The metric of `model` minus that of `over`, paired by row or group.
    pub difference: Difference,
}

impl Gain {
    /// Takes one metric from a comparison of `over` (before) with `model`
    /// (after); none if it has no such metric.
    pub fn of(comparison: &Comparison, metric: &str, model: &str, over: &str) -> Option<Self> {
        let difference = *comparison.differences.get(metric)?;
        Some(Self { model: model.to_owned(), over: over.to_owned(), metric: metric.to_owned(), difference })
    }

    /// Whether chance hardly explains it: the interval leaves out 0, on the
    /// better side (`Some(true)`) or the worse one.
    pub fn clear(&self) -> Option<bool> {
        let interval = self.difference.interval?;
        let higher = crate::names::higher_is_better(&self.metric).unwrap_or(true);
        (interval.low > 0.0 || interval.high < 0.0).then_some((self.difference.difference > 0.0) == higher)
    }
}

/// Gains as a table: terminal text or Markdown. `confidence` is that of the
/// intervals, such as 0.95.
pub fn compare_gains(gains: &[Gain], confidence: f64, markdown: bool) -> String {
    let share = format!("{:.0} %, paired", 100.0 * confidence);
    let mut table = Table::new([
        ("model".to_owned(), Align::Left),
        ("against".to_owned(), Align::Left),
        ("metric".to_owned(), Align::Left),
        ("difference".to_owned(), Align::Right),
        (share, Align::Left),
        ("p".to_owned(), Align::Right),
    ]);
    for gain in gains {
        table.row([
            shorten(&gain.model, NAME_WIDTH),
            shorten(&gain.over, NAME_WIDTH),
            metric_label(&gain.metric, Lang::En).to_owned(),
            signed(gain.difference.difference),
            interval(gain.difference.interval.as_ref()),
            p_value(gain.difference.p_value),
        ]);
    }
    if markdown { table.to_markdown() } else { table.to_text() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Interval;

    fn gain(difference: f64, low: f64, high: f64, metric: &str) -> Gain {
        let interval = Some(Interval { low, high });
        let difference = Difference { difference, interval, p_value: Some(0.02) };
        Gain { model: "fused".into(), over: "text".into(), metric: metric.into(), difference }
    }

    #[test]
    fn only_an_interval_without_zero_is_clear() {
        assert_eq!(gain(0.05, 0.01, 0.09, "accuracy").clear(), Some(true));
        assert_eq!(gain(0.05, -0.01, 0.09, "accuracy").clear(), None);
        assert_eq!(gain(-0.05, -0.09, -0.01, "accuracy").clear(), Some(false));
        assert_eq!(gain(-0.05, -0.09, -0.01, "log_loss").clear(), Some(true));
    }

    #[test]
    fn the_table_names_both_models_and_the_interval() {
        let text = compare_gains(&[gain(0.05, 0.01, 0.09, "accuracy")], 0.95, false);
        for part in ["fused", "text", "Accuracy", "+0.0500", "[0.010, 0.090]", "95 %, paired"] {
            assert!(text.contains(part), "{part}: {text}");
        }
    }
}
