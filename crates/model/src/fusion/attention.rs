//! Attention fusion: a Transformer over the tokens of all columns.

use super::{Entrance, Fused, FusionConfig, Present};
use crate::{BlockConfig, Context, Features, Result, Transformer, TransformerConfig};
use sensorium_engine::{Activation, Builder, Init, Offsets, ParamId, Var, ops};

/// One sequence per sample: a fusion token and the tokens of every present
/// column, each with its column's embedding; the fusion token's last state is
/// the fused vector. It starts as a learned vector plus the mean of the
/// columns' pooled vectors, so that attention refines what the towers already
/// say instead of having to find it first.
///
/// With bottleneck tokens (Nagrani et al., "Attention bottlenecks for
/// multimodal fusion", 2021) each column's tokens see only themselves and the
/// bottleneck; what the columns write into it is averaged between blocks, so
/// the cost is linear in the number of columns.
#[derive(Debug, Clone)]
pub struct AttentionFusion {
    entrances: Vec<Entrance>,
    /// `[columns, dim]`
    column: ParamId,
    /// The fusion token, or the bottleneck: `[n, dim]`.
    tokens: ParamId,
    /// How many bottleneck tokens; 0 for the one fusion token.
    bottleneck: usize,
    /// One Transformer over everything, or one per bottleneck exchange.
    stages: Vec<Transformer>,
    dropout: f64,
}

impl AttentionFusion {
    /// Creates `column.{i}.{norm,projection}`, `columns`, `token` (or
    /// `bottleneck`) and `encoder` (or `stage.{i}`).
    ///
    /// # Errors
    /// When the configuration makes no sense.
    pub fn new(b: &mut Builder<'_>, c: &FusionConfig, dims: &[usize]) -> Result<Self> {
        let entrances = Entrance::for_columns(b, dims, c.dim)?;
        let block = BlockConfig { hidden: c.dim, heads: c.heads, dropout: c.dropout, ..BlockConfig::default() };
        let (name, own_tokens) = if c.bottleneck > 0 { ("bottleneck", c.bottleneck) } else { ("token", 1) };
        let stages = if c.bottleneck > 0 {
            let one = TransformerConfig { layers: 1, block, ..TransformerConfig::default() };
            (0..c.layers)
                .map(|i| Transformer::new(&mut b.scope(format_args!("stage.{i}")), &one))
                .collect::<Result<_>>()?
        } else {
            vec![Transformer::new(
                &mut b.scope("encoder"),
                &TransformerConfig { layers: c.layers, block, ..TransformerConfig::default() },
            )?]
        };
        Ok(Self {
            entrances,
            column: b.param("columns", &[dims.len(), c.dim], Init::Normal(0.02))?,
            tokens: b.param(name, &[own_tokens, c.dim], Init::Normal(0.02))?,
            bottleneck: c.bottleneck,
            stages,
            dropout: c.dropout,
        })
    }

    /// Features to `[samples, dim]`.
    ///
    /// # Errors
    /// Those of the engine.
    pub fn forward(&self, cx: &Context<'_>, features: &[Features], samples: usize) -> Result<Fused> {
        let t = cx.tape;
        let columns = cx.param(self.column);
        let (mut parts, mut pooled, mut rows) = (Vec::new(), Vec::new(), Vec::new());
        for (i, (f, entrance)) in features.iter().zip(&self.entrances).enumerate() {
            let x = entrance.forward(cx, &f.tokens, Activation::Identity)?;
            let x = ops::add_rows_broadcast(t, &x, &columns, &vec![i as u32; x.rows()])?;
            parts.push(cx.dropout(x, self.dropout)?);
            let (vectors, r) = f.sample_vectors(cx, samples)?;
            pooled.push(entrance.forward(cx, &vectors, Activation::Identity)?);
            rows.push(r);
        }
        let present = Present::new(&rows, samples);
        let vectors = ops::concat_rows(t, &pooled.iter().collect::<Vec<_>>())?;
        let vectors = ops::gather_rows(t, &vectors, &present.rows)?;
        let mean = ops::pool(t, &vectors, &present.offsets, ops::Pooling::Mean)?;
        let own = self.bottleneck.max(1) as u32;
        let (of_sample, of_token): (Vec<u32>, Vec<u32>) =
            (0..samples as u32).flat_map(|s| (0..own).map(move |k| (s, k))).unzip();
        let starts = ops::gather_rows(t, &mean, &of_sample)?;
        parts.push(ops::add_rows_broadcast(t, &starts, &cx.param(self.tokens), &of_token)?);
        let all = ops::concat_rows(t, &parts.iter().collect::<Vec<_>>())?;
        let vectors = if self.bottleneck == 0 {
            self.together(cx, features, samples, &all)?
        } else {
            self.through_bottleneck(cx, features, samples, &all)?
        };
        Ok(Fused { vectors: cx.dropout(vectors, self.dropout)?, gates: None })
    }

    /// `all`: the tokens of every column, then each sample's fusion token.
    fn together(&self, cx: &Context<'_>, features: &[Features], samples: usize, all: &Var) -> Result<Var> {
        let own = (all.rows() - samples) as u32;
        let mut index = Vec::new();
        let mut lengths = Vec::with_capacity(samples);
        let places = places(features, samples);
        for (s, sample) in places.iter().enumerate() {
            let before = index.len();
            index.push(own + s as u32);
            for segment in sample.iter().flatten() {
                index.extend(segment.clone());
            }
            lengths.push(index.len() - before);
        }
        let offsets = Offsets::from_lengths(lengths);
        let x = ops::gather_rows(cx.tape, all, &index)?;
        let x = self.stages[0].forward(cx, x, &offsets)?;
        Ok(ops::pool(cx.tape, &x, &offsets, ops::Pooling::First)?)
    }

    /// `all`: the tokens of every column, then each sample's bottleneck tokens.
    fn through_bottleneck(&self, cx: &Context<'_>, features: &[Features], samples: usize, all: &Var) -> Result<Var> {
        let t = cx.tape;
        let n = self.bottleneck as u32;
        let own = all.rows() as u32 - samples as u32 * n;
        // One segment per present (sample, column): bottleneck, then tokens;
        // a sample with nothing at all is its bottleneck alone.
        let (mut index, mut lengths, mut groups) = (Vec::new(), Vec::new(), Vec::new());
        for (s, sample) in places(features, samples).into_iter().enumerate() {
            let first = own + s as u32 * n;
            let present: Vec<_> = sample.into_iter().filter(|c| !c.is_empty()).collect();
            groups.push(present.len().max(1));
            for column in if present.is_empty() { vec![Vec::new()] } else { present } {
                let before = index.len();
                index.extend(first..first + n);
                index.extend(column.into_iter().flatten());
                lengths.push(index.len() - before);
            }
        }
        let (segments, groups) = (Offsets::from_lengths(lengths), Offsets::from_lengths(groups));
        let mut x = ops::gather_rows(t, all, &index)?;
        let mut shared = None;
        for (i, stage) in self.stages.iter().enumerate() {
            if i > 0 {
                x = exchange(cx, &x, &segments, &groups, n, shared.as_ref())?;
            }
            x = stage.forward(cx, x, &segments)?;
            shared = Some(average(cx, &x, &segments, &groups, n)?);
        }
        let shared = shared.unwrap_or(average(cx, &x, &segments, &groups, n)?);
        let each = Offsets::from_lengths(vec![n as usize; samples]);
        Ok(ops::pool(t, &shared, &each, ops::Pooling::Mean)?)
    }
}

/// For each sample and column the token ranges of its segments, as rows of
/// the columns' tokens laid one after another.
fn places(features: &[Features], samples: usize) -> Vec<Vec<Vec<std::ops::Range<u32>>>> {
    let mut places = vec![vec![Vec::new(); features.len()]; samples];
    let mut start = 0;
    for (c, f) in features.iter().enumerate() {
        for (segment, range) in f.offsets.ranges().enumerate() {
            let rows = start + range.start as u32..start + range.end as u32;
            places[f.sample_of[segment] as usize][c].push(rows);
        }
        start += f.offsets.total() as u32;
    }
    places
}

/// The bottleneck tokens of each sample, averaged over its columns:
/// `[samples * n, dim]`.
fn average(cx: &Context<'_>, x: &Var, segments: &Offsets, groups: &Offsets, n: u32) -> Result<Var> {
    let mut index = Vec::new();
    let mut lengths = Vec::new();
    for group in groups.ranges() {
        for token in 0..n {
            index.extend(group.clone().map(|s| segments.range(s).start as u32 + token));
            lengths.push(group.len());
        }
    }
    let rows = ops::gather_rows(cx.tape, x, &index)?;
    Ok(ops::pool(cx.tape, &rows, &Offsets::from_lengths(lengths), ops::Pooling::Mean)?)
}

/// The same rows with every segment's bottleneck replaced by the shared one.
fn exchange(
    cx: &Context<'_>,
    x: &Var,
    segments: &Offsets,
    groups: &Offsets,
    n: u32,
    shared: Option<&Var>,
) -> Result<Var> {
    let Some(shared) = shared else { return Ok(x.clone()) };
    let both = ops::concat_rows(cx.tape, &[x, shared])?;
    let base = x.rows() as u32;
    let mut index: Vec<u32> = (0..base).collect();
    for (sample, group) in groups.ranges().enumerate() {
        for s in group {
            let start = segments.range(s).start;
            for token in 0..n as usize {
                index[start + token] = base + (sample * n as usize + token) as u32;
            }
        }
    }
    Ok(ops::gather_rows(cx.tape, &both, &index)?)
}
