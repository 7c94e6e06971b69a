//! Mixup of fused vectors (Verma et al., "Manifold mixup", 2019): each sample
//! is trained on as a blend of itself and another of its batch, inputs and
//! targets alike.
//!
//! Blending after fusion works for every modality and for any subset present,
//! where pixels of one sample and words of another could not be added.

use sensorium_data::Target;
use sensorium_engine::{Random, Result, Tape, Tensor, Var, ops};

/// How one batch is blended.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Blend {
    /// The share of each sample itself.
    share: f64,
    /// The other sample of each: `[samples]`.
    partner: Vec<u32>,
}

impl Blend {
    /// Draws share ~ Beta(alpha, alpha) and the partners; None where there is
    /// nothing to blend, or a sample has no class.
    pub(crate) fn draw(alpha: f64, targets: &[Option<Target>], random: Random) -> Option<Self> {
        let all_classes = targets.iter().all(|t| matches!(t, Some(Target::Class(_))));
        if alpha <= 0.0 || targets.len() < 2 || !all_classes {
            return None;
        }
        let partner = random.purpose("partner").permutation(targets.len()).into_iter().map(|i| i as u32).collect();
        Some(Self { share: beta(alpha, random.purpose("share")), partner })
    }

    /// share · x + (1 − share) · x of the partner, for `[samples, dim]`.
    pub(crate) fn vectors(&self, tape: &Tape, x: &Var) -> Result<Var> {
        let other = ops::gather_rows(tape, x, &self.partner)?;
        let (own, other) = (ops::scale(tape, x, self.share)?, ops::scale(tape, &other, 1.0 - self.share)?);
        ops::add(tape, &own, &other)
    }

    /// The blended target probabilities `[samples, classes]`, smoothed.
    pub(crate) fn targets(&self, targets: &[Option<Target>], classes: usize, smoothing: f64) -> Tensor {
        let class = |i: usize| match targets[i] {
            Some(Target::Class(c)) => c as usize,
            _ => 0,
        };
        let mut out = Tensor::full(&[targets.len(), classes], (smoothing / classes as f64) as f32);
        for (i, partner) in self.partner.iter().enumerate() {
            let row = &mut out.data_mut()[i * classes..(i + 1) * classes];
            row[class(i)] += ((1.0 - smoothing) * self.share) as f32;
            row[class(*partner as usize)] += ((1.0 - smoothing) * (1.0 - self.share)) as f32;
        }
        out
    }
}

/// A draw from Beta(alpha, alpha) (Jöhnk 1964; fast for the small alphas that
/// mixup uses). Large alphas, which would rarely be accepted, are ½ in effect.
fn beta(alpha: f64, random: Random) -> f64 {
    for attempt in 0..1000 {
        let (u, v) = (f64::from(random.uniform(2 * attempt)), f64::from(random.uniform(2 * attempt + 1)));
        let (x, y) = (u.powf(1.0 / alpha), v.powf(1.0 / alpha));
        if x + y > 0.0 && x + y <= 1.0 {
            return x / (x + y);
        }
    }
    0.5
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_follow_the_beta_distribution() {
        // Beta(a, a) has mean 1/2 and variance 1 / (4 (2a + 1)).
        for alpha in [0.2, 1.0] {
            let draws: Vec<f64> = (0..20_000).map(|i| beta(alpha, Random::new(1).at_step(i))).collect();
            let mean = draws.iter().sum::<f64>() / draws.len() as f64;
            let variance = draws.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / draws.len() as f64;
            assert!((mean - 0.5).abs() < 0.01, "{alpha}: {mean}");
            assert!((variance - 1.0 / (4.0 * (2.0 * alpha + 1.0))).abs() < 0.005, "{alpha}: {variance}");
        }
    }

    #[test]
    fn targets_are_probabilities_of_both_classes() {
        let targets = [Some(Target::Class(0)), Some(Target::Class(2)), Some(Target::Class(1))];
        let blend = Blend { share: 0.75, partner: vec![1, 2, 2] };
        let t = blend.targets(&targets, 3, 0.0);
        assert_eq!(t.data(), [0.75, 0.0, 0.25, 0.0, 0.25, 0.75, 0.0, 1.0, 0.0]);
        let smoothed = blend.targets(&targets, 3, 0.3);
        assert!(smoothed.data().chunks(3).all(|r| (r.iter().sum::<f32>() - 1.0).abs() < 1e-6));
    }

    #[test]
    fn nothing_is_blended_without_classes() {
        let random = Random::new(0);
        assert_eq!(Blend::draw(0.2, &[Some(Target::Value(1.0)), Some(Target::Value(2.0))], random), None);
        assert_eq!(Blend::draw(0.2, &[Some(Target::Class(0))], random), None);
        assert_eq!(Blend::draw(0.0, &[Some(Target::Class(0)), Some(Target::Class(1))], random), None);
    }
}
