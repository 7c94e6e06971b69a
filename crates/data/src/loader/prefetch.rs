//! The batches of an epoch, prepared ahead.
//!
//! Workers take samples in the order in which they are needed, whatever batch they belong to, and
//! put them into the slots of a bounded window of batches; the consumer takes the first batch of the
//! window when all its slots are filled. One slow picture therefore delays its own batch, not the
//! work on the next ones, and memory holds at most the window.

use std::collections::VecDeque;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Instant;

use super::Source;
use super::order::EpochOrder;
use crate::error::{DataError, Result};
use crate::pack::Pack;
use crate::segment::{Problem, Sample};

/// Bad rows listed in the error that stops a run.
const LISTED: usize = 10;

/// A batch being filled.
struct Batch {
    slots: Vec<Option<Result<Sample>>>,
    missing: usize,
}

/// The window of batches, under its lock.
struct Window {
    batches: VecDeque<Batch>,
    /// The number of the window's first batch.
    first: usize,
    /// The next sample to be taken by a worker.
    next: (usize, usize),
    stopped: bool,
}

struct Shared {
    source: Arc<Source>,
    order: EpochOrder,
    epoch: u64,
    window: Mutex<Window>,
    /// A worker may find room or an end; the consumer may find its batch complete.
    work: Condvar,
    ready: Condvar,
    prefetch: usize,
}

/// Iterates over the packs of an epoch.
pub struct Epoch {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
    next_batch: usize,
    bad: Vec<Problem>,
    bad_rows: u64,
    seen: u64,
    finished: bool,
    last_answer: Option<Instant>,
}

impl Epoch {
    pub(super) fn start(source: Arc<Source>, order: EpochOrder, epoch: u64, start_batch: usize) -> Epoch {
        let start_batch = start_batch.min(order.batches());
        let prefetch = source.options.prefetch.max(1);
        let workers = source.options.workers.max(1);
        let shared = Arc::new(Shared {
            source,
            order,
            epoch,
            window: Mutex::new(Window {
                batches: VecDeque::new(),
                first: start_batch,
                next: (start_batch, 0),
                stopped: false,
            }),
            work: Condvar::new(),
            ready: Condvar::new(),
            prefetch,
        });
        let workers = (0..workers)
            .filter_map(|i| {
                let shared = shared.clone();
                let name = format!("loader-{i}");
                std::thread::Builder::new().name(name).spawn(move || shared.work()).ok()
            })
            .collect();
        Epoch {
            shared,
            workers,
            next_batch: start_batch,
            bad: Vec::new(),
            bad_rows: 0,
            seen: 0,
            finished: false,
            last_answer: None,
        }
    }

    /// The number of the batch that comes next.
    pub fn next_batch(&self) -> usize {
        self.next_batch
    }

    /// Batches of the whole epoch.
    pub fn batches(&self) -> usize {
        self.shared.order.batches()
    }

    /// The first problems met, one per bad row.
    pub fn problems(&self) -> &[Problem] {
        &self.bad
    }

    fn take(&mut self) -> Vec<Result<Sample>> {
        let mut window = self.shared.lock();
        loop {
            if window.batches.front().is_some_and(|batch| batch.missing == 0) {
                let batch = window.batches.pop_front();
                window.first += 1;
                drop(window);
                self.shared.work.notify_all();
                return batch.into_iter().flat_map(|batch| batch.slots).flatten().collect();
            }
            if self.workers.is_empty() {
                // No thread could be started: do the work here.
                match self.shared.claim(&mut window) {
                    Some((batch, slot)) => {
                        drop(window);
                        self.shared.fill(batch, slot);
                        window = self.shared.lock();
                    }
                    None => return Vec::new(),
                }
            } else {
                window = self.shared.ready.wait(window).unwrap_or_else(PoisonError::into_inner);
            }
        }
    }

    fn pack(&mut self, loaded: Vec<Result<Sample>>) -> Result<Pack> {
        let samples = loaded.into_iter().collect::<Result<Vec<Sample>>>()?;
        self.seen += samples.len() as u64;
        let mut bad = Vec::new();
        let pack = self.shared.source.pack(samples, &mut bad)?;
        self.bad_rows += bad.len() as u64;
        bad.truncate(LISTED.saturating_sub(self.bad.len()));
        self.bad.extend(bad);
        let max_bad_fraction = self.shared.source.options.max_bad_fraction;
        let accepted = (max_bad_fraction * self.shared.order.len() as f64).max(1.0);
        if self.bad_rows as f64 > accepted {
            return Err(DataError::TooManyBadRows {
                bad: self.bad_rows,
                seen: self.seen,
                max_bad_fraction,
                listing: self.bad.iter().map(|problem| format!("  {problem}")).collect(),
            });
        }
        Ok(pack)
    }
}

impl Iterator for Epoch {
    type Item = Result<Pack>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.finished || self.next_batch >= self.shared.order.batches() {
            self.finished = true;
            return None;
        }
        let asked = Instant::now();
        let loaded = self.take();
        let answered = Instant::now();
        let counters = &self.shared.source.counters;
        let since = self.last_answer.unwrap_or(asked);
        counters.waited_ns.fetch_add((answered - asked).as_nanos() as u64, Ordering::Relaxed);
        counters.elapsed_ns.fetch_add((answered - since).as_nanos() as u64, Ordering::Relaxed);
        self.last_answer = Some(answered);
        self.next_batch += 1;
        let pack = self.pack(loaded);
        self.finished = pack.is_err();
        Some(pack)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let left = if self.finished { 0 } else { self.shared.order.batches() - self.next_batch };
        (0, Some(left))
    }
}

impl Drop for Epoch {
    fn drop(&mut self) {
        self.shared.lock().stopped = true;
        self.shared.work.notify_all();
        for worker in self.workers.drain(..) {
            // Panics are caught where samples are loaded.
            _ = worker.join();
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Window> {
        self.window.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next sample to load, if there is one within the window.
    fn claim(&self, window: &mut Window) -> Option<(usize, usize)> {
        let (batch, slot) = window.next;
        if batch >= self.order.batches() || batch >= window.first + self.prefetch {
            return None;
        }
        let size = self.order.batch(batch).len();
        if slot == 0 {
            let slots = std::iter::repeat_with(|| None).take(size).collect();
            window.batches.push_back(Batch { slots, missing: size });
        }
        window.next = if slot + 1 < size { (batch, slot + 1) } else { (batch + 1, 0) };
        Some((batch, slot))
    }

    fn fill(&self, batch: usize, slot: usize) {
        let Some(row) = self.order.batch(batch).nth(slot) else { return };
        // A panic in here is a fault of this program; it must not leave the consumer waiting.
        let load = std::panic::AssertUnwindSafe(|| self.source.load(row, self.epoch));
        let sample = std::panic::catch_unwind(load).unwrap_or_else(|_| {
            Err(DataError::Options(format!("row {}: loading it panicked; please report this", row + 1)))
        });
        let mut window = self.lock();
        let at = batch - window.first;
        if let Some(batch) = window.batches.get_mut(at) {
            batch.slots[slot] = Some(sample);
            batch.missing -= 1;
            if batch.missing == 0 {
                self.ready.notify_all();
            }
        }
    }

    fn work(&self) {
        let mut window = self.lock();
        while !window.stopped && window.next.0 < self.order.batches() {
            match self.claim(&mut window) {
                Some((batch, slot)) => {
                    drop(window);
                    self.fill(batch, slot);
                    window = self.lock();
                }
                None => window = self.work.wait(window).unwrap_or_else(PoisonError::into_inner),
            }
        }
    }
}
