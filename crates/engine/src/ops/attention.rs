//! Scaled dot-product attention over packed segments.
//!
//! Queries of segment s see the keys of segment s and no others, so a batch of
//! samples of any lengths is one call without padding or masks. Scores stand
//! only as one block of query rows per task; backward recomputes them from
//! the saved log-sum-exp of each row (Dao et al., "FlashAttention", 2022), so
//! memory is linear in the tokens.

use super::matrix;
use crate::matmul::{Matrix, Output, product_here};
use crate::simd::{max1, sum1, sum2, vectorised};
use crate::{Buffer, Element, EngineError, Offsets, Random, Result, Tape, Tensor, Var};
use rayon::prelude::*;
use std::ops::Range;
use std::sync::Arc;

/// Query rows whose scores stand at once.
const BLOCK: usize = 128;

/// How attention is computed.
#[derive(Debug, Clone)]
pub struct Attention {
    /// Heads of the queries.
    pub heads: usize,
    /// Heads of the keys and values; divides `heads` (grouped-query attention
    /// when fewer, Ainslie et al. 2023).
    pub kv_heads: usize,
    /// A query sees keys up to its own place; the last query stands at the
    /// last key (so that new queries may follow keys of the past).
    pub causal: bool,
    /// A query sees only keys at most this far from its own place.
    pub window: Option<usize>,
    /// Scores are multiplied by this; 1/√head_dim when None.
    pub scale: Option<f64>,
    /// Probability of dropping a weight, with the stream that decides.
    pub dropout: Option<(f64, Random)>,
}

impl Attention {
    /// Plain attention of as many key as query heads.
    pub fn new(heads: usize) -> Self {
        Self { heads, kv_heads: heads, causal: false, window: None, scale: None, dropout: None }
    }
}

/// A learned bias on scores by distance (T5: Raffel et al. 2020).
#[derive(Clone)]
pub struct RelativeBias<'a, E: Element> {
    /// `[entries, heads]`
    pub table: &'a Var<E>,
    /// The entry for each distance key − query, from −zero to len − 1 − zero;
    /// distances beyond either end use the last there.
    pub entries: Arc<[u32]>,
    /// Where in `entries` distance 0 stands.
    pub zero: usize,
    /// Where the queries and the keys of a segment stand, for distances that
    /// do not follow their order (patches of a grid); none for those that do.
    pub places: Option<Places>,
}

/// The place of each query of a segment, and that of each key.
pub type Places = (Arc<[u32]>, Arc<[u32]>);

/// What both passes need beside the tensors.
struct Plan<E> {
    config: Attention,
    queries: Offsets,
    keys: Offsets,
    /// Width of a head of queries and keys, and of values.
    dim: usize,
    value_dim: usize,
    scale: E,
    bias: Option<PlannedBias<E>>,
}

struct PlannedBias<E> {
    /// The table laid out `[heads, entries]`, for reading along distances.
    by_head: Vec<E>,
    entries: Arc<[u32]>,
    zero: usize,
    places: Option<Places>,
}

impl<E> PlannedBias<E> {
    /// The entry for key `j` and query `i`, which stands at `place` where
    /// nothing else is said.
    fn entry(&self, j: usize, i: usize, place: isize) -> usize {
        let (j, place) = match &self.places {
            Some((queries, keys)) => (keys[j] as usize, queries[i] as isize),
            None => (j, place),
        };
        self.entries[distance(j, place, self.zero, self.entries.len())] as usize
    }
}

/// softmax(scale · Q·Kᵀ + bias)·V for each segment and head.
///
/// `q` is `[query_rows, heads * dim]`, `k` `[key_rows, kv_heads * dim]`, `v`
/// `[key_rows, kv_heads * value_dim]`; `queries` and `keys` cut their rows into
/// the same number of segments. The result is `[query_rows, heads *
/// value_dim]`; a query without keys gets zeros.
///
/// # Errors
/// When shapes, heads or offsets do not fit.
pub fn attention<E: Element>(
    tape: &Tape<E>,
    (q, k, v): (&Var<E>, &Var<E>, &Var<E>),
    (queries, keys): (&Offsets, &Offsets),
    config: &Attention,
    bias: Option<&RelativeBias<'_, E>>,
) -> Result<Var<E>> {
    let plan = Arc::new(plan((q, k, v), (queries, keys), config, bias)?);
    let rows = plan.queries.total();
    let (heads, width) = (config.heads, config.heads * plan.value_dim);
    let (mut out, mut lse) = (Tensor::any(&[rows, width]), Tensor::any(&[rows, heads]));
    let (o, l) = (Shared(out.data_mut().as_mut_ptr()), Shared(lse.data_mut().as_mut_ptr()));
    let (qd, kd, vd) = (q.data(), k.data(), v.data());
    tasks(&plan, |segment, head| {
        for (first, count) in blocks(plan.queries.length(segment)) {
            let scores = plan.scores(qd, kd, segment, head, first, count);
            // SAFETY: each (segment, head, block) writes its own rows and
            // columns of the output and of the log-sum-exp.
            unsafe { forward_block(&plan, scores, vd, segment, head, first, count, o, l) };
        }
    });
    let mut involved = vec![q, k, v];
    involved.extend(bias.map(|b| b.table));
    let table = bias.map(|b| (b.table.handle(), b.table.shape()));
    let (hq, hk, hv) = (q.handle(), k.handle(), v.handle());
    let (q, k, v) = (q.value().clone(), k.value().clone(), v.value().clone());
    let kept = out.clone();
    Ok(tape.record(out, &involved, move |d, g| {
        // A gradient that nobody wants is computed into a scratch buffer only
        // where its neighbours need the same intermediate anyway.
        let mut dq = g.take(hq, q.dims()).unwrap_or_else(|| (Tensor::any(q.dims()), false));
        let mut dk = g.take(hk, k.dims()).unwrap_or_else(|| (Tensor::any(k.dims()), false));
        let mut dv = g.take(hv, v.dims()).unwrap_or_else(|| (Tensor::any(v.dims()), false));
        let entries = table.map_or(0, |(_, shape)| shape.rows());
        let mut partial = Tensor::<E>::zeros(&[plan.queries.segments(), plan.config.heads, entries]);
        {
            let into = Into {
                dq: Shared(dq.0.data_mut().as_mut_ptr()),
                dk: Shared(dk.0.data_mut().as_mut_ptr()),
                dv: Shared(dv.0.data_mut().as_mut_ptr()),
                add: (dq.1, dk.1, dv.1),
                bias: Shared(partial.data_mut().as_mut_ptr()),
                entries,
            };
            let saved = Saved { q: q.data(), k: k.data(), v: v.data(), out: kept.data(), lse: lse.data(), d: d.data() };
            let group = plan.config.heads / plan.config.kv_heads;
            let work = |segment: usize, kv_head: usize| {
                // SAFETY: a task owns the rows of one segment in the columns
                // of one key head and of the query heads that share it.
                unsafe { backward_task(&plan, &saved, &into, segment, kv_head, group) };
            };
            let count = plan.queries.segments() * plan.config.kv_heads;
            (0..count).into_par_iter().for_each(|i| work(i / plan.config.kv_heads, i % plan.config.kv_heads));
        }
        g.put(hq, dq.0);
        g.put(hk, dk.0);
        g.put(hv, dv.0);
        if let Some((h, shape)) = table {
            let mut dt = Tensor::zeros(shape.dims());
            let heads = plan.config.heads;
            for segment in partial.data().chunks_exact((heads * entries).max(1)) {
                for (head, row) in segment.chunks_exact(entries.max(1)).enumerate() {
                    for (e, x) in row.iter().enumerate() {
                        dt.data_mut()[e * heads + head] += *x;
                    }
                }
            }
            g.add(h, dt);
        }
        Ok(())
    }))
}

/// The attention weights of one segment: `[heads, queries, keys]`, for
/// explanations.
///
/// # Errors
/// When shapes, heads or offsets do not fit, or there is no such segment.
pub fn attention_weights<E: Element>(
    (q, k): (&Var<E>, &Var<E>),
    (queries, keys): (&Offsets, &Offsets),
    config: &Attention,
    segment: usize,
) -> Result<Tensor<E>> {
    let plan = plan((q, k, k), (queries, keys), config, None)?;
    if segment >= queries.segments() {
        return Err(EngineError::Index {
            op: "attention_weights",
            index: segment,
            position: 0,
            limit: queries.segments(),
        });
    }
    let (n, m) = (queries.length(segment), keys.length(segment));
    let mut out = Tensor::any(&[config.heads, n, m]);
    for head in 0..config.heads {
        for (first, count) in blocks(n) {
            let mut scores = plan.scores(q.data(), k.data(), segment, head, first, count);
            for (i, row) in scores.chunks_exact_mut(m.max(1)).enumerate().take(count) {
                plan.weigh(row, plan.visible(n, m, first + i));
            }
            out.data_mut()[(head * n + first) * m..][..count * m].copy_from_slice(&scores[..count * m]);
        }
    }
    Ok(out)
}

fn plan<E: Element>(
    (q, k, v): (&Var<E>, &Var<E>, &Var<E>),
    (queries, keys): (&Offsets, &Offsets),
    config: &Attention,
    bias: Option<&RelativeBias<'_, E>>,
) -> Result<Plan<E>> {
    const OP: &str = "attention";
    let ((q_rows, q_cols), (k_rows, k_cols), (v_rows, v_cols)) =
        (matrix(OP, "queries", q)?, matrix(OP, "keys", k)?, matrix(OP, "values", v)?);
    let Attention { heads, kv_heads, scale, .. } = *config;
    if heads == 0 || kv_heads == 0 || heads % kv_heads != 0 || q_cols % heads != 0 || v_cols % kv_heads != 0 {
        return Err(EngineError::setting(
            OP,
            format!("{heads} query heads and {kv_heads} key heads do not divide {q_cols} and {v_cols} columns"),
        ));
    }
    let dim = q_cols / heads;
    if k_cols != dim * kv_heads {
        return Err(EngineError::shape(OP, "keys", format!("[rows, {}]", dim * kv_heads), k.shape()));
    }
    if v_rows != k_rows {
        return Err(EngineError::shape(OP, "values", format!("[{k_rows}, cols]"), v.shape()));
    }
    queries.expect_rows(OP, q_rows)?;
    keys.expect_rows(OP, k_rows)?;
    if queries.segments() != keys.segments() {
        return Err(EngineError::Offsets {
            op: OP,
            problem: format!("cut {} segments of queries but {} of keys", queries.segments(), keys.segments()),
        });
    }
    if let Some(b) = bias {
        let entries = b.table.rows();
        if b.table.cols() != heads || b.zero >= b.entries.len() || b.entries.iter().any(|e| *e as usize >= entries) {
            return Err(EngineError::shape(OP, "bias table", format!("[entries, {heads}]"), b.table.shape()));
        }
        if b.places.as_ref().is_some_and(|(q, k)| q.len() < queries.longest() || k.len() < keys.longest()) {
            return Err(EngineError::setting(OP, "fewer places for the bias than tokens in a segment"));
        }
    }
    Ok(Plan {
        config: config.clone(),
        queries: queries.clone(),
        keys: keys.clone(),
        dim,
        value_dim: v_cols / kv_heads,
        scale: E::of(scale.unwrap_or(1.0 / (dim as f64).sqrt())),
        bias: bias.map(|b| {
            let (entries, data) = (b.table.rows(), b.table.data());
            let by_head = (0..heads).flat_map(|h| (0..entries).map(move |e| data[e * heads + h])).collect();
            PlannedBias { by_head, entries: Arc::clone(&b.entries), zero: b.zero, places: b.places.clone() }
        }),
    })
}

impl<E: Element> Plan<E> {
    /// scale · Q·Kᵀ + bias for a block of one head's query rows.
    fn scores(&self, q: &[E], k: &[E], segment: usize, head: usize, first: usize, count: usize) -> Buffer<E> {
        let (keys, group) = (self.keys.range(segment), self.config.heads / self.config.kv_heads);
        let mut scores = Buffer::any(count * keys.len());
        product_here(
            self.head(q, self.queries.range(segment).start + first, count, head, self.config.heads, self.dim),
            self.head(k, keys.start, keys.len(), head / group, self.config.kv_heads, self.dim).transposed(),
            Output::dense(&mut scores, count, keys.len()),
            false,
        );
        scale_all(&mut scores, self.scale);
        if let Some(bias) = &self.bias {
            let table = &bias.by_head[head * (bias.by_head.len() / self.config.heads)..];
            for (i, row) in scores.chunks_exact_mut(keys.len().max(1)).enumerate() {
                let place = self.place(self.queries.length(segment), keys.len(), first + i);
                for (j, s) in row.iter_mut().enumerate() {
                    *s += table[bias.entry(j, first + i, place)];
                }
            }
        }
        scores
    }

    /// One head's columns of some rows.
    fn head<'a>(&self, x: &'a [E], row: usize, rows: usize, head: usize, heads: usize, dim: usize) -> Matrix<'a, E> {
        let stride = heads * dim;
        Matrix::strided(x.get(row * stride + head * dim..).unwrap_or(&[]), rows, dim, stride)
    }

    /// Where query `i` of `queries` stands among `keys`.
    fn place(&self, queries: usize, keys: usize, i: usize) -> isize {
        if self.config.causal { (i + keys) as isize - queries as isize } else { i as isize }
    }

    /// Which of `keys` query `i` of `queries` sees.
    fn visible(&self, queries: usize, keys: usize, i: usize) -> Range<usize> {
        let place = self.place(queries, keys, i);
        let within = |end: isize| end.clamp(0, keys as isize) as usize;
        // A window as wide as everything hides nothing.
        let reach = self.config.window.unwrap_or(usize::MAX).min(queries + keys) as isize;
        let end = within(place + 1 + if self.config.causal { 0 } else { reach });
        within(place - reach).min(end)..end
    }

    /// Softmax over the scores seen, zeros elsewhere; returns log Σ exp.
    fn weigh(&self, row: &mut [E], seen: Range<usize>) -> E {
        let (before, row) = row.split_at_mut(seen.start);
        before.fill(E::ZERO);
        softmax_row(row, seen.len())
    }

    /// Zeroes dropped weights and enlarges the others, in one row.
    fn drop_weights(&self, row: &mut [E], query_row: usize, head: usize) {
        let Some((p, random)) = self.config.dropout else { return };
        let (keep, limit) = (E::of(1.0 / (1.0 - p)), (p * 4_294_967_296.0) as u64);
        let base = ((query_row * self.config.heads + head) as u64) << 24;
        for (b, four) in row.chunks_mut(4).enumerate() {
            for (x, word) in four.iter_mut().zip(random.block(base + b as u64)) {
                *x = if u64::from(word) < limit { E::ZERO } else { *x * keep };
            }
        }
    }
}

/// The index into the bias entries for key `j` and a query's place.
fn distance(j: usize, place: isize, zero: usize, len: usize) -> usize {
    ((zero + j) as isize - place).clamp(0, len as isize - 1) as usize
}

fn blocks(rows: usize) -> impl Iterator<Item = (usize, usize)> {
    (0..rows).step_by(BLOCK).map(move |first| (first, BLOCK.min(rows - first)))
}

/// One task per segment and head.
fn tasks<E: Element>(plan: &Plan<E>, f: impl Fn(usize, usize) + Sync + Send) {
    let heads = plan.config.heads;
    (0..plan.queries.segments() * heads).into_par_iter().for_each(|i| f(i / heads, i % heads));
}

struct Shared<T>(*mut T);
impl<T> Clone for Shared<T> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<T> Copy for Shared<T> {}
// SAFETY: tasks reach disjoint elements through it (see the callers).
unsafe impl<T> Send for Shared<T> {}
// SAFETY: as above.
unsafe impl<T> Sync for Shared<T> {}

/// Softmax of the scores, their log-sum-exp, and the weighted sum of values.
///
/// # Safety
/// Nobody else touches this block's part of `out` and `lse`.
unsafe fn forward_block<E: Element>(
    plan: &Plan<E>,
    mut scores: Buffer<E>,
    v: &[E],
    segment: usize,
    head: usize,
    first: usize,
    count: usize,
    out: Shared<E>,
    lse: Shared<E>,
) {
    let (queries, keys) = (plan.queries.range(segment), plan.keys.range(segment));
    let heads = plan.config.heads;
    for i in 0..count {
        let row = queries.start + first + i;
        let scores = &mut scores[i * keys.len()..(i + 1) * keys.len()];
        let log = plan.weigh(scores, plan.visible(queries.len(), keys.len(), first + i));
        // SAFETY: row and head lie within `lse`, and are this block's own.
        unsafe { *lse.0.add(row * heads + head) = log };
        plan.drop_weights(scores, row, head);
    }
    let (width, dim) = (heads * plan.value_dim, plan.value_dim);
    let kv_head = head / (heads / plan.config.kv_heads);
    // SAFETY: this block's rows and columns of the output.
    let block = unsafe { Output::raw(out.0.add((queries.start + first) * width + head * dim), count, dim, width) };
    product_here(
        Matrix::dense(&scores, count, keys.len()),
        plan.head(v, keys.start, keys.len(), kv_head, plan.config.kv_heads, dim),
        block,
        false,
    );
}

struct Saved<'a, E> {
    q: &'a [E],
    k: &'a [E],
    v: &'a [E],
    out: &'a [E],
    lse: &'a [E],
    d: &'a [E],
}

struct Into<E> {
    dq: Shared<E>,
    dk: Shared<E>,
    dv: Shared<E>,
    /// Whether the three hold gradients to add to.
    add: (bool, bool, bool),
    /// `[segments, heads, entries]`
    bias: Shared<E>,
    entries: usize,
}

/// All gradients of one segment's key head and the query heads that share it.
///
/// # Safety
/// Nobody else touches this segment's rows in those heads' columns.
unsafe fn backward_task<E: Element>(
    plan: &Plan<E>,
    saved: &Saved<'_, E>,
    into: &Into<E>,
    segment: usize,
    kv_head: usize,
    group: usize,
) {
    let (queries, keys) = (plan.queries.range(segment), plan.keys.range(segment));
    let (heads, kv_heads, dim, value_dim) = (plan.config.heads, plan.config.kv_heads, plan.dim, plan.value_dim);
    let (q_width, k_width, v_width, o_width) = (heads * dim, kv_heads * dim, kv_heads * value_dim, heads * value_dim);
    let dk = || {
        let first = keys.start * k_width + kv_head * dim;
        // SAFETY: this task's own rows and columns.
        unsafe { Output::raw(into.dk.0.add(first), keys.len(), dim, k_width) }
    };
    let dv = || {
        let first = keys.start * v_width + kv_head * value_dim;
        // SAFETY: this task's own rows and columns.
        unsafe { Output::raw(into.dv.0.add(first), keys.len(), value_dim, v_width) }
    };
    let (mut add_k, mut add_v) = (into.add.1, into.add.2);
    if queries.is_empty() {
        // No query sees these keys: a product with no inner dimension.
        let (none_k, none_v): (Matrix<'_, E>, Matrix<'_, E>) =
            (Matrix::dense(&[], 0, dim), Matrix::dense(&[], 0, value_dim));
        product_here(Matrix::dense(&[], keys.len(), 0), none_k, dk(), add_k);
        product_here(Matrix::dense(&[], keys.len(), 0), none_v, dv(), add_v);
        return;
    }
    for head in kv_head * group..(kv_head + 1) * group {
        for (first, count) in blocks(queries.len()) {
            let row0 = queries.start + first;
            let mut p = plan.scores(saved.q, saved.k, segment, head, first, count);
            for (i, row) in p.chunks_exact_mut(keys.len().max(1)).enumerate().take(count) {
                let seen = plan.visible(queries.len(), keys.len(), first + i);
                let (before, row) = row.split_at_mut(seen.start);
                before.fill(E::ZERO);
                exponentials(row, seen.len(), saved.lse[(row0 + i) * heads + head]);
            }
            let d_head = plan.head(saved.d, row0, count, head, heads, value_dim);
            let mut dp = Buffer::<E>::any(count * keys.len());
            product_here(
                d_head,
                plan.head(saved.v, keys.start, keys.len(), kv_head, kv_heads, value_dim).transposed(),
                Output::dense(&mut dp, count, keys.len()),
                false,
            );
            let mut dropped = plan.config.dropout.is_some().then(|| Buffer::from_slice(&p));
            for i in 0..count {
                let span = i * keys.len()..(i + 1) * keys.len();
                if let Some(dropped) = &mut dropped {
                    plan.drop_weights(&mut dropped[span.clone()], row0 + i, head);
                    plan.drop_weights(&mut dp[span.clone()], row0 + i, head);
                }
                let at = (row0 + i) * o_width + head * value_dim;
                let along = dot(&saved.d[at..at + value_dim], &saved.out[at..at + value_dim]);
                score_gradients(&p[span.clone()], along, &mut dp[span]);
            }
            let weights: &[E] = dropped.as_deref().unwrap_or(&p);
            product_here(Matrix::dense(weights, count, keys.len()).transposed(), d_head, dv(), add_v);
            if let Some(bias) = &plan.bias {
                let base = (segment * heads + head) * into.entries;
                for (i, row) in dp.chunks_exact(keys.len().max(1)).enumerate() {
                    let place = plan.place(queries.len(), keys.len(), first + i);
                    for (j, x) in row.iter().enumerate() {
                        let e = bias.entry(j, first + i, place);
                        // SAFETY: this (segment, head)'s own partial sums.
                        unsafe { *into.bias.0.add(base + e) += *x };
                    }
                }
            }
            scale_all(&mut dp, plan.scale);
            let ds = Matrix::dense(&dp, count, keys.len());
            // SAFETY: this block's own rows and columns.
            let dq = unsafe { Output::raw(into.dq.0.add(row0 * q_width + head * dim), count, dim, q_width) };
            product_here(ds, plan.head(saved.k, keys.start, keys.len(), kv_head, kv_heads, dim), dq, into.add.0);
            product_here(ds.transposed(), plan.head(saved.q, row0, count, head, heads, dim), dk(), add_k);
            (add_k, add_v) = (true, true);
        }
    }
}

vectorised! {
    fn scale_all<E>(x: &mut [E], factor: E) {
        for x in x {
            *x *= factor;
        }
    }
}
vectorised! {
    /// Softmax over the first `seen` scores, zeros after; returns log Σ exp.
    fn softmax_row<E>(row: &mut [E], seen: usize) -> E {
        let (row, hidden) = row.split_at_mut(seen);
        hidden.fill(E::ZERO);
        if row.is_empty() {
            return E::ZERO;
        }
        let largest = max1(row);
        for x in row.iter_mut() {
            *x = (*x - largest).exp();
        }
        let total = sum1(row, |x| x);
        let inverse = E::ONE / total;
        for x in row.iter_mut() {
            *x *= inverse;
        }
        largest + total.ln()
    }
}
vectorised! {
    /// The weights again, from the scores and the saved log-sum-exp.
    fn exponentials<E>(row: &mut [E], seen: usize, log: E) {
        let (row, hidden) = row.split_at_mut(seen);
        hidden.fill(E::ZERO);
        for x in row {
            *x = (*x - log).exp();
        }
    }
}
vectorised! {
    /// dS = P · (dP − Σ P·dP), in place of dP.
    fn score_gradients<E>(p: &[E], along: E, dp: &mut [E]) {
        for (d, p) in dp.iter_mut().zip(p) {
            *d = *p * (*d - along);
        }
    }
}
vectorised! {
    fn dot<E>(a: &[E], b: &[E]) -> E {
        sum2(a, b, |x, y| x * y)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::{gradients, random};
    use crate::with_threads;

    /// The definition, one score at a time.
    fn naive(
        [q, k, v]: [&Tensor<f64>; 3],
        (queries, keys): (&Offsets, &Offsets),
        c: &Attention,
        bias: impl Fn(usize, usize, usize) -> f64,
    ) -> Vec<f64> {
        let (dim, value_dim) = (q.dims()[1] / c.heads, v.dims()[1] / c.kv_heads);
        let mut out = vec![0.0; q.dims()[0] * c.heads * value_dim];
        for (qs, ks) in queries.ranges().zip(keys.ranges()) {
            for h in 0..c.heads {
                let g = h / (c.heads / c.kv_heads);
                for i in 0..qs.len() {
                    let place = if c.causal { i as i64 + ks.len() as i64 - qs.len() as i64 } else { i as i64 };
                    let sees = |j: usize| {
                        (!c.causal || j as i64 <= place)
                            && c.window.is_none_or(|w| (j as i64 - place).unsigned_abs() <= w as u64)
                    };
                    let score = |j: usize| -> f64 {
                        let s: f64 = (0..dim)
                            .map(|x| {
                                q.data()[(qs.start + i) * c.heads * dim + h * dim + x]
                                    * k.data()[(ks.start + j) * c.kv_heads * dim + g * dim + x]
                            })
                            .sum();
                        (s * c.scale.unwrap_or(1.0 / (dim as f64).sqrt()) + bias(h, i, j)).exp()
                    };
                    let total: f64 = (0..ks.len()).filter(|j| sees(*j)).map(score).sum();
                    for x in 0..value_dim {
                        out[(qs.start + i) * c.heads * value_dim + h * value_dim + x] = (0..ks.len())
                            .filter(|j| sees(*j))
                            .map(|j| {
                                score(j) / total * v.data()[(ks.start + j) * c.kv_heads * value_dim + g * value_dim + x]
                            })
                            .sum();
                    }
                }
            }
        }
        out
    }

    fn forms() -> Vec<(Attention, Offsets, Offsets)> {
        let plain = Attention::new(2);
        let own = Offsets::from_lengths([3, 0, 1, 4]);
        let cross = Offsets::from_lengths([2, 3, 0, 5]);
        vec![
            (plain.clone(), own.clone(), own.clone()),
            (Attention { causal: true, ..plain.clone() }, own.clone(), own.clone()),
            (Attention { kv_heads: 1, scale: Some(0.3), ..plain.clone() }, own.clone(), own.clone()),
            (plain.clone(), own.clone(), cross.clone()),
            (Attention { causal: true, kv_heads: 1, ..plain.clone() }, own.clone(), cross.clone()),
            (Attention { window: Some(1), ..plain.clone() }, own.clone(), own.clone()),
            (Attention { window: Some(1), causal: true, ..plain.clone() }, own.clone(), own.clone()),
            (Attention { window: Some(2), causal: true, kv_heads: 1, ..plain }, own, cross),
        ]
    }

    fn inputs(c: &Attention, queries: &Offsets, keys: &Offsets) -> [Tensor<f64>; 3] {
        [
            random(&[queries.total(), c.heads * 3], "q"),
            random(&[keys.total(), c.kv_heads * 3], "k"),
            random(&[keys.total(), c.kv_heads * 2], "v"),
        ]
    }

    #[test]
    fn values_are_those_of_the_definition() -> Result<()> {
        for (c, queries, keys) in forms() {
            let [q, k, v] = inputs(&c, &queries, &keys);
            let want = naive([&q, &k, &v], (&queries, &keys), &c, |_, _, _| 0.0);
            let tape = Tape::inference();
            let [q, k, v] = [q, k, v].map(Var::constant);
            let got = attention(&tape, (&q, &k, &v), (&queries, &keys), &c, None)?;
            for (g, w) in got.data().iter().zip(&want) {
                assert!((g - w).abs() < 1e-12, "{c:?}: {g} is not {w}");
            }
        }
        Ok(())
    }

    #[test]
    fn gradients_match_finite_differences() -> Result<()> {
        for (c, queries, keys) in forms() {
            gradients(&inputs(&c, &queries, &keys), |t, x| {
                attention(t, (&x[0], &x[1], &x[2]), (&queries, &keys), &c, None)
            })?;
        }
        Ok(())
    }

    #[test]
    fn dropout_is_the_same_in_both_passes() -> Result<()> {
        let c = Attention { dropout: Some((0.4, Random::new(3))), ..Attention::new(2) };
        let o = Offsets::from_lengths([5, 2]);
        gradients(&inputs(&c, &o, &o), |t, x| attention(t, (&x[0], &x[1], &x[2]), (&o, &o), &c, None))
    }

    #[test]
    fn a_relative_bias_is_added_and_learned() -> Result<()> {
        let (c, o) = (Attention::new(2), Offsets::from_lengths([4, 3]));
        let entries: Arc<[u32]> = [0, 1, 2, 2, 3].into();
        let table = random(&[4, 2], "table");
        let [q, k, v] = inputs(&c, &o, &o);
        let want = naive([&q, &k, &v], (&o, &o), &c, |h, i, j| {
            let place = (j as i64 - i as i64 + 2).clamp(0, 4) as usize;
            table.data()[entries[place] as usize * 2 + h]
        });
        let all = [q, k, v, table];
        let run = |t: &Tape<f64>, x: &[Var<f64>]| {
            let bias = RelativeBias { table: &x[3], entries: Arc::clone(&entries), zero: 2, places: None };
            attention(t, (&x[0], &x[1], &x[2]), (&o, &o), &c, Some(&bias))
        };
        let got = run(&Tape::inference(), &all.clone().map(Var::constant))?;
        for (g, w) in got.data().iter().zip(&want) {
            assert!((g - w).abs() < 1e-12, "{g} is not {w}");
        }
        gradients(&all, run)
    }

    #[test]
    fn a_relative_bias_can_follow_places() -> Result<()> {
        let (c, o) = (Attention::new(2), Offsets::from_lengths([3, 3]));
        let table = random(&[7, 2], "table");
        let [q, k, v] = inputs(&c, &o, &o);
        let (at_q, at_k): (Vec<u32>, Vec<u32>) = (vec![2, 0, 1], vec![3, 1, 0]);
        let want = naive([&q, &k, &v], (&o, &o), &c, |h, i, j| {
            table.data()[(i64::from(at_k[j]) - i64::from(at_q[i]) + 3) as usize * 2 + h]
        });
        let all = [q, k, v, table];
        let run = |t: &Tape<f64>, x: &[Var<f64>]| {
            let places = Some((at_q.clone().into(), at_k.clone().into()));
            let bias = RelativeBias { table: &x[3], entries: (0..7).collect(), zero: 3, places };
            attention(t, (&x[0], &x[1], &x[2]), (&o, &o), &c, Some(&bias))
        };
        let got = run(&Tape::inference(), &all.clone().map(Var::constant))?;
        for (g, w) in got.data().iter().zip(&want) {
            assert!((g - w).abs() < 1e-12, "{g} is not {w}");
        }
        gradients(&all, run)
    }

    #[test]
    fn a_relative_bias_follows_new_queries_of_a_past() -> Result<()> {
        let (c, whole) = (Attention { causal: true, ..Attention::new(2) }, Offsets::from_lengths([5]));
        let table = Var::constant(random(&[5, 2], "table"));
        let bias = RelativeBias { table: &table, entries: [0, 1, 2, 3, 4].into(), zero: 4, places: None };
        let [q, k, v] = inputs(&c, &whole, &whole);
        let last = Tensor::from_slice(&[2, 6], &q.data()[18..])?;
        let [q, last, k, v] = [q, last, k, v].map(Var::constant);
        let tape = Tape::inference();
        let all = attention(&tape, (&q, &k, &v), (&whole, &whole), &c, Some(&bias))?;
        let new = attention(&tape, (&last, &k, &v), (&Offsets::from_lengths([2]), &whole), &c, Some(&bias))?;
        for (a, b) in all.data()[12..].iter().zip(new.data()) {
            assert!((a - b).abs() < 1e-12, "{a} is not {b}");
        }
        Ok(())
    }

    #[test]
    fn long_segments_in_f32_follow_f64_and_threads_do_not_change_bits() -> Result<()> {
        let c = Attention { causal: true, ..Attention::new(2) };
        let o = Offsets::from_lengths([300, 17]);
        let [q, k, v] = [random(&[317, 64], "q"), random(&[317, 64], "k"), random(&[317, 64], "v")];
        let wide = {
            let [q, k, v] = [&q, &k, &v].map(|t| Var::constant(t.clone()));
            attention(&Tape::inference(), (&q, &k, &v), (&o, &o), &c, None)?
        };
        let run = |threads| {
            with_threads(threads, || -> Result<(Tensor<f32>, Tensor<f32>)> {
                let tape = Tape::new();
                let [q, k, v] = [&q, &k, &v].map(|t| tape.input(t.cast::<f32>()));
                let y = attention(&tape, (&q, &k, &v), (&o, &o), &c, None)?;
                let g = tape.backward_from(&y, Tensor::full(&[317, 64], 0.5))?;
                Ok((y.into_value(), g.of(&k).expect("a gradient").clone()))
            })
            .expect("threads start")
        };
        let (one, one_k) = run(1)?;
        for (n, w) in one.data().iter().zip(wide.data()) {
            assert!((f64::from(*n) - w).abs() < 2e-5);
        }
        for threads in [2, 4] {
            let (y, dk) = run(threads)?;
            assert_eq!((y.data(), dk.data()), (one.data(), one_k.data()));
        }
        Ok(())
    }

    #[test]
    fn huge_scores_stay_finite() -> Result<()> {
        let o = Offsets::from_lengths([3]);
        let x = Var::constant(Tensor::<f32>::full(&[3, 4], 1e4));
        let y = attention(&Tape::inference(), (&x, &x, &x), (&o, &o), &Attention::new(1), None)?;
        assert!(y.data().iter().all(|v| (v - 1e4).abs() < 1.0));
        Ok(())
    }

    #[test]
    fn weights_of_a_row_sum_to_one() -> Result<()> {
        let (c, o) = (Attention { causal: true, ..Attention::new(2) }, Offsets::from_lengths([2, 4]));
        let [q, k, _] = inputs(&c, &o, &o).map(Var::constant);
        let w = attention_weights((&q, &k), (&o, &o), &c, 1)?;
        assert_eq!(w.dims(), [2, 4, 4]);
        for row in w.data().chunks(4) {
            assert!((row.iter().sum::<f64>() - 1.0).abs() < 1e-12);
        }
        assert_eq!(w.data()[1], 0.0, "the first query does not see the second key");
        Ok(())
    }

    #[test]
    fn offsets_that_do_not_fit_are_refused() {
        let x = Var::constant(Tensor::<f32>::zeros(&[4, 4]));
        let (good, bad) = (Offsets::from_lengths([4]), Offsets::from_lengths([2, 2]));
        let run = |a, b, heads| attention(&Tape::inference(), (&x, &x, &x), (a, b), &Attention::new(heads), None);
        assert!(run(&good, &bad, 2).is_err());
        assert!(run(&good, &good, 3).is_err());
        assert!(run(&Offsets::from_lengths([3]), &good, 2).is_err());
    }
}
