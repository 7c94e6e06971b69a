//! Intervals by seeded resampling: the percentile bootstrap, over rows or over groups of rows.
//!
//! Resample `b` draws its `i`-th member from a counter-based generator keyed by (seed, b, i), so
//! the bits are the same whatever the number of threads, and two models judged on the same rows
//! with the same seed see the same resamples: that makes differences between them paired.

use crate::error::{EvalError, same_length};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::hash::Hash;

/// How intervals are drawn.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Bootstrap {
    /// How many resamples; 1,000 fixes the ends of a 95 % interval to about a tenth of its width.
    pub resamples: usize,
    /// Share of resamples the interval holds, such as 0.95.
    pub confidence: f64,
    /// Seed of the draws.
    pub seed: u64,
}

impl Default for Bootstrap {
    fn default() -> Self {
        Self { resamples: 1000, confidence: 0.95, seed: 0 }
    }
}

/// A confidence interval, written as `[low, high]`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(from = "[f64; 2]", into = "[f64; 2]")]
pub struct Interval {
    /// Lower end.
    pub low: f64,
    /// Upper end.
    pub high: f64,
}

impl From<[f64; 2]> for Interval {
    fn from([low, high]: [f64; 2]) -> Self {
        Self { low, high }
    }
}

impl From<Interval> for [f64; 2] {
    fn from(interval: Interval) -> Self {
        [interval.low, interval.high]
    }
}

/// What is drawn: single rows, or groups whose rows come and go together.
#[derive(Debug, Clone)]
pub struct Units {
    members: Vec<Vec<usize>>,
    rows: usize,
}

impl Units {
    /// Each of the `picked` rows (indices below `rows`) is drawn by itself.
    pub fn rows(picked: &[usize], rows: usize) -> Self {
        Self { members: picked.iter().map(|&row| vec![row]).collect(), rows }
    }

    /// The `picked` rows of one group are drawn together: use it where rows of a group are alike,
    /// such as utterances of one video; `groups` holds a group number for every row `[rows]`.
    pub fn groups(picked: &[usize], groups: &[usize]) -> Self {
        let mut place = HashMap::new();
        let mut members: Vec<Vec<usize>> = Vec::new();
        for &row in picked {
            let at = *place.entry(groups[row]).or_insert(members.len());
            if at == members.len() {
                members.push(Vec::new());
            }
            members[at].push(row);
        }
        Self { members, rows: groups.len() }
    }

    /// How many units are drawn for a resample.
    pub fn len(&self) -> usize {
        self.members.len()
    }

    /// Whether there is nothing to draw.
    pub fn is_empty(&self) -> bool {
        self.members.is_empty()
    }
}

/// Numbers groups by first occurrence of their key, for any key: file name, speaker, caption.
pub fn group_numbers<K: Hash + Eq>(keys: &[K]) -> Vec<usize> {
    let mut numbers = HashMap::new();
    keys.iter()
        .map(|key| {
            let next = numbers.len();
            *numbers.entry(key).or_insert(next)
        })
        .collect()
}

impl Bootstrap {
    /// Checks the settings.
    pub fn check(&self) -> Result<(), EvalError> {
        if self.resamples == 0 {
            return Err(EvalError::BadSetting { name: "resamples", value: "0".into(), expected: "at least 1" });
        }
        if !(self.confidence > 0.0 && self.confidence < 1.0) {
            return Err(EvalError::BadSetting {
                name: "confidence",
                value: self.confidence.to_string(),
                expected: "a number between 0 and 1, such as 0.95",
            });
        }
        Ok(())
    }

    /// Values of some metrics on each resample, `[metrics][resamples]`, undefined ones left out.
    ///
    /// `measure` gets how often each row was drawn `[rows]` and returns its metrics, always as many.
    pub fn distributions<M>(&self, units: &Units, measure: M) -> Result<Vec<Vec<f64>>, EvalError>
    where
        M: Fn(&[u32]) -> Vec<Option<f64>> + Sync,
    {
        self.check()?;
        if units.is_empty() {
            return Err(EvalError::Empty { what: "label" });
        }
        let measured: Vec<Vec<Option<f64>>> =
            (0..self.resamples).into_par_iter().map(|resample| measure(&self.draw(units, resample))).collect();
        let metrics = measured[0].len();
        for values in &measured {
            same_length("measured metrics", metrics, values.len())?;
        }
        let defined = |value: &Option<f64>| value.filter(|v| v.is_finite());
        Ok((0..metrics).map(|m| measured.iter().filter_map(|v| defined(&v[m])).collect()).collect())
    }

    /// The interval that holds the middle of the values; none if over half of the resamples were undefined.
    pub fn interval(&self, mut values: Vec<f64>) -> Option<Interval> {
        if values.is_empty() || 2 * values.len() < self.resamples {
            return None;
        }
        values.sort_by(f64::total_cmp);
        let tail = (1.0 - self.confidence) / 2.0;
        Some(Interval { low: percentile(&values, tail), high: percentile(&values, 1.0 - tail) })
    }

    /// How often each row was drawn into this resample `[rows]`.
    fn draw(&self, units: &Units, resample: usize) -> Vec<u32> {
        let mut counts = vec![0; units.rows];
        for pair in 0..units.len().div_ceil(2) {
            let words = philox(self.seed, resample as u64, pair as u64);
            for word in words.into_iter().take(units.len() - 2 * pair) {
                let unit = ((u128::from(word) * units.len() as u128) >> 64) as usize;
                for &row in &units.members[unit] {
                    counts[row] += 1;
                }
            }
        }
        counts
    }
}

/// Linear interpolation between the two nearest of sorted values, NumPy's default.
fn percentile(sorted: &[f64], share: f64) -> f64 {
    let place = share * (sorted.len() - 1) as f64;
    let below = place.floor() as usize;
    let above = (below + 1).min(sorted.len() - 1);
    sorted[below] + (sorted[above] - sorted[below]) * (place - below as f64)
}

/// Philox 4x32 with ten rounds (Salmon et al. 2011): two random words for a key and a counter.
fn philox(seed: u64, high: u64, low: u64) -> [u64; 2] {
    let halves = |x: u64| (x as u32, (x >> 32) as u32);
    let ((c0, c1), (c2, c3)) = (halves(low), halves(high));
    let (mut c, mut key) = ([c0, c1, c2, c3], halves(seed));
    for _ in 0..10 {
        let (low0, high0) = halves(u64::from(c[0]) * 0xD251_1F53);
        let (low1, high1) = halves(u64::from(c[2]) * 0xCD9E_8D57);
        c = [high1 ^ c[1] ^ key.0, low1, high0 ^ c[3] ^ key.1, low0];
        key = (key.0.wrapping_add(0x9E37_79B9), key.1.wrapping_add(0xBB67_AE85));
    }
    let word = |low: u32, high: u32| u64::from(low) | u64::from(high) << 32;
    [word(c[0], c[1]), word(c[2], c[3])]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mean(values: &[f64], counts: &[u32]) -> Vec<Option<f64>> {
        let total: u32 = counts.iter().sum();
        let sum: f64 = values.iter().zip(counts).map(|(v, &c)| v * f64::from(c)).sum();
        vec![(total > 0).then(|| sum / f64::from(total))]
    }

    fn interval_of_mean(bootstrap: &Bootstrap, values: &[f64], units: &Units) -> Interval {
        let values = bootstrap.distributions(units, |counts| mean(values, counts));
        bootstrap.interval(values.unwrap().remove(0)).unwrap()
    }

    fn all(rows: usize) -> Vec<usize> {
        (0..rows).collect()
    }

    /// Numbers in 0 to 1 for the tests, from a stream that no resample uses.
    fn uniform(stream: u64, count: usize) -> Vec<f64> {
        (0..count).map(|i| philox(99, stream, i as u64)[0] as f64 / u64::MAX as f64).collect()
    }

    #[test]
    fn the_generator_is_philox() {
        // Known answers published with Random123: key and counter all zeros, all ones.
        assert_eq!(philox(0, 0, 0), [0xe169c58d_6627e8d5, 0x9b00dbd8_bc57ac4c]);
        assert_eq!(philox(u64::MAX, u64::MAX, u64::MAX), [0x41c83b0e_408f276d, 0x6d5451fd_a20bc7c6]);
    }

    #[test]
    fn same_bits_for_any_number_of_threads() {
        let values = uniform(1, 101);
        let units = Units::rows(&all(101), 101);
        let with = |threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads);
            pool.build().unwrap().install(|| Bootstrap::default().distributions(&units, |counts| mean(&values, counts)))
        };
        let one = with(1).unwrap();
        assert_eq!(one, with(2).unwrap());
        assert_eq!(one, with(4).unwrap());
        let other = Bootstrap { seed: 1, ..Bootstrap::default() };
        let other = other.distributions(&units, |counts| mean(&values, counts));
        assert_ne!(one, other.unwrap());
    }

    #[test]
    fn a_resample_draws_as_many_units_as_there_are() {
        let bootstrap = Bootstrap::default();
        for rows in [1, 2, 7, 50] {
            let counts = bootstrap.draw(&Units::rows(&all(rows), rows), 3);
            assert_eq!(counts.iter().sum::<u32>() as usize, rows);
        }
        let units = Units::groups(&[0, 1, 2, 4], &[5, 5, 9, 9, 5]);
        assert_eq!(units.len(), 2);
        for resample in 0..20 {
            let counts = bootstrap.draw(&units, resample);
            assert_eq!(counts[0], counts[1]);
            assert_eq!(counts[0], counts[4]);
            assert_eq!(counts[3], 0, "a row that was not picked");
        }
    }

    #[test]
    fn the_interval_covers_the_truth_about_as_often_as_it_says() {
        let bootstrap = Bootstrap { resamples: 400, ..Bootstrap::default() };
        let units = Units::rows(&all(60), 60);
        let covered = (0..400)
            .filter(|&data| {
                let rows = uniform(data, 60);
                let right: Vec<f64> = rows.iter().map(|u| f64::from(u8::from(*u < 0.7))).collect();
                let interval = interval_of_mean(&bootstrap, &right, &units);
                (interval.low..=interval.high).contains(&0.7)
            })
            .count();
        // 95 % of 400 is 380, with a standard error of about 4; percentile intervals run a little short.
        assert!((364..=396).contains(&covered), "{covered} of 400");
    }

    #[test]
    fn copies_of_a_row_do_not_narrow_a_grouped_interval() {
        let values = uniform(2, 80);
        let copies: Vec<f64> = values.iter().flat_map(|&v| [v; 4]).collect();
        let groups: Vec<usize> = (0..320).map(|row| row / 4).collect();
        let bootstrap = Bootstrap::default();
        let width = |values: &[f64], units: &Units| {
            let interval = interval_of_mean(&bootstrap, values, units);
            interval.high - interval.low
        };
        let single = width(&values, &Units::rows(&all(80), 80));
        let grouped = width(&copies, &Units::groups(&all(320), &groups));
        let naive = width(&copies, &Units::rows(&all(320), 320));
        assert!((grouped / single - 1.0).abs() < 1e-9);
        assert!((0.4..0.6).contains(&(naive / single)));
    }

    #[test]
    fn percentiles_interpolate_as_numpy_does() {
        let sorted = [1.0, 2.0, 4.0, 8.0];
        assert_eq!(percentile(&sorted, 0.0), 1.0);
        assert_eq!(percentile(&sorted, 0.5), 3.0);
        assert_eq!(percentile(&sorted, 0.75), 5.0);
        assert_eq!(percentile(&sorted, 1.0), 8.0);
    }

    #[test]
    fn a_metric_that_is_mostly_undefined_has_no_interval() {
        let bootstrap = Bootstrap::default();
        assert_eq!(bootstrap.interval(vec![0.5; 499]), None);
        assert!(bootstrap.interval(vec![0.5; 500]).is_some());
    }

    #[test]
    fn senseless_settings_are_refused() {
        let bootstrap = Bootstrap { confidence: 95.0, ..Bootstrap::default() };
        let error = bootstrap.check().unwrap_err().to_string();
        assert!(error.contains("confidence is 95"), "{error}");
    }
}
