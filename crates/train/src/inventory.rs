//! What a model is made of and what training it will take: the table shown before a run.

use crate::config::{OptimizerKind, TrainConfig};
use indicatif::HumanBytes;
use sensorium_engine::Params;
use sensorium_engine::pattern::matches;
use serde::Serialize;
use std::fmt;

/// The parts of a model, by the first word of their parameters' names; towers
/// and whatever else is a list of parts by the first two.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Inventory {
    /// The parts in the order of the model.
    pub parts: Vec<Part>,
    /// The bytes that training holds for as long as it lasts.
    pub memory: Memory,
}

/// One part of a model.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Part {
    /// Its name, such as `towers.text` or `head`.
    pub name: String,
    /// Its parameters (elements).
    pub parameters: usize,
    /// Those of them that are trained.
    pub trainable: usize,
}

/// Bytes by what they are for. Activations come on top; they grow with the batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Memory {
    /// The weights.
    pub parameters: usize,
    /// Their gradients.
    pub gradients: usize,
    /// The optimizer's moments.
    pub optimizer: usize,
    /// The moving average.
    pub average: usize,
    /// The best weights so far.
    pub best: usize,
}

impl Memory {
    /// All of it.
    pub fn total(&self) -> usize {
        self.parameters + self.gradients + self.optimizer + self.average + self.best
    }
}

impl Inventory {
    /// Counts a model as it will be trained, `freeze` taken into account.
    pub fn of(config: &TrainConfig, params: &Params) -> Self {
        let mut parts: Vec<Part> = Vec::new();
        for (_, p) in params.iter() {
            let name = part_of(&p.name);
            let trains = p.trainable && !config.freeze.iter().any(|pattern| matches(pattern, &p.name));
            let at = parts.iter().position(|part| part.name == name).unwrap_or_else(|| {
                parts.push(Part { name: name.to_owned(), parameters: 0, trainable: 0 });
                parts.len() - 1
            });
            parts[at].parameters += p.value.len();
            parts[at].trainable += if trains { p.value.len() } else { 0 };
        }
        let bytes = |elements: usize| elements * size_of::<f32>();
        let trainable = bytes(parts.iter().map(|p| p.trainable).sum());
        let moments = match config.optimizer {
            OptimizerKind::AdamW | OptimizerKind::Adam => 2,
            OptimizerKind::Sgd => usize::from(config.momentum > 0.0),
        };
        let memory = Memory {
            parameters: bytes(parts.iter().map(|p| p.parameters).sum()),
            gradients: trainable,
            optimizer: moments * trainable,
            // Frozen weights are shared by these two, not copied.
            average: if config.ema > 0.0 { trainable } else { 0 },
            best: trainable,
        };
        Self { parts, memory }
    }

    /// All parameters, and those that are trained.
    pub fn total(&self) -> (usize, usize) {
        self.parts.iter().fold((0, 0), |(all, trained), p| (all + p.parameters, trained + p.trainable))
    }
}

/// A table for people.
impl fmt::Display for Inventory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (all, trained) = self.total();
        let total = Part { name: "total".into(), parameters: all, trainable: trained };
        // Characters, not columns: names of parts are those of code.
        let width = self.parts.iter().map(|p| p.name.chars().count()).max().unwrap_or(0).max(5);
        writeln!(f, "{:width$}  {:>14}  {:>14}  {:>14}", "part", "parameters", "trainable", "frozen")?;
        for p in self.parts.iter().chain([&total]) {
            let [a, t, z] = [p.parameters, p.trainable, p.parameters - p.trainable].map(thousands);
            writeln!(f, "{:width$}  {a:>14}  {t:>14}  {z:>14}", p.name)?;
        }
        let m = &self.memory;
        let [total, w, g, o, a, b] =
            [m.total(), m.parameters, m.gradients, m.optimizer, m.average, m.best].map(|n| HumanBytes(n as u64));
        write!(
            f,
            "memory: {total} without activations (weights {w}, gradients {g}, optimizer {o}, moving average {a}, best weights {b})"
        )
    }
}

/// `towers.text` for `towers.text.embeddings.word`, `head` for `head.weight`.
fn part_of(name: &str) -> &str {
    let mut dots = name.match_indices('.').map(|(at, _)| at);
    let Some(first) = dots.next() else { return name };
    match &name[..first] {
        "towers" => &name[..dots.next().unwrap_or(name.len())],
        part => part,
    }
}

fn thousands(n: usize) -> String {
    let digits = n.to_string();
    let mut out = String::new();
    for (i, c) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(c);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use sensorium_engine::Tensor;

    #[test]
    fn parts_are_counted_and_memory_follows_the_optimizer() {
        let mut params = Params::new();
        for (name, dims) in
            [("towers.text.a.weight", [1000, 1000]), ("head.weight", [2, 500]), ("towers.text.b.weight", [10, 10])]
        {
            params.insert(name, Tensor::zeros(&dims)).expect("new name");
        }
        let config = TrainConfig { freeze: vec!["towers.text.a".into()], ema: 0.9, ..TrainConfig::default() };
        let inventory = Inventory::of(&config, &params);
        let part = |name: &str, parameters, trainable| Part { name: name.into(), parameters, trainable };
        assert_eq!(inventory.parts, [part("towers.text", 1_000_100, 100), part("head", 1000, 1000)]);
        let trained = 1100 * 4;
        let expected = Memory {
            parameters: 1_001_100 * 4,
            gradients: trained,
            optimizer: 2 * trained,
            average: trained,
            best: trained,
        };
        assert_eq!(inventory.memory, expected);
        let table = inventory.to_string();
        assert!(table.contains("total             1,001,100           1,100       1,000,000"), "{table}");
        assert!(
            table.contains("memory: 3.84 MiB without activations (weights 3.82 MiB, gradients 4.30 KiB"),
            "{table}"
        );
        let sgd = TrainConfig { optimizer: OptimizerKind::Sgd, momentum: 0.0, ..TrainConfig::default() };
        assert_eq!(Inventory::of(&sgd, &params).memory.optimizer, 0);
    }
}
