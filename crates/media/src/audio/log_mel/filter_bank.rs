//! Triangular mel filters over the bins of a spectrum.

/// Mel filters without their zeros.
pub(super) struct FilterBank {
    filters: Vec<Filter>,
}

/// One triangle: weights of consecutive bins.
struct Filter {
    first_bin: usize,
    weights: Vec<f64>,
}

impl FilterBank {
    /// Whisper's: triangles in hertz between points evenly spaced on Slaney's mel scale between two
    /// frequencies, each of the same area.
    pub fn slaney(mels: usize, bins: usize, sample_rate: f64, low: f64, high: f64) -> Self {
        let nyquist = sample_rate / 2.0;
        let (low, high) = (slaney_mel(low), slaney_mel(high));
        let corner = |i: usize| slaney_hertz(low + (high - low) * i as f64 / (mels + 1) as f64);
        let hertz = |bin: usize| nyquist * bin as f64 / (bins - 1) as f64;
        Self::triangles(mels, bins, corner, hertz, |left, right| 2.0 / (right - left))
    }

    /// Kaldi's: triangles in mel (`1127 ln(1 + f / 700)`) evenly spaced between two frequencies,
    /// each of height 1; the bin at half the rate has no weight.
    pub fn kaldi(mels: usize, fft_length: usize, sample_rate: f64, low: f64, high: f64) -> Self {
        let (low, high) = (kaldi_mel(low), kaldi_mel(high));
        let step = (high - low) / (mels + 1) as f64;
        let corner = |i: usize| low + step * i as f64;
        let mel = |bin: usize| kaldi_mel(sample_rate * bin as f64 / fft_length as f64);
        Self::triangles(mels, fft_length / 2, corner, mel, |_, _| 1.0)
    }

    fn triangles(
        mels: usize,
        bins: usize,
        corner: impl Fn(usize) -> f64,
        position: impl Fn(usize) -> f64,
        height: impl Fn(f64, f64) -> f64,
    ) -> Self {
        let positions: Vec<f64> = (0..bins).map(position).collect();
        let filter = |mel: usize| {
            let (left, centre, right) = (corner(mel), corner(mel + 1), corner(mel + 2));
            let height = height(left, right);
            let inside = |&x: &f64| x > left && x < right;
            let first_bin = positions.iter().position(inside).unwrap_or(0);
            let weight = |x: f64| {
                let rising = (x - left) / (centre - left);
                let falling = (right - x) / (right - centre);
                height * rising.min(falling).max(0.0)
            };
            let covered = positions[first_bin..].iter().take_while(|x| inside(x));
            Filter { first_bin, weights: covered.map(|&x| weight(x)).collect() }
        };
        Self { filters: (0..mels).map(filter).collect() }
    }

    /// The energy of each band of a power spectrum.
    pub fn apply<'a>(&'a self, power: &'a [f64]) -> impl Iterator<Item = f64> + 'a {
        self.filters.iter().map(|filter| {
            let bins = &power[filter.first_bin..filter.first_bin + filter.weights.len()];
            bins.iter().zip(&filter.weights).map(|(x, weight)| x * weight).sum()
        })
    }
}

/// Frequency where Slaney's scale turns from linear to logarithmic, and the mel there.
const SLANEY_TURN: (f64, f64) = (1000.0, 15.0);

fn slaney_mel(hertz: f64) -> f64 {
    let (turn, mel) = SLANEY_TURN;
    if hertz < turn { hertz * mel / turn } else { mel + (hertz / turn).ln() * 27.0 / 6.4f64.ln() }
}

fn slaney_hertz(mel: f64) -> f64 {
    let (turn, turn_mel) = SLANEY_TURN;
    if mel < turn_mel { mel * turn / turn_mel } else { turn * ((mel - turn_mel) * 6.4f64.ln() / 27.0).exp() }
}

fn kaldi_mel(hertz: f64) -> f64 {
    1127.0 * (hertz / 700.0).ln_1p()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_slaney_scale_inverts_and_meets_at_its_turn() {
        for hertz in [0.0, 440.0, 999.9, 1000.0, 7600.0] {
            assert!((slaney_hertz(slaney_mel(hertz)) - hertz).abs() < 1e-9);
        }
        assert_eq!(slaney_mel(1000.0), 15.0);
    }

    #[test]
    fn more_bands_than_bins_leave_empty_bands_not_panics() {
        let bank = FilterBank::slaney(300, 11, 16_000.0, 0.0, 8000.0);
        assert_eq!(bank.apply(&[1.0; 11]).count(), 300);
    }
}
