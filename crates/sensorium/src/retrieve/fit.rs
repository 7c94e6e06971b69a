//! Fit: from a table of things that belong together to a saved, evaluated
//! retriever.

use super::batch::{Cells, PairBatch, PairRows};
use super::evaluate::{Galleries, RetrievalEvaluation, evaluate_rows};
use super::{RetrievalLearner, Retriever, report};
use crate::assemble::{augmentation, column_towers, plan_options};
use crate::config::{FitConfig, RetrieveSection, TaskName};
use crate::encoders::Encoders;
use crate::fit::{FIT_FOLDER, FitOptions, Follower, Watch, begin, held_out, ready, say_unusable, table_path};
use crate::verbs::{Dataset, describe_model, in_words, measure_step};
use crate::{Error, Result};
use sensorium_data::{DataPlan, Loader, Processor};
use sensorium_model::{ColumnTower, JointConfig, JointModel};
use sensorium_train::{BoxError, Judge, Stopped, Summary, TrainConfig, Trainer};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

/// What a fit came to.
#[derive(Debug)]
pub struct FittedRetrieval {
    /// The model, as it was saved.
    pub model: Retriever,
    /// How training went.
    pub summary: Summary,
    /// The evaluation on the test split (or the validation split where there
    /// is no test split), and that of the starting weights; None after an
    /// interruption, or where no row is held out.
    pub evaluated: Option<(RetrievalEvaluation, RetrievalEvaluation)>,
    /// Which split that was.
    pub split: &'static str,
    /// The report page.
    pub report: Option<PathBuf>,
}

/// Fits a retriever to a table whose rows hold what belongs together, under a
/// configuration with `task = "retrieve"`.
///
/// # Errors
/// When the table, the configuration or training fails.
pub fn fit_retrieval(config: &FitConfig, options: &FitOptions, follower: &mut dyn Follower) -> Result<FittedRetrieval> {
    let mut config = config.clone();
    let wrong = |place: &str, problem: &str| Error::Config { place: place.into(), problem: problem.into() };
    if config.task != TaskName::Retrieve {
        return Err(wrong("task", "expected \"retrieve\""));
    }
    if config.label.column.is_some() {
        return Err(wrong("label.column", "nothing is predicted with task = \"retrieve\"; leave it out"));
    }
    let path = table_path(&config)?;
    let options = &FIT_FOLDER.enter(options, follower)?;
    let (dataset, (encoders, similarity)) = begin((&path, &mut config), follower, Encoders::open_to_meet)?;
    let plan = saved_or_fitted_plan(&dataset, &mut config, &encoders, options)?;
    let columns = column_towers(&plan, &config, &encoders)?;
    let network = joint_config(columns, "retrieve", &mut config.retrieve, similarity.is_some())?;
    let (mut model, mut params) = JointModel::new(&network, config.train.seed)?;
    if let Some(pair) = similarity {
        model.set_similarity(&mut params, pair.scale.ln(), pair.bias);
    }
    let parts = (&mut model, &mut params);
    let feature_cache = ready(&mut config, (&plan, &encoders), parts, JointModel::freeze_unused, follower)?;
    config.data.table = Some(std::path::absolute(&path).map_err(|e| Error::io("find", &path, e))?);
    let sub_batch = config.retrieve.sub_batch;
    let learner = RetrievalLearner { model, params, sub_batch, feature_cache };
    let mut model = Retriever { learner, plan: Arc::new(plan), config };
    let trainer = Trainer::new(model.config.train.clone(), options.run(identity(&model, &dataset)?))?;
    let mut judge = Validation::new(&dataset, &model)?;
    trainer.check(&model.learner, &mut judge).map_err(in_words)?;
    model.save_structure(&options.out)?;

    let loader = dataset.for_training(&model.plan, &model.config, augmentation(&model.config))?;
    let cells = Cells::new(&dataset.table, &model.plan)?;
    let training = PairRows { loader: &loader, cells: &cells };
    let steps = loader.batches(0).div_ceil(model.config.train.grad_accumulation.max(1));
    let measured = measure_step(&model.learner, &training)?;
    let parts = (&*model.learner.model, &model.learner.params);
    follower.note(&describe_model(parts, &describe_space(&network), &model.config, steps, measured));
    let (held_out, split) = held_out(&dataset);
    let before = model.clone();

    let summary = trainer.run(&mut model.learner, &training, &mut judge, &mut Watch(follower))?;
    say_unusable(&loader, follower);
    if summary.stopped == Stopped::Interrupted {
        return Ok(FittedRetrieval { model, summary, evaluated: None, split, report: None });
    }
    model.save_weights(&options.out)?;

    let (mut evaluated, mut page) = (None, None);
    if !held_out.is_empty() {
        let after = evaluate_rows(&model, &dataset, &held_out)?;
        let start = evaluate_rows(&before, &dataset, &held_out)?;
        page = Some(report::write(&options.out, &model, &dataset, (&after, &start), &summary, split)?);
        evaluated = Some((after, start));
    }
    report::write_card(&options.out, &model, evaluated.as_ref().map(|e| &e.0), &summary, split)?;
    Ok(FittedRetrieval { model, summary, evaluated, split, report: page })
}

/// The plan that a resumed run began with, or a fresh one of the columns that
/// are compared.
fn saved_or_fitted_plan(
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
    let mut schema = dataset.schema.clone();
    let named: Option<Vec<String>> =
        config.retrieve.pairs.as_ref().map(|pairs| pairs.iter().flatten().cloned().collect());
    for name in named.iter().flatten() {
        dataset.table.column_index(name)?;
    }
    // What is not compared is not read either.
    schema.columns.retain(|c| match &named {
        Some(named) => named.contains(&c.name),
        None => true,
    });
    let mut plan = DataPlan::fit(&dataset.table, &schema, &dataset.splits.train, &how)?;
    plan.columns.retain(|c| {
        named.as_ref().is_some_and(|named| named.contains(&c.name))
            || named.is_none() && !matches!(c.processor, Processor::Number(_) | Processor::Category(_))
    });
    if let (true, Some(column)) = (plan.columns.len() < 2, plan.columns.first()) {
        let problem = format!(
            "only {} is there to be compared, expected two columns of text, image, audio, video or features; say types \
             with --type COLUMN=TYPE",
            column.name
        );
        return Err(Error::Config { place: "retrieve.pairs".into(), problem });
    }
    Ok(plan)
}

/// The model over some columns' towers, as the section of the given name says;
/// what was automatic is written back. `pair` says that the towers are a pair
/// that was trained together.
///
/// # Errors
/// When a column is not known, or sizes make no sense.
pub(crate) fn joint_config(
    columns: Vec<ColumnTower>,
    section: &str,
    config: &mut RetrieveSection,
    pair: bool,
) -> Result<JointConfig> {
    let wrong = |key: &str, problem: String| Error::Config { place: format!("{section}.{key}"), problem };
    let at = |name: &String| {
        columns.iter().position(|c| c.name == *name).ok_or_else(|| {
            let known = columns.iter().map(|c| c.name.as_str()).collect::<Vec<_>>().join(", ");
            wrong("pairs", format!("{name:?} is no input column; they are: {known}"))
        })
    };
    let pairs: Vec<[usize; 2]> = match &config.pairs {
        Some(pairs) => pairs.iter().map(|[a, b]| Ok([at(a)?, at(b)?])).collect::<Result<_>>()?,
        None => (0..columns.len()).flat_map(|b| (0..b).map(move |a| [a, b])).collect(),
    };
    let compared = |i: &usize| pairs.iter().flatten().any(|c| c == i);
    let widths: Vec<usize> = (0..columns.len()).filter(compared).map(|i| columns[i].tower.dim()).collect();
    let widest = widths.iter().copied().max().unwrap_or(0);
    let dim = *config.dim.get_or_insert(widest);
    if dim == 0 {
        return Err(wrong("dim", "0 is not at least 1".into()));
    }
    // The two of a pretrained pair meet already; with a third they need not.
    let projection = !(pair && widths.iter().all(|w| *w == dim));
    let (loss, margin) = (config.loss, config.margin);
    if !(margin.is_finite() && margin > 0.0 && margin <= 2.0) {
        return Err(wrong("margin", format!("{margin} is not a cosine above 0, at most 2")));
    }
    Ok(JointConfig { columns, dim, projection, pairs, loss, margin })
}

/// The space and what is compared in it, in a line.
pub(crate) fn describe_space(network: &JointConfig) -> String {
    let name = |c: usize| network.columns[c].name.as_str();
    let pairs: Vec<String> = network.pairs.iter().map(|[a, b]| format!("{} ↔ {}", name(*a), name(*b))).collect();
    let projected = if network.projection { "projected" } else { "as the pretrained pair has them" };
    format!("space: {} numbers, {projected}; compared: {}", network.dim, pairs.join(", "))
}

/// What else determines the run, beside `[train]`.
fn identity(model: &Retriever, dataset: &Dataset) -> Result<serde_json::Value> {
    let json = |e: serde_json::Error| Error::Request(e.to_string());
    let mut config = model.config.clone();
    config.train = TrainConfig::default();
    // Where the table lies, and how its media are cached, changes nothing.
    (config.data.table, config.data.cache, config.data.cache_gb) = (None, true, 0.0);
    Ok(serde_json::json!({
        "config": serde_json::to_value(&config).map_err(json)?,
        "model": serde_json::to_value(model.learner.model.config()).map_err(json)?,
        "training_rows": dataset.splits.train.len(),
        "validation_rows": dataset.splits.val.len(),
    }))
}

/// Validation: the loss over batches, and the mean of both directions' metrics.
struct Validation {
    loader: Option<Loader>,
    cells: Cells,
    report: Option<String>,
}

impl Validation {
    fn new(dataset: &Dataset, model: &Retriever) -> Result<Self> {
        let rows = &dataset.splits.val;
        let loader = match rows.is_empty() {
            true => None,
            false => Some(dataset.in_order(&model.plan, rows, &model.config, false)?),
        };
        Ok(Self { loader, cells: Cells::new(&dataset.table, &model.plan)?, report: None })
    }

    fn measure(&mut self, learner: &RetrievalLearner) -> Result<BTreeMap<String, f64>> {
        let Some(loader) = &self.loader else { return Ok(BTreeMap::new()) };
        let mut galleries = Galleries::of(learner);
        for pack in loader.epoch(0, 0) {
            let batch: PairBatch = self.cells.batch(pack?)?;
            galleries.add(learner, &batch)?;
        }
        let found = galleries.evaluation(learner)?;
        self.report = Some(format!("\n{}", found.to_text()?));
        Ok(found.metrics())
    }
}

impl Judge<RetrievalLearner> for Validation {
    fn judge(
        &mut self,
        learner: &RetrievalLearner,
        _epoch: u64,
    ) -> std::result::Result<BTreeMap<String, f64>, BoxError> {
        self.measure(learner).map_err(BoxError::from)
    }

    fn report(&self) -> Option<String> {
        self.report.clone()
    }
}
