//! A saved model: a folder that explains itself.
//!
//! `model.safetensors` (weights), `adapter/` (what was fine-tuned, see
//! [`crate::finetune`]), `config.json` (structure and label),
//! `data.json` and `tokenizer.json` (how rows become inputs), `config.toml`
//! (the resolved configuration it was made with), `metrics.json`, `README.md`.

use crate::config::FitConfig;
use crate::learner::Learner;
use crate::task::Objective;
use crate::{Error, Result};
use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorView};
use sensorium_data::DataPlan;
use sensorium_engine::{EngineError, Tensor, Weights};
use sensorium_model::{ModelConfig, MultimodalModel};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;

/// The weights' file.
pub const WEIGHTS_FILE: &str = "model.safetensors";
/// The structure's file.
pub const CONFIG_FILE: &str = "config.json";
/// The resolved configuration's file.
pub const FIT_FILE: &str = "config.toml";
/// The version of the folder's format.
const FORMAT: u32 = 1;

/// A model as it is used: loaded, or just trained.
#[derive(Debug, Clone)]
pub struct Model {
    /// Structure, weights and label.
    pub learner: Learner,
    /// How rows become inputs.
    pub plan: Arc<DataPlan>,
    /// The configuration that it was made with.
    pub config: FitConfig,
}

/// `config.json`
#[derive(Serialize, Deserialize)]
struct Structure {
    /// The version of the folder's format.
    format: u32,
    /// The program that wrote it.
    written_by: String,
    objective: Objective,
    model: ModelConfig,
    /// Whether the folder `adapter` belongs to the model.
    #[serde(default)]
    adapter: bool,
    /// What modules are called in the files of adapters, by our names.
    #[serde(default)]
    module_names: BTreeMap<String, String>,
}

/// Writes what is known before training: structure, data plan, configuration.
///
/// # Errors
/// When a file cannot be written.
pub(crate) fn save_structure(folder: &Path, learner: &Learner, plan: &DataPlan, config: &FitConfig) -> Result<()> {
    std::fs::create_dir_all(folder).map_err(|e| Error::io("create", folder, e))?;
    let structure = Structure {
        format: FORMAT,
        written_by: concat!("sensorium ", env!("CARGO_PKG_VERSION")).into(),
        objective: learner.objective.clone(),
        model: learner.model.config().clone(),
        adapter: learner.model.adapters().active().is_some(),
        module_names: learner.model.adapters().file_names().clone(),
    };
    let json = serde_json::to_string_pretty(&structure).map_err(|e| Error::model(folder, e.to_string()))?;
    write(&folder.join(CONFIG_FILE), json.as_bytes())?;
    plan.save(folder)?;
    let text = toml::to_string(config).map_err(|e| Error::model(folder, e.to_string()))?;
    let head = "# The configuration of this model, every automatic choice filled in.\n";
    write(&folder.join(FIT_FILE), format!("{head}{text}").as_bytes())
}

/// Writes the weights, but for those of adapters.
///
/// # Errors
/// When the file cannot be written.
pub(crate) fn save_weights(folder: &Path, learner: &Learner) -> Result<()> {
    let adapters = crate::finetune::adapter_parameters(learner)?;
    let bytes: Vec<(String, Vec<usize>, Vec<u8>)> = learner
        .params
        .iter()
        .filter(|(id, _)| !adapters.contains(id))
        .map(|(_, p)| {
            let bytes = p.value.data().iter().flat_map(|x| x.to_le_bytes()).collect();
            (p.name.clone(), p.value.dims().to_vec(), bytes)
        })
        .collect();
    let views = bytes
        .iter()
        .map(|(name, dims, bytes)| {
            TensorView::new(Dtype::F32, dims.clone(), bytes)
                .map(|view| (name.as_str(), view))
                .map_err(|e| Error::model(folder, e.to_string()))
        })
        .collect::<Result<Vec<_>>>()?;
    let file = safetensors::serialize(views, None).map_err(|e| Error::model(folder, e.to_string()))?;
    write(&folder.join(WEIGHTS_FILE), &file)
}

/// Writes a file under a temporary name, syncs and renames it.
///
/// # Errors
/// When that fails.
pub(crate) fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    let err = |e| Error::io("write", path, e);
    let mut name = path.file_name().unwrap_or_default().to_os_string();
    name.push(".partial");
    let partial = path.with_file_name(name);
    let mut file = std::fs::File::create(&partial).map_err(err)?;
    file.write_all(bytes).map_err(err)?;
    file.sync_all().map_err(err)?;
    std::fs::rename(&partial, path).map_err(err)
}

impl Model {
    /// Loads a saved model. Names and shapes are checked before memory is
    /// spent on weights.
    ///
    /// # Errors
    /// When the folder is not a saved model, was written by a newer version,
    /// or its files do not fit each other.
    pub fn load(folder: &Path) -> Result<Self> {
        let path = folder.join(CONFIG_FILE);
        let text = std::fs::read_to_string(&path).map_err(|e| match e.kind() {
            std::io::ErrorKind::NotFound => Error::model(
                folder,
                format!("there is no {CONFIG_FILE}; expected the folder that `sensorium fit --out` wrote"),
            ),
            _ => Error::io("read", &path, e),
        })?;
        let broken = |problem: String| Error::model(folder, format!("{CONFIG_FILE}: {problem}"));
        let json: serde_json::Value = serde_json::from_str(&text).map_err(|e| broken(e.to_string()))?;
        match json.get("format").and_then(serde_json::Value::as_u64) {
            Some(n) if n == u64::from(FORMAT) => {}
            Some(n) if n > u64::from(FORMAT) => {
                return Err(broken(format!(
                    "was written in format {n}, this program reads {FORMAT}: use a newer sensorium"
                )));
            }
            _ => return Err(broken("is not the configuration of a sensorium model".into())),
        }
        let Structure { objective, model: config, adapter, module_names, .. } =
            serde_json::from_value(json).map_err(|e| broken(e.to_string()))?;
        if config.outputs != objective.outputs() {
            return Err(broken(format!("{} outputs do not fit the label's {}", config.outputs, objective.outputs())));
        }
        let plan = DataPlan::load(folder)?;
        if plan.columns.len() != config.columns.len() {
            return Err(broken("the columns of data.json are not those of the model".into()));
        }
        let bytes = std::fs::read(folder.join(WEIGHTS_FILE)).map_err(|e| match e.kind() {
            std::io::ErrorKind::NotFound => Error::model(
                folder,
                format!("there is no {WEIGHTS_FILE}: training did not finish; go on with `sensorium fit … --resume`"),
            ),
            _ => Error::io("read", folder.join(WEIGHTS_FILE), e),
        })?;
        let file = Checkpoint::new(&bytes).map_err(|e| Error::model(folder, format!("{WEIGHTS_FILE}: {e}")))?;
        let (model, params) = MultimodalModel::load(&config, &file)?;
        let unexpected: Vec<&str> =
            file.0.names().into_iter().filter(|n| params.id(n).is_none()).map(|n| n as &str).collect();
        if !unexpected.is_empty() {
            return Err(Error::model(folder, format!("{WEIGHTS_FILE} has unknown tensors: {}", unexpected.join(", "))));
        }
        let mut learner = Learner { model, params, objective, feature_cache: None };
        learner.model.adapters_mut().set_file_names(module_names);
        if adapter {
            crate::finetune::load_own(folder, &mut learner)?;
        }
        let fit = folder.join(FIT_FILE);
        let mut config = match fit.exists() {
            true => crate::config::read(&fit, &[])?,
            false => FitConfig::default(),
        };
        // Before data.seed, rows were split by the seed of training.
        config.data.seed.get_or_insert(config.train.seed);
        Ok(Self { learner, plan: Arc::new(plan), config })
    }

    /// The names of the model's input columns, in order.
    pub fn columns(&self) -> Vec<&str> {
        self.plan.columns.iter().map(|c| c.name.as_str()).collect()
    }
}

/// A safetensors file as a source of weights.
struct Checkpoint<'a>(SafeTensors<'a>);

impl<'a> Checkpoint<'a> {
    fn new(bytes: &'a [u8]) -> std::result::Result<Self, safetensors::SafeTensorError> {
        SafeTensors::deserialize(bytes).map(Self)
    }
}

impl Weights for Checkpoint<'_> {
    fn tensor(&self, name: &str, dims: &[usize]) -> sensorium_engine::Result<Tensor> {
        let wrong = |problem: String| EngineError::Setting { op: "load", problem };
        let view = self.0.tensor(name).map_err(|_| wrong(format!("the weights have no tensor {name}")))?;
        if view.shape() != dims || view.dtype() != Dtype::F32 {
            return Err(wrong(format!(
                "tensor {name} is {:?} {:?}, expected F32 {dims:?}",
                view.dtype(),
                view.shape()
            )));
        }
        let values: Vec<f32> =
            view.data().chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
        Tensor::from_slice(dims, &values)
    }
}
