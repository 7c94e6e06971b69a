//! The walk through a graph towards a query.

use super::{NONE, SLOTS, vector};
use crate::Hit;
use sensorium_engine::similarity::{dot, dot_four};

/// Where the edges of a graph's vectors stand.
#[derive(Clone, Copy)]
pub(super) struct Links<'a> {
    /// The vectors that have edges, ascending; None where all have.
    pub members: Option<&'a [u32]>,
    /// `[members, SLOTS]`, empty slots last.
    pub edges: &'a [u32],
}

impl<'a> Links<'a> {
    /// What the edges of a vector lead to.
    pub fn of(self, at: u32) -> impl Iterator<Item = u32> + 'a {
        let place = match self.members {
            Some(members) => members.binary_search(&at).ok(),
            None => Some(at as usize),
        };
        let slots = place.map_or(&[][..], |place| &self.edges[place * SLOTS..][..SLOTS]);
        slots.iter().copied().take_while(|to| *to != NONE)
    }
}

/// What a walk has seen, kept between walks.
#[derive(Debug, Default)]
pub(super) struct Seen {
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

/// What a walk is towards, and among what.
#[derive(Clone, Copy)]
pub(super) struct Aim<'a> {
    /// `[rows, dim]`
    pub vectors: &'a [f32],
    pub dim: usize,
    /// `[dim]`
    pub query: &'a [f32],
}

impl<'a> Aim<'a> {
    fn vector(self, at: u32) -> &'a [f32] {
        vector(self.vectors, self.dim, at)
    }

    /// The query against some of the vectors, in their order, four at a time.
    pub fn hits<'b>(self, of: &'b [u32]) -> impl Iterator<Item = Hit> + use<'a, 'b> {
        let hit = |(at, score): (&u32, f32)| Hit { position: *at as usize, score };
        let (fours, rest) = of.as_chunks::<4>();
        let together = fours
            .iter()
            .flat_map(move |four| four.iter().zip(dot_four(self.query, four.map(|at| self.vector(at)))).map(hit));
        together.chain(rest.iter().map(move |at| hit((at, dot(self.query, self.vector(*at))))))
    }
}

/// The best `beam` vectors that a walk comes upon, the best first. It begins at
/// `starts`, no two of which are the same.
pub(super) fn walk(links: Links<'_>, aim: Aim<'_>, starts: &[u32], beam: usize, seen: &mut Seen) -> Vec<Hit> {
    seen.begin(aim.vectors.len() / aim.dim);
    starts.iter().for_each(|at| {
        seen.insert(*at);
    });
    // Sorted; the flag says whether its neighbours were looked at.
    let mut best: Vec<(Hit, bool)> = aim.hits(starts).map(|hit| (hit, false)).collect();
    best.sort_unstable_by(|a, b| a.0.order(&b.0));
    best.truncate(beam);
    let (mut next, mut new) = (0, Vec::with_capacity(SLOTS));
    while let Some((from, looked)) = best.get_mut(next) {
        if std::mem::replace(looked, true) {
            next += 1;
            continue;
        }
        let from = from.position as u32;
        new.clear();
        new.extend(links.of(from).filter(|to| seen.insert(*to)));
        for hit in aim.hits(&new) {
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
