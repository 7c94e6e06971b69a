//! Random numbers that depend on what they are for, not on what came before.
//!
//! [`Random`] is Philox4x32-10 (Salmon et al., "Parallel random numbers: as
//! easy as 1, 2, 3", 2011): a keyed function of a position. A dropout mask is
//! a function of (seed, purpose, step, position), so threads, order and
//! resuming cannot change it and it is never stored.

/// A keyed stream of random numbers, addressed by position.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Random {
    key: [u32; 2],
    stream: u64,
}

impl Random {
    /// The stream for a seed.
    pub fn new(seed: u64) -> Self {
        Self { key: [seed as u32, (seed >> 32) as u32], stream: 0 }
    }

    /// The stream for a named purpose within this one.
    pub fn purpose(self, name: &str) -> Self {
        // FNV-1a, 64 bit: stable across versions and platforms.
        let hash =
            name.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0000_0100_0000_01b3));
        self.at_step(hash)
    }

    /// The stream for a number (a step, an epoch, a layer) within this one.
    pub fn at_step(self, step: u64) -> Self {
        let [a, b, c, d] = self.block(step ^ 0x9e37_79b9_7f4a_7c15);
        Self { key: [a, b], stream: u64::from(c) | u64::from(d) << 32 }
    }

    /// Four random words for a position.
    #[inline(always)]
    pub fn block(self, position: u64) -> [u32; 4] {
        let mut c = [position as u32, (position >> 32) as u32, self.stream as u32, (self.stream >> 32) as u32];
        let mut k = self.key;
        for _ in 0..10 {
            let p0 = u64::from(c[0]) * 0xd251_1f53;
            let p1 = u64::from(c[2]) * 0xcd9e_8d57;
            c = [(p1 >> 32) as u32 ^ c[1] ^ k[0], p1 as u32, (p0 >> 32) as u32 ^ c[3] ^ k[1], p0 as u32];
            k = [k[0].wrapping_add(0x9e37_79b9), k[1].wrapping_add(0xbb67_ae85)];
        }
        c
    }

    /// A 64-bit word for a position.
    pub fn word(self, position: u64) -> u64 {
        let [a, b, ..] = self.block(position);
        u64::from(a) | u64::from(b) << 32
    }

    /// Uniform in [0, 1) for a position, 24 bits.
    pub fn uniform(self, position: u64) -> f32 {
        (self.block(position)[0] >> 8) as f32 / (1 << 24) as f32
    }

    /// A whole number below `limit` (which must not be 0) for a position.
    pub fn below(self, position: u64, limit: u64) -> u64 {
        ((u128::from(self.word(position)) * u128::from(limit)) >> 64) as u64
    }

    /// A standard normal for a position (Box and Muller, in f64).
    pub fn normal(self, position: u64) -> f64 {
        let [a, b, c, d] = self.block(position);
        let unit = |hi: u32, lo: u32| ((u64::from(hi) << 32 | u64::from(lo)) >> 11) as f64 / (1_u64 << 53) as f64;
        (-2.0 * (1.0 - unit(a, b)).ln()).sqrt() * (std::f64::consts::TAU * unit(c, d)).cos()
    }

    /// The numbers `0..len` in random order (Fisher and Yates).
    pub fn permutation(self, len: usize) -> Vec<usize> {
        let mut order: Vec<usize> = (0..len).collect();
        for i in (1..len).rev() {
            order.swap(i, self.below(i as u64, i as u64 + 1) as usize);
        }
        order
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn philox_gives_the_published_test_vectors() {
        // Random123's known-answer file, philox4x32 10 rounds.
        let zero = Random { key: [0, 0], stream: 0 };
        assert_eq!(zero.block(0), [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]);
        let ones = Random { key: [u32::MAX, u32::MAX], stream: u64::MAX };
        assert_eq!(ones.block(u64::MAX), [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]);
    }

    #[test]
    fn purposes_and_steps_are_independent_streams() {
        let r = Random::new(7);
        let streams = [r, r.purpose("dropout"), r.purpose("shuffle"), r.at_step(1), r.at_step(2)];
        for (i, a) in streams.iter().enumerate() {
            for b in &streams[i + 1..] {
                assert_ne!(a.block(0), b.block(0));
            }
        }
    }

    #[test]
    fn moments_are_those_of_the_distributions() {
        let r = Random::new(3).purpose("moments");
        let n = 100_000;
        let mean = (0..n).map(|i| f64::from(r.uniform(i))).sum::<f64>() / n as f64;
        assert!((mean - 0.5).abs() < 0.005);
        let (m, s) = (0..n).map(|i| r.normal(i)).fold((0.0, 0.0), |(m, s), x| (m + x, s + x * x));
        assert!((m / n as f64).abs() < 0.015 && (s / n as f64 - 1.0).abs() < 0.02);
    }

    #[test]
    fn a_permutation_holds_every_number_once() {
        let mut p = Random::new(1).permutation(1000);
        assert_ne!(p[..10], [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]);
        p.sort_unstable();
        assert!(p.iter().enumerate().all(|(i, &x)| i == x));
    }
}
