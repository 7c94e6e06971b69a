//! The model under its objectives: what is trained.

use super::part::{Part, causal_hits, count, following};
use super::pictures::ImageStructure;
use super::sounds::AudioStructure;
use super::source::{Batch, TextBatch};
use super::start::{copy_into, fill, start};
use super::structure::{TextModel, TextStructure};
use super::together::Together;
use crate::{Error, Result};
use sensorium_engine::{Builder, Params, Random, Tape, Tensor, Var, ops};
use sensorium_model::objectives::{
    MaskedLanguageHead, PatchMasking, PixelDecoder, PixelHead, SquareHead, TokenMasking, Vocabulary,
};
use sensorium_model::towers::{AudioTower, ImageTower, TextTower};
use sensorium_model::{ColumnInput, Context, Decoder, Values};
use sensorium_train::{BoxError, StepContext, StepLoss, Trainable};

/// Below which the parameters of the text model stand, where it is not a column's tower.
const TEXT: &str = "text";
/// Below which those of its head stand.
pub(super) const TEXT_HEAD: &str = "text_head";
/// Likewise of the image model.
const IMAGE: &str = "image";
/// Below which those of its head or decoder stand.
pub(super) const IMAGE_HEAD: &str = "image_head";
/// Likewise of the model of sounds.
const AUDIO: &str = "audio";
/// Below which those of its head stand, which is of no more use afterwards.
const AUDIO_HEAD: &str = "audio_head";

/// Below which the towers' parameters stand.
pub(super) struct Scopes {
    pub text: String,
    pub image: String,
    pub audio: String,
    /// Of the frames of videos.
    pub frames: String,
}

/// Towers, their objectives, and all weights.
pub(super) struct Network {
    pub params: Params,
    text: Option<Text>,
    image: Option<Image>,
    audio: Option<Audio>,
    pub together: Option<Together>,
    pub scopes: Scopes,
    pub gradient_checkpointing: bool,
}

/// A model of pictures and what it learns.
struct Image {
    tower: ImageTower,
    pixels: Pixels,
    masking: PatchMasking,
    weight: f64,
}

/// A model of sounds and what it learns.
struct Audio {
    tower: AudioTower,
    head: SquareHead,
    masking: PatchMasking,
    weight: f64,
}

/// What guesses the pixels.
enum Pixels {
    /// A linear layer over the encoder.
    Head(PixelHead),
    /// A decoder of its own.
    Decoder(Box<PixelDecoder>),
}

/// A model of a text and what it learns.
#[expect(clippy::large_enum_variant, reason = "a run has one, never many")]
enum Text {
    /// Hidden tokens are guessed from both sides.
    Masked { tower: TextTower, head: MaskedLanguageHead, masking: TokenMasking, vocabulary: Vocabulary, weight: f64 },
    /// Each token is guessed from those before it.
    Causal { decoder: Decoder, weight: f64 },
}

impl Network {
    /// Nothing to learn yet.
    pub(super) fn new(gradient_checkpointing: bool) -> Self {
        let scopes = Scopes { text: TEXT.into(), image: IMAGE.into(), audio: AUDIO.into(), frames: String::new() };
        let params = Params::new();
        Self { params, text: None, image: None, audio: None, together: None, scopes, gradient_checkpointing }
    }

    /// Adds the model of a text, from scratch or with the checkpoint's weights,
    /// or over the tower of a column that is `shared`;
    /// says whether its head is new where the checkpoint had none.
    ///
    /// # Errors
    /// When sizes do not fit, or tensors are missing.
    pub(super) fn add_text(
        &mut self,
        structure: &TextStructure,
        shared: Option<TextTower>,
        masking: TokenMasking,
        weight: f64,
        seed: u64,
    ) -> Result<bool> {
        let params = &mut self.params;
        let mut new_head = false;
        let text = match &structure.model {
            TextModel::Masked { tower: tower_config, head: head_config, .. } => {
                let tower = match shared {
                    Some(tower) => tower,
                    None => {
                        let tower = TextTower::new(&mut Builder::new(params, seed).scope(TEXT), tower_config)?;
                        structure.fill(params, TEXT, seed)?;
                        tower
                    }
                };
                let head = MaskedLanguageHead::new(&mut Builder::new(params, seed).scope(TEXT_HEAD), head_config)?;
                start(params, TEXT_HEAD, seed, None);
                if let Some(source) = &structure.source {
                    new_head = source.part("masked_lm").is_err();
                    if !new_head {
                        let mut values = Params::new();
                        source.load_into(&mut values, "masked_lm", |b| MaskedLanguageHead::new(b, head_config))?;
                        copy_into(params, TEXT_HEAD, &values)?;
                    }
                }
                let tokenizer = &structure.tokenizer;
                let mask = tokenizer.mask_token().ok_or_else(|| Error::Config {
                    place: "pretrain.mlm".into(),
                    problem: "the tokenizer has no [MASK] or <mask> to hide tokens behind; use another, or let a vocabulary be learnt".into(),
                })?;
                let size = tower_config.vocab_size.min(tokenizer.vocab_size());
                let vocabulary = Vocabulary { size, mask, special: tokenizer.special_tokens() };
                Text::Masked { tower, head, masking, vocabulary, weight }
            }
            TextModel::Causal(config) => {
                let decoder = Decoder::new(&mut Builder::new(params, seed).scope(TEXT), config)?;
                start(params, TEXT, seed, Some(config.transformer.layers));
                if let Some(source) = &structure.source {
                    let mut values = Params::new();
                    source.load_decoder("decoder", &mut values)?;
                    copy_into(params, TEXT, &values)?;
                }
                Text::Causal { decoder, weight }
            }
        };
        self.text = Some(text);
        Ok(new_head)
    }

    /// Adds the model of pictures, likewise.
    ///
    /// # Errors
    /// When sizes do not fit, or tensors are missing.
    pub(super) fn add_image(
        &mut self,
        structure: &ImageStructure,
        shared: Option<ImageTower>,
        masking: PatchMasking,
        weight: f64,
        seed: u64,
    ) -> Result<bool> {
        let params = &mut self.params;
        let c = &structure.tower;
        let build = |b: &mut Builder<'_>| {
            Ok(match &structure.decoder {
                Some(decoder) => Pixels::Decoder(Box::new(PixelDecoder::new(b, c, decoder)?)),
                None => Pixels::Head(PixelHead::new(b, c)?),
            })
        };
        let tower = match shared {
            Some(tower) => tower,
            None => {
                let tower = ImageTower::new(&mut Builder::new(params, seed).scope(IMAGE), c)?;
                fill(params, IMAGE, seed, structure.source.as_ref(), "image", |b| ImageTower::new(b, c))?;
                tower
            }
        };
        let pixels = build(&mut Builder::new(params, seed).scope(IMAGE_HEAD))?;
        start(params, IMAGE_HEAD, seed, None);
        let mut new_head = false;
        if let Some(source) = &structure.source {
            let theirs = source.config().str_or("model_type", "")?;
            new_head = source.part("masked_image").is_err() || structure.config["model_type"] != theirs;
            if !new_head {
                let mut values = Params::new();
                source.load_into(&mut values, "masked_image", build)?;
                copy_into(params, IMAGE_HEAD, &values)?;
            }
        }
        self.image = Some(Image { tower, pixels, masking, weight });
        Ok(new_head)
    }

    /// Adds the model of sounds, likewise; its head is always new.
    ///
    /// # Errors
    /// When sizes do not fit, or tensors are missing.
    pub(super) fn add_audio(
        &mut self,
        structure: &AudioStructure,
        shared: Option<AudioTower>,
        masking: PatchMasking,
        weight: f64,
        seed: u64,
    ) -> Result<()> {
        let params = &mut self.params;
        let c = &structure.tower;
        let tower = match shared {
            Some(tower) => tower,
            None => {
                let tower = AudioTower::new(&mut Builder::new(params, seed).scope(AUDIO), c)?;
                fill(params, AUDIO, seed, structure.source.as_ref(), "audio", |b| AudioTower::new(b, c))?;
                tower
            }
        };
        let head = SquareHead::new(&mut Builder::new(params, seed).scope(AUDIO_HEAD), c)?;
        start(params, AUDIO_HEAD, seed, None);
        self.audio = Some(Audio { tower, head, masking, weight });
        Ok(())
    }

    /// Whether hidden tokens, or the next ones, are guessed.
    pub(super) fn learns_text(&self) -> bool {
        self.text.is_some()
    }

    /// Whether hidden patches are guessed.
    pub(super) fn learns_images(&self) -> bool {
        self.image.is_some()
    }

    /// The losses of a batch. What is hidden follows from `masks`.
    ///
    /// # Errors
    /// When the batch does not fit the model.
    pub(super) fn parts(&self, cx: &Context<'_>, batch: &Batch, masks: Random, judged: bool) -> Result<Vec<Part>> {
        let mut parts = Vec::new();
        if let (Some(text), Some(batch)) = (&self.text, &batch.text) {
            parts.push(text.part(cx, batch, masks, judged)?);
        }
        if let (Some(image), Some(pictures)) = (&self.image, &batch.images) {
            parts.push(image.part(cx, pictures, masks)?);
        }
        if let (Some(audio), Some(sounds)) = (&self.audio, &batch.sounds) {
            parts.push(audio.part(cx, sounds, masks)?);
        }
        if let (Some(together), Some(rows)) = (&self.together, &batch.rows) {
            parts.extend(together.parts(cx, rows, masks, judged)?);
        }
        Ok(parts)
    }

    /// Tokens and patches of a batch.
    pub(super) fn tokens(&self, batch: &Batch) -> usize {
        let patches = self.image.as_ref().map_or(0, |i| i.tower.config().tokens());
        let squares = match (&self.audio, &batch.sounds) {
            (Some(audio), Some(sounds)) => audio.tower.grids(sounds.offsets()).iter().map(|(a, b)| a * b).sum(),
            _ => 0,
        };
        batch.text.as_ref().map_or(0, |t| t.ids.len())
            + batch.images.as_ref().map_or(0, |i| i.dims()[0] * patches)
            + squares
            + self.together.as_ref().zip(batch.rows.as_ref()).map_or(0, |(together, rows)| together.tokens(rows))
    }
}

impl Audio {
    fn part(&self, cx: &Context<'_>, sounds: &ColumnInput, masks: Random) -> Result<Part> {
        let hidden = self.masking.apply(&self.tower.grids(sounds.offsets()), masks.purpose("msm"));
        let hidden = self.head.loss(cx, &self.tower, sounds, &hidden)?;
        Ok(Part::new("msm", self.weight, hidden.loss, hidden.patches))
    }
}

impl Image {
    fn part(&self, cx: &Context<'_>, pictures: &Tensor, masks: Random) -> Result<Part> {
        let side = self.tower.config().patches().isqrt();
        let hidden = self.masking.apply(&vec![(side, side); pictures.dims()[0]], masks.purpose("mim"));
        let hidden = match &self.pixels {
            Pixels::Head(head) => head.loss(cx, &self.tower, pictures, &hidden)?,
            Pixels::Decoder(decoder) => decoder.loss(cx, &self.tower, pictures, &hidden)?,
        };
        Ok(Part::new("mim", self.weight, hidden.loss, hidden.patches))
    }
}

impl Text {
    fn part(&self, cx: &Context<'_>, batch: &TextBatch, masks: Random, judged: bool) -> Result<Part> {
        let segments = &batch.segments;
        Ok(match self {
            Self::Masked { tower, head, masking, vocabulary, weight } => {
                let masked = masking.apply(&batch.ids, segments, &batch.continues, vocabulary, masks.purpose("mlm"));
                let samples = (0..segments.segments() as u32).collect();
                let column = ColumnInput::new(samples, segments.clone(), Values::Tokens(masked.ids))?;
                let (tokens, _, _) = tower.forward(cx, &column)?;
                let table = tower.word_embeddings();
                let loss = head.loss(cx, &tokens, table, &masked.targets)?;
                let hits = match judged {
                    true => Some(count(head.hits(cx, &tokens, table, &masked.targets)?)),
                    false => None,
                };
                let count = masked.targets.iter().flatten().count();
                Part { hits, tokens: true, ..Part::new("mlm", *weight, loss, count) }
            }
            Self::Causal { decoder, weight } => {
                let next = following(&batch.ids, segments);
                let hidden = decoder.hidden(cx, &batch.ids, segments, None)?;
                let loss = decoder.loss(cx, &hidden, &next)?;
                let hits = if judged { Some(causal_hits(cx, decoder, &hidden, &next)?) } else { None };
                let count = next.iter().flatten().count();
                Part { hits, tokens: true, ..Part::new("clm", *weight, loss, count) }
            }
        })
    }
}

impl Trainable for Network {
    type Batch = Batch;

    fn params(&self) -> &Params {
        &self.params
    }

    fn params_mut(&mut self) -> &mut Params {
        &mut self.params
    }

    fn loss(&self, tape: &Tape, batch: &Batch, step: &StepContext) -> std::result::Result<StepLoss, BoxError> {
        let run = || -> Result<StepLoss> {
            let cx = if step.training {
                Context::training(tape, &self.params, step.random).checkpointing(self.gradient_checkpointing)
            } else {
                Context::inference(tape, &self.params)
            };
            let parts = self.parts(&cx, batch, step.random.purpose("masks"), false)?;
            let mut named = Vec::with_capacity(parts.len());
            let mut total: Option<Var> = None;
            for part in &parts {
                named.push((part.name.to_owned(), f64::from(part.loss.value().scalar()?)));
                named.extend(part.details.iter().cloned());
                let weighted = match part.weight {
                    1.0 => part.loss.clone(),
                    weight => ops::scale(tape, &part.loss, weight)?,
                };
                total = Some(match total {
                    Some(total) => ops::add(tape, &total, &weighted)?,
                    None => weighted,
                });
            }
            // One objective is a mean over its guesses; several, over samples.
            let samples = batch.samples();
            let weight = match &parts[..] {
                [only] => only.count,
                _ => samples,
            };
            // A batch of rows without a picture says nothing.
            let (loss, weight) = total.map_or_else(|| (Var::constant(Tensor::zeros(&[1])), 0), |loss| (loss, weight));
            Ok(StepLoss { loss, parts: named, weight: weight as f64, samples, tokens: self.tokens(batch) })
        };
        run().map_err(|e: Error| e.into())
    }

    fn after_update(&mut self) {
        if let Some(together) = &self.together {
            together.after_update(&mut self.params);
        }
    }
}
