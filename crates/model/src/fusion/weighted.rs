//! Weighted fusion: a gate for each present column of each sample.

use super::{Entrance, Fused, FusionConfig, Present};
use crate::{Context, Features, Linear, Result};
use sensorium_engine::{Activation, Builder, Init, ParamId, Tensor, ops};

/// A gated multimodal unit (Arevalo et al. 2017) for any number of columns,
/// any of which may be missing: hᵢ = tanh(Wᵢ zᵢ), gates = softmax over the
/// present columns of v · tanh(U hᵢ + C mean(h) + eᵢ), f = Σ gateᵢ hᵢ.
#[derive(Debug, Clone)]
pub struct WeightedFusion {
    entrances: Vec<Entrance>,
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
        let entrances = Entrance::for_columns(b, dims, c.dim)?;
        let mut gate = b.scope("gate");
        Ok(Self {
            entrances,
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
        for (f, entrance) in features.iter().zip(&self.entrances) {
            let (vectors, r) = f.sample_vectors(cx, samples)?;
            parts.push(entrance.forward(cx, &vectors, Activation::Tanh)?);
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
