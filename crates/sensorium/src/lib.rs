//! Sensorium: multimodal Transformers, from a table of text, images, audio and
//! video to a working model.
//!
//! ```no_run
//! use sensorium::{FitConfig, fit, predict};
//! use std::path::Path;
//!
//! # fn main() -> sensorium::Result<()> {
//! let mut config = FitConfig::default();
//! config.data.table = Some("products.csv".into());
//! config.label.column = Some("category".into());
//! let options = fit::FitOptions { out: "model".into(), ..Default::default() };
//! let fitted = fit::fit(&config, &options, &mut ())?;
//! if let Some(result) = &fitted.evaluated {
//!     println!("{}", result.evaluation.to_text());
//! }
//! let model = sensorium::Model::load(Path::new("model"))?;
//! predict::predict_table(&model, Path::new("new.csv"), sensorium::OnBad::Fail, &mut |p| {
//!     println!("{}: {}", p.row + 1, p.label.unwrap_or_default());
//!     Ok(())
//! })?;
//! # Ok(())
//! # }
//! ```
//!
//! The verbs are [`fit`], [`mod@pretrain`], [`evaluate`], [`predict`],
//! [`extract`], [`quantize`] and those of [`mod@search`];
//! [`FitConfig`] says how, [`Model`] is what they pass along.

mod assemble;
mod batch;
pub mod config;
mod encoders;
mod error;
pub mod extract;
pub mod feature_cache;
mod finetune;
pub mod hub;
mod learner;
mod mixup;
mod model_info;
pub mod pretrain;
mod processors;
pub mod retrieve;
mod saved;
pub mod search;
mod task;
mod verbs;

pub use batch::Batch;
pub use config::FitConfig;
pub use error::{Error, Result};
pub use finetune::{ABOUT_FILE, ADAPTER_FOLDER, TRAINED_FILE};
pub use learner::{Answers, Learner};
pub use model_info::{ModelInfo, PartInfo, Usable};
pub use pretrain::PretrainConfig;
pub use saved::Model;
pub use sensorium_data::{ColumnType, LabelTask, Modality, OnBad, Split, Value};
pub use sensorium_train::StopFlag;
pub use task::{Decision, Objective};
pub use verbs::{Dataset, cache_folder, evaluate, fit, predict, quantize};

/// The rooms below, for those who need more than the verbs.
pub mod rooms {
    pub use sensorium_data as data;
    pub use sensorium_engine as engine;
    pub use sensorium_eval as eval;
    pub use sensorium_index as index;
    pub use sensorium_media as media;
    pub use sensorium_model as model;
    pub use sensorium_train as train;
}
