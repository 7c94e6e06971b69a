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
use sensorium_engine::quantized::Range;
use sensorium_engine::{EngineError, Params, Quantized, Tensor, Weights};
use sensorium_model::{ModelConfig, MultimodalModel, Towers};
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
/// Its first line.
pub(crate) const FIT_HEAD: &str = "# The configuration of this model, every automatic choice filled in.\n";
/// The version of the folder's format.
pub(crate) const FORMAT: u32 = 1;
/// The version of a quantised model's, which older programs cannot read.
const QUANTIZED_FORMAT: u32 = 2;
/// What the names of the scales of codes end with, after the weight's name.
pub(crate) const SCALE: &str = ".scale";
/// What the names of fixed ranges of inputs end with.
pub(crate) const RANGE: &str = ".input_range";

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
    /// How weights are stored, where it is not as they were trained.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    quantization: Option<SavedQuantization>,
}

/// What `config.json` says about codes in place of weights.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct SavedQuantization {
    /// `int8`: codes of eight bits, a scale for each output or entry.
    pub weights: String,
    /// `dynamic`: inputs have a range of their own in each row; `calibrated`:
    /// ranges are fixed.
    pub activations: String,
    /// Patterns of weights that were kept as they were.
    #[serde(default)]
    pub kept: Vec<String>,
}

/// Writes what is known before training: structure, data plan, configuration.
///
/// # Errors
/// When a file cannot be written.
pub(crate) fn save_structure(folder: &Path, learner: &Learner, plan: &DataPlan, config: &FitConfig) -> Result<()> {
    let adapter = learner.model.adapters().active().is_some();
    save_parts(folder, (learner, plan, config), adapter, None)
}

/// As [`save_structure`], for a model whose weights have become codes, and
/// whether the folder `adapter` still belongs to it.
///
/// # Errors
/// When a file cannot be written.
pub(crate) fn save_structure_as(folder: &Path, model: &Model, how: SavedQuantization, adapter: bool) -> Result<()> {
    save_parts(folder, (&model.learner, &model.plan, &model.config), adapter, Some(how))
}

fn save_parts(
    folder: &Path,
    (learner, plan, config): (&Learner, &DataPlan, &FitConfig),
    adapter: bool,
    quantization: Option<SavedQuantization>,
) -> Result<()> {
    let structure = Structure {
        format: if quantization.is_some() { QUANTIZED_FORMAT } else { FORMAT },
        written_by: concat!("sensorium ", env!("CARGO_PKG_VERSION")).into(),
        objective: learner.objective.clone(),
        model: learner.model.config().clone(),
        adapter,
        module_names: learner.model.adapters().file_names().clone(),
        quantization,
    };
    save_folder(folder, &structure, plan, config)
}

/// Writes what is known before training, `structure` being `config.json`.
///
/// # Errors
/// When a file cannot be written.
pub(crate) fn save_folder(
    folder: &Path,
    structure: &impl Serialize,
    plan: &DataPlan,
    config: &FitConfig,
) -> Result<()> {
    std::fs::create_dir_all(folder).map_err(|e| Error::io("create", folder, e))?;
    // First, since the folder of a run is known by it.
    let text = toml::to_string(config).map_err(|e| Error::model(folder, e.to_string()))?;
    write(&folder.join(FIT_FILE), format!("{FIT_HEAD}{text}").as_bytes())?;
    let json = serde_json::to_string_pretty(structure).map_err(|e| Error::model(folder, e.to_string()))?;
    write(&folder.join(CONFIG_FILE), json.as_bytes())?;
    Ok(plan.save(folder)?)
}

/// Writes the weights, but for those of adapters.
///
/// # Errors
/// When the file cannot be written.
pub(crate) fn save_weights(folder: &Path, towers: &Towers, params: &Params) -> Result<()> {
    let adapters = crate::finetune::adapter_parameters(towers)?;
    let mut tensors: Vec<(String, Dtype, Vec<usize>, Vec<u8>)> = Vec::new();
    let floats = |values: &[f32]| values.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<u8>>();
    for (_, p) in params.iter().filter(|(id, _)| !adapters.contains(id)) {
        let Some(codes) = p.quantized() else {
            tensors.push((p.name.clone(), Dtype::F32, p.value.dims().to_vec(), floats(p.value.data())));
            continue;
        };
        let mut bytes = Vec::with_capacity(codes.rows() * codes.cols());
        let mut row = vec![0; codes.cols()];
        for r in 0..codes.rows() {
            codes.row(r, &mut row);
            bytes.extend(row.iter().map(|q| *q as u8));
        }
        tensors.push((p.name.clone(), Dtype::I8, vec![codes.rows(), codes.cols()], bytes));
        tensors.push((format!("{}{SCALE}", p.name), Dtype::F32, vec![codes.rows()], floats(codes.scales())));
        if let Some(range) = codes.range() {
            tensors.push((format!("{}{RANGE}", p.name), Dtype::F32, vec![2], floats(&[range.low, range.high])));
        }
    }
    let views = tensors
        .iter()
        .map(|(name, dtype, dims, bytes)| {
            TensorView::new(*dtype, dims.clone(), bytes)
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

/// What `config.json` of a saved model says, whose format this program reads.
///
/// # Errors
/// When the folder is not a saved model, or was written by a newer version.
pub(crate) fn read_structure(folder: &Path) -> Result<serde_json::Value> {
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
        Some(n) if n == u64::from(FORMAT) || n == u64::from(QUANTIZED_FORMAT) => Ok(json),
        Some(n) if n > u64::from(QUANTIZED_FORMAT) => Err(broken(format!(
            "was written in format {n}, this program reads up to {QUANTIZED_FORMAT}: use a newer sensorium"
        ))),
        _ => Err(broken("is not the configuration of a sensorium model".into())),
    }
}

/// The bytes of a saved model's weights.
///
/// # Errors
/// When they cannot be read.
pub(crate) fn read_weights(folder: &Path) -> Result<Vec<u8>> {
    std::fs::read(folder.join(WEIGHTS_FILE)).map_err(|e| match e.kind() {
        std::io::ErrorKind::NotFound => Error::model(
            folder,
            format!("there is no {WEIGHTS_FILE}: training did not finish; go on with `sensorium fit … --resume`"),
        ),
        _ => Error::io("read", folder.join(WEIGHTS_FILE), e),
    })
}

impl Model {
    /// Loads a saved model. Names and shapes are checked before memory is
    /// spent on weights.
    ///
    /// # Errors
    /// When the folder is not a saved model, was written by a newer version,
    /// or its files do not fit each other.
    pub fn load(folder: &Path) -> Result<Self> {
        let broken = |problem: String| Error::model(folder, format!("{CONFIG_FILE}: {problem}"));
        let json = read_structure(folder)?;
        if let Some(task) = json.get("task").and_then(serde_json::Value::as_str) {
            return Err(Error::model(
                folder,
                format!(
                    "was fitted to {task}, it predicts no label: index and search with it (sensorium index, sensorium \
                     search), sort into named classes (sensorium predict --labels), or evaluate it"
                ),
            ));
        }
        let Structure { objective, model: config, adapter, module_names, quantization, .. } =
            serde_json::from_value(json).map_err(|e| broken(e.to_string()))?;
        if let Some(other) = quantization.as_ref().map(|q| &q.weights).filter(|w| *w != "int8") {
            return Err(broken(format!(
                "weights are stored as {other:?}, this program reads int8: use a newer sensorium"
            )));
        }
        if config.outputs != objective.outputs() {
            return Err(broken(format!("{} outputs do not fit the label's {}", config.outputs, objective.outputs())));
        }
        let plan = DataPlan::load(folder)?;
        if plan.columns.len() != config.columns.len() {
            return Err(broken("the columns of data.json are not those of the model".into()));
        }
        let bytes = read_weights(folder)?;
        let file = Checkpoint::new(&bytes).map_err(|e| Error::model(folder, format!("{WEIGHTS_FILE}: {e}")))?;
        let (model, params) = MultimodalModel::load(&config, &file)?;
        file.all_known(folder, &params)?;
        let mut learner = Learner { model, params, objective, feature_cache: None };
        learner.model.adapters_mut().set_file_names(module_names);
        if adapter {
            crate::finetune::load_own(folder, &mut learner.model, &mut learner.params)?;
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

    /// Whether weights have become codes, for inference only.
    pub fn is_quantized(&self) -> bool {
        self.learner.params.iter().any(|(_, p)| p.quantized().is_some())
    }

    /// Whether a table is the one that the model was trained on.
    pub fn was_trained_on(&self, table: &Path) -> bool {
        match (&self.config.data.table, std::fs::canonicalize(table)) {
            (Some(trained), Ok(given)) => std::fs::canonicalize(trained).is_ok_and(|t| t == given),
            _ => false,
        }
    }

    /// The names of the model's input columns, in order.
    pub fn columns(&self) -> Vec<&str> {
        self.plan.columns.iter().map(|c| c.name.as_str()).collect()
    }
}

/// A safetensors file as a source of weights.
pub(crate) struct Checkpoint<'a>(SafeTensors<'a>);

impl<'a> Checkpoint<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> std::result::Result<Self, safetensors::SafeTensorError> {
        SafeTensors::deserialize(bytes).map(Self)
    }

    /// Refuses tensors that are no parameters of the model in `folder`.
    pub(crate) fn all_known(&self, folder: &Path, params: &Params) -> Result<()> {
        let of_codes = |name: &str| {
            let weight = [SCALE, RANGE].iter().find_map(|end| name.strip_suffix(end));
            weight.and_then(|w| params.id(w)).is_some_and(|id| params.get(id).quantized().is_some())
        };
        let names = self.0.names().into_iter().map(|n| n as &str);
        let unexpected: Vec<&str> = names.filter(|n| params.id(n).is_none() && !of_codes(n)).collect();
        match unexpected.is_empty() {
            true => Ok(()),
            false => {
                Err(Error::model(folder, format!("{WEIGHTS_FILE} has unknown tensors: {}", unexpected.join(", "))))
            }
        }
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
        Tensor::from_slice(dims, &floats(view.data()))
    }

    fn quantized(&self, name: &str, dims: &[usize]) -> sensorium_engine::Result<Option<Quantized>> {
        let Ok(view) = self.0.tensor(name) else { return Ok(None) };
        if view.dtype() != Dtype::I8 {
            return Ok(None);
        }
        let wrong = |problem: String| EngineError::Setting { op: "load", problem };
        let [rows, cols] = *dims else {
            return Err(wrong(format!("tensor {name} is I8, expected F32 {dims:?}")));
        };
        if view.shape() != dims {
            return Err(wrong(format!("tensor {name} is I8 {:?}, expected {dims:?}", view.shape())));
        }
        let beside = |end: &str, len: usize| {
            let name = format!("{name}{end}");
            let Ok(view) = self.0.tensor(&name) else { return Ok(None) };
            if view.shape() != [len] || view.dtype() != Dtype::F32 {
                let problem = format!("tensor {name} is {:?} {:?}, expected F32 [{len}]", view.dtype(), view.shape());
                return Err(wrong(problem));
            }
            Ok(Some(floats(view.data())))
        };
        let scales = beside(SCALE, rows)?.ok_or_else(|| wrong(format!("the weights have no tensor {name}{SCALE}")))?;
        let range = match beside(RANGE, 2)?.as_deref() {
            Some([low, high]) if !(low.is_finite() && high.is_finite() && *low <= 0.0 && *high >= 0.0) => {
                return Err(wrong(format!("tensor {name}{RANGE} is [{low}, {high}], expected a range around 0")));
            }
            Some([low, high]) => Some(Range { low: *low, high: *high }),
            _ => None,
        };
        let codes: Vec<i8> = view.data().iter().map(|b| *b as i8).collect();
        Ok(Some(Quantized::new((rows, cols), &codes, scales)?.with_range(range)))
    }
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
}
