//! Adapters in files, alone: a few hundred kilobytes beside a base of any size.
//!
//! A folder with `adapter_config.json` and `adapter_model.safetensors`, laid
//! out as PEFT does, so that it reads ours and ours reads its: tensors are named
//! `base_model.model.MODULE.lora_A.weight`. MODULE is the module's name in the
//! checkpoint that it came from, where it came from one
//! ([`Adapters::set_file_names`]). Kinds that PEFT has not get a configuration of our own
//! and names in the same style.

use super::lora::{Lora, TableLora};
use super::modules::{self, Module};
use super::peft::{self, Patterns};
use super::{AdapterConfig, Adapters, Site, Sites, site};
use crate::checkpoint::{Checkpoint, write_safetensors};
use crate::{ModelError, Result};
use sensorium_engine::{ParamId, Params, Tensor};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// The file of an adapter's settings.
pub const ADAPTER_CONFIG_FILE: &str = "adapter_config.json";
/// The file of an adapter's values.
pub const ADAPTER_WEIGHTS_FILE: &str = "adapter_model.safetensors";

/// What PEFT puts before the name of every module.
const ROOT: &str = "base_model.model.";

impl Adapters {
    /// Says what modules are called in the files of adapters: those of a tower
    /// that came from a checkpoint as there, so that other tools know them.
    /// Names that two modules share (towers from one checkpoint, projections
    /// that are one tensor there) are left out; modules without one keep ours.
    pub fn set_file_names(&mut self, names: BTreeMap<String, String>) {
        let mut seen: BTreeMap<&String, usize> = BTreeMap::new();
        names.values().for_each(|theirs| *seen.entry(theirs).or_default() += 1);
        let shared: BTreeSet<String> = seen.into_iter().filter(|(_, n)| *n > 1).map(|(n, _)| n.clone()).collect();
        self.file_names = names.into_iter().filter(|(_, theirs)| !shared.contains(theirs)).collect();
    }

    /// The names given with [`Adapters::set_file_names`], by ours.
    pub fn file_names(&self) -> &BTreeMap<String, String> {
        &self.file_names
    }

    fn file_name<'a>(&'a self, module: &'a str) -> &'a str {
        self.file_names.get(module).map_or(module, String::as_str)
    }

    /// Writes an adapter into a folder. `base` says for people which model it
    /// was made on.
    ///
    /// # Errors
    /// When there is none of that name, two modules have the same name in the
    /// file, or a file cannot be written.
    pub fn save(&self, params: &Params, name: &str, folder: &Path, base: Option<&str>) -> Result<()> {
        let set = &self.sets[self.index(name)?];
        let mut tensors: BTreeMap<String, Tensor> = BTreeMap::new();
        let (mut targets, mut feedforward) = (BTreeSet::new(), BTreeSet::new());
        let mut patterns = Patterns::default();
        for (weight, site) in set.sites.iter() {
            let module = self.file_name(modules::name_of(params, *weight)).to_owned();
            for (part, value) in parts(params, site) {
                if tensors.insert(format!("{ROOT}{module}.{part}"), value).is_some() {
                    let problem = format!("two modules are called {module:?} in its file: use names that differ");
                    return Err(ModelError::config("adapter", problem));
                }
            }
            if let AdapterConfig::Lora(c) = &set.config {
                let (rank, scaling) = site.rank_and_scaling(params).unwrap_or((c.rank, c.scaling()));
                let plain = super::LoraConfig { rank, ..c.clone() }.scaling();
                if rank != c.rank {
                    patterns.ranks.insert(module.clone(), rank);
                }
                if (plain - scaling).abs() > 1e-12 {
                    patterns.alphas.insert(module.clone(), c.alpha * scaling / plain);
                }
            }
            if matches!(site, Site::ScaleInput(_)) {
                feedforward.insert(module.clone());
            }
            targets.insert(module);
        }
        let sorted = |set: BTreeSet<String>| set.into_iter().collect();
        let json = peft::to_json(&set.config, sorted(targets), sorted(feedforward), &patterns, base);
        let cannot = |e: std::io::Error| ModelError::checkpoint(folder, format!("cannot be written: {e}"));
        std::fs::create_dir_all(folder).map_err(cannot)?;
        let tensors = tensors.iter().map(|(name, value)| (name.as_str(), value));
        write_safetensors(&folder.join(ADAPTER_WEIGHTS_FILE), tensors)?;
        // Last, so that a folder with a configuration is whole.
        let partial = folder.join(format!("{ADAPTER_CONFIG_FILE}.partial"));
        let write = || {
            std::fs::write(&partial, format!("{json:#}\n"))?;
            std::fs::File::open(&partial)?.sync_all()?;
            std::fs::rename(&partial, folder.join(ADAPTER_CONFIG_FILE))
        };
        write().map_err(cannot)
    }

    /// Attaches the adapter of a folder under `name`, below the `parts` (as in
    /// [`Adapters::attach`]), and makes it the active one. The tensors that
    /// belong to no adapter but to modules which PEFT saves whole (a head of
    /// its own) are left, and their names returned.
    ///
    /// # Errors
    /// When the folder holds no adapter, one of a kind that is not computed
    /// here, or one that does not fit the model: modules that it does not have,
    /// or of other widths.
    pub fn load(&mut self, params: &mut Params, name: &str, folder: &Path, parts: &[String]) -> Result<Vec<String>> {
        let path = folder.join(ADAPTER_CONFIG_FILE);
        let err = |problem: String| ModelError::checkpoint(&path, problem);
        let text = std::fs::read_to_string(&path).map_err(|e| match e.kind() {
            std::io::ErrorKind::NotFound => {
                err(format!("is not there; expected an adapter's folder, with it and {ADAPTER_WEIGHTS_FILE}"))
            }
            _ => err(format!("cannot be read: {e}")),
        })?;
        let json: serde_json::Value = serde_json::from_str(&text).map_err(|e| err(format!("is not JSON: {e}")))?;
        let read = peft::from_json(&json).map_err(err)?;
        read.config.validate_numbers()?;
        let file = Checkpoint::open(&folder.join(ADAPTER_WEIGHTS_FILE))?;
        let (by_module, left) = by_module(&file, &read.modules_to_save)?;
        let modules: Vec<Module> =
            modules::all(params).into_iter().filter(|m| modules::within(parts, &m.name)).collect();
        let named: Vec<(String, &Module)> = modules.iter().map(|m| (self.file_name(&m.name).to_owned(), m)).collect();
        let places = places(&file, &by_module, &named)?;
        let config = with_our_targets(&read.config, &file, &places);
        self.add(params, name, &config, |params| {
            let mut sites = Sites::new();
            for place in &places {
                let own = own_config(&config, &file, place, &read)?;
                let source: &site::Source<'_> =
                    &|module, part, dims, _, _| tensor(&file, place.theirs, module, part, dims);
                sites.extend(site::create_from(params, name, &own, std::slice::from_ref(&place.module), source)?);
            }
            Ok(sites)
        })?;
        Ok(left)
    }
}

/// A module of ours and its name in the file.
struct Place<'a> {
    module: Module,
    theirs: &'a str,
    parts: &'a BTreeSet<String>,
}

/// The parts of each module that a file holds.
type ByModule = BTreeMap<String, BTreeSet<String>>;

/// The parts that tensors are named after, longest first.
const PARTS: [&str; 12] = [
    "lora_magnitude_vector",
    "lora_embedding_A",
    "lora_embedding_B",
    "adapter_down.weight",
    "adapter_down.bias",
    "adapter_up.weight",
    "adapter_up.bias",
    "lora_A.weight",
    "lora_B.weight",
    "prefix",
    "prompt",
    "ia3_l",
];

/// The parts of each module of a file, and the tensors of modules saved whole.
fn by_module(file: &Checkpoint, saved: &[String]) -> Result<(ByModule, Vec<String>)> {
    let mut modules: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    let (mut left, mut unknown) = (Vec::new(), Vec::new());
    for name in file.names() {
        let short = name.strip_prefix(ROOT).unwrap_or(name);
        let found = PARTS.iter().find_map(|p| Some((short.strip_suffix(p)?.strip_suffix('.')?, *p)));
        match found {
            Some((module, part)) => {
                modules.entry(module.to_owned()).or_default().insert(part.to_owned());
            }
            None if saved.iter().any(|s| short.split('.').any(|piece| piece == s)) => left.push(name.to_owned()),
            None => unknown.push(name),
        }
    }
    if !unknown.is_empty() {
        let problem = format!("has tensors that are no part of an adapter known here: {}", some(&unknown));
        return Err(ModelError::checkpoint(file.path(), problem));
    }
    if modules.is_empty() {
        return Err(ModelError::checkpoint(file.path(), "holds no adapter"));
    }
    Ok((modules, left))
}

/// Which module of ours each module of the file is. A name may have more in
/// front on either side: `bert.encoder…` and `encoder…`.
fn places<'a>(
    file: &Checkpoint,
    by_module: &'a BTreeMap<String, BTreeSet<String>>,
    named: &[(String, &Module)],
) -> Result<Vec<Place<'a>>> {
    let ends = |long: &str, short: &str| long.strip_suffix(short).is_some_and(|rest| rest.ends_with('.'));
    let (mut places, mut missing) = (Vec::new(), Vec::new());
    for (theirs, parts) in by_module {
        let exact: Vec<_> = named.iter().filter(|(n, _)| n == theirs).collect();
        let found = match exact.is_empty() {
            false => exact,
            true => named.iter().filter(|(n, _)| ends(n, theirs) || ends(theirs, n)).collect(),
        };
        match found[..] {
            [(_, module)] => places.push(Place { module: (*module).clone(), theirs, parts }),
            [] => missing.push(theirs.as_str()),
            _ => {
                let several: Vec<&str> = found.iter().map(|(_, m)| m.name.as_str()).collect();
                let problem = format!("the module {theirs} may be any of: {}", several.join(", "));
                return Err(ModelError::checkpoint(file.path(), problem));
            }
        }
    }
    if missing.is_empty() {
        return Ok(places);
    }
    let near = sensorium_engine::pattern::near(missing[0], named.iter().map(|(n, _)| n.as_str()));
    let problem =
        format!("was made on another model: this one has no modules {}; it has: {}", some(&missing), near.join(", "));
    Err(ModelError::checkpoint(file.path(), problem))
}

/// The first few of many names.
fn some(names: &[&str]) -> String {
    let shown = names.iter().take(5).copied().collect::<Vec<_>>().join(", ");
    match names.len() {
        0..=5 => shown,
        n => format!("{shown} and {} more", n - 5),
    }
}

/// The configuration with the names of our modules for targets.
fn with_our_targets(config: &AdapterConfig, file: &Checkpoint, places: &[Place<'_>]) -> AdapterConfig {
    let names = || places.iter().map(|p| p.module.name.clone()).collect::<Vec<_>>();
    match config.clone() {
        AdapterConfig::Lora(mut c) => {
            c.targets = names();
            AdapterConfig::Lora(c)
        }
        AdapterConfig::Ia3(mut c) => {
            c.targets = names();
            c.feedforward = places.iter().filter(|p| scales_input(file, p)).map(|p| p.module.name.clone()).collect();
            AdapterConfig::Ia3(c)
        }
        other => other,
    }
}

/// PEFT keeps factors of inputs as a row, those of outputs as a column.
fn scales_input(file: &Checkpoint, place: &Place<'_>) -> bool {
    let info = file.info(&format!("{ROOT}{}.ia3_l", place.theirs));
    info.is_some_and(|i| matches!(i.dims[..], [1, n] if n == place.module.inputs))
}

/// The configuration of one module: LoRA's rank and alpha may be its own.
fn own_config(
    config: &AdapterConfig,
    file: &Checkpoint,
    place: &Place<'_>,
    read: &peft::Read,
) -> Result<AdapterConfig> {
    let wanted: &[&str] = match config {
        AdapterConfig::Lora(_) if place.module.table => &["lora_embedding_A", "lora_embedding_B"],
        AdapterConfig::Lora(c) if c.dora => &["lora_A.weight", "lora_B.weight", "lora_magnitude_vector"],
        AdapterConfig::Lora(_) => &["lora_A.weight", "lora_B.weight"],
        AdapterConfig::Ia3(_) => &["ia3_l"],
        AdapterConfig::Bottleneck(_) => {
            &["adapter_down.weight", "adapter_down.bias", "adapter_up.weight", "adapter_up.bias"]
        }
        AdapterConfig::Prefix(_) => &["prefix"],
        AdapterConfig::Prompt(_) => &["prompt"],
    };
    if !place.parts.iter().map(String::as_str).eq(wanted.iter().copied().collect::<BTreeSet<_>>()) {
        let have = place.parts.iter().cloned().collect::<Vec<_>>().join(", ");
        let problem = format!("{} has {have}, expected {}", place.theirs, wanted.join(", "));
        return Err(ModelError::checkpoint(file.path(), problem));
    }
    let mut config = config.clone();
    if let AdapterConfig::Lora(c) = &mut config {
        let part = if place.module.table { "lora_embedding_A" } else { "lora_A.weight" };
        if let Some(rank) = file.info(&format!("{ROOT}{}.{part}", place.theirs)).and_then(|i| i.dims.first()) {
            c.rank = *rank;
        }
        c.alpha = peft::alpha_of(&read.alphas, place.theirs).unwrap_or(c.alpha);
        AdapterConfig::Lora(c.clone()).validate()?;
    }
    Ok(config)
}

/// A tensor of the file as the parameter it becomes.
fn tensor(file: &Checkpoint, theirs: &str, module: &Module, part: &str, dims: &[usize]) -> Result<Tensor> {
    let rooted = format!("{ROOT}{theirs}.{part}");
    let name = if file.info(&rooted).is_some() { rooted } else { format!("{theirs}.{part}") };
    let read = |dims: &[usize]| {
        file.read_as(&name, dims).map_err(|_| {
            let theirs = file.info(&name).map(|i| i.dims.clone()).unwrap_or_default();
            let problem = format!(
                "tensor {name} has dimensions {theirs:?}, expected {dims:?}: was it made on another model? (our {})",
                module.name
            );
            ModelError::checkpoint(file.path(), problem)
        })
    };
    match part {
        "lora_embedding_A" => Ok(transposed(&read(&[dims[1], dims[0]])?)),
        _ => read(dims),
    }
}

/// The tensors of a site as the file has them.
fn parts(params: &Params, site: &Site) -> Vec<(&'static str, Tensor)> {
    let value = |id: &ParamId| params.get(*id).value.clone();
    let shaped = |id: &ParamId, dims: &[usize]| {
        let mut tensor = Tensor::any(dims);
        tensor.data_mut().copy_from_slice(params.get(*id).value.data());
        tensor
    };
    let len = |id: &ParamId| params.get(*id).value.len();
    match site {
        Site::Lora(Lora { a, b, magnitude, .. }) => {
            let mut parts = vec![("lora_A.weight", value(a)), ("lora_B.weight", value(b))];
            parts.extend(magnitude.as_ref().map(|m| ("lora_magnitude_vector", value(m))));
            parts
        }
        Site::TableLora(TableLora { a, b, .. }) => {
            vec![("lora_embedding_A", transposed(&params.get(*a).value)), ("lora_embedding_B", value(b))]
        }
        Site::ScaleOutput(factors) => vec![("ia3_l", shaped(factors, &[len(factors), 1]))],
        Site::ScaleInput(factors) => vec![("ia3_l", shaped(factors, &[1, len(factors)]))],
        Site::After(b) | Site::Beside(b) => vec![
            ("adapter_down.weight", value(&b.down)),
            ("adapter_down.bias", value(&b.down_bias)),
            ("adapter_up.weight", value(&b.up)),
            ("adapter_up.bias", value(&b.up_bias)),
        ],
        Site::Prefix(rows) => vec![("prefix", value(rows))],
        Site::Prompt(rows) => vec![("prompt", value(rows))],
    }
}

fn transposed(x: &Tensor) -> Tensor {
    let (rows, cols) = (x.shape().rows(), x.shape().cols());
    let mut out = Tensor::any(&[cols, rows]);
    for (i, o) in out.data_mut().iter_mut().enumerate() {
        *o = x.data()[i % rows * cols + i / rows];
    }
    out
}
