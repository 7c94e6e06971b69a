//! What both passes of attention need to know beside the tensors.

use super::bias::{Bias, Query};
use super::kernels::Kernels;
use super::products::{Products, Right, View};
use super::{Attention, RelativeBias};
use crate::ops::matrix;
use crate::simd::vectorised;
use crate::{Element, EngineError, Offsets, Random, Result, Var};
use std::ops::Range;

/// Keys whose dropout is decided together: sixteen positions of eight halves
/// of a random word.
const DROPPED: usize = 128;

pub(super) struct Plan<E: Element> {
    pub heads: usize,
    pub kv_heads: usize,
    pub queries: Offsets,
    pub keys: Offsets,
    /// Width of a head of queries and keys, and of values.
    pub dim: usize,
    pub value_dim: usize,
    pub scale: E,
    pub bias: Option<Bias<E>>,
    pub dropout: Option<Dropout>,
    causal: bool,
    window: Option<usize>,
}

/// Which weights are dropped.
#[derive(Clone, Copy)]
pub(super) struct Dropout {
    /// Of 2¹⁶.
    below: u32,
    random: Random,
}

/// Some queries of one head in one segment, and the keys that any of them
/// sees.
#[derive(Clone)]
pub(super) struct Block {
    pub segment: usize,
    pub head: usize,
    /// The first query, counted within the segment, and how many.
    pub first: usize,
    pub count: usize,
    /// The keys, from a multiple of the lanes to a multiple of them.
    pub span: Range<usize>,
}

impl<E: Element> Plan<E> {
    pub fn new(
        (q, k, v): (&Var<E>, &Var<E>, &Var<E>),
        (queries, keys): (&Offsets, &Offsets),
        config: &Attention,
        bias: Option<&RelativeBias<'_, E>>,
    ) -> Result<Self> {
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
        Ok(Self {
            heads,
            kv_heads,
            queries: queries.clone(),
            keys: keys.clone(),
            dim,
            value_dim: v_cols / kv_heads,
            scale: E::of(scale.unwrap_or(1.0 / (dim as f64).sqrt())),
            bias: bias.map(|b| Bias::new(b, heads, (queries, keys))).transpose()?,
            dropout: config.dropout.map(|(p, random)| Dropout::new(p, random)).transpose()?,
            causal: config.causal,
            window: config.window,
        })
    }

    /// The heads of queries that share a head of keys.
    pub fn group(&self) -> usize {
        self.heads / self.kv_heads
    }

    /// The loops for a segment.
    pub fn kernels(&self, segment: usize) -> &'static Kernels<E> {
        let (n, m) = (self.queries.length(segment), self.keys.length(segment));
        let within = self.window.map_or(m, |window| m.min(window.saturating_mul(2)));
        // Half of it for a causal query on average; what blocks waste counts too.
        let seen = if self.causal { within / 3 } else { within };
        E::attention(n.min(m), seen * self.dim.min(self.value_dim))
    }

    /// The queries `range` of a head in blocks, with those of `keys` that they
    /// see; `keys` begin at a multiple of the lanes.
    pub fn blocks(
        &self,
        segment: usize,
        head: usize,
        range: Range<usize>,
        keys: Range<usize>,
    ) -> impl Iterator<Item = Block> {
        let (n, m) = (self.queries.length(segment), self.keys.length(segment));
        let kernels = self.kernels(segment);
        let rows = kernels.block_rows(keys.len());
        let end = range.end;
        range.step_by(rows).map(move |first| {
            let count = rows.min(end - first);
            // Later queries see from and to later keys.
            let (from, to) = (self.visible(n, m, first).start, self.visible(n, m, first + count - 1).end);
            let from = (from / kernels.lanes * kernels.lanes).clamp(keys.start, keys.end);
            Block { segment, head, first, count, span: from..kernels.padded(to.min(keys.end)).max(from) }
        })
    }

    /// Where query `i` of `queries` stands among `keys`.
    fn place(&self, queries: usize, keys: usize, i: usize) -> isize {
        if self.causal { (i + keys) as isize - queries as isize } else { i as isize }
    }

    /// Which of `keys` query `i` of `queries` sees.
    fn visible(&self, queries: usize, keys: usize, i: usize) -> Range<usize> {
        let place = self.place(queries, keys, i);
        let within = |end: isize| end.clamp(0, keys as isize) as usize;
        // A window as wide as everything hides nothing.
        let reach = self.window.unwrap_or(usize::MAX).min(queries + keys) as isize;
        let end = within(place + 1 + if self.causal { 0 } else { reach });
        within(place - reach).min(end)..end
    }

    /// scale · Q·Kᵀ + bias at `[count, span]`, −∞ where a query does not see.
    ///
    /// `q` holds the block's queries, scaled, `stride` apart; `keys` the keys
    /// from `first` on, laid out as the columns of `[dim, keys]`.
    pub fn scores(
        &self,
        products: &mut Products<E>,
        block: &Block,
        (q, stride): (&[E], usize),
        (keys, first): (&Right<E>, usize),
        scores: &mut [E],
    ) {
        let (n, m) = (self.queries.length(block.segment), self.keys.length(block.segment));
        let cols = block.span.len();
        let queries = View::new(q, (block.count, self.dim), stride, false);
        products.multiply(queries, (keys, (0, block.span.start - first)), cols, (scores, cols), false);
        for (i, row) in scores[..block.count * cols].chunks_exact_mut(cols.max(1)).enumerate() {
            if let Some(bias) = &self.bias {
                bias.add(self.query(block, i), self.first_key(block), &mut row[..block.known(m)]);
            }
            let seen = self.visible(n, m, block.first + i);
            let within = |key: usize| key.saturating_sub(block.span.start).min(cols);
            row[..within(seen.start)].fill(E::NEG_INFINITY);
            row[within(seen.end)..].fill(E::NEG_INFINITY);
        }
    }

    /// Adds the gradients of a block's scores to those of the biases by
    /// distance, and gives `gate` those of the gates by the row of the query.
    pub fn add_bias_gradients(&self, block: &Block, gradients: &[E], sums: &mut [E], mut gate: impl FnMut(usize, E)) {
        let Some(bias) = &self.bias else { return };
        let m = self.keys.length(block.segment);
        let (cols, known) = (block.span.len(), block.known(m));
        for (i, row) in gradients[..block.count * cols].chunks_exact(cols.max(1)).enumerate() {
            let query = self.query(block, i);
            if bias.gates.is_some() {
                gate(query.row, bias.along(query, self.first_key(block), &row[..known]));
            }
            bias.add_gradients(query, self.first_key(block), &row[..known], sums);
        }
    }

    /// Query `i` of a block.
    fn query(&self, block: &Block, i: usize) -> Query {
        let (n, m) = (self.queries.length(block.segment), self.keys.length(block.segment));
        let i = block.first + i;
        let row = self.queries.range(block.segment).start + i;
        Query { head: block.head, row, place: self.place(n, m, i) }
    }

    /// The first key of a block: within its segment, and among all.
    fn first_key(&self, block: &Block) -> (usize, usize) {
        (block.span.start, self.keys.range(block.segment).start + block.span.start)
    }

    /// What dropout multiplies the weights of query row `row` in `span` by.
    pub fn mask<'a>(&self, row: usize, head: usize, span: &Range<usize>, into: &'a mut [E]) -> Option<&'a [E]> {
        let dropout = self.dropout?;
        let (first, last) = (span.start / DROPPED, span.end.div_ceil(DROPPED));
        let position = (((row * self.heads + head) as u64) << 24) + first as u64 * 16;
        let all = &mut into[..(last - first) * DROPPED];
        mask_loop(all, position, dropout.below, E::of(dropout.factor()), dropout.random);
        Some(&all[span.start - first * DROPPED..][..span.len()])
    }

    /// The room for [`Plan::mask`] over so many keys.
    pub fn mask_room(&self, keys: usize) -> usize {
        if self.dropout.is_some() { keys.next_multiple_of(DROPPED) + DROPPED } else { 0 }
    }
}

impl Block {
    /// How many of the span's places are keys, of `keys` in all.
    pub fn known(&self, keys: usize) -> usize {
        self.span.end.min(keys) - self.span.start.min(keys)
    }
}

impl Dropout {
    fn new(probability: f64, random: Random) -> Result<Self> {
        if !(0.0..1.0).contains(&probability) {
            let problem = format!("dropout probability {probability} is not in [0, 1)");
            return Err(EngineError::setting("attention", problem));
        }
        Ok(Self { below: ((probability * 65_536.0).round() as u32).min(65_535), random })
    }

    /// What kept weights are multiplied by.
    fn factor(self) -> f64 {
        65_536.0 / (65_536.0 - f64::from(self.below))
    }
}

/// One head's columns of `[rows, heads · dim]`.
#[derive(Clone, Copy)]
pub(super) struct Columns {
    pub head: usize,
    pub heads: usize,
    pub dim: usize,
}

impl Columns {
    pub fn of<E>(self, x: &[E], row: usize) -> &[E] {
        &x[(row * self.heads + self.head) * self.dim..][..self.dim]
    }

    /// to ← factor · the rows, each `padded` long, zeros at its end.
    pub fn copy<E: Element>(self, x: &[E], rows: Range<usize>, factor: E, to: &mut [E], padded: usize) {
        for (row, to) in rows.zip(to.chunks_exact_mut(padded.max(1))) {
            let (own, rest) = to.split_at_mut(self.dim);
            for (t, x) in own.iter_mut().zip(self.of(x, row)) {
                *t = *x * factor;
            }
            rest.fill(E::ZERO);
        }
    }

    /// The rows, and with `true` their transpose.
    pub fn view<E>(self, x: &[E], rows: Range<usize>, across: bool) -> View<'_, E> {
        let stride = self.heads * self.dim;
        let first = rows.start * stride + self.head * self.dim;
        View::new(x.get(first..).unwrap_or_default(), (rows.len(), self.dim), stride, across)
    }
}

vectorised! {
    /// Key k of a group of 128 takes half k / 16 of position k mod 16: the
    /// sixteen positions are made side by side in vector code.
    fn mask_loop<E>(mask: &mut [E], first: u64, below: u32, factor: E, random: Random) {
        for (n, group) in mask.chunks_exact_mut(DROPPED).enumerate() {
            let start = first + n as u64 * 16;
            let mut words = [[0_u32; 16]; 4];
            for i in 0..16 {
                let block = random.block(start + i as u64);
                for (w, b) in words.iter_mut().zip(block) {
                    w[i] = b;
                }
            }
            for (pair, words) in group.chunks_exact_mut(32).zip(&words) {
                let (low, high) = pair.split_at_mut(16);
                for ((l, h), w) in low.iter_mut().zip(high).zip(words) {
                    *l = if w & 0xffff >= below { factor } else { E::ZERO };
                    *h = if w >> 16 >= below { factor } else { E::ZERO };
                }
            }
        }
    }
}

vectorised! {
    /// out ← factor · x for the rows of a block.
    pub(super) fn scale_into<E>(out: &mut [E], x: &[E], factor: E) {
        for (o, x) in out.iter_mut().zip(x) {
            *o = *x * factor;
        }
    }
}
