//! Rotary positions and how they are stretched to longer texts.

use super::BlockConfig;
use sensorium_engine::ops;
use serde::{Deserialize, Serialize};
use std::f64::consts::TAU;
use std::sync::Arc;

/// How the frequencies of rotary positions are changed so that a model takes
/// longer texts than it was first trained on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum RotaryScaling {
    /// All of them divided (Chen et al. 2023).
    Linear {
        /// By how much.
        factor: f64,
    },
    /// Low ones divided, high ones kept, between them a blend (Llama 3.1).
    Llama3 {
        /// By how much.
        factor: f64,
        /// Turns within the original length up to which a frequency is low.
        low_freq_factor: f64,
        /// Turns from which on it is high.
        high_freq_factor: f64,
        /// The original length.
        original_max_positions: usize,
    },
    /// As `llama3` with a ramp along the features, and attention sharpened
    /// (YaRN, Peng et al. 2023).
    Yarn {
        /// By how much.
        factor: f64,
        /// The original length.
        original_max_positions: usize,
        /// What queries and keys are multiplied by.
        attention_factor: f64,
        /// Turns within the original length from which on frequencies are kept.
        beta_fast: f64,
        /// Turns up to which they are divided.
        beta_slow: f64,
        /// Whether the ends of the ramp are whole features.
        truncate: bool,
    },
}

/// The rotary positions of a block: frequencies for `head_dim` features. None
/// without a base.
pub(super) fn rotary(c: &BlockConfig) -> Option<ops::Rotary> {
    let (base, dims) = (c.rotary_base?, c.head_dim());
    let plain = ops::Rotary { interleaved: c.rotary_interleaved, ..ops::Rotary::new(c.heads, dims, base) };
    let frequencies = &plain.frequencies;
    let scaled: Arc<[f64]> = match c.rotary_scaling {
        None => return Some(plain),
        Some(RotaryScaling::Linear { factor }) => frequencies.iter().map(|f| f / factor).collect(),
        Some(RotaryScaling::Llama3 {
            factor,
            low_freq_factor: low,
            high_freq_factor: high,
            original_max_positions,
        }) => {
            let blend = |f: &f64| {
                let turns = original_max_positions as f64 * f / TAU;
                let kept = ((turns - low) / (high - low)).clamp(0.0, 1.0);
                (1.0 - kept) * f / factor + kept * f
            };
            frequencies.iter().map(blend).collect()
        }
        Some(RotaryScaling::Yarn { factor, original_max_positions, beta_fast, beta_slow, truncate, .. }) => {
            let feature =
                |turns: f64| dims as f64 * (original_max_positions as f64 / (turns * TAU)).ln() / (2.0 * base.ln());
            let (mut first, mut last) = (feature(beta_fast), feature(beta_slow));
            if truncate {
                (first, last) = (first.floor(), last.ceil());
            }
            let (first, mut last) = (first.max(0.0), last.min(dims as f64 - 1.0));
            if first == last {
                last += 0.001;
            }
            let blend = |(i, f): (usize, &f64)| {
                let divided = ((i as f64 - first) / (last - first)).clamp(0.0, 1.0);
                divided * f / factor + (1.0 - divided) * f
            };
            frequencies.iter().enumerate().map(blend).collect()
        }
    };
    let amplitude = match c.rotary_scaling {
        Some(RotaryScaling::Yarn { attention_factor, .. }) => attention_factor,
        _ => 1.0,
    };
    Some(ops::Rotary { frequencies: scaled, amplitude, ..plain })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frequencies(scaling: RotaryScaling) -> Arc<[f64]> {
        let c = BlockConfig { rotary_base: Some(1e4), rotary_scaling: Some(scaling), ..BlockConfig::default() };
        rotary(&c).expect("a base").frequencies
    }

    #[test]
    fn high_frequencies_are_kept_and_low_ones_divided() {
        let plain = rotary(&BlockConfig { rotary_base: Some(1e4), ..BlockConfig::default() }).expect("a base");
        let llama3 = frequencies(RotaryScaling::Llama3 {
            factor: 8.0,
            low_freq_factor: 1.0,
            high_freq_factor: 4.0,
            original_max_positions: 128,
        });
        let yarn = frequencies(RotaryScaling::Yarn {
            factor: 8.0,
            original_max_positions: 128,
            attention_factor: 1.0,
            beta_fast: 32.0,
            beta_slow: 1.0,
            truncate: true,
        });
        let last = plain.frequencies.len() - 1;
        for scaled in [&llama3, &yarn] {
            assert!((scaled[0] - plain.frequencies[0]).abs() < 1e-12);
            assert!((scaled[last] - plain.frequencies[last] / 8.0).abs() < 1e-12);
            assert!(scaled.windows(2).all(|w| w[0] > w[1]));
        }
        assert!((frequencies(RotaryScaling::Linear { factor: 2.0 })[3] - plain.frequencies[3] / 2.0).abs() < 1e-12);
    }
}
