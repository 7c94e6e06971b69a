//! Work cut by data, never by thread, so that the number of threads cannot
//! change a bit of any result.

use crate::{Element, Offsets};
use rayon::prelude::*;

/// Elements one task should touch at least: below this, waking a thread costs
/// more than it saves.
const TASK: usize = 1 << 14;

/// The rows per task for rows of `cols` elements: a function of the shape only.
pub(crate) fn rows_per_task(cols: usize) -> usize {
    TASK.div_ceil(cols.max(1)).max(1)
}

/// Calls `f(first_row, rows)` on runs of whole rows of `out`, in parallel.
pub(crate) fn rows_mut<E: Element>(out: &mut [E], cols: usize, f: impl Fn(usize, &mut [E]) + Sync) {
    if out.is_empty() {
        return;
    }
    let step = rows_per_task(cols);
    out.par_chunks_mut(step * cols).enumerate().for_each(|(i, rows)| f(i * step, rows));
}

/// As [`rows_mut`] where a row of `out` costs `work` elements to make, more
/// than it is long.
pub(crate) fn rows_mut_for<T: Send>(out: &mut [T], cols: usize, work: usize, f: impl Fn(usize, &mut [T]) + Sync) {
    if out.is_empty() {
        return;
    }
    let step = rows_per_task(work.max(cols));
    out.par_chunks_mut(step * cols).enumerate().for_each(|(i, rows)| f(i * step, rows));
}

/// Calls `f(segment, rows)` on every segment's rows of `out`, in parallel.
pub(crate) fn segments_mut<E: Element>(
    out: &mut [E],
    cols: usize,
    offsets: &Offsets,
    f: impl Fn(usize, &mut [E]) + Sync,
) {
    let average = (out.len() / offsets.segments().max(1)).max(1);
    let mut rest = out;
    let mut parts = Vec::with_capacity(offsets.segments());
    for range in offsets.ranges() {
        let (part, tail) = std::mem::take(&mut rest).split_at_mut(range.len() * cols);
        parts.push(part);
        rest = tail;
    }
    parts.into_par_iter().with_min_len(rows_per_task(average)).enumerate().for_each(|(s, part)| f(s, part));
}

/// As [`rows_mut`] over two outputs with their own row lengths.
pub(crate) fn rows_mut2<A: Element, B: Element>(
    a: (&mut [A], usize),
    b: (&mut [B], usize),
    f: impl Fn(usize, &mut [A], &mut [B]) + Sync,
) {
    if a.0.is_empty() {
        return;
    }
    let step = rows_per_task(a.1.max(b.1));
    a.0.par_chunks_mut(step * a.1)
        .zip(b.0.par_chunks_mut(step * b.1))
        .enumerate()
        .for_each(|(i, (x, y))| f(i * step, x, y));
}

/// Sums `f(first_row, end_row, partial)` over fixed runs of rows, partials
/// added in order: for gradients of what all rows share (biases, norms).
pub(crate) fn reduce_rows<E: Element>(
    rows: usize,
    cols: usize,
    out: &mut [E],
    f: impl Fn(usize, usize, &mut [E]) + Sync,
) {
    // At most 32 partials, however many rows: their sum is sequential.
    let step = rows_per_task(cols).max(rows.div_ceil(32)).max(1);
    let parts = rows.div_ceil(step);
    let width = out.len();
    if parts == 0 {
        out.fill(E::ZERO);
        return;
    }
    let mut partials = crate::buffer::Buffer::<E>::zeros(parts * width);
    partials
        .par_chunks_mut(width.max(1))
        .enumerate()
        .for_each(|(i, part)| f(i * step, ((i + 1) * step).min(rows), part));
    out.copy_from_slice(&partials[..width]);
    for part in partials[width..].chunks(width.max(1)) {
        for (o, x) in out.iter_mut().zip(part) {
            *o += *x;
        }
    }
}

/// A place that tasks write to, each its own part of it.
pub(crate) struct Shared<T>(*mut T);

impl<T> Shared<T> {
    /// The place of a slice, for as long as the caller keeps it borrowed.
    pub fn new(slice: &mut [T]) -> Self {
        Self(slice.as_mut_ptr())
    }

    /// The place of one element.
    ///
    /// # Safety
    /// The slice is still there and longer than `index`.
    pub unsafe fn at(self, index: usize) -> *mut T {
        // SAFETY: the caller's duty.
        unsafe { self.0.add(index) }
    }

    /// A part of the slice.
    ///
    /// # Safety
    /// As [`Shared::at`] for all `len` elements from `first` on, and nobody
    /// else touches them meanwhile.
    pub unsafe fn slice<'a>(self, first: usize, len: usize) -> &'a mut [T] {
        // SAFETY: the caller's duty.
        unsafe { std::slice::from_raw_parts_mut(self.0.add(first), len) }
    }
}
impl<T> Clone for Shared<T> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<T> Copy for Shared<T> {}
// SAFETY: every use is unsafe and promises to touch its own part alone.
unsafe impl<T: Send> Send for Shared<T> {}
// SAFETY: as above.
unsafe impl<T: Send> Sync for Shared<T> {}

/// Calls `f` on tasks of very different costs, the largest first, on all
/// threads, or on this one if all together cost less than `alone`. Each thread
/// brings one `S` with it.
pub(crate) fn largest_first<T: Sync, S>(
    mut tasks: Vec<(usize, T)>,
    alone: usize,
    make: impl Fn() -> S + Sync,
    f: impl Fn(&mut S, &T) + Sync,
) {
    let cost: usize = tasks.iter().map(|t| t.0).sum();
    let threads = if cost < alone { 1 } else { rayon::current_num_threads().min(tasks.len()) };
    if threads > 1 {
        tasks.sort_by_key(|t| std::cmp::Reverse(t.0));
    }
    let next = std::sync::atomic::AtomicUsize::new(0);
    let work = |_| {
        let mut own = None;
        while let Some((_, task)) = tasks.get(next.fetch_add(1, std::sync::atomic::Ordering::Relaxed)) {
            f(own.get_or_insert_with(&make), task);
        }
    };
    if threads > 1 {
        (0..threads).into_par_iter().with_max_len(1).for_each(work);
    } else {
        work(0);
    }
}

/// Runs `f` with `threads` worker threads (0: one per core).
///
/// The global pool is set once for the program; this is for tests and for
/// embedding, where a second number of threads is wanted.
///
/// # Errors
/// When the system cannot start the threads.
pub fn with_threads<R: Send>(threads: usize, f: impl FnOnce() -> R + Send) -> Result<R, rayon::ThreadPoolBuildError> {
    Ok(rayon::ThreadPoolBuilder::new().num_threads(threads).build()?.install(f))
}
