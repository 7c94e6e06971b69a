//! Approximate search: a walk through a graph of neighbours.
//!
//! The graph is Vamana's (Subramanya et al., "DiskANN", 2019): one layer, few
//! edges per vector, some of them long because a neighbour is left out where
//! another one leads towards it. A search keeps the best `beam` vectors that it
//! has seen and always looks at the neighbours of the best one that it has not
//! yet looked at.
//!
//! Where vectors lie in many narrow clusters, the edges of a full cluster stay
//! within it, and a walk from outside may never find it. So a search begins, as
//! in HNSW (Malkov & Yashunin 2018), in sparser layers: the graph as it was when
//! a sixteenth of the vectors were in it, and a sixteenth of these, and so on.
//! Each says where to begin in the next.
//!
//! Vectors are added in batches as in ParlayANN (Manohar et al.
//! 2024): each of a batch searches the graph as it was before the batch, then
//! the edges back are added target by target. So a graph is the same for any
//! number of threads.
//!
//! Vectors must have length 1: similarity is the inner product, and
//! `1 - similarity`, half the squared distance, decides about edges.

mod file;
mod walk;

use crate::Hit;
use rayon::prelude::*;
use sensorium_engine::{Random, huge_pages};
use walk::{Aim, Links, Seen, walk};

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
/// A layer has one of so many vectors of the next, and at least so many.
const SPARSER: usize = 16;
const LAYER: usize = 256;
/// The beam in a layer, and how many of the best a search begins with in the next.
const LAYER_BEAM: usize = 16;
const STARTS: usize = 4;
/// A graph that grows to more than so many times what it was made of is made anew:
/// its layers are too sparse then.
const REMADE: usize = 2;

/// A graph over the first `rows` vectors of an index.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Graph {
    rows: usize,
    /// The vectors that it was made of; the others were added to it.
    made: usize,
    /// Where searches begin.
    entry: u32,
    /// The sparsest first.
    layers: Vec<Layer>,
    /// `[rows, SLOTS]`, empty slots last.
    edges: Vec<u32>,
}

/// The graph as it was when these were in it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Layer {
    /// Ascending.
    members: Vec<u32>,
    /// `[members, SLOTS]`, empty slots last.
    edges: Vec<u32>,
}

impl Graph {
    /// A graph over all vectors of `[rows, dim]`; `watch` is told how many are
    /// in it.
    pub fn build(vectors: &[f32], dim: usize, watch: &mut dyn FnMut(usize)) -> Self {
        let mut graph = Self { rows: 0, made: 0, entry: 0, layers: Vec::new(), edges: Vec::new() };
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

    /// Adds the vectors that follow those in the graph; it is made anew where they
    /// are more than those.
    pub fn extend(&mut self, vectors: &[f32], dim: usize, watch: &mut dyn FnMut(usize)) {
        let rows = vectors.len() / dim.max(1);
        if rows <= self.rows {
            return;
        }
        let fresh = rows > REMADE * self.made;
        if fresh {
            *self = Self { rows: 0, made: rows, entry: 0, layers: Vec::new(), edges: Vec::new() };
        }
        let first = self.rows;
        // In the order of a table neighbours often stand side by side; mixed,
        // each batch covers everything.
        let order = Random::new(rows as u64).purpose("graph").permutation(rows - first);
        let order: Vec<u32> = order.into_iter().map(|at| (first + at) as u32).collect();
        self.edges.reserve_exact((rows - first) * SLOTS);
        huge_pages(self.edges.spare_capacity_mut());
        self.edges.resize(rows * SLOTS, NONE);
        self.rows = rows;
        let layers = if fresh { layers(rows) } else { Vec::new() };
        let mut done = 0;
        if fresh {
            (self.entry, done) = (order[0], 1);
        }
        while done < order.len() {
            let until = layers.iter().copied().find(|layer| *layer > done).unwrap_or(order.len());
            let batch = ((first + done) / BATCH_PART).clamp(1, BATCH).min(until - done);
            self.insert(vectors, dim, &order[done..done + batch]);
            done += batch;
            if layers.contains(&done) {
                self.keep_layer(&order[..done]);
            }
            watch(first + done);
        }
        if fresh && self.layers.is_empty() {
            self.entry = middle(vectors, dim);
        }
    }

    /// Keeps the edges that the graph has now.
    fn keep_layer(&mut self, members: &[u32]) {
        let mut members = members.to_vec();
        members.sort_unstable();
        let edges = members.iter().flat_map(|at| &self.edges[*at as usize * SLOTS..][..SLOTS]).copied().collect();
        self.layers.push(Layer { members, edges });
    }

    fn insert(&mut self, vectors: &[f32], dim: usize, batch: &[u32]) {
        let vector = |at| vector(vectors, dim, at);
        let chosen: Vec<Vec<u32>> = batch
            .par_iter()
            .with_max_len(16)
            .map_init(Seen::default, |seen, &at| {
                let near = self.nearest(Aim { vectors, dim, query: vector(at) }, BUILD_BEAM, seen);
                choose(vectors, dim, near)
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
                let mut neighbours: Vec<u32> = self.links().of(target).collect();
                neighbours.extend(group.iter().map(|(_, from)| *from));
                if neighbours.len() <= SLOTS {
                    return neighbours;
                }
                let mut near: Vec<Hit> = Aim { vectors, dim, query: vector(target) }.hits(&neighbours).collect();
                near.sort_unstable_by(Hit::order);
                choose(vectors, dim, near)
            })
            .collect();
        let targets: Vec<u32> = groups.iter().map(|group| group[0].0).collect();
        for (target, neighbours) in targets.into_iter().zip(changed) {
            self.set(target, &neighbours);
        }
    }

    fn links(&self) -> Links<'_> {
        Links { members: None, edges: &self.edges }
    }

    fn set(&mut self, at: u32, neighbours: &[u32]) {
        let slots = &mut self.edges[at as usize * SLOTS..][..SLOTS];
        slots.fill(NONE);
        slots[..neighbours.len()].copy_from_slice(neighbours);
    }

    /// The best `beam` vectors that a walk comes upon, through all layers.
    fn nearest(&self, aim: Aim<'_>, beam: usize, seen: &mut Seen) -> Vec<Hit> {
        let mut starts = vec![self.entry];
        for layer in &self.layers {
            let links = Links { members: Some(&layer.members), edges: &layer.edges };
            let found = walk(links, aim, &starts, LAYER_BEAM, seen);
            starts = found.iter().take(STARTS).map(|hit| hit.position as u32).collect();
        }
        walk(self.links(), aim, &starts, beam, seen)
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
                let mut hits = self.nearest(Aim { vectors, dim, query }, beam.max(top).max(1), seen);
                hits.retain(|hit| wanted(hit.position));
                hits.truncate(top);
                hits
            })
            .collect()
    }
}

/// The sizes of the layers of so many vectors, the sparsest first.
fn layers(rows: usize) -> Vec<usize> {
    let mut sizes: Vec<usize> =
        std::iter::successors(Some(rows / SPARSER), |size| Some(size / SPARSER)).take_while(|n| *n >= LAYER).collect();
    sizes.reverse();
    sizes
}

/// One of `[rows, dim]`.
fn vector(vectors: &[f32], dim: usize, at: u32) -> &[f32] {
    &vectors[at as usize * dim..][..dim]
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

/// Of candidates, the best first, those to link to: each unless one chosen
/// before is much closer to it.
fn choose(vectors: &[f32], dim: usize, mut candidates: Vec<Hit>) -> Vec<u32> {
    let (mut chosen, mut open) = (Vec::with_capacity(DEGREE), Vec::with_capacity(candidates.len()));
    while let Some(first) = candidates.first() {
        let first = first.position as u32;
        chosen.push(first);
        if chosen.len() == DEGREE {
            break;
        }
        // Those that it leaves open, compared all at once.
        open.clear();
        open.extend(candidates[1..].iter().map(|hit| hit.position as u32));
        let mut near = Aim { vectors, dim, query: vector(vectors, dim, first) }.hits(&open);
        let mut at = 0;
        candidates.retain(|hit| {
            at += 1;
            at > 1 && near.next().is_some_and(|near| SLACK * (1.0 - near.score) >= 1.0 - hit.score)
        });
    }
    chosen
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exact;
    use sensorium_engine::with_threads;

    /// Unit vectors in clusters, as embeddings are.
    pub(super) fn clustered(rows: usize, dim: usize) -> Vec<f32> {
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
    fn narrow_clusters_that_fill_up_are_still_found() {
        // 100 clusters of 120 in all directions alike. Without layers a third of the queries do not find theirs.
        let dim = 192;
        let r = Random::new(7);
        let unit = |values: Vec<f64>| {
            let norm = values.iter().map(|x| x * x).sum::<f64>().sqrt();
            values.into_iter().map(move |x| (x / norm) as f32)
        };
        let row = |row: u64, cluster: u64| {
            let (centre, own) = (r.purpose("centre").at_step(cluster), r.purpose("own").at_step(row));
            unit((0..dim as u64).map(|i| centre.normal(i) + 0.25 * own.normal(i)).collect())
        };
        let vectors: Vec<f32> = (0..12_000).flat_map(|at| row(at, at % 100)).collect();
        let queries: Vec<f32> = (0..300).flat_map(|at| row(20_000 + at, at % 100)).collect();
        let graph = Graph::build(&vectors, dim, &mut |_| {});
        assert_eq!(graph.layers.iter().map(|layer| layer.members.len()).collect::<Vec<_>>(), [750]);
        let found = recall(&graph, &vectors, dim, &queries);
        assert!(found > 0.99, "{found}");
    }

    #[test]
    fn what_doubles_is_made_anew_and_else_keeps_its_layers() {
        let vectors = clustered(9000, 8);
        let mut graph = Graph::build(&vectors[..4200 * 8], 8, &mut |_| {});
        let layers = graph.layers.clone();
        graph.extend(&vectors[..8400 * 8], 8, &mut |_| {});
        assert_eq!((graph.len(), &graph.layers), (8400, &layers));
        graph.extend(&vectors, 8, &mut |_| {});
        assert_eq!(graph, Graph::build(&vectors, 8, &mut |_| {}));
    }
}
