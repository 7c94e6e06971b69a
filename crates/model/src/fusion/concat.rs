//! Concatenation: each column has its place in one long vector.

use super::{Fused, FusionConfig};
use crate::{Context, Features, LayerNorm, Linear, NormKind, Result};
use sensorium_engine::{Activation, Builder, Init, ParamId, ops};

/// f = GELU(W · [z₁; z₂; …] + b); a missing column's place holds a learned
/// vector that says so.
#[derive(Debug, Clone)]
pub struct ConcatFusion {
    norms: Vec<LayerNorm>,
    absent: Vec<ParamId>,
    projection: Linear,
    dropout: f64,
}

impl ConcatFusion {
    /// Creates `column.{i}.norm`, `column.{i}.absent` and `projection`.
    ///
    /// # Errors
    /// When names are taken.
    pub fn new(b: &mut Builder<'_>, c: &FusionConfig, dims: &[usize]) -> Result<Self> {
        let (mut norms, mut absent) = (Vec::new(), Vec::new());
        for (i, dim) in dims.iter().enumerate() {
            let mut b = b.scope(format_args!("column.{i}"));
            norms.push(LayerNorm::new(&mut b.scope("norm"), *dim, NormKind::LayerNorm, 1e-5)?);
            absent.push(b.param("absent", &[1, *dim], Init::Normal(0.02))?);
        }
        let projection = Linear::new(&mut b.scope("projection"), dims.iter().sum(), c.dim, true)?;
        Ok(Self { norms, absent, projection, dropout: c.dropout })
    }

    /// Features to `[samples, dim]`.
    ///
    /// # Errors
    /// Those of the engine.
    pub fn forward(&self, cx: &Context<'_>, features: &[Features], samples: usize) -> Result<Fused> {
        let mut parts = Vec::with_capacity(features.len());
        for ((f, norm), absent) in features.iter().zip(&self.norms).zip(&self.absent) {
            let (vectors, rows) = f.sample_vectors(cx, samples)?;
            let vectors = norm.forward(cx, &vectors)?;
            let missing = vectors.rows() as u32;
            let index: Vec<u32> = rows.iter().map(|r| r.unwrap_or(missing)).collect();
            let part = if index.contains(&missing) {
                let with_absent = ops::concat_rows(cx.tape, &[&vectors, &cx.param(*absent)])?;
                ops::gather_rows(cx.tape, &with_absent, &index)?
            } else {
                vectors
            };
            parts.push(part);
        }
        let all = ops::concat_cols(cx.tape, &parts.iter().collect::<Vec<_>>())?;
        let all = cx.dropout(all, self.dropout)?;
        let vectors = self.projection.forward_with(cx, &all, Activation::Gelu)?;
        Ok(Fused { vectors: cx.dropout(vectors, self.dropout)?, gates: None })
    }
}
