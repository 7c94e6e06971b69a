//! Recommending: a taste, and variety among what meets it.

use crate::{Hit, Index, IndexError, Result};

/// The direction of a taste: the mean of what was liked less the mean of what
/// was disliked, `[dim]`.
///
/// # Errors
/// When nothing was liked, or likes and dislikes cancel out.
pub fn taste(index: &Index, liked: &[usize], disliked: &[usize]) -> Result<Vec<f32>> {
    let mut direction = vec![0.0_f64; index.dim()];
    for (positions, sign) in [(liked, 1.0), (disliked, -1.0)] {
        for position in positions {
            for (d, x) in direction.iter_mut().zip(index.vector(*position)) {
                *d += sign / positions.len() as f64 * f64::from(*x);
            }
        }
    }
    if liked.is_empty() || direction.iter().all(|d| d.abs() < 1e-9) {
        return Err(IndexError::Vector {
            problem: "of this taste has no direction: give --liked that differ from --disliked".into(),
        });
    }
    Ok(direction.into_iter().map(|d| d as f32).collect())
}

/// Of candidates the best first, `top` that are good and differ: maximal
/// marginal relevance (Carbonell and Goldstein 1998). Each next one has the
/// greatest `(1 - variety) · score - variety · s`, where s is its similarity to
/// the nearest that was chosen before. `variety` is from 0, by score alone, to 1.
pub fn diverse(index: &Index, candidates: &[Hit], top: usize, variety: f32) -> Vec<Hit> {
    let mut left: Vec<(Hit, f32)> = candidates.iter().map(|hit| (*hit, f32::NEG_INFINITY)).collect();
    let mut chosen: Vec<Hit> = Vec::new();
    while chosen.len() < top && !left.is_empty() {
        let worth = |(hit, near): &(Hit, f32)| {
            if chosen.is_empty() { hit.score } else { (1.0 - variety) * hit.score - variety * near }
        };
        let mut best = 0;
        for at in 1..left.len() {
            if worth(&left[at]) > worth(&left[best]) {
                best = at;
            }
        }
        // The others keep their order, so that equals are taken as they stood.
        let (hit, _) = left.remove(best);
        for (other, near) in &mut left {
            *near = near.max(index.similarity(hit.position, other.position));
        }
        chosen.push(hit);
    }
    chosen
}
