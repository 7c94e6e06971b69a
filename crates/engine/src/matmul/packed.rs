//! The packed product around a micro-kernel (Goto and van de Geijn, "Anatomy
//! of high-performance matrix multiplication", 2008).
//!
//! B is packed once, by all threads, into panels of the kernel's columns. Then
//! blocks of C are computed as independent tasks: each packs the rows of A
//! that it needs into memory of its own, which stays in the second-level
//! cache, and runs the kernel over them. Both phases are one parallel region,
//! so that threads are woken once a product.
//!
//! The inner dimension is cut into slices by its length alone, and each
//! element of C is summed slice by slice: neither the number of threads nor
//! the blocks change a bit of it.

use super::blocks::{self, Blocks};
use super::kernels::Kernel;
use super::packing::Lines;
use super::{Map, Matrix, Output, PackedRight, Product, Right};
use crate::Buffer;
use rayon::prelude::*;
use std::marker::PhantomData;
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

/// Multiply-adds below which one thread does the whole product.
const SEQUENTIAL: usize = 1 << 18;
/// Elements of B that are packed at once, which bounds the packing memory.
const PACKED: usize = 1 << 22;
/// Columns of C that are finished together: they are still in a near cache.
const STRIP: usize = 128;

/// Packs a matrix whole, on the calling thread: it may hold a lock.
pub(super) fn pack<K: Kernel>(b: &Matrix<'_, f32>) -> PackedRight {
    let (k, n) = (b.rows, b.cols);
    let mut panels = Buffer::any(K::stored(k) * n.next_multiple_of(K::COLS));
    let to = Ptr(panels.as_mut_ptr());
    let slices = blocks::slices::<K>(0..k, k);
    let job = Packing::<K> { lines: Lines::columns(b), cols: 0..n, slices, map: None, kernel: PhantomData };
    for i in 0..job.count() {
        // SAFETY: the buffer was made for all panels.
        unsafe { job.pack(i, to) };
    }
    PackedRight { panels, rows: k, cols: n, width: K::COLS }
}

/// Memory for the panels of one product, used again by the next, whatever its
/// size: in the pool each size would keep blocks of its own.
struct PackingMemory(Option<Buffer<f32>>);

/// What waits; as many as products ever ran at the same time.
static WAITING: Mutex<Vec<Buffer<f32>>> = Mutex::new(Vec::new());

impl PackingMemory {
    fn new(len: usize) -> Self {
        let waiting = WAITING.lock().unwrap_or_else(PoisonError::into_inner).pop();
        Self(Some(match waiting {
            Some(buffer) if buffer.len() >= len => buffer,
            smaller => {
                drop(smaller);
                Buffer::any(len)
            }
        }))
    }

    fn as_mut_ptr(&mut self) -> *mut f32 {
        self.0.as_mut().map_or(std::ptr::null_mut(), |buffer| buffer.as_mut_ptr())
    }
}

impl Drop for PackingMemory {
    fn drop(&mut self) {
        WAITING.lock().unwrap_or_else(PoisonError::into_inner).extend(self.0.take());
    }
}

#[derive(Clone, Copy)]
struct Ptr(*mut f32);
// SAFETY: used only to reach disjoint panels or tiles from different tasks.
unsafe impl Send for Ptr {}
// SAFETY: as above.
unsafe impl Sync for Ptr {}

/// The packing of some columns of B over some slices: slice by slice, in each
/// panel by panel.
struct Packing<K> {
    lines: Lines,
    cols: Range<usize>,
    slices: Vec<Range<usize>>,
    map: Option<Map<f32>>,
    kernel: PhantomData<fn() -> K>,
}

impl<K: Kernel> Packing<K> {
    fn panels(&self) -> usize {
        self.cols.len().div_ceil(K::COLS)
    }

    /// How many panels there are in all.
    fn count(&self) -> usize {
        self.panels() * self.slices.len()
    }

    /// Where slice `s` begins in the packed buffer.
    fn begin(&self, s: usize) -> usize {
        K::stored(self.slices[s].start - self.slices[0].start) * self.panels() * K::COLS
    }

    /// # Safety
    /// `to` is valid for all panels, and this one is written by nobody else.
    unsafe fn pack(&self, i: usize, to: Ptr) {
        let (s, panel) = (i / self.panels(), i % self.panels());
        let (slice, first) = (&self.slices[s], self.cols.start + panel * K::COLS);
        // SAFETY: the caller's duty; the lines lie in B.
        unsafe {
            let at = to.0.add(self.begin(s) + panel * K::COLS * K::stored(slice.len()));
            let count = K::COLS.min(self.cols.end - first);
            K::pack_right(self.lines, (first, count), (slice.start, slice.len()), self.map, at);
        }
    }
}

pub(super) fn product<K: Kernel>(p: &Product<'_, f32>) {
    let (m, n, k) = (p.c.rows, p.c.cols, p.a.cols);
    let threads = if p.parallel && m * n * k > SEQUENTIAL { rayon::current_num_threads() } else { 1 };
    let plan = blocks::plan::<K>(m, n, threads);
    let region = |cols: Range<usize>, inner: Range<usize>, packed: Option<Ptr>| {
        Region::<K>::new(p, plan, cols, inner, packed).run(threads);
    };
    match &p.b {
        Right::Packed(b) => {
            assert!(b.width == K::COLS, "packed for another kernel");
            region(0..n, 0..k, Some(Ptr(b.panels.as_ptr().cast_mut())));
        }
        Right::Plain(_) => {
            // Whole columns where they fit, else the inner dimension in runs.
            let slice = blocks::slices::<K>(0..k, k)[0].len();
            let deep = k.min((PACKED / n.next_multiple_of(K::COLS).min(4096) / slice).max(1) * slice);
            let wide = (PACKED / deep / K::COLS * K::COLS).max(K::COLS);
            for col in (0..n).step_by(wide) {
                for inner in (0..k).step_by(deep) {
                    region(col..n.min(col + wide), inner..k.min(inner + deep), None);
                }
            }
        }
    }
}

/// Some columns of C, over some of the inner dimension, as one parallel region.
struct Region<'a, 'p, K: Kernel> {
    product: &'a Product<'p, f32>,
    rows: Lines,
    packing: Option<Packing<K>>,
    slices: Vec<Range<usize>>,
    cols: Range<usize>,
    plan: Blocks,
    panels: Ptr,
    /// Holds the panels that were not packed before.
    _memory: Option<PackingMemory>,
    kernel: PhantomData<fn() -> K>,
}

// SAFETY: the tasks read A and the panels and write disjoint tiles of C.
unsafe impl<K: Kernel> Sync for Region<'_, '_, K> {}

impl<'a, 'p, K: Kernel> Region<'a, 'p, K> {
    fn new(
        product: &'a Product<'p, f32>,
        plan: Blocks,
        cols: Range<usize>,
        inner: Range<usize>,
        packed: Option<Ptr>,
    ) -> Self {
        let slices = blocks::slices::<K>(inner, product.a.cols);
        let mut memory = None;
        let packing = match (&product.b, packed) {
            (Right::Plain(b), None) => Some(Packing {
                lines: Lines::columns(b),
                cols: cols.clone(),
                slices: slices.clone(),
                map: product.map_b,
                kernel: PhantomData,
            }),
            _ => None,
        };
        let panels = packed.unwrap_or_else(|| {
            let depth: usize = slices.iter().map(|slice| K::stored(slice.len())).sum();
            Ptr(memory.insert(PackingMemory::new(depth * cols.len().next_multiple_of(K::COLS))).as_mut_ptr())
        });
        let rows = Lines::rows(&product.a);
        Self { product, rows, packing, slices, cols, plan, panels, _memory: memory, kernel: PhantomData }
    }

    fn run(&self, threads: usize) {
        let (down, across) = (self.product.c.rows.div_ceil(self.plan.rows), self.cols.len().div_ceil(self.plan.cols));
        let packs = self.packing.as_ref().map_or(0, Packing::<K>::count);
        let (next_pack, packed, next_task) = (AtomicUsize::new(0), AtomicUsize::new(0), AtomicUsize::new(0));
        let participate = || {
            if let Some(packing) = &self.packing {
                loop {
                    let i = next_pack.fetch_add(1, Ordering::Relaxed);
                    if i >= packs {
                        break;
                    }
                    // SAFETY: each panel is handed out once.
                    unsafe { packing.pack(i, self.panels) };
                    packed.fetch_add(1, Ordering::Release);
                }
                // Panels still missing are in the hands of threads that run.
                let mut spins = 0;
                while packed.load(Ordering::Acquire) < packs {
                    spins += 1;
                    if spins < 1000 { std::hint::spin_loop() } else { std::thread::yield_now() }
                }
            }
            let mut block = None;
            K::begin();
            loop {
                let i = next_task.fetch_add(1, Ordering::Relaxed);
                if i >= down * across {
                    break;
                }
                let block = block.get_or_insert_with(|| self.block_buffer());
                // SAFETY: each block of C is handed out once, after all panels
                // of B were packed.
                unsafe { self.task(i / across, i % across, block) };
            }
            K::end();
        };
        let at_work = threads.min((down * across).max(packs / 8)).max(1);
        if at_work > 1 {
            (0..at_work).into_par_iter().with_max_len(1).for_each(|_| participate());
        } else {
            participate();
        }
    }

    /// Memory for the rows of A of one task.
    fn block_buffer(&self) -> Buffer<f32> {
        let deepest = self.slices.iter().map(|slice| K::stored(slice.len())).max().unwrap_or(0);
        let rows = self.plan.rows.min(self.product.c.rows);
        Buffer::any(deepest * if K::ANY_HEIGHT { rows } else { rows.next_multiple_of(K::ROWS) })
    }

    /// One block of C.
    ///
    /// # Safety
    /// The panels are packed; nobody else touches the block.
    unsafe fn task(&self, down: usize, across: usize, block: &mut Buffer<f32>) {
        let p = self.product;
        let rows = down * self.plan.rows..((down + 1) * self.plan.rows).min(p.c.rows);
        let cols = across * self.plan.cols..((across + 1) * self.plan.cols).min(self.cols.len());
        let heights = Heights::new::<K>(rows.len());
        let panels = self.cols.len().div_ceil(K::COLS);
        let mut before = 0;
        for (s, slice) in self.slices.iter().enumerate() {
            let depth = slice.len();
            // SAFETY: the buffer holds the rows of a block over the deepest slice.
            unsafe { self.pack_rows(&rows, slice, &heights, block) };
            let (accumulate, last) =
                (p.accumulate || slice.start > 0, slice.end == p.a.cols && s + 1 == self.slices.len());
            for strip in cols.clone().step_by(STRIP) {
                let strip = strip..cols.end.min(strip + STRIP);
                for j in strip.clone().step_by(K::COLS) {
                    // SAFETY: the panel is one of those packed; the tiles lie
                    // in the block.
                    unsafe {
                        let b = self.panels.0.add((before * panels + j / K::COLS * K::stored(depth)) * K::COLS);
                        self.column(&rows, j, cols.end, depth, &heights, block.as_ptr(), b, accumulate);
                    }
                }
                if let (true, Some(finish)) = (last, p.finish) {
                    for i in rows.clone() {
                        let first = self.cols.start + strip.start;
                        // SAFETY: a run of one row of the block, complete now.
                        let run = unsafe {
                            std::slice::from_raw_parts_mut(p.c.data.add(i * p.c.stride + first), strip.len())
                        };
                        finish(i, first, run);
                    }
                }
            }
            before += K::stored(depth);
        }
    }

    /// # Safety
    /// `block` holds the rows over the slice.
    unsafe fn pack_rows(&self, rows: &Range<usize>, slice: &Range<usize>, heights: &Heights, block: &mut Buffer<f32>) {
        let depth = slice.len();
        for (first, height) in heights.iter() {
            // SAFETY: the caller's duty; the rows lie in A.
            unsafe {
                let to = block.as_mut_ptr().add(first * K::stored(depth));
                K::pack_left(self.rows, (rows.start + first, height), (slice.start, depth), self.product.map_a, to);
            }
        }
    }

    /// The tiles of one panel of B.
    ///
    /// # Safety
    /// `block` and `b` hold the rows and the panel over the slice; nobody else
    /// touches the tiles.
    unsafe fn column(
        &self,
        rows: &Range<usize>,
        j: usize,
        end: usize,
        depth: usize,
        heights: &Heights,
        block: *const f32,
        b: *const f32,
        accumulate: bool,
    ) {
        // The largest tile of any kernel.
        let mut edge = [0.0_f32; 32 * 32];
        let Output { data, stride, .. } = self.product.c;
        let (width, panel) = (K::COLS.min(end - j), K::COLS * K::stored(depth));
        // The next panel of B is brought nearer while this one is in use.
        let (mut next, beyond) = (b.wrapping_add(panel), b.wrapping_add(2 * panel));
        for (first, height) in heights.iter() {
            // SAFETY: the caller's duty; a tile that would reach beyond C is
            // computed beside it and its part copied.
            unsafe {
                let a = block.add(first * K::stored(depth));
                let tile = data.add((rows.start + first) * stride + self.cols.start + j);
                if width == K::COLS && (K::ANY_HEIGHT || height == K::ROWS) {
                    K::tile(height, depth, a, b, tile, stride, accumulate, next);
                    next = next.wrapping_add(4 * K::stored(depth)).min(beyond);
                    continue;
                }
                if accumulate {
                    for r in 0..height {
                        edge[r * K::COLS..][..width]
                            .copy_from_slice(std::slice::from_raw_parts(tile.add(r * stride), width));
                    }
                }
                let whole = if K::ANY_HEIGHT { height } else { K::ROWS };
                K::tile(whole, depth, a, b, edge.as_mut_ptr(), K::COLS, accumulate, next);
                for r in 0..height {
                    std::slice::from_raw_parts_mut(tile.add(r * stride), width)
                        .copy_from_slice(&edge[r * K::COLS..][..width]);
                }
            }
        }
    }
}

/// Rows cut into tiles: of nearly the same height, or all whole but the last.
struct Heights {
    rows: usize,
    tiles: usize,
    /// The height of all tiles but the last.
    whole: Option<usize>,
}

impl Heights {
    fn new<K: Kernel>(rows: usize) -> Self {
        Self { rows, tiles: rows.div_ceil(K::ROWS), whole: (!K::ANY_HEIGHT).then_some(K::ROWS) }
    }

    /// First row and height of each.
    fn iter(&self) -> impl Iterator<Item = (usize, usize)> {
        let (short, longer) = (self.rows / self.tiles, self.rows % self.tiles);
        (0..self.tiles).map(move |i| match self.whole {
            Some(whole) => (i * whole, whole.min(self.rows - i * whole)),
            None => (i * short + i.min(longer), short + usize::from(i < longer)),
        })
    }
}
