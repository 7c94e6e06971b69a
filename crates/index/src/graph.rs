//! Approximate search: a walk through a graph of neighbours.
//!
//! The graph is Vamana's (Subramanya et al., "DiskANN", 2019): one layer, few
//! edges per vector, some of them long because a neighbour is left out where
//! another one leads towards it. A search keeps the best `beam` vectors that it
//! has seen and always looks at the neighbours of the best one that it has not
//! yet looked at. Vectors are added in batches as in ParlayANN (Manohar et al.
//! 2024): each of a batch searches the graph as it was before the batch, then
//! the edges back are added target by target. So a graph is the same for any
//! number of threads.
//!
//! Vectors must have length 1: similarity is the inner product, and
//! `1 - similarity`, half the squared distance, decides about edges.

use crate::{Hit, IndexError, Result};
use rayon::prelude::*;
use sensorium_engine::Random;
use sensorium_engine::similarity::{dot, dot_four};
use std::io::{Read, Write};
use std::path::Path;

/// Edges that a vector gets, and room for those that others add before the
/// best are chosen again.
const DEGREE: usize = 40;
const SLOTS: usize = 60;
/// The beam with which a vector's neighbours are searched.
const BUILD_BEAM: usize = 96;
/// A neighbour is left out where a better one is closer to it by this factor
/// (in squared distance; 1.2 in distance).
const SLACK: f32 = 1.44;
/// A batch is at most a part of what is there, and at most so many.
const BATCH_PART: usize = 8;
const BATCH: usize = 4096;
/// The empty slot.
const NONE: u32 = u32::MAX;
const MAGIC: &[u8; 8] = b"SNSRMGR1";

/// A graph over the first `rows` vectors of an index.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Graph {
    rows: usize,
    /// Where searches begin.
    entry: u32,
    /// `[rows, SLOTS]`, empty slots last.
    edges: Vec<u32>,
}

/// What a search has seen, kept between searches.
#[derive(Debug, Default)]
struct Seen {
    words: Vec<u64>,
    touched: Vec<u32>,
}

impl Seen {
    fn begin(&mut self, rows: usize) {
        self.words.resize(rows.div_ceil(64), 0);
        for at in self.touched.drain(..) {
            self.words[at as usize / 64] = 0;
        }
    }

    /// False where it was seen before.
    fn insert(&mut self, at: u32) -> bool {
        let (word, bit) = (&mut self.words[at as usize / 64], 1 << (at % 64));
        let new = *word & bit == 0;
        if new {
            *word |= bit;
            self.touched.push(at);
        }
        new
    }
}

impl Graph {
    /// A graph over all vectors of `[rows, dim]`; `watch` is told how many are
    /// in it.
    pub fn build(vectors: &[f32], dim: usize, watch: &mut dyn FnMut(usize)) -> Self {
        let mut graph = Self { rows: 0, entry: 0, edges: Vec::new() };
        graph.extend(vectors, dim, watch);
        graph
    }

    /// Vectors in the graph.
    pub fn len(&self) -> usize {
        self.rows
    }

    /// True for a graph of nothing.
    pub fn is_empty(&self) -> bool {
        self.rows == 0
    }

    /// Adds the vectors that follow those in the graph.
    pub fn extend(&mut self, vectors: &[f32], dim: usize, watch: &mut dyn FnMut(usize)) {
        let (first, rows) = (self.rows, vectors.len() / dim.max(1));
        if rows <= first {
            return;
        }
        // In the order of a table neighbours often stand side by side; mixed,
        // each batch covers everything.
        let order = Random::new(rows as u64).purpose("graph").permutation(rows - first);
        let order: Vec<u32> = order.into_iter().map(|at| (first + at) as u32).collect();
        self.edges.resize(rows * SLOTS, NONE);
        self.rows = rows;
        let (mut done, fresh) = (0, first == 0);
        if fresh {
            (self.entry, done) = (order[0], 1);
        }
        while done < order.len() {
            let batch = ((first + done) / BATCH_PART).clamp(1, BATCH).min(order.len() - done);
            self.insert(vectors, dim, &order[done..done + batch]);
            done += batch;
            watch(first + done);
        }
        if fresh {
            self.entry = middle(vectors, dim);
        }
    }

    fn insert(&mut self, vectors: &[f32], dim: usize, batch: &[u32]) {
        let vector = |at: u32| &vectors[at as usize * dim..][..dim];
        let chosen: Vec<Vec<u32>> = batch
            .par_iter()
            .with_max_len(16)
            .map_init(Seen::default, |seen, &at| {
                let near = self.walk(vectors, dim, vector(at), BUILD_BEAM, seen);
                choose(near, &vector)
            })
            .collect();
        let mut back: Vec<(u32, u32)> = Vec::new();
        for (&at, neighbours) in batch.iter().zip(&chosen) {
            self.set(at, neighbours);
            back.extend(neighbours.iter().map(|to| (*to, at)));
        }
        back.sort_unstable();
        let groups: Vec<&[(u32, u32)]> = back.chunk_by(|a, b| a.0 == b.0).collect();
        let changed: Vec<Vec<u32>> = groups
            .par_iter()
            .with_max_len(16)
            .map(|group| {
                let target = group[0].0;
                let mut neighbours: Vec<u32> = self.neighbours(target).collect();
                neighbours.extend(group.iter().map(|(_, from)| *from));
                if neighbours.len() <= SLOTS {
                    return neighbours;
                }
                let own = vector(target);
                let hit = |at: u32| Hit { position: at as usize, score: dot(own, vector(at)) };
                let mut near: Vec<Hit> = neighbours.into_iter().map(hit).collect();
                near.sort_unstable_by(Hit::order);
                choose(near, &vector)
            })
            .collect();
        let targets: Vec<u32> = groups.iter().map(|group| group[0].0).collect();
        for (target, neighbours) in targets.into_iter().zip(changed) {
            self.set(target, &neighbours);
        }
    }

    fn neighbours(&self, at: u32) -> impl Iterator<Item = u32> + '_ {
        self.edges[at as usize * SLOTS..][..SLOTS].iter().copied().take_while(|to| *to != NONE)
    }

    fn set(&mut self, at: u32, neighbours: &[u32]) {
        let slots = &mut self.edges[at as usize * SLOTS..][..SLOTS];
        slots.fill(NONE);
        slots[..neighbours.len()].copy_from_slice(neighbours);
    }

    /// The best `beam` vectors that a walk towards a query comes upon, the
    /// best first.
    fn walk(&self, vectors: &[f32], dim: usize, query: &[f32], beam: usize, seen: &mut Seen) -> Vec<Hit> {
        seen.begin(self.rows);
        let hit = |at: u32| Hit { position: at as usize, score: dot(query, &vectors[at as usize * dim..][..dim]) };
        seen.insert(self.entry);
        // Sorted; the flag says whether its neighbours were looked at.
        let mut best: Vec<(Hit, bool)> = vec![(hit(self.entry), false)];
        let (mut next, mut new) = (0, Vec::with_capacity(SLOTS));
        while let Some((from, looked)) = best.get_mut(next) {
            if std::mem::replace(looked, true) {
                next += 1;
                continue;
            }
            let from = from.position as u32;
            new.clear();
            new.extend(self.neighbours(from).filter(|to| seen.insert(*to)));
            for hit in hits(query, vectors, dim, &new) {
                if best.len() == beam && !best.last().is_some_and(|worst| hit.is_before(&worst.0)) {
                    continue;
                }
                let at = best.partition_point(|other| other.0.is_before(&hit));
                if best.len() == beam {
                    best.pop();
                }
                best.insert(at, (hit, false));
                next = next.min(at);
            }
        }
        best.into_iter().map(|(hit, _)| hit).collect()
    }

    /// About the `top` vectors most similar to each query of `[queries, dim]`;
    /// the wider the beam, the surer. Only those for which `wanted` holds are
    /// returned.
    pub fn search(
        &self,
        vectors: &[f32],
        dim: usize,
        queries: &[f32],
        (top, beam): (usize, usize),
        wanted: impl Fn(usize) -> bool + Sync,
    ) -> Vec<Vec<Hit>> {
        if self.is_empty() {
            return vec![Vec::new(); queries.len() / dim];
        }
        queries
            .par_chunks_exact(dim)
            .map_init(Seen::default, |seen, query| {
                let mut hits = self.walk(vectors, dim, query, beam.max(top).max(1), seen);
                hits.retain(|hit| wanted(hit.position));
                hits.truncate(top);
                hits
            })
            .collect()
    }

    pub(crate) fn write(&self, out: &mut impl Write) -> std::io::Result<()> {
        out.write_all(MAGIC)?;
        out.write_all(&(self.rows as u64).to_le_bytes())?;
        out.write_all(&self.entry.to_le_bytes())?;
        for edges in self.edges.chunks(1 << 14) {
            let bytes: Vec<u8> = edges.iter().flat_map(|e| e.to_le_bytes()).collect();
            out.write_all(&bytes)?;
        }
        Ok(())
    }

    /// Reads a graph over at most `rows` vectors. Every edge is checked.
    pub(crate) fn read(path: &Path, bytes: &mut impl Read, length: u64, rows: usize) -> Result<Self> {
        let io = IndexError::io("read", path);
        let mut head = [0; 20];
        bytes.read_exact(&mut head).map_err(&io)?;
        let number = |b: &[u8]| b.iter().rev().fold(0_u64, |n, b| n << 8 | u64::from(*b));
        let (own, entry) = (number(&head[8..16]), number(&head[16..]) as u32);
        if head[..8] != *MAGIC
            || own > rows as u64
            || own.checked_mul(4 * SLOTS as u64).and_then(|n| n.checked_add(20)) != Some(length)
        {
            return Err(IndexError::damaged(path, "it is no graph over this index"));
        }
        let edges = crate::files::read_words(bytes, own as usize * SLOTS).map_err(&io)?;
        let own = own as usize;
        let fits = |slots: &[u32]| {
            let used = slots.iter().take_while(|e| **e != NONE).count();
            slots[..used].iter().all(|e| (*e as usize) < own) && slots[used..].iter().all(|e| *e == NONE)
        };
        if (own > 0 && entry as usize >= own) || !edges.par_chunks(SLOTS).all(fits) {
            return Err(IndexError::damaged(path, "an edge leads nowhere"));
        }
        Ok(Self { rows: own, entry, edges })
    }
}

/// The vector nearest to the mean of all.
fn middle(vectors: &[f32], dim: usize) -> u32 {
    let mut mean = vec![0.0_f64; dim];
    for vector in vectors.chunks_exact(dim) {
        mean.iter_mut().zip(vector).for_each(|(m, x)| *m += f64::from(*x));
    }
    let mean: Vec<f32> = mean.into_iter().map(|m| (m / (vectors.len() / dim) as f64) as f32).collect();
    crate::exact::search(vectors, dim, &mean, 1, |_| true)[0].first().map_or(0, |hit| hit.position as u32)
}

/// A query against some of the vectors, in their order, four at a time.
fn hits<'v>(query: &'v [f32], vectors: &'v [f32], dim: usize, of: &'v [u32]) -> impl Iterator<Item = Hit> + 'v {
    let vector = move |at: u32| &vectors[at as usize * dim..][..dim];
    let hit = |(at, score): (&u32, f32)| Hit { position: *at as usize, score };
    let (fours, rest) = of.as_chunks::<4>();
    let together = fours.iter().flat_map(move |four| four.iter().zip(dot_four(query, four.map(vector))).map(hit));
    together.chain(rest.iter().map(move |at| hit((at, dot(query, vector(*at))))))
}

/// Of candidates, the best first, those to link to: each unless one chosen
/// before is much closer to it.
fn choose<'v>(candidates: Vec<Hit>, vector: &impl Fn(u32) -> &'v [f32]) -> Vec<u32> {
    let mut chosen: Vec<u32> = Vec::with_capacity(DEGREE);
    for hit in candidates {
        let own = vector(hit.position as u32);
        let covered = chosen.iter().any(|other| SLACK * (1.0 - dot(own, vector(*other))) < 1.0 - hit.score);
        if !covered {
            chosen.push(hit.position as u32);
            if chosen.len() == DEGREE {
                break;
            }
        }
    }
    chosen
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exact;
    use sensorium_engine::with_threads;

    /// Unit vectors in clusters, as embeddings are.
    fn clustered(rows: usize, dim: usize) -> Vec<f32> {
        let r = Random::new(3);
        let mut vectors = Vec::with_capacity(rows * dim);
        for row in 0..rows as u64 {
            let centre = r.purpose("centre").at_step(r.below(row, 50));
            let own = r.purpose("own").at_step(row);
            let v: Vec<f64> = (0..dim as u64).map(|i| centre.normal(i) + 0.7 * own.normal(i)).collect();
            let norm = v.iter().map(|x| x * x).sum::<f64>().sqrt();
            vectors.extend(v.into_iter().map(|x| (x / norm) as f32));
        }
        vectors
    }

    fn recall(graph: &Graph, vectors: &[f32], dim: usize, queries: &[f32]) -> f64 {
        let truth = exact::search(vectors, dim, queries, 10, |_| true);
        let found = graph.search(vectors, dim, queries, (10, 64), |_| true);
        let both =
            |(t, f): (&Vec<Hit>, &Vec<Hit>)| t.iter().filter(|t| f.iter().any(|f| f.position == t.position)).count();
        truth.iter().zip(&found).map(both).sum::<usize>() as f64 / (10 * truth.len()) as f64
    }

    #[test]
    fn the_nearest_are_found() {
        let dim = 24;
        let all = clustered(4100, dim);
        let (vectors, queries) = all.split_at(4000 * dim);
        let graph = Graph::build(vectors, dim, &mut |_| {});
        let recall_built = recall(&graph, vectors, dim, queries);
        assert!(recall_built > 0.95, "{recall_built}");
        // What comes later is found as well.
        let mut grown = Graph::build(&vectors[..3000 * dim], dim, &mut |_| {});
        grown.extend(vectors, dim, &mut |_| {});
        assert_eq!(grown.len(), 4000);
        let recall_grown = recall(&grown, vectors, dim, queries);
        assert!(recall_grown > 0.95, "{recall_grown}");
    }

    #[test]
    fn a_graph_is_the_same_for_any_number_of_threads() {
        let vectors = clustered(1500, 16);
        let build = |threads| with_threads(threads, || Graph::build(&vectors, 16, &mut |_| {})).unwrap();
        let one = build(1);
        assert_eq!(one, build(2));
        assert_eq!(one, build(5));
    }

    #[test]
    fn few_and_equal_vectors_make_a_graph() {
        for rows in [1, 2, 3, 9] {
            let vectors = [0.6, 0.8].repeat(rows);
            let graph = Graph::build(&vectors, 2, &mut |_| {});
            let hits = graph.search(&vectors, 2, &[1.0, 0.0], (20, 20), |_| true);
            assert_eq!(hits[0].len(), rows);
        }
        assert!(Graph::build(&[], 2, &mut |_| {}).search(&[], 2, &[1.0, 0.0], (5, 5), |_| true)[0].is_empty());
    }

    #[test]
    fn broken_files_are_refused() {
        let vectors = clustered(100, 8);
        let graph = Graph::build(&vectors, 8, &mut |_| {});
        let mut bytes = Vec::new();
        graph.write(&mut bytes).unwrap();
        let read = |bytes: &[u8], rows| Graph::read(Path::new("g"), &mut &bytes[..], bytes.len() as u64, rows);
        assert_eq!(read(&bytes, 100).unwrap(), graph);
        assert!(read(&bytes, 99).is_err());
        assert!(read(&bytes[..bytes.len() - 4], 100).is_err());
        for (at, value) in [(0, 0), (8, 0xff), (15, 0xff), (16, 100), (20, 101), (27, 0x7f)] {
            let mut broken = bytes.clone();
            broken[at] = value;
            assert!(read(&broken, 100).is_err(), "byte {at}");
        }
    }
}
