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
        format!("a decoder of {} layers of {}, cross-attention to the picture", decoder["n_layer"], decoder["n_embd"])
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{assembled, batch, table};
    use super::*;
    use sensorium_engine::{Random, Tape};

    #[test]
    fn every_token_is_guessed_from_those_before_it_and_the_picture() -> Result<()> {
        let folder = tempfile::tempdir().expect("folder");
        table(folder.path());
        let assembly = assembled(folder.path(), &[])?;
        let (batch, network, tape) = (batch(&assembly), &assembly.network, Tape::inference());
        let cx = Context::inference(&tape, &network.params);
        let parts = network.parts(&cx, &batch, Random::new(1), false)?;
        let part = parts.iter().find(|part| part.name == "caption").expect("captions");
        let together = network.together.as_ref().expect("columns");
        let captioning = together.captioning().expect("captions");
        let inputs = &batch.rows.as_ref().expect("rows").batch.inputs;
        let tower = together.image(captioning.image).expect("a ViT");
        let (tokens, pictures, _) = tower.forward(&cx, &inputs.columns[captioning.image])?;
        let texts = &inputs.columns[captioning.text];
        let Values::Tokens(ids) = texts.values() else { panic!("{} are no texts", texts.values().kind()) };
        // By definition: what stands before a token, and one picture, alone.
        let (mut sum, mut asked) = (0.0, 0);
        for sample in 0..inputs.samples {
            let (memory, of) = of_segments(&cx, (&tokens, &pictures), [sample as u32])?;
            let text = &ids[texts.offsets().range(sample)];
            for at in 1..text.len() {
                let before = Offsets::from_lengths([at]);
                let hidden = captioning.decoder.hidden(&cx, &text[..at], &before, Some((&memory, &of)))?;
                let scores = captioning.decoder.logits(&cx, &hidden)?;
                let last = scores.data().chunks_exact(scores.data().len() / at).next_back().expect("scores");
                sum += last.iter().map(|x| f64::from(*x).exp()).sum::<f64>().ln() - f64::from(last[text[at] as usize]);
                asked += 1;
            }
        }
        let loss = f64::from(part.loss.value().scalar()?);
        assert_eq!(part.count, asked);
        assert!((loss - sum / asked as f64).abs() < 1e-5, "{loss} is not {}", sum / asked as f64);
        Ok(())
    }
}
