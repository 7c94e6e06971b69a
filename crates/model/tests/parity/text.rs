//! Text encoders.

use crate::harness::check_towers;
use sensorium_engine::Offsets;
use sensorium_model::{ColumnInput, Values};
use serde_json::Value;

/// The texts of a run, packed.
pub fn texts(inputs: &Value) -> ColumnInput {
    let texts: Vec<Vec<u32>> = serde_json::from_value(inputs["tokens"].clone()).expect("lists of token numbers");
    let offsets = Offsets::from_lengths(texts.iter().map(Vec::len));
    ColumnInput::new((0..texts.len() as u32).collect(), offsets, Values::Tokens(texts.concat())).expect("packed")
}

macro_rules! cases {
    ($($name:ident),* $(,)?) => {$(
        #[test]
        fn $name() {
            check_towers(stringify!($name), texts);
        }
    )*};
}

cases!(
    bert,
    bert_relu_wide,
    bert_no_pooler_masked_lm,
    bert_classifier,
    bert_token_classifier,
    roberta,
    roberta_classifier,
    roberta_masked_lm,
    xlm_roberta,
    distilbert,
    distilbert_classifier,
    mpnet,
    mpnet_far,
    albert,
    albert_masked_lm,
    electra,
    electra_classifier,
);
