//! Means and deviations in one pass.

/// Mean and variance of numbers seen one at a time (Welford's method).
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Moments {
    count: u64,
    mean: f64,
    squares: f64,
}

impl Moments {
    /// Takes one number in.
    pub(crate) fn add(&mut self, number: f64) {
        self.count += 1;
        let delta = number - self.mean;
        self.mean += delta / self.count as f64;
        self.squares += delta * (number - self.mean);
    }

    /// Numbers seen.
    pub(crate) fn count(&self) -> u64 {
        self.count
    }

    /// The mean; 0 before the first number.
    pub(crate) fn mean(&self) -> f64 {
        self.mean
    }

    /// The standard deviation of the numbers seen, divided by their count; 0 before the second.
    pub(crate) fn std(&self) -> f64 {
        if self.count == 0 { 0.0 } else { (self.squares / self.count as f64).max(0.0).sqrt() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_offsets_do_not_cancel() {
        let mut moments = Moments::default();
        [1e9 + 4.0, 1e9 + 7.0, 1e9 + 13.0, 1e9 + 16.0].into_iter().for_each(|x| moments.add(x));
        assert_eq!(moments.mean(), 1e9 + 10.0);
        assert!((moments.std() - 22.5f64.sqrt()).abs() < 1e-9);
        assert_eq!(moments.count(), 4);
    }
}
