//! Checks that other crates hold their models to.

use crate::contract::{StepContext, Trainable};
use sensorium_engine::Tape;
use sensorium_engine::optim::{Hyper, Method, Optimizer};
use std::collections::BTreeSet;

/// Asserts that each trainable parameter of a model gets a gradient that is finite and not
/// all zero and moves when the optimizer steps, and that no frozen parameter does either.
///
/// Two steps run as in validation and two as in training, and a gradient in one of them is
/// enough: an adapter that starts at zero passes gradients on only from the second step,
/// stochastic depth drops layers, and modality dropout is off in validation. The batch must
/// hold every modality.
///
/// # Panics
/// With the names of the parameters that fail.
pub fn assert_trains<M: Trainable>(model: &mut M, batch: &M::Batch) {
    let before: Vec<_> = model.params().iter().map(|(_, p)| p.value.clone()).collect();
    let mut without: BTreeSet<String> =
        model.params().iter().filter(|(_, p)| p.trainable).map(|(_, p)| p.name.clone()).collect();
    assert!(!without.is_empty(), "the model has no trainable parameter");
    let mut optimizer = Optimizer::new(Method::ADAM_W).expect("valid constants");
    let hyper = vec![Hyper { lr: 1e-3, weight_decay: 0.0 }; model.params().len()];
    for (step, training) in [false, false, true, true].into_iter().enumerate() {
        let cx = StepContext { training, ..StepContext::training(1, 0, step as u64, 0) };
        let tape = Tape::new();
        let out = model.loss(&tape, batch, &cx).unwrap_or_else(|e| panic!("step {step}: {e}"));
        assert!(out.loss.value().data().iter().all(|x| x.is_finite()), "step {step}: the loss is not finite");
        let gradients = tape.backward(&out.loss).unwrap_or_else(|e| panic!("step {step}: {e}"));
        for (id, gradient) in gradients.params() {
            let p = model.params().get(id);
            assert!(p.trainable, "{} is frozen and got a gradient", p.name);
            assert!(gradient.data().iter().all(|x| x.is_finite()), "{}: its gradient is not finite", p.name);
            if gradient.data().iter().any(|x| *x != 0.0) {
                without.remove(&p.name);
            }
        }
        optimizer.step(model.params_mut(), &gradients, &hyper, 1.0).unwrap_or_else(|e| panic!("step {step}: {e}"));
    }
    assert!(without.is_empty(), "trainable parameters without a gradient: {without:?}");
    for ((_, p), before) in model.params().iter().zip(&before) {
        let moved = p.value.data().iter().zip(before.data()).any(|(a, b)| a.to_bits() != b.to_bits());
        assert_eq!(moved, p.trainable, "{}: whether it moved, and whether it is trainable", p.name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::TrainConfig;
    use crate::fixture::{Data, Net};
    use crate::groups;

    fn batch() -> crate::fixture::Pair {
        Data::new(&TrainConfig::default(), 8).batch(&[0, 1, 2, 3])
    }

    #[test]
    fn a_sound_model_passes_also_when_partly_frozen() {
        let mut net = Net::new(3, 5);
        assert_trains(&mut net, &batch());
        let config = TrainConfig { freeze: vec!["encoder".into()], ..TrainConfig::default() };
        groups::assign(&config, net.params_mut()).expect("matches");
        assert_trains(&mut net, &batch());
    }

    #[test]
    #[should_panic(expected = r#"trainable parameters without a gradient: {"unused"}"#)]
    fn a_parameter_that_nothing_uses_is_named() {
        let mut net = Net::new(3, 5);
        net.params_mut().insert("unused", sensorium_engine::Tensor::zeros(&[2])).expect("new name");
        assert_trains(&mut net, &batch());
    }
}
