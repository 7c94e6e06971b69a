//! Biases on scores by the distance of a key from its query.

use super::{Places, RelativeBias};
use crate::ops::loops::{add_row, add_scaled_row, dot};
use crate::{Element, EngineError, Offsets, Result, Tensor};

/// The bias by distance.
pub(super) struct Bias<E: Element> {
    /// `[heads, distances]`
    by_distance: Vec<E>,
    pub distances: usize,
    zero: usize,
    places: Option<Places>,
    /// `[query_rows, heads]`
    pub gates: Option<Tensor<E>>,
}

/// A query as its biases see it.
#[derive(Clone, Copy)]
pub(super) struct Query {
    pub head: usize,
    /// Its row among all queries.
    pub row: usize,
    /// Where it stands where nothing else is said.
    pub place: isize,
}

impl<E: Element> Bias<E> {
    pub fn new(b: &RelativeBias<'_, E>, heads: usize, (queries, keys): (&Offsets, &Offsets)) -> Result<Self> {
        const OP: &str = "attention";
        let entries = b.table.rows();
        if b.table.cols() != heads || b.zero >= b.entries.len() || b.entries.iter().any(|e| *e as usize >= entries) {
            return Err(EngineError::shape(OP, "bias table", format!("[entries, {heads}]"), b.table.shape()));
        }
        if let Some((q, k)) = b.places.as_ref().filter(|(q, k)| q.len() != queries.total() || k.len() != keys.total()) {
            let problem = format!(
                "{} places of queries and {} of keys for {} and {} rows",
                q.len(),
                k.len(),
                queries.total(),
                keys.total()
            );
            return Err(EngineError::setting(OP, problem));
        }
        if let Some(gates) = b.gates.filter(|g| g.value().dims() != [queries.total(), heads]) {
            return Err(EngineError::shape(OP, "gates", format!("[{}, {heads}]", queries.total()), gates.shape()));
        }
        let data = b.table.data();
        let by_distance = (0..heads).flat_map(|h| b.entries.iter().map(move |e| data[*e as usize * heads + h]));
        Ok(Self {
            by_distance: by_distance.collect(),
            distances: b.entries.len(),
            zero: b.zero,
            places: b.places.clone(),
            gates: b.gates.map(|g| g.value().clone()),
        })
    }

    /// The biases of a head by distance.
    fn of_head(&self, head: usize) -> &[E] {
        &self.by_distance[head * self.distances..][..self.distances]
    }

    /// What the biases of a query are multiplied by.
    fn gate(&self, query: Query) -> Option<E> {
        let heads = self.by_distance.len() / self.distances;
        self.gates.as_ref().map(|g| g.data()[query.row * heads + query.head])
    }

    /// The distance of key `j` from `place`, as an index.
    fn distance(&self, j: usize, place: isize) -> usize {
        ((self.zero + j) as isize - place).clamp(0, self.distances as isize - 1) as usize
    }

    /// Of `len` keys from `first` on: how many lie before the first distance,
    /// and where those from the last one on begin.
    fn within(&self, place: isize, first: usize, len: usize) -> (usize, usize) {
        let start = place - (self.zero + first) as isize;
        let before = start.clamp(0, len as isize) as usize;
        (before, (start + self.distances as isize).clamp(before as isize, len as isize) as usize)
    }

    /// Adds the biases of keys from `first` on, counted within the segment and
    /// among all, to the scores of a query.
    pub fn add(&self, query: Query, first: (usize, usize), row: &mut [E]) {
        let table = self.of_head(query.head);
        let gate = self.gate(query);
        if let Some((queries, keys)) = &self.places {
            let (at, factor) = (queries[query.row] as isize, gate.unwrap_or(E::ONE));
            for (s, key) in row.iter_mut().zip(&keys[first.1..]) {
                *s += factor * table[self.distance(*key as usize, at)];
            }
            return;
        }
        let factor = gate.unwrap_or(E::ONE);
        let (before, after) = self.within(query.place, first.0, row.len());
        row[..before].iter_mut().for_each(|s| *s += factor * table[0]);
        if before < after {
            let near = &table[self.distance(first.0 + before, query.place)..];
            match gate {
                Some(gate) => add_scaled_row(&mut row[before..after], near, gate),
                None => add_row(&mut row[before..after], near),
            }
        }
        row[after..].iter_mut().for_each(|s| *s += factor * table[self.distances - 1]);
    }

    /// Σ gradient · bias over a query's keys: the gradient of its gate.
    pub fn along(&self, query: Query, first: (usize, usize), row: &[E]) -> E {
        let table = self.of_head(query.head);
        let total = |row: &[E]| row.iter().fold(E::ZERO, |sum, d| sum + *d);
        if let Some((queries, keys)) = &self.places {
            let at = queries[query.row] as isize;
            let bias = |key: &u32| table[self.distance(*key as usize, at)];
            return row.iter().zip(&keys[first.1..]).fold(E::ZERO, |sum, (d, key)| sum + *d * bias(key));
        }
        let (before, after) = self.within(query.place, first.0, row.len());
        let mut sum = total(&row[..before]) * table[0] + total(&row[after..]) * table[self.distances - 1];
        if before < after {
            let at = self.distance(first.0 + before, query.place);
            sum += dot(&row[before..after], &table[at..at + after - before]);
        }
        sum
    }

    /// The reverse of [`Bias::add`] for the biases.
    pub fn add_gradients(&self, query: Query, first: (usize, usize), row: &[E], sums: &mut [E]) {
        let gate = self.gate(query);
        let factor = gate.unwrap_or(E::ONE);
        if let Some((queries, keys)) = &self.places {
            let at = queries[query.row] as isize;
            for (d, key) in row.iter().zip(&keys[first.1..]) {
                sums[self.distance(*key as usize, at)] += factor * *d;
            }
            return;
        }
        let (before, after) = self.within(query.place, first.0, row.len());
        row[..before].iter().for_each(|d| sums[0] += factor * *d);
        if before < after {
            let at = self.distance(first.0 + before, query.place);
            let near = &mut sums[at..at + after - before];
            match gate {
                Some(gate) => add_scaled_row(near, &row[before..after], gate),
                None => add_row(near, &row[before..after]),
            }
        }
        row[after..].iter().for_each(|d| sums[self.distances - 1] += factor * *d);
    }
}
