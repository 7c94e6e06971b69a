//! The backward pass of one head of keys in one segment.

use super::kernels::Row;
use super::plan::{Columns, Plan, scale_into};
use super::products::{Products, Right, View, at_least};
use crate::ops::loops::dot;
use crate::parallel::Shared;
use crate::{Buffer, Element};
use std::ops::Range;

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
    products: Products<E>,
    /// Keys and values as columns, and keys as rows.
    keys_across: Right<E>,
    values_across: Right<E>,
    keys: Right<E>,
    /// A block's queries, and as right factors these and the gradients of
    /// results.
    q: Buffer<E>,
    q_right: Right<E>,
    d_right: Right<E>,
    /// Weights and their gradients.
    scores: Buffer<E>,
    gradients: Buffer<E>,
    /// Gradients of the queries of all heads that share the keys, of a run of
    /// keys, and of its values.
    dq: Buffer<E>,
    dk: Buffer<E>,
    dv: Buffer<E>,
    /// Σ result · gradient of each row of results, head by head.
    along: Buffer<E>,
    mask: Buffer<E>,
}

impl<E: Element> Scratch<E> {
    pub fn new() -> Self {
        let [keys_across, values_across, keys, q_right, d_right] = [(); 5].map(|()| Right::new());
        let [q, scores, gradients, dq, dk, dv, along, mask] = [0; 8].map(Buffer::any);
        let products = Products::new();
        Self {
            products,
            keys_across,
            values_across,
            keys,
            q,
            q_right,
            d_right,
            scores,
            gradients,
            dq,
            dk,
            dv,
            along,
            mask,
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
    let kernels = plan.kernels(segment);
    let (queries, keys) = (plan.queries.range(segment), plan.keys.range(segment));
    let wide = kernels.padded(plan.dim);
    let of_head = kernels.whole(queries.len(), wide);
    if into.q.is_some() {
        at_least(&mut scratch.dq, plan.group() * of_head).fill(E::ZERO);
    }
    let of_results = Columns { head: 0, heads: plan.heads, dim: plan.value_dim };
    let along = at_least(&mut scratch.along, plan.group() * queries.len());
    for (i, along) in along.chunks_exact_mut(queries.len().max(1)).enumerate() {
        let head = Columns { head: kv_head * plan.group() + i, ..of_results };
        for (row, along) in queries.clone().zip(along) {
            *along = dot(head.of(saved.d, row), head.of(saved.out, row));
        }
    }
    scratch.products.begin(kernels);
    let at_once = kernels.keys.min(keys.len().max(1));
    for first in (0..keys.len()).step_by(at_once) {
        let run = first..keys.len().min(first + at_once);
        // SAFETY: the caller's duty.
        unsafe { of_keys(plan, scratch, task, run, saved, into) };
    }
    scratch.products.end();
    let Some(into) = into.q else { return };
    for i in 0..plan.group() {
        let own = scratch.dq[i * of_head..].chunks_exact(wide.max(1));
        for (row, own) in queries.clone().zip(own) {
            // SAFETY: this task's own columns of its own row.
            let out = unsafe { into.slice((row * plan.heads + kv_head * plan.group() + i) * plan.dim, plan.dim) };
            scale_into(out, own, plan.scale);
        }
    }
}

/// The gradients that a run of keys has part in: its own, those of its values,
/// and what it adds to those of the queries.
///
/// # Safety
/// As [`run`].
unsafe fn of_keys<E: Element>(
    plan: &Plan<E>,
    scratch: &mut Scratch<E>,
    task: &Task,
    run: Range<usize>,
    saved: &Saved<'_, E>,
    into: &Into<E>,
) {
    let Task { segment, kv_head } = *task;
    let kernels = plan.kernels(segment);
    let (queries, keys) = (plan.queries.range(segment), plan.keys.range(segment));
    let rows = keys.start + run.start..keys.start + run.end;
    let (dim, value_dim) = (plan.dim, plan.value_dim);
    let (wide, value_wide) = (kernels.padded(dim), kernels.padded(value_dim));
    let kv = |dim| Columns { head: kv_head, heads: plan.kv_heads, dim };
    let s = scratch;
    s.products.lay_out(kv(dim).view(saved.k, rows.clone(), true), &mut s.keys_across);
    s.products.lay_out(kv(value_dim).view(saved.v, rows.clone(), true), &mut s.values_across);
    if into.q.is_some() {
        s.products.lay_out(kv(dim).view(saved.k, rows.clone(), false), &mut s.keys);
    }
    let dk = at_least(&mut s.dk, kernels.whole(run.len(), wide));
    let dv = at_least(&mut s.dv, kernels.whole(run.len(), value_wide));
    dk.fill(E::ZERO);
    dv.fill(E::ZERO);
    let mask_room = at_least(&mut s.mask, plan.mask_room(kernels.padded(run.len())));
    let heads = kv_head * plan.group()..(kv_head + 1) * plan.group();
    for block in heads.clone().flat_map(|head| plan.blocks(segment, head, 0..queries.len(), run.clone())) {
        let (head, count, cols) = (block.head, block.count, block.span.len());
        if cols == 0 {
            continue;
        }
        let rows = queries.start + block.first..queries.start + block.first + count;
        let (start, known) = (block.span.start - run.start, block.known(keys.len()));
        let own = |dim| Columns { head, heads: plan.heads, dim };
        let q = at_least(&mut s.q, count * dim);
        own(dim).copy(saved.q, rows.clone(), plan.scale, q, dim);
        let d = own(value_dim).view(saved.d, rows.clone(), false);
        let scores = at_least(&mut s.scores, kernels.whole(count, cols));
        let gradients = at_least(&mut s.gradients, kernels.whole(count, cols));
        plan.scores(&mut s.products, &block, (q, dim), (&s.keys_across, run.start), scores);
        s.products.multiply(d, (&s.values_across, (0, start)), cols, (gradients, cols), false);
        for (i, row) in rows.clone().enumerate() {
            let mask = plan.mask(row, head, &block.span, mask_room);
            let span = i * cols..(i + 1) * cols;
            // SAFETY: all three are `cols` long, a multiple of the lanes.
            unsafe {
                (kernels.backward)(Row {
                    scores: scores[span.clone()].as_mut_ptr(),
                    gradients: gradients[span].as_mut_ptr(),
                    len: cols,
                    log: saved.log[row * plan.heads + head],
                    along: s.along[(head - heads.start) * queries.len() + block.first + i],
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
                    unsafe { *gates.at(row * plan.heads + head) += gradient };
                }
            });
        }
        if into.v.is_some() {
            let weights = View::new(scores, (count, known), cols, true);
            s.products.lay_out(d, &mut s.d_right);
            let to = (&mut dv[start * value_wide..], value_wide);
            s.products.multiply(weights, (&s.d_right, (0, 0)), value_wide, to, true);
        }
        if into.k.is_some() {
            let weights = View::new(gradients, (count, known), cols, true);
            s.products.lay_out(View::new(q, (count, dim), dim, false), &mut s.q_right);
            s.products.multiply(weights, (&s.q_right, (0, 0)), wide, (&mut dk[start * wide..], wide), true);
        }
        if into.q.is_some() {
            let weights = View::new(gradients, (count, known), cols, false);
            let of_head = kernels.whole(queries.len(), wide);
            let to = &mut s.dq[(head - heads.start) * of_head + block.first * wide..];
            s.products.multiply(weights, (&s.keys, (start, 0)), wide, (to, wide), true);
        }
    }
    for (into, from, dim, wide) in [(into.k, &*dk, dim, wide), (into.v, &*dv, value_dim, value_wide)] {
        let Some(into) = into else { continue };
        for (row, own) in rows.clone().zip(from.chunks_exact(wide.max(1))) {
            // SAFETY: this task's own columns of its own row.
            let out = unsafe { into.slice((row * plan.kv_heads + kv_head) * dim, dim) };
            out.copy_from_slice(&own[..dim]);
        }
    }
}
