//! What every forward pass carries along.

use crate::adapters::{Adapters, Prepended, Site, Sites, prefixed, prompted};
use crate::{Linear, ModelError};
use sensorium_engine::quantized::{Calibration, quantized_embedding};
use sensorium_engine::{Offsets, ParamId, Params, Quantized, Random, Result, Tape, Var, ops};
use std::cell::{Cell, OnceCell, RefCell};
use std::rc::Rc;
use std::sync::Arc;

/// The tape, the parameters and, in training, the randomness of this step.
pub struct Context<'a> {
    /// Records the operations (or not, for inference).
    pub tape: &'a Tape,
    /// The parameters' values.
    pub params: &'a Params,
    /// The step's stream of random numbers; None outside training, where
    /// nothing is dropped.
    random: Option<Random>,
    uses: Rc<Cell<u64>>,
    /// What an adapter attaches to layers.
    sites: Option<&'a Arc<Sites>>,
    /// Hidden states after each layer, where somebody asked for them.
    hidden: Option<Rc<RefCell<Vec<Var>>>>,
    /// The parameters for backward, where blocks are computed once more there;
    /// filled by the first of them.
    again: Option<Rc<OnceCell<Rc<Params>>>>,
    /// What linear layers are given, where somebody counts it.
    calibration: Option<&'a RefCell<Calibration>>,
}

/// What it takes to go the same way again in backward.
pub(crate) struct Replay {
    params: Rc<Params>,
    random: Option<Random>,
    first_use: u64,
    uses: Rc<Cell<u64>>,
    sites: Option<Arc<Sites>>,
}

impl Replay {
    /// Runs `f` as it runs the first time, on another tape.
    pub fn run<T>(&self, tape: &Tape, f: impl FnOnce(&Context<'_>) -> T) -> T {
        let cx = Context {
            tape,
            params: &self.params,
            random: self.random,
            uses: Rc::new(Cell::new(self.first_use)),
            sites: self.sites.as_ref(),
            hidden: None,
            again: None,
            calibration: None,
        };
        let result = f(&cx);
        // What comes after uses other random numbers.
        self.uses.set(self.uses.get().max(cx.uses.get()));
        result
    }
}

impl<'a> Context<'a> {
    /// For inference: nothing is dropped.
    pub fn inference(tape: &'a Tape, params: &'a Params) -> Self {
        Self {
            tape,
            params,
            random: None,
            uses: Rc::default(),
            sites: None,
            hidden: None,
            again: None,
            calibration: None,
        }
    }

    /// For training, with the step's stream.
    pub fn training(tape: &'a Tape, params: &'a Params, random: Random) -> Self {
        Self { random: Some(random), ..Self::inference(tape, params) }
    }

    /// The same, counting what every linear layer is given: to choose the
    /// ranges of its inputs before it is quantised.
    #[must_use]
    pub fn calibrating(self, calibration: &'a RefCell<Calibration>) -> Self {
        Self { calibration: Some(calibration), ..self }
    }

    /// Counts the input of a linear layer, where somebody wants to know.
    pub(crate) fn note_input(&self, weight: ParamId, x: &Var) {
        if let Some(calibration) = self.calibration {
            calibration.borrow_mut().add(weight, x.data());
        }
    }

    /// The codes to compute with in place of a weight. None where it is not
    /// quantised, or where a gradient may be wanted, which codes have none of.
    pub(crate) fn codes(&self, weight: ParamId) -> Option<&'a Quantized> {
        let params = self.params;
        params.get(weight).quantized().filter(|_| !self.tape.is_recording()).map(|codes| &**codes)
    }

    /// The same, keeping the hidden states after each layer.
    #[must_use]
    pub fn keeping_hidden(self) -> Self {
        Self { hidden: Some(Rc::default()), ..self }
    }

    /// The hidden states `[tokens, hidden]` after each layer so far, in the
    /// order of computation; none unless they are kept.
    pub fn take_hidden(&self) -> Vec<Var> {
        self.hidden.as_ref().map(|h| h.take()).unwrap_or_default()
    }

    /// Notes the hidden states after a layer.
    pub(crate) fn keep_hidden(&self, x: &Var) {
        if let Some(hidden) = &self.hidden {
            hidden.borrow_mut().push(x.clone());
        }
    }

    /// The same pass with the active one of a model's adapters.
    pub fn with_adapters<'b>(&'b self, adapters: &'b Adapters) -> Context<'b> {
        Context {
            tape: self.tape,
            params: self.params,
            random: self.random,
            uses: Rc::clone(&self.uses),
            sites: adapters.active_sites(),
            hidden: self.hidden.clone(),
            again: self.again.clone(),
            calibration: self.calibration,
        }
    }

    /// The same, with gradient checkpointing: blocks keep nothing for backward
    /// but their inputs, and are computed once more there.
    #[must_use]
    pub fn checkpointing(self, on: bool) -> Self {
        Self { again: on.then(Rc::default), ..self }
    }

    /// How to go the way from here again in backward; None where it is kept.
    pub(crate) fn replay(&self) -> Option<Replay> {
        let again = self.again.as_ref().filter(|_| self.tape.is_recording())?;
        Some(Replay {
            params: Rc::clone(again.get_or_init(|| Rc::new(self.params.clone()))),
            random: self.random,
            first_use: self.uses.get(),
            uses: Rc::clone(&self.uses),
            sites: self.sites.cloned(),
        })
    }

    /// What is attached to the layer of this weight.
    pub(crate) fn site(&self, weight: ParamId) -> Option<&'a Site> {
        self.sites?.get(&weight)
    }

    /// Whether this is a training step.
    pub fn is_training(&self) -> bool {
        self.random.is_some()
    }

    /// A stream of its own for each use, in the order of the uses; None
    /// outside training.
    pub fn next_random(&self) -> Option<Random> {
        let n = self.uses.get();
        self.uses.set(n + 1);
        self.random.map(|r| r.at_step(n))
    }

    /// A parameter's value on the tape.
    pub fn param(&self, id: ParamId) -> Var {
        self.tape.param(self.params, id)
    }

    /// The rows of a table of embeddings `[entries, dim]` for `ids`:
    /// `[ids, dim]`.
    ///
    /// # Errors
    /// When an identifier is not below the entries.
    pub fn embedding(&self, table: ParamId, ids: &[u32]) -> crate::Result<Var> {
        let rows = match self.codes(table) {
            Some(codes) => quantized_embedding(codes, ids)?,
            None => ops::embedding(self.tape, &self.param(table), ids)?,
        };
        match self.site(table) {
            Some(Site::TableLora(lora)) => lora.forward(self, &rows, ids),
            _ => Ok(rows),
        }
    }

    /// Keys and values, and their segments, with the prefixes that an adapter
    /// attaches to the layers they come from; None where it attaches none.
    pub(crate) fn prefixed(
        &self,
        (key, value): (&Linear, &Linear),
        kv: (&Var, &Var),
        segments: &Offsets,
        has_bias: bool,
    ) -> crate::Result<Option<(Var, Var, Offsets)>> {
        match (self.site(key.weight()), self.site(value.weight())) {
            (Some(Site::Prefix(_)), Some(Site::Prefix(_))) if has_bias => {
                let problem = "keys in front of a segment have no distance, which this Transformer's attention needs";
                Err(ModelError::config("prefix", problem))
            }
            (Some(Site::Prefix(k)), Some(Site::Prefix(v))) => Ok(Some(prefixed(self, (*k, *v), kv, segments)?)),
            _ => Ok(None),
        }
    }

    /// Tokens with the prompt that an adapter attaches to the stack of blocks
    /// which this layer begins; None where it attaches none.
    pub(crate) fn prompted(
        &self,
        first: &Linear,
        x: &Var,
        segments: &Offsets,
    ) -> crate::Result<Option<(Var, Prepended)>> {
        match self.site(first.weight()) {
            Some(Site::Prompt(prompt)) => Ok(Some(prompted(self, *prompt, x, segments)?)),
            _ => Ok(None),
        }
    }

    /// The output `y` of a feed-forward part, with what an adapter beside it
    /// makes of its input `x`.
    pub(crate) fn beside(&self, last: &Linear, x: &Var, y: Var) -> crate::Result<Var> {
        match self.site(last.weight()) {
            Some(Site::Beside(bottleneck)) => Ok(ops::add(self.tape, &y, &bottleneck.forward(self, x)?)?),
            _ => Ok(y),
        }
    }

    /// Dropout in training, nothing otherwise.
    ///
    /// # Errors
    /// When the probability is not in [0, 1).
    pub fn dropout(&self, x: Var, probability: f64) -> Result<Var> {
        match self.next_random() {
            Some(random) if probability > 0.0 => ops::dropout(self.tape, &x, probability, random),
            _ => Ok(x),
        }
    }
}
