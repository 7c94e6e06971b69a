//! The tape: operations run at once and leave behind what backward needs.
//!
//! A [`Var`] is a value and, when a gradient can reach it, the number of the
//! node that made it. [`Tape::backward`] walks the nodes in reverse, hands each
//! its gradient, and drops what the node kept as soon as it is through.

use crate::ops::scatter::scatter_add;
use crate::params::{ParamId, Params};
use crate::row_gradient::RowGradient;
use crate::{Element, EngineError, Result, Shape, Tensor};
use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};

/// A value on the tape.
#[derive(Clone, Debug)]
pub struct Var<E: Element = f32> {
    value: Tensor<E>,
    node: Handle,
}

/// Where a gradient goes: a node of the tape, or nowhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Handle(Option<usize>);

impl<E: Element> Var<E> {
    /// A value that no gradient flows into.
    pub fn constant(value: Tensor<E>) -> Self {
        Self { value, node: Handle(None) }
    }

    /// The value.
    pub fn value(&self) -> &Tensor<E> {
        &self.value
    }

    /// The value, without the rest.
    pub fn into_value(self) -> Tensor<E> {
        self.value
    }

    /// The values, row-major.
    pub fn data(&self) -> &[E] {
        self.value.data()
    }

    /// The shape.
    pub fn shape(&self) -> Shape {
        self.value.shape()
    }

    /// The product of all dimensions but the innermost.
    pub fn rows(&self) -> usize {
        self.shape().rows()
    }

    /// The innermost dimension.
    pub fn cols(&self) -> usize {
        self.shape().cols()
    }

    /// The same value, cut off from the tape.
    pub fn detached(&self) -> Self {
        Self::constant(self.value.clone())
    }

    /// Whether a gradient can reach this value.
    pub fn needs_gradient(&self) -> bool {
        self.node.0.is_some()
    }

    pub(crate) fn handle(&self) -> Handle {
        self.node
    }
}

type Backward<E> = Box<dyn FnOnce(Tensor<E>, &mut Gradients<E>) -> Result<()>>;

struct Node<E: Element> {
    shape: Shape,
    /// None for leaves: parameters and inputs.
    backward: Option<Backward<E>>,
    param: Option<ParamId>,
}

/// The record of one forward pass.
pub struct Tape<E: Element = f32> {
    recording: bool,
    nodes: RefCell<Vec<Node<E>>>,
    params: RefCell<HashMap<ParamId, usize>>,
}

impl<E: Element> Tape<E> {
    /// A tape that records, for training.
    pub fn new() -> Self {
        Self { recording: true, nodes: RefCell::default(), params: RefCell::default() }
    }

    /// A tape that records nothing, for inference: intermediates are freed as
    /// soon as the next operation is through with them.
    pub fn inference() -> Self {
        Self { recording: false, ..Self::new() }
    }

    /// A leaf whose gradient is wanted (for tests and for explanations).
    pub fn input(&self, value: Tensor<E>) -> Var<E> {
        let node = self.push(value.shape(), None, None);
        Var { value, node }
    }

    /// The leaf of a parameter; every use within one tape is the same leaf.
    /// No gradient flows into a frozen parameter, nor into a quantised one,
    /// whose value is made from its codes.
    pub fn param(&self, params: &Params<E>, id: ParamId) -> Var<E> {
        let p = params.get(id);
        if p.quantized().is_some() {
            return Var::constant(p.dequantized());
        }
        if !self.recording || !p.trainable {
            return Var::constant(p.value.clone());
        }
        let known = self.params.borrow().get(&id).copied();
        let node = match known {
            Some(n) => Handle(Some(n)),
            None => {
                let h = self.push(p.value.shape(), None, Some(id));
                self.params.borrow_mut().insert(id, h.0.expect("recording"));
                h
            }
        };
        Var { value: p.value.clone(), node }
    }

    fn push(&self, shape: Shape, backward: Option<Backward<E>>, param: Option<ParamId>) -> Handle {
        if !self.recording {
            return Handle(None);
        }
        let mut nodes = self.nodes.borrow_mut();
        nodes.push(Node { shape, backward, param });
        Handle(Some(nodes.len() - 1))
    }

    /// Whether an operation on these inputs must keep what backward needs.
    pub fn records(&self, inputs: &[&Var<E>]) -> bool {
        self.recording && inputs.iter().any(|v| v.needs_gradient())
    }

    /// The operations recorded so far: those that a gradient passes through.
    pub fn operations(&self) -> usize {
        self.nodes.borrow().iter().filter(|n| n.backward.is_some()).count()
    }

    /// Puts the result of an operation on the tape.
    ///
    /// `backward` receives the gradient of the result and adds to those of the
    /// inputs; it is dropped unused when no input needs a gradient.
    pub(crate) fn record(
        &self,
        value: Tensor<E>,
        inputs: &[&Var<E>],
        backward: impl FnOnce(Tensor<E>, &mut Gradients<E>) -> Result<()> + 'static,
    ) -> Var<E> {
        if !self.records(inputs) {
            return Var::constant(value);
        }
        let node = self.push(value.shape(), Some(Box::new(backward)), None);
        Var { value, node }
    }

    /// As [`Tape::record`], for what depends on parameters that are not among
    /// its inputs.
    pub(crate) fn record_always(
        &self,
        value: Tensor<E>,
        backward: impl FnOnce(Tensor<E>, &mut Gradients<E>) -> Result<()> + 'static,
    ) -> Var<E> {
        let node = self.push(value.shape(), Some(Box::new(backward)), None);
        Var { value, node }
    }

    /// Whether operations are recorded at all.
    pub fn is_recording(&self) -> bool {
        self.recording
    }

    /// The gradients of a scalar with respect to every parameter and input.
    ///
    /// # Errors
    /// When `loss` is not one number or was not recorded on this tape.
    pub fn backward(self, loss: &Var<E>) -> Result<Gradients<E>> {
        if loss.shape().len() != 1 {
            return Err(EngineError::shape("backward", "loss", "one element", loss.shape()));
        }
        let one = Tensor::full(loss.value.dims(), E::ONE);
        self.backward_from(loss, one)
    }

    /// As [`Tape::backward`], from a given gradient of `output`.
    ///
    /// # Errors
    /// When the shapes differ or `output` was not recorded on this tape.
    pub fn backward_from(self, output: &Var<E>, gradient: Tensor<E>) -> Result<Gradients<E>> {
        let nodes = self.nodes.into_inner();
        let last = match output.node.0 {
            Some(n) if n < nodes.len() => n,
            _ => {
                return Err(EngineError::Backward(
                    "the value does not depend on any trainable parameter or input of this tape".into(),
                ));
            }
        };
        if gradient.shape() != output.shape() {
            return Err(EngineError::shape("backward", "gradient", output.shape(), gradient.shape()));
        }
        let mut g = Gradients::none();
        g.slots.resize_with(nodes.len(), || None);
        g.leaves = nodes.iter().map(|node| node.param.is_some()).collect();
        g.slots[last] = Some(gradient);
        for (n, node) in nodes.into_iter().enumerate().rev() {
            if n > last {
                continue;
            }
            if let Some(id) = node.param {
                let rows = g.rows.remove(&n).map(Gradient::Rows);
                if let Some(d) = rows.or_else(|| g.slots[n].take().map(Gradient::Whole)) {
                    g.add_param(id, d);
                }
                continue;
            }
            let Some(backward) = node.backward else { continue };
            let Some(d) = g.slots[n].take() else { continue };
            debug_assert_eq!(d.len(), node.shape.len());
            backward(d, &mut g)?;
        }
        Ok(g)
    }
}

impl<E: Element> Default for Tape<E> {
    fn default() -> Self {
        Self::new()
    }
}

/// The gradient of one parameter.
pub(crate) enum Gradient<E: Element> {
    Whole(Tensor<E>),
    /// Of a table that was read at few places.
    Rows(RowGradient<E>),
}

impl<E: Element> Gradient<E> {
    pub(crate) fn shape(&self) -> Shape {
        match self {
            Self::Whole(t) => t.shape(),
            Self::Rows(rows) => rows.shape(),
        }
    }

    /// All that is not zero by its nature.
    pub(crate) fn data(&self) -> &[E] {
        match self {
            Self::Whole(t) => t.data(),
            Self::Rows(rows) => rows.values().data(),
        }
    }

    /// As one tensor; a whole one shares its memory.
    pub(crate) fn whole(&self) -> Tensor<E> {
        match self {
            Self::Whole(t) => t.clone(),
            Self::Rows(rows) => rows.whole(),
        }
    }

    fn plus(self, other: Self) -> Self {
        match (self, other) {
            (Self::Whole(mut sum), Self::Whole(other)) => {
                add_into(&mut sum, &other);
                Self::Whole(sum)
            }
            (Self::Whole(mut sum), Self::Rows(rows)) | (Self::Rows(rows), Self::Whole(mut sum)) => {
                rows.add_to(&mut sum);
                Self::Whole(sum)
            }
            (Self::Rows(rows), Self::Rows(other)) => Self::Rows(rows.plus(&other)),
        }
    }
}

/// The gradients that a backward pass leaves: of parameters and of inputs.
pub struct Gradients<E: Element = f32> {
    slots: Vec<Option<Tensor<E>>>,
    /// Of parameters that were only read at few places so far, by their node;
    /// their slots are empty.
    rows: HashMap<usize, RowGradient<E>>,
    /// Which nodes are parameters.
    leaves: Vec<bool>,
    params: BTreeMap<ParamId, Gradient<E>>,
}

impl<E: Element> Gradients<E> {
    /// No gradients at all: the start of an accumulation.
    pub fn none() -> Self {
        Self { slots: Vec::new(), rows: HashMap::new(), leaves: Vec::new(), params: BTreeMap::new() }
    }

    /// The gradient of an input leaf.
    pub fn of(&self, var: &Var<E>) -> Option<&Tensor<E>> {
        self.slots.get(var.node.0?)?.as_ref()
    }

    /// The gradient of a parameter; None if the loss does not depend on it.
    /// That of a table which was read at few places is written out for it.
    pub fn param(&self, id: ParamId) -> Option<Tensor<E>> {
        self.params.get(&id).map(Gradient::whole)
    }

    /// The gradients of parameters, as [`Gradients::param`] has them, in the
    /// order of their identifiers.
    pub fn params(&self) -> impl Iterator<Item = (ParamId, Tensor<E>)> {
        self.params.iter().map(|(id, g)| (*id, g.whole()))
    }

    /// The gradients of parameters as they are kept.
    pub(crate) fn kept(&self) -> impl Iterator<Item = (ParamId, &Gradient<E>)> {
        self.params.iter().map(|(id, g)| (*id, g))
    }

    /// The gradient of a parameter as it is kept.
    pub(crate) fn kept_of(&self, id: ParamId) -> Option<&Gradient<E>> {
        self.params.get(&id)
    }

    /// The rows of a parameter's gradient, where only some are kept.
    #[cfg(test)]
    pub(crate) fn rows_of(&self, id: ParamId) -> Option<&RowGradient<E>> {
        match self.params.get(&id)? {
            Gradient::Rows(rows) => Some(rows),
            Gradient::Whole(_) => None,
        }
    }

    /// Adds the parameter gradients of another backward pass.
    pub fn accumulate(&mut self, other: Self) {
        for (id, gradient) in other.params {
            self.add_param(id, gradient);
        }
    }

    fn add_param(&mut self, id: ParamId, gradient: Gradient<E>) {
        let sum = match self.params.remove(&id) {
            Some(known) => known.plus(gradient),
            None => gradient,
        };
        self.params.insert(id, sum);
    }

    /// The gradient of an input leaf, moved out.
    pub(crate) fn take_of(&mut self, var: &Var<E>) -> Option<Tensor<E>> {
        self.slots.get_mut(var.node.0?)?.take()
    }

    /// Whether anybody wants this gradient.
    pub(crate) fn wants(&self, to: Handle) -> bool {
        to.0.is_some()
    }

    /// Adds to a gradient; the first one moves in without a copy.
    pub(crate) fn add(&mut self, to: Handle, gradient: Tensor<E>) {
        let Some(n) = to.0 else { return };
        self.write_out(n);
        match &mut self.slots[n] {
            slot @ None => *slot = Some(gradient),
            Some(sum) => {
                let mut gradient = gradient;
                // Add into whichever of the two nobody else holds.
                if !sum.is_unique() && gradient.is_unique() {
                    std::mem::swap(sum, &mut gradient);
                }
                add_into(sum, &gradient);
            }
        }
    }

    /// The buffer that a kernel adds to (true) or overwrites (false).
    /// Give it back with [`Gradients::put`].
    pub(crate) fn take(&mut self, to: Handle, dims: &[usize]) -> Option<(Tensor<E>, bool)> {
        let n = to.0?;
        self.write_out(n);
        Some(match self.slots[n].take() {
            Some(t) => (t, true),
            None => (Tensor::any(dims), false),
        })
    }

    pub(crate) fn put(&mut self, to: Handle, gradient: Tensor<E>) {
        if let Some(n) = to.0 {
            self.slots[n] = Some(gradient);
        }
    }
}

/// The gradient of rows that were read.
impl<E: Element> Gradients<E> {
    /// Adds to the gradient of a table `[rows, cols]` whose rows `index` were
    /// read what came back for them, `d` `[index, cols]`.
    pub(crate) fn add_rows(&mut self, to: Handle, [rows, cols]: [usize; 2], index: &[u32], d: &Tensor<E>) {
        let Some(n) = to.0 else { return };
        if self.leaves[n] && self.slots[n].is_none() && RowGradient::<E>::pays(rows, cols, index.len()) {
            let read = RowGradient::of_read(Shape::new(&[rows, cols]), index, d);
            let sum = match self.rows.remove(&n) {
                Some(known) => known.plus(&read),
                None => read,
            };
            self.rows.insert(n, sum);
            return;
        }
        if let Some((mut sum, add)) = self.take(to, &[rows, cols]) {
            scatter_add(sum.data_mut(), add, d.data(), index, cols);
            self.put(to, sum);
        }
    }

    /// Puts a whole gradient in place of rows.
    fn write_out(&mut self, n: usize) {
        if let Some(rows) = self.rows.remove(&n) {
            self.slots[n] = Some(rows.whole());
        }
    }
}

fn add_into<E: Element>(sum: &mut Tensor<E>, other: &Tensor<E>) {
    let other = other.data();
    crate::parallel::rows_mut(sum.data_mut(), 1, |first, out| add_slices(out, &other[first..]));
}

crate::simd::vectorised! {
    fn add_slices<E>(out: &mut [E], x: &[E]) {
        for (o, x) in out.iter_mut().zip(x) {
            *o += *x;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops;

    #[test]
    fn a_value_used_twice_gets_both_gradients() -> Result<()> {
        let tape = Tape::<f64>::new();
        let x = tape.input(Tensor::from_slice(&[2], &[3.0, -1.0])?);
        let y = ops::mul(&tape, &x, &x)?;
        let z = ops::add(&tape, &y, &x)?;
        let loss = ops::sum(&tape, &z)?;
        let g = tape.backward(&loss)?;
        assert_eq!(g.of(&x).map(|t| t.data().to_vec()), Some(vec![7.0, -1.0]));
        Ok(())
    }

    #[test]
    fn frozen_parameters_and_inference_record_nothing() -> Result<()> {
        let mut params = Params::<f64>::new();
        let id = params.insert("w", Tensor::full(&[2], 1.0))?;
        params.get_mut(id).trainable = false;
        let tape = Tape::new();
        let w = tape.param(&params, id);
        let y = ops::sum(&tape, &w)?;
        assert!(!y.needs_gradient());
        assert!(tape.backward(&y).is_err());
        let tape = Tape::<f64>::inference();
        assert!(!tape.input(Tensor::zeros(&[1])).needs_gradient());
        Ok(())
    }
}
