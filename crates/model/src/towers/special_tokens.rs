//! Learned tokens before the patches of a picture.

use super::{ImageTowerConfig, Positions};
use crate::{Context, Result};
use sensorium_engine::{Builder, Init, ParamId, Var, ops};

/// Class token, distillation token and registers, in this order.
#[derive(Debug, Clone)]
pub(super) struct SpecialTokens {
    /// Class and distillation tokens `[1, hidden]`, which have positions.
    placed: Vec<ParamId>,
    /// `[registers, hidden]`, which have none.
    registers: Option<ParamId>,
    count: usize,
}

impl SpecialTokens {
    /// Creates `class_token`, `distillation_token` and `register_tokens`, each
    /// where it is wanted.
    pub(super) fn new(b: &mut Builder<'_>, c: &ImageTowerConfig) -> Result<Self> {
        let hidden = c.transformer.block.hidden;
        let mut token = |name, rows| b.param(name, &[rows, hidden], Init::Normal(0.02));
        let mut placed = Vec::new();
        if c.class_token {
            placed.push(token("class_token", 1)?);
        }
        if c.distillation_token {
            placed.push(token("distillation_token", 1)?);
        }
        let registers = if c.register_tokens > 0 { Some(token("register_tokens", c.register_tokens)?) } else { None };
        Ok(Self { placed, registers, count: c.special_tokens() })
    }

    /// Puts the tokens before the patches `[n · patches, hidden]` of each of
    /// `n` pictures.
    pub(super) fn before(&self, cx: &Context<'_>, x: Var, n: usize, positions: Option<&Positions>) -> Result<Var> {
        if self.count == 0 {
            return Ok(x);
        }
        let patches = x.rows() / n.max(1);
        let mut parts = vec![x];
        for (place, token) in self.placed.iter().enumerate() {
            let token = cx.param(*token);
            parts.push(match positions {
                Some(p) => ops::add_rows_broadcast(cx.tape, &token, &cx.param(p.table), &[place as u32])?,
                None => token,
            });
        }
        parts.extend(self.registers.map(|registers| cx.param(registers)));
        let all = ops::concat_rows(cx.tape, &parts.iter().collect::<Vec<_>>())?;
        let first = (n * patches) as u32;
        let order: Vec<u32> = (0..n)
            .flat_map(|i| (first..first + self.count as u32).chain((i * patches) as u32..((i + 1) * patches) as u32))
            .collect();
        Ok(ops::gather_rows(cx.tape, &all, &order)?)
    }
}
