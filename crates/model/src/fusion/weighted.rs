//! Weighted fusion: a gate for each present column of each sample.

use super::{Fused, FusionConfig, Present};
use crate::{Context, Features, LayerNorm, Linear, NormKind, Result};
use sensorium_engine::{Activation, Builder, Init, ParamId, Tensor, ops};

/// A gated multimodal unit (Arevalo et al. 2017) for any number of columns,
/// any of which may be missing: hᵢ = tanh(Wᵢ zᵢ), gates = softmax over the
/// present columns of v · tanh(U hᵢ + C mean(h) + eᵢ), f = Σ gateᵢ hᵢ.
#[derive(Debug, Clone)]
pub struct WeightedFusion {
    norms: Vec<LayerNorm>,
    projections: Vec<Linear>,
    /// eᵢ: `[columns, dim]`
    column: ParamId,
    own: Linear,
    context: Linear,
    score: Linear,
    dropout: f64,
}

impl WeightedFusion {
    /// Creates `column.{i}.{norm,projection}` and `gate.{column,own,context,score}`.
    ///
    /// # Errors
    /// When names are taken.
    pub fn new(b: &mut Builder<'_>, c: &FusionConfig, dims: &[usize]) -> Result<Self> {
        let (mut norms, mut projections) = (Vec::new(), Vec::new());
        for (i, dim) in dims.iter().enumerate() {
            let mut b = b.scope(format_args!("column.{i}"));
            norms.push(LayerNorm::new(&mut b.scope("norm"), *dim, NormKind::LayerNorm, 1e-5)?);
            projections.push(Linear::new(&mut b.scope("projection"), *dim, c.dim, true)?);
        }
        let mut gate = b.scope("gate");
        Ok(Self {
            norms,
            projections,
            column: gate.param("column", &[dims.len(), c.dim], Init::Normal(0.02))?,
            own: Linear::new(&mut gate.scope("own"), c.dim, c.dim, true)?,
            context: Linear::new(&mut gate.scope("context"), c.dim, c.dim, false)?,
            score: Linear::new(&mut gate.scope("score"), c.dim, 1, false)?,
            dropout: c.dropout,
        })
    }

    /// Features to `[samples, dim]` and the gates.
    ///
    /// # Errors
    /// Those of the engine.
    pub fn forward(&self, cx: &Context<'_>, features: &[Features], samples: usize) -> Result<Fused> {
        let (mut parts, mut rows) = (Vec::new(), Vec::new());
        for ((f, norm), projection) in features.iter().zip(&self.norms).zip(&self.projections) {
            let (vectors, r) = f.sample_vectors(cx, samples)?;
            let vectors = norm.forward(cx, &vectors)?;
            parts.push(projection.forward_with(cx, &vectors, Activation::Tanh)?);
            rows.push(r);
        }
        let present = Present::new(&rows, samples);
        let t = cx.tape;
        let all = ops::concat_rows(t, &parts.iter().collect::<Vec<_>>())?;
        let h = ops::gather_rows(t, &all, &present.rows)?;
        let h = cx.dropout(h, self.dropout)?;
        let mean = ops::pool(t, &h, &present.offsets, ops::Pooling::Mean)?;
        let context = ops::repeat_segments(t, &self.context.forward(cx, &mean)?, &present.offsets)?;
        let inner = ops::add(t, &self.own.forward(cx, &h)?, &context)?;
        let inner = ops::add_rows_broadcast(t, &inner, &cx.param(self.column), &present.columns)?;
        let scores = self.score.forward(cx, &ops::activate(t, &inner, Activation::Tanh)?)?;
        let gates = ops::segment_softmax(t, &scores, &present.offsets)?;
        let vectors = ops::segment_weighted_sum(t, &h, &gates, &present.offsets)?;

        let mut table = Tensor::zeros(&[samples, features.len()]);
        for (s, range) in present.offsets.ranges().enumerate() {
            for pair in range {
                table.data_mut()[s * features.len() + present.columns[pair] as usize] = gates.data()[pair];
            }
        }
        Ok(Fused { vectors: cx.dropout(vectors, self.dropout)?, gates: Some(table) })
    }
}
