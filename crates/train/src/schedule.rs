//! The learning rate as a function of the step.

use crate::config::{ScheduleKind, TrainConfig};

/// The factor on the learning rate over a run of a known length.
///
/// With W steps of warm-up out of N, step s (from 0) has the factor (s + 1) / W during
/// the warm-up, so that the first step already learns; then 1 falling to `min_lr_ratio`
/// over the remaining steps, on a line or half a cosine.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Schedule {
    kind: ScheduleKind,
    warmup: f64,
    total: f64,
    floor: f64,
}

impl Schedule {
    /// The schedule of a run of `total` steps.
    pub fn new(config: &TrainConfig, total: u64) -> Self {
        let total = total as f64;
        let steps = if config.warmup < 1.0 { (config.warmup * total).round() } else { config.warmup };
        Self { kind: config.schedule, warmup: steps.min(total), total, floor: config.min_lr_ratio }
    }

    /// The factor at a step, counted from 0; a part of a step where epochs differ in length.
    pub fn factor(&self, step: f64) -> f64 {
        if step < self.warmup {
            return ((step + 1.0) / self.warmup).min(1.0);
        }
        let length = self.total - self.warmup;
        let progress = if length > 0.0 { ((step - self.warmup) / length).clamp(0.0, 1.0) } else { 1.0 };
        let left = match self.kind {
            ScheduleKind::Constant => return 1.0,
            ScheduleKind::Linear => 1.0 - progress,
            ScheduleKind::Cosine => 0.5 * (1.0 + (std::f64::consts::PI * progress).cos()),
        };
        self.floor + (1.0 - self.floor) * left
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn factors(kind: ScheduleKind, warmup: f64, floor: f64, total: u64) -> Vec<f64> {
        let config = TrainConfig { schedule: kind, warmup, min_lr_ratio: floor, ..TrainConfig::default() };
        let schedule = Schedule::new(&config, total);
        (0..=total).map(|s| schedule.factor(s as f64)).collect()
    }

    fn close(got: &[f64], expected: &[f64]) {
        assert_eq!(got.len(), expected.len());
        assert!(got.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-12), "{got:?}, expected {expected:?}");
    }

    #[test]
    fn warm_up_rises_and_decay_falls() {
        close(&factors(ScheduleKind::Linear, 2.0, 0.0, 6), &[0.5, 1.0, 1.0, 0.75, 0.5, 0.25, 0.0]);
        close(&factors(ScheduleKind::Linear, 0.5, 0.2, 4), &[0.5, 1.0, 1.0, 0.6, 0.2]);
        close(&factors(ScheduleKind::Constant, 0.0, 0.0, 2), &[1.0, 1.0, 1.0]);
        let half = std::f64::consts::FRAC_1_SQRT_2 / 2.0;
        close(&factors(ScheduleKind::Cosine, 0.0, 0.0, 4), &[1.0, 0.5 + half, 0.5, 0.5 - half, 0.0]);
    }

    #[test]
    fn steps_past_the_end_stay_at_the_floor() {
        let config = TrainConfig { min_lr_ratio: 0.1, warmup: 50.0, ..TrainConfig::default() };
        assert_eq!(Schedule::new(&config, 10).factor(99.0), 0.1);
    }
}
