//! Exact search: every vector is compared.
//!
//! The vectors are cut into stripes, a function of their number alone; each
//! stripe keeps the best of its own for each query, and these are joined. A
//! few queries run as inner products while the vectors stream by; many run as
//! matrix products, block by block, and their best are compared once more by
//! inner products. So a query has the same scores alone and among others, and
//! for any number of threads.

use crate::{Hit, RowSet, Top};
use rayon::prelude::*;
use sensorium_engine::matmul::{Matrix, Output, product_here};
use sensorium_engine::similarity::{dot, dots};

/// Queries from which on matrix products are faster.
const MANY: usize = 6;
/// Queries that share a pass over the vectors, which bounds the memory.
const TOGETHER: usize = 256;
/// Vectors compared at a time: their scores stay in cache.
const BLOCK: usize = 768;
/// Stripes at most; a stripe has at least so many vectors.
const STRIPES: usize = 64;
const STRIPE: usize = 2048;
/// What is kept beyond the wanted hits until they are compared exactly: the
/// order of sums differs between products by a few units in the last place.
const SPARE: usize = 8;

/// The `top` vectors of `[rows, dim]` with the highest inner product with each
/// query of `[queries, dim]`, the best first; only those for which `wanted`
/// holds.
pub fn search(
    vectors: &[f32],
    dim: usize,
    queries: &[f32],
    top: usize,
    wanted: impl Fn(usize) -> bool + Sync,
) -> Vec<Vec<Hit>> {
    let dim = dim.max(1);
    let rows = vectors.len() / dim;
    let stripe = rows.div_ceil(STRIPES).max(STRIPE).next_multiple_of(BLOCK);
    let mut found = Vec::with_capacity(queries.len() / dim);
    for queries in queries.chunks(TOGETHER * dim) {
        let count = queries.len() / dim;
        let keep = if count < MANY { top } else { top.saturating_add(SPARE) };
        let stripes: Vec<Vec<Top>> = (0..rows.div_ceil(stripe))
            .into_par_iter()
            .map(|at| {
                let first = at * stripe;
                let last = (first + stripe).min(rows);
                let mut tops = vec![Top::new(keep); count];
                let mut scores = vec![0.0; count * BLOCK];
                for first in (first..last).step_by(BLOCK) {
                    let block = BLOCK.min(last - first);
                    let part = &vectors[first * dim..(first + block) * dim];
                    if count < MANY {
                        for (query, scores) in queries.chunks_exact(dim).zip(scores.chunks_exact_mut(BLOCK)) {
                            dots(query, part, &mut scores[..block]);
                        }
                    } else {
                        product_here(
                            Matrix::dense(queries, count, dim),
                            Matrix::dense(part, block, dim).transposed(),
                            Output::strided(&mut scores, count, block, BLOCK),
                            false,
                        );
                    }
                    for (top, scores) in tops.iter_mut().zip(scores.chunks_exact(BLOCK)) {
                        select(top, &scores[..block], first, &wanted);
                    }
                }
                tops
            })
            .collect();
        let mut tops = vec![Top::new(keep); count];
        for stripe in stripes {
            tops.iter_mut().zip(stripe).for_each(|(top, part)| top.join(part));
        }
        for (query, best) in queries.chunks_exact(dim).zip(tops) {
            let mut hits = best.into_sorted();
            if count >= MANY {
                for hit in &mut hits {
                    hit.score = dot(query, &vectors[hit.position * dim..][..dim]);
                }
                hits.sort_unstable_by(Hit::order);
                hits.truncate(top);
            }
            found.push(hits);
        }
    }
    found
}

/// As [`search`] among the positions of a set, which costs no more than the
/// set is large.
pub fn search_among(vectors: &[f32], dim: usize, query: &[f32], top: usize, positions: &[usize]) -> Vec<Hit> {
    let parts: Vec<Top> = positions
        .par_chunks(STRIPE)
        .map(|part| {
            let mut best = Top::new(top);
            for &position in part {
                best.offer(Hit { position, score: dot(query, &vectors[position * dim..][..dim]) });
            }
            best
        })
        .collect();
    let mut best = Top::new(top);
    parts.into_iter().for_each(|part| best.join(part));
    best.into_sorted()
}

/// Offers the scores of a block that can matter.
#[inline]
fn select(top: &mut Top, scores: &[f32], first: usize, wanted: &impl Fn(usize) -> bool) {
    let mut threshold = top.threshold();
    // Runs in which nothing reaches the threshold are passed over as wholes.
    for (run, part) in scores.chunks(16).enumerate() {
        if part.iter().fold(f32::NEG_INFINITY, |m, s| if *s > m { *s } else { m }) < threshold {
            continue;
        }
        for (at, score) in part.iter().enumerate() {
            let position = first + run * 16 + at;
            if *score >= threshold && wanted(position) {
                top.offer(Hit { position, score: *score });
                threshold = top.threshold();
            }
        }
    }
}

/// The positions below `rows` that are in a set, or all.
pub(crate) fn positions(rows: usize, set: &RowSet, except: &RowSet) -> Vec<usize> {
    (0..rows).filter(|p| set.contains(*p) && !except.contains(*p)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use sensorium_engine::{Random, with_threads};

    fn random(rows: usize, dim: usize, purpose: &str) -> Vec<f32> {
        let r = Random::new(11).purpose(purpose);
        (0..(rows * dim) as u64).map(|i| r.normal(i) as f32).collect()
    }

    /// By the definition, in f64.
    fn reference(vectors: &[f32], dim: usize, query: &[f32], top: usize) -> Vec<usize> {
        let score = |v: &[f32]| -> f64 { v.iter().zip(query).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum() };
        let mut order: Vec<(usize, f64)> = vectors.chunks_exact(dim).map(score).enumerate().collect();
        order.sort_by(|a, b| b.1.total_cmp(&a.1));
        order.into_iter().take(top).map(|(p, _)| p).collect()
    }

    #[test]
    fn the_best_are_those_of_the_definition() {
        for (rows, dim) in [(0, 4), (1, 3), (700, 24), (5000, 24), (9001, 17)] {
            let (vectors, queries) = (random(rows, dim, "vectors"), random(9, dim, "queries"));
            let all = search(&vectors, dim, &queries, 10, |_| true);
            assert_eq!(all.len(), 9);
            for (query, hits) in queries.chunks_exact(dim).zip(&all) {
                let found: Vec<usize> = hits.iter().map(|h| h.position).collect();
                assert_eq!(found, reference(&vectors, dim, query, 10), "{rows} x {dim}");
                // Alone it has the same scores to the bit.
                assert_eq!(&search(&vectors, dim, query, 10, |_| true)[0], hits);
            }
        }
    }

    #[test]
    fn threads_do_not_change_the_bits() {
        let (vectors, queries) = (random(30_000, 32, "vectors"), random(300, 32, "queries"));
        let run = |threads| with_threads(threads, || search(&vectors, 32, &queries, 7, |p| p % 3 != 0)).unwrap();
        let one = run(1);
        assert!(one.iter().flatten().all(|h| h.position % 3 != 0));
        assert_eq!(one, run(2));
        assert_eq!(one, run(5));
    }

    #[test]
    fn among_a_set_only_its_members_are_found() {
        let (vectors, query) = (random(5000, 8, "vectors"), random(1, 8, "queries"));
        let even: RowSet = (0..5000).filter(|p| p % 2 == 0).collect();
        let except: RowSet = [4, 8].into_iter().collect();
        let hits = search_among(&vectors, 8, &query, 5, &positions(5000, &even, &except));
        let all = search(&vectors, 8, &query, 5, |p| p % 2 == 0 && p != 4 && p != 8);
        assert_eq!(hits, all[0]);
    }
}
