//! Convolutions along time.

use crate::{Context, Result};
use sensorium_engine::{Activation, Builder, Init, Offsets, ParamId, Var, ops};

/// A convolution within each segment.
#[derive(Debug, Clone)]
pub struct TimeConvolution {
    weight: ParamId,
    bias: Option<ParamId>,
    windows: ops::Convolution1d,
}

impl TimeConvolution {
    /// Creates `weight` `[outputs, channels / groups · kernel]` and, if
    /// wanted, `bias` `[outputs]`.
    ///
    /// # Errors
    /// When the names are taken.
    pub fn new(
        b: &mut Builder<'_>,
        channels: usize,
        outputs: usize,
        windows: ops::Convolution1d,
        bias: bool,
    ) -> Result<Self> {
        let weight = b.param("weight", &[outputs, channels / windows.groups.max(1) * windows.kernel], Init::Xavier)?;
        let bias = if bias { Some(b.param("bias", &[outputs], Init::Constant(0.0))?) } else { None };
        Ok(Self { weight, bias, windows })
    }

    /// `[rows, channels]` to `[windows, outputs]` and its offsets.
    ///
    /// # Errors
    /// When the shapes do not fit.
    pub fn forward(&self, cx: &Context<'_>, x: &Var, offsets: &Offsets) -> Result<(Var, Offsets)> {
        let bias = self.bias.map(|b| cx.param(b));
        Ok(ops::conv_1d(cx.tape, x, offsets, &cx.param(self.weight), bias.as_ref(), self.windows)?)
    }
}

/// Positions as a convolution of the tokens in groups (Baevski et al. 2020),
/// its weight in directions and lengths for each place of the kernel.
#[derive(Debug, Clone)]
pub struct ConvolutionPositions {
    direction: ParamId,
    length: ParamId,
    bias: ParamId,
    windows: ops::Convolution1d,
    activation: Activation,
}

impl ConvolutionPositions {
    /// Creates `direction` `[hidden, hidden / groups · kernel]`, `length`
    /// `[kernel]` and `bias` `[hidden]`.
    ///
    /// # Errors
    /// When the names are taken.
    pub fn new(
        b: &mut Builder<'_>,
        hidden: usize,
        kernel: usize,
        groups: usize,
        activation: Activation,
    ) -> Result<Self> {
        let inputs = hidden / groups.max(1);
        let start = 2.0 * (inputs as f64 / kernel.max(1) as f64).sqrt();
        // As many windows as tokens: with an even kernel one row less after
        // the end than before the beginning.
        let padding = (kernel / 2, (kernel / 2).saturating_sub(usize::from(kernel.is_multiple_of(2))));
        Ok(Self {
            direction: b.param("direction", &[hidden, inputs * kernel], Init::Normal(0.02))?,
            length: b.param("length", &[kernel], Init::Constant(start))?,
            bias: b.param("bias", &[hidden], Init::Constant(0.0))?,
            windows: ops::Convolution1d { kernel, stride: 1, padding, groups },
            activation,
        })
    }

    /// x + f(convolution of x): `[tokens, hidden]` to the same.
    ///
    /// # Errors
    /// When the shapes do not fit.
    pub fn add(&self, cx: &Context<'_>, x: &Var, offsets: &Offsets) -> Result<Var> {
        let direction = cx.param(self.direction);
        let (rows, cols) = (direction.rows(), direction.cols());
        let kernel = self.windows.kernel;
        let by_place = ops::reshape(cx.tape, &direction, &[rows * cols / kernel, kernel])?;
        let weight = ops::weight_norm(cx.tape, &by_place, &cx.param(self.length))?;
        let weight = ops::reshape(cx.tape, &weight, &[rows, cols])?;
        let (y, _) = ops::conv_1d(cx.tape, x, offsets, &weight, Some(&cx.param(self.bias)), self.windows)?;
        let y = ops::activate(cx.tape, &y, self.activation)?;
        Ok(ops::add(cx.tape, x, &y)?)
    }
}
