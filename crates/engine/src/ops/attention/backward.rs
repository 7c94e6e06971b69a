//! The backward pass of one head of keys in one segment.

use super::kernels::Row;
use super::plan::{Columns, Plan, multiply, scale_into};
use crate::ops::loops::dot;
use crate::parallel::Shared;
use crate::{Buffer, Element};

/// One head of keys and values in one segment, with all queries' heads that
/// share it.
pub(super) struct Task {
    segment: usize,
    kv_head: usize,
}

/// The tasks with what they cost in multiply-adds.
pub(super) fn tasks<E: Element>(plan: &Plan<E>) -> Vec<(usize, Task)> {
    let mut tasks = Vec::new();
    for segment in 0..plan.queries.segments() {
        let (n, m) = (plan.queries.length(segment), plan.keys.length(segment));
        for kv_head in 0..plan.kv_heads {
            let cost = (n * plan.group() + 1) * (m + 1) * (3 * plan.dim + 2 * plan.value_dim);
            tasks.push((cost, Task { segment, kv_head }));
        }
    }
    tasks
}

/// The values of the forward pass and the gradient of its result.
pub(super) struct Saved<'a, E> {
    pub q: &'a [E],
    pub k: &'a [E],
    pub v: &'a [E],
    pub out: &'a [E],
    pub log: &'a [E],
    pub d: &'a [E],
}

/// Where the gradients go that are wanted.
pub(super) struct Into<E> {
    pub q: Option<Shared<E>>,
    pub k: Option<Shared<E>>,
    pub v: Option<Shared<E>>,
    /// `[segments, heads, distances]`
    pub bias: Option<Shared<E>>,
    /// `[query_rows, heads]`
    pub gates: Option<Shared<E>>,
}

/// The working memory of one thread; rows are padded.
pub(super) struct Scratch<E: Element> {
    /// Keys as they are, and keys and values transposed.
    keys: Buffer<E>,
    keys_across: Buffer<E>,
    values_across: Buffer<E>,
    /// A block's queries, gradients of results, and gradients of queries.
    q: Buffer<E>,
    d: Buffer<E>,
    dq: Buffer<E>,
    /// Weights and their gradients.
    scores: Buffer<E>,
    gradients: Buffer<E>,
    dk: Buffer<E>,
    dv: Buffer<E>,
    mask: Buffer<E>,
}

impl<E: Element> Scratch<E> {
    pub fn new(plan: &Plan<E>) -> Self {
        let keys = plan.padded(plan.keys.longest());
        let (wide, value_wide) = (plan.padded(plan.dim), plan.padded(plan.value_dim));
        let rows = plan.block_rows(0).min(plan.queries.longest());
        let scores = plan.keys.ranges().map(|r| plan.padded(r.len()) * plan.block_rows(r.len()).min(rows)).max();
        Self {
            keys: Buffer::any(keys * wide),
            keys_across: Buffer::any(plan.dim * keys),
            values_across: Buffer::any(plan.value_dim * keys),
            q: Buffer::any(rows * wide),
            d: Buffer::any(rows * value_wide),
            dq: Buffer::any(rows * wide),
            scores: Buffer::any(scores.unwrap_or(0)),
            gradients: Buffer::any(scores.unwrap_or(0)),
            dk: Buffer::any(keys * wide),
            dv: Buffer::any(keys * value_wide),
            mask: Buffer::any(plan.mask_room(keys)),
        }
    }
}

/// All wanted gradients of a task.
///
/// # Safety
/// The places in `into` are valid for tensors of the inputs' shapes, and
/// nobody else touches the task's heads in the rows of its segment.
pub(super) unsafe fn run<E: Element>(
    plan: &Plan<E>,
    scratch: &mut Scratch<E>,
    task: &Task,
    saved: &Saved<'_, E>,
    into: &Into<E>,
) {
    let Task { segment, kv_head } = *task;
    let (queries, keys) = (plan.queries.range(segment), plan.keys.range(segment));
    let (dim, value_dim, padded) = (plan.dim, plan.value_dim, plan.padded(keys.len()));
    let (wide, value_wide) = (plan.padded(dim), plan.padded(value_dim));
    let kv = |dim| Columns { head: kv_head, heads: plan.kv_heads, dim };
    kv(dim).copy(saved.k, keys.clone(), E::ONE, &mut scratch.keys, wide);
    kv(dim).transpose(saved.k, keys.clone(), &mut scratch.keys_across, padded);
    kv(value_dim).transpose(saved.v, keys.clone(), &mut scratch.values_across, padded);
    scratch.dk[..keys.len() * wide].fill(E::ZERO);
    scratch.dv[..keys.len() * value_wide].fill(E::ZERO);
    let heads = kv_head * plan.group()..(kv_head + 1) * plan.group();
    for block in heads.flat_map(|head| plan.blocks(segment, head, 0..queries.len())) {
        let (head, count, cols) = (block.head, block.count, block.span.len());
        let rows = queries.start + block.first..queries.start + block.first + count;
        let (start, known) = (block.span.start.min(keys.len()), block.span.end.min(keys.len()));
        let known = known - start;
        let own = |dim| Columns { head, heads: plan.heads, dim };
        own(dim).copy(saved.q, rows.clone(), plan.scale, &mut scratch.q, wide);
        own(value_dim).copy(saved.d, rows.clone(), E::ONE, &mut scratch.d, value_wide);
        let scores = &mut scratch.scores[..count * cols];
        let gradients = &mut scratch.gradients[..count * cols];
        plan.scores(&block, &scratch.q, wide, &scratch.keys_across, scores);
        let values = (&scratch.values_across[start..], padded);
        multiply(plan.kernels, (count, cols, value_dim), (&scratch.d, value_wide, 1), values, (gradients, cols), false);
        for (i, row) in rows.clone().enumerate() {
            let mask = plan.mask(row, head, &block.span, &mut scratch.mask);
            let span = i * cols..(i + 1) * cols;
            // SAFETY: all three are `cols` long, a multiple of the lanes.
            unsafe {
                (plan.kernels.backward)(Row {
                    scores: scores[span.clone()].as_mut_ptr(),
                    gradients: gradients[span].as_mut_ptr(),
                    len: cols,
                    log: saved.log[row * plan.heads + head],
                    along: dot(own(value_dim).of(saved.d, row), own(value_dim).of(saved.out, row)),
                    mask: mask.map_or(std::ptr::null(), <[E]>::as_ptr),
                });
            }
        }
        if let Some(sums) = into.bias {
            let distances = plan.bias.as_ref().map_or(0, |b| b.distances);
            // SAFETY: this segment's and head's own sums.
            let sums = unsafe { sums.slice((segment * plan.heads + head) * distances, distances) };
            plan.add_bias_gradients(&block, gradients, sums, |row, gradient| {
                if let Some(gates) = into.gates {
                    // SAFETY: this task's own head of a row of its own.
                    unsafe { *gates.at(row * plan.heads + head) = gradient };
                }
            });
        }
        if into.v.is_some() {
            let to = (&mut scratch.dv[start * value_wide..], value_wide);
            multiply(plan.kernels, (known, value_wide, count), (scores, 1, cols), (&scratch.d, value_wide), to, true);
        }
        if into.k.is_some() {
            let to = (&mut scratch.dk[start * wide..], wide);
            multiply(plan.kernels, (known, wide, count), (gradients, 1, cols), (&scratch.q, wide), to, true);
        }
        if let Some(into) = into.q {
            let (keys, to) = (&scratch.keys[start * wide..], (&mut scratch.dq[..], wide));
            multiply(plan.kernels, (count, wide, known), (gradients, cols, 1), (keys, wide), to, false);
            for (row, own) in rows.zip(scratch.dq.chunks_exact(wide.max(1))) {
                // SAFETY: this task's own columns of its own row.
                let out = unsafe { into.slice((row * plan.heads + head) * dim, dim) };
                scale_into(out, own, plan.scale);
            }
        }
    }
    for (into, from, dim, wide) in [(into.k, &scratch.dk, dim, wide), (into.v, &scratch.dv, value_dim, value_wide)] {
        let Some(into) = into else { continue };
        for (row, own) in keys.clone().zip(from.chunks_exact(wide.max(1))) {
            // SAFETY: as above.
            let out = unsafe { into.slice((row * plan.kv_heads + kv_head) * dim, dim) };
            out.copy_from_slice(&own[..dim]);
        }
    }
}
