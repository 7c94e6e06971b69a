//! Turning the weights of a finished model into eight-bit codes.
//!
//! What becomes codes are the weights of linear layers and the token tables:
//! nearly all of a Transformer. Norms, biases, positions, convolutions and
//! tables of a few rows stay as they are; they are small, and rounding them
//! costs more than it saves.

use crate::adapters::modules;
use crate::{ModelError, Result};
use sensorium_engine::pattern::{matches, near};
use sensorium_engine::quantized::{Calibration, MOST_INPUTS};
use sensorium_engine::{ParamId, Params, Quantized};
use std::sync::Arc;

/// Which parameters become codes, and how.
#[derive(Debug, Clone, Default)]
pub struct Quantization {
    /// Patterns of the names of parameters to leave as they are, besides those
    /// that always are: `towers.text.encoder.layer.0.*`.
    pub keep: Vec<String>,
    /// What the linear layers were given: fixes the ranges of their inputs.
    /// Without it each row of inputs has its own.
    pub calibration: Option<Calibration>,
}

/// How far the codes of a parameter are from what it was.
#[derive(Debug, Clone)]
pub struct Deviation {
    /// The parameter's name.
    pub name: String,
    /// ‖codes − values‖ / ‖values‖
    pub relative: f64,
    /// Whether the range of its inputs is fixed.
    pub fixed_range: bool,
}

/// Quantises the parameters of a model in place; the values are given up.
///
/// Returns how far each is from what it was, in the order of the parameters.
///
/// # Errors
/// When a pattern of `keep` names nothing that would become codes (the error
/// lists near names), everything is kept, or a value is not finite.
pub fn quantize(params: &mut Params, how: &Quantization) -> Result<Vec<Deviation>> {
    let modules: Vec<ParamId> =
        modules::all(params).into_iter().filter(|m| m.table || becomes_codes(params, m)).map(|m| m.weight).collect();
    let names: Vec<&str> = modules.iter().map(|id| params.get(*id).name.as_str()).collect();
    for pattern in &how.keep {
        if !names.iter().any(|name| keeps(pattern, name)) {
            let near = near(pattern, names.iter().copied()).join(", ");
            let problem = format!("no weight matches `{pattern}`; near names: {near}");
            return Err(ModelError::config("keep", problem));
        }
    }
    let kept = |name: &str| how.keep.iter().any(|pattern| keeps(pattern, name));
    let chosen: Vec<ParamId> = modules.iter().copied().filter(|id| !kept(&params.get(*id).name)).collect();
    if chosen.is_empty() {
        return Err(ModelError::config("quantize", "no weight is left to become codes"));
    }
    let mut deviations = Vec::with_capacity(chosen.len());
    for id in chosen {
        let param = params.get_mut(id);
        let codes = Quantized::of(&param.value).map_err(|e| ModelError::config(&param.name, e.to_string()))?;
        let relative = deviation(&param.value, &codes);
        let range = how.calibration.as_ref().and_then(|c| c.range(id));
        let codes = if param.is_linear() { codes.into_panels().with_range(range) } else { codes };
        param.quantize(Arc::new(codes))?;
        deviations.push(Deviation { name: param.name.clone(), relative, fixed_range: range.is_some() });
    }
    Ok(deviations)
}

/// Linear layers but for the one that answers, which is small, and where every
/// rounding shows.
fn becomes_codes(params: &Params, m: &modules::Module) -> bool {
    let p = params.get(m.weight);
    p.is_linear() && m.inputs <= MOST_INPUTS && !p.name.starts_with("head.")
}

/// Whether a pattern names a parameter: the whole name, a part above it, or its
/// end.
fn keeps(pattern: &str, name: &str) -> bool {
    let module = name.strip_suffix(".weight").unwrap_or(name);
    [pattern.to_owned(), format!("*.{pattern}"), format!("{pattern}.*")].iter().any(|p| matches(p, name))
        || matches(&format!("*.{pattern}"), module)
        || matches(&format!("*.{pattern}.*"), module)
}

fn deviation(values: &sensorium_engine::Tensor, codes: &Quantized) -> f64 {
    let mut row = vec![0.0_f32; codes.cols()];
    let (mut error, mut size) = (0.0, 0.0);
    for (r, values) in values.data().chunks_exact(codes.cols().max(1)).enumerate() {
        codes.dequantize_row(r, &mut row);
        for (x, y) in values.iter().zip(&row) {
            error += f64::from(x - y).powi(2);
            size += f64::from(*x).powi(2);
        }
    }
    if size > 0.0 { (error / size).sqrt() } else { 0.0 }
}
