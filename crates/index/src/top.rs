//! Bounded selection: the best few of many scores.

/// A vector that was found.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Hit {
    /// Its position in the index.
    pub position: usize,
    /// Its similarity to the query.
    pub score: f32,
}

impl Hit {
    /// Whether it comes before another: a higher score, or among equals the
    /// lower position, so that an order is the same however it came about.
    pub fn is_before(&self, other: &Self) -> bool {
        match self.score.total_cmp(&other.score) {
            std::cmp::Ordering::Greater => true,
            std::cmp::Ordering::Less => false,
            std::cmp::Ordering::Equal => self.position < other.position,
        }
    }

    /// The order of results, for sorting.
    pub fn order(&self, other: &Self) -> std::cmp::Ordering {
        other.score.total_cmp(&self.score).then(self.position.cmp(&other.position))
    }
}

/// The best `count` hits of those that were offered, in whatever order they
/// came.
#[derive(Debug, Clone)]
pub struct Top {
    /// A heap with the worst at its root.
    heap: Vec<Hit>,
    count: usize,
}

impl Top {
    /// Of at most so many hits. Memory is spent as they come.
    pub fn new(count: usize) -> Self {
        Self { heap: Vec::new(), count }
    }

    /// The score that a hit must reach to matter.
    #[inline]
    pub fn threshold(&self) -> f32 {
        if self.heap.len() < self.count {
            f32::NEG_INFINITY
        } else {
            self.heap.first().map_or(f32::INFINITY, |h| h.score)
        }
    }

    /// Offers a hit.
    #[inline]
    pub fn offer(&mut self, hit: Hit) {
        if self.heap.len() < self.count {
            self.heap.push(hit);
            self.rise(self.heap.len() - 1);
        } else if self.heap.first().is_some_and(|worst| hit.is_before(worst)) {
            self.heap[0] = hit;
            self.sink(0);
        }
    }

    /// Takes another selection's hits in.
    pub fn join(&mut self, other: Self) {
        other.heap.into_iter().for_each(|hit| self.offer(hit));
    }

    /// The hits, the best first.
    pub fn into_sorted(self) -> Vec<Hit> {
        let mut hits = self.heap;
        hits.sort_unstable_by(Hit::order);
        hits
    }

    fn rise(&mut self, mut at: usize) {
        while at > 0 {
            let parent = (at - 1) / 2;
            if !self.heap[parent].is_before(&self.heap[at]) {
                return;
            }
            self.heap.swap(parent, at);
            at = parent;
        }
    }

    fn sink(&mut self, mut at: usize) {
        loop {
            let (left, right) = (2 * at + 1, 2 * at + 2);
            let mut worst = at;
            for child in [left, right] {
                if child < self.heap.len() && self.heap[worst].is_before(&self.heap[child]) {
                    worst = child;
                }
            }
            if worst == at {
                return;
            }
            self.heap.swap(worst, at);
            at = worst;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn the_best_are_those_of_a_full_sort(scores in prop::collection::vec(0u8..20, 0..200), count in 0usize..30) {
            let hits: Vec<Hit> =
                scores.iter().enumerate().map(|(position, s)| Hit { position, score: f32::from(*s) }).collect();
            let mut sorted = hits.clone();
            sorted.sort_by(Hit::order);
            sorted.truncate(count);
            let mut top = Top::new(count);
            hits.iter().rev().for_each(|h| top.offer(*h));
            prop_assert_eq!(top.into_sorted(), sorted.clone());
            // In parts, as threads have them.
            let mut whole = Top::new(count);
            for part in hits.chunks(17) {
                let mut top = Top::new(count);
                part.iter().for_each(|h| top.offer(*h));
                whole.join(top);
            }
            prop_assert_eq!(whole.into_sorted(), sorted);
        }
    }
}
