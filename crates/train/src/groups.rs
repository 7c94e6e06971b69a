//! Which parameters learn, how fast, and which of them decay.

use crate::config::TrainConfig;
use crate::error::{Result, TrainError};
use sensorium_engine::Params;
use sensorium_engine::pattern::{matches, near};
use std::collections::BTreeMap;

/// How one parameter is trained.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Group {
    /// What its learning rate is multiplied with.
    pub lr_scale: f64,
    /// Its weight decay.
    pub weight_decay: f64,
}

/// Freezes what `freeze` names and works out the group of each parameter, in the order
/// of [`Params`].
///
/// # Errors
/// When a pattern names no parameter or nothing is left to train.
pub fn assign(config: &TrainConfig, params: &mut Params) -> Result<Vec<Group>> {
    freeze(config, params)?;
    let names: Vec<&str> = params.iter().map(|(_, p)| p.name.as_str()).collect();
    for pattern in config.lr_scale.keys() {
        must_match("lr_scale", pattern, &names)?;
    }
    let depths = Depths::of(&names);
    Ok(params
        .iter()
        .map(|(_, p)| {
            let chosen: f64 = config.lr_scale.iter().filter(|(k, _)| matches(k, &p.name)).map(|(_, s)| s).product();
            let below_the_top = depths.below_the_top(&p.name);
            Group {
                lr_scale: chosen * config.layer_decay.powi(below_the_top),
                weight_decay: if decays(&p.name, p.value.dims()) { config.weight_decay } else { 0.0 },
            }
        })
        .collect())
}

fn freeze(config: &TrainConfig, params: &mut Params) -> Result<()> {
    let names: Vec<&str> = params.iter().map(|(_, p)| p.name.as_str()).collect();
    for pattern in &config.freeze {
        must_match("freeze", pattern, &names)?;
    }
    for (_, p) in params.iter_mut() {
        if config.freeze.iter().any(|pattern| matches(pattern, &p.name)) {
            p.trainable = false;
        }
    }
    if params.count().1 == 0 {
        return Err(TrainError::config("freeze", "every parameter is frozen, nothing is left to train"));
    }
    Ok(())
}

fn must_match(key: &'static str, pattern: &str, names: &[&str]) -> Result<()> {
    if names.iter().any(|name| matches(pattern, name)) {
        return Ok(());
    }
    Err(TrainError::Pattern { key, pattern: pattern.to_owned(), near: near(pattern, names.iter().copied()) })
}

/// Biases, the scales of norms, tables of positions and special tokens do not decay.
fn decays(name: &str, dims: &[usize]) -> bool {
    let last = name.rsplit('.').next().unwrap_or(name);
    // `positions`, `relative_positions`, and those of frames in time.
    let place = last.ends_with("positions") || last == "times";
    dims.len() > 1 && !place && !last.ends_with("_token")
}

const LAYER_LISTS: [&str; 5] = ["layer", "layers", "h", "block", "blocks"];

/// The number of layers under each name prefix, such as 12 under `text.encoder`.
struct Depths<'a>(BTreeMap<&'a str, u32>);

impl<'a> Depths<'a> {
    fn of(names: &[&'a str]) -> Self {
        let mut depths = BTreeMap::new();
        for (prefix, layer) in names.iter().filter_map(|name| layer_of(name)) {
            let depth = depths.entry(prefix).or_insert(0);
            *depth = (*depth).max(layer + 1);
        }
        Self(depths)
    }

    /// 0 above the last layer (heads, final norms), 1 in the last layer, one more per
    /// layer down, and one more again in the embeddings below the first.
    fn below_the_top(&self, name: &str) -> i32 {
        if let Some((prefix, layer)) = layer_of(name) {
            return (self.0[prefix] - layer + self.above(prefix)) as i32;
        }
        if stage_of(name).is_some() {
            // What joins a stage to the next belongs to its last layer.
            return self.above(name) as i32 + 1;
        }
        let Some(root) = embeddings_root(name) else { return 0 };
        let inside = |prefix: &str| root.is_empty() || prefix == root || prefix.starts_with(&format!("{root}."));
        let within = self.0.iter().filter(|(prefix, _)| inside(prefix));
        let depth = within.map(|(prefix, depth)| depth + self.above(prefix)).max();
        depth.map_or(0, |d| d as i32 + 1)
    }

    /// The layers of the stages above that of a name; 0 where there are no stages.
    fn above(&self, name: &str) -> u32 {
        let Some((root, stage)) = stage_of(name) else { return 0 };
        let later = |prefix: &str| stage_of(prefix).is_some_and(|(other, number)| other == root && number > stage);
        self.0.iter().filter(|(prefix, _)| later(prefix)).map(|(_, depth)| depth).sum()
    }
}

/// `image.encoder.stage.1.layer.0.norm.weight` lies in stage 1 of `image.encoder`.
fn stage_of(name: &str) -> Option<(&str, u32)> {
    let (root, rest) = name.split_once(".stage.")?;
    Some((root, rest.split('.').next()?.parse().ok()?))
}

/// `text.encoder.layer.3.norm.weight` lies in layer 3 of `text.encoder`.
fn layer_of(name: &str) -> Option<(&str, u32)> {
    let mut start = 0;
    let mut parts = name.split('.').peekable();
    while let Some(part) = parts.next() {
        if LAYER_LISTS.contains(&part)
            && let Some(number) = parts.peek().and_then(|n| n.parse().ok())
        {
            return Some((name[..start].trim_end_matches('.'), number));
        }
        start += part.len() + 1;
    }
    None
}

/// The tower that embeddings belong to: `text` for `text.embeddings.word_embeddings.weight`.
fn embeddings_root(name: &str) -> Option<&str> {
    let mut start = 0;
    for part in name.split('.') {
        if part.contains("embed") || part == "stem" || part == "wte" || part == "wpe" {
            return Some(name[..start].trim_end_matches('.'));
        }
        start += part.len() + 1;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use sensorium_engine::Tensor;

    fn params() -> Params {
        let mut params = Params::new();
        for (name, dims) in [
            ("text.embeddings.word_embeddings.weight", &[8, 4][..]),
            ("text.embeddings.positions", &[8, 4]),
            ("text.encoder.relative_positions", &[8, 2]),
            ("text.encoder.layer.0.output.dense.weight", &[4, 4]),
            ("text.encoder.layer.1.output.dense.weight", &[4, 4]),
            ("text.encoder.layer.1.output.dense.bias", &[4]),
            ("image.cls_token", &[1, 4]),
            ("image.encoder.layers.0.mlp.weight", &[4, 4]),
            ("head.weight", &[2, 4]),
        ] {
            params.insert(name, Tensor::zeros(dims)).expect(name);
        }
        params
    }

    fn by_name(config: &TrainConfig, params: &mut Params) -> BTreeMap<String, Group> {
        let groups = assign(config, params).expect("groups");
        params.iter().map(|(id, p)| (p.name.clone(), groups[id.index()])).collect()
    }

    #[test]
    fn biases_positions_and_special_tokens_do_not_decay() {
        let groups = by_name(&TrainConfig { weight_decay: 0.5, ..TrainConfig::default() }, &mut params());
        let undecayed: Vec<_> = groups.iter().filter(|(_, g)| g.weight_decay == 0.0).map(|(n, _)| n.as_str()).collect();
        assert_eq!(
            undecayed,
            [
                "image.cls_token",
                "text.embeddings.positions",
                "text.encoder.layer.1.output.dense.bias",
                "text.encoder.relative_positions"
            ]
        );
    }

    #[test]
    fn lower_layers_learn_slower() {
        let groups = by_name(&TrainConfig { layer_decay: 0.5, ..TrainConfig::default() }, &mut params());
        let scale = |name: &str| groups[name].lr_scale;
        assert_eq!(scale("head.weight"), 1.0);
        assert_eq!(scale("text.encoder.layer.1.output.dense.weight"), 0.5);
        assert_eq!(scale("text.encoder.layer.0.output.dense.weight"), 0.25);
        assert_eq!(scale("text.embeddings.word_embeddings.weight"), 0.125);
        assert_eq!(scale("image.encoder.layers.0.mlp.weight"), 0.5);
    }

    #[test]
    fn patterns_scale_and_freeze() {
        let config = TrainConfig {
            lr_scale: [("text".into(), 0.1), ("*.embeddings.*".into(), 0.5)].into(),
            freeze: vec!["image.*".into()],
            ..TrainConfig::default()
        };
        let mut params = params();
        let groups = by_name(&config, &mut params);
        assert_eq!(groups["text.encoder.layer.0.output.dense.weight"].lr_scale, 0.1);
        assert_eq!(groups["text.embeddings.word_embeddings.weight"].lr_scale, 0.1 * 0.5);
        assert_eq!(groups["head.weight"].lr_scale, 1.0);
        assert!(params.iter().all(|(_, p)| p.trainable != p.name.starts_with("image.")));
    }

    #[test]
    fn a_pattern_that_names_nothing_is_an_error_with_near_names() {
        let config = TrainConfig { freeze: vec!["txt.*".into()], ..TrainConfig::default() };
        let error = assign(&config, &mut params()).expect_err("no match").to_string();
        assert!(error.starts_with("train.freeze: no parameter matches `txt.*`; near names: text"), "{error}");
        let config = TrainConfig { freeze: vec!["*".into()], ..TrainConfig::default() };
        assert!(assign(&config, &mut params()).is_err());
    }

    #[test]
    fn layers_of_stages_are_counted_through() {
        let names = [
            "image.embeddings.projection.weight",
            "image.encoder.stage.0.layer.0.mlp.up.weight",
            "image.encoder.stage.0.layer.1.mlp.up.weight",
            "image.encoder.stage.0.merge.reduction.weight",
            "image.encoder.stage.1.layer.0.mlp.up.weight",
            "image.encoder.norm.weight",
            "text.encoder.layer.0.mlp.up.weight",
        ];
        let depths = Depths::of(&names);
        assert_eq!(names.map(|name| depths.below_the_top(name)), [4, 3, 2, 2, 1, 0, 1]);
    }
}
