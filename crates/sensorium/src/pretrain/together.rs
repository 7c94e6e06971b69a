//! What is learnt of columns that belong together.

use super::Structures;
use super::captioning::Captioning;
use super::classes::ImageClass;
use super::columns::Columns;
use super::config::PretrainConfig;
use super::frame_order::FrameOrder;
use super::fusion::Fusion;
use super::matching::Matching;
use super::part::Part;
use super::start::fill;
use crate::Result;
use crate::config::FitConfig;
use crate::retrieve::{PairBatch, RetrievalLearner, Retriever, describe_space, joint_config, loss_of, sample_contents};
use sensorium_data::DataPlan;
use sensorium_engine::{Builder, Params, Random};
use sensorium_model::towers::{AudioTower, ImageTower, TextTower};
use sensorium_model::{Context, Embedded, Features, Inputs, JointConfig, JointModel, Tower, Towers};
use std::sync::Arc;

/// The towers of columns, and what is learnt with them.
pub(super) struct Together {
    towers: Towers,
    contrastive: Option<Contrastive>,
    matching: Option<Matching>,
    captioning: Option<Captioning>,
    classes: Option<ImageClass>,
    frames: Option<FrameOrder>,
    fusion: Option<Fusion>,
}

/// Columns that meet in one space.
struct Contrastive {
    model: JointModel,
    weight: f64,
    sub_batch: usize,
}

/// Features of a batch's columns, where something reads their tokens.
pub(super) struct Read<'a> {
    pub inputs: &'a Inputs,
    /// The table's rows of the samples.
    pub rows: &'a [u64],
    cells: &'a [Vec<u64>],
    /// By column.
    pub features: Vec<Option<Features>>,
}

impl Read<'_> {
    /// The samples that have both of two columns, with their first segments.
    pub(super) fn both(&self, a: usize, b: usize) -> Vec<(u32, [u32; 2])> {
        let first = |column: usize| {
            let mut first = vec![None; self.inputs.samples];
            for (segment, sample) in self.inputs.columns[column].sample_of().iter().enumerate().rev() {
                first[*sample as usize] = Some(segment as u32);
            }
            first
        };
        let both = first(a).into_iter().zip(first(b)).enumerate();
        both.filter_map(|(sample, (a, b))| Some((sample as u32, [a?, b?]))).collect()
    }

    /// A number of the content of each sample in each column.
    pub(super) fn contents(&self) -> Vec<Vec<u64>> {
        sample_contents(self.inputs, self.cells)
    }
}

impl Together {
    /// Adds towers and heads to `params`, towers from scratch or with the
    /// weights of checkpoints.
    ///
    /// # Errors
    /// When sizes do not fit, or tensors are missing.
    pub(super) fn new(
        params: &mut Params,
        columns: &mut Columns,
        structures: &Structures,
        config: &PretrainConfig,
    ) -> Result<Self> {
        let seed = config.train.seed;
        let p = &config.pretrain.contrastive;
        let (towers, contrastive) = match p.weight > 0.0 {
            true => {
                let pair = columns.similarity.is_some();
                let section = &mut columns.fit.retrieve;
                let joint = joint_config(columns.towers.clone(), "pretrain.contrastive", section, pair)?;
                let model = JointModel::within(&mut Builder::new(params, seed), &joint)?;
                if let Some(pair) = columns.similarity {
                    model.set_similarity(params, pair.scale.ln(), pair.bias);
                }
                model.freeze_unused(params);
                let contrastive = Contrastive { model, weight: p.weight, sub_batch: p.sub_batch };
                (Towers::clone(&contrastive.model), Some(contrastive))
            }
            false => (Towers::new(&mut Builder::new(params, seed), &columns.towers)?, None),
        };
        columns.load(&towers, params)?;
        if let Some((at, structure)) = columns.text.zip(structures.text.as_ref()) {
            structure.fill(params, towers.tower_scope(at), seed)?;
        }
        if let Some((at, structure)) = columns.image.zip(structures.image.as_ref()) {
            let (scope, source) = (towers.tower_scope(at), structure.source.as_ref());
            fill(params, scope, seed, source, "image", |b| ImageTower::new(b, &structure.tower))?;
        }
        if let Some((at, structure)) = columns.audio.zip(structures.audio.as_ref()) {
            let (scope, source) = (towers.tower_scope(at), structure.source.as_ref());
            fill(params, scope, seed, source, "audio", |b| AudioTower::new(b, &structure.tower))?;
        }
        if let Some((at, structure)) = columns.video.zip(structures.video.as_ref()) {
            let scope = frames_scope(&towers, at);
            fill(params, &scope, seed, None, "image", |b| ImageTower::new(b, &structure.tower))?;
        }
        let p = &config.pretrain;
        let matching = match p.itm.weight > 0.0 {
            true => Some(Matching::new(params, columns, config)?),
            false => None,
        };
        let captioning = match p.caption.weight > 0.0 {
            true => Some(Captioning::new(params, columns, structures, config)?),
            false => None,
        };
        let classes = match p.image_class.weight > 0.0 {
            true => Some(ImageClass::new(params, columns, config)?),
            false => None,
        };
        let frames = match p.frame_order.weight > 0.0 {
            true => Some(FrameOrder::new(params, &towers, columns, config)?),
            false => None,
        };
        let fusion = match p.fusion.weight > 0.0 {
            true => Some(Fusion::new(params, columns, config)?),
            false => None,
        };
        Ok(Self { towers, contrastive, matching, captioning, classes, frames, fusion })
    }

    /// What the names of a column's tower's parameters begin with.
    pub(super) fn scope(&self, column: usize) -> &str {
        self.towers.tower_scope(column)
    }

    /// As [`Together::scope`], of the tower of the frames of videos.
    pub(super) fn frames_scope(&self, column: usize) -> String {
        frames_scope(&self.towers, column)
    }

    /// A column's tower, where it is one of texts.
    pub(super) fn text(&self, column: usize) -> Option<TextTower> {
        match self.towers.tower(column) {
            Tower::Text(tower) => Some(tower.clone()),
            _ => None,
        }
    }

    /// Likewise of pictures.
    pub(super) fn image(&self, column: usize) -> Option<ImageTower> {
        match self.towers.tower(column) {
            Tower::Image(tower) => Some(tower.clone()),
            _ => None,
        }
    }

    /// Likewise of sounds.
    pub(super) fn audio(&self, column: usize) -> Option<AudioTower> {
        match self.towers.tower(column) {
            Tower::Audio(tower) => Some(tower.clone()),
            _ => None,
        }
    }

    /// The losses of a batch.
    ///
    /// # Errors
    /// When the batch does not fit the model.
    pub(super) fn parts(&self, cx: &Context<'_>, batch: &PairBatch, random: Random, judged: bool) -> Result<Vec<Part>> {
        let inputs = match cx.is_training() {
            true => batch.batch.inputs.one_of_each(random.purpose("captions")),
            false => batch.batch.inputs.clone(),
        };
        let columns = inputs.columns.iter().enumerate();
        let features = columns
            .map(|(column, input)| match self.reads(column, judged) {
                true => Ok(Some(self.towers.column_features(cx, column, input)?)),
                false => Ok(None),
            })
            .collect::<Result<_>>()?;
        let read = Read { inputs: &inputs, rows: &batch.batch.rows, cells: &batch.cells, features };
        let mut parts = Vec::new();
        let embedded = match &self.contrastive {
            // What is held out is compared as a whole, not batch by batch.
            Some(contrastive) if !judged || self.draws_by_similarity() => Some(contrastive.embed(cx, &read)?),
            _ => None,
        };
        if let (Some(contrastive), Some(embedded), false) = (&self.contrastive, &embedded, judged) {
            parts.extend(contrastive.part(cx, &read, embedded)?);
        }
        if let Some(matching) = &self.matching {
            let scale = self.contrastive.as_ref().filter(|_| self.draws_by_similarity());
            let scale = scale.map(|c| c.model.similarity(cx.params).0);
            let compared = embedded.as_deref().zip(scale);
            parts.extend(matching.part(cx, &read, compared, random.purpose("itm"), judged)?);
        }
        if let Some(captioning) = &self.captioning {
            parts.extend(captioning.part(cx, &read, judged)?);
        }
        if let Some(classes) = &self.classes {
            parts.extend(classes.part(cx, &read, judged)?);
        }
        if let Some(frames) = &self.frames {
            parts.extend(frames.parts(cx, &inputs, random.purpose("frames"), judged)?);
        }
        if let Some(fusion) = &self.fusion {
            parts.extend(fusion.parts(cx, &read, random.purpose("fusion"), judged)?);
        }
        Ok(parts)
    }

    /// Whether the features of a whole column are needed at once.
    fn reads(&self, column: usize, judged: bool) -> bool {
        let compared = |c: &Contrastive| c.sub_batch == 0 && !judged && c.model.compares(column);
        self.contrastive.as_ref().is_some_and(compared)
            || self.matching.as_ref().is_some_and(|m| column == m.image || column == m.text)
            || self.captioning.as_ref().is_some_and(|c| column == c.image)
            || self.classes.as_ref().is_some_and(|c| column == c.image)
    }

    /// Whether pairs that do not belong together are drawn by how similar they
    /// are.
    fn draws_by_similarity(&self) -> bool {
        let drawn = |(m, c): (&Matching, &Contrastive)| m.hard && c.model.compares(m.image) && c.model.compares(m.text);
        self.matching.as_ref().zip(self.contrastive.as_ref()).is_some_and(drawn)
    }

    /// The decoder of captions.
    pub(super) fn captioning(&self) -> Option<&Captioning> {
        self.captioning.as_ref()
    }

    /// The language model over texts and pictures.
    pub(super) fn fusion(&self) -> Option<&Fusion> {
        self.fusion.as_ref()
    }

    /// Whether the tower of a column learns nothing here: what reads the
    /// column reads its values.
    pub(super) fn idle(&self, column: usize) -> bool {
        let compared = self.contrastive.as_ref().is_some_and(|c| c.model.compares(column));
        let ordered = self.frames.as_ref().is_some_and(|f| f.column == column);
        !compared && !ordered && !self.reads(column, false)
    }

    /// The classes of pictures.
    pub(super) fn classes(&self) -> Option<&ImageClass> {
        self.classes.as_ref()
    }

    /// Tokens of a batch.
    pub(super) fn tokens(&self, batch: &PairBatch) -> usize {
        self.towers.tokens(&batch.batch.inputs)
    }

    /// What must hold after each update.
    pub(super) fn after_update(&self, params: &mut Params) {
        if let Some(contrastive) = &self.contrastive {
            contrastive.model.clamp_scale(params);
        }
    }

    /// What is learnt, in lines.
    pub(super) fn describe(&self) -> String {
        self.facts().into_iter().map(|(name, fact)| format!("{name}: {fact}")).collect::<Vec<_>>().join("\n")
    }

    /// What is learnt, by name.
    pub(super) fn facts(&self) -> Vec<(String, String)> {
        let facts = [
            ("contrastive", self.contrastive.as_ref().map(|c| describe_space(c.model.config()))),
            ("matching", self.matching.as_ref().map(|m| m.describe(self.draws_by_similarity()))),
            ("captions", self.captioning.as_ref().map(Captioning::describe)),
            ("classes", self.classes.as_ref().map(ImageClass::describe)),
            ("frames", self.frames.as_ref().map(FrameOrder::describe)),
            ("fusion", self.fusion.as_ref().map(Fusion::describe)),
        ];
        facts.into_iter().filter_map(|(name, fact)| Some((name.to_owned(), fact?))).collect()
    }

    /// What is compared, to be measured.
    pub(super) fn learner(&self, params: &Params) -> Option<RetrievalLearner> {
        let model = self.contrastive.as_ref()?.model.clone();
        Some(RetrievalLearner { model, params: params.clone(), sub_batch: 0, feature_cache: None })
    }

    /// The weight of what is compared.
    pub(super) fn contrastive_weight(&self) -> f64 {
        self.contrastive.as_ref().map_or(0.0, |c| c.weight)
    }

    /// The retriever that a run has come to: the columns that are compared,
    /// with weights of their own.
    ///
    /// # Errors
    /// When parts do not fit each other.
    pub(super) fn retriever(&self, params: &Params, plan: &DataPlan, config: &FitConfig) -> Result<Option<Retriever>> {
        let Some(Contrastive { model, .. }) = &self.contrastive else { return Ok(None) };
        let all = model.config();
        let kept: Vec<usize> = (0..all.columns.len()).filter(|c| model.compares(*c)).collect();
        let place = |c: usize| kept.iter().position(|k| *k == c).unwrap_or(0);
        let joint = JointConfig {
            columns: kept.iter().map(|c| all.columns[*c].clone()).collect(),
            pairs: all.pairs.iter().map(|[a, b]| [place(*a), place(*b)]).collect(),
            ..all.clone()
        };
        let (own, mut values) = JointModel::new(&joint, 0)?;
        for (_, p) in values.iter_mut() {
            // Where names were alike, leaving columns out renames those that stay.
            let theirs = kept.iter().enumerate().find_map(|(place, column)| {
                let rest = p.name.strip_prefix(own.tower_scope(place))?.strip_prefix('.')?;
                Some(format!("{}.{rest}", self.scope(*column)))
            });
            let name = theirs.unwrap_or_else(|| p.name.clone());
            let id = params.id(&name).ok_or_else(|| crate::Error::Request(format!("the model has no {name}")))?;
            p.value = params.get(id).value.clone();
        }
        let mut plan = plan.clone();
        plan.columns = kept.iter().map(|c| plan.columns[*c].clone()).collect();
        let learner = RetrievalLearner { model: own, params: values, sub_batch: 0, feature_cache: None };
        Ok(Some(Retriever { learner, plan: Arc::new(plan), config: config.clone() }))
    }
}

fn frames_scope(towers: &Towers, column: usize) -> String {
    format!("{}.image", towers.tower_scope(column))
}

impl Contrastive {
    fn embed(&self, cx: &Context<'_>, read: &Read<'_>) -> Result<Vec<Embedded>> {
        let columns = read.inputs.columns.iter().zip(&read.features).enumerate();
        columns
            .map(|(column, (input, features))| match features {
                _ if !self.model.compares(column) => Ok(self.model.nothing()),
                Some(features) if self.sub_batch == 0 => Ok(self.model.project(cx, column, features)?),
                _ => Ok(self.model.embed(cx, column, input, self.sub_batch)?),
            })
            .collect()
    }

    fn part(&self, cx: &Context<'_>, read: &Read<'_>, embedded: &[Embedded]) -> Result<Option<Part>> {
        let (loss, count) = loss_of(&self.model, cx, embedded, read.inputs, read.cells)?;
        if count == 0.0 {
            return Ok(None);
        }
        let mut details: Vec<(String, f64)> = match loss.parts.len() {
            0 | 1 => Vec::new(),
            _ => loss.parts.into_iter().map(|(name, loss, _)| (name, loss)).collect(),
        };
        details.push(("logit_scale".into(), f64::from(self.model.similarity(cx.params).0)));
        let part = Part { details, ..Part::new("contrastive", self.weight, loss.loss, count as usize) };
        Ok(Some(part))
    }
}
