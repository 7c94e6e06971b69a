//! Scaled dot-product attention over packed segments.
//!
//! Queries of segment s see the keys of segment s and no others, so a batch of
//! samples of any lengths is one call without padding or masks. Scores stand
//! only as one block of query rows per thread, small enough for its nearest
//! caches; backward recomputes them from the saved log-sum-exp of each row
//! (Dao et al., "FlashAttention", 2022), so memory is linear in the tokens.
//! Heads of segments are tasks of their own, the largest begun first.

mod backward;
mod bias;
mod forward;
mod kernels;
#[cfg(test)]
mod kernels_tests;
mod plan;
mod products;
#[cfg(test)]
mod tests;
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
mod tiles;

pub use kernels::{Kernels, kernels_f32, kernels_portable};

use crate::parallel::{Shared, largest_first};
use crate::{Element, EngineError, Offsets, Random, Result, Tape, Tensor, Var};
use plan::{Columns, Plan};
use products::{Products, Right};
use std::sync::Arc;

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
    /// Probability of dropping a weight, to the nearest of 2¹⁶ steps, with the
    /// stream that decides.
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
    /// Where queries and keys stand, for distances that do not follow their
    /// order in a segment (patches of a grid); none for those that do.
    pub places: Option<Places>,
    /// What the biases of each query are multiplied by, `[query_rows, heads]`
    /// (WavLM, Chen et al. 2022); none for 1.
    pub gates: Option<&'a Var<E>>,
}

/// The place of each row of queries, and that of each row of keys.
pub type Places = (Arc<[u32]>, Arc<[u32]>);

/// Multiply-adds below which one thread does everything.
const ALONE: usize = 1 << 16;

/// softmax(scale · Q·Kᵀ + bias)·V for each segment and head.
///
/// `q` is `[query_rows, heads * dim]`, `k` `[key_rows, kv_heads * dim]`, `v`
/// `[key_rows, kv_heads * value_dim]`; `queries` and `keys` cut their rows into
/// the same number of segments. The result is `[query_rows, heads *
/// value_dim]`; a query without keys gets zeros.
///
/// # Errors
/// When shapes, heads or offsets do not fit, or the dropout is not in [0, 1).
pub fn attention<E: Element>(
    tape: &Tape<E>,
    (q, k, v): (&Var<E>, &Var<E>, &Var<E>),
    (queries, keys): (&Offsets, &Offsets),
    config: &Attention,
    bias: Option<&RelativeBias<'_, E>>,
) -> Result<Var<E>> {
    let plan = Plan::new((q, k, v), (queries, keys), config, bias)?;
    let rows = plan.queries.total();
    let (mut out, mut log) = (Tensor::any(&[rows, plan.heads * plan.value_dim]), Tensor::any(&[rows, plan.heads]));
    let (o, l) = (Shared::new(out.data_mut()), Shared::new(log.data_mut()));
    let data = (q.data(), k.data(), v.data());
    largest_first(forward::tasks(&plan), ALONE, forward::Scratch::new, |scratch, task| {
        // SAFETY: tasks differ in their queries or in their head.
        unsafe { forward::run(&plan, scratch, task, data, o, l) };
    });
    let mut involved = vec![q, k, v];
    involved.extend(bias.map(|b| b.table));
    involved.extend(bias.and_then(|b| b.gates));
    let gates = bias.and_then(|b| b.gates).map(Var::handle);
    let table = bias.map(|b| (b.table.handle(), b.table.shape(), Arc::clone(&b.entries)));
    let (hq, hk, hv) = (q.handle(), k.handle(), v.handle());
    let (q, k, v) = (q.value().clone(), k.value().clone(), v.value().clone());
    let kept = out.clone();
    Ok(tape.record(out, &involved, move |d, g| {
        let wanted = |h, t: &Tensor<E>| g.wants(h).then(|| Tensor::any(t.dims()));
        let (mut dq, mut dk, mut dv) = (wanted(hq, &q), wanted(hk, &k), wanted(hv, &v));
        let distances = plan.bias.as_ref().map_or(0, |b| b.distances);
        let gates = gates.filter(|h| g.wants(*h));
        let mut d_gates = gates.map(|_| Tensor::<E>::zeros(&[plan.queries.total(), plan.heads]));
        let learns = table.filter(|(h, ..)| gates.is_some() || g.wants(*h));
        let mut sums = learns.map(|t| (t, Tensor::<E>::zeros(&[plan.queries.segments(), plan.heads, distances])));
        let shared = |t: &mut Option<Tensor<E>>| t.as_mut().map(|t| Shared::new(t.data_mut()));
        let into = backward::Into {
            q: shared(&mut dq),
            k: shared(&mut dk),
            v: shared(&mut dv),
            bias: sums.as_mut().map(|(_, t)| Shared::new(t.data_mut())),
            gates: shared(&mut d_gates),
        };
        let saved =
            backward::Saved { q: q.data(), k: k.data(), v: v.data(), out: kept.data(), log: log.data(), d: d.data() };
        largest_first(backward::tasks(&plan), ALONE, backward::Scratch::new, |scratch, task| {
            // SAFETY: tasks differ in their segment or in their head of keys.
            unsafe { backward::run(&plan, scratch, task, &saved, &into) };
        });
        for (h, gradient) in [(hq, dq), (hk, dk), (hv, dv)] {
            if let Some(gradient) = gradient {
                g.add(h, gradient);
            }
        }
        if let Some((h, gradient)) = gates.zip(d_gates) {
            g.add(h, gradient);
        }
        if let Some(((h, shape, entries), sums)) = sums.filter(|((h, ..), _)| g.wants(*h)) {
            g.add(h, by_entry(&sums, shape.rows(), &entries));
        }
        Ok(())
    }))
}

/// The gradients of a bias table `[rows, heads]` from those by distance
/// `[segments, heads, distances]`.
fn by_entry<E: Element>(sums: &Tensor<E>, rows: usize, entries: &[u32]) -> Tensor<E> {
    let heads = sums.dims()[1];
    let mut table = Tensor::zeros(&[rows, heads]);
    let out = table.data_mut();
    for (i, by_distance) in sums.data().chunks_exact(entries.len()).enumerate() {
        for (x, entry) in by_distance.iter().zip(entries) {
            out[*entry as usize * heads + i % heads] += *x;
        }
    }
    table
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
    let plan = Plan::new((q, k, k), (queries, keys), config, None)?;
    if segment >= queries.segments() {
        return Err(EngineError::Index {
            op: "attention_weights",
            index: segment,
            position: 0,
            limit: queries.segments(),
        });
    }
    let (n, m) = (queries.length(segment), keys.length(segment));
    let mut out = Tensor::zeros(&[config.heads, n, m]);
    let kernels = plan.kernels(segment);
    let (mut products, mut across, mut scaled) = (Products::new(), Right::new(), vec![E::ZERO; n * plan.dim]);
    products.begin(kernels);
    for head in 0..config.heads {
        let of_keys = Columns { head: head / plan.group(), heads: plan.kv_heads, dim: plan.dim };
        products.lay_out(of_keys.view(k.data(), keys.range(segment), true), &mut across);
        let of_queries = Columns { head, heads: plan.heads, dim: plan.dim };
        of_queries.copy(q.data(), queries.range(segment), plan.scale, &mut scaled, plan.dim);
        for block in plan.blocks(segment, head, 0..n, 0..m) {
            let cols = block.span.len();
            let mut scores = vec![E::ZERO; kernels.whole(block.count, cols)];
            let own = &scaled[block.first * plan.dim..];
            plan.scores(&mut products, &block, (own, plan.dim), (&across, 0), &mut scores);
            for (i, row) in scores[..block.count * cols].chunks_exact_mut(cols.max(1)).enumerate() {
                // SAFETY: a multiple of the lanes long.
                let (_, sum) = unsafe { (kernels.exponentials)(row.as_mut_ptr(), cols) };
                let to = &mut out.data_mut()[(head * n + block.first + i) * m..][..m];
                for (t, e) in to[block.span.start.min(m)..].iter_mut().zip(row) {
                    *t = if sum > E::ZERO { *e / sum } else { E::ZERO };
                }
            }
        }
    }
    products.end();
    Ok(out)
}
