//! Blocks that are computed once more in backward see the same windows, gates
//! and times as the first time.

use crate::audio::sounds;
use crate::harness::{Case, Folders, values};
use crate::video::videos;
use crate::vision::images;
use sensorium_engine::{Random, Tape, Tensor, Var, ops};
use sensorium_model::{ColumnInput, Context};
use serde_json::Value;
use std::collections::BTreeMap;

/// The bits of every gradient of a training step, dropout included.
fn gradients(name: &str, input: fn(&Value) -> ColumnInput, again: bool) -> BTreeMap<String, Vec<u32>> {
    let case = Case::read(name);
    let (folders, run) = (Folders::of(name, &case), &case.runs[0]);
    let (tower, params) = folders.model.load_tower(&run.part).unwrap_or_else(|e| panic!("{name}: {e}"));
    let tape = Tape::new();
    let cx = Context::training(&tape, &params, Random::new(5)).checkpointing(again);
    let features = tower.forward(&cx, &input(&run.inputs)).unwrap_or_else(|e| panic!("{name}: {e}"));
    drop(cx);
    let weights = values("loss", features.pooled.value().len(), 0.0, 1.0);
    let weights = Var::constant(Tensor::from_slice(features.pooled.shape().dims(), &weights).expect("same shape"));
    let loss = ops::sum(&tape, &ops::mul(&tape, &features.pooled, &weights).expect("same shape")).expect("a sum");
    let gradients = tape.backward(&loss).expect("gradients");
    let bits = |t: &Tensor| t.data().iter().map(|x| x.to_bits()).collect();
    gradients.params().map(|(id, gradient)| (params.get(id).name.clone(), bits(&gradient))).collect()
}

#[test]
fn recomputed_blocks_have_the_same_gradients() {
    type Read = fn(&Value) -> ColumnInput;
    let cases: [(&str, Read); 4] =
        [("swin_uneven", images), ("wavlm_stable", sounds), ("timesformer", videos), ("beit", images)];
    for (name, input) in cases {
        let plain = gradients(name, input, false);
        assert!(plain.len() > 20, "{name}");
        assert_eq!(plain, gradients(name, input, true), "{name}");
    }
}
