//! The modules of a model that adapters can reach, read from the names and
//! shapes of its parameters.

use super::{AdapterConfig, BottleneckKind};
use crate::{ModelError, Result};
use sensorium_engine::pattern::{matches, near};
use sensorium_engine::{ParamId, Params};

/// A layer with a weight.
#[derive(Debug, Clone)]
pub(crate) struct Module {
    /// Its dotted name: `towers.text.encoder.layer.0.attention.query`.
    pub name: String,
    /// Its weight or table.
    pub weight: ParamId,
    /// What goes in: features, or entries of a table.
    pub inputs: usize,
    /// What comes out: features.
    pub outputs: usize,
    /// Whether it is a table of embeddings `[inputs, outputs]` rather than a
    /// linear layer with a weight `[outputs, inputs]`.
    pub table: bool,
}

impl Module {
    /// `query` and `attention.query`: what targets usually say.
    fn ends(&self) -> impl Iterator<Item = &str> {
        let mut dots = self.name.rmatch_indices('.').map(|(at, _)| at + 1);
        [dots.next(), dots.next()].into_iter().flatten().map(|at| &self.name[at..])
    }
}

/// The token tables among the parameters that are not weights of linear layers.
const TABLES: [&str; 1] = ["word"];

/// Every module, in the order of the parameters. Linear layers are the matrices
/// called `weight`; tables have names of their own.
pub(crate) fn all(params: &Params) -> Vec<Module> {
    params
        .iter()
        .filter_map(|(id, p)| {
            let [rows, cols] = *p.value.dims() else { return None };
            if p.name.contains(".lora_") || p.name.contains(".adapter_") {
                return None;
            }
            match p.name.strip_suffix(".weight") {
                Some(name) => {
                    Some(Module { name: name.to_owned(), weight: id, inputs: cols, outputs: rows, table: false })
                }
                None if TABLES.iter().any(|t| p.name.ends_with(&format!("embeddings.{t}"))) => {
                    Some(Module { name: p.name.clone(), weight: id, inputs: rows, outputs: cols, table: true })
                }
                None => None,
            }
        })
        .collect()
}

/// The names of the modules of a model that adapters can be attached to, and of
/// the weight or table of each.
pub fn module_names(params: &Params) -> Vec<(String, ParamId)> {
    all(params).into_iter().map(|m| (m.name, m.weight)).collect()
}

/// The name of the module of a weight or table.
pub(super) fn name_of(params: &Params, weight: ParamId) -> &str {
    let name = params.get(weight).name.as_str();
    name.strip_suffix(".weight").unwrap_or(name)
}

/// Whether a target names a module: a pattern over the whole name, or over its
/// end, so that `query` names every `….query`.
pub(super) fn targets(pattern: &str, module: &str) -> bool {
    matches(pattern, module) || matches(&format!("*.{pattern}"), module)
}

/// Whether a module or parameter lies in one of the parts.
pub(super) fn within(parts: &[String], name: &str) -> bool {
    parts.is_empty() || parts.iter().any(|p| matches(p, name))
}

/// The modules that a configuration chooses below the parts.
pub(super) fn chosen(params: &Params, config: &AdapterConfig, parts: &[String]) -> Result<Vec<Module>> {
    let modules: Vec<Module> = all(params).into_iter().filter(|m| within(parts, &m.name)).collect();
    let Some(patterns) = config.targets() else {
        let found: Vec<Module> = modules.into_iter().filter(|m| !m.table && reaches(config, m)).collect();
        if found.is_empty() {
            let problem = "the parts to fine-tune hold no Transformer blocks to attach to";
            return Err(ModelError::config(config.kind(), problem));
        }
        return Ok(found);
    };
    for pattern in patterns {
        if !modules.iter().any(|m| targets(pattern, &m.name)) {
            let near = near(pattern, modules.iter().flat_map(|m| m.ends()));
            let problem = format!("targets: no module matches `{pattern}`; near names: {}", near.join(", "));
            return Err(ModelError::config(config.kind(), problem));
        }
    }
    Ok(modules.into_iter().filter(|m| patterns.iter().any(|p| targets(p, &m.name))).collect())
}

/// Where the methods go that choose their places themselves: by the names that
/// the Transformer block gives its parts.
fn reaches(config: &AdapterConfig, m: &Module) -> bool {
    let after_attention = || m.name.ends_with(".attention.output");
    let after_mlp = || m.name.ends_with(".mlp.down");
    match config {
        AdapterConfig::Bottleneck(c) => match c.placement {
            BottleneckKind::Houlsby => after_attention() || after_mlp(),
            BottleneckKind::Pfeiffer | BottleneckKind::Parallel => after_mlp(),
        },
        AdapterConfig::Prefix(_) => m.name.ends_with(".attention.key") || m.name.ends_with(".attention.value"),
        AdapterConfig::Prompt(_) => m.name.ends_with(".layer.0.attention.query"),
        AdapterConfig::Lora(_) | AdapterConfig::Ia3(_) => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_match_whole_names_and_their_ends() {
        let name = "towers.text.encoder.layer.0.attention.query";
        for pattern in ["query", "attention.query", "towers.text", "*.layer.?.attention.*", "layer.0.*", name] {
            assert!(targets(pattern, name), "{pattern}");
        }
        for pattern in ["uery", "key", "attention", "towers.image", "layer.1.*"] {
            assert!(!targets(pattern, name), "{pattern}");
        }
    }
}
