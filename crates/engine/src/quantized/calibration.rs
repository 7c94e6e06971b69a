//! Choosing fixed ranges of activations from data.

use super::Range;
use crate::ParamId;
use std::collections::HashMap;

/// Bins of a histogram, over ±its reach.
const BINS: usize = 4096;

/// How often values of each size were met.
#[derive(Debug, Clone)]
pub struct Histogram {
    /// Values from −reach to reach are counted; it doubles when needed.
    reach: f32,
    counts: Vec<u64>,
}

impl Default for Histogram {
    fn default() -> Self {
        Self { reach: 2.0_f32.powi(-20), counts: vec![0; BINS] }
    }
}

impl Histogram {
    /// Counts values; those that are not finite are left out.
    pub fn add(&mut self, values: &[f32]) {
        let largest = values.iter().filter(|x| x.is_finite()).fold(0.0_f32, |m, x| m.max(x.abs()));
        while largest > self.reach {
            self.double();
        }
        let per_unit = (BINS / 2) as f32 / self.reach;
        for x in values.iter().filter(|x| x.is_finite()) {
            let bin = (x * per_unit + (BINS / 2) as f32) as usize;
            self.counts[bin.min(BINS - 1)] += 1;
        }
    }

    /// Twice the reach: two bins become one, in the middle.
    fn double(&mut self) {
        let mut wider = vec![0; BINS];
        for (pair, count) in self.counts.chunks_exact(2).zip(&mut wider[BINS / 4..]) {
            *count = pair[0] + pair[1];
        }
        self.counts = wider;
        self.reach *= 2.0;
    }

    /// The range with the least squared error of values in 256 steps: a wider
    /// one makes every step coarser, a narrower one clips more. None without
    /// values.
    pub fn range(&self) -> Option<Range> {
        let width = 2.0 * f64::from(self.reach) / BINS as f64;
        let first = self.counts.iter().position(|n| *n > 0)?;
        let last = self.counts.iter().rposition(|n| *n > 0)?;
        let edge = |bin: usize| bin as f64 * width - f64::from(self.reach);
        let (low, high) = (edge(first).min(0.0), edge(last + 1).max(0.0));
        let error = |low: f64, high: f64| {
            let step = (high - low) / 255.0;
            let cost = |(bin, n): (usize, &u64)| {
                let x = edge(bin) + width / 2.0;
                let beyond = (low - x).max(x - high).max(0.0);
                *n as f64 * (beyond * beyond + if beyond > 0.0 { 0.0 } else { step * step / 12.0 })
            };
            self.counts.iter().enumerate().filter(|(_, n)| **n > 0).map(cost).sum::<f64>()
        };
        // One end after the other, twice: each share of its way out.
        let best = |cost: &dyn Fn(f64) -> f64| {
            let shares = (0..=100).rev().map(|percent| f64::from(percent) / 100.0);
            shares.map(|share| (cost(share), share)).min_by(|a, b| a.0.total_cmp(&b.0)).map_or(1.0, |b| b.1)
        };
        let (mut lower, mut upper) = (1.0, 1.0);
        for _ in 0..2 {
            upper = best(&|share| error(low * lower, high * share));
            lower = best(&|share| error(low * share, high * upper));
        }
        Some(Range { low: (low * lower) as f32, high: (high * upper) as f32 })
    }
}

/// What linear layers were given, by their weights.
#[derive(Debug, Clone, Default)]
pub struct Calibration {
    met: HashMap<ParamId, Histogram>,
}

impl Calibration {
    /// Counts the inputs of the layer of a weight.
    pub fn add(&mut self, weight: ParamId, inputs: &[f32]) {
        self.met.entry(weight).or_default().add(inputs);
    }

    /// The range for the inputs of a layer; None for one that met none.
    pub fn range(&self, weight: ParamId) -> Option<Range> {
        self.met.get(&weight)?.range()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Random;

    /// Mean squared error of values in the 256 steps of a range.
    fn error(values: &[f32], range: Range) -> f64 {
        let step = (range.high - range.low) / 255.0;
        let one = |x: &f32| {
            let y = (x.clamp(range.low, range.high) / step).round() * step;
            f64::from(x - y).powi(2)
        };
        values.iter().map(one).sum::<f64>() / values.len() as f64
    }

    #[test]
    fn a_few_far_values_are_clipped_where_that_costs_least() {
        let random = Random::new(1).purpose("calibration");
        let mut values: Vec<f32> = (0..1_000_000).map(|i| random.normal(i) as f32).collect();
        values[7] = 40.0;
        let mut histogram = Histogram::default();
        for part in values.chunks(999) {
            histogram.add(part);
        }
        let range = histogram.range().expect("a range");
        assert!(range.high < 20.0 && range.high > 3.0 && range.low < -2.5, "{range:?}");
        let whole = Range { low: values.iter().copied().fold(0.0, f32::min), high: 40.0 };
        assert!(error(&values, range) < 0.7 * error(&values, whole));
    }

    #[test]
    fn even_values_are_not_clipped() {
        let values: Vec<f32> = (0..10_000).map(|i| i as f32 / 1000.0).collect();
        let mut histogram = Histogram::default();
        histogram.add(&values);
        let range = histogram.range().expect("a range");
        assert_eq!(range.low, 0.0);
        assert!((9.9..10.1).contains(&range.high), "{range:?}");
    }

    #[test]
    fn nothing_and_what_is_not_finite_have_no_range() {
        let mut histogram = Histogram::default();
        assert_eq!(histogram.range(), None);
        histogram.add(&[f32::NAN, f32::INFINITY]);
        assert_eq!(histogram.range(), None);
        histogram.add(&[0.0]);
        assert!(histogram.range().is_some_and(|r| r.low <= 0.0 && r.high > 0.0));
    }
}
