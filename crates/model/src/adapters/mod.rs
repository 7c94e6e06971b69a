//! Fine-tuning with few parameters, on any tower: LoRA, DoRA, IA³, BitFit,
//! bottleneck adapters, prefixes and prompts.
//!
//! A finished model is not rebuilt for it. [`Adapters::attach`] goes over the
//! model's parameters, creates extra ones for every layer whose name the
//! configuration chooses, and notes under the layer's weight what was attached.
//! [`Linear`](crate::Linear) and the few other places that adapters reach look
//! themselves up in the [`Context`](crate::Context) of a forward pass; nothing
//! else knows of adapters, so they work in every architecture. A model can hold
//! several by name, of which at most one is active.

mod bottleneck;
mod config;
mod files;
mod lora;
mod merge;
pub(crate) mod modules;
mod peft;
mod site;
mod trainable;
mod virtual_tokens;

pub use config::{AdapterConfig, BottleneckConfig, BottleneckKind, Ia3Config, LoraConfig, VirtualTokens};
pub use files::{ADAPTER_CONFIG_FILE, ADAPTER_WEIGHTS_FILE};
pub use modules::module_names;
pub use trainable::{Finetune, Method};

pub(crate) use site::{Plain, Site, Sites};
pub(crate) use virtual_tokens::{Prepended, prefixed, prompted};

use crate::{ModelError, Result};
use sensorium_engine::{ParamId, Params, Tensor};
use std::collections::BTreeMap;
use std::sync::Arc;

/// The adapters of a model, by name; at most one is active.
#[derive(Debug, Clone, Default)]
pub struct Adapters {
    sets: Vec<Set>,
    active: Option<usize>,
    /// What modules are called in files, by our names.
    file_names: BTreeMap<String, String>,
}

/// One adapter: what it attaches, and where.
#[derive(Debug, Clone)]
struct Set {
    name: String,
    config: AdapterConfig,
    sites: Arc<Sites>,
    /// The base values that merging replaced; None while it is not merged.
    replaced: Option<Vec<(ParamId, Tensor)>>,
}

impl Adapters {
    /// Creates the parameters of an adapter for every module that `config`
    /// chooses among those below one of the `parts` (patterns over dotted
    /// names; all modules when there are none), and makes it the active one.
    /// Other parameters are left as they are: see [`Finetune`].
    ///
    /// # Errors
    /// When the configuration makes no sense, its targets name no module (the
    /// error lists near names), or the name is taken.
    pub fn attach(
        &mut self,
        params: &mut Params,
        name: &str,
        config: &AdapterConfig,
        parts: &[String],
        seed: u64,
    ) -> Result<()> {
        self.add(params, name, config, |params| {
            let modules = modules::chosen(params, config, parts)?;
            site::create(params, name, config, &modules, seed)
        })
    }

    /// As [`Adapters::attach`], the sites made by the caller.
    fn add(
        &mut self,
        params: &mut Params,
        name: &str,
        config: &AdapterConfig,
        make: impl FnOnce(&mut Params) -> Result<Sites>,
    ) -> Result<()> {
        config.validate()?;
        if name.is_empty() || !name.chars().all(|c| c.is_alphanumeric() || c == '-' || c == '_') {
            let problem = format!("the name {name:?} may hold letters, digits, - and _ only");
            return Err(ModelError::config("adapter", problem));
        }
        if self.sets.iter().any(|s| s.name == name) {
            return Err(ModelError::config("adapter", format!("there is already one named {name:?}")));
        }
        if let Some(merged) = self.sets.iter().find(|s| s.replaced.is_some()) {
            let problem = format!("{:?} is merged into the weights: unmerge it first", merged.name);
            return Err(ModelError::config("adapter", problem));
        }
        let sites = make(params)?;
        self.sets.push(Set { name: name.to_owned(), config: config.clone(), sites: Arc::new(sites), replaced: None });
        self.active = Some(self.sets.len() - 1);
        Ok(())
    }

    /// The names of the adapters in the order they were attached.
    pub fn names(&self) -> Vec<&str> {
        self.sets.iter().map(|s| s.name.as_str()).collect()
    }

    /// The name of the active adapter.
    pub fn active(&self) -> Option<&str> {
        self.active.map(|i| self.sets[i].name.as_str())
    }

    /// The configuration of an adapter.
    pub fn config(&self, name: &str) -> Option<&AdapterConfig> {
        self.sets.iter().find(|s| s.name == name).map(|s| &s.config)
    }

    /// Makes another adapter the active one, or none.
    ///
    /// # Errors
    /// When there is none of that name, or one is merged into the weights.
    pub fn activate(&mut self, name: Option<&str>) -> Result<()> {
        if let Some(merged) = self.sets.iter().find(|s| s.replaced.is_some()) {
            let problem = format!("{:?} is merged into the weights: unmerge it first", merged.name);
            return Err(ModelError::config("adapter", problem));
        }
        self.active = name.map(|n| self.index(n)).transpose()?;
        Ok(())
    }

    /// The parameters of an adapter.
    ///
    /// # Errors
    /// When there is none of that name.
    pub fn parameters(&self, name: &str) -> Result<Vec<ParamId>> {
        let mut ids: Vec<ParamId> = self.sets[self.index(name)?].sites.values().flat_map(Site::parameters).collect();
        ids.sort_unstable();
        Ok(ids)
    }

    /// What the active adapter attaches, unless it is merged or there is none.
    pub(crate) fn active_sites(&self) -> Option<&Arc<Sites>> {
        self.active.map(|i| &self.sets[i]).filter(|s| s.replaced.is_none()).map(|s| &s.sites)
    }

    fn index(&self, name: &str) -> Result<usize> {
        self.sets.iter().position(|s| s.name == name).ok_or_else(|| {
            let known = if self.sets.is_empty() { "there are none".into() } else { self.names().join(", ") };
            ModelError::config("adapter", format!("none is named {name:?}; known: {known}"))
        })
    }
}
