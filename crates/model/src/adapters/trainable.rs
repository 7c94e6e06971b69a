//! Which parameters a fine-tuning method trains.

use super::modules::within;
use super::{AdapterConfig, Adapters};
use crate::{ModelError, Result};
use sensorium_engine::Params;
use sensorium_engine::pattern::{matches, near};
use std::collections::BTreeMap;

/// A fine-tuning method.
#[derive(Debug, Clone, PartialEq)]
pub enum Method {
    /// Everything.
    Full,
    /// Nothing of the fine-tuned parts: only what stands on top of them.
    Head,
    /// The last blocks of each part, and what comes after them.
    TopLayers(usize),
    /// The biases (Ben Zaken et al., "BitFit", 2022).
    BitFit,
    /// An adapter.
    Adapter(AdapterConfig),
}

/// How a model that begins with pretrained parts is fine-tuned.
#[derive(Debug, Clone, PartialEq)]
pub struct Finetune {
    /// The method, which rules over `parts`.
    pub method: Method,
    /// Patterns of the pretrained parts, such as `towers.text`. What is not in
    /// them (fusion, head, towers that begin at random) trains in full.
    pub parts: Vec<String>,
    /// Patterns of modules inside the parts that train in full besides (PEFT's
    /// `modules_to_save`).
    pub modules_to_save: Vec<String>,
}

impl Finetune {
    /// Attaches the adapter, if the method is one, under `name`, and says of
    /// every parameter whether it trains.
    ///
    /// # Errors
    /// When a pattern names nothing or the configuration makes no sense.
    pub fn apply(&self, adapters: &mut Adapters, params: &mut Params, name: &str, seed: u64) -> Result<()> {
        let names: Vec<String> = params.iter().map(|(_, p)| p.name.clone()).collect();
        for (key, patterns) in [("parts", &self.parts), ("modules_to_save", &self.modules_to_save)] {
            for pattern in patterns {
                if !names.iter().any(|n| matches(pattern, n)) {
                    let near = near(pattern, names.iter().map(String::as_str)).join(", ");
                    let problem = format!("{key}: no parameter matches `{pattern}`; near names: {near}");
                    return Err(ModelError::config("finetune", problem));
                }
            }
        }
        let parts = &self.parts;
        let first_trained = match self.method {
            Method::TopLayers(layers) => first_of_top_layers(&names, parts, layers)?,
            _ => BTreeMap::new(),
        };
        for (index, (_, p)) in params.iter_mut().enumerate() {
            let part = parts.iter().find(|part| matches(part, &p.name));
            let saved = self.modules_to_save.iter().any(|m| matches(m, &p.name));
            p.trainable = match (&self.method, part) {
                (Method::Full, _) | (_, None) => true,
                _ if saved => true,
                (Method::Head | Method::Adapter(_), Some(_)) => false,
                (Method::BitFit, Some(_)) => p.name.ends_with(".bias"),
                (Method::TopLayers(_), Some(part)) => {
                    // A bias by distance serves all layers, the lower ones too.
                    index >= first_trained[part] && !p.name.contains(".relative")
                }
            };
        }
        if let Method::Adapter(config) = &self.method {
            adapters.attach(params, name, config, parts, seed)?;
        }
        if self.method == Method::BitFit && !params.iter().any(|(_, p)| p.trainable && within(parts, &p.name)) {
            return Err(ModelError::config("bitfit", "the parts to fine-tune have no biases"));
        }
        Ok(())
    }
}

/// For each part the index of the first parameter of its last `layers` blocks;
/// parameters stand in the order of the computation.
fn first_of_top_layers<'a>(
    names: &[String],
    parts: &'a [String],
    layers: usize,
) -> Result<BTreeMap<&'a String, usize>> {
    parts
        .iter()
        .map(|part| {
            let mut starts: Vec<(&str, usize)> = Vec::new();
            for (index, name) in names.iter().enumerate().filter(|(_, n)| matches(part, n)) {
                if let Some(block) = block_of(name)
                    && !starts.iter().any(|(b, _)| *b == block)
                {
                    starts.push((block, index));
                }
            }
            if layers == 0 || layers > starts.len() {
                let problem = format!("layers = {layers}, expected 1 to {}, the blocks of {part}", starts.len());
                return Err(ModelError::config("top_layers", problem));
            }
            Ok((part, starts[starts.len() - layers].1))
        })
        .collect()
}

/// `towers.text.encoder.layer.3` for `towers.text.encoder.layer.3.mlp.up.weight`.
fn block_of(name: &str) -> Option<&str> {
    let at = name.find(".layer.")? + ".layer.".len();
    let digits = name[at..].find('.')?;
    name[at..at + digits].parse::<usize>().ok()?;
    Some(&name[..at + digits])
}
