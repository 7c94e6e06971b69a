//! Text and pictures as one sequence of tokens: those of a picture are codes of
//! its patches, numbered behind those of the text.

use super::columns::Columns;
use super::config::PretrainConfig;
use super::network::{Part, causal_hits, following};
use super::structure::{Sizes, below, gpt2, start};
use super::together::Read;
use crate::{Error, Result};
use sensorium_data::{Processor, Tokenizer};
use sensorium_engine::{Builder, Offsets, Params, Random, Tape, Tensor, Var, ops};
use sensorium_model::objectives::Codebook;
use sensorium_model::pretrained::{Config, PartConfig, describe};
use sensorium_model::{Context, Decoder, Values};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::Path;

/// Below which the decoder's parameters stand.
const SCOPE: &str = "fusion";
/// Patches that the codebook is learnt from, at most.
const MAX_PATCHES: usize = 20_000;

/// A language model over spliced texts and pictures.
pub(super) struct Fusion {
    decoder: Decoder,
    codebook: Codebook,
    pub image: usize,
    pub text: usize,
    patch: usize,
    /// Tokens of texts; behind them stand the codes, then the token before a picture.
    words: usize,
    weight: f64,
    image_weight: f64,
    /// The `config.json`.
    config: Value,
    pub tokenizer: Tokenizer,
}

impl Fusion {
    /// Learns the codebook of the training pictures' patches, and adds the
    /// decoder to `params`.
    ///
    /// # Errors
    /// When columns are not there, patches are too alike, or sizes do not fit.
    pub(super) fn new(params: &mut Params, columns: &Columns, config: &PretrainConfig) -> Result<Self> {
        let p = &config.pretrain.fusion;
        let [image, text] = columns.image_and_text("pretrain.fusion.columns", p.columns.as_ref())?;
        let wrong = |key: &str, problem: String| Error::Config { place: format!("pretrain.fusion.{key}"), problem };
        let tokenizer = columns.plan.tokenizer.clone();
        let tokenizer = tokenizer.filter(Tokenizer::adds_special_tokens).ok_or_else(|| {
            let problem = "the tokenizer puts no tokens before and behind a text, so that nothing begins or ends one; use \
                           another, or let a vocabulary be learnt";
            Error::Config { place: "pretrain.fusion".into(), problem: problem.into() }
        })?;
        let Processor::Image(processor) = &columns.plan.columns[image].processor else {
            return Err(wrong("columns", "the first is no column of pictures".into()));
        };
        let size = processor.size;
        let patch = p.patch_size.unwrap_or((size / 8).max(1));
        if patch == 0 || !size.is_multiple_of(patch) {
            return Err(wrong("patch_size", format!("{patch} does not divide the {size} pixels of a picture")));
        }
        let seed = config.train.seed;
        let patches = training_patches(columns, image, (size, patch))?;
        let random = Random::new(seed).purpose("codebook");
        let codebook =
            Codebook::fit(&patches, p.codes, p.iterations, random).map_err(|e| wrong("codes", e.to_string()))?;
        let tokens = size / patch * (size / patch);
        let hidden = p.hidden.unwrap_or_else(|| columns.towers[text].tower.hidden());
        let max_tokens = columns.fit.text.max_tokens + tokens + 1;
        let sizes = Sizes { hidden, layers: p.layers, heads: (hidden / 32).max(1), max_tokens };
        let words = tokenizer.vocab_size();
        let mut json = gpt2(config, &sizes, &tokenizer);
        json["vocab_size"] = json!(words + p.codes + 1);
        json["image_tokens"] = json!({
            "first": words,
            "codes": p.codes,
            "begin": words + p.codes,
            "patch_size": patch,
            "image_size": size,
        });
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
            codebook,
            image,
            text,
            patch,
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
        let (Values::Tokens(tokens), Values::Images(pixels)) = (texts.values(), images.values()) else {
            return Ok(Vec::new());
        };
        let both = read.both(self.image, self.text);
        if both.is_empty() {
            return Ok(Vec::new());
        }
        let codes = self.codebook.nearest(&patches(pixels, self.patch)?)?;
        let each = codes.len() / pixels.dims()[0].max(1);
        let begin = (self.words + self.codebook.codes()) as u32;
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

    /// The configuration, the tensors of the decoder under its family's names,
    /// and the centres of the codes.
    ///
    /// # Errors
    /// When a name is not known.
    pub(super) fn export(&self, params: &Params) -> Result<(&Value, BTreeMap<String, Tensor>, &Tensor)> {
        let (_, parts) = describe(&Config::new("fusion", self.config.clone())?, Path::new("fusion"))?;
        let mut tensors = BTreeMap::new();
        for part in parts.iter().filter(|part| part.name == "decoder") {
            tensors.extend(part.keys.export(below(params, SCOPE))?);
        }
        Ok((&self.config, tensors, self.codebook.centres()))
    }

    /// What is learnt, in words.
    pub(super) fn describe(&self) -> String {
        format!(
            "fusion: a decoder over {} tokens of texts and {} codes of patches of {} pixels",
            self.words,
            self.codebook.codes(),
            self.patch
        )
    }
}

/// Pictures `[n, 3, size, size]` to patches `[n · patches, 3 · patch²]`.
fn patches(pixels: &Tensor, patch: usize) -> Result<Tensor> {
    let patches =
        ops::unfold_patches(&Tape::inference(), &Var::constant(pixels.clone()), (patch, patch), (patch, patch))?;
    Ok(patches.into_value())
}

/// Patches of training pictures, spread evenly over the rows.
fn training_patches(columns: &Columns, image: usize, (size, patch): (usize, usize)) -> Result<Tensor> {
    let each = (size / patch).pow(2);
    let rows = &columns.dataset.splits.train;
    let every = (rows.len() * each).div_ceil(MAX_PATCHES).max(1);
    let rows: Vec<u64> = rows.iter().step_by(every).copied().collect();
    let loader = columns.dataset.in_order(&columns.plan, &rows, &columns.fit, false)?;
    let (mut data, width) = (Vec::new(), 3 * patch * patch);
    for pack in loader.epoch(0, 0) {
        let batch = crate::Batch::new(pack?)?;
        if let Values::Images(pixels) = batch.inputs.columns[image].values()
            && pixels.dims()[0] > 0
        {
            data.extend_from_slice(patches(pixels, patch)?.data());
        }
    }
    Ok(Tensor::from_slice(&[data.len() / width, width], &data)?)
}
