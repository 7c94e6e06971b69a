//! Fit: from a table to a trained, evaluated, saved model.

use super::dataset::{TrainingRows, open_cache};
use super::describe::{describe_columns, describe_model, measure_step};
use super::evaluate::{Answered, EvaluateOptions, Evaluated, answer_loader, evaluate_rows, judged};
use super::{Dataset, RunFolder, in_words, report};
use crate::assemble::{augmentation, model_config, plan_options, resolve};
use crate::config::{FitConfig, MethodName, TaskName};
use crate::encoders::Encoders;
use crate::feature_cache::FeatureCache;
use crate::finetune;
use crate::learner::Learner;
use crate::saved::{FIT_HEAD, Model, save_structure, save_weights};
use crate::task::Objective;
use crate::{Error, Result};
use sensorium_data::{BadCells, DataPlan, Loader, Processor};
use sensorium_engine::Params;
use sensorium_eval::Evaluation;
use sensorium_model::{Frozen, FusionKind, MultimodalModel, Towers};
use sensorium_train::{BoxError, Event, Judge, Observer, RunOptions, StopFlag, Stopped, Summary, Trainer};
use std::collections::BTreeMap;
use std::ops::DerefMut;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// What to fit.
#[derive(Debug, Clone, Default)]
pub struct FitOptions {
    /// Where the model is written.
    pub out: PathBuf,
    /// Go on from the newest checkpoint in `out`.
    pub resume: bool,
    /// How long to train.
    pub time_limit: Option<Duration>,
    /// Raised to stop after the current step, with a checkpoint.
    pub stop: StopFlag,
}

impl FitOptions {
    /// The training loop's part of them; `identity` is what a resumed run must
    /// have in common with the one that it goes on with.
    pub(crate) fn run(&self, identity: serde_json::Value) -> RunOptions {
        RunOptions {
            dir: self.out.clone(),
            resume: self.resume,
            time_limit: self.time_limit,
            stop: self.stop.clone(),
            identity,
        }
    }
}

/// Who follows a fit: remarks in words, and what happens in training.
pub trait Follower {
    /// A remark for the person, one or more lines.
    fn note(&mut self, text: &str);
    /// An event of the training loop.
    fn event(&mut self, event: &Event<'_>);
}

/// Nobody follows.
impl Follower for () {
    fn note(&mut self, _text: &str) {}
    fn event(&mut self, _event: &Event<'_>) {}
}

/// What a fit came to.
#[derive(Debug)]
pub struct Fitted {
    /// The model, as it was saved.
    pub model: Model,
    /// How training went.
    pub summary: Summary,
    /// The evaluation on the test split (or the validation split where there
    /// is no test split), with the starting weights as the one before; None
    /// after an interruption, or where no row is held out.
    pub evaluated: Option<Evaluated>,
    /// Which split that was.
    pub split: &'static str,
    /// The report page.
    pub report: Option<PathBuf>,
}

/// Fits a model to a table under a configuration.
///
/// # Errors
/// When the table, the configuration or training fails.
pub fn fit(config: &FitConfig, options: &FitOptions, follower: &mut dyn Follower) -> Result<Fitted> {
    let mut config = config.clone();
    if config.task != TaskName::Predict {
        let problem = "is fitted by another function: retrieve::fit_retrieval";
        return Err(Error::Config { place: "task".into(), problem: problem.into() });
    }
    let path = table_path(&config)?;
    if config.label.column.is_none() {
        return Err(Error::Config {
            place: "label.column".into(),
            problem: "missing; expected the name of the column to predict (--label COLUMN)".into(),
        });
    }
    let options = &FIT_FOLDER.enter(options, follower)?;
    let (dataset, encoders) = begin((&path, &mut config), follower, Encoders::open)?;
    let plan = saved_or_fitted_plan(&dataset, &mut config, &encoders, options)?;
    let label = plan.label.clone().ok_or_else(|| Error::Request("the plan has no label".into()))?;
    let objective = Objective::new(label, &config.label)?;
    let network = model_config(&plan, &config, &encoders, objective.outputs())?;
    let (mut model, mut params) = MultimodalModel::new(&network, config.train.seed)?;
    let feature_cache = ready(&mut config, (&plan, &encoders), (&mut model, &mut params), |_, _| {}, follower)?;
    let learner = Learner { model, params, objective, feature_cache };
    config.data.table = Some(std::path::absolute(&path).map_err(|e| Error::io("find", &path, e))?);
    let mut model = Model { learner, plan: Arc::new(plan), config };
    let trainer = Trainer::new(model.config.train.clone(), options.run(identity(&model, &dataset)?))?;
    let mut judge = Validation::new(&dataset, &model)?;
    trainer.check(&model.learner, &mut judge).map_err(in_words)?;
    save_structure(&options.out, &model.learner, &model.plan, &model.config)?;

    let (learner, config) = (&model.learner, &model.config);
    let training = dataset.for_training(&model.plan, config, augmentation(config))?;
    let steps = training.batches(0).div_ceil(config.train.grad_accumulation.max(1));
    let fusion = format!("fusion: {:?}, {} features", network.fusion.kind, network.fusion.dim).to_lowercase();
    let measured = measure_step(learner, &TrainingRows(&training))?;
    follower.note(&describe_model((&learner.model, &learner.params), &fusion, config, steps, measured));
    let (held_out, split) = held_out(&dataset);
    let before = learner.clone();

    let mut watch = Watch(follower);
    let summary = trainer.run(&mut model.learner, &TrainingRows(&training), &mut judge, &mut watch)?;
    say_unusable(&training, follower);
    if summary.stopped == Stopped::Interrupted {
        return Ok(Fitted { model, summary, evaluated: None, split, report: None });
    }
    finetune::save(&options.out, &model)?;
    save_weights(&options.out, &model.learner.model, &model.learner.params)?;
    if let bytes @ 1.. = finetune::saved_bytes(&options.out) {
        let folder = options.out.join(finetune::ADAPTER_FOLDER);
        follower.note(&format!(
            "what was trained, without the base: {}, {} KB",
            folder.display(),
            bytes.div_ceil(1000)
        ));
    }

    let (mut evaluated, mut page) = (None, None);
    if !held_out.is_empty() {
        let start = Model { learner: before, plan: Arc::clone(&model.plan), config: model.config.clone() };
        let how = EvaluateOptions { against: Some(start), ..EvaluateOptions::default() };
        let result = evaluate_rows(&model, &dataset, &held_out, &how)?;
        page = Some(report::write(&options.out, &model, &result, Some(&summary), split)?);
        evaluated = Some(result);
    }
    report::write_card(&options.out, &model, evaluated.as_ref(), &summary, split)?;
    Ok(Fitted { model, summary, evaluated, split, report: page })
}

/// Opens what every fit begins with, the rows of a table and pretrained
/// encoders, with remarks about them; what is automatic and a matter of how many
/// rows there are is filled in.
///
/// # Errors
/// When the table or an encoder cannot be read, or no row is left to train on.
pub(crate) fn begin<E>(
    (path, config): (&Path, &mut FitConfig),
    follower: &mut dyn Follower,
    encoders: impl FnOnce(&FitConfig) -> Result<E>,
) -> Result<(Dataset, E)> {
    let dataset = Dataset::open(path, config)?;
    for note in dataset.table.notes() {
        follower.note(note);
    }
    follower.note(&describe_columns(&dataset));
    if dataset.splits.train.is_empty() {
        return Err(Error::Request(format!("no row is left to train on ({})", dataset.splits.summary())));
    }
    let encoders = encoders(config)?;
    resolve(config, dataset.splits.train.len());
    config.train.validate()?;
    Ok((dataset, encoders))
}

/// Makes a fresh model ready to be trained: the weights of encoders, adapters,
/// what is frozen (by `freeze` too), learning rates. Returns the cache for the
/// features of frozen towers, where there are any.
///
/// # Errors
/// When tensors are missing, or settings do not fit the towers.
pub(crate) fn ready<M: DerefMut<Target = Towers>>(
    config: &mut FitConfig,
    (plan, encoders): (&DataPlan, &Encoders),
    (model, params): (&mut M, &mut Params),
    freeze: impl FnOnce(&M, &mut Params),
    follower: &mut dyn Follower,
) -> Result<Option<Arc<FeatureCache>>> {
    let processors = || plan.columns.iter().map(|c| &c.processor);
    encoders.load(model, params, processors())?;
    if matches!(config.finetune.method, MethodName::Full | MethodName::TopLayers) {
        encoders.slow_down(config, model, processors());
    }
    if let Some(text) = encoders.describe(config) {
        follower.note(&text);
    }
    model.set_gradient_checkpointing(config.train.gradient_checkpointing);
    finetune::apply(config, encoders, (&mut *model, &mut *params), processors())?;
    freeze(model, params);
    sensorium_train::assign(&config.train, params)?;
    feature_cache(config, plan, follower, |column| model.frozen(params, column))
}

/// The cache for the features of frozen towers; None where no tower is frozen
/// or nothing is to be kept on disk. Says to which columns it applies.
fn feature_cache(
    config: &FitConfig,
    plan: &DataPlan,
    follower: &mut dyn Follower,
    frozen: impl Fn(usize) -> Frozen,
) -> Result<Option<Arc<FeatureCache>>> {
    let Some(cache) = open_cache(config, "features")? else { return Ok(None) };
    let (mut kept, mut varied) = (Vec::new(), Vec::new());
    let steady: Vec<bool> = plan
        .columns
        .iter()
        .map(|c| match c.processor {
            Processor::Image(_) => !config.image.augment,
            Processor::Audio(_) => !config.audio.augment,
            Processor::Video(_) => !config.video.augment,
            _ => true,
        })
        .collect();
    for (i, (column, steady)) in plan.columns.iter().zip(&steady).enumerate() {
        let worth = !matches!(column.processor, Processor::Number(_) | Processor::Category(_));
        let what = match frozen(i) {
            Frozen::All if worth => column.name.clone(),
            Frozen::Layers(n) if worth => format!("{} up to layer {n}", column.name),
            _ => continue,
        };
        if *steady { kept.push(what) } else { varied.push(column) }
    }
    if !kept.is_empty() {
        follower.note(&format!("frozen, features computed once and cached: {}", kept.join(", ")));
    }
    for column in varied {
        let modality = column.modality.name();
        follower.note(&format!(
            "frozen, but its features are not cached, since augmentation makes them new every epoch: {} (set {modality}.augment = false)",
            column.name
        ));
    }
    if kept.is_empty() {
        return Ok(None);
    }
    let tokens = config.fusion.kind == FusionKind::Attention;
    Ok(Some(Arc::new(FeatureCache::new(cache, &steady, tokens))))
}

/// The table that a configuration names.
pub(crate) fn table_path(config: &FitConfig) -> Result<PathBuf> {
    config.data.table.clone().ok_or_else(|| Error::Config {
        place: "data.table".into(),
        problem: "missing; expected the path of a CSV, JSONL or Parquet file".into(),
    })
}

/// What a fit leaves in its folder.
pub(crate) const FIT_FOLDER: RunFolder = RunFolder { head: FIT_HEAD, finished: &[""], before: &[] };

/// The plan that a resumed run began with, or a fresh one.
pub(crate) fn saved_or_fitted_plan(
    dataset: &Dataset,
    config: &mut FitConfig,
    encoders: &Encoders,
    options: &FitOptions,
) -> Result<DataPlan> {
    let mut how = plan_options(config)?;
    encoders.prepare(config, &mut how)?;
    if options.resume && options.out.join(sensorium_data::plan::PLAN_FILE).exists() {
        return Ok(DataPlan::load(&options.out)?);
    }
    Ok(DataPlan::fit(&dataset.table, &dataset.schema, &dataset.splits.train, &how)?)
}

/// What else determines the run, beside `[train]`.
fn identity(model: &Model, dataset: &Dataset) -> Result<serde_json::Value> {
    let json = |e: serde_json::Error| Error::Request(e.to_string());
    let mut config = model.config.clone();
    config.train = sensorium_train::TrainConfig::default();
    // Where the table lies, and how its media are cached, changes nothing.
    (config.data.table, config.data.cache, config.data.cache_gb) = (None, true, 0.0);
    Ok(serde_json::json!({
        "config": serde_json::to_value(&config).map_err(json)?,
        "model": serde_json::to_value(model.learner.model.config()).map_err(json)?,
        "label": serde_json::to_value(&model.learner.objective).map_err(json)?,
        "training_rows": dataset.splits.train.len(),
        "validation_rows": dataset.splits.val.len(),
    }))
}

/// Says which cells of training rows could not be used.
pub(crate) fn say_unusable(training: &Loader, follower: &mut dyn Follower) {
    for text in unusable(training) {
        follower.note(&format!("could not be used: {text}; `sensorium inspect` lists them"));
    }
}

/// Of each column the rows that could not be used, and why the first could not.
pub(crate) fn unusable(training: &Loader) -> Vec<String> {
    let of = training.rows().len();
    let told = |bad: BadCells| format!("{} of {of} rows of {:?}, first {}", bad.rows, bad.column, bad.first);
    training.bad_cells().into_iter().map(told).collect()
}

/// The rows that speak for the model: the test split, else the validation split.
pub(crate) fn held_out(dataset: &Dataset) -> (Vec<u64>, &'static str) {
    if dataset.splits.test.is_empty() {
        (dataset.splits.val.clone(), "val")
    } else {
        (dataset.splits.test.clone(), "test")
    }
}

/// Passes events on.
pub(crate) struct Watch<'a>(pub(crate) &'a mut dyn Follower);

impl Observer for Watch<'_> {
    fn event(&mut self, event: &Event<'_>) {
        self.0.event(event);
    }
}

/// Validation: loss and the metrics worth watching, and all of it as a report where that is wanted.
struct Validation {
    loader: Option<Loader>,
    report: Option<String>,
    wants_report: bool,
}

impl Validation {
    fn new(dataset: &Dataset, model: &Model) -> Result<Self> {
        let rows = &dataset.splits.val;
        let loader =
            if rows.is_empty() { None } else { Some(dataset.in_order(&model.plan, rows, &model.config, true)?) };
        Ok(Self { loader, report: None, wants_report: model.config.train.report_every_epoch })
    }
}

impl Judge<Learner> for Validation {
    fn judge(&mut self, learner: &Learner, _epoch: u64) -> std::result::Result<BTreeMap<String, f64>, BoxError> {
        let Some(loader) = &self.loader else { return Ok(BTreeMap::new()) };
        let answered = answer_loader(learner, loader, false)?;
        if self.wants_report && !answered.rows.is_empty() {
            self.report = Some(validation_report(learner, &answered)?);
        }
        metrics(learner, &answered).map_err(BoxError::from)
    }

    fn report(&self) -> Option<String> {
        self.report.clone()
    }
}

/// Precision, recall and F1 of every class, and who is taken for whom; for a regression its
/// metrics.
fn validation_report(learner: &Learner, answered: &Answered) -> Result<String> {
    let judged = judged(&learner.objective.label, &answered.targets, &answered.decisions)?;
    let evaluation = Evaluation::new(judged.as_ref(), &sensorium_eval::Options::default())?;
    let classes = evaluation.classes_table();
    let table = if classes.is_empty() { evaluation.metrics_table() } else { classes };
    Ok(format!("\n{table}"))
}

fn metrics(learner: &Learner, answered: &Answered) -> Result<BTreeMap<String, f64>> {
    let mut metrics = BTreeMap::new();
    if answered.rows.is_empty() {
        return Ok(metrics);
    }
    metrics.insert("loss".to_owned(), answered.loss);
    let judged = judged(&learner.objective.label, &answered.targets, &answered.decisions)?;
    let values = judged.measure(&vec![1; answered.rows.len()], true);
    for (name, value) in judged.metrics().into_iter().zip(values) {
        if let Some(value) = value {
            metrics.insert(name, value);
        }
    }
    Ok(metrics)
}
