//! Changing the rate of a sound by band-limited interpolation.
//!
//! The definition is the default of `torchaudio.functional.resample` (sinc interpolation under a
//! Hann window, width 6, roll-off 0.99): with `f = 0.99 * min(from, to)`, output `j` is the sum over
//! inputs `i` of `x[i] * w(t) * sinc(t) * f / from` at `t = (i / from - j / to) * f`, where
//! `w(t) = cos(pi * t / 12)^2` and `|t| < 6`.

use super::Audio;
use crate::error::{MediaError, Result};

/// Zero crossings of the filter on either side.
const FILTER_WIDTH: f64 = 6.0;
/// Cut-off as a share of the lower Nyquist frequency.
const ROLLOFF: f64 = 0.99;
/// Coefficients of all phases together; common rates need a few thousand.
const MAX_COEFFICIENTS: usize = 64 << 20;

/// Resamples to `to_rate`; the result has `ceil(length * to_rate / rate)` samples.
///
/// Errors when a rate is 0 or the pair has no common divisor large enough for a table of its phases.
pub fn resample(audio: &Audio, to_rate: u32) -> Result<Audio> {
    if to_rate == 0 || audio.sample_rate == 0 {
        let got = format!("{} to {to_rate}", audio.sample_rate);
        return Err(MediaError::parameter("sample rate", "at least 1 Hz", got));
    }
    if to_rate == audio.sample_rate || audio.samples.is_empty() {
        return Ok(Audio { sample_rate: to_rate, samples: audio.samples.clone() });
    }
    let divisor = greatest_common_divisor(audio.sample_rate, to_rate);
    let from = (audio.sample_rate / divisor) as usize;
    let to = (to_rate / divisor) as usize;
    let length = audio.samples.len();
    let output_length = (length as u128 * to as u128).div_ceil(from as u128);
    let taps = (2.0 * FILTER_WIDTH * from as f64 / (ROLLOFF * from.min(to) as f64)).ceil() as usize + 2;
    // Phases beyond the output are never used.
    let used = to.min(output_length.min(to as u128) as usize);
    if used.saturating_mul(taps) > MAX_COEFFICIENTS {
        return Err(MediaError::parameter(
            "sample rates",
            "a pair with a common divisor, such as 44100 and 16000",
            format!("{} and {to_rate}", audio.sample_rate),
        ));
    }
    let phases: Vec<Phase> = (0..used).map(|phase| Phase::new(phase, from, to)).collect();

    let mut samples = Vec::with_capacity(output_length as usize);
    'blocks: for block in 0.. {
        for phase in &phases {
            if samples.len() as u128 == output_length {
                break 'blocks;
            }
            samples.push(phase.apply(&audio.samples, (block * from) as isize));
        }
    }
    Ok(Audio { sample_rate: to_rate, samples })
}

fn greatest_common_divisor(mut a: u32, mut b: u32) -> u32 {
    while b != 0 {
        (a, b) = (b, a % b);
    }
    a
}

/// The filter of every `to`-th output: coefficients and where the first applies.
struct Phase {
    /// Input of the first coefficient, relative to the start of the block of `from` inputs.
    first: isize,
    coefficients: Vec<f32>,
}

impl Phase {
    fn new(phase: usize, from: usize, to: usize) -> Self {
        let (from, to) = (from as f64, to as f64);
        let frequency = from.min(to) * ROLLOFF;
        let centre = phase as f64 * from / to;
        let reach = FILTER_WIDTH * from / frequency;
        let first = (centre - reach).ceil() as isize;
        let last = (centre + reach).floor() as isize;
        let coefficient = |input: isize| {
            let t = (-(phase as f64) / to + input as f64 / from) * frequency;
            let t = t.clamp(-FILTER_WIDTH, FILTER_WIDTH);
            let window = (t * std::f64::consts::PI / FILTER_WIDTH / 2.0).cos().powi(2);
            let angle = t * std::f64::consts::PI;
            let sinc = if angle == 0.0 { 1.0 } else { angle.sin() / angle };
            (sinc * window * frequency / from) as f32
        };
        Self { first, coefficients: (first..=last).map(coefficient).collect() }
    }

    /// The sum over the inputs; those before the start and after the end are silent.
    fn apply(&self, samples: &[f32], block_start: isize) -> f32 {
        let start = block_start + self.first;
        let end = start + self.coefficients.len() as isize;
        let (from, to) = (start.max(0), end.min(samples.len() as isize));
        if from >= to {
            return 0.0;
        }
        let inputs = &samples[from as usize..to as usize];
        let coefficients = &self.coefficients[(from - start) as usize..(to - start) as usize];
        dot(inputs, coefficients)
    }
}

/// The sum of products over eight running sums, which the compiler keeps in one register.
fn dot(a: &[f32], b: &[f32]) -> f32 {
    const LANES: usize = 8;
    let mut sums = [0.0f32; LANES];
    let (a_blocks, b_blocks) = (a.chunks_exact(LANES), b.chunks_exact(LANES));
    let rest: f32 = a_blocks.remainder().iter().zip(b_blocks.remainder()).map(|(x, y)| x * y).sum();
    for (x, y) in a_blocks.zip(b_blocks) {
        for lane in 0..LANES {
            sums[lane] += x[lane] * y[lane];
        }
    }
    sums.iter().sum::<f32>() + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tone(rate: u32, hertz: f64, seconds: f64) -> Audio {
        let count = (f64::from(rate) * seconds) as usize;
        let step = std::f64::consts::TAU * hertz / f64::from(rate);
        Audio { sample_rate: rate, samples: (0..count).map(|i| (i as f64 * step).sin() as f32).collect() }
    }

    #[test]
    fn a_tone_keeps_its_pitch_and_loudness() {
        for (from, to) in [(44_100, 16_000), (8_000, 16_000), (22_050, 48_000)] {
            let output = resample(&tone(from, 440.0, 0.5), to).unwrap();
            let expected = tone(to, 440.0, 0.5);
            assert_eq!(output.samples.len(), expected.samples.len());
            let middle = to as usize / 10..to as usize * 4 / 10;
            for i in middle {
                let difference = (output.samples[i] - expected.samples[i]).abs();
                assert!(difference < 2e-3, "{from} to {to}, sample {i}: {difference}");
            }
        }
    }

    #[test]
    fn a_tone_above_the_new_limit_is_removed() {
        let output = resample(&tone(48_000, 11_000.0, 0.2), 16_000).unwrap();
        let middle = &output.samples[400..2800];
        assert!(middle.iter().all(|sample| sample.abs() < 0.01));
    }

    #[test]
    fn lengths_are_rounded_up_and_odd_rates_are_refused_or_done() {
        let audio = Audio { sample_rate: 3, samples: vec![1.0; 4] };
        assert_eq!(resample(&audio, 2).unwrap().samples.len(), 3);
        assert!(resample(&audio, 0).is_err());
        let odd = Audio { sample_rate: 44_101, samples: vec![0.5; 1000] };
        assert_eq!(resample(&odd, 16_001).unwrap().samples.len(), 363);
    }
}
