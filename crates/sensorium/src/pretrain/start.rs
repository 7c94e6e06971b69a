//! How weights begin.

use crate::{Error, Result};
use sensorium_engine::{Builder, Params, Random, Tensor};
use sensorium_model::pretrained::Pretrained;

/// How far weights lie from zero at the start: what BERT, GPT-2 and ViT begin
/// with.
pub(super) const START: f64 = 0.02;

/// Starts what stands below a scope: as the families' own training begins, or
/// with the weights of a checkpoint's part.
///
/// # Errors
/// When tensors are missing or of another shape.
pub(super) fn fill<T>(
    params: &mut Params,
    scope: &str,
    seed: u64,
    source: Option<&Pretrained>,
    part: &str,
    build: impl FnOnce(&mut Builder<'_>) -> sensorium_model::Result<T>,
) -> Result<()> {
    start(params, scope, seed, None);
    if let Some(source) = source {
        let mut values = Params::new();
        source.load_into(&mut values, part, build)?;
        copy_into(params, scope, &values)?;
    }
    Ok(())
}

/// Lets matrices and tables below a name start as the families' own training
/// begins: normal around zero, its tails uncut. GPT-2 lets what ends in the
/// residual sum start smaller the more layers there are (Radford et al. 2019).
/// Biases, norms and tables of constants stay as they are.
pub(super) fn start(params: &mut Params, scope: &str, seed: u64, residual_layers: Option<usize>) {
    let random = Random::new(seed).purpose("pretraining start");
    let beneath = format!("{scope}.");
    for (_, p) in params.iter_mut().filter(|(_, p)| p.trainable && p.name.starts_with(&beneath)) {
        if p.value.dims().len() != 2 {
            continue;
        }
        let own = random.purpose(&p.name);
        let ends = [".attention.output.weight", ".mlp.down.weight"].iter().any(|end| p.name.ends_with(end));
        let std = match residual_layers.filter(|_| ends) {
            Some(layers) => START / ((2 * layers.max(1)) as f64).sqrt(),
            None => START,
        };
        for (i, x) in p.value.data_mut().iter_mut().enumerate() {
            *x = (own.normal(i as u64) * std) as f32;
        }
    }
}

/// Copies the values of a part, which stand under their own names, below a
/// scope.
///
/// # Errors
/// When the model has no such parameter.
pub(super) fn copy_into(params: &mut Params, scope: &str, values: &Params) -> Result<()> {
    for (_, value) in values.iter() {
        let name = format!("{scope}.{}", value.name);
        let id = params.id(&name).ok_or_else(|| Error::Request(format!("the model has no {name}")))?;
        params.get_mut(id).value = value.value.clone();
    }
    Ok(())
}

/// What stands below a scope, under names without it.
pub(super) fn below<'a>(params: &'a Params, scope: &'a str) -> impl Iterator<Item = (&'a str, &'a Tensor)> {
    params.iter().filter_map(move |(_, p)| {
        let name = p.name.strip_prefix(scope)?.strip_prefix('.')?;
        Some((name, &p.value))
    })
}

#[cfg(test)]
mod tests {
    use super::super::config::PretrainConfig;
    use super::super::network::Network;
    use super::super::structure::{TextStructure, Texts};
    use super::*;

    /// The parameters that a run from scratch begins with.
    fn begun(objective: &str) -> Result<Params> {
        let sets = [
            format!("pretrain.{objective}.weight=1"),
            "text.tower.hidden=64".into(),
            "text.tower.layers=3".into(),
            "text.max_tokens=64".into(),
            "text.vocab_size=300".into(),
        ];
        let mut config = PretrainConfig::from_toml("", &sets)?;
        let words = |i: usize| (0..6).map(|j| format!("w{} ", (i * 37 + j * 11) % 400)).collect();
        let cells: Vec<String> = (0..600).map(words).collect();
        let structure = TextStructure::new(&mut config, Texts { sources: &[], cells: &cells }, None)?;
        let mut network = Network::new(false);
        network.add_text(&structure, None, config.pretrain.mlm.masking(), 1.0, 5)?;
        Ok(network.params)
    }

    fn deviation(x: &[f32]) -> f64 {
        let mean = x.iter().map(|x| f64::from(*x)).sum::<f64>() / x.len() as f64;
        (x.iter().map(|x| (f64::from(*x) - mean).powi(2)).sum::<f64>() / x.len() as f64).sqrt()
    }

    /// As `_init_weights` of the transformers library's BERT and GPT-2: all
    /// matrices and tables normal with 0.02, of GPT-2 what ends in the residual
    /// sum with 0.02 / √(2 · layers); biases 0, norms 1 and 0.
    #[test]
    fn weights_begin_as_those_of_bert_and_gpt2() -> Result<()> {
        for (objective, residual, tables) in [("mlm", 0.02, 3), ("clm", 0.02 / 6_f64.sqrt(), 2)] {
            let params = begun(objective)?;
            let (mut all, mut beyond, mut found) = (0, 0, 0);
            for (_, p) in params.iter() {
                let (name, values) = (p.name.as_str(), p.value.data());
                if p.value.dims().len() < 2 {
                    let wanted = if name.ends_with("norm.weight") { 1.0 } else { 0.0 };
                    assert!(values.iter().all(|x| *x == wanted), "{name} begins with {:?}", &values[..4]);
                    continue;
                }
                let ends = name.ends_with("attention.output.weight") || name.ends_with("mlp.down.weight");
                let (wanted, n) = (if ends { residual } else { 0.02 }, values.len() as f64);
                // Four times the standard error of a deviation.
                let (is, off) = (deviation(values), 4.0 / (2.0 * n).sqrt());
                assert!((is / wanted - 1.0).abs() < off, "{objective} {name}: {is:.5}, not {wanted:.5}");
                if !name.ends_with(".weight") {
                    found += 1;
                    all += values.len();
                    beyond += values.iter().filter(|x| f64::from(x.abs()) > 2.0 * wanted).count();
                }
            }
            assert_eq!(found, tables, "{objective}: tables of tokens, positions and, of BERT, types");
            // Of a normal distribution 4.55 % lie beyond two deviations.
            let share = beyond as f64 / all as f64;
            assert!((share - 0.0455).abs() < 0.006, "{objective}: {share:.4} of the tables' numbers");
        }
        Ok(())
    }
}
