//! A block that keeps nothing for backward but its input (gradient
//! checkpointing).

use super::{Block, Surroundings};
use crate::{Context, ModelError, Result};
use sensorium_engine::{EngineError, Var, ops};

/// As [`Block::forward`], where the context says so with all between input
/// and output computed once more in backward, with the same random numbers.
pub(super) fn forward(cx: &Context<'_>, block: &Block, x: &Var, around: &Surroundings<'_>) -> Result<Var> {
    let Some(replay) = cx.replay() else { return block.forward(cx, x, around) };
    let mut inputs = vec![x];
    let bias = around.bias.as_ref().map(|b| (b.entries.clone(), b.zero, b.places.clone()));
    inputs.extend(around.bias.as_ref().map(|b| b.table));
    let memory = around.memory.map(|(_, segments)| segments.clone());
    inputs.extend(around.memory.map(|(memory, _)| memory));
    let (block, segments, grid) = (block.clone(), around.segments.clone(), around.grid);
    let (arranged, time) = (around.arranged.clone(), around.time.clone());
    let run = move |tape: &sensorium_engine::Tape, vars: &[Var]| {
        let mut vars = vars.iter();
        let mut next = || vars.next().ok_or_else(|| EngineError::setting("recompute", "an input is missing"));
        let x = next()?;
        let bias = match &bias {
            Some((entries, zero, places)) => Some(ops::RelativeBias {
                table: next()?,
                entries: entries.clone(),
                zero: *zero,
                places: places.clone(),
                gates: None,
            }),
            None => None,
        };
        let memory = match &memory {
            Some(segments) => Some((next()?, segments)),
            None => None,
        };
        let (arranged, time) = (arranged.clone(), time.clone());
        let around = Surroundings { segments: &segments, grid, arranged, time, bias, memory };
        replay.run(tape, |cx| block.forward(cx, x, &around)).map_err(|e| match e {
            ModelError::Engine(e) => e,
            other => EngineError::setting("block", other.to_string()),
        })
    };
    Ok(ops::recompute(cx.tape, &inputs, run)?)
}
