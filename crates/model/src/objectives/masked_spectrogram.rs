//! Masked spectrogram modelling (SSAST, Gong et al. 2022; after SimMIM): what
//! did the hidden squares of a spectrogram hold?

use super::HiddenLoss;
use crate::layers::Linear;
use crate::towers::{AudioStem, AudioTower, AudioTowerConfig};
use crate::{ColumnInput, Context, ModelError, Result};
use sensorium_engine::{Builder, Init, ParamId, Tape, ops};

/// A learned token in place of hidden squares, and a linear layer from the
/// encoder to the numbers of a square.
#[derive(Debug, Clone)]
pub struct SquareHead {
    token: ParamId,
    output: Linear,
}

impl SquareHead {
    /// Creates `mask_token` `[1, hidden]` and `output` to the numbers of a
    /// square, band by band.
    ///
    /// # Errors
    /// When names are taken, or the tower has no squares that lie side by side.
    pub fn new(b: &mut Builder<'_>, c: &AudioTowerConfig) -> Result<Self> {
        let apart =
            |s: &crate::towers::SpectrogramPatchesConfig| s.frequency_stride == s.size && s.time_stride == s.size;
        let AudioStem::Patches(squares) = &c.stem else {
            return Err(ModelError::config("audio tower", "masked spectrogram modelling needs a stem of squares"));
        };
        if !apart(squares) {
            let problem = "masked spectrogram modelling needs squares that do not overlap: frequency_stride and \
                           time_stride must be patch_size";
            return Err(ModelError::config("audio tower", problem));
        }
        let hidden = c.transformer.block.hidden;
        let token = b.param("mask_token", &[1, hidden], Init::Normal(0.02))?;
        let output = Linear::new(&mut b.scope("output"), hidden, squares.size * squares.size, true)?;
        Ok(Self { token, output })
    }

    /// The mean squared error of the numbers in hidden squares; `hidden` says
    /// of every square of [`AudioTower::grids`], row by row, whether it is.
    ///
    /// # Errors
    /// When the shapes do not fit.
    pub fn loss(
        &self,
        cx: &Context<'_>,
        tower: &AudioTower,
        sounds: &ColumnInput,
        hidden: &[bool],
    ) -> Result<HiddenLoss> {
        let token = cx.param(self.token);
        let (tokens, places) = tower.encode_hidden(cx, sounds, hidden, &token)?;
        let rows: Vec<u32> = (0..hidden.len() as u32).filter(|row| hidden[*row as usize]).collect();
        let asked: Vec<u32> = rows.iter().map(|row| places[*row as usize]).collect();
        let guessed = self.output.forward(cx, &ops::gather_rows(cx.tape, &tokens, &asked)?)?;
        let tape = Tape::inference();
        let wanted = ops::gather_rows(&tape, &tower.squares(sounds)?, &rows)?;
        Ok(HiddenLoss { loss: ops::mse(cx.tape, &guessed, wanted.data(), None)?, patches: rows.len() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::towers::SpectrogramPatchesConfig;
    use crate::{BlockConfig, TransformerConfig, Values};
    use sensorium_engine::{Offsets, Params, Tensor};

    fn config(stride: usize) -> AudioTowerConfig {
        let block = BlockConfig { hidden: 12, heads: 2, dropout: 0.0, ..BlockConfig::default() };
        AudioTowerConfig {
            mels: 8,
            stem: AudioStem::Patches(SpectrogramPatchesConfig {
                size: 4,
                frequency_stride: stride,
                time_stride: stride,
            }),
            max_positions: 20,
            transformer: TransformerConfig { layers: 1, block, ..TransformerConfig::default() },
            ..AudioTowerConfig::default()
        }
    }

    /// Two sounds, of 4 × 2 and 2 × 2 squares.
    fn sounds(add: f32) -> ColumnInput {
        let offsets = Offsets::from_lengths([17, 8]);
        let data: Vec<f32> = (0..25 * 8)
            // The square of the first two rows of bands and the first four frames is changed.
            .map(|i| ((i * 37 % 101) as f32 / 50.0) - 1.0 + if i / 8 < 4 && i % 8 < 4 { add } else { 0.0 })
            .collect();
        let frames = Tensor::from_slice(&[25, 8], &data).expect("fits");
        ColumnInput::new(vec![0, 1], offsets, Values::Audio(frames)).expect("packed")
    }

    #[test]
    fn hidden_squares_are_not_seen_but_asked_for() -> Result<()> {
        let mut params = Params::new();
        let mut b = Builder::new(&mut params, 3);
        let tower = AudioTower::new(&mut b.scope("audio"), &config(4))?;
        let head = SquareHead::new(&mut b.scope("head"), &config(4))?;
        assert_eq!(tower.grids(sounds(0.0).offsets()), [(2, 4), (2, 2)]);
        let hidden: Vec<bool> = (0..12).map(|i| i % 3 == 0).collect();
        let tape = Tape::new();
        let cx = Context::inference(&tape, &params);
        let token = cx.param(head.token);
        let states =
            |add| Ok::<_, ModelError>(tower.encode_hidden(&cx, &sounds(add), &hidden, &token)?.0.data().to_vec());
        assert_eq!(states(0.0)?, states(0.5)?, "the first square is hidden");
        let loss = |add| head.loss(&cx, &tower, &sounds(add), &hidden);
        let (a, b) = (loss(0.0)?, loss(0.5)?);
        assert_eq!(a.patches, 4);
        assert_ne!(a.loss.value().scalar()?, b.loss.value().scalar()?);
        drop(cx);
        let gradients = tape.backward(&a.loss)?;
        for (id, p) in params.iter().filter(|(_, p)| p.trainable) {
            assert!(gradients.param(id).is_some(), "{} has no gradient", p.name);
        }
        Ok(())
    }

    #[test]
    fn squares_that_overlap_are_refused() {
        let mut params = Params::new();
        let error = SquareHead::new(&mut Builder::new(&mut params, 3), &config(3)).expect_err("overlap").to_string();
        assert!(error.contains("do not overlap"), "{error}");
    }
}
