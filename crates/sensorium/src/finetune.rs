//! Fine-tuning: which towers a method rules, and the small folder that holds
//! what was trained, to be handed around without the base.
//!
//! `adapter/` beside a model's weights holds `adapter_config.json` and
//! `adapter_model.safetensors` (the adapter alone, in PEFT's layout),
//! `trained.safetensors` (fusion, head and whatever else was trained in full)
//! and `sensorium.json` (the method, the label, and a fingerprint of the base).

use crate::config::FitConfig;
use crate::encoders::Encoders;
use crate::saved::{Model, write};
use crate::task::Objective;
use crate::{Error, Result};
use sensorium_data::{ColumnPlan, Processor};
use sensorium_engine::{ParamId, Params};
use sensorium_model::Towers;
use sensorium_model::adapters::{ADAPTER_CONFIG_FILE, Finetune, Method, module_names};
use sensorium_model::checkpoint::{Checkpoint, write_safetensors};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashSet};
use std::path::Path;

/// The folder of what was trained, within a model's.
pub const ADAPTER_FOLDER: &str = "adapter";
/// The file of what was trained in full.
pub const TRAINED_FILE: &str = "trained.safetensors";
/// The file that says what the folder is.
pub const ABOUT_FILE: &str = "sensorium.json";
/// The version of the folder's format.
const FORMAT: u32 = 1;
/// The name of the adapter that a model is trained with.
const NAME: &str = "default";

/// `sensorium.json`
#[derive(Serialize, Deserialize)]
struct About {
    /// The version of the folder's format.
    format: u32,
    /// The program that wrote it.
    written_by: String,
    /// The fine-tuning method.
    method: String,
    /// A hash of the weights that were not trained.
    base: String,
    /// A hash of how rows become inputs.
    inputs: String,
    /// What the trained head predicts.
    objective: Objective,
}

/// Attaches the adapter that a configuration asks for, and freezes what its
/// method does not train.
///
/// # Errors
/// When the method rules over nothing, or its settings do not fit the model.
pub(crate) fn apply<'p>(
    config: &FitConfig,
    encoders: &Encoders,
    (towers, params): (&mut Towers, &mut Params),
    processors: impl Iterator<Item = &'p Processor> + Clone,
) -> Result<()> {
    let section = &config.finetune;
    let method = section.resolve()?;
    let wrong = |key: &str, problem: String| Error::Config { place: format!("finetune{key}"), problem };
    let scopes = encoders.scopes(towers, processors.clone());
    let parts = section.parts.clone().unwrap_or(scopes);
    let names = encoders.file_names(towers, params, processors);
    towers.adapters_mut().set_file_names(names);
    if method == Method::Full {
        return Ok(());
    }
    if parts.is_empty() {
        let name = section.method.name();
        let problem = format!(
            "the method {name} is for pretrained towers, and there is none: name an encoder, as text.encoder = \
             \"FOLDER\", or the parts to hold fast, as finetune.parts = [\"towers.caption\"]"
        );
        return Err(wrong("", problem));
    }
    if let Some(part) = parts.iter().find(|p| !p.starts_with("towers")) {
        return Err(wrong(".parts", format!("`{part}` is not within the towers; expected names as towers.caption")));
    }
    let finetune = Finetune { method, parts, modules_to_save: section.modules_to_save.clone() };
    finetune.apply(towers.adapters_mut(), params, NAME, config.train.seed).map_err(|e| wrong("", e.to_string()))
}

/// The parameters of a model's adapters.
pub(crate) fn adapter_parameters(towers: &Towers) -> Result<HashSet<ParamId>> {
    let adapters = towers.adapters();
    let mut ids = HashSet::new();
    for name in adapters.names() {
        ids.extend(adapters.parameters(name)?);
    }
    Ok(ids)
}

/// Writes what was trained, where the method trains but a part.
///
/// # Errors
/// When a file cannot be written.
pub(crate) fn save(folder: &Path, model: &Model) -> Result<()> {
    let section = &model.config.finetune;
    if section.resolve()? == Method::Full {
        return Ok(());
    }
    let folder = folder.join(ADAPTER_FOLDER);
    std::fs::create_dir_all(&folder).map_err(|e| Error::io("create", &folder, e))?;
    let learner = &model.learner;
    save_adapter(&folder, &model.config, &learner.model, &learner.params)?;
    let own = adapter_parameters(&learner.model)?;
    let trained = || learner.params.iter().filter(|(id, p)| p.trainable && !own.contains(id));
    write_safetensors(&folder.join(TRAINED_FILE), trained().map(|(_, p)| (p.name.as_str(), &p.value)))?;
    let names: HashSet<&str> = trained().map(|(_, p)| p.name.as_str()).collect();
    let about = About {
        format: FORMAT,
        written_by: concat!("sensorium ", env!("CARGO_PKG_VERSION")).into(),
        method: section.method.name().into(),
        base: fingerprint(&learner.params, &own, &names),
        inputs: inputs_hash(&model.plan.columns)?,
        objective: learner.objective.clone(),
    };
    let json = serde_json::to_string_pretty(&about).map_err(|e| Error::model(&folder, e.to_string()))?;
    write(&folder.join(ABOUT_FILE), json.as_bytes())
}

/// Writes the active adapter, if there is one, in PEFT's layout.
///
/// # Errors
/// When a file cannot be written.
pub(crate) fn save_adapter(folder: &Path, config: &FitConfig, towers: &Towers, params: &Params) -> Result<()> {
    let Some(active) = towers.adapters().active() else { return Ok(()) };
    std::fs::create_dir_all(folder).map_err(|e| Error::io("create", folder, e))?;
    let base = config.text.encoder.as_ref().map(|p| p.display().to_string());
    Ok(towers.adapters().save(params, active, folder, base.as_deref())?)
}

/// The size in bytes of what [`save`] wrote, 0 where it wrote nothing.
pub(crate) fn saved_bytes(folder: &Path) -> u64 {
    let Ok(files) = std::fs::read_dir(folder.join(ADAPTER_FOLDER)) else { return 0 };
    files.filter_map(|f| f.ok()?.metadata().ok()).map(|m| m.len()).sum()
}

/// Attaches the adapter that a model was saved with.
pub(crate) fn load_own(folder: &Path, towers: &mut Towers, params: &mut Params) -> Result<()> {
    let folder = folder.join(ADAPTER_FOLDER);
    if !folder.is_dir() {
        let problem = "there is no folder `adapter`: training did not finish, or it was not copied along";
        return Err(Error::model(folder.parent().unwrap_or(&folder), problem));
    }
    towers.adapters_mut().load(params, NAME, &folder, &["towers".into()])?;
    Ok(())
}

impl Model {
    /// Puts another adapter in the place of the model's own: the folder
    /// `adapter` of a model that was fine-tuned from the same base, or one that
    /// PEFT wrote. With one of ours, head and label become its own.
    ///
    /// Returns remarks for the person.
    ///
    /// # Errors
    /// When the folder holds no adapter, or one that was made on another base.
    pub fn load_adapter(&mut self, folder: &Path) -> Result<Vec<String>> {
        if self.is_quantized() {
            let problem = "this model is quantised, and adapters belong to the weights it was made from: answer with \
                           those, or quantise the model that was trained with the adapter";
            return Err(Error::Request(problem.into()));
        }
        let within = folder.join(ADAPTER_FOLDER);
        let folder = if within.join(ABOUT_FILE).is_file() { within } else { folder.to_owned() };
        let mut notes = Vec::new();
        let has_adapter = folder.join(ADAPTER_CONFIG_FILE).is_file();
        let about = folder.join(ABOUT_FILE);
        if about.is_file() {
            self.load_trained(&folder, &about)?;
        } else if has_adapter {
            notes.push("the adapter brings no head of its own: the model's is used".to_owned());
        } else {
            let problem = format!("holds neither {ABOUT_FILE} nor {ADAPTER_CONFIG_FILE}: expected an adapter's folder");
            return Err(Error::model(&folder, problem));
        }
        let adapters = self.learner.model.adapters_mut();
        adapters.activate(None)?;
        if has_adapter {
            let name = format!("loaded-{}", adapters.names().len());
            let left = adapters.load(&mut self.learner.params, &name, &folder, &["towers".into()])?;
            if !left.is_empty() {
                notes.push(format!("left out, for the model has parts of its own: {}", left.join(", ")));
            }
        }
        Ok(notes)
    }

    /// Folds the active adapter into the weights, where it can be: answers come
    /// as fast as from the base.
    ///
    /// # Errors
    /// Those of the model.
    pub fn merge_adapter(&mut self) -> Result<()> {
        let adapters = self.learner.model.adapters_mut();
        let can = adapters.active().and_then(|a| adapters.config(a)).is_some_and(|c| c.can_merge());
        if can {
            adapters.merge(&mut self.learner.params)?;
        }
        Ok(())
    }

    /// Head, fusion and whatever else was trained in full, and the label.
    fn load_trained(&mut self, folder: &Path, about: &Path) -> Result<()> {
        let broken = |problem: String| Error::model(folder, problem);
        let text = std::fs::read_to_string(about).map_err(|e| Error::io("read", about, e))?;
        let json: serde_json::Value = serde_json::from_str(&text).map_err(|e| broken(format!("{ABOUT_FILE}: {e}")))?;
        match json.get("format").and_then(serde_json::Value::as_u64) {
            Some(n) if n == u64::from(FORMAT) => {}
            n => return Err(broken(format!("{ABOUT_FILE}: format {n:?} is not known, this program reads {FORMAT}"))),
        }
        let about: About = serde_json::from_value(json).map_err(|e| broken(format!("{ABOUT_FILE}: {e}")))?;
        if about.inputs != inputs_hash(&self.plan.columns)? {
            return Err(broken("was made for other input columns than this model's".into()));
        }
        if about.objective.outputs() != self.learner.objective.outputs() {
            let (theirs, ours) = (about.objective.outputs(), self.learner.objective.outputs());
            return Err(broken(format!("its head has {theirs} outputs, this model's has {ours}")));
        }
        let file = Checkpoint::open(&folder.join(TRAINED_FILE))?;
        let own = adapter_parameters(&self.learner.model)?;
        let names: HashSet<&str> = file.names().collect();
        if about.base != fingerprint(&self.learner.params, &own, &names) {
            let problem = "was made on other weights than this model's: give the model it was made with, or another \
                           one fine-tuned from the same checkpoint by a method that leaves it as it is";
            return Err(broken(problem.into()));
        }
        let mut values = Vec::new();
        for name in file.names() {
            let id = self.learner.params.id(name).ok_or_else(|| broken(format!("the model has no {name}")))?;
            values.push((id, file.read_as(name, self.learner.params.get(id).value.dims())?));
        }
        for (id, value) in values {
            self.learner.params.get_mut(id).value = value;
        }
        self.learner.objective = about.objective;
        Ok(())
    }
}

/// A hash of the weights that are neither an adapter's nor trained.
fn fingerprint(params: &Params, adapters: &HashSet<ParamId>, trained: &HashSet<&str>) -> String {
    let mut hash = blake3::Hasher::new();
    for (_, p) in params.iter().filter(|(id, p)| !adapters.contains(id) && !trained.contains(p.name.as_str())) {
        hash.update(p.name.as_bytes());
        p.digest(|bytes| {
            hash.update(bytes);
        });
    }
    hash.finalize().to_hex().to_string()
}

fn inputs_hash(columns: &[ColumnPlan]) -> Result<String> {
    let json = serde_json::to_vec(columns).map_err(|e| Error::Request(e.to_string()))?;
    Ok(blake3::hash(&json).to_hex().to_string())
}

impl Encoders {
    /// The names of the modules of the towers that encoders made, by ours.
    fn file_names<'p>(
        &self,
        model: &Towers,
        params: &Params,
        processors: impl Iterator<Item = &'p Processor>,
    ) -> BTreeMap<String, String> {
        let towers = self.tensor_names(model, processors);
        module_names(params)
            .into_iter()
            .filter_map(|(module, weight)| {
                let ours = &params.get(weight).name;
                let theirs = towers
                    .iter()
                    .find_map(|(scope, name)| name(ours.strip_prefix(scope.as_str())?.strip_prefix('.')?))?;
                Some((module, theirs.strip_suffix(".weight").unwrap_or(&theirs).to_owned()))
            })
            .collect()
    }
}
