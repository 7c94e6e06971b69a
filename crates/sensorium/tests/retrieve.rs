//! What must hold of models whose columns meet in one space.

use sensorium::Batch;
use sensorium::feature_cache::FeatureCache;
use sensorium::retrieve::{PairBatch, RetrievalLearner};
use sensorium::rooms::data::Cache;
use sensorium::rooms::engine::{Offsets, Random, Tape, Tensor};
use sensorium::rooms::model::towers::{AudioTowerConfig, FeaturesTowerConfig, ImageTowerConfig, TextTowerConfig};
use sensorium::rooms::model::{
    BlockConfig, ColumnInput, ColumnTower, Contrastive, Inputs, JointConfig, JointModel, TowerConfig,
    TransformerConfig, Values,
};
use sensorium::rooms::train::testing::assert_trains;
use sensorium::rooms::train::{StepContext, Trainable};
use std::sync::Arc;

const LOSSES: [Contrastive; 3] = [Contrastive::InfoNce, Contrastive::Sigmoid, Contrastive::HardestNegative];

fn transformer() -> TransformerConfig {
    let block = BlockConfig { hidden: 16, heads: 2, dropout: 0.0, ..BlockConfig::default() };
    TransformerConfig { layers: 1, block, ..TransformerConfig::default() }
}

fn learner(loss: Contrastive) -> RetrievalLearner {
    let text = TextTowerConfig { vocab_size: 11, max_positions: 6, transformer: transformer(), ..Default::default() };
    let image = ImageTowerConfig { image_size: 8, patch_size: 4, transformer: transformer(), ..Default::default() };
    let audio = AudioTowerConfig { mels: 5, max_positions: 8, transformer: transformer(), ..Default::default() };
    let features = FeaturesTowerConfig { dim: 3, max_positions: 4, transformer: transformer(), ..Default::default() };
    let towers = [
        ("caption", TowerConfig::Text(text)),
        ("photo", TowerConfig::Image(image)),
        ("name", TowerConfig::Audio(audio)),
        ("pose", TowerConfig::Features(features)),
    ];
    let config = JointConfig {
        columns: towers.into_iter().map(|(name, tower)| ColumnTower { name: name.into(), tower }).collect(),
        dim: 12,
        projection: true,
        pairs: vec![[0, 1], [0, 2], [1, 2], [3, 1]],
        loss,
        margin: 0.5,
    };
    let (model, mut params) = JointModel::new(&config, 4).expect("a model");
    model.freeze_unused(&mut params);
    RetrievalLearner { model, params, sub_batch: 0, feature_cache: None }
}

fn random(dims: &[usize], name: &str) -> Tensor {
    let r = Random::new(9).purpose(name);
    let n: usize = dims.iter().product();
    let values: Vec<f32> = (0..n).map(|i| r.normal(i as u64) as f32).collect();
    Tensor::from_slice(dims, &values).expect("the values fill the shape")
}

/// Five samples; the first has two captions, and every column is missing
/// somewhere.
fn batch() -> PairBatch {
    let column = |samples: &[u32], lengths: &[usize], values: Values| {
        ColumnInput::new(samples.to_vec(), Offsets::from_lengths(lengths.iter().copied()), values).expect("a column")
    };
    let ids = (0..20).map(|i| i * 7 % 11).collect();
    let columns = vec![
        column(&[0, 0, 1, 3, 4], &[4, 2, 5, 4, 5], Values::Tokens(ids)),
        column(&[0, 1, 2, 3], &[1, 1, 1, 1], Values::Images(random(&[4, 3, 8, 8], "images"))),
        column(&[0, 1, 2, 4], &[25, 7, 12, 29], Values::Audio(random(&[73, 5], "audio"))),
        column(&[0, 1, 2, 4], &[1, 4, 2, 4], Values::Features(random(&[11, 3], "features"))),
    ];
    let inputs = Inputs { samples: 5, columns };
    let cells = (0..4).map(|c| (0..5).map(|s| c * 10 + s).collect()).collect();
    PairBatch { batch: Batch { inputs, targets: vec![None; 5], rows: (0..5).collect() }, cells }
}

#[test]
fn every_parameter_of_every_loss_learns() {
    for loss in LOSSES {
        for sub_batch in [0, 2] {
            assert_trains(&mut RetrievalLearner { sub_batch, ..learner(loss) }, &batch());
        }
    }
}

#[test]
fn frozen_towers_stay_and_what_is_cached_of_them_is_the_same_bits() {
    let bits = |learner: &RetrievalLearner| -> Vec<(String, Vec<u32>)> {
        let tape = Tape::new();
        let loss = learner.loss(&tape, &batch(), &StepContext::training(7, 0, 0, 0)).expect("a loss").loss;
        let bits = |t: &Tensor| t.data().iter().map(|x| x.to_bits()).collect();
        let mut all = vec![("loss".to_owned(), bits(loss.value()))];
        let gradients = tape.backward(&loss).expect("gradients");
        all.extend(gradients.params().map(|(id, g)| (learner.params.get(id).name.clone(), bits(&g))));
        all
    };
    for loss in LOSSES {
        let mut plain = learner(loss);
        for (_, p) in plain.params.iter_mut().filter(|(_, p)| p.name.starts_with("towers.photo.")) {
            p.trainable = false;
        }
        let folder = tempfile::tempdir().expect("a folder");
        let store = Arc::new(Cache::open(folder.path(), 10_000_000).expect("a cache"));
        let cache = Arc::new(FeatureCache::new(Arc::clone(&store), &[true; 4], false));
        let cached = RetrievalLearner { feature_cache: Some(cache), ..plain.clone() };
        let expected = bits(&plain);
        assert!(expected == bits(&cached) && expected == bits(&cached), "{loss:?}");
        let (hits, misses) = store.hits_and_misses();
        assert_eq!((hits, misses), (4, 4));
        assert_trains(&mut plain, &batch());
    }
}

#[test]
fn each_pair_of_columns_has_its_part_of_the_loss() {
    let step = StepContext { training: false, ..StepContext::training(0, 0, 0, 0) };
    let loss = learner(Contrastive::InfoNce).loss(&Tape::inference(), &batch(), &step).expect("a loss");
    let names: Vec<&str> = loss.parts.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["caption ↔ photo", "caption ↔ name", "photo ↔ name", "pose ↔ photo"]);
    let sum: f64 = loss.parts.iter().map(|(_, l)| l).sum();
    assert!((sum - f64::from(loss.loss.data()[0])).abs() < 1e-5);
    assert_eq!(loss.weight, 3.0);
}
