//! Aligned buffers that return to a pool when their last use is over.
//!
//! A training step asks for the same sizes again and again. Taking them from
//! a pool saves the system calls and the zeroing of fresh pages, which cost
//! more than many of the operations themselves.

use crate::{Element, pages};
use std::alloc::{Layout, handle_alloc_error};
use std::collections::BTreeMap;
use std::ptr::NonNull;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Alignment of every buffer: one cache line, one AVX-512 register.
const ALIGN: usize = 64;

/// Bytes that live in buffers now, the most there ever were, and those that
/// wait in pools.
static LIVE: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);
static WAITING: AtomicUsize = AtomicUsize::new(0);

/// Bytes that may wait beyond what was once in use: steps of many lengths ask
/// for many sizes, and blocks of one are of no use to the others.
const SPARE: usize = 64 << 20;

/// The bytes held by live buffers now and at the highest moment so far.
///
/// Buffers that wait in a pool are not counted.
pub fn memory_in_use() -> (usize, usize) {
    (LIVE.load(Ordering::Relaxed), PEAK.load(Ordering::Relaxed))
}

/// Buffers of one element type, waiting to be used again, by capacity.
pub struct Pool<E> {
    free: Mutex<BTreeMap<usize, Vec<Raw<E>>>>,
}

struct Raw<E>(NonNull<E>);
// SAFETY: a raw block is owned by exactly one holder (a buffer or the pool).
unsafe impl<E: Send> Send for Raw<E> {}

impl<E: Element> Pool<E> {
    pub(crate) const fn new() -> Self {
        Self { free: Mutex::new(BTreeMap::new()) }
    }

    /// Gives memory that nobody uses back to the system.
    pub fn release(&self) {
        let free = std::mem::take(&mut *self.lock());
        for (capacity, blocks) in free {
            blocks.into_iter().for_each(|block| give_back(block, capacity));
        }
    }

    /// A waiting block of at least `capacity` elements, and its own capacity:
    /// the smallest, unless it is larger by more than half: batches of many
    /// lengths ask for many sizes, and a fresh block costs more than it holds.
    fn take(&self, capacity: usize) -> Option<(Raw<E>, usize)> {
        let mut free = self.lock();
        let (&found, blocks) = free.range_mut(capacity..=capacity + capacity / 2).next()?;
        let block = blocks.pop();
        if blocks.is_empty() {
            free.remove(&found);
        }
        WAITING.fetch_sub(found * size_of::<E>(), Ordering::Relaxed);
        Some((block?, found))
    }

    /// Gives blocks back to the system, the largest first, until at most
    /// `most` bytes wait in all pools.
    fn shrink(&self, most: usize) {
        let mut free = self.lock();
        while WAITING.load(Ordering::Relaxed) > most
            && let Some((capacity, mut blocks)) = free.pop_last()
        {
            if let Some(block) = blocks.pop() {
                give_back(block, capacity);
            }
            if !blocks.is_empty() {
                free.insert(capacity, blocks);
            }
        }
    }

    /// Takes a block in that nobody uses any more.
    fn keep(&self, block: NonNull<E>, capacity: usize) {
        WAITING.fetch_add(capacity * size_of::<E>(), Ordering::Relaxed);
        self.lock().entry(capacity).or_default().push(Raw(block));
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<usize, Vec<Raw<E>>>> {
        self.free.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// Frees a block that waited.
fn give_back<E>(block: Raw<E>, capacity: usize) {
    WAITING.fetch_sub(capacity * size_of::<E>(), Ordering::Relaxed);
    // SAFETY: allocated below with this very layout, and taken from the pool.
    unsafe { pages::give_back(block.0.cast(), layout::<E>(capacity)) };
}

fn layout<E>(capacity: usize) -> Layout {
    let layout = Layout::array::<E>(capacity).expect("a buffer's size fits the address space");
    layout.align_to(ALIGN).expect("alignments are powers of two")
}

/// Sizes are rounded so that nearly equal requests share blocks: to 16
/// elements when small, to a 64th of the next power of two when large (at most
/// 3.2 % is wasted; a block that waits may serve one a third smaller).
fn capacity_for(len: usize) -> usize {
    if len <= 1024 {
        return len.max(1).next_multiple_of(16);
    }
    let step = len.next_power_of_two() / 64;
    len.next_multiple_of(step)
}

/// A fixed-length run of elements, aligned to a cache line.
pub struct Buffer<E: Element> {
    block: NonNull<E>,
    len: usize,
    capacity: usize,
}

// SAFETY: a buffer owns its block alone, like a `Vec`.
unsafe impl<E: Element> Send for Buffer<E> {}
// SAFETY: shared access is read-only, like a `Vec`.
unsafe impl<E: Element> Sync for Buffer<E> {}

impl<E: Element> Buffer<E> {
    /// A buffer whose contents are arbitrary (but initialised) values.
    pub fn any(len: usize) -> Self {
        let capacity = capacity_for(len);
        let (block, capacity) = match E::pool().take(capacity) {
            Some((raw, capacity)) => (raw.0, capacity),
            None => {
                // All that is held stays within the peak and something to spare.
                let live = LIVE.load(Ordering::Relaxed) + capacity * size_of::<E>();
                E::pool().shrink(PEAK.load(Ordering::Relaxed).saturating_sub(live) + SPARE);
                // All-zero bytes are a valid f32 and f64.
                let Some(p) = pages::take(layout::<E>(capacity)) else { handle_alloc_error(layout::<E>(capacity)) };
                (p.cast(), capacity)
            }
        };
        let live = LIVE.fetch_add(capacity * size_of::<E>(), Ordering::Relaxed) + capacity * size_of::<E>();
        PEAK.fetch_max(live, Ordering::Relaxed);
        Self { block, len, capacity }
    }

    /// A buffer of zeros.
    pub fn zeros(len: usize) -> Self {
        let mut b = Self::any(len);
        b.fill(E::ZERO);
        b
    }

    /// A buffer with the values of a slice.
    pub fn from_slice(values: &[E]) -> Self {
        let mut b = Self::any(values.len());
        b.copy_from_slice(values);
        b
    }
}

impl<E: Element> Drop for Buffer<E> {
    fn drop(&mut self) {
        LIVE.fetch_sub(self.capacity * size_of::<E>(), Ordering::Relaxed);
        E::pool().keep(self.block, self.capacity);
    }
}

impl<E: Element> std::ops::Deref for Buffer<E> {
    type Target = [E];
    fn deref(&self) -> &[E] {
        // SAFETY: the block holds `capacity >= len` initialised elements.
        unsafe { std::slice::from_raw_parts(self.block.as_ptr(), self.len) }
    }
}

impl<E: Element> std::ops::DerefMut for Buffer<E> {
    fn deref_mut(&mut self) -> &mut [E] {
        // SAFETY: as above, and `&mut self` makes the access exclusive.
        unsafe { std::slice::from_raw_parts_mut(self.block.as_ptr(), self.len) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_are_aligned_and_reused() {
        let first = Buffer::<f64>::from_slice(&[1.0; 77_777]);
        let address = first.as_ptr() as usize;
        assert_eq!(address % ALIGN, 0);
        drop(first);
        let again = Buffer::<f64>::any(77_776);
        assert_eq!(again.as_ptr() as usize, address, "the block waits for the next request");
        assert_eq!(again.len(), 77_776);
    }

    #[test]
    fn a_slightly_larger_block_serves_and_a_much_larger_one_does_not() {
        let pool = Pool::<f64>::new();
        let block = NonNull::new(Box::leak(Box::new([0.0_f64; 1024])).as_mut_ptr()).expect("not null");
        pool.keep(block, 1024);
        assert!(pool.take(640).is_none());
        assert!(pool.take(1040).is_none());
        let (taken, capacity) = pool.take(688).expect("a third smaller at most");
        assert_eq!((taken.0, capacity), (block, 1024));
        assert!(pool.take(960).is_none());
    }

    #[test]
    fn what_waits_is_given_back_when_it_is_too_much() {
        let pool = Pool::<f64>::new();
        for capacity in [1024, 4096, 1024] {
            pool.keep(pages::take(layout::<f64>(capacity)).expect("memory").cast(), capacity);
        }
        pool.shrink(usize::MAX);
        assert_eq!(pool.lock().values().map(Vec::len).sum::<usize>(), 3);
        pool.shrink(0);
        assert!(pool.lock().is_empty());
    }

    #[test]
    fn an_empty_buffer_is_allowed() {
        assert_eq!(Buffer::<f32>::zeros(0).len(), 0);
    }

    #[test]
    fn rounding_wastes_little() {
        for len in [1, 17, 1025, 5000, 1_000_000, 30522 * 384] {
            let c = capacity_for(len);
            assert!(c >= len && (len < 1024 || (c - len) * 31 <= len), "{len} -> {c}");
        }
    }
}
