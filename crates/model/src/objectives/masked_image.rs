//! Masked image modelling: what did the hidden patches show?
//!
//! SimMIM (Xie et al. 2022) puts a learned token in their place and reads
//! pixels off the encoder by one linear layer. A masked autoencoder (He et al.
//! 2022) shows the encoder nothing but the other patches, laid end to end, and
//! leaves the hidden ones to a light decoder.

use crate::layers::{BlockConfig, Linear};
use crate::towers::{ImageStem, ImageTower, ImageTowerConfig, ShownPatches};
use crate::{Context, ModelError, Result, Transformer, TransformerConfig};
use sensorium_engine::{Builder, Init, Offsets, ParamId, Tape, Tensor, Var, ops};

/// Added to the variance of a patch's pixels.
const PIXEL_EPS: f64 = 1e-6;

/// A loss over hidden patches, and how many there were.
pub struct HiddenLoss {
    /// The mean over their pixels: `[1]`.
    pub loss: Var,
    /// Hidden patches.
    pub patches: usize,
}

/// SimMIM's head.
#[derive(Debug, Clone)]
pub struct PixelHead {
    token: ParamId,
    output: Linear,
}

impl PixelHead {
    /// Creates `mask_token` `[1, hidden]` and `output` to the pixels of a
    /// patch, channels first.
    ///
    /// # Errors
    /// When names are taken.
    pub fn new(b: &mut Builder<'_>, c: &ImageTowerConfig) -> Result<Self> {
        let hidden = c.transformer.block.hidden;
        let token = b.param("mask_token", &[1, hidden], Init::Normal(0.02))?;
        let output = Linear::new(&mut b.scope("output"), hidden, pixels(c)?, true)?;
        Ok(Self { token, output })
    }

    /// The mean absolute error of the pixels of hidden patches; `hidden` is
    /// `[pictures · patches]`, `images` `[pictures, 3, size, size]`.
    ///
    /// # Errors
    /// When the shapes do not fit.
    pub fn loss(&self, cx: &Context<'_>, tower: &ImageTower, images: &Tensor, hidden: &[bool]) -> Result<HiddenLoss> {
        let token = cx.param(self.token);
        let (tokens, offsets) = tower.encode_shown(cx, images, ShownPatches::Replaced(hidden, &token))?;
        let special = tower.config().special_tokens();
        let places: Vec<u32> = offsets.ranges().flat_map(|r| (r.start + special) as u32..r.end as u32).collect();
        let rows = chosen(hidden, true);
        let asked: Vec<u32> = rows.iter().map(|row| places[*row as usize]).collect();
        let guessed = self.output.forward(cx, &ops::gather_rows(cx.tape, &tokens, &asked)?)?;
        let wanted = patches_of(images, tower.config(), &rows)?;
        Ok(HiddenLoss { loss: ops::mae(cx.tape, &guessed, wanted.data(), None)?, patches: rows.len() })
    }
}

/// Settings of a masked autoencoder's decoder.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PixelDecoderConfig {
    /// Width of its tokens.
    pub hidden: usize,
    /// Blocks.
    pub layers: usize,
    /// Attention heads.
    pub heads: usize,
    /// Width inside the feed-forward parts; 0 for 4 · `hidden`.
    pub intermediate: usize,
    /// Whether the pixels of each patch are normalised before they are
    /// compared.
    pub normalise: bool,
    /// Added to the variance in norms.
    pub norm_eps: f64,
}

/// A masked autoencoder's decoder.
#[derive(Debug, Clone)]
pub struct PixelDecoder {
    embed: Linear,
    token: ParamId,
    positions: ParamId,
    transformer: Transformer,
    output: Linear,
    normalise: bool,
}

impl PixelDecoder {
    /// Creates `embed`, `mask_token`, `positions` (sines and cosines of row
    /// and column, never trained), `layer.{i}`, `norm` and `output` to the
    /// pixels of a patch, channels last.
    ///
    /// # Errors
    /// When names are taken or sizes do not fit.
    pub fn new(b: &mut Builder<'_>, tower: &ImageTowerConfig, c: &PixelDecoderConfig) -> Result<Self> {
        if c.hidden == 0 || !c.hidden.is_multiple_of(4) {
            let problem = format!("{} is not a multiple of 4, which positions in two dimensions need", c.hidden);
            return Err(ModelError::config("decoder_hidden", problem));
        }
        let embed = Linear::new(&mut b.scope("embed"), tower.transformer.block.hidden, c.hidden, true)?;
        let token = b.param("mask_token", &[1, c.hidden], Init::Normal(0.02))?;
        let (special, side) = (tower.special_tokens(), tower.patches().isqrt());
        let positions = b.fixed("positions", &[special + tower.patches(), c.hidden], |i| {
            let (place, feature) = (i / c.hidden, i % c.hidden);
            place.checked_sub(special).map_or(0.0, |place| sinusoid((place / side, place % side), feature, c.hidden))
        })?;
        let block = BlockConfig {
            hidden: c.hidden,
            heads: c.heads,
            intermediate: c.intermediate,
            norm_eps: c.norm_eps,
            dropout: 0.0,
            attention_dropout: 0.0,
            ..BlockConfig::default()
        };
        let transformer =
            Transformer::new(b, &TransformerConfig { layers: c.layers, block, ..TransformerConfig::default() })?;
        let output = Linear::new(&mut b.scope("output"), c.hidden, pixels(tower)?, true)?;
        Ok(Self { embed, token, positions, transformer, output, normalise: c.normalise })
    }

    /// The mean squared error of the pixels of hidden patches, of which there
    /// must be as many in every picture; `hidden` is `[pictures · patches]`,
    /// `images` `[pictures, 3, size, size]`.
    ///
    /// # Errors
    /// When the shapes do not fit.
    pub fn loss(&self, cx: &Context<'_>, tower: &ImageTower, images: &Tensor, hidden: &[bool]) -> Result<HiddenLoss> {
        let (n, patches) = (images.dims()[0], tower.config().patches());
        let special = tower.config().special_tokens();
        let shown = chosen(hidden, false);
        let (tokens, offsets) = tower.encode_shown(cx, images, ShownPatches::Only(&shown))?;
        let x = self.embed.forward(cx, &tokens)?;
        // Every picture's tokens in their places, the mask token in the others.
        let all = ops::concat_rows(cx.tape, &[&x, &cx.param(self.token)])?;
        let mask = x.rows() as u32;
        let (mut rows, mut places) = (Vec::new(), Vec::new());
        for (picture, range) in offsets.ranges().enumerate() {
            let mut next = range.start as u32;
            for place in 0..special + patches {
                let hide = place >= special && hidden[picture * patches + place - special];
                rows.push(if hide { mask } else { next });
                next += u32::from(!hide);
                places.push(place as u32);
            }
        }
        let x = ops::gather_rows(cx.tape, &all, &rows)?;
        let x = ops::add_rows_broadcast(cx.tape, &x, &cx.param(self.positions), &places)?;
        let x = self.transformer.forward(cx, x, &Offsets::from_lengths(vec![special + patches; n]))?;
        let asked = chosen(hidden, true);
        let of = |row: u32| row / patches as u32 * (special + patches) as u32 + special as u32 + row % patches as u32;
        let asked_rows: Vec<u32> = asked.iter().map(|row| of(*row)).collect();
        let guessed = self.output.forward(cx, &ops::gather_rows(cx.tape, &x, &asked_rows)?)?;
        let mut wanted = patches_of(images, tower.config(), &asked)?;
        let width = wanted.shape().cols().max(1);
        for patch in wanted.data_mut().chunks_exact_mut(width) {
            channels_last(patch);
            if self.normalise {
                normalise(patch);
            }
        }
        Ok(HiddenLoss { loss: ops::mse(cx.tape, &guessed, wanted.data(), None)?, patches: asked.len() })
    }
}

/// The rows that are hidden, or those that are not.
fn chosen(hidden: &[bool], which: bool) -> Vec<u32> {
    (0..hidden.len() as u32).filter(|row| hidden[*row as usize] == which).collect()
}

/// Numbers in a patch.
fn pixels(c: &ImageTowerConfig) -> Result<usize> {
    let apart = c.patch_stride == 0 || c.patch_stride == c.patch_size;
    if !apart || c.stem == ImageStem::Conv && !c.image_size.is_multiple_of(c.patch_size) {
        let problem = "masked image modelling needs patches that do not overlap and fill the picture";
        return Err(ModelError::config("image tower", problem));
    }
    Ok(3 * c.patch_size * c.patch_size)
}

/// The pixels `[rows, 3 · patch²]` of some patches.
fn patches_of(images: &Tensor, c: &ImageTowerConfig, rows: &[u32]) -> Result<Tensor> {
    let (tape, side) = (Tape::inference(), (c.patch_size, c.patch_size));
    let patches = ops::unfold_patches(&tape, &Var::constant(images.clone()), side, side)?;
    Ok(ops::gather_rows(&tape, &patches, rows)?.into_value())
}

/// A patch with the three numbers of each pixel together.
fn channels_last(pixels: &mut [f32]) {
    let all = pixels.len() / 3;
    let first = pixels.to_vec();
    for (at, pixel) in pixels.chunks_exact_mut(3).enumerate() {
        pixel.iter_mut().enumerate().for_each(|(channel, x)| *x = first[channel * all + at]);
    }
}

/// A patch with mean 0 and variance 1.
fn normalise(pixels: &mut [f32]) {
    let n = pixels.len() as f64;
    let mean = pixels.iter().map(|x| f64::from(*x)).sum::<f64>() / n;
    let variance = pixels.iter().map(|x| (f64::from(*x) - mean).powi(2)).sum::<f64>() / (n - 1.0);
    let factor = 1.0 / (variance + PIXEL_EPS).sqrt();
    pixels.iter_mut().for_each(|x| *x = ((f64::from(*x) - mean) * factor) as f32);
}

/// A feature of the place (row, column): the first half of them is about the
/// column, the second about the row; in each, sines before cosines, at
/// wavelengths from 2π to 10000 · 2π.
fn sinusoid((row, column): (usize, usize), feature: usize, width: usize) -> f64 {
    let (half, quarter) = (width / 2, width / 4);
    let place = if feature < half { column } else { row } as f64;
    let within = feature % half;
    let angle = place / 10_000_f64.powf((within % quarter) as f64 / quarter as f64);
    if within < quarter { angle.sin() } else { angle.cos() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sensorium_engine::Params;

    fn tower_config() -> ImageTowerConfig {
        let block = BlockConfig { hidden: 12, heads: 2, dropout: 0.0, ..BlockConfig::default() };
        ImageTowerConfig {
            image_size: 12,
            patch_size: 4,
            class_token: true,
            transformer: TransformerConfig { layers: 1, block, ..TransformerConfig::default() },
            ..ImageTowerConfig::default()
        }
    }

    fn images() -> Tensor {
        let data: Vec<f32> = (0..2 * 3 * 144).map(|i| ((i * 37 % 101) as f32 / 50.0) - 1.0).collect();
        Tensor::from_slice(&[2, 3, 12, 12], &data).expect("fits")
    }

    /// Five of nine patches of each picture.
    fn hidden() -> Vec<bool> {
        (0..18).map(|i| i % 2 == usize::from(i >= 9)).collect()
    }

    #[test]
    fn hidden_pixels_are_not_seen_but_asked_for() -> Result<()> {
        let mut params = Params::new();
        let mut b = Builder::new(&mut params, 3);
        let c = tower_config();
        let tower = ImageTower::new(&mut b.scope("image"), &c)?;
        let simple = PixelHead::new(&mut b.scope("simple"), &c)?;
        let decoder =
            PixelDecoderConfig { hidden: 8, layers: 1, heads: 2, intermediate: 0, normalise: true, norm_eps: 1e-6 };
        let auto = PixelDecoder::new(&mut b.scope("auto"), &c, &decoder)?;
        let tape = Tape::inference();
        let cx = Context::inference(&tape, &params);
        let hidden = hidden();
        // Other pixels under the hidden patches change what is asked for, but
        // nothing that is guessed: without the target the states are the same.
        let mut other = images();
        for (i, x) in other.data_mut().iter_mut().enumerate() {
            let (picture, y, x_at) = (i / 432, i % 144 / 12, i % 12);
            if hidden[picture * 9 + y / 4 * 3 + x_at / 4] {
                *x += 0.5;
            }
        }
        let token = cx.param(simple.token);
        let states = |images: &Tensor| -> Result<(Vec<f32>, Vec<f32>)> {
            let replaced = tower.encode_shown(&cx, images, ShownPatches::Replaced(&hidden, &token))?.0;
            let rows = chosen(&hidden, false);
            let only = tower.encode_shown(&cx, images, ShownPatches::Only(&rows))?;
            assert_eq!(only.1.bounds(), [0, 5, 10]);
            Ok((replaced.data().to_vec(), only.0.data().to_vec()))
        };
        assert_eq!(states(&images())?, states(&other)?);
        let a = simple.loss(&cx, &tower, &images(), &hidden)?;
        let b = simple.loss(&cx, &tower, &other, &hidden)?;
        assert_eq!((a.patches, b.patches), (10, 10));
        assert_ne!(a.loss.value().scalar()?, b.loss.value().scalar()?);
        // Normalised patches do not tell how bright they are.
        let [a, b] = [images(), other].map(|i| auto.loss(&cx, &tower, &i, &hidden));
        assert!((a?.loss.value().scalar()? - b?.loss.value().scalar()?).abs() < 1e-4);
        Ok(())
    }

    #[test]
    fn every_parameter_gets_a_gradient() -> Result<()> {
        for auto in [false, true] {
            let mut params = Params::new();
            let mut b = Builder::new(&mut params, 3);
            let c = tower_config();
            let tower = ImageTower::new(&mut b.scope("image"), &c)?;
            let tape = Tape::new();
            let loss = if auto {
                let d = PixelDecoderConfig {
                    hidden: 8,
                    layers: 1,
                    heads: 2,
                    intermediate: 0,
                    normalise: true,
                    norm_eps: 1e-6,
                };
                let head = PixelDecoder::new(&mut b.scope("head"), &c, &d)?;
                head.loss(&Context::inference(&tape, &params), &tower, &images(), &hidden())?
            } else {
                let head = PixelHead::new(&mut b.scope("head"), &c)?;
                head.loss(&Context::inference(&tape, &params), &tower, &images(), &hidden())?
            };
            let gradients = tape.backward(&loss.loss)?;
            for (id, p) in params.iter().filter(|(_, p)| p.trainable) {
                assert!(gradients.param(id).is_some(), "{} has no gradient", p.name);
            }
        }
        Ok(())
    }
}
