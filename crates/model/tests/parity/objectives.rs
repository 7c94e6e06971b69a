//! Objectives without labels: losses and gradients where the same is hidden.

use crate::harness::{Case, Folders};
use crate::text::texts;
use crate::vision::images;
use sensorium_engine::{Offsets, Params, Tape, Var};
use sensorium_model::objectives::{MaskedLanguageHead, PixelDecoder, PixelDecoderConfig, PixelHead};
use sensorium_model::pretrained::{PartConfig, Pretrained};
use sensorium_model::towers::{ImageTower, ImageTowerConfig, TextTower};
use sensorium_model::{Context, Result, TowerConfig, Values};
use serde_json::Value;
use std::collections::BTreeMap;

/// A loss, once the parameters stand.
type Loss = Box<dyn Fn(&Context<'_>) -> Result<Var>>;

/// Builds a model's parameters, then its loss on a run's inputs.
fn check(name: &str, parts: &[&str], loss: impl Fn(&Pretrained, &mut Params, &Value) -> Result<Loss>) {
    let case = Case::read(name);
    let folders = Folders::of(name, &case);
    for run in &case.runs {
        let mut params = Params::new();
        let of = loss(&folders.model, &mut params, &run.inputs).unwrap_or_else(|e| panic!("{name}: {e}"));
        let tape = Tape::new();
        let cx = Context::inference(&tape, &params);
        let loss = of(&cx).unwrap_or_else(|e| panic!("{name}: {e}"));
        drop(cx);
        folders.compare(name, run, parts, tape, &params, &BTreeMap::from([("loss", loss)]));
    }
}

#[test]
fn bert_masked_lm_loss() {
    check("bert_masked_lm_loss", &["text", "masked_lm"], |model, params, inputs| {
        let TowerConfig::Text(config) = model.tower_config("text")?.clone() else { panic!("a text tower") };
        let tower = model.load_into(params, "text", |b| TextTower::new(b, &config))?;
        let PartConfig::Head(head) = model.part("masked_lm")?.config.clone() else { panic!("a head") };
        let head = model.load_into(params, "masked_lm", |b| MaskedLanguageHead::new(b, &head))?;
        let labels: Vec<Vec<i64>> = serde_json::from_value(inputs["labels"].clone()).expect("labels");
        let targets: Vec<Option<u32>> = labels.concat().into_iter().map(|id| u32::try_from(id).ok()).collect();
        let column = texts(inputs);
        Ok(Box::new(move |cx| {
            let (tokens, _, _) = tower.forward(cx, &column)?;
            head.loss(cx, &tokens, tower.word_embeddings(), &targets)
        }))
    });
}

fn check_causal(name: &str) {
    check(name, &["decoder"], |model, params, inputs| {
        let decoder = model.load_decoder("decoder", params)?;
        let column = texts(inputs);
        Ok(Box::new(move |cx| {
            let Values::Tokens(ids) = column.values() else { panic!("tokens") };
            let segments = column.offsets();
            let next = next_tokens(ids, segments);
            let hidden = decoder.hidden(cx, ids, segments, None)?;
            decoder.loss(cx, &hidden, &next)
        }))
    });
}

#[test]
fn gpt2_causal_lm_loss() {
    check_causal("gpt2_causal_lm_loss");
}

#[test]
fn llama_causal_lm_loss() {
    check_causal("llama_causal_lm_loss");
}

/// The tower of a checkpoint of pictures, with its settings.
fn image_tower(model: &Pretrained, params: &mut Params) -> Result<(ImageTower, ImageTowerConfig)> {
    let TowerConfig::Image(config) = model.tower_config("image")?.clone() else { panic!("an image tower") };
    Ok((model.load_into(params, "image", |b| ImageTower::new(b, &config))?, config))
}

fn hidden(inputs: &Value) -> Vec<bool> {
    let hidden: Vec<Vec<u8>> = serde_json::from_value(inputs["hidden"].clone()).expect("zeros and ones");
    hidden.concat().into_iter().map(|h| h == 1).collect()
}

#[test]
fn vit_simmim_loss() {
    check("vit_simmim_loss", &["image", "masked_image"], |model, params, inputs| {
        let (tower, config) = image_tower(model, params)?;
        let head = model.load_into(params, "masked_image", |b| PixelHead::new(b, &config))?;
        let (column, hidden) = (images(inputs), hidden(inputs));
        Ok(Box::new(move |cx| {
            let Values::Images(pixels) = column.values() else { panic!("pictures") };
            Ok(head.loss(cx, &tower, pixels, &hidden)?.loss)
        }))
    });
}

fn check_mae(name: &str, normalise: bool) {
    check(name, &["image", "masked_image"], |model, params, inputs| {
        let (tower, config) = image_tower(model, params)?;
        let c = model.config();
        let decoder = PixelDecoderConfig {
            hidden: c.usize("decoder_hidden_size")?,
            layers: c.usize("decoder_num_hidden_layers")?,
            heads: c.usize("decoder_num_attention_heads")?,
            intermediate: c.usize("decoder_intermediate_size")?,
            normalise,
            norm_eps: c.f64_or("layer_norm_eps", 1e-12)?,
        };
        let decoder = model.load_into(params, "masked_image", |b| PixelDecoder::new(b, &config, &decoder))?;
        let (column, hidden) = (images(inputs), hidden(inputs));
        Ok(Box::new(move |cx| {
            let Values::Images(pixels) = column.values() else { panic!("pictures") };
            Ok(decoder.loss(cx, &tower, pixels, &hidden)?.loss)
        }))
    });
}

#[test]
fn vit_mae_loss() {
    check_mae("vit_mae_normalised_loss", true);
    check_mae("vit_mae_plain_loss", false);
}

#[test]
fn vit_gpt2_caption_loss() {
    check("vit_gpt2_caption_loss", &["image", "decoder"], |model, params, inputs| {
        let (tower, _) = image_tower(model, params)?;
        let decoder = model.load_decoder("decoder", params)?;
        let (pictures, column) = (images(inputs), texts(inputs));
        Ok(Box::new(move |cx| {
            let Values::Tokens(ids) = column.values() else { panic!("tokens") };
            let (memory, of, _) = tower.forward(cx, &pictures)?;
            let hidden = decoder.hidden(cx, ids, column.offsets(), Some((&memory, &of)))?;
            let next = next_tokens(ids, column.offsets());
            decoder.loss(cx, &hidden, &next)
        }))
    });
}

/// The token after each, within its text.
fn next_tokens(ids: &[u32], segments: &Offsets) -> Vec<Option<u32>> {
    segments.ranges().flat_map(|r| ids[r.start + 1..r.end].iter().map(|id| Some(*id)).chain([None])).collect()
}
