//! What each method trains and what it costs.

use crate::net::{Net, batch};
use sensorium_engine::Tape;
use sensorium_model::Method;
use sensorium_model::adapters::{
    AdapterConfig, BottleneckConfig, BottleneckKind, Ia3Config, LoraConfig, VirtualTokens,
};
use sensorium_train::testing::assert_trains;
use sensorium_train::{StepContext, Trainable};

fn lora(change: impl FnOnce(&mut LoraConfig)) -> Method {
    let mut config = LoraConfig { rank: 2, ..LoraConfig::default() };
    change(&mut config);
    Method::Adapter(AdapterConfig::Lora(config))
}

fn bottleneck(kind: BottleneckKind) -> Method {
    Method::Adapter(AdapterConfig::Bottleneck(BottleneckConfig { reduction: 4.0, ..BottleneckConfig::of(kind) }))
}

/// Every method with a name for messages.
fn methods() -> Vec<(&'static str, Method)> {
    vec![
        ("full", Method::Full),
        ("head", Method::Head),
        ("top_layers", Method::TopLayers(1)),
        ("bitfit", Method::BitFit),
        ("lora", lora(|_| {})),
        ("lora with dropout", lora(|c| c.dropout = 0.5)),
        ("rslora on every linear layer", lora(|c| (c.rslora, c.targets) = (true, vec!["layer.*".into()]))),
        ("lora on tables and attention", lora(|c| c.targets = vec!["embeddings.word".into(), "key".into()])),
        ("dora", lora(|c| c.dora = true)),
        ("dora with dropout", lora(|c| (c.dora, c.dropout) = (true, 0.5))),
        ("ia3", Method::Adapter(AdapterConfig::Ia3(Ia3Config::default()))),
        ("houlsby", bottleneck(BottleneckKind::Houlsby)),
        ("pfeiffer", bottleneck(BottleneckKind::Pfeiffer)),
        ("parallel", bottleneck(BottleneckKind::Parallel)),
        ("prefix", Method::Adapter(AdapterConfig::Prefix(VirtualTokens { tokens: 3 }))),
        ("prompt", Method::Adapter(AdapterConfig::Prompt(VirtualTokens { tokens: 3 }))),
    ]
}

#[test]
fn every_method_trains_what_it_says_and_nothing_else() {
    for (name, method) in methods() {
        println!("{name}");
        let full = method == Method::Full;
        let mut net = Net::finetuned(method);
        let frozen = net.params.iter().filter(|(_, p)| !p.trainable).count();
        assert_eq!(frozen == 0, full, "{name}");
        assert!(net.params.iter().all(|(_, p)| p.trainable || p.name.starts_with("towers.text")), "{name}");
        assert_trains(&mut net, &batch());
    }
}

#[test]
fn convolution_stems_take_lora_as_any_linear_layer() {
    let mut net = Net::new(1);
    let method = lora(|c| c.targets = vec!["embeddings.projection".into()]);
    let finetune =
        sensorium_model::Finetune { method, parts: vec!["towers.image".into()], modules_to_save: Vec::new() };
    finetune.apply(net.model.adapters_mut(), &mut net.params, "stem", 1).expect("applies");
    assert_trains(&mut net, &batch());
}

#[test]
fn adapters_that_start_as_nothing_change_nothing_at_first() {
    let base = Net::new(2).logits();
    for (name, method) in methods().into_iter().filter(|(name, _)| !["prefix", "prompt"].contains(name)) {
        let after = Net::finetuned(method).logits();
        let tolerance = if name == "houlsby" || name == "pfeiffer" { 1e-2 } else { 1e-5 };
        for (a, b) in after.iter().zip(&base) {
            assert!((a - b).abs() < tolerance, "{name}: {a} and {b}");
        }
    }
}

#[test]
fn top_layers_are_the_last_blocks_and_what_follows_them() {
    let net = Net::finetuned(Method::TopLayers(1));
    let trains = |name: &str| net.params.get(net.params.id(name).expect(name)).trainable;
    assert!(trains("towers.text.encoder.layer.1.mlp.up.weight") && trains("towers.text.encoder.norm.weight"));
    assert!(!trains("towers.text.encoder.layer.0.mlp.up.weight") && !trains("towers.text.embeddings.word"));
    assert!(trains("towers.image.encoder.layer.0.mlp.up.weight") && trains("head.weight"));
}

/// Operations on the tape of a step with a text tower of this many layers.
fn operations(layers: usize, method: &Method) -> usize {
    let mut net = Net::new(layers);
    net.finetune("default", method.clone());
    let tape = Tape::new();
    net.loss(&tape, &batch(), &StepContext::training(0, 0, 0, 0)).expect("runs");
    tape.operations()
}

#[test]
fn backward_does_not_go_below_the_lowest_trained_part() {
    let top = |layers: usize| lora(|c| c.targets = vec![format!("layer.{}.attention.query", layers - 1)]);
    for (low, high) in [(Method::Head, Method::Head), (Method::TopLayers(1), Method::TopLayers(1)), (top(2), top(5))] {
        assert_eq!(operations(2, &low), operations(5, &high), "{low:?}: layers below are not recorded");
    }
    let lowest = lora(|c| c.targets = vec!["layer.0.attention.query".into()]);
    assert!(operations(5, &lowest) > operations(2, &lowest));
    assert!(operations(5, &Method::Full) > operations(2, &Method::Full));
}

/// The gradients of a training step, to the bit.
fn gradients(net: &Net, checkpointing: bool) -> (Vec<(String, Vec<u32>)>, usize) {
    let mut net = Net { model: net.model.clone(), params: net.params.clone() };
    net.model.set_gradient_checkpointing(checkpointing);
    let tape = Tape::new();
    let loss = net.loss(&tape, &batch(), &StepContext::training(3, 0, 0, 0)).expect("runs").loss;
    let operations = tape.operations();
    let g = tape.backward(&loss).expect("runs");
    let bits = |id| net.params.get(id).name.clone();
    (g.params().map(|(id, t)| (bits(id), t.data().iter().map(|x| x.to_bits()).collect())).collect(), operations)
}

#[test]
fn gradient_checkpointing_changes_no_bit() {
    for (name, method) in methods() {
        let net = Net::finetuned(method);
        let (plain, kept) = gradients(&net, false);
        let (again, fewer) = gradients(&net, true);
        assert!(plain == again, "{name}");
        assert!(fewer < kept, "{name}: {fewer} of {kept} operations are kept");
    }
}

#[test]
fn mistakes_are_named() {
    let error = |method: Method, parts: &str| {
        let mut net = Net::new(2);
        let finetune = sensorium_model::Finetune { method, parts: vec![parts.into()], modules_to_save: Vec::new() };
        let error = finetune.apply(net.model.adapters_mut(), &mut net.params, "a", 1).expect_err("refused");
        error.to_string()
    };
    let wrong = lora(|c| c.targets = vec!["qeury".into()]);
    let text = error(wrong, "towers.text");
    assert!(text.starts_with("lora: targets: no module matches `qeury`; near names:"), "{text}");
    assert!(text.contains("attention.query"), "{text}");
    assert!(error(lora(|_| {}), "towers.txt").contains("near names: towers.text"));
    assert!(error(Method::TopLayers(3), "towers.text").contains("expected 1 to 2"));
    assert!(error(lora(|c| c.rank = 0), "towers.text").contains("rank = 0"));
    assert!(error(lora(|c| c.targets.clear()), "towers.text").contains("targets is empty"));
    assert!(error(lora(|c| (c.dora, c.targets) = (true, vec!["word".into()])), "towers.text").contains("DoRA"));
}
