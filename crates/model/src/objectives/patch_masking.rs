//! Which patches of a picture, or squares of a spectrogram, are hidden.

use crate::{ModelError, Result};
use sensorium_engine::Random;
use serde::{Deserialize, Serialize};

/// How patches are chosen: so many of every picture, without regard to what
/// they show.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PatchMasking {
    /// The share of patches that are hidden.
    pub share: f64,
    /// The side, in patches, of the squares that are hidden together.
    pub block: usize,
}

impl Default for PatchMasking {
    fn default() -> Self {
        Self { share: 0.6, block: 1 }
    }
}

impl PatchMasking {
    /// Whether the settings make sense.
    ///
    /// # Errors
    /// When the share is not between 0 and 1, or blocks have no side.
    pub fn validate(&self) -> Result<()> {
        let wrong = |key: &str, problem: String| Err(ModelError::config(key, problem));
        if !(self.share > 0.0 && self.share < 1.0) {
            return wrong("share", format!("{} is not a share between 0 and 1", self.share));
        }
        if self.block == 0 {
            return wrong("block", "0 is no side of a square; expected at least 1".into());
        }
        Ok(())
    }

    /// For each patch of grids of (rows, columns), row by row, whether it is
    /// hidden. At least one of every grid is, and of more than one at least
    /// one is not. What is hidden follows from `random` and the grid's number.
    pub fn apply(&self, grids: &[(usize, usize)], random: Random) -> Vec<bool> {
        let mut hidden = Vec::with_capacity(grids.iter().map(|(rows, columns)| rows * columns).sum());
        for (n, (rows, columns)) in grids.iter().enumerate() {
            let (down, across) = (rows.div_ceil(self.block), columns.div_ceil(self.block));
            let blocks = down * across;
            let wanted = (self.share * blocks as f64).round() as usize;
            let wanted = wanted.clamp(1, blocks.saturating_sub(1).max(1));
            let mut chosen = vec![false; blocks];
            for block in random.at_step(n as u64).permutation(blocks).into_iter().take(wanted) {
                chosen[block] = true;
            }
            for row in 0..*rows {
                hidden.extend((0..*columns).map(|column| chosen[row / self.block * across + column / self.block]));
            }
        }
        hidden
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_every_picture_so_many_are_hidden() {
        let how = PatchMasking { share: 0.75, block: 1 };
        let hidden = how.apply(&[(8, 8); 50], Random::new(1));
        for picture in hidden.chunks(64) {
            assert_eq!(picture.iter().filter(|h| **h).count(), 48);
        }
        assert_ne!(hidden[..64], hidden[64..128]);
        assert_eq!(hidden, how.apply(&[(8, 8); 50], Random::new(1)));
        // Each place about equally often.
        let often = (0..64).map(|place| (0..50).filter(|n| hidden[n * 64 + place]).count());
        assert!(often.into_iter().all(|n| (25..=48).contains(&n)));
    }

    #[test]
    fn squares_are_hidden_together() {
        let how = PatchMasking { share: 0.5, block: 2 };
        let hidden = how.apply(&[(4, 5)], Random::new(3));
        for row in 0..4 {
            for column in 0..5 {
                let first = hidden[row / 2 * 2 * 5 + column / 2 * 2];
                assert_eq!(hidden[row * 5 + column], first);
            }
        }
        assert!(how.apply(&[(1, 1)], Random::new(0))[0]);
        assert!(PatchMasking { share: 1.0, block: 1 }.validate().is_err());
        assert!(PatchMasking { share: 0.5, block: 0 }.validate().is_err());
    }
}
