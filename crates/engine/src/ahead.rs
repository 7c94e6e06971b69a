//! What threads read while they wait: the weights that come next.
//!
//! A pass over one sentence reads every weight of a model once, and memory is
//! what it waits for. Between two products one thread works through small
//! operations while the others have nothing to do; they may as well bring into
//! their caches what the next product will read. Which one that is, the pass
//! before shows: products follow each other in the same order every time.
//!
//! To ask for memory changes nothing and cannot fail, whatever lies there by
//! now. So nobody waits for anybody here, and a wrong guess costs a little time.

use std::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};
use std::cell::Cell;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

/// Factors that are read in one go.
const FACTORS: usize = 3;
/// Places of the table, a power of two; two products that share one are
/// guessed wrong.
const PLACES: usize = 256;
/// Bytes that a thread asks for at most: half of a second-level cache.
const MOST: usize = 1 << 20;
/// A line of the cache, and how many are asked for at a time.
const LINE: usize = 64;
const LINES: usize = 4;

/// Where factors begin, and how many bytes long they are.
type Factors = [(usize, usize); FACTORS];

struct Place([(AtomicUsize, AtomicUsize); FACTORS]);

/// What was read after the product that has this place.
static FOLLOWS: [Place; PLACES] =
    [const { Place([const { (AtomicUsize::new(0), AtomicUsize::new(0)) }; FACTORS]) }; PLACES];

/// How many products have begun, above the place of the last of them.
static BEGUN: AtomicU64 = AtomicU64::new(0);

thread_local! {
    /// The place of the last product that this thread began.
    static LAST: Cell<usize> = const { Cell::new(0) };
}

/// Says what the product that begins now will read.
pub(crate) fn begin<'a>(factors: impl Iterator<Item = &'a [f32]>) {
    let mut all = [(0, 0); FACTORS];
    for (to, factor) in all.iter_mut().zip(factors) {
        *to = (factor.as_ptr() as usize, size_of_val(factor));
    }
    for ((address, bytes), (to, length)) in all.iter().zip(&FOLLOWS[LAST.get()].0) {
        to.store(*address, Ordering::Relaxed);
        length.store(*bytes, Ordering::Relaxed);
    }
    let place = (all[0].0 / LINE).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> (usize::BITS - PLACES.ilog2());
    LAST.set(place);
    let count = BEGUN.load(Ordering::Relaxed) / PLACES as u64 + 1;
    BEGUN.store(count * PLACES as u64 + place as u64, Ordering::Relaxed);
}

/// The part `seat` of `seats` equal ones, of `total`.
fn part(total: usize, seat: usize, seats: usize) -> Range<usize> {
    total * seat / seats..total * (seat + 1) / seats
}

/// A thread that waits, and how far it has read.
pub(crate) struct Reader {
    seat: usize,
    seats: usize,
    begun: u64,
    ahead: Factors,
    left: usize,
}

impl Reader {
    /// For the thread that will do the part `seat` of `seats` of a product.
    pub fn new((seat, seats): (usize, usize)) -> Self {
        Self { seat, seats, begun: 0, ahead: [(0, 0); FACTORS], left: 0 }
    }

    /// Asks for a few lines of what comes next; whether any were left.
    pub fn read(&mut self) -> bool {
        let begun = BEGUN.load(Ordering::Relaxed);
        if begun != self.begun {
            self.begun = begun;
            self.look_up((begun % PLACES as u64) as usize);
        }
        self.ask()
    }

    /// Asks for a few lines of what it found.
    fn ask(&mut self) -> bool {
        let Some((address, bytes)) = self.ahead.iter_mut().find(|(_, bytes)| *bytes > 0).filter(|_| self.left > 0)
        else {
            return false;
        };
        for line in 0..LINES {
            prefetch(*address + line * LINE);
        }
        *address += LINES * LINE;
        *bytes = bytes.saturating_sub(LINES * LINE);
        self.left = self.left.saturating_sub(LINES * LINE);
        true
    }

    /// Takes this thread's part of what followed a product.
    fn look_up(&mut self, place: usize) {
        let all = FOLLOWS[place].0.each_ref().map(|(a, n)| (a.load(Ordering::Relaxed), n.load(Ordering::Relaxed)));
        let own = part(all.iter().map(|(_, bytes)| bytes).sum(), self.seat, self.seats);
        let mut before = 0;
        for (to, (address, bytes)) in self.ahead.iter_mut().zip(all) {
            let (from, end) = (own.start.clamp(before, before + bytes), own.end.clamp(before, before + bytes));
            *to = (address + (from - before), end - from);
            before += bytes;
        }
        self.left = MOST;
    }
}

fn prefetch(address: usize) {
    // SAFETY: asking for memory that is not there does nothing.
    unsafe { _mm_prefetch::<_MM_HINT_T1>(std::ptr::without_provenance(address)) };
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The bytes that a reader would ask for.
    fn asked(seat: (usize, usize), after: usize) -> Vec<Range<usize>> {
        let mut reader = Reader::new(seat);
        reader.look_up(after);
        reader.ahead.into_iter().filter(|(_, bytes)| *bytes > 0).map(|(at, bytes)| at..at + bytes).collect()
    }

    #[test]
    fn what_followed_a_product_is_read_after_it_each_thread_its_part() {
        // Other tests begin products of other weights: those may share a place,
        // so several are tried.
        let weights = (0..20).map(|i| vec![0.0_f32; 256 * (i + 1)]).collect::<Vec<_>>();
        let mut right = 0;
        for pair in weights.windows(3) {
            let [first, second, third] = pair else { unreachable!("three") };
            begin([first.as_slice()].into_iter());
            let place = LAST.get();
            begin([second.as_slice(), third.as_slice()].into_iter());
            let range = |w: &[f32]| w.as_ptr() as usize..w.as_ptr() as usize + size_of_val(w);
            let (second, third) = (range(second), range(third));
            let half = (second.len() + third.len()) / 2;
            let rest = half - second.len();
            let first_half = [second, third.start..third.start + rest];
            right += usize::from(asked((0, 2), place) == first_half);
            right += usize::from(asked((1, 2), place) == std::slice::from_ref(&(third.start + rest..third.end)));
        }
        assert!(right >= 30, "{right} of 36");
    }

    #[test]
    fn a_reader_comes_to_an_end() {
        let mut reader = Reader::new((0, 1));
        let count = |reader: &mut Reader| std::iter::from_fn(|| reader.ask().then_some(())).count();
        (reader.ahead, reader.left) = ([(64, 1000), (0, 0), (1 << 20, 300)], MOST);
        assert_eq!(count(&mut reader), 4 + 2);
        (reader.ahead, reader.left) = ([(64, 1 << 30), (0, 0), (0, 0)], MOST);
        assert_eq!(count(&mut reader), MOST / (LINE * LINES));
    }
}
