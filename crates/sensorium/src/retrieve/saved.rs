//! A saved retriever: a folder like that of any model of ours, without a label.

use super::RetrievalLearner;
use crate::config::FitConfig;
use crate::saved::{
    Checkpoint, FIT_FILE, FORMAT, WEIGHTS_FILE, read_structure, read_weights, save_folder, save_weights,
};
use crate::{Error, Result, finetune};
use sensorium_data::DataPlan;
use sensorium_model::{JointConfig, JointModel};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

/// What `config.json` says under `task`.
const TASK: &str = "retrieve";

/// A model whose columns meet in one space, as it is used.
#[derive(Debug, Clone)]
pub struct Retriever {
    /// Structure and weights.
    pub learner: RetrievalLearner,
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
    /// What the model is for.
    task: String,
    model: JointConfig,
    /// Whether the folder `adapter` belongs to the model.
    #[serde(default)]
    adapter: bool,
    /// What modules are called in the files of adapters, by our names.
    #[serde(default)]
    module_names: BTreeMap<String, String>,
}

impl Retriever {
    /// Whether a folder holds a retriever.
    pub fn is_in(folder: &Path) -> bool {
        read_structure(folder).is_ok_and(|json| json.get("task").and_then(|t| t.as_str()) == Some(TASK))
    }

    /// Loads a saved retriever. Names and shapes are checked before memory is
    /// spent on weights.
    ///
    /// # Errors
    /// When the folder is not a saved retriever, was written by a newer
    /// version, or its files do not fit each other.
    pub fn load(folder: &Path) -> Result<Self> {
        let broken = |problem: String| Error::model(folder, format!("config.json: {problem}"));
        let structure: Structure =
            serde_json::from_value(read_structure(folder)?).map_err(|e| broken(e.to_string()))?;
        if structure.task != TASK {
            return Err(broken(format!("the model is for {:?}, expected {TASK:?}", structure.task)));
        }
        let plan = DataPlan::load(folder)?;
        if plan.columns.len() != structure.model.columns.len() {
            return Err(broken("the columns of data.json are not those of the model".into()));
        }
        let bytes = read_weights(folder)?;
        let file = Checkpoint::new(&bytes).map_err(|e| Error::model(folder, format!("{WEIGHTS_FILE}: {e}")))?;
        let (mut model, mut params) = JointModel::load(&structure.model, &file)?;
        file.all_known(folder, &params)?;
        model.adapters_mut().set_file_names(structure.module_names);
        if structure.adapter {
            finetune::load_own(folder, &mut model, &mut params)?;
        }
        let path = folder.join(FIT_FILE);
        let text = std::fs::read_to_string(&path).map_err(|e| Error::io("read", &path, e))?;
        let config =
            crate::config::from_toml(&text, &[]).map_err(|e| Error::model(folder, format!("{FIT_FILE}: {e}")))?;
        let sub_batch = config.retrieve.sub_batch;
        let learner = RetrievalLearner { model, params, sub_batch, feature_cache: None };
        Ok(Self { learner, plan: Arc::new(plan), config })
    }

    /// Writes what is known before training.
    pub(crate) fn save_structure(&self, folder: &Path) -> Result<()> {
        let adapters = self.learner.model.adapters();
        let structure = Structure {
            format: FORMAT,
            written_by: concat!("sensorium ", env!("CARGO_PKG_VERSION")).into(),
            task: TASK.into(),
            model: self.learner.model.config().clone(),
            adapter: adapters.active().is_some(),
            module_names: adapters.file_names().clone(),
        };
        save_folder(folder, &structure, &self.plan, &self.config)
    }

    /// Writes the weights, and the adapter where there is one.
    pub(crate) fn save_weights(&self, folder: &Path) -> Result<()> {
        let RetrievalLearner { model, params, .. } = &self.learner;
        finetune::save_adapter(&folder.join(finetune::ADAPTER_FOLDER), &self.config, model, params)?;
        save_weights(folder, model, params)
    }
}
