//! What must hold of every model: each trainable parameter learns, each frozen
//! one does not; a sample's answer does not depend on its batch; a missing
//! modality costs nothing and breaks nothing.

use sensorium::feature_cache::FeatureCache;
use sensorium::rooms::data::{Cache, LabelSpec, LabelTask, Target};
use sensorium::rooms::engine::{Offsets, Random, Tape, Tensor};
use sensorium::rooms::model::towers::{
    AudioTowerConfig, FeaturesTowerConfig, ImageStem, ImageTowerConfig, TabularTowerConfig, TextTowerConfig,
    VideoTowerConfig,
};
use sensorium::rooms::model::{
    BlockConfig, ColumnInput, ColumnTower, Context, Frozen, FusionConfig, FusionKind, Inputs, ModelConfig,
    MultimodalModel, TowerConfig, TransformerConfig, Values,
};
use sensorium::rooms::train::testing::assert_trains;
use sensorium::rooms::train::{StepContext, Trainable};
use sensorium::{Batch, Learner, Objective};
use std::sync::Arc;

const HIDDEN: usize = 16;

fn transformer() -> TransformerConfig {
    let block = BlockConfig { hidden: HIDDEN, heads: 2, dropout: 0.0, ..BlockConfig::default() };
    TransformerConfig { layers: 1, block, ..TransformerConfig::default() }
}

fn image() -> ImageTowerConfig {
    ImageTowerConfig { image_size: 8, patch_size: 4, patch_stride: 2, transformer: transformer(), ..Default::default() }
}

fn towers() -> Vec<ColumnTower> {
    let towers = [
        (
            "text",
            TowerConfig::Text(TextTowerConfig {
                vocab_size: 11,
                max_positions: 6,
                transformer: transformer(),
                ..Default::default()
            }),
        ),
        ("image", TowerConfig::Image(image())),
        (
            "audio",
            TowerConfig::Audio(AudioTowerConfig {
                mels: 5,
                max_positions: 8,
                transformer: transformer(),
                ..Default::default()
            }),
        ),
        (
            "video",
            TowerConfig::Video(VideoTowerConfig {
                image: ImageTowerConfig { stem: ImageStem::Conv, patch_stride: 0, ..image() },
                max_positions: 4,
                temporal: transformer(),
                ..Default::default()
            }),
        ),
        (
            "features",
            TowerConfig::Features(FeaturesTowerConfig {
                dim: 3,
                max_positions: 4,
                transformer: transformer(),
                ..Default::default()
            }),
        ),
        ("number", TowerConfig::Tabular(TabularTowerConfig { categories: 0, dim: HIDDEN })),
        ("category", TowerConfig::Tabular(TabularTowerConfig { categories: 4, dim: HIDDEN })),
    ];
    towers.into_iter().map(|(name, tower)| ColumnTower { name: name.into(), tower }).collect()
}

fn random(dims: &[usize], name: &str) -> Tensor {
    let r = Random::new(9).purpose(name);
    let n: usize = dims.iter().product();
    let values: Vec<f32> = (0..n).map(|i| r.normal(i as u64) as f32).collect();
    Tensor::from_slice(dims, &values).expect("the values fill the shape")
}

fn ids(n: usize, below: u64, name: &str) -> Vec<u32> {
    let r = Random::new(9).purpose(name);
    // Every id at least once, so that each row of a table learns.
    (0..n).map(|i| if (i as u64) < below { i as u32 } else { r.below(i as u64, below) as u32 }).collect()
}

/// Five samples; sample 3 has text alone, sample 1 has two images, and every
/// column is missing somewhere.
fn inputs() -> Inputs {
    let column = |samples: &[u32], lengths: &[usize], values: Values| {
        ColumnInput::new(samples.to_vec(), Offsets::from_lengths(lengths.iter().copied()), values).expect("a column")
    };
    let columns = vec![
        column(&[0, 1, 3, 4], &[6, 1, 4, 5], Values::Tokens(ids(16, 11, "tokens"))),
        column(&[0, 1, 1, 2], &[1, 1, 1, 1], Values::Images(random(&[4, 3, 8, 8], "images"))),
        column(&[0, 2, 4], &[29, 7, 12], Values::Audio(random(&[48, 5], "audio"))),
        column(&[1, 2], &[4, 2], Values::Video(random(&[6, 3, 8, 8], "video"))),
        column(&[0, 2, 4], &[1, 4, 2], Values::Features(random(&[7, 3], "features"))),
        column(&[0, 1, 2, 4], &[1; 4], Values::Numbers(random(&[4, 1], "numbers"))),
        column(&[0, 1, 2, 4], &[1; 4], Values::Categories(vec![0, 3, 2, 1])),
    ];
    Inputs { samples: 5, columns }
}

fn objective(task: LabelTask) -> Objective {
    let classes = ["a", "b", "c"].map(str::to_owned).to_vec();
    let label = LabelSpec { column: "y".into(), task, classes, counts: vec![2, 2, 1], mean: 0.5, std: 2.0 };
    serde_json::from_value(serde_json::json!({ "label": label })).expect("an objective")
}

fn targets(task: LabelTask) -> Vec<Option<Target>> {
    (0..5_u32)
        .map(|i| {
            Some(match task {
                LabelTask::SingleLabel => Target::Class(i % 3),
                LabelTask::Ordinal => Target::Ordinal(i % 3),
                LabelTask::MultiLabel => Target::MultiLabel(vec![i % 2 == 0, i % 3 == 0, i > 2]),
                LabelTask::Regression => Target::Value(i as f32 - 1.5),
            })
        })
        .collect()
}

fn batch(task: LabelTask) -> Batch {
    Batch { inputs: inputs(), targets: targets(task), rows: (0..5).collect() }
}

fn fusions() -> Vec<FusionConfig> {
    let base = FusionConfig { dim: HIDDEN, heads: 2, dropout: 0.0, ..FusionConfig::default() };
    vec![
        FusionConfig { kind: FusionKind::Concat, ..base.clone() },
        FusionConfig { kind: FusionKind::Weighted, ..base.clone() },
        FusionConfig { kind: FusionKind::Attention, ..base.clone() },
        FusionConfig { kind: FusionKind::Attention, bottleneck: 2, layers: 2, ..base },
    ]
}

fn learner(fusion: FusionConfig, task: LabelTask) -> Learner {
    let objective = objective(task);
    let config = ModelConfig { columns: towers(), fusion, outputs: objective.outputs() };
    let (model, params) = MultimodalModel::new(&config, 4).expect("a model");
    Learner { model, params, objective, feature_cache: None }
}

#[test]
fn every_parameter_of_every_model_learns() {
    for fusion in fusions() {
        assert_trains(&mut learner(fusion, LabelTask::SingleLabel), &batch(LabelTask::SingleLabel));
    }
    for task in [LabelTask::MultiLabel, LabelTask::Ordinal, LabelTask::Regression] {
        assert_trains(&mut learner(fusions().remove(2), task), &batch(task));
    }
}

#[test]
fn dropout_and_modality_dropout_do_not_stop_learning() {
    for fusion in fusions() {
        let fusion = FusionConfig { modality_dropout: 0.3, dropout: 0.1, ..fusion };
        assert_trains(&mut learner(fusion, LabelTask::SingleLabel), &batch(LabelTask::SingleLabel));
    }
}

#[test]
fn mixup_trains_every_parameter_too() {
    let mut learner = learner(fusions().remove(0), LabelTask::SingleLabel);
    learner.objective.mixup = 0.4;
    assert_trains(&mut learner, &batch(LabelTask::SingleLabel));
}

#[test]
fn losses_of_each_column_alone_are_named_and_train_every_parameter() {
    for fusion in fusions() {
        let mut learner = learner(FusionConfig { unimodal_loss: 0.5, ..fusion }, LabelTask::SingleLabel);
        let whole = batch(LabelTask::SingleLabel);
        let tape = Tape::new();
        let step = learner.loss(&tape, &whole, &StepContext::training(0, 0, 0, 0)).expect("a loss");
        let names: Vec<&str> = step.parts.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["fused", "text", "image", "audio", "video", "features", "number", "category"]);
        let sum: f64 = step.parts[0].1 + step.parts[1..].iter().map(|(_, l)| 0.5 * l).sum::<f64>();
        assert!((sum - f64::from(step.loss.data()[0])).abs() < 1e-4, "the total is the weighted sum of its parts");
        assert_trains(&mut learner, &whole);
    }
}

#[test]
fn frozen_parameters_stay() {
    let mut learner = learner(fusions().remove(2), LabelTask::SingleLabel);
    for (_, p) in learner.params.iter_mut().filter(|(_, p)| p.name.starts_with("towers.image.")) {
        p.trainable = false;
    }
    assert_trains(&mut learner, &batch(LabelTask::SingleLabel));
}

#[test]
fn cached_features_of_frozen_towers_are_the_same_bits() {
    let bits = |learner: &Learner, batch: &Batch| -> Vec<(String, Vec<u32>)> {
        let tape = Tape::new();
        let step = StepContext::training(7, 0, 0, 0);
        let loss = learner.loss(&tape, batch, &step).expect("a loss").loss;
        let bits = |t: &Tensor| t.data().iter().map(|x| x.to_bits()).collect();
        let mut all = vec![("loss".to_owned(), bits(loss.value()))];
        let gradients = tape.backward(&loss).expect("gradients");
        all.extend(gradients.params().map(|(id, g)| (learner.params.get(id).name.clone(), bits(&g))));
        all
    };
    for fusion in fusions() {
        let fusion = FusionConfig { modality_dropout: 0.3, dropout: 0.1, ..fusion };
        let mut plain = learner(fusion.clone(), LabelTask::SingleLabel);
        for (_, p) in plain.params.iter_mut().filter(|(_, p)| p.name.starts_with("towers.")) {
            p.trainable = ["towers.video.", "towers.text.encoder.norm."].iter().any(|t| p.name.starts_with(t));
        }
        let folder = tempfile::tempdir().expect("a folder");
        let store = Arc::new(Cache::open(folder.path(), 10_000_000).expect("a cache"));
        let steady: Vec<bool> = (0..7).map(|column| column != 2).collect();
        let cache = FeatureCache::new(Arc::clone(&store), &steady, fusion.kind == FusionKind::Attention);
        let applies: Vec<Frozen> = (0..7).map(|column| cache.applies(&plain.model, &plain.params, column)).collect();
        let (all, none) = (Frozen::All, Frozen::Nothing);
        assert_eq!(applies, [Frozen::Layers(1), all, none, none, all, all, all], "audio is varied, video is trained");
        let cached = Learner { feature_cache: Some(Arc::new(cache)), ..plain.clone() };
        // Filled one sample at a time, then read by whole batches.
        for sample in 0..5 {
            let single = Batch { inputs: alone(&inputs(), sample), targets: vec![None], rows: vec![0] };
            cached.answer(&single).expect("an answer");
        }
        let (_, computed) = store.hits_and_misses();
        let whole = batch(LabelTask::SingleLabel);
        let (plain, cached) = (bits(&plain, &whole), bits(&cached, &whole));
        assert_eq!(plain.len(), cached.len(), "{fusion:?}");
        for ((name, a), (_, b)) in plain.iter().zip(&cached) {
            assert!(a == b, "{fusion:?}: {name} has other bits");
        }
        let (hits, misses) = store.hits_and_misses();
        assert!(hits > 0 && misses == computed, "{fusion:?}: {hits} hits, {misses} misses after {computed}");
    }
}

#[test]
fn what_a_cache_keeps_has_the_bits_of_any_batch() {
    let block = BlockConfig { hidden: 64, heads: 2, dropout: 0.0, ..BlockConfig::default() };
    let transformer = TransformerConfig { layers: 2, block, ..TransformerConfig::default() };
    let tower = TextTowerConfig { vocab_size: 50, max_positions: 9, transformer, ..Default::default() };
    let columns = vec![ColumnTower { name: "text".into(), tower: TowerConfig::Text(tower) }];
    let fusion = FusionConfig { dim: 64, heads: 2, dropout: 0.0, ..FusionConfig::default() };
    let (model, mut params) = MultimodalModel::new(&ModelConfig { columns, fusion, outputs: 2 }, 4).expect("a model");
    params.iter_mut().for_each(|(_, p)| p.trainable = !p.name.starts_with("towers."));
    let lengths: Vec<usize> = (0..12).map(|i| 1 + i % 9).collect();
    let ids = Values::Tokens((0..lengths.iter().sum::<usize>() as u32).map(|i| i * 7 % 50).collect());
    let whole = ColumnInput::new((0..12).collect(), Offsets::from_lengths(lengths), ids).expect("a column");
    let folder = tempfile::tempdir().expect("a folder");
    let store = Arc::new(Cache::open(folder.path(), 10_000_000).expect("a cache"));
    let cache = FeatureCache::new(store, &[true], true);
    let tape = Tape::inference();
    let cx = Context::training(&tape, &params, Random::new(1));
    let fresh = model.column_features(&cx, 0, &whole).expect("features");
    for i in 0..12 {
        cache.features(&cx, &model, 0, &whole.select(&[i])).expect("features");
    }
    let kept = cache.features(&cx, &model, 0, &whole).expect("features");
    assert!(fresh.tokens.data() == kept.tokens.data() && fresh.pooled.data() == kept.pooled.data());
}

/// The part of a batch that belongs to one sample.
fn alone(inputs: &Inputs, sample: u32) -> Inputs {
    let columns = inputs
        .columns
        .iter()
        .map(|c| {
            let kept: Vec<usize> = (0..c.sample_of().len()).filter(|s| c.sample_of()[*s] == sample).collect();
            let rows: Vec<usize> = kept.iter().flat_map(|s| c.offsets().range(*s)).collect();
            let pick = |t: &Tensor| {
                let width = t.len() / t.dims()[0];
                let values: Vec<f32> =
                    rows.iter().flat_map(|r| t.data()[r * width..(r + 1) * width].to_vec()).collect();
                let mut dims = t.dims().to_vec();
                dims[0] = rows.len();
                Tensor::from_slice(&dims, &values).expect("rows")
            };
            let values = match c.values() {
                Values::Tokens(v) => Values::Tokens(rows.iter().map(|r| v[*r]).collect()),
                Values::Categories(v) => Values::Categories(rows.iter().map(|r| v[*r]).collect()),
                Values::Images(t) => Values::Images(pick(t)),
                Values::Audio(t) => Values::Audio(pick(t)),
                Values::Video(t) => Values::Video(pick(t)),
                Values::Features(t) => Values::Features(pick(t)),
                Values::Numbers(t) => Values::Numbers(pick(t)),
            };
            let lengths = kept.iter().map(|s| c.offsets().length(*s));
            ColumnInput::new(vec![0; kept.len()], Offsets::from_lengths(lengths), values).expect("a column")
        })
        .collect();
    Inputs { samples: 1, columns }
}

#[test]
fn a_samples_answer_does_not_depend_on_its_batch() {
    for fusion in fusions() {
        let learner = learner(fusion.clone(), LabelTask::SingleLabel);
        let together = learner.answer(&batch(LabelTask::SingleLabel)).expect("answers");
        for sample in 0..5 {
            let single = Batch { inputs: alone(&inputs(), sample), targets: vec![None], rows: vec![0] };
            let answer = learner.answer(&single).expect("an answer").decisions.remove(0);
            let (a, b) = (
                answer.probabilities().expect("classes"),
                together.decisions[sample as usize].probabilities().expect("classes"),
            );
            for (a, b) in a.iter().zip(b) {
                assert!((a - b).abs() < 1e-5, "{fusion:?}, sample {sample}: {a} alone, {b} together");
            }
        }
    }
}

#[test]
fn taking_columns_away_equals_never_having_had_them() {
    for fusion in fusions() {
        let learner = learner(fusion, LabelTask::SingleLabel);
        let whole = batch(LabelTask::SingleLabel);
        for kept in [vec![0, 2], vec![1], vec![4, 5, 6], vec![]] {
            let mask: Vec<bool> = (0..7).map(|c| kept.contains(&c)).collect();
            let masked = learner.answer_subsets(&whole, std::slice::from_ref(&mask)).expect("answers").remove(0);
            let less = Batch { inputs: whole.inputs.subset(|c| mask[c]), ..whole.clone() };
            let never = learner.answer(&less).expect("answers");
            assert_eq!(masked.decisions, never.decisions);
        }
    }
}

/// A batch in which no sample has a column does not know the column's width.
#[test]
fn a_column_that_nobody_has_may_have_any_width() {
    let none = |values: Values| ColumnInput::new(vec![], Offsets::from_lengths([]), values).expect("a column");
    for fusion in fusions() {
        let learner = learner(fusion, LabelTask::SingleLabel);
        let columns = vec![
            ColumnInput::new(vec![0], Offsets::from_lengths([2]), Values::Tokens(vec![1, 2])).expect("a column"),
            none(Values::Images(Tensor::zeros(&[0, 3, 0, 0]))),
            none(Values::Audio(Tensor::zeros(&[0, 0]))),
            none(Values::Video(Tensor::zeros(&[0, 3, 0, 0]))),
            none(Values::Features(Tensor::zeros(&[0, 0]))),
            none(Values::Numbers(Tensor::zeros(&[0, 1]))),
            none(Values::Categories(vec![])),
        ];
        let batch = Batch { inputs: Inputs { samples: 1, columns }, targets: vec![None], rows: vec![0] };
        assert_eq!(learner.answer(&batch).expect("an answer").decisions.len(), 1);
    }
}

#[test]
fn gates_are_shares_of_what_is_there() {
    let learner = learner(fusions().remove(1), LabelTask::SingleLabel);
    let gates = learner.answer(&batch(LabelTask::SingleLabel)).expect("answers").gates.expect("gates");
    let present = inputs().presence();
    for (row, present) in gates.data().chunks(7).zip(present) {
        assert!((row.iter().sum::<f32>() - 1.0).abs() < 1e-5);
        for (g, p) in row.iter().zip(present) {
            assert_eq!(*g > 0.0, p);
        }
    }
}

#[test]
fn a_column_of_another_kind_is_refused_by_name() {
    let learner = learner(fusions().remove(0), LabelTask::SingleLabel);
    let mut wrong = batch(LabelTask::SingleLabel);
    wrong.inputs.columns.swap(0, 5);
    let message = learner.answer(&wrong).map(|_| ()).unwrap_err().to_string();
    assert_eq!(message, "column \"text\": expected tokens, got numbers");
}
