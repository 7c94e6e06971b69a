//! The forward pass of one head in one segment.

use super::plan::{Columns, Plan, multiply, scale_into};
use crate::ops::gated::multiply_row;
use crate::parallel::Shared;
use crate::{Buffer, Element};
use std::ops::Range;

/// Some queries of one head in one segment.
pub(super) struct Task {
    pub segment: usize,
    pub head: usize,
    pub queries: Range<usize>,
}

/// Queries of one task: enough that laying out the keys costs little, few
/// enough that one long segment is work for many threads.
const TASK: usize = 512;

/// The tasks with what they cost in multiply-adds.
pub(super) fn tasks<E: Element>(plan: &Plan<E>) -> Vec<(usize, Task)> {
    let mut tasks = Vec::new();
    for segment in 0..plan.queries.segments() {
        let (n, m) = (plan.queries.length(segment), plan.keys.length(segment));
        for head in 0..plan.heads {
            for first in (0..n).step_by(TASK) {
                let queries = first..n.min(first + TASK);
                let cost = queries.len() * (m + 1) * (plan.dim + plan.value_dim);
                tasks.push((cost, Task { segment, head, queries }));
            }
        }
    }
    tasks
}

/// The working memory of one thread.
pub(super) struct Scratch<E: Element> {
    q: Buffer<E>,
    /// `[dim, padded keys]`
    keys: Buffer<E>,
    /// `[keys, padded value_dim]`
    values: Buffer<E>,
    scores: Buffer<E>,
    out: Buffer<E>,
    mask: Buffer<E>,
}

impl<E: Element> Scratch<E> {
    pub fn new(plan: &Plan<E>) -> Self {
        let keys = plan.padded(plan.keys.longest());
        // Fewer keys allow more rows at once.
        let rows = plan.block_rows(0).min(plan.queries.longest());
        let scores = plan.keys.ranges().map(|r| plan.padded(r.len()) * plan.block_rows(r.len()).min(rows)).max();
        Self {
            q: Buffer::any(rows * plan.dim),
            keys: Buffer::any(plan.dim * keys),
            values: Buffer::any(keys * plan.padded(plan.value_dim)),
            scores: Buffer::any(scores.unwrap_or(0)),
            out: Buffer::any(rows * plan.padded(plan.value_dim)),
            mask: Buffer::any(plan.mask_room(keys)),
        }
    }
}

/// softmax(scores)·V of a task's queries, and log Σ exp of their scores.
///
/// # Safety
/// `out` `[query_rows, heads · value_dim]` and `log` `[query_rows, heads]` are
/// valid, and nobody else touches the task's part of them.
pub(super) unsafe fn run<E: Element>(
    plan: &Plan<E>,
    scratch: &mut Scratch<E>,
    task: &Task,
    (q, k, v): (&[E], &[E], &[E]),
    out: Shared<E>,
    log: Shared<E>,
) {
    let Task { segment, head, .. } = *task;
    let (queries, keys) = (plan.queries.range(segment), plan.keys.range(segment));
    let padded = plan.padded(keys.len());
    let wide = plan.padded(plan.value_dim);
    let kv = |dim| Columns { head: head / plan.group(), heads: plan.kv_heads, dim };
    kv(plan.dim).transpose(k, keys.clone(), &mut scratch.keys, padded);
    kv(plan.value_dim).copy(v, keys.clone(), E::ONE, &mut scratch.values, wide);
    for block in plan.blocks(segment, head, task.queries.clone()) {
        let rows = queries.start + block.first..queries.start + block.first + block.count;
        let (cols, known) = (block.span.len(), block.span.end.min(keys.len()) - block.span.start.min(keys.len()));
        Columns { head, heads: plan.heads, dim: plan.dim }.copy(q, rows.clone(), plan.scale, &mut scratch.q, plan.dim);
        let scores = &mut scratch.scores[..block.count * cols];
        plan.scores(&block, &scratch.q, plan.dim, &scratch.keys, scores);
        let mut sums = [E::ZERO; 128];
        for (i, sum) in sums[..block.count].iter_mut().enumerate() {
            let scores = &mut scores[i * cols..(i + 1) * cols];
            // SAFETY: a multiple of the lanes long.
            let (largest, total) = unsafe { (plan.kernels.exponentials)(scores.as_mut_ptr(), cols) };
            *sum = total;
            let value = if total > E::ZERO { largest + total.ln() } else { E::ZERO };
            // SAFETY: row and head lie within `log` and are this task's own.
            unsafe { *log.at((rows.start + i) * plan.heads + head) = value };
            if let Some(mask) = plan.mask(rows.start + i, head, &block.span, &mut scratch.mask) {
                multiply_row(scores, mask);
            }
        }
        let values = &scratch.values[block.span.start.min(keys.len()) * wide..];
        let own = &mut scratch.out[..block.count * wide];
        multiply(plan.kernels, (block.count, wide, known), (scores, cols, 1), (values, wide), (own, wide), false);
        for ((row, own), sum) in rows.zip(own.chunks_exact(wide.max(1))).zip(sums) {
            let first = (row * plan.heads + head) * plan.value_dim;
            // SAFETY: this task's own columns of its own row.
            let out = unsafe { out.slice(first, plan.value_dim) };
            scale_into(out, own, if sum > E::ZERO { E::ONE / sum } else { sum });
        }
    }
}
