//! The last step from a tower's vector to a space that towers share.

use crate::layers::{ActivationName, Linear};
use crate::{Context, Result};
use sensorium_engine::{Builder, Var};

/// One linear layer (CLIP), or two with an activation between them (CLAP).
#[derive(Debug, Clone)]
pub(super) struct Projection {
    inner: Option<(Linear, ActivationName)>,
    outer: Linear,
}

impl Projection {
    /// Creates `weight` and, if wanted, `bias`; with an activation also
    /// `inner`, both then as wide as the result.
    pub(super) fn new(
        b: &mut Builder<'_>,
        hidden: usize,
        dim: usize,
        bias: bool,
        activation: Option<ActivationName>,
    ) -> Result<Self> {
        let inner = match activation {
            Some(f) => Some((Linear::new(&mut b.scope("inner"), hidden, dim, bias)?, f)),
            None => None,
        };
        let width = if inner.is_some() { dim } else { hidden };
        Ok(Self { inner, outer: Linear::new(b, width, dim, bias)? })
    }

    /// `[rows, hidden]` to `[rows, dim]`.
    pub(super) fn forward(&self, cx: &Context<'_>, x: &Var) -> Result<Var> {
        match &self.inner {
            Some((inner, activation)) => self.outer.forward(cx, &inner.forward_with(cx, x, (*activation).into())?),
            None => self.outer.forward(cx, x),
        }
    }
}
