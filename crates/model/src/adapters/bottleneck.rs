//! Bottleneck adapters.

use crate::{Context, Result};
use sensorium_engine::{Activation, ParamId, Var, ops};

/// s·(f(h·Dᵀ + d)·Uᵀ + u)
#[derive(Debug, Clone)]
pub(crate) struct Bottleneck {
    /// D `[width, hidden]`
    pub down: ParamId,
    /// d `[width]`
    pub down_bias: ParamId,
    /// U `[hidden, width]`
    pub up: ParamId,
    /// u `[hidden]`
    pub up_bias: ParamId,
    pub activation: Activation,
    pub scale: f64,
}

impl Bottleneck {
    /// `[tokens, hidden]` to what is added to the tokens.
    pub fn forward(&self, cx: &Context<'_>, h: &Var) -> Result<Var> {
        let (down, down_bias) = (cx.param(self.down), cx.param(self.down_bias));
        let inner = ops::linear(cx.tape, h, &down, Some(&down_bias), self.activation)?;
        let (up, up_bias) = (cx.param(self.up), cx.param(self.up_bias));
        let y = ops::linear(cx.tape, &inner, &up, Some(&up_bias), Activation::Identity)?;
        if self.scale == 1.0 { Ok(y) } else { Ok(ops::scale(cx.tape, &y, self.scale)?) }
    }

    /// Its parameters.
    pub fn parameters(&self) -> [ParamId; 4] {
        [self.down, self.down_bias, self.up, self.up_bias]
    }
}
