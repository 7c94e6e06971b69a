//! A range that threads share among themselves, each with a stretch of its own
//! as long as there is one.
//!
//! Whoever reads memory in order can ask for what comes next, and loses that
//! wherever a new stretch begins. So a thread keeps to one stretch, and one that
//! has nothing left takes over the further half of what another has not begun:
//! few stretches, and all threads end within a unit of each other.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// Threads that take part at most.
const MOST: usize = 16;

/// What a thread has not begun: the first unit below, the end above. In a cache
/// line of its own, and of the line that is fetched with it.
#[repr(align(128))]
struct Stretch(AtomicU64);

impl Stretch {
    fn load(&self) -> (u64, u64) {
        let both = self.0.load(Ordering::Relaxed);
        (both & 0xffff_ffff, both >> 32)
    }

    fn replace(&self, (from, to): (u64, u64), by: (u64, u64)) -> bool {
        let (old, new) = (to << 32 | from, by.1 << 32 | by.0);
        // Every unit is in one stretch at a time and in none again once it was
        // begun, so a stretch that looks as before is the one of before.
        self.0.compare_exchange_weak(old, new, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }
}

/// The units 0, 1, … that are to be done.
pub(crate) struct Spans {
    stretches: [Stretch; MOST],
    threads: usize,
    /// A bit for each stretch that has a thread.
    seated: AtomicU32,
}

impl Spans {
    /// One stretch for each of `threads`.
    ///
    /// # Panics
    /// When there are more than 2³² units.
    pub fn new(units: usize, threads: usize) -> Self {
        assert!(u32::try_from(units).is_ok(), "too many units");
        let threads = threads.clamp(1, MOST);
        let bound = |seat: usize| (units * seat / threads) as u64;
        let stretches = std::array::from_fn(|seat| {
            Stretch(AtomicU64::new(if seat < threads { bound(seat + 1) << 32 | bound(seat) } else { 0 }))
        });
        Self { stretches, threads, seated: AtomicU32::new(0) }
    }

    /// Does units until none is left to begin: first those of the stretch
    /// `seat`, or of one that no thread has. Threads beyond those that were
    /// planned for do nothing.
    pub fn share(&self, seat: usize, mut f: impl FnMut(usize)) {
        let free = |seat: &usize| self.seated.fetch_or(1 << seat, Ordering::Relaxed) & 1 << seat == 0;
        let wanted = std::iter::once(seat).filter(|seat| *seat < self.threads);
        let Some(seat) = wanted.chain(0..self.threads).find(free) else { return };
        let own = &self.stretches[seat];
        loop {
            let (from, to) = own.load();
            if from < to {
                if own.replace((from, to), (from + 1, to)) {
                    f(from as usize);
                }
            } else if !self.take_over(own) {
                break;
            }
        }
    }

    /// Moves the further half of another's stretch to one that is empty.
    fn take_over(&self, own: &Stretch) -> bool {
        self.stretches[..self.threads].iter().any(|other| {
            loop {
                let (from, to) = other.load();
                if from >= to {
                    return false;
                }
                let middle = from + (to - from) / 2;
                if other.replace((from, to), (from, middle)) {
                    own.0.store(to << 32 | middle, Ordering::Relaxed);
                    return true;
                }
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicUsize;

    #[test]
    fn every_unit_is_done_once() {
        for (threads, units) in [(1, 0), (1, 7), (2, 1), (3, 1000), (20, 5000)] {
            let done = (0..units).map(|_| AtomicUsize::new(0)).collect::<Vec<_>>();
            let spans = Spans::new(units, threads);
            std::thread::scope(|scope| {
                for thread in 0..threads {
                    // Some want the same seat.
                    let (spans, done) = (&spans, &done);
                    scope.spawn(move || {
                        spans.share(thread / 2, |unit| {
                            done[unit].fetch_add(1, Ordering::Relaxed);
                        });
                    });
                }
            });
            assert!(done.iter().all(|n| n.load(Ordering::Relaxed) == 1), "{threads} threads, {units} units");
        }
    }

    #[test]
    fn who_ends_first_takes_further_halves() {
        let spans = Spans::new(16, 2);
        let (mut first, mut second) = (Vec::new(), Vec::new());
        spans.share(0, |unit| {
            first.push(unit);
            if unit == 3 {
                // Of the other stretch's eight units none was begun; 4 to 7 are left of this one.
                spans.share(1, |unit| second.push(unit));
            }
        });
        assert_eq!(first, [0, 1, 2, 3]);
        assert_eq!(second, [8, 9, 10, 11, 12, 13, 14, 15, 6, 7, 5, 4]);
    }

    #[test]
    fn a_thread_that_does_not_come_is_not_missed() {
        let mut done = Vec::new();
        Spans::new(9, 3).share(1, |unit| done.push(unit));
        done.sort_unstable();
        assert_eq!(done, (0..9).collect::<Vec<_>>());
    }
}
