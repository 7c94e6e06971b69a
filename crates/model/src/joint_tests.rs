//! Tests of the joint model.

use super::*;
use crate::TowerConfig;
use crate::towers::{FeaturesTowerConfig, TextTowerConfig};
use crate::{BlockConfig, TransformerConfig, Values};
use sensorium_engine::{Offsets, Random, Tape};

fn transformer() -> TransformerConfig {
    let block = BlockConfig { hidden: 16, heads: 2, dropout: 0.0, attention_dropout: 0.0, ..BlockConfig::default() };
    TransformerConfig { layers: 1, block, ..TransformerConfig::default() }
}

fn config(loss: Contrastive) -> JointConfig {
    let text = TextTowerConfig { vocab_size: 30, max_positions: 8, transformer: transformer(), ..Default::default() };
    let sound = FeaturesTowerConfig { dim: 5, transformer: transformer(), ..Default::default() };
    JointConfig {
        columns: vec![
            ColumnTower { name: "caption".into(), tower: TowerConfig::Text(text) },
            ColumnTower { name: "sound".into(), tower: TowerConfig::Features(sound) },
        ],
        dim: 12,
        projection: true,
        pairs: vec![[0, 1]],
        loss,
        margin: 0.2,
    }
}

/// Eleven samples, of which the fourth has no caption and the last no sound.
fn inputs() -> Result<Inputs> {
    let r = Random::new(5);
    let captions: Vec<u32> = (0..11).filter(|s| *s != 3).collect();
    let lengths: Vec<usize> = captions.iter().map(|s| 1 + (*s as usize % 4)).collect();
    let ids = (0..lengths.iter().sum::<usize>() as u64).map(|i| r.below(i, 30) as u32).collect();
    let text = ColumnInput::new(captions, Offsets::from_lengths(lengths), Values::Tokens(ids))?;
    let numbers: Vec<f32> = (0..20 * 5).map(|i| r.purpose("sound").normal(i) as f32).collect();
    let sound = Values::Features(Tensor::from_slice(&[20, 5], &numbers)?);
    let sound = ColumnInput::new((0..10).collect(), Offsets::from_lengths([2; 10]), sound)?;
    Ok(Inputs { samples: 11, columns: vec![text, sound] })
}

fn different() -> Vec<Vec<u64>> {
    vec![(0..11).collect(), (0..11).collect()]
}

/// Gradients by the names of their parameters.
type Named = Vec<(String, Vec<f32>)>;

fn gradients(loss: Contrastive, sub_batch: usize) -> Result<(f32, Named)> {
    let (model, mut params) = JointModel::new(&config(loss), 1)?;
    model.freeze_unused(&mut params);
    let tape = Tape::new();
    let cx = Context::training(&tape, &params, Random::new(2));
    let embedded = model.embed_all(&cx, &inputs()?, sub_batch)?;
    let out = model.loss(&cx, &embedded, &different())?;
    let value = out.loss.value().scalar()?;
    let g = tape.backward(&out.loss)?;
    let all = params.iter().filter(|(_, p)| p.trainable);
    let all = all.map(|(id, p)| (p.name.clone(), g.param(id).map(|t| t.data().to_vec()).unwrap_or_default()));
    Ok((value, all.collect()))
}

#[test]
fn every_parameter_has_a_gradient_under_every_loss() -> Result<()> {
    for loss in [Contrastive::InfoNce, Contrastive::Sigmoid, Contrastive::HardestNegative] {
        for (name, gradient) in gradients(loss, 0)?.1 {
            // A bias on keys moves all scores of a row alike.
            if !name.ends_with("key.bias") {
                assert!(gradient.iter().any(|x| x.abs() > 1e-9), "{loss:?}: {name} has no gradient");
            }
        }
    }
    Ok(())
}

#[test]
fn gradient_caching_gives_the_gradients_of_the_whole_batch() -> Result<()> {
    for loss in [Contrastive::InfoNce, Contrastive::Sigmoid, Contrastive::HardestNegative] {
        let (whole, expected) = gradients(loss, 0)?;
        for sub_batch in [1, 3, 7] {
            let (value, got) = gradients(loss, sub_batch)?;
            assert!((value - whole).abs() < 1e-6, "{loss:?}: {value} and {whole}");
            for ((name, want), (_, got)) in expected.iter().zip(&got) {
                let largest = want.iter().fold(1e-6_f32, |m, x| m.max(x.abs()));
                let off = want.iter().zip(got).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
                assert!(got.len() == want.len() && off <= 1e-4 * largest + 1e-7, "{loss:?}: {name} is off by {off}");
            }
        }
    }
    Ok(())
}

#[test]
fn samples_without_both_columns_do_not_count() -> Result<()> {
    let (model, params) = JointModel::new(&config(Contrastive::InfoNce), 1)?;
    let tape = Tape::inference();
    let cx = Context::inference(&tape, &params);
    let embedded = model.embed_all(&cx, &inputs()?, 0)?;
    let out = model.loss(&cx, &embedded, &different())?;
    assert_eq!(out.parts.len(), 1);
    assert_eq!((out.parts[0].0.as_str(), out.parts[0].2), ("caption ↔ sound", 9));
    for row in embedded[0].vectors.data().chunks(12) {
        assert!((row.iter().map(|x| x * x).sum::<f32>() - 1.0).abs() < 1e-5);
    }
    let nothing = Inputs { samples: 2, columns: inputs()?.columns.iter().map(|c| c.select(&[])).collect() };
    let empty = model.loss(&cx, &model.embed_all(&cx, &nothing, 0)?, &[vec![0; 2], vec![0; 2]])?;
    assert!(empty.parts.is_empty() && empty.loss.data() == [0.0]);
    Ok(())
}

#[test]
fn what_is_the_same_in_one_column_is_no_negative() -> Result<()> {
    assert_eq!(
        same_contents(&[0, 2, 3, 5], [&vec![7, 0, 7, 8, 0, 9], &vec![1, 0, 2, 3, 0, 3]]),
        [vec![1], vec![0], vec![3], vec![2]]
    );
    // All alike: no negatives, so nothing to learn.
    let (model, params) = JointModel::new(&config(Contrastive::HardestNegative), 1)?;
    let tape = Tape::inference();
    let cx = Context::inference(&tape, &params);
    let out = model.loss(&cx, &model.embed_all(&cx, &inputs()?, 0)?, &[vec![0; 11], (0..11).collect()])?;
    assert_eq!(out.loss.data(), [0.0]);
    Ok(())
}

#[test]
fn the_hardest_negative_is_the_most_similar_one() -> Result<()> {
    let tape = Tape::inference();
    let params = Params::new();
    let cx = Context::inference(&tape, &params);
    let x = Var::constant(Tensor::from_slice(&[3, 2], &[1.0, 0.0, 0.0, 1.0, 0.6, 0.8])?);
    let y = Var::constant(Tensor::from_slice(&[3, 2], &[0.8, 0.6, 0.0, 1.0, 1.0, 0.0])?);
    // Cosines: [0.8 0 1; 0.6 1 0; 0.96 0.8 0.6], margin 0.2.
    let rows = [0.2 + 1.0 - 0.8, 0.0, 0.2 + 0.96 - 0.6];
    let columns = [0.2 + 0.96 - 0.8, 0.0, 0.2 + 1.0 - 0.6];
    let want: f32 = (rows.iter().sum::<f32>() + columns.iter().sum::<f32>()) / 6.0;
    let loss = hardest_negative(&cx, &x, &y, &[vec![], vec![], vec![]], 0.2)?;
    assert!((loss.data()[0] - want).abs() < 1e-6, "{} and {want}", loss.data()[0]);
    Ok(())
}

#[test]
fn the_scale_stays_within_clips_bounds() -> Result<()> {
    let (model, mut params) = JointModel::new(&config(Contrastive::InfoNce), 1)?;
    assert!((model.similarity(&params).0 - 1.0 / 0.07).abs() < 1e-3);
    for (set, kept) in [(9.0, 100.0), (-1.0, 1.0), (2.0, 7.389_056)] {
        model.set_similarity(&mut params, set, None);
        model.clamp_scale(&mut params);
        assert!((model.similarity(&params).0 - kept).abs() < 1e-3);
    }
    Ok(())
}

#[test]
fn a_configuration_that_makes_no_sense_is_refused() {
    let good = config(Contrastive::InfoNce);
    for bad in [
        JointConfig { pairs: vec![], ..good.clone() },
        JointConfig { pairs: vec![[0, 0]], ..good.clone() },
        JointConfig { pairs: vec![[0, 2]], ..good.clone() },
        JointConfig { projection: false, ..good.clone() },
        JointConfig { margin: 0.0, ..good },
    ] {
        assert!(JointModel::new(&bad, 1).is_err(), "{bad:?}");
    }
}
