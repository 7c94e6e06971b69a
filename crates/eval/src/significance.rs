//! Closed-form statistics: the Wilson interval, McNemar's exact test, the bootstrap p-value.

use crate::bootstrap::Interval;
use crate::error::{EvalError, same_length};
use serde::{Deserialize, Serialize};

/// McNemar's exact test of whether one model is right more often than another on the same rows.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct McNemar {
    /// Rows that only the first model got right.
    pub only_before: u64,
    /// Rows that only the second model got right.
    pub only_after: u64,
    /// Two-sided probability of a split at least as uneven if both were equally good.
    pub p_value: f64,
}

impl McNemar {
    /// Compares which rows each model got right, `[rows]` each.
    pub fn new(before: &[bool], after: &[bool]) -> Result<Self, EvalError> {
        same_length("answers of the second model", before.len(), after.len())?;
        let pairs = || before.iter().zip(after);
        let only_before = pairs().filter(|(b, a)| **b && !**a).count() as u64;
        let only_after = pairs().filter(|(b, a)| **a && !**b).count() as u64;
        Ok(Self { only_before, only_after, p_value: binomial_half_p(only_before, only_after) })
    }
}

/// Two-sided probability of a split of `a + b` fair coins at least as uneven as `a` to `b`.
fn binomial_half_p(a: u64, b: u64) -> f64 {
    let (tosses, few) = (a + b, a.min(b));
    // The terms C(n, k) / 2^n, each from the last, in logarithms so that none underflows.
    let mut log_term = -(tosses as f64) * std::f64::consts::LN_2;
    let mut sum = log_term.exp();
    for k in 1..=few {
        log_term += ((tosses - k + 1) as f64 / k as f64).ln();
        sum += log_term.exp();
    }
    (2.0 * sum).min(1.0)
}

/// Wilson score interval of a share, `successes` of `rows`; sound also for few rows and shares of 0 or 1.
///
/// Fails unless `successes <= rows`, `rows > 0` and `0 < confidence < 1`.
pub fn wilson(successes: u64, rows: u64, confidence: f64) -> Result<Interval, EvalError> {
    if rows == 0 {
        return Err(EvalError::Empty { what: "label" });
    }
    if successes > rows {
        return Err(EvalError::BadSetting {
            name: "successes",
            value: successes.to_string(),
            expected: "at most the number of rows",
        });
    }
    if !(confidence > 0.0 && confidence < 1.0) {
        return Err(EvalError::BadSetting {
            name: "confidence",
            value: confidence.to_string(),
            expected: "a number between 0 and 1, such as 0.95",
        });
    }
    let (n, share) = (rows as f64, successes as f64 / rows as f64);
    let z = normal_quantile((1.0 + confidence) / 2.0);
    let scale = 1.0 + z * z / n;
    let center = (share + z * z / (2.0 * n)) / scale;
    let half = z / scale * (share * (1.0 - share) / n + z * z / (4.0 * n * n)).sqrt();
    Ok(Interval {
        low: if successes == 0 { 0.0 } else { center - half },
        high: if successes == rows { 1.0 } else { center + half },
    })
}

/// Two-sided p-value of a difference from its paired bootstrap distribution; none without values.
///
/// Twice the smaller share of resamples on one side of zero, each side counted one more so that a
/// finite number of resamples never claims certainty.
pub fn bootstrap_p_value(differences: &[f64]) -> Option<f64> {
    if differences.is_empty() {
        return None;
    }
    let share = |count: usize| (count + 1) as f64 / (differences.len() + 1) as f64;
    let below = share(differences.iter().filter(|d| **d <= 0.0).count());
    let above = share(differences.iter().filter(|d| **d >= 0.0).count());
    Some((2.0 * below.min(above)).min(1.0))
}

/// Quantile of the standard normal distribution for `0 < p < 1` (Wichura 1988, AS 241).
pub fn normal_quantile(p: f64) -> f64 {
    let q = p - 0.5;
    if q.abs() <= 0.425 {
        let r = 0.180625 - q * q;
        return q * rational(r, &CENTER_ABOVE, &CENTER_BELOW);
    }
    let r = (-p.min(1.0 - p).ln()).sqrt();
    let tail =
        if r <= 5.0 { rational(r - 1.6, &TAIL_ABOVE, &TAIL_BELOW) } else { rational(r - 5.0, &FAR_ABOVE, &FAR_BELOW) };
    tail.copysign(q)
}

/// Quotient of two polynomials, lowest power first.
fn rational(x: f64, above: &[f64; 8], below: &[f64; 8]) -> f64 {
    let polynomial = |c: &[f64; 8]| c.iter().rev().fold(0.0, |sum, c| sum * x + c);
    polynomial(above) / polynomial(below)
}

const CENTER_ABOVE: [f64; 8] = [
    3.387_132_872_796_366_5,
    1.331_416_678_917_843_8e2,
    1.971_590_950_306_551_3e3,
    1.373_169_376_550_946e4,
    4.592_195_393_154_987e4,
    6.726_577_092_700_87e4,
    3.343_057_558_358_813e4,
    2.509_080_928_730_122_7e3,
];
const CENTER_BELOW: [f64; 8] = [
    1.0,
    4.231_333_070_160_091e1,
    6.871_870_074_920_579e2,
    5.394_196_021_424_751e3,
    2.121_379_430_158_659_7e4,
    3.930_789_580_009_271e4,
    2.872_908_573_572_194_3e4,
    5.226_495_278_852_854e3,
];
const TAIL_ABOVE: [f64; 8] = [
    1.423_437_110_749_683_5,
    4.630_337_846_156_546,
    5.769_497_221_460_691,
    3.647_848_324_763_204_5,
    1.270_458_252_452_368_4,
    2.417_807_251_774_506e-1,
    2.272_384_498_926_918_4e-2,
    7.745_450_142_783_414e-4,
];
const TAIL_BELOW: [f64; 8] = [
    1.0,
    2.053_191_626_637_759,
    1.676_384_830_183_803_8,
    6.897_673_349_851e-1,
    1.481_039_764_274_800_8e-1,
    1.519_866_656_361_645_7e-2,
    5.475_938_084_995_345e-4,
    1.050_750_071_644_416_9e-9,
];
const FAR_ABOVE: [f64; 8] = [
    6.657_904_643_501_103,
    5.463_784_911_164_114,
    1.784_826_539_917_291_3,
    2.965_605_718_285_048_7e-1,
    2.653_218_952_657_612_4e-2,
    1.242_660_947_388_078_4e-3,
    2.711_555_568_743_487_6e-5,
    2.010_334_399_292_288_1e-7,
];
const FAR_BELOW: [f64; 8] = [
    1.0,
    5.998_322_065_558_88e-1,
    1.369_298_809_227_358e-1,
    1.487_536_129_085_061_5e-2,
    7.868_691_311_456_133e-4,
    1.846_318_317_510_054_8e-5,
    1.421_511_758_316_446e-7,
    2.044_263_103_389_939_8e-15,
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn agreement_everywhere_says_nothing() {
        let test = McNemar::new(&[true, false], &[true, false]).unwrap();
        assert_eq!((test.only_before, test.only_after), (0, 0));
        assert_eq!(test.p_value, 1.0);
    }

    #[test]
    fn the_sides_are_counted_the_right_way_round() {
        let test = McNemar::new(&[true, true, false], &[false, true, true]).unwrap();
        assert_eq!((test.only_before, test.only_after), (1, 1));
        let test = McNemar::new(&[false, false, false], &[false, true, true]).unwrap();
        assert_eq!((test.only_before, test.only_after), (0, 2));
        assert_eq!(test.p_value, 0.5);
    }

    #[test]
    fn a_finite_bootstrap_never_claims_certainty() {
        assert_eq!(bootstrap_p_value(&[]), None);
        assert_eq!(bootstrap_p_value(&[0.0; 10]), Some(1.0));
        let certain = bootstrap_p_value(&[0.1; 999]).unwrap();
        assert!((certain - 0.002).abs() < 1e-15);
    }

    #[test]
    fn senseless_shares_are_refused() {
        assert!(wilson(3, 2, 0.95).is_err());
        assert!(wilson(0, 0, 0.95).is_err());
        assert!(wilson(1, 2, 95.0).is_err());
    }
}
