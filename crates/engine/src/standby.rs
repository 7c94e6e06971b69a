//! Threads that wait a moment for the next small job instead of going to
//! sleep.
//!
//! A pass over one sentence, or one step of a decoder, is dozens of products
//! of some tens of microseconds each. Between two of them a pool's thread falls
//! asleep, and to wake it takes about as long as the product. Here a thread
//! that helped with one job stays for [`PATIENCE`] and looks for the next.
//!
//! Who works on a job never shows in its result: a job hands out its own tasks.

use crate::ahead::Reader;
use rayon::prelude::*;
use std::cell::{Cell, UnsafeCell};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, TryLockError};
use std::time::{Duration, Instant};

/// How long a thread stays.
const PATIENCE: Duration = Duration::from_micros(150);
/// How long after its own last job a thread does not stand by for others:
/// while it waits for its pool, the pool may ask it to.
const LEADING: Duration = Duration::from_millis(10);

/// A piece of work that any number of threads do together: whoever calls it
/// takes part until nothing is left to begin.
type Job<'a> = dyn Fn() + Sync + 'a;

/// The job that is open to helpers, if one is. `STATE` counts jobs in its upper
/// half; below are whether the newest is open, and how many helpers are in it.
static STATE: AtomicU64 = AtomicU64::new(0);
const OPEN: u64 = 1 << 31;
const NEXT: u64 = 1 << 32;
const HELPERS: u64 = OPEN - 1;

struct Place(UnsafeCell<Option<*const Job<'static>>>);
// SAFETY: written only by the owner of `OWNER` while no job is open and no
// helper in one; read only by helpers that were counted in while it was open.
unsafe impl Sync for Place {}
static JOB: Place = Place(UnsafeCell::new(None));
static OWNER: Mutex<()> = Mutex::new(());

/// Threads that stand by now.
static STANDING: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    static LED: Cell<Option<Instant>> = const { Cell::new(None) };
}

/// Runs a job on this thread and up to `threads - 1` others; returns when
/// nobody is in it any more.
pub(crate) fn run(threads: usize, job: &Job<'_>) {
    if threads < 2 {
        return job();
    }
    LED.set(Some(Instant::now()));
    let owner = match OWNER.try_lock() {
        Ok(owner) => Some(owner),
        Err(TryLockError::Poisoned(owner)) => Some(owner.into_inner()),
        // Somebody else's job is open.
        Err(TryLockError::WouldBlock) => None,
    };
    if owner.is_some() && STANDING.load(Ordering::Acquire) > 0 {
        let _open = Opened::new(job, seat(threads));
        job();
        return;
    }
    (0..threads).into_par_iter().with_max_len(1).for_each(|_| job());
    if owner.is_some() {
        for _ in STANDING.load(Ordering::Acquire) + 1..threads {
            rayon::spawn(stand_by);
        }
    }
}

/// Which part of a job on so many threads is this one's first, and of how many.
pub(crate) fn seat(threads: usize) -> (usize, usize) {
    (rayon::current_thread_index().unwrap_or(0) % threads.max(1), threads.max(1))
}

/// A job that helpers may enter; dropping it waits until they have left.
struct Opened {
    seat: (usize, usize),
}

impl Opened {
    /// The caller holds `OWNER`, and no job is open.
    fn new(job: &Job<'_>, seat: (usize, usize)) -> Self {
        // SAFETY: the job outlives this guard, which waits for all helpers; the
        // lifetime is only forgotten. Nobody reads the place: no job is open.
        unsafe {
            *JOB.0.get() = Some(std::mem::transmute::<*const Job<'_>, *const Job<'static>>(job));
        }
        let before = STATE.load(Ordering::Relaxed);
        STATE.store((before & !(NEXT - 1)).wrapping_add(NEXT) | OPEN, Ordering::Release);
        Self { seat }
    }
}

impl Drop for Opened {
    fn drop(&mut self) {
        STATE.fetch_and(!OPEN, Ordering::Relaxed);
        let (mut spins, mut reader) = (0, Reader::new(self.seat));
        while STATE.load(Ordering::Acquire) & HELPERS > 0 {
            spins += 1;
            if spins < 1000 {
                if !reader.read() {
                    std::hint::spin_loop();
                }
            } else {
                std::thread::yield_now();
            }
        }
    }
}

/// Helps with jobs until none came for a while.
fn stand_by() {
    if LED.get().is_some_and(|led| led.elapsed() < LEADING) {
        return;
    }
    STANDING.fetch_add(1, Ordering::AcqRel);
    let (mut since, mut done) = (Instant::now(), STATE.load(Ordering::Relaxed) & !OPEN & !HELPERS);
    // The job that is open now may be entered; its number is not done yet.
    if STATE.load(Ordering::Relaxed) & OPEN > 0 {
        done = done.wrapping_sub(NEXT);
    }
    let mut reader = Reader::new(seat(rayon::current_num_threads()));
    while since.elapsed() < PATIENCE {
        for _ in 0..32 {
            let state = STATE.load(Ordering::Relaxed);
            let number = state & !OPEN & !HELPERS;
            if state & OPEN > 0
                && number != done
                && STATE.compare_exchange(state, state + 1, Ordering::AcqRel, Ordering::Relaxed).is_ok()
            {
                // SAFETY: counted in while the job was open, so its owner waits
                // for this thread before the job ends.
                if let Some(job) = unsafe { *JOB.0.get() } {
                    // SAFETY: as above.
                    unsafe { (*job)() };
                }
                STATE.fetch_sub(1, Ordering::Release);
                (since, done) = (Instant::now(), number);
            }
            if !reader.read() {
                std::hint::spin_loop();
            }
        }
    }
    STANDING.fetch_sub(1, Ordering::AcqRel);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::with_threads;

    /// A job of many tasks; how often each was done.
    fn counted(threads: usize, tasks: usize) -> Vec<usize> {
        let (next, done) = (AtomicUsize::new(0), (0..tasks).map(|_| AtomicUsize::new(0)).collect::<Vec<_>>());
        run(threads, &|| {
            while let Some(task) = done.get(next.fetch_add(1, Ordering::Relaxed)) {
                task.fetch_add(1, Ordering::Relaxed);
            }
        });
        done.into_iter().map(AtomicUsize::into_inner).collect()
    }

    #[test]
    fn every_task_is_done_once_in_one_job_after_the_other() {
        for threads in [1, 2, 4] {
            with_threads(threads, || {
                for round in 0..2000 {
                    assert_eq!(counted(threads, round % 50), vec![1; round % 50]);
                }
            })
            .expect("threads start");
        }
    }

    #[test]
    fn several_threads_may_have_jobs_at_the_same_time() {
        std::thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| (0..500).for_each(|_| assert_eq!(counted(3, 20), vec![1; 20])));
            }
        });
    }

    #[test]
    fn threads_stay_for_the_next_job() {
        // Helpers of other tests do as well: what is tried is that some come.
        let helped = with_threads(2, || {
            let me = std::thread::current().id();
            (0..200).any(|_| {
                let (next, helped) = (AtomicUsize::new(0), AtomicUsize::new(0));
                run(2, &|| {
                    while next.fetch_add(1, Ordering::Relaxed) < 200 {
                        std::thread::sleep(Duration::from_micros(10));
                        helped.fetch_add(usize::from(std::thread::current().id() != me), Ordering::Relaxed);
                    }
                });
                helped.into_inner() > 0
            })
        });
        assert!(helped.expect("threads start"));
    }

    #[test]
    fn a_job_that_panics_is_closed() {
        let broken = std::panic::catch_unwind(|| {
            with_threads(2, || {
                counted(2, 10);
                run(2, &|| assert!(LED.get().is_none(), "the leader panics"));
            })
        });
        assert!(broken.is_err());
        assert_eq!(STATE.load(Ordering::Acquire) & HELPERS, 0);
        assert_eq!(counted(2, 10), vec![1; 10]);
    }
}
