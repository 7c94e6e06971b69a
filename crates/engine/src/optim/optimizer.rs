//! AdamW, Adam and stochastic gradient descent.

use super::update;
use crate::{Element, EngineError, Gradients, ParamId, Params, Result, Tensor};
use rayon::prelude::*;

/// Elements that one task updates.
const RUN: usize = 1 << 14;

/// The update rule and its constants.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Method {
    /// Adam with decoupled weight decay (Loshchilov and Hutter 2019).
    AdamW {
        /// Decay of the mean of gradients and of their squares.
        betas: (f64, f64),
        /// Added to the root of the mean square.
        eps: f64,
    },
    /// Adam (Kingma and Ba 2015), its weight decay added to the gradient (L2).
    Adam {
        /// Decay of the mean of gradients and of their squares.
        betas: (f64, f64),
        /// Added to the root of the mean square.
        eps: f64,
    },
    /// Gradient descent, its weight decay added to the gradient (L2).
    Sgd {
        /// Share of the last direction that is kept; 0: none is stored.
        momentum: f64,
        /// Whether momentum looks ahead (Sutskever et al. 2013).
        nesterov: bool,
    },
}

impl Method {
    /// AdamW with PyTorch's constants: betas 0.9 and 0.999, eps 1e-8.
    pub const ADAM_W: Self = Self::AdamW { betas: (0.9, 0.999), eps: 1e-8 };

    /// The names of what is kept for every parameter.
    fn slots(self) -> &'static [&'static str] {
        match self {
            Self::AdamW { .. } | Self::Adam { .. } => &["exp_avg", "exp_avg_sq"],
            Self::Sgd { momentum, .. } if momentum != 0.0 => &["momentum_buffer"],
            Self::Sgd { .. } => &[],
        }
    }

    fn check(self) -> Result<()> {
        let share = |what: &str, x: f64| {
            if (0.0..1.0).contains(&x) {
                return Ok(());
            }
            Err(EngineError::setting("optimizer", format!("{what} {x} is not in [0, 1)")))
        };
        match self {
            Self::AdamW { betas, eps } | Self::Adam { betas, eps } => {
                share("beta1", betas.0)?;
                share("beta2", betas.1)?;
                if !(eps.is_finite() && eps >= 0.0) {
                    return Err(EngineError::setting("optimizer", format!("eps {eps} is not a number from 0 on")));
                }
                Ok(())
            }
            Self::Sgd { momentum, nesterov } => {
                share("momentum", momentum)?;
                if nesterov && momentum == 0.0 {
                    return Err(EngineError::setting("optimizer", "nesterov needs a momentum above 0"));
                }
                Ok(())
            }
        }
    }
}

/// What may differ from parameter to parameter and from step to step.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Hyper {
    /// The learning rate, schedule and multipliers included.
    pub lr: f64,
    /// The weight decay; 0 for biases and norms.
    pub weight_decay: f64,
}

/// A method and what it remembers of every parameter.
#[derive(Debug, Clone)]
pub struct Optimizer<E: Element = f32> {
    method: Method,
    /// By parameter; None until its first gradient.
    memory: Vec<Option<Memory<E>>>,
}

#[derive(Debug, Clone)]
struct Memory<E: Element> {
    steps: u64,
    slots: Vec<Tensor<E>>,
}

/// The two words a number of steps is kept in: each exact even in `f32`.
const WORD: u64 = 1 << 20;

impl<E: Element> Optimizer<E> {
    /// An optimizer that has seen nothing yet.
    ///
    /// # Errors
    /// When a constant of the method is out of range.
    pub fn new(method: Method) -> Result<Self> {
        method.check()?;
        Ok(Self { method, memory: Vec::new() })
    }

    /// The update rule.
    pub fn method(&self) -> Method {
        self.method
    }

    /// Updates every trainable parameter that has a gradient, the others stay
    /// as they are. Gradients are first multiplied by `scale` (clipping,
    /// averaging over accumulated batches); `hyper` has one entry for each
    /// parameter, by [`ParamId::index`].
    ///
    /// # Errors
    /// When `hyper` does not have one entry for each parameter or a gradient
    /// does not have its parameter's shape; nothing has changed then.
    pub fn step(
        &mut self,
        params: &mut Params<E>,
        gradients: &Gradients<E>,
        hyper: &[Hyper],
        scale: f64,
    ) -> Result<()> {
        if hyper.len() != params.len() {
            let problem = format!("{} learning rates for {} parameters", hyper.len(), params.len());
            return Err(EngineError::setting("optimizer", problem));
        }
        for (id, g) in gradients.params() {
            if id.index() >= params.len() || g.shape() != params.get(id).value.shape() {
                let expected =
                    if id.index() < params.len() { params.get(id).value.shape().to_string() } else { "none".into() };
                return Err(EngineError::shape("optimizer", "gradient", expected, g.shape()));
            }
        }
        self.memory.resize_with(params.len(), || None);
        let method = self.method;
        let mut runs = Vec::new();
        for (((id, p), memory), hyper) in params.iter_mut().zip(&mut self.memory).zip(hyper) {
            let Some(g) = gradients.param(id).filter(|_| p.trainable) else { continue };
            let memory = memory.get_or_insert_with(|| Memory {
                steps: 0,
                slots: method.slots().iter().map(|_| Tensor::zeros(g.dims())).collect(),
            });
            memory.steps += 1;
            cut(&mut runs, method, p.value.data_mut(), g.data(), memory, *hyper, scale);
        }
        runs.into_par_iter().for_each(Run::update);
        Ok(())
    }

    /// Everything remembered, as tensors named `slot.parameter`:
    /// `exp_avg.head.weight`, `step.head.weight` (two numbers: the steps
    /// modulo 2²⁰ and the rest of them).
    pub fn state(&self, params: &Params<E>) -> Vec<(String, Tensor<E>)> {
        let mut out = Vec::new();
        for ((_, p), memory) in params.iter().zip(&self.memory) {
            let Some(memory) = memory else { continue };
            for (slot, t) in self.method.slots().iter().zip(&memory.slots) {
                out.push((format!("{slot}.{}", p.name), t.clone()));
            }
            let mut steps = Tensor::any(&[2]);
            steps
                .data_mut()
                .copy_from_slice(&[E::of((memory.steps % WORD) as f64), E::of((memory.steps / WORD) as f64)]);
            out.push((format!("step.{}", p.name), steps));
        }
        out
    }

    /// Replaces everything remembered by what [`Optimizer::state`] gave.
    ///
    /// # Errors
    /// When a name or a shape does not fit the parameters and the method, or
    /// one of a parameter's tensors is missing; nothing has changed then.
    pub fn load_state(&mut self, params: &Params<E>, state: &[(String, Tensor<E>)]) -> Result<()> {
        let bad = |problem: String| Err(EngineError::setting("optimizer state", problem));
        let slots = self.method.slots();
        let mut found: Vec<Vec<Option<Tensor<E>>>> = Vec::new();
        found.resize_with(params.len(), Vec::new);
        for (name, tensor) in state {
            let Some((slot, id)) = name.split_once('.').and_then(|(slot, p)| Some((slot, params.id(p)?))) else {
                return bad(format!("{name} belongs to no parameter of this model"));
            };
            let place = match slots.iter().position(|s| *s == slot) {
                Some(n) => n,
                None if slot == "step" => slots.len(),
                None => return bad(format!("{name} is not part of {:?}", self.method)),
            };
            let expected = if place == slots.len() { crate::Shape::new(&[2]) } else { params.get(id).value.shape() };
            if tensor.shape() != expected {
                return bad(format!("{name} has shape {}, expected {expected}", tensor.shape()));
            }
            let all = &mut found[id.index()];
            all.resize_with(slots.len() + 1, || None);
            all[place] = Some(tensor.clone());
        }
        let mut memory = Vec::with_capacity(params.len());
        for ((_, p), tensors) in params.iter().zip(found) {
            if tensors.is_empty() {
                memory.push(None);
                continue;
            }
            let Some(mut tensors) = tensors.into_iter().collect::<Option<Vec<_>>>() else {
                return bad(format!("a part of the state of {} is missing", p.name));
            };
            let Some(steps) = tensors.pop().and_then(|t| number_of_steps(&t)) else {
                return bad(format!("step.{} is not a number of steps", p.name));
            };
            memory.push(Some(Memory { steps, slots: tensors }));
        }
        self.memory = memory;
        Ok(())
    }

    /// How many updates a parameter has had.
    pub fn steps(&self, id: ParamId) -> u64 {
        self.memory.get(id.index()).and_then(Option::as_ref).map_or(0, |m| m.steps)
    }
}

/// The number of steps that [`Optimizer::state`] wrote as two words.
fn number_of_steps<E: Element>(words: &Tensor<E>) -> Option<u64> {
    let word = |x: E| Some(x.to_f64()).filter(|x| x.fract() == 0.0 && (0.0..WORD as f64).contains(x));
    let (low, high) = (word(words.data()[0])?, word(words.data()[1])?);
    Some(low as u64 + WORD * high as u64)
}

/// One task: a run of one parameter's elements and all that belongs to it.
enum Run<'a, E> {
    Adam { p: &'a mut [E], g: &'a [E], m: &'a mut [E], v: &'a mut [E], factors: update::Adam<E> },
    Sgd { p: &'a mut [E], g: &'a [E], m: Option<&'a mut [E]>, factors: update::Sgd<E> },
}

impl<E: Element> Run<'_, E> {
    fn update(self) {
        match self {
            Self::Adam { p, g, m, v, factors } => update::adam(p, g, m, v, factors),
            Self::Sgd { p, g, m: Some(m), factors } => update::sgd_momentum(p, g, m, factors),
            Self::Sgd { p, g, m: None, factors } => update::sgd(p, g, factors),
        }
    }
}

/// Cuts one parameter's update into runs.
fn cut<'a, E: Element>(
    runs: &mut Vec<Run<'a, E>>,
    method: Method,
    p: &'a mut [E],
    g: &'a [E],
    memory: &'a mut Memory<E>,
    hyper: Hyper,
    scale: f64,
) {
    let pieces = p.chunks_mut(RUN).zip(g.chunks(RUN));
    let decay = hyper.weight_decay;
    match method {
        Method::AdamW { betas, eps } | Method::Adam { betas, eps } => {
            let decoupled = matches!(method, Method::AdamW { .. });
            let t = memory.steps as f64;
            let factors = update::Adam {
                scale: E::of(scale),
                keep: if decoupled { E::of(1.0 - hyper.lr * decay) } else { E::ONE },
                l2: if decoupled { E::ZERO } else { E::of(decay) },
                beta2: E::of(betas.1),
                fresh1: E::of(1.0 - betas.0),
                fresh2: E::of(1.0 - betas.1),
                rate: E::of(hyper.lr / (1.0 - betas.0.powf(t))),
                correction: E::of((1.0 - betas.1.powf(t)).sqrt()),
                eps: E::of(eps),
            };
            let [m, v] = &mut memory.slots[..] else { unreachable!("Adam keeps two moments") };
            let moments = m.data_mut().chunks_mut(RUN).zip(v.data_mut().chunks_mut(RUN));
            runs.extend(pieces.zip(moments).map(|((p, g), (m, v))| Run::Adam { p, g, m, v, factors }));
        }
        Method::Sgd { momentum, nesterov } => {
            let factors = update::Sgd {
                scale: E::of(scale),
                l2: E::of(decay),
                momentum: E::of(momentum),
                nesterov,
                rate: E::of(hyper.lr),
            };
            match &mut memory.slots[..] {
                [m] => {
                    let moments = m.data_mut().chunks_mut(RUN);
                    runs.extend(pieces.zip(moments).map(|((p, g), m)| Run::Sgd { p, g, m: Some(m), factors }));
                }
                _ => runs.extend(pieces.map(|(p, g)| Run::Sgd { p, g, m: None, factors })),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Tape, Var, ops, with_threads};

    /// Gradients that are the given constants; None: the loss does not depend
    /// on that parameter.
    fn gradients<E: Element>(params: &Params<E>, constants: &[Option<Tensor<E>>]) -> Result<Gradients<E>> {
        let tape = Tape::new();
        let mut total = None;
        for ((id, _), c) in params.iter().zip(constants) {
            let Some(c) = c else { continue };
            let y = ops::sum(&tape, &ops::mul(&tape, &tape.param(params, id), &Var::constant(c.clone()))?)?;
            total = Some(match total {
                None => y,
                Some(t) => ops::add(&tape, &t, &y)?,
            });
        }
        total.map_or_else(|| Ok(Gradients::none()), |t| tape.backward(&t))
    }

    fn tensor<E: Element>(len: usize, f: impl Fn(usize) -> f64) -> Tensor<E> {
        let mut t = Tensor::any(&[len]);
        for (i, x) in t.data_mut().iter_mut().enumerate() {
            *x = E::of(f(i));
        }
        t
    }

    fn start<E: Element>() -> Result<Params<E>> {
        let mut params = Params::new();
        params.insert("p", tensor(6, |i| (i * 5 % 7) as f64 * 0.3 - 1.0))?;
        params.insert("q", tensor(3, |i| (i as f64 - 1.0) * 0.5))?;
        Ok(params)
    }

    /// The same five steps that the reference made.
    fn steps<E: Element>(
        o: &mut Optimizer<E>,
        params: &mut Params<E>,
        hyper: Hyper,
        which: std::ops::Range<usize>,
    ) -> Result<()> {
        for t in which {
            let p = params.iter().next().map(|(_, p)| p.value.clone()).expect("p");
            let gp = tensor(6, |i| ((i * 3 + t * 2) % 5) as f64 * 0.2 - 0.4 + p.data()[i].to_f64() * 0.1);
            let gq = (t != 1).then(|| tensor(3, |i| ((i + t) % 3) as f64 * 0.7 - 0.5));
            let g = gradients(params, &[Some(gp), gq])?;
            o.step(params, &g, &[hyper; 2], 1.0)?;
        }
        Ok(())
    }

    fn values<E: Element>(params: &Params<E>) -> Vec<f64> {
        params.iter().flat_map(|(_, p)| p.value.data().iter().map(|x| x.to_f64())).collect()
    }

    /// Method, learning rate, weight decay, and the parameters after 5 steps
    /// of torch.optim.{AdamW, Adam, SGD} in float64; the second parameter has
    /// no gradient (grad is None) in the second step.
    const GOLDEN: [(Method, f64, f64, [f64; 9]); 5] = [
        (
            Method::ADAM_W,
            0.03,
            0.1,
            [
                -0.906147723204015,
                0.456726530034880,
                -0.042479160302056,
                -0.708323994785233,
                0.695518001336942,
                0.237566593768246,
                -0.474129213921686,
                -0.027021554009211,
                0.398891423111802,
            ],
        ),
        (
            Method::Adam { betas: (0.8, 0.95), eps: 1e-6 },
            0.03,
            0.1,
            [
                -0.903068390180394,
                0.446184644046850,
                -0.044164618012009,
                -0.685856318186034,
                0.692626527967313,
                0.225806589967660,
                -0.475141396630138,
                -0.027981481898206,
                0.404761279706336,
            ],
        ),
        (
            Method::Sgd { momentum: 0.0, nesterov: false },
            0.1,
            0.01,
            [
                -0.947272775418309,
                0.473098434469155,
                -0.095707655871575,
                -0.661261748376404,
                0.758045363675159,
                0.188163340234430,
                -0.508022938050500,
                -0.080020009980000,
                0.348402708090500,
            ],
        ),
        (
            Method::Sgd { momentum: 0.9, nesterov: false },
            0.1,
            0.01,
            [
                -0.791747515929909,
                0.429451672724954,
                -0.007818626028335,
                -0.668729993785724,
                0.609278163873239,
                0.239211602019950,
                -0.492591716700500,
                -0.061269463980000,
                0.011750578740500,
            ],
        ),
        (
            Method::Sgd { momentum: 0.9, nesterov: true },
            0.1,
            0.01,
            [
                -0.767914334823572,
                0.411281373414782,
                -0.016344023195627,
                -0.631100235262475,
                0.592571094532319,
                0.219700365979400,
                -0.501473537548971,
                -0.135186697775358,
                -0.089928718391745,
            ],
        ),
    ];

    #[test]
    fn five_steps_end_where_pytorchs_end() -> Result<()> {
        for (method, lr, weight_decay, want) in GOLDEN {
            let hyper = Hyper { lr, weight_decay };
            let (mut wide, mut narrow) = (start::<f64>()?, start::<f32>()?);
            steps(&mut Optimizer::new(method)?, &mut wide, hyper, 0..5)?;
            steps(&mut Optimizer::new(method)?, &mut narrow, hyper, 0..5)?;
            for ((w, n), want) in values(&wide).into_iter().zip(values(&narrow)).zip(want) {
                assert!((w - want).abs() < 1e-13, "{method:?}: {w} is not {want}");
                assert!((n - want).abs() < 1e-6, "{method:?} in f32: {n} is not {want}");
            }
        }
        Ok(())
    }

    #[test]
    fn resuming_from_the_state_gives_the_same_bits() -> Result<()> {
        for (method, lr, weight_decay, _) in GOLDEN {
            let hyper = Hyper { lr, weight_decay };
            let (mut through, mut params) = (start::<f32>()?, start::<f32>()?);
            steps(&mut Optimizer::new(method)?, &mut through, hyper, 0..5)?;
            let mut first = Optimizer::new(method)?;
            steps(&mut first, &mut params, hyper, 0..2)?;
            let mut second = Optimizer::new(method)?;
            second.load_state(&params, &first.state(&params))?;
            let q = params.id("q").expect("there");
            assert_eq!(second.steps(q), 1);
            steps(&mut second, &mut params, hyper, 2..5)?;
            assert_eq!(values(&through), values(&params), "{method:?}");
        }
        Ok(())
    }

    #[test]
    fn a_long_run_keeps_its_number_of_steps() -> Result<()> {
        let mut params = Params::<f32>::new();
        let id = params.insert("w", Tensor::zeros(&[1]))?;
        let mut o = Optimizer::<f32>::new(Method::ADAM_W)?;
        o.memory = vec![Some(Memory { steps: (1 << 30) + 12_345, slots: vec![Tensor::zeros(&[1]); 2] })];
        let mut other = Optimizer::new(Method::ADAM_W)?;
        other.load_state(&params, &o.state(&params))?;
        assert_eq!(other.steps(id), (1 << 30) + 12_345);
        Ok(())
    }

    #[test]
    fn scale_and_hyper_act_on_each_parameter() -> Result<()> {
        let mut params = start::<f64>()?;
        let before = values(&params);
        let g = gradients(&params, &[Some(tensor(6, |_| 1.0)), Some(tensor(3, |_| 1.0))])?;
        let hyper = [Hyper { lr: 0.1, weight_decay: 0.0 }, Hyper { lr: 0.2, weight_decay: 0.0 }];
        Optimizer::new(Method::Sgd { momentum: 0.0, nesterov: false })?.step(&mut params, &g, &hyper, 0.5)?;
        for (i, (a, b)) in before.iter().zip(values(&params)).enumerate() {
            assert!((a - b - if i < 6 { 0.05 } else { 0.1 }).abs() < 1e-15);
        }
        Ok(())
    }

    #[test]
    fn frozen_parameters_and_those_without_a_gradient_stay() -> Result<()> {
        let mut params = start::<f64>()?;
        let before = values(&params);
        let g = gradients(&params, &[Some(tensor(6, |_| 1.0)), None])?;
        let p = params.id("p").expect("there");
        params.get_mut(p).trainable = false;
        let mut o = Optimizer::new(Method::ADAM_W)?;
        o.step(&mut params, &g, &[Hyper { lr: 0.1, weight_decay: 0.1 }; 2], 1.0)?;
        assert_eq!(values(&params), before);
        assert!(o.state(&params).is_empty());
        Ok(())
    }

    #[test]
    fn threads_do_not_change_a_bit() -> Result<()> {
        let run = |threads| -> Result<_> {
            with_threads(threads, || {
                let mut params = Params::<f32>::new();
                params.insert("a", crate::check::random(&[301, 203], "a").cast())?;
                params.insert("b", crate::check::random(&[5], "b").cast())?;
                let g: Vec<_> = params.iter().map(|(_, p)| Some(p.value.clone())).collect();
                let g = gradients(&params, &g)?;
                let mut o = Optimizer::new(Method::ADAM_W)?;
                for _ in 0..3 {
                    o.step(&mut params, &g, &[Hyper { lr: 0.01, weight_decay: 0.1 }; 2], 0.7)?;
                }
                Ok(values(&params))
            })
            .expect("threads")
        };
        assert_eq!(run(1)?, run(4)?);
        Ok(())
    }

    #[test]
    fn what_does_not_fit_is_refused_and_changes_nothing() -> Result<()> {
        let mut params = start::<f32>()?;
        let before = values(&params);
        let g = gradients(&params, &[Some(tensor(6, |_| 1.0)), None])?;
        let mut o = Optimizer::new(Method::ADAM_W)?;
        let hyper = Hyper { lr: 0.1, weight_decay: 0.0 };
        assert!(o.step(&mut params, &g, &[hyper], 1.0).is_err());
        let mut other = Params::new();
        other.insert("p", Tensor::zeros(&[5]))?;
        assert!(o.step(&mut other, &g, &[hyper], 1.0).is_err());
        assert!(o.step(&mut Params::new(), &g, &[], 1.0).is_err());
        assert_eq!(values(&params), before);
        o.step(&mut params, &g, &[hyper; 2], 1.0)?;
        let state = o.state(&params);
        let mut fresh = Optimizer::new(Method::ADAM_W)?;
        assert!(fresh.load_state(&params, &state[..2]).is_err());
        for (name, dims) in [("exp_avg.other", 6), ("exp_avg.p", 5), ("momentum_buffer.p", 6), ("exp_avg", 6)] {
            assert!(fresh.load_state(&params, &[(name.into(), Tensor::zeros(&[dims]))]).is_err(), "{name}");
        }
        for steps in [[0.5, 0.0], [-1.0, 0.0], [f32::NAN, 0.0], [0.0, 1e30]] {
            let mut bad = state.clone();
            bad[2].1 = Tensor::from_slice(&[2], &steps)?;
            assert!(fresh.load_state(&params, &bad).is_err(), "{steps:?}");
        }
        assert!(fresh.state(&params).is_empty());
        Ok(())
    }

    #[test]
    fn impossible_constants_are_refused() {
        for method in [
            Method::AdamW { betas: (1.0, 0.9), eps: 1e-8 },
            Method::Adam { betas: (0.9, -0.1), eps: 1e-8 },
            Method::Adam { betas: (0.9, 0.9), eps: f64::NAN },
            Method::Sgd { momentum: 1.0, nesterov: false },
            Method::Sgd { momentum: 0.0, nesterov: true },
        ] {
            assert!(Optimizer::<f32>::new(method).is_err(), "{method:?}");
        }
    }
}
