//! Named parameters, kept apart from the layers that use them.
//!
//! A layer holds [`ParamId`]s; the values live here, under names that follow
//! the checkpoint's. Freezing, counting, saving, tying and optimizing are
//! loops over this list.

use crate::random::Random;
use crate::{Element, EngineError, Quantized, Result, Shape, Tensor};
use std::collections::HashMap;
use std::sync::Arc;

/// Which parameter of a [`Params`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ParamId(usize);

impl ParamId {
    /// The place in the list.
    pub fn index(self) -> usize {
        self.0
    }
}

/// One parameter.
#[derive(Debug, Clone)]
pub struct Param<E: Element = f32> {
    /// The full name, dotted: `text.encoder.layer.0.attention.query.weight`.
    pub name: String,
    /// The value; of a quantised parameter only its shape.
    pub value: Tensor<E>,
    /// Whether gradients flow into it.
    pub trainable: bool,
    quantized: Option<Arc<Quantized>>,
    linear: bool,
}

impl<E: Element> Param<E> {
    /// Whether it is the weight of a linear layer, made by [`Builder::weight`].
    pub fn is_linear(&self) -> bool {
        self.linear
    }

    /// The codes in place of the value, where it is quantised.
    pub fn quantized(&self) -> Option<&Arc<Quantized>> {
        self.quantized.as_ref()
    }

    /// Puts codes in place of the value; from then on no gradient flows into
    /// it. Its memory is given up.
    ///
    /// # Errors
    /// When the codes have another shape.
    pub fn quantize(&mut self, codes: Arc<Quantized>) -> Result<()> {
        let shape = Shape::new(&[codes.rows(), codes.cols()]);
        if self.value.shape() != shape {
            return Err(EngineError::shape("quantize", "codes", self.value.shape(), shape));
        }
        (self.value, self.trainable, self.quantized) = (Tensor::hollow(shape), false, Some(codes));
        Ok(())
    }

    /// The value, made from the codes where it is quantised.
    pub fn dequantized(&self) -> Tensor<E> {
        self.quantized.as_ref().map_or_else(|| self.value.clone(), |codes| codes.dequantize())
    }

    /// Bytes of memory that the value takes.
    pub fn bytes(&self) -> usize {
        self.quantized.as_ref().map_or_else(|| self.value.len() * size_of::<E>(), |codes| codes.bytes())
    }

    /// Hands over all that the value is made of, as little-endian bytes in
    /// pieces: for fingerprints.
    pub fn digest(&self, mut take: impl FnMut(&[u8])) {
        let Some(codes) = &self.quantized else {
            let mut piece = Vec::new();
            for chunk in self.value.data().chunks(1 << 14) {
                piece.clear();
                chunk.iter().for_each(|x| x.append_bytes(&mut piece));
                take(&piece);
            }
            return;
        };
        let mut row = vec![0; codes.cols()];
        for (r, scale) in codes.scales().iter().enumerate() {
            codes.row(r, &mut row);
            take(&row.iter().map(|q| *q as u8).collect::<Vec<u8>>());
            take(&scale.to_le_bytes());
        }
        if let Some(range) = codes.range() {
            take(&[range.low.to_le_bytes(), range.high.to_le_bytes()].concat());
        }
    }
}

/// The parameters of a model, in the order of their creation.
#[derive(Debug, Clone, Default)]
pub struct Params<E: Element = f32> {
    list: Vec<Param<E>>,
    by_name: HashMap<String, ParamId>,
}

impl<E: Element> Params<E> {
    /// No parameters yet.
    pub fn new() -> Self {
        Self { list: Vec::new(), by_name: HashMap::new() }
    }

    /// Adds a trainable parameter.
    ///
    /// # Errors
    /// When the name is taken.
    pub fn insert(&mut self, name: impl Into<String>, value: Tensor<E>) -> Result<ParamId> {
        let name = name.into();
        let id = ParamId(self.list.len());
        if self.by_name.insert(name.clone(), id).is_some() {
            return Err(EngineError::setting("parameters", format!("two parameters are named {name}")));
        }
        self.list.push(Param { name, value, trainable: true, quantized: None, linear: false });
        Ok(id)
    }

    /// Adds a quantised parameter, which is not trained.
    ///
    /// # Errors
    /// When the name is taken.
    pub fn insert_quantized(&mut self, name: impl Into<String>, codes: Arc<Quantized>) -> Result<ParamId> {
        let shape = Shape::new(&[codes.rows(), codes.cols()]);
        let id = self.insert(name, Tensor::hollow(shape))?;
        self.list[id.0].quantize(codes)?;
        Ok(id)
    }

    /// A parameter.
    pub fn get(&self, id: ParamId) -> &Param<E> {
        &self.list[id.0]
    }

    /// A parameter, for writing.
    pub fn get_mut(&mut self, id: ParamId) -> &mut Param<E> {
        &mut self.list[id.0]
    }

    /// The parameter of a name.
    pub fn id(&self, name: &str) -> Option<ParamId> {
        self.by_name.get(name).copied()
    }

    /// All parameters with their identifiers.
    pub fn iter(&self) -> impl Iterator<Item = (ParamId, &Param<E>)> {
        self.list.iter().enumerate().map(|(i, p)| (ParamId(i), p))
    }

    /// All parameters, for writing.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = (ParamId, &mut Param<E>)> {
        self.list.iter_mut().enumerate().map(|(i, p)| (ParamId(i), p))
    }

    /// How many parameters (tensors) there are.
    pub fn len(&self) -> usize {
        self.list.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// The number of elements of all parameters, and of the trainable ones.
    pub fn count(&self) -> (usize, usize) {
        self.list.iter().fold((0, 0), |(all, trained), p| {
            (all + p.value.len(), trained + if p.trainable { p.value.len() } else { 0 })
        })
    }

    /// The same parameters in another element type.
    pub fn cast<F: Element>(&self) -> Params<F> {
        Params {
            list: self
                .list
                .iter()
                .map(|p| Param {
                    name: p.name.clone(),
                    value: match p.quantized {
                        Some(_) => Tensor::hollow(p.value.shape()),
                        None => p.value.cast(),
                    },
                    trainable: p.trainable,
                    quantized: p.quantized.clone(),
                    linear: p.linear,
                })
                .collect(),
            by_name: self.by_name.clone(),
        }
    }
}

/// How a parameter starts.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Init {
    /// The same value everywhere.
    Constant(f64),
    /// Normal with this standard deviation, cut at two of them.
    Normal(f64),
    /// Uniform in ±√(6 / (fan_in + fan_out)) (Glorot and Bengio 2010), the
    /// innermost dimension being the inputs.
    Xavier,
}

/// Where the values of a saved model come from.
pub trait Weights<E: Element = f32> {
    /// The tensor of a name.
    ///
    /// # Errors
    /// When there is none, or it has other dimensions; checked before memory
    /// is spent on it.
    fn tensor(&self, name: &str, dims: &[usize]) -> Result<Tensor<E>>;

    /// The codes of a name, where it was saved quantised.
    ///
    /// # Errors
    /// When they have other dimensions or are not whole; checked before memory
    /// is spent on them.
    fn quantized(&self, name: &str, dims: &[usize]) -> Result<Option<Quantized>> {
        let _ = (name, dims);
        Ok(None)
    }
}

/// Creates parameters below a name prefix, as layers are built: with random
/// starts, or with saved values.
pub struct Builder<'a, E: Element = f32> {
    params: &'a mut Params<E>,
    prefix: String,
    random: Random,
    saved: Option<&'a dyn Weights<E>>,
}

impl<'a, E: Element> Builder<'a, E> {
    /// A builder at the root, whose random starts follow from `seed` and the
    /// parameters' names (so that adding a part does not change the others).
    pub fn new(params: &'a mut Params<E>, seed: u64) -> Self {
        Self { params, prefix: String::new(), random: Random::new(seed).purpose("init"), saved: None }
    }

    /// A builder at the root whose parameters have saved values.
    pub fn loading(params: &'a mut Params<E>, saved: &'a dyn Weights<E>) -> Self {
        Self { saved: Some(saved), ..Self::new(params, 0) }
    }

    /// A builder one name deeper.
    pub fn scope(&mut self, name: impl std::fmt::Display) -> Builder<'_, E> {
        let prefix = self.path(&name.to_string());
        Builder { params: self.params, prefix, random: self.random, saved: self.saved }
    }

    /// Creates a parameter with the given start.
    ///
    /// # Errors
    /// When the name is taken.
    pub fn param(&mut self, name: &str, dims: &[usize], init: Init) -> Result<ParamId> {
        self.create(name, dims, init, false)
    }

    /// As [`Builder::param`], for the weight of a linear layer `[outputs,
    /// inputs]`: where it was saved quantised, its codes are laid out for
    /// products.
    ///
    /// # Errors
    /// When the name is taken.
    pub fn weight(&mut self, name: &str, dims: [usize; 2], init: Init) -> Result<ParamId> {
        let id = self.create(name, &dims, init, true)?;
        self.params.get_mut(id).linear = true;
        Ok(id)
    }

    fn create(&mut self, name: &str, dims: &[usize], init: Init, multiplied: bool) -> Result<ParamId> {
        let full = self.path(name);
        if let Some(saved) = self.saved {
            if let Some(codes) = saved.quantized(&full, dims)? {
                let codes = if multiplied { codes.into_panels() } else { codes };
                return self.params.insert_quantized(full, Arc::new(codes));
            }
            let value = saved.tensor(&full, dims)?;
            return self.params.insert(full, value);
        }
        let random = self.random.purpose(&full);
        let mut value = Tensor::any(dims);
        match init {
            Init::Constant(c) => value.data_mut().fill(E::of(c)),
            Init::Normal(std) => {
                for (i, x) in value.data_mut().iter_mut().enumerate() {
                    *x = E::of(random.normal(i as u64).clamp(-2.0, 2.0) * std);
                }
            }
            Init::Xavier => {
                let (fan_out, fan_in) = (value.shape().rows(), value.shape().cols());
                let limit = (6.0 / (fan_in + fan_out) as f64).sqrt();
                for (i, x) in value.data_mut().iter_mut().enumerate() {
                    *x = E::of((f64::from(random.uniform(i as u64)) * 2.0 - 1.0) * limit);
                }
            }
        }
        self.params.insert(full, value)
    }

    /// As [`Builder::param`], for a table of constants: element i starts as
    /// `start(i)`, or as saved, and is not trained.
    ///
    /// # Errors
    /// When the name is taken.
    pub fn fixed(&mut self, name: &str, dims: &[usize], start: impl Fn(usize) -> f64) -> Result<ParamId> {
        let id = self.param(name, dims, Init::Constant(0.0))?;
        let param = self.params.get_mut(id);
        param.trainable = false;
        if self.saved.is_none() {
            param.value.data_mut().iter_mut().enumerate().for_each(|(i, x)| *x = E::of(start(i)));
        }
        Ok(id)
    }

    fn path(&self, name: &str) -> String {
        if self.prefix.is_empty() { name.to_owned() } else { format!("{}.{name}", self.prefix) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn starts_depend_on_names_not_on_order() -> Result<()> {
        let mut first = Params::<f32>::new();
        let mut b = Builder::new(&mut first, 1);
        b.scope("text").param("weight", &[4, 4], Init::Xavier)?;
        b.scope("image").param("weight", &[4, 4], Init::Xavier)?;
        let mut second = Params::<f32>::new();
        Builder::new(&mut second, 1).scope("image").param("weight", &[4, 4], Init::Xavier)?;
        let value = |p: &Params<f32>| p.id("image.weight").map(|id| p.get(id).value.data().to_vec());
        assert_eq!(value(&first), value(&second));
        assert_ne!(first.get(ParamId(0)).value.data(), first.get(ParamId(1)).value.data());
        Ok(())
    }

    #[test]
    fn a_name_can_be_used_once() {
        let mut p = Params::<f32>::new();
        assert!(p.insert("w", Tensor::zeros(&[1])).is_ok());
        assert!(p.insert("w", Tensor::zeros(&[1])).is_err());
    }
}
