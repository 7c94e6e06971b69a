//! A retriever as a space that can be indexed and searched.

use super::Retriever;
use crate::Result;
use crate::search::{Similarity, Space};
use sensorium_data::DataPlan;
use sensorium_engine::Tape;
use sensorium_model::{ColumnInput, Context};

impl Space for Retriever {
    fn inputs(&self) -> &DataPlan {
        &self.plan
    }

    fn knows_columns(&self) -> bool {
        true
    }

    fn dim(&self) -> usize {
        self.learner.model.config().dim
    }

    fn fingerprint(&self) -> String {
        let mut hasher = blake3::Hasher::new();
        // Both are plain data, which always has a JSON.
        hasher.update(serde_json::json!([&*self.plan, self.learner.model.config()]).to_string().as_bytes());
        if let Some(tokenizer) = &self.plan.tokenizer {
            hasher.update(tokenizer.json());
        }
        for (_, p) in self.learner.params.iter() {
            hasher.update(p.name.as_bytes());
            p.digest(|bytes| {
                hasher.update(bytes);
            });
        }
        hasher.finalize().to_hex().to_string()
    }

    fn embed(&self, way: usize, input: &ColumnInput, samples: usize) -> Result<Vec<Option<Vec<f32>>>> {
        let mut vectors = vec![None; samples];
        if input.sample_of().is_empty() {
            return Ok(vectors);
        }
        let tape = Tape::inference();
        let cx = Context::inference(&tape, &self.learner.params);
        let embedded = self.learner.embed(&cx, way, input)?;
        let rows = embedded.vectors.data().chunks_exact(self.dim());
        for (sample, row) in embedded.sample_of.iter().zip(rows) {
            // Several parts of a cell: their sum points where their mean does.
            match &mut vectors[*sample as usize] {
                Some(sum) => sum.iter_mut().zip(row).for_each(|(sum, x): (&mut f32, _)| *sum += x),
                none => *none = Some(row.to_vec()),
            }
        }
        Ok(vectors)
    }

    fn similarity(&self) -> Similarity {
        let (scale, bias) = self.learner.model.similarity(&self.learner.params);
        Similarity { scale, bias }
    }
}
