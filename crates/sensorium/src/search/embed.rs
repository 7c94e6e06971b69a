//! Samples to vectors.

use super::space::Space;
use crate::Result;
use crate::batch::Batch;
use sensorium_data::{DataPlan, Modality, Sample, Sampler, Value};
use std::path::Path;
use std::sync::Arc;

/// For each column of a plan the vectors of all samples; None where a sample
/// lacks it.
pub(super) fn embed(
    space: &dyn Space,
    plan: &DataPlan,
    ways: &[usize],
    samples: Vec<Sample>,
) -> Result<Vec<Vec<Option<Vec<f32>>>>> {
    let count = samples.len();
    if count == 0 {
        return Ok(vec![Vec::new(); ways.len()]);
    }
    let batch = Batch::new(sensorium_data::Pack::new(plan, samples))?;
    batch.inputs.columns.iter().zip(ways).map(|(input, way)| space.embed(*way, input, count)).collect()
}

/// The vector of one thing, with length 1.
pub(super) fn embed_one(space: &dyn Space, modality: Modality, value: Value) -> Result<Vec<f32>> {
    let vectors = embed_many(space, modality, vec![value])?;
    vectors.into_iter().next().ok_or_else(|| crate::Error::Request("there is nothing to embed".into()))
}

/// The vectors of some things of one kind, each with length 1.
pub(super) fn embed_many(space: &dyn Space, modality: Modality, values: Vec<Value>) -> Result<Vec<Vec<f32>>> {
    let way = super::plan::way_for(space, modality)?;
    let column = space.inputs().columns[way].clone();
    let name = column.source.clone();
    let plan = Arc::new(DataPlan { columns: vec![column], ..space.inputs().clone() });
    let sampler = Sampler::new(plan.clone(), Path::new("."), None);
    let mut vectors = Vec::with_capacity(values.len());
    for values in values.chunks(32) {
        let samples = values
            .iter()
            .map(|value| {
                let sample = sampler.from_values(0, &[(name.clone(), value.clone())])?;
                match sample.problems.first() {
                    Some(problem) => Err(crate::Error::Request(problem.message.clone())),
                    None => Ok(sample),
                }
            })
            .collect::<Result<Vec<_>>>()?;
        for vector in embed(space, &plan, &[way], samples)?.remove(0) {
            let vector = vector.ok_or_else(|| crate::Error::Request(format!("the {} is empty", modality.name())))?;
            vectors.push(unit(vector));
        }
    }
    Ok(vectors)
}

/// A vector with length 1; zeros stay zeros.
pub(super) fn unit(mut vector: Vec<f32>) -> Vec<f32> {
    let norm = vector.iter().map(|x| f64::from(*x) * f64::from(*x)).sum::<f64>().sqrt();
    if norm > 0.0 {
        vector.iter_mut().for_each(|x| *x = (f64::from(*x) / norm) as f32);
    }
    vector
}
