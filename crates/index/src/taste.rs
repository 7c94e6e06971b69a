//! Recommending: a taste, and variety among what meets it.

use crate::{Hit, IndexError, Result};
use sensorium_engine::similarity::dot;

/// The direction of a taste: the mean of what was liked `[liked, dim]` less the
/// mean of what was disliked `[disliked, dim]`, `[dim]`.
///
/// # Errors
/// When nothing was liked, or likes and dislikes cancel out.
pub fn taste(dim: usize, liked: &[f32], disliked: &[f32]) -> Result<Vec<f32>> {
    let mut direction = vec![0.0_f64; dim];
    for (vectors, sign) in [(liked, 1.0), (disliked, -1.0)] {
        let share = sign / (vectors.len() / dim) as f64;
        for vector in vectors.chunks_exact(dim) {
            direction.iter_mut().zip(vector).for_each(|(d, x)| *d += share * f64::from(*x));
        }
    }
    if liked.is_empty() || direction.iter().all(|d| d.abs() < 1e-9) {
        return Err(IndexError::Vector {
            problem: "of this taste has no direction: give --liked that differ from --disliked".into(),
        });
    }
    Ok(direction.into_iter().map(|d| d as f32).collect())
}

/// Of candidates the best first, with their `vectors` `[candidates, dim]`, `top`
/// that are good and differ: maximal marginal relevance (Carbonell and
/// Goldstein 1998). Each next one has the greatest
/// `(1 - variety) · score - variety · s`, where s is its similarity to the
/// nearest that was chosen before. `variety` is from 0, by score alone, to 1.
pub fn diverse(candidates: &[Hit], vectors: &[f32], top: usize, variety: f32) -> Vec<Hit> {
    let dim = vectors.len() / candidates.len().max(1);
    let vector = |at: usize| &vectors[at * dim..][..dim];
    let mut left: Vec<(usize, f32)> = (0..candidates.len()).map(|at| (at, f32::NEG_INFINITY)).collect();
    let mut chosen: Vec<Hit> = Vec::new();
    while chosen.len() < top && !left.is_empty() {
        let worth = |(at, near): &(usize, f32)| {
            let score = candidates[*at].score;
            if chosen.is_empty() { score } else { (1.0 - variety) * score - variety * near }
        };
        let mut best = 0;
        for at in 1..left.len() {
            if worth(&left[at]) > worth(&left[best]) {
                best = at;
            }
        }
        // The others keep their order, so that equals are taken as they stood.
        let (taken, _) = left.remove(best);
        for (other, near) in &mut left {
            *near = near.max(dot(vector(taken), vector(*other)));
        }
        chosen.push(candidates[taken]);
    }
    chosen
}
