//! The forward pass of one head in one segment.

use super::plan::{Columns, Plan, scale_into};
use super::products::{Products, QUERIES, Right, View, at_least};
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

/// Queries of one task where heads are few: enough that laying out the keys
/// costs little, few enough that one long segment is work for many threads.
const TASK: usize = 512;

/// The tasks with what they cost in multiply-adds.
pub(super) fn tasks<E: Element>(plan: &Plan<E>) -> Vec<(usize, Task)> {
    let mut tasks = Vec::new();
    let many = plan.queries.segments() * plan.heads >= 4 * rayon::current_num_threads();
    let at_once = if many { plan.queries.longest().max(1) } else { TASK };
    for segment in 0..plan.queries.segments() {
        let (n, m) = (plan.queries.length(segment), plan.keys.length(segment));
        for head in 0..plan.heads {
            for first in (0..n).step_by(at_once) {
                let queries = first..n.min(first + at_once);
                let cost = queries.len() * (m + 1) * (plan.dim + plan.value_dim);
                tasks.push((cost, Task { segment, head, queries }));
            }
        }
    }
    tasks
}

/// The working memory of one thread.
pub(super) struct Scratch<E: Element> {
    products: Products<E>,
    q: Buffer<E>,
    /// `[dim, keys]`
    keys: Right<E>,
    /// `[keys, value_dim]`
    values: Right<E>,
    scores: Buffer<E>,
    out: Buffer<E>,
    mask: Buffer<E>,
}

impl<E: Element> Scratch<E> {
    pub fn new() -> Self {
        let [q, scores, out, mask] = [0; 4].map(Buffer::any);
        Self { products: Products::new(), q, keys: Right::new(), values: Right::new(), scores, out, mask }
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
    let kernels = plan.kernels(segment);
    let (queries, keys) = (plan.queries.range(segment), plan.keys.range(segment));
    let wide = kernels.padded(plan.value_dim);
    let kv = |dim| Columns { head: head / plan.group(), heads: plan.kv_heads, dim };
    let Scratch { products, q: own_q, keys: own_keys, values, scores, out: own_out, mask: own_mask } = scratch;
    products.begin(kernels);
    products.lay_out(kv(plan.dim).view(k, keys.clone(), true), own_keys);
    products.lay_out(kv(plan.value_dim).view(v, keys.clone(), false), values);
    let mask_room = at_least(own_mask, plan.mask_room(kernels.padded(keys.len())));
    for block in plan.blocks(segment, head, task.queries.clone(), 0..keys.len()) {
        let rows = queries.start + block.first..queries.start + block.first + block.count;
        let (cols, known) = (block.span.len(), block.known(keys.len()));
        let q_rows = at_least(own_q, block.count * plan.dim);
        Columns { head, heads: plan.heads, dim: plan.dim }.copy(q, rows.clone(), plan.scale, q_rows, plan.dim);
        let scores = at_least(scores, kernels.whole(block.count, cols));
        plan.scores(products, &block, (q_rows, plan.dim), (own_keys, 0), scores);
        let mut sums = [E::ZERO; QUERIES];
        for (i, sum) in sums[..block.count].iter_mut().enumerate() {
            let scores = &mut scores[i * cols..(i + 1) * cols];
            // SAFETY: a multiple of the lanes long.
            let (largest, total) = unsafe { (kernels.exponentials)(scores.as_mut_ptr(), cols) };
            *sum = total;
            let value = if total > E::ZERO { largest + total.ln() } else { E::ZERO };
            // SAFETY: row and head lie within `log` and are this task's own.
            unsafe { *log.at((rows.start + i) * plan.heads + head) = value };
            if let Some(mask) = plan.mask(rows.start + i, head, &block.span, mask_room) {
                multiply_row(scores, mask);
            }
        }
        let weights = View::new(scores, (block.count, known), cols, false);
        let own = at_least(own_out, kernels.whole(block.count, wide));
        products.multiply(weights, (values, (block.span.start.min(keys.len()), 0)), wide, (own, wide), false);
        for ((row, own), sum) in rows.zip(own.chunks_exact(wide.max(1))).zip(sums) {
            let first = (row * plan.heads + head) * plan.value_dim;
            // SAFETY: this task's own columns of its own row.
            let out = unsafe { out.slice(first, plan.value_dim) };
            scale_into(out, own, if sum > E::ZERO { E::ONE / sum } else { sum });
        }
    }
    products.end();
}
