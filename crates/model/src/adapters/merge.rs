//! Folding an adapter into the weights, and back.

use super::lora::changed_weight;
use super::{Adapters, Site};
use crate::{ModelError, Result};
use sensorium_engine::matmul::{Matrix, Output, product};
use sensorium_engine::{ParamId, Params, Tensor};

impl Adapters {
    /// Folds the active adapter into the weights, so that it costs nothing from
    /// then on; [`Adapters::unmerge`] restores the weights to the bit.
    ///
    /// # Errors
    /// When none is active, it is merged already, or its kind is none that
    /// weights can hold: bottleneck adapters, prefixes, prompts.
    pub fn merge(&mut self, params: &mut Params) -> Result<()> {
        let Some(active) = self.active else {
            return Err(ModelError::config("adapter", "none is active, nothing to merge"));
        };
        let set = &self.sets[active];
        if set.replaced.is_some() {
            return Err(ModelError::config("adapter", format!("{:?} is merged already", set.name)));
        }
        if !set.config.can_merge() {
            let problem = "cannot be merged: it is no change of weights";
            return Err(ModelError::config(set.config.kind(), problem));
        }
        let mut new: Vec<(ParamId, Tensor)> = Vec::new();
        for (weight, site) in set.sites.iter() {
            new.extend(merged(params, *weight, site));
        }
        let replaced =
            new.into_iter().map(|(id, value)| (id, std::mem::replace(&mut params.get_mut(id).value, value))).collect();
        self.sets[active].replaced = Some(replaced);
        Ok(())
    }

    /// Whether an adapter is folded into the weights.
    pub fn is_merged(&self) -> bool {
        self.sets.iter().any(|s| s.replaced.is_some())
    }

    /// Takes a merged adapter out of the weights again.
    ///
    /// # Errors
    /// When none is merged.
    pub fn unmerge(&mut self, params: &mut Params) -> Result<()> {
        let Some(replaced) = self.sets.iter_mut().find_map(|s| s.replaced.take()) else {
            return Err(ModelError::config("adapter", "none is merged into the weights"));
        };
        for (id, value) in replaced {
            params.get_mut(id).value = value;
        }
        Ok(())
    }
}

/// The new values of a weight and perhaps of its bias.
fn merged(params: &Params, weight: ParamId, site: &Site) -> Vec<(ParamId, Tensor)> {
    let value = |id: ParamId| &params.get(id).value;
    let base = value(weight);
    let cols = base.shape().cols().max(1);
    match site {
        Site::Lora(l) => {
            let mut sum = changed_weight(base, value(l.a), value(l.b), l.scaling);
            if let Some(magnitude) = l.magnitude {
                for (row, m) in sum.data_mut().chunks_exact_mut(cols).zip(value(magnitude).data()) {
                    let norm = row.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt() as f32;
                    row.iter_mut().for_each(|x| *x *= m / norm);
                }
            }
            vec![(weight, sum)]
        }
        Site::TableLora(l) => {
            let (a, b) = (value(l.a), value(l.b));
            let rank = a.shape().cols();
            let mut scaled = a.clone();
            scaled.data_mut().iter_mut().for_each(|x| *x *= l.scaling as f32);
            let mut sum = base.clone();
            let rows = sum.shape().rows();
            product(
                Matrix::dense(scaled.data(), rows, rank),
                Matrix::dense(b.data(), cols, rank).transposed(),
                Output::dense(sum.data_mut(), rows, cols),
                true,
            );
            vec![(weight, sum)]
        }
        Site::ScaleOutput(factors) => {
            let factors = value(*factors).data();
            let mut new = base.clone();
            for (row, f) in new.data_mut().chunks_exact_mut(cols).zip(factors) {
                row.iter_mut().for_each(|x| *x *= f);
            }
            let mut out = vec![(weight, new)];
            if let Some(id) = bias_of(params, weight) {
                let mut bias = value(id).clone();
                bias.data_mut().iter_mut().zip(factors).for_each(|(b, f)| *b *= f);
                out.push((id, bias));
            }
            out
        }
        Site::ScaleInput(factors) => {
            let factors = value(*factors).data();
            let mut new = base.clone();
            for row in new.data_mut().chunks_exact_mut(cols) {
                row.iter_mut().zip(factors).for_each(|(x, f)| *x *= f);
            }
            vec![(weight, new)]
        }
        Site::After(_) | Site::Beside(_) | Site::Prefix(_) | Site::Prompt(_) => Vec::new(),
    }
}

fn bias_of(params: &Params, weight: ParamId) -> Option<ParamId> {
    let name = params.get(weight).name.strip_suffix("weight")?;
    params.id(&format!("{name}bias"))
}
