//! Numbers, standardised by the training rows.

use serde::{Deserialize, Serialize};

use super::usable_std;
use crate::statistics::Moments;

/// `(number - mean) / std`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NumberProcessor {
    /// Mean of the training rows.
    pub mean: f64,
    /// Standard deviation of the training rows; 1 where they are all alike.
    pub std: f64,
}

impl NumberProcessor {
    pub(crate) fn fit(moments: &Moments) -> Self {
        NumberProcessor { mean: moments.mean(), std: f64::from(usable_std(moments.std())) }
    }

    /// The standardised number.
    pub fn apply(&self, number: f64) -> f32 {
        ((number - self.mean) / self.std) as f32
    }

    pub(crate) fn validate(&self) -> Result<(), String> {
        if !(self.mean.is_finite() && self.std.is_finite() && self.std > 0.0) {
            return Err(format!("mean {} and std {}: expected finite numbers, std above 0", self.mean, self.std));
        }
        Ok(())
    }
}
