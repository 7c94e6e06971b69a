//! Text and pictures as one sequence of tokens: those of a picture are codes of
//! its patches, numbered behind those of the text.

use super::columns::Columns;
use super::config::PretrainConfig;
use super::image_codes::ImageCodes;
use super::part::{Part, causal_hits, following};
use super::start::{below, start};
use super::structure::{Sizes, gpt2};
use super::together::Read;
use crate::{Error, Result};
use sensorium_data::Tokenizer;
use sensorium_engine::{Builder, Offsets, Params, Random, Tensor};
use sensorium_model::pretrained::{Config, PartConfig, describe};
use sensorium_model::{Context, Decoder, Values};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::Path;

/// Below which the decoder's parameters stand.
const SCOPE: &str = "fusion";

/// A language model over spliced texts and pictures.
pub(super) struct Fusion {
    decoder: Decoder,
    codes: ImageCodes,
    pub image: usize,
    pub text: usize,
    /// Tokens of texts; behind them stand the codes, then the token before a picture.
    words: usize,
    weight: f64,
    image_weight: f64,
    /// The `config.json`.
    config: Value,
    pub tokenizer: Tokenizer,
}

impl Fusion {
    /// Learns the codes of the training pictures, and adds the decoder to
    /// `params`.
    ///
    /// # Errors
    /// When columns are not there, patches are too alike, or sizes do not fit.
    pub(super) fn new(params: &mut Params, columns: &Columns, config: &PretrainConfig) -> Result<Self> {
        let p = &config.pretrain.fusion;
        let [image, text] = columns.image_and_text("pretrain.fusion.columns", p.columns.as_ref())?;
        let tokenizer = columns.plan.tokenizer.clone();
        let tokenizer = tokenizer.filter(Tokenizer::adds_special_tokens).ok_or_else(|| {
            let problem = "the tokenizer puts no tokens before and behind a text, so that nothing begins or ends one; use \
                           another, or let a vocabulary be learnt";
            Error::Config { place: "pretrain.fusion".into(), problem: problem.into() }
        })?;
        let codes = ImageCodes::learn(columns, image, config)?;
        let seed = config.train.seed;
        let hidden = p.hidden.unwrap_or_else(|| columns.towers[text].tower.hidden());
        let max_tokens = columns.fit.text.max_tokens + codes.each + 1;
        let sizes = Sizes { hidden, layers: p.layers, heads: (hidden / 32).max(1), max_tokens };
        let words = tokenizer.vocab_size();
        let mut json = gpt2(config, &sizes, &tokenizer);
        json["vocab_size"] = json!(words + p.codes + 1);
        let mut facts = codes.facts();
        (facts["first"], facts["codes"], facts["begin"]) = (json!(words), json!(p.codes), json!(words + p.codes));
        json["image_tokens"] = facts;
        let (_, parts) = describe(&Config::new("fusion", json.clone())?, Path::new("fusion"))?;
        let found = parts.into_iter().find_map(|part| match part.config {
            PartConfig::Decoder(decoder) => Some(decoder),
            _ => None,
        });
        let decoder = found.ok_or_else(|| Error::Request("GPT-2 has no decoder".into()))?;
        let model = Decoder::new(&mut Builder::new(params, seed).scope(SCOPE), &decoder)?;
        start(params, SCOPE, seed, Some(p.layers));
        Ok(Self {
            decoder: model,
            codes,
            image,
            text,
            words,
            weight: p.weight,
            image_weight: p.image_weight,
            config: json,
            tokenizer,
        })
    }

    /// The losses over the tokens of texts and those of pictures, each guessed
    /// from all before it. Which of the two comes first follows from `random`,
    /// so that each is learnt from the other.
    ///
    /// # Errors
    /// When a sequence is too long.
    pub(super) fn parts(&self, cx: &Context<'_>, read: &Read<'_>, random: Random, judged: bool) -> Result<Vec<Part>> {
        let (texts, images) = (&read.inputs.columns[self.text], &read.inputs.columns[self.image]);
        let Values::Tokens(tokens) = texts.values() else { return Ok(Vec::new()) };
        let both = read.both(self.image, self.text);
        if both.is_empty() {
            return Ok(Vec::new());
        }
        let codes = self.codes.of(images)?;
        let each = self.codes.each;
        let begin = (self.words + self.codes.codes()) as u32;
        let (mut ids, mut lengths) = (Vec::new(), Vec::new());
        for (sample, [image, text]) in both {
            let before = ids.len();
            let words = &tokens[texts.offsets().range(text as usize)];
            let own = &codes[image as usize * each..][..each];
            let picture = std::iter::once(begin).chain(own.iter().map(|code| self.words as u32 + code));
            if random.uniform(u64::from(sample)) < 0.5 {
                ids.extend(words);
                ids.extend(picture);
            } else {
                ids.extend(picture);
                ids.extend(words);
            }
            lengths.push(ids.len() - before);
        }
        let segments = Offsets::from_lengths(lengths);
        let hidden = self.decoder.hidden(cx, &ids, &segments, None)?;
        let next = following(&ids, &segments);
        let of = |wanted: &dyn Fn(u32) -> bool| -> Vec<Option<u32>> {
            next.iter().map(|id| id.filter(|id| wanted(*id))).collect()
        };
        let words = self.words as u32;
        let parts = [
            ("fusion_text", self.weight, of(&|id| id < words)),
            // That a picture begins is not counted among its tokens.
            ("fusion_image", self.weight * self.image_weight, of(&|id| id >= words && id != begin)),
        ];
        let mut losses = Vec::new();
        for (name, weight, next) in parts {
            let count = next.iter().flatten().count();
            if count == 0 {
                continue;
            }
            let loss = self.decoder.loss(cx, &hidden, &next)?;
            let hits = if judged { Some(causal_hits(cx, &self.decoder, &hidden, &next)?) } else { None };
            losses.push(Part { hits, tokens: true, ..Part::new(name, weight, loss, count) });
        }
        Ok(losses)
    }

    /// The configuration, and the tensors of the decoder under its family's
    /// names.
    ///
    /// # Errors
    /// When a name is not known.
    pub(super) fn export(&self, params: &Params) -> Result<(&Value, BTreeMap<String, Tensor>)> {
        let (_, parts) = describe(&Config::new("fusion", self.config.clone())?, Path::new("fusion"))?;
        let mut tensors = BTreeMap::new();
        for part in parts.iter().filter(|part| part.name == "decoder") {
            tensors.extend(part.keys.export(below(params, SCOPE))?);
        }
        Ok((&self.config, tensors))
    }

    /// How pictures become codes.
    pub(super) fn codes(&self) -> &ImageCodes {
        &self.codes
    }

    /// What is learnt, in words.
    pub(super) fn describe(&self) -> String {
        format!("a decoder over {} tokens of texts and {}", self.words, self.codes.describe())
    }
}
