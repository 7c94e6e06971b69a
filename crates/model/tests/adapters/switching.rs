//! Several adapters on one base, merging and taking out again.

use crate::net::Net;
use sensorium_engine::{ParamId, Params};
use sensorium_model::Method;
use sensorium_model::adapters::{AdapterConfig, BottleneckConfig, Ia3Config, LoraConfig};

fn mergeable() -> [AdapterConfig; 4] {
    let lora = LoraConfig { rank: 3, targets: vec!["layer.*".into()], ..LoraConfig::default() };
    [
        AdapterConfig::Lora(lora.clone()),
        AdapterConfig::Lora(LoraConfig { dora: true, ..lora.clone() }),
        AdapterConfig::Lora(LoraConfig { targets: vec!["word".into()], ..lora }),
        AdapterConfig::Ia3(Ia3Config::default()),
    ]
}

fn close(a: &[f32], b: &[f32]) -> bool {
    a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-4)
}

fn values(params: &Params) -> Vec<(ParamId, Vec<u32>)> {
    params.iter().map(|(id, p)| (id, p.value.data().iter().map(|x| x.to_bits()).collect())).collect()
}

#[test]
fn merging_keeps_the_answers_and_unmerging_restores_every_bit() {
    for config in mergeable() {
        let mut net = Net::finetuned(Method::Adapter(config.clone()));
        net.disturb("merge");
        let (before, answers) = (values(&net.params), net.logits());
        assert!(!close(&answers, &Net::new(2).logits()), "{config:?} does something");
        net.model.adapters_mut().merge(&mut net.params).expect("merges");
        assert!(close(&net.logits(), &answers), "{config:?}");
        assert_ne!(values(&net.params), before);
        assert!(net.model.adapters_mut().merge(&mut net.params).is_err());
        assert!(net.model.adapters_mut().activate(None).is_err());
        net.model.adapters_mut().unmerge(&mut net.params).expect("unmerges");
        assert_eq!(values(&net.params), before);
        assert_eq!(net.logits(), answers);
        assert!(net.model.adapters_mut().unmerge(&mut net.params).is_err());
    }
}

#[test]
fn what_is_no_change_of_weights_is_not_merged() {
    let mut net = Net::finetuned(Method::Adapter(AdapterConfig::Bottleneck(BottleneckConfig::default())));
    let error = net.model.adapters_mut().merge(&mut net.params).expect_err("no change of weights").to_string();
    assert!(error.contains("cannot be merged"), "{error}");
}

#[test]
fn adapters_switch_and_the_base_stays_as_it_was() {
    let base = Net::new(2).logits();
    let mut net = Net::new(2);
    net.finetune("first", Method::Adapter(AdapterConfig::Lora(LoraConfig::default())));
    net.disturb("first");
    let first = net.logits();
    net.finetune("second", Method::Adapter(AdapterConfig::Ia3(Ia3Config::default())));
    net.disturb("second");
    let second = net.logits();
    assert!(!close(&first, &base) && !close(&second, &base) && !close(&first, &second));
    assert_eq!(net.model.adapters().names(), ["first", "second"]);
    let mut switch = |name| {
        net.model.adapters_mut().activate(name).expect("known");
        net.logits()
    };
    assert_eq!(switch(Some("first")), first);
    assert_eq!(switch(None), base);
    assert_eq!(switch(Some("second")), second);
    let error = net.model.adapters_mut().activate(Some("third")).expect_err("unknown").to_string();
    assert!(error.contains("known: first, second"), "{error}");
}
