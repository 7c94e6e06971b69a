//! Captions: a decoder writes the text of a picture.

use super::Structures;
use super::columns::Columns;
use super::config::PretrainConfig;
use super::part::{Part, causal_hits, following};
use super::start::{below, start};
use super::structure::{Sizes, gpt2};
use super::together::Read;
use crate::{Error, Result};
use sensorium_data::Tokenizer;
use sensorium_engine::{Builder, Offsets, Params, Tensor};
use sensorium_model::objectives::of_segments;
use sensorium_model::pretrained::{Config, PartConfig, describe};
use sensorium_model::{Context, Decoder, TowerConfig, Values};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::Path;

/// Below which the decoder's parameters stand.
const SCOPE: &str = "caption";

/// A decoder that attends to the tokens of a picture.
pub(super) struct Captioning {
    decoder: Decoder,
    pub image: usize,
    pub text: usize,
    weight: f64,
    /// The `config.json` of both together.
    config: Value,
    pub tokenizer: Tokenizer,
}

impl Captioning {
    /// Adds the decoder to `params`.
    ///
    /// # Errors
    /// When columns are not there or sizes do not fit.
    pub(super) fn new(
        params: &mut Params,
        columns: &Columns,
        structures: &Structures,
        config: &PretrainConfig,
    ) -> Result<Self> {
        let p = &config.pretrain.caption;
        let [image, text] = columns.image_and_text("pretrain.caption.columns", p.columns.as_ref())?;
        let missing = |what: &str| Error::Request(format!("captions need {what}"));
        let tokenizer = columns.plan.tokenizer.clone().ok_or_else(|| missing("a tokenizer"))?;
        if !tokenizer.adds_special_tokens() {
            return Err(Error::Config {
                place: "pretrain.caption".into(),
                problem: "the tokenizer puts no tokens before and behind a text, so that nothing begins or ends one; \
                          use another, or let a vocabulary be learnt"
                    .into(),
            });
        }
        let TowerConfig::Image(tower) = &columns.towers[image].tower else {
            return Err(missing("a column of pictures"));
        };
        let block = &tower.transformer.block;
        let (hidden, heads) = (block.hidden, block.heads);
        let sizes = Sizes { hidden, layers: p.layers, heads, max_tokens: columns.fit.text.max_tokens };
        let mut decoder = gpt2(config, &sizes, &tokenizer);
        (decoder["add_cross_attention"], decoder["is_decoder"]) = (json!(true), json!(true));
        let encoder = structures.image.as_ref().ok_or_else(|| missing("one column of pictures"))?;
        let mut encoder = encoder.config.clone();
        (encoder["model_type"], encoder["architectures"]) = (json!("vit"), json!(["ViTModel"]));
        let pad = ["[PAD]", "<pad>"].iter().find_map(|token| tokenizer.token_id(token));
        let both = json!({
            "architectures": ["VisionEncoderDecoderModel"],
            "model_type": "vision-encoder-decoder",
            "is_encoder_decoder": true,
            "decoder_start_token_id": decoder["bos_token_id"],
            "bos_token_id": decoder["bos_token_id"],
            "eos_token_id": decoder["eos_token_id"],
            "pad_token_id": pad,
            "tie_word_embeddings": true,
            "dtype": "float32",
            "encoder": encoder,
            "decoder": decoder,
        });
        let (_, parts) = describe(&Config::new("caption", both.clone())?, Path::new("caption"))?;
        let found = parts.into_iter().find_map(|part| match part.config {
            PartConfig::Decoder(decoder) => Some(decoder),
            _ => None,
        });
        let decoder = found.ok_or_else(|| missing("a decoder"))?;
        let seed = config.train.seed;
        let model = Decoder::new(&mut Builder::new(params, seed).scope(SCOPE), &decoder)?;
        start(params, SCOPE, seed, Some(p.layers));
        Ok(Self { decoder: model, image, text, weight: p.weight, config: both, tokenizer })
    }

    /// The loss over the tokens of the texts of a batch, each guessed from
    /// those before it and the picture; None where no sample has both.
    ///
    /// # Errors
    /// When a text is too long.
    pub(super) fn part(&self, cx: &Context<'_>, read: &Read<'_>, judged: bool) -> Result<Option<Part>> {
        let Some(images) = &read.features[self.image] else { return Ok(None) };
        let texts = &read.inputs.columns[self.text];
        let Values::Tokens(tokens) = texts.values() else { return Ok(None) };
        let both = read.both(self.image, self.text);
        let (mut ids, mut lengths) = (Vec::new(), Vec::new());
        for (_, [_, text]) in &both {
            let own = &tokens[texts.offsets().range(*text as usize)];
            ids.extend(own);
            lengths.push(own.len());
        }
        let segments = Offsets::from_lengths(lengths);
        let next = following(&ids, &segments);
        let asked = next.iter().flatten().count();
        if asked == 0 {
            return Ok(None);
        }
        let pictures = both.iter().map(|(_, [image, _])| *image);
        let (memory, of) = of_segments(cx, (&images.tokens, &images.offsets), pictures)?;
        let hidden = self.decoder.hidden(cx, &ids, &segments, Some((&memory, &of)))?;
        let loss = self.decoder.loss(cx, &hidden, &next)?;
        let hits = if judged { Some(causal_hits(cx, &self.decoder, &hidden, &next)?) } else { None };
        Ok(Some(Part { hits, tokens: true, ..Part::new("caption", self.weight, loss, asked) }))
    }

    /// The configuration and the tensors of encoder and decoder in one file.
    ///
    /// # Errors
    /// When a name is not known.
    pub(super) fn export(&self, params: &Params, image_scope: &str) -> Result<(&Value, BTreeMap<String, Tensor>)> {
        let (_, parts) = describe(&Config::new("caption", self.config.clone())?, Path::new("caption"))?;
        let mut tensors = BTreeMap::new();
        for part in &parts {
            let scope = if part.name == "image" { image_scope } else { SCOPE };
            tensors.extend(part.keys.export(below(params, scope))?);
        }
        Ok((&self.config, tensors))
    }

    /// What is learnt, in words.
    pub(super) fn describe(&self) -> String {
        let decoder = &self.config["decoder"];
        format!(
            "captions: a decoder of {} layers of {}, cross-attention to the picture",
            decoder["n_layer"], decoder["n_embd"]
        )
    }
}
