//! The towers of a model: one for each column of the table.

use crate::{Adapters, ColumnInput, Context, Features, Inputs, ModelError, Result, Tower, TowerConfig};
use sensorium_engine::matmul::rows_alike;
use sensorium_engine::{Builder, Offsets, Params, Var};
use serde::{Deserialize, Serialize};

/// One column and its tower.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ColumnTower {
    /// The column's name.
    pub name: String,
    /// Its tower.
    pub tower: TowerConfig,
}

/// How much of a tower is frozen, from below.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Frozen {
    /// The lowest part is trained.
    Nothing,
    /// What is below the Transformer, and its first layers.
    Layers(usize),
    /// Everything.
    All,
}

/// Parts of a tower behind its Transformer.
const ABOVE: [&str; 5] = ["encoder.norm.", "pooler.", "projection.", "pooled_norm.", "attention_pool."];

/// The towers of all columns and the adapters on them: what models have in
/// common, whatever joins the features.
#[derive(Debug, Clone)]
pub struct Towers {
    columns: Vec<ColumnTower>,
    towers: Vec<Tower>,
    scopes: Vec<String>,
    adapters: Adapters,
    gradient_checkpointing: bool,
}

impl Towers {
    /// Creates `towers.{column}` for each of `columns`.
    ///
    /// # Errors
    /// When there is no column, or a configuration makes no sense.
    pub fn new(b: &mut Builder<'_>, columns: &[ColumnTower]) -> Result<Self> {
        if columns.is_empty() {
            return Err(ModelError::config("model", "needs at least one column"));
        }
        let mut names = std::collections::HashSet::new();
        let mut towers = Vec::with_capacity(columns.len());
        let mut scopes = Vec::with_capacity(columns.len());
        for (i, c) in columns.iter().enumerate() {
            let mut name = part_name(&c.name);
            if !names.insert(name.clone()) {
                name = format!("{name}-{i}");
                names.insert(name.clone());
            }
            let scope = format!("towers.{name}");
            towers.push(Tower::new(&mut b.scope(&scope), &c.tower)?);
            scopes.push(scope);
        }
        let adapters = Adapters::default();
        Ok(Self { columns: columns.to_vec(), towers, scopes, adapters, gradient_checkpointing: false })
    }

    /// The columns in their order.
    pub fn columns(&self) -> &[ColumnTower] {
        &self.columns
    }

    /// Its adapters.
    pub fn adapters(&self) -> &Adapters {
        &self.adapters
    }

    /// Its adapters, to attach and switch them.
    pub fn adapters_mut(&mut self) -> &mut Adapters {
        &mut self.adapters
    }

    /// The tower of a column.
    pub fn tower(&self, column: usize) -> &Tower {
        &self.towers[column]
    }

    /// Whether training keeps of every block only its input.
    pub fn gradient_checkpointing(&self) -> bool {
        self.gradient_checkpointing
    }

    /// Says whether training keeps of every block only its input, and computes
    /// the rest once more in backward: less memory, more time, the same
    /// gradients (see [`Context::checkpointing`]).
    pub fn set_gradient_checkpointing(&mut self, on: bool) {
        self.gradient_checkpointing = on;
    }

    /// What the names of a column's tower's parameters begin with.
    pub fn tower_scope(&self, column: usize) -> &str {
        &self.scopes[column]
    }

    /// Z = M(X): the features of each column.
    ///
    /// # Errors
    /// When the inputs are not those of the model.
    pub fn features(&self, cx: &Context<'_>, inputs: &Inputs) -> Result<Vec<Features>> {
        if inputs.columns.len() != self.towers.len() {
            return Err(ModelError::config(
                "model",
                format!("takes {} columns, the batch has {}", self.towers.len(), inputs.columns.len()),
            ));
        }
        inputs.columns.iter().enumerate().map(|(column, input)| self.column_features(cx, column, input)).collect()
    }

    /// The features of one column. What is frozen of a tower, from below, runs
    /// as in inference: dropout has nothing to regularise there.
    ///
    /// # Errors
    /// When the input is not what the column's tower takes.
    pub fn column_features(&self, cx: &Context<'_>, column: usize, input: &ColumnInput) -> Result<Features> {
        let training = &cx.with_adapters(&self.adapters);
        let still = Context::inference(cx.tape, cx.params);
        let still = &still.with_adapters(&self.adapters);
        let tower = &self.towers[column];
        let features = match self.frozen(cx.params, column) {
            _ if !cx.is_training() => tower.forward(training, input),
            Frozen::Nothing => tower.forward(training, input),
            // Those may come from a cache, filled by other batches: the bits are the same.
            Frozen::All => rows_alike(|| tower.forward(still, input)),
            Frozen::Layers(n) => {
                rows_alike(|| tower.lower(still, input, n)).and_then(|below| tower.upper(training, below, n, input))
            }
        };
        features.map_err(|e| self.named(e, column))
    }

    /// The hidden states of a column after the first `layers` layers of its
    /// tower, as in inference.
    ///
    /// # Errors
    /// When the input is not what the column's tower takes.
    pub fn column_lower(
        &self,
        cx: &Context<'_>,
        column: usize,
        input: &ColumnInput,
        layers: usize,
    ) -> Result<(Var, Offsets)> {
        let below = self.towers[column].lower(&cx.with_adapters(&self.adapters), input, layers);
        below.map_err(|e| self.named(e, column))
    }

    /// The features of a column from its hidden states after the first
    /// `layers` layers of its tower.
    ///
    /// # Errors
    /// When the tower cannot be cut there.
    pub fn column_upper(
        &self,
        cx: &Context<'_>,
        column: usize,
        below: (Var, Offsets),
        layers: usize,
        input: &ColumnInput,
    ) -> Result<Features> {
        self.towers[column].upper(&cx.with_adapters(&self.adapters), below, layers, input)
    }

    fn named(&self, error: ModelError, column: usize) -> ModelError {
        match error {
            ModelError::Input { expected, got, .. } => {
                ModelError::Input { column: self.columns[column].name.clone(), expected, got }
            }
            other => other,
        }
    }

    /// How much of a column's tower is frozen, from below: no parameter there,
    /// adapters included, is trainable.
    pub fn frozen(&self, params: &Params, column: usize) -> Frozen {
        let layers = self.towers[column].layers();
        let trained = params.iter().filter(|(_, p)| p.trainable).filter_map(|(_, p)| {
            let name = p.name.strip_prefix(self.scopes[column].as_str())?.strip_prefix('.')?;
            // The layer from which on something is trained; what stands behind
            // the Transformer is above all of them.
            Some(match (name.strip_prefix("encoder.layer."), layers) {
                (Some(rest), Some(_)) => rest.split('.').next().and_then(|i| i.parse().ok()).unwrap_or(0),
                (None, Some(n)) if ABOVE.iter().any(|part| name.starts_with(part)) => n,
                _ => 0,
            })
        });
        match trained.min() {
            None => Frozen::All,
            Some(0) => Frozen::Nothing,
            Some(n) => Frozen::Layers(n),
        }
    }

    /// Tokens that the towers make of a batch, patches and frames included: a
    /// measure of the work.
    pub fn tokens(&self, inputs: &Inputs) -> usize {
        let columns = inputs.columns.iter().zip(&self.columns);
        columns.map(|(column, named)| named.tower.tokens(column.offsets().total())).sum()
    }
}

/// A column's name as a part of parameters' names: no dots, no blanks.
fn part_name(column: &str) -> String {
    column.chars().map(|c| if c.is_alphanumeric() || c == '-' { c } else { '_' }).collect()
}
