//! From data to pixels: ranges, round ticks and their labels.

/// A linear mapping of a data range onto a pixel range.
#[derive(Debug, Clone, Copy)]
pub(super) struct Scale {
    data: (f64, f64),
    pixels: (f64, f64),
}

impl Scale {
    /// Maps `data.0` to `pixels.0` and `data.1` to `pixels.1`.
    pub(super) fn new(data: (f64, f64), pixels: (f64, f64)) -> Self {
        Self { data, pixels }
    }

    pub(super) fn at(&self, value: f64) -> f64 {
        let share = (value - self.data.0) / (self.data.1 - self.data.0);
        self.pixels.0 + share * (self.pixels.1 - self.pixels.0)
    }

    /// Round values within the range, about `count` of them; whole ones if `whole`.
    pub(super) fn ticks(&self, count: usize, whole: bool) -> Vec<f64> {
        let step = step(self.data, count, whole);
        let first = (self.data.0 / step - 1e-9).ceil() as i64;
        let last = (self.data.1 / step + 1e-9).floor() as i64;
        (first..=last).map(|i| i as f64 * step).collect()
    }
}

/// The distance between ticks: 1, 2 or 5 times a power of ten.
fn step(range: (f64, f64), count: usize, whole: bool) -> f64 {
    let rough = (range.1 - range.0) / count.max(1) as f64;
    let power = 10f64.powf(rough.log10().floor());
    let factor = match rough / power {
        f if f < 1.5 => 1.0,
        f if f < 3.5 => 2.0,
        f if f < 7.5 => 5.0,
        _ => 10.0,
    };
    let step = factor * power;
    if whole { step.max(1.0) } else { step }
}

/// Whether a number can be drawn: not NaN, not infinite, nor so large that differences overflow.
pub(super) fn drawable(value: f64) -> bool {
    value.abs() < 1e100
}

/// The smallest range of some width that holds all drawable values; 0 to 1 if there are none.
pub(super) fn range_of(values: impl Iterator<Item = f64>) -> (f64, f64) {
    let drawable = values.filter(|v| drawable(*v));
    let range = drawable
        .fold(None, |range: Option<(f64, f64)>, v| Some(range.map_or((v, v), |(low, high)| (low.min(v), high.max(v)))));
    let (low, high) = range.unwrap_or((0.0, 1.0));
    // Ticks need a step that still changes the number it is added to.
    let least = 1e-9 * low.abs().max(high.abs()).max(1e-3);
    if high - low > least {
        return (low, high);
    }
    let half = if low == 0.0 { 0.5 } else { low.abs() / 2.0 };
    (low - half, high + half)
}

/// A range with some air, from zero where the values lie not far above it, to round ticks.
pub(super) fn padded((low, high): (f64, f64)) -> (f64, f64) {
    let air = 0.05 * (high - low);
    let near_zero = low >= 0.0 && low < 0.5 * high;
    let from = if near_zero { 0.0 } else { low - air };
    let unit = (0.0..=1.0).contains(&low) && high <= 1.0 && high > 0.9;
    (from, if unit { 1.0 } else { high + air })
}

/// Labels of ticks, as many digits as tell them apart.
pub(super) fn labels(ticks: &[f64]) -> Vec<String> {
    let step = match ticks {
        [a, b, ..] => (b - a).abs(),
        _ => ticks.first().map_or(1.0, |v| v.abs()),
    };
    let largest = ticks.iter().fold(0.0f64, |m, v| m.max(v.abs()));
    let decimals = (-step.max(1e-300).log10() - 1e-9).ceil().max(0.0) as usize;
    ticks
        .iter()
        .map(|&tick| {
            if tick == 0.0 {
                "0".to_owned()
            } else if largest >= 1e7 || decimals > 5 {
                format!("{tick:.1e}")
            } else {
                format!("{tick:.decimals$}").replace('-', "−")
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn ticks(low: f64, high: f64, whole: bool) -> Vec<String> {
        labels(&Scale::new((low, high), (0.0, 1.0)).ticks(5, whole))
    }

    #[test]
    fn ticks_are_round() {
        assert_eq!(ticks(0.0, 1.0, false), ["0", "0.2", "0.4", "0.6", "0.8", "1.0"]);
        assert_eq!(ticks(0.0, 3.0, true), ["0", "1", "2", "3"]);
        assert_eq!(ticks(-7.0, 33.0, false), ["0", "10", "20", "30"]);
        assert_eq!(ticks(0.011, 0.013, false), ["0.0110", "0.0115", "0.0120", "0.0125", "0.0130"]);
        assert_eq!(ticks(-1.0, 1.0, false), ["−1.0", "−0.5", "0", "0.5", "1.0"]);
    }

    #[test]
    fn ranges_have_some_width() {
        assert_eq!(range_of([f64::NAN].into_iter()), (0.0, 1.0));
        assert_eq!(range_of([0.0].into_iter()), (-0.5, 0.5));
        assert_eq!(range_of([4.0, 4.0].into_iter()), (2.0, 6.0));
        assert_eq!(range_of([1.0, f64::INFINITY, 3.0].into_iter()), (1.0, 3.0));
    }

    proptest! {
        #[test]
        fn any_numbers_give_a_few_ticks(a in -1e12f64..1e12, b in -1e12f64..1e12) {
            let scale = Scale::new(padded(range_of([a, b].into_iter())), (0.0, 100.0));
            let ticks = scale.ticks(5, false);
            prop_assert!((1..=12).contains(&ticks.len()), "{:?}", ticks);
            prop_assert!(ticks.iter().all(|&t| (-0.1..=100.1).contains(&scale.at(t))));
        }
    }
}
