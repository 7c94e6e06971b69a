//! Metrics of retrieval: how far up the relevant items of each query stand.

use crate::error::{EvalError, all_finite};
use rayon::prelude::*;
use serde::Serialize;

/// The places of the relevant items of each query, from which all metrics follow.
///
/// Places count from 1. Items with equal scores stand in the order of their positions, as in a
/// search. A query may have several relevant items; one without any says nothing and is left out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Retrieval {
    /// For each query that counts its relevant items' places, ascending.
    places: Vec<Vec<usize>>,
    /// Queries without a relevant item.
    left_out: usize,
}

/// The usual metrics in one place, from 0 to 1 but for the median rank.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct RetrievalMetrics {
    /// Queries that count.
    pub queries: usize,
    /// Share of the queries with a relevant item at place 1.
    pub recall_at_1: f64,
    /// … among the first 5.
    pub recall_at_5: f64,
    /// … among the first 10.
    pub recall_at_10: f64,
    /// The median place of the first relevant item.
    pub median_rank: f64,
    /// Mean reciprocal rank.
    pub mrr: f64,
    /// Normalised discounted cumulative gain of the first 10.
    pub ndcg_at_10: f64,
    /// Mean average precision.
    pub map: f64,
}

impl Retrieval {
    /// From scores `[queries, items]`, higher being nearer, and for each query its relevant items.
    ///
    /// # Errors
    /// When the sizes do not fit, a score is not finite, an item is out of range, or no query has a
    /// relevant item.
    pub fn from_scores(scores: &[f64], items: usize, relevant: &[Vec<usize>]) -> Result<Self, EvalError> {
        let expected = relevant.len().saturating_mul(items);
        if scores.len() != expected {
            let (what, per) = ("scores", "pairs of query and item");
            return Err(EvalError::LengthMismatch { what, per, expected, got: scores.len() });
        }
        all_finite("scores", scores, items)?;
        for (row, relevant) in relevant.iter().enumerate() {
            if let Some(&index) = relevant.iter().find(|item| **item >= items) {
                return Err(EvalError::ItemOutOfRange { row, index, items });
            }
        }
        let place = |scores: &[f64], item: usize| {
            let own = scores[item];
            let before = scores.iter().enumerate().filter(|&(at, &s)| s > own || (s == own && at < item));
            before.count() + 1
        };
        let places: Vec<Vec<usize>> = relevant
            .par_iter()
            .enumerate()
            .map(|(query, relevant)| {
                let scores = &scores[query * items..(query + 1) * items];
                let mut places: Vec<usize> = relevant.iter().map(|item| place(scores, *item)).collect();
                places.sort_unstable();
                places.dedup();
                places
            })
            .collect();
        let all = places.len();
        let places: Vec<Vec<usize>> = places.into_iter().filter(|p| !p.is_empty()).collect();
        if places.is_empty() {
            return Err(EvalError::Empty { what: "relevant item" });
        }
        Ok(Self { left_out: all - places.len(), places })
    }

    /// Both directions of scores `[queries, items]`: items for queries, then queries for items.
    ///
    /// # Errors
    /// As [`Retrieval::from_scores`].
    pub fn both_ways(scores: &[f64], items: usize, relevant: &[Vec<usize>]) -> Result<(Self, Self), EvalError> {
        let forward = Self::from_scores(scores, items, relevant)?;
        let queries = relevant.len();
        let turned: Vec<f64> = (0..items).flat_map(|i| (0..queries).map(move |q| scores[q * items + i])).collect();
        let mut back = vec![Vec::new(); items];
        for (query, relevant) in relevant.iter().enumerate() {
            for &item in relevant {
                if back[item].last() != Some(&query) {
                    back[item].push(query);
                }
            }
        }
        Ok((forward, Self::from_scores(&turned, queries, &back)?))
    }

    /// All queries of several parts, in their order: scores need not stand in memory all at once.
    ///
    /// # Errors
    /// When there is no part.
    pub fn joined(parts: impl IntoIterator<Item = Self>) -> Result<Self, EvalError> {
        let mut parts = parts.into_iter();
        let first = parts.next().ok_or(EvalError::Empty { what: "part" })?;
        Ok(parts.fold(first, |mut all, part| {
            all.places.extend(part.places);
            all.left_out += part.left_out;
            all
        }))
    }

    /// Queries that count.
    pub fn queries(&self) -> usize {
        self.places.len()
    }

    /// Queries without a relevant item, which were left out.
    pub fn left_out(&self) -> usize {
        self.left_out
    }

    fn mean(&self, of: impl Fn(&[usize]) -> f64) -> f64 {
        self.places.iter().map(|places| of(places)).sum::<f64>() / self.places.len() as f64
    }

    /// Share of the queries that have a relevant item among the first `k`: Recall@K as papers on
    /// image-text retrieval have it (elsewhere called hit rate).
    pub fn recall_at(&self, k: usize) -> f64 {
        self.mean(|places| f64::from(places[0] <= k))
    }

    /// The median place of the first relevant item.
    pub fn median_rank(&self) -> f64 {
        let mut first: Vec<usize> = self.places.iter().map(|places| places[0]).collect();
        first.sort_unstable();
        let half = first.len() / 2;
        if first.len() % 2 == 1 { first[half] as f64 } else { (first[half - 1] + first[half]) as f64 / 2.0 }
    }

    /// Mean reciprocal rank: `1 / place` of the first relevant item.
    pub fn mrr(&self) -> f64 {
        self.mean(|places| 1.0 / places[0] as f64)
    }

    /// Normalised discounted cumulative gain of the first `k`: `sum of 1 / log2(place + 1)` over
    /// relevant items, by what the best order would give (Järvelin and Kekäläinen 2002).
    pub fn ndcg_at(&self, k: usize) -> f64 {
        let gain = |place: usize| 1.0 / (place as f64 + 1.0).log2();
        self.mean(|places| {
            let got: f64 = places.iter().filter(|p| **p <= k).map(|p| gain(*p)).sum();
            let best: f64 = (1..=places.len().min(k)).map(gain).sum();
            if best > 0.0 { got / best } else { 0.0 }
        })
    }

    /// Mean average precision: the precision at each relevant item's place, averaged.
    pub fn map(&self) -> f64 {
        self.mean(|places| {
            let precisions = places.iter().enumerate().map(|(before, place)| (before + 1) as f64 / *place as f64);
            precisions.sum::<f64>() / places.len() as f64
        })
    }

    /// The usual metrics.
    pub fn metrics(&self) -> RetrievalMetrics {
        RetrievalMetrics {
            queries: self.queries(),
            recall_at_1: self.recall_at(1),
            recall_at_5: self.recall_at(5),
            recall_at_10: self.recall_at(10),
            median_rank: self.median_rank(),
            mrr: self.mrr(),
            ndcg_at_10: self.ndcg_at(10),
            map: self.map(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_scores_are_no_better_than_their_order() {
        // What a collapsed model gives: everything alike.
        let relevant: Vec<Vec<usize>> = (0..100).map(|q| vec![q]).collect();
        let same = Retrieval::from_scores(&vec![0.3; 10_000], 100, &relevant).unwrap();
        assert_eq!((same.recall_at(1), same.recall_at(10), same.median_rank()), (0.01, 0.1, 50.5));
    }

    #[test]
    fn parts_joined_are_the_whole() {
        let scores: Vec<f64> = (0..60).map(|i| f64::from(i * 37 % 23)).collect();
        let relevant: Vec<Vec<usize>> = (0..6).map(|q| vec![q, q + 3]).collect();
        let whole = Retrieval::from_scores(&scores, 10, &relevant).unwrap();
        let part = |of: std::ops::Range<usize>| {
            Retrieval::from_scores(&scores[of.start * 10..of.end * 10], 10, &relevant[of]).unwrap()
        };
        assert_eq!(Retrieval::joined([part(0..4), part(4..6)]).unwrap(), whole);
        assert!(Retrieval::joined([]).is_err());
    }

    #[test]
    fn queries_without_relevant_items_are_left_out() {
        let r = Retrieval::from_scores(&[0.1, 0.9, 0.9, 0.1], 2, &[vec![1], vec![]]).unwrap();
        assert_eq!((r.queries(), r.left_out(), r.recall_at(1)), (1, 1, 1.0));
        let none = Retrieval::from_scores(&[0.1, 0.9], 2, &[vec![]]);
        assert!(matches!(none, Err(EvalError::Empty { .. })));
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        assert!(matches!(
            Retrieval::from_scores(&[0.1, 0.9], 2, &[vec![2]]),
            Err(EvalError::ItemOutOfRange { row: 0, index: 2, items: 2 })
        ));
        assert!(matches!(Retrieval::from_scores(&[0.1], 2, &[vec![0]]), Err(EvalError::LengthMismatch { .. })));
        assert!(matches!(Retrieval::from_scores(&[0.1, f64::NAN], 2, &[vec![0]]), Err(EvalError::NotFinite { .. })));
    }
}
