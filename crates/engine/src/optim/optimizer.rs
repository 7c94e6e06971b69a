//! AdamW, Adam and stochastic gradient descent.

use super::rows::{RowMoments, SharedMoments};
use super::update::{self, Factors};
use crate::row_gradient::RowGradient;
use crate::tape::Gradient;
use crate::{Buffer, Element, EngineError, Gradients, ParamId, Params, Result, Shape, Tensor};
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
    slots: Slots<E>,
}

#[derive(Debug, Clone)]
enum Slots<E: Element> {
    Whole(Vec<Tensor<E>>),
    /// Of a table of which few rows ever had a gradient.
    Rows(RowMoments<E>),
}

impl<E: Element> Slots<E> {
    fn new(count: usize, gradient: &Gradient<E>) -> Self {
        let shape = gradient.shape();
        match gradient {
            Gradient::Whole(_) => Self::Whole(vec![Tensor::zeros(shape.dims()); count]),
            Gradient::Rows(_) => Self::Rows(RowMoments::new(shape.rows(), shape.cols(), count)),
        }
    }

    /// Each as a tensor of the parameter's shape.
    fn whole(&self, count: usize, shape: Shape) -> Vec<Tensor<E>> {
        match self {
            Self::Whole(slots) => slots.clone(),
            Self::Rows(rows) => {
                let slot = |at| {
                    let mut whole = Tensor::any(shape.dims());
                    rows.write_out(at, whole.data_mut());
                    whole
                };
                (0..count).map(slot).collect()
            }
        }
    }

    /// What tensors of the parameter's shape say.
    fn of_whole(slots: Vec<Tensor<E>>, shape: Shape) -> Self {
        let data: Vec<&[E]> = slots.iter().map(Tensor::data).collect();
        let few = if shape.dims().len() == 2 { RowMoments::of_whole(shape.rows(), shape.cols(), &data) } else { None };
        few.map_or_else(|| Self::Whole(slots), Self::Rows)
    }
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
        for (id, g) in gradients.kept() {
            if id.index() >= params.len() || g.shape() != params.get(id).value.shape() {
                let expected =
                    if id.index() < params.len() { params.get(id).value.shape().to_string() } else { "none".into() };
                return Err(EngineError::shape("optimizer", "gradient", expected, g.shape()));
            }
        }
        self.memory.resize_with(params.len(), || None);
        let method = self.method;
        let count = method.slots().len();
        let widest = gradients.kept().map(|(_, g)| g.shape().cols()).max().unwrap_or(0);
        let nothing = Buffer::zeros(widest);
        let mut runs = Vec::new();
        for (((id, p), memory), hyper) in params.iter_mut().zip(&mut self.memory).zip(hyper) {
            let Some(g) = gradients.kept_of(id).filter(|_| p.trainable) else { continue };
            let memory = memory.get_or_insert_with(|| Memory { steps: 0, slots: Slots::new(count, g) });
            memory.steps += 1;
            let factors = factors(method, memory.steps, *hyper, scale);
            let update = Update { p: p.value.data_mut(), factors, nothing: &nothing };
            update.cut(&mut runs, g, &mut memory.slots, count);
        }
        runs.into_par_iter().for_each(|run| run());
        Ok(())
    }

    /// Everything remembered, as tensors named `slot.parameter`:
    /// `exp_avg.head.weight`, `step.head.weight` (two numbers: the steps
    /// modulo 2²⁰ and the rest of them).
    pub fn state(&self, params: &Params<E>) -> Vec<(String, Tensor<E>)> {
        let mut out = Vec::new();
        for ((_, p), memory) in params.iter().zip(&self.memory) {
            let Some(memory) = memory else { continue };
            let slots = self.method.slots();
            for (slot, t) in slots.iter().zip(memory.slots.whole(slots.len(), p.value.shape())) {
                out.push((format!("{slot}.{}", p.name), t));
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
            memory.push(Some(Memory { steps, slots: Slots::of_whole(tensors, p.value.shape()) }));
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

/// The rule of a method for one parameter at its `step`-th step.
fn factors<E: Element>(method: Method, step: u64, hyper: Hyper, scale: f64) -> Factors<E> {
    let decay = hyper.weight_decay;
    match method {
        Method::AdamW { betas, eps } | Method::Adam { betas, eps } => {
            let decoupled = matches!(method, Method::AdamW { .. });
            let t = step as f64;
            Factors::Adam(update::Adam {
                scale: E::of(scale),
                keep: if decoupled { E::of(1.0 - hyper.lr * decay) } else { E::ONE },
                l2: if decoupled { E::ZERO } else { E::of(decay) },
                beta2: E::of(betas.1),
                fresh1: E::of(1.0 - betas.0),
                fresh2: E::of(1.0 - betas.1),
                rate: E::of(hyper.lr / (1.0 - betas.0.powf(t))),
                correction: E::of((1.0 - betas.1.powf(t)).sqrt()),
                eps: E::of(eps),
            })
        }
        Method::Sgd { momentum, nesterov } => Factors::Sgd(update::Sgd {
            scale: E::of(scale),
            l2: E::of(decay),
            momentum: E::of(momentum),
            nesterov,
            rate: E::of(hyper.lr),
        }),
    }
}

/// One task: updates a run of one parameter's elements.
type Run<'a> = Box<dyn FnOnce() + Send + 'a>;

/// The update of one parameter.
struct Update<'a, E: Element> {
    p: &'a mut [E],
    factors: Factors<E>,
    /// Zeros, at least a row of them.
    nothing: &'a [E],
}

impl<'a, E: Element> Update<'a, E> {
    /// Cuts it into runs.
    fn cut(self, runs: &mut Vec<Run<'a>>, g: &'a Gradient<E>, slots: &'a mut Slots<E>, count: usize) {
        let shape = g.shape();
        let full = matches!(slots, Slots::Rows(rows) if rows.is_full());
        let all = full || !self.factors.spares_untouched() || matches!(g, Gradient::Whole(_));
        if all && matches!(slots, Slots::Rows(_)) {
            *slots = Slots::Whole(slots.whole(count, shape));
        }
        match (g, slots) {
            (Gradient::Whole(g), Slots::Whole(slots)) => self.cut_whole(runs, g.data(), slots),
            (Gradient::Rows(g), Slots::Whole(slots)) => {
                self.cut_rows(runs, g, SharedMoments::whole(slots.iter_mut().map(Tensor::data_mut)));
            }
            (Gradient::Rows(g), Slots::Rows(rows)) => {
                rows.touch(g.index());
                self.cut_rows(runs, g, rows.shared());
            }
            (Gradient::Whole(_), Slots::Rows(_)) => unreachable!("made whole above"),
        }
    }

    fn cut_whole(self, runs: &mut Vec<Run<'a>>, g: &'a [E], slots: &'a mut [Tensor<E>]) {
        let factors = self.factors;
        let mut moments: Vec<_> = slots.iter_mut().map(|slot| slot.data_mut().chunks_mut(RUN)).collect();
        for (p, g) in self.p.chunks_mut(RUN).zip(g.chunks(RUN)) {
            let moments: Vec<&mut [E]> = moments.iter_mut().filter_map(Iterator::next).collect();
            runs.push(Box::new(move || factors.update(p, g, moments.into_iter())));
        }
    }

    fn cut_rows(self, runs: &mut Vec<Run<'a>>, g: &'a RowGradient<E>, moments: SharedMoments<'a, E>) {
        let (cols, factors) = (g.shape().cols(), self.factors);
        let (rows, nothing) = (RUN.div_ceil(cols), &self.nothing[..cols]);
        let moments = std::sync::Arc::new(moments);
        for (i, p) in self.p.chunks_mut(rows * cols).enumerate() {
            let moments = moments.clone();
            // SAFETY: each run has rows of its own, and all lie in the table.
            runs.push(Box::new(move || unsafe { moments.update(i * rows, p, g, nothing, factors) }));
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
        o.memory = vec![Some(Memory { steps: (1 << 30) + 12_345, slots: Slots::Whole(vec![Tensor::zeros(&[1]); 2]) })];
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

    /// Steps of a table that is read at few places, some of them with all of
    /// its gradient there: the values and the state after them.
    fn table_steps(method: Method, decay: f64, by_rows: bool, threads: usize) -> (Vec<f32>, Vec<(String, Vec<f32>)>) {
        let mut params = Params::<f32>::new();
        let id = params.insert("table", crate::check::random(&[4100, 16], "table").cast()).expect("new");
        let mut o = Optimizer::new(method).expect("possible");
        for step in 0..6_u32 {
            let tape = Tape::new();
            let table = tape.param(&params, id);
            let ids: Vec<u32> = (0..7).map(|i| (i * i * 97 + step % 4 * 1000) % 4100).collect();
            let read = ops::embedding(&tape, &table, &ids).expect("in range");
            let c = Var::constant(crate::check::random(&[7, 16], &format!("c{step}")).cast());
            let mut loss = ops::sum(&tape, &ops::mul(&tape, &read, &c).expect("fits")).expect("fits");
            if !by_rows {
                let none = ops::mul(&tape, &table, &Var::constant(Tensor::zeros(&[4100, 16]))).expect("fits");
                loss = ops::add(&tape, &loss, &ops::sum(&tape, &none).expect("fits")).expect("fits");
            }
            let g = tape.backward(&loss).expect("recorded");
            assert_eq!(g.rows_of(id).is_some(), by_rows);
            let hyper = [Hyper { lr: 0.01, weight_decay: decay }];
            with_threads(threads, || o.step(&mut params, &g, &hyper, 0.5)).expect("threads").expect("fits");
            if step == 3 {
                // Out and in again.
                let state = o.state(&params);
                o = Optimizer::new(method).expect("possible");
                o.load_state(&params, &state).expect("its own");
            }
        }
        let state = o.state(&params).into_iter().map(|(name, t)| (name, t.data().to_vec())).collect();
        (params.get(id).value.data().to_vec(), state)
    }

    #[test]
    fn rows_that_were_never_read_cost_nothing_and_change_no_bit() {
        let momentum = Method::Sgd { momentum: 0.9, nesterov: true };
        let plain = Method::Sgd { momentum: 0.0, nesterov: false };
        let l2 = Method::Adam { betas: (0.9, 0.99), eps: 1e-8 };
        for method in [Method::ADAM_W, l2, momentum, plain] {
            for decay in [0.0, 0.1] {
                let rows = table_steps(method, decay, true, 1);
                assert!(rows == table_steps(method, decay, true, 3), "{method:?}, threads");
                let whole = table_steps(method, decay, false, 2);
                assert!(rows == whole, "{method:?} with a decay of {decay}");
            }
        }
    }

    #[test]
    fn moments_of_few_rows_are_kept_by_row() {
        let mut params = Params::<f32>::new();
        let id = params.insert("table", Tensor::full(&[5000, 16], 1.0)).expect("new");
        let mut o = Optimizer::new(Method::ADAM_W).expect("possible");
        let step = |o: &mut Optimizer<f32>, params: &mut Params<f32>, ids: std::ops::Range<u32>| {
            let tape = Tape::new();
            let ids: Vec<u32> = ids.collect();
            let read = ops::embedding(&tape, &tape.param(params, id), &ids).expect("in range");
            let loss = ops::sum(&tape, &read).expect("fits");
            let g = tape.backward(&loss).expect("recorded");
            o.step(params, &g, &[Hyper { lr: 0.1, weight_decay: 0.0 }], 1.0).expect("fits");
        };
        let by_row = |o: &Optimizer<f32>| matches!(&o.memory[0].as_ref().expect("stepped").slots, Slots::Rows(_));
        step(&mut o, &mut params, 0..2000);
        assert!(by_row(&o));
        assert_eq!(params.get(id).value.data()[2000 * 16..], [1.0; 3000 * 16]);
        assert!(params.get(id).value.data()[..2000 * 16].iter().all(|x| *x < 1.0));
        // Most rows by now: all of them.
        step(&mut o, &mut params, 1500..3500);
        step(&mut o, &mut params, 0..10);
        assert!(!by_row(&o));
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
