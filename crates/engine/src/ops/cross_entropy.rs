//! Cross-entropy over classes, from logits.

use super::matrix;
use crate::parallel::{rows_mut, rows_mut_for};
use crate::simd::{max1, sum1, sum2, vectorised};
use crate::{Element, EngineError, Result, Tape, Tensor, Var};

/// Settings of [`cross_entropy`].
#[derive(Debug, Clone, PartialEq, Default)]
pub struct CrossEntropy {
    /// One weight for each class; none: all 1.
    pub class_weights: Option<Vec<f64>>,
    /// The share ε of the target spread evenly over all classes, in [0, 1].
    pub label_smoothing: f64,
}

/// The cross-entropy of `logits` `[rows, classes]` with one target class for
/// each row; a row whose target is None does not count. The result is `[1]`.
///
/// With class weights w and smoothing ε over C classes it is, as in PyTorch,
/// `Σᵢ [(1 − ε) w(yᵢ) (−log pᵢ(yᵢ)) + ε/C Σ꜀ w(c) (−log pᵢ(c))] / Σᵢ w(yᵢ)`.
/// When nothing counts the loss is 0 and so is its gradient.
///
/// # Errors
/// When the shapes do not fit, a target is not below the number of classes
/// (the error names the row), or a setting is out of range.
pub fn cross_entropy<E: Element>(
    tape: &Tape<E>,
    logits: &Var<E>,
    targets: &[Option<u32>],
    settings: &CrossEntropy,
) -> Result<Var<E>> {
    const OP: &str = "cross_entropy";
    let (rows, classes) = matrix(OP, "logits", logits)?;
    check(OP, rows, classes, targets, settings)?;
    let weights = settings.class_weights.clone().unwrap_or_else(|| vec![1.0; classes]);
    let counted: f64 = targets.iter().flatten().map(|&y| weights[y as usize]).sum();
    let plan = Plan {
        weights: weights.iter().map(|&w| E::of(w)).collect(),
        weight_sum: E::of(weights.iter().sum()),
        on_target: E::of(1.0 - settings.label_smoothing),
        spread: E::of(settings.label_smoothing / classes.max(1) as f64),
    };
    let statistics = statistics(logits.data(), rows, classes);
    let x = logits.data();
    let mut losses = vec![E::ZERO; rows];
    rows_mut_for(&mut losses, 1, classes, |first, part| {
        for (i, loss) in part.iter_mut().enumerate() {
            let r = first + i;
            if let Some(y) = targets[r] {
                *loss = plan.loss(&x[r * classes..][..classes], y as usize, &statistics.data()[2 * r..]);
            }
        }
    });
    let divisor = if counted > 0.0 { counted } else { 1.0 };
    let total: f64 = losses.iter().map(|l| l.to_f64()).sum();
    let value = Tensor::full(&[1], E::of(if counted > 0.0 { total / divisor } else { 0.0 }));
    let (h, x) = (logits.handle(), logits.value().clone());
    let targets = if tape.records(&[logits]) { targets.to_vec() } else { Vec::new() };
    Ok(tape.record(value, &[logits], move |d, g| {
        let factor = if counted > 0.0 { d.data()[0] / E::of(divisor) } else { E::ZERO };
        let (x, s) = (x.data(), statistics.data());
        let mut dx = Tensor::any(&[rows, classes]);
        rows_mut(dx.data_mut(), classes, |first, part| {
            for (i, out) in part.chunks_exact_mut(classes).enumerate() {
                let r = first + i;
                match targets[r] {
                    None => out.fill(E::ZERO),
                    Some(y) => plan.gradient(out, &x[r * classes..][..classes], y as usize, &s[2 * r..], factor),
                }
            }
        });
        g.add(h, dx);
        Ok(())
    }))
}

pub(super) fn check(
    op: &'static str,
    rows: usize,
    classes: usize,
    targets: &[Option<u32>],
    settings: &CrossEntropy,
) -> Result<()> {
    if targets.len() != rows {
        return Err(EngineError::setting(op, format!("{} targets for {rows} rows", targets.len())));
    }
    if let Some(position) = targets.iter().position(|t| t.is_some_and(|y| y as usize >= classes)) {
        let index = targets[position].unwrap_or_default() as usize;
        return Err(EngineError::Index { op, index, position, limit: classes });
    }
    if let Some(w) = &settings.class_weights {
        if w.len() != classes {
            return Err(EngineError::setting(op, format!("{} class weights for {classes} classes", w.len())));
        }
        if let Some(bad) = w.iter().find(|w| !(w.is_finite() && **w >= 0.0)) {
            return Err(EngineError::setting(op, format!("class weight {bad} is not a number from 0 on")));
        }
    }
    if !(0.0..=1.0).contains(&settings.label_smoothing) {
        return Err(EngineError::setting(op, format!("label smoothing {} is not in [0, 1]", settings.label_smoothing)));
    }
    Ok(())
}

/// What all rows share.
struct Plan<E> {
    weights: Vec<E>,
    weight_sum: E,
    on_target: E,
    spread: E,
}

impl<E: Element> Plan<E> {
    fn loss(&self, x: &[E], y: usize, statistics: &[E]) -> E {
        let (largest, log_sum) = (statistics[0], statistics[1]);
        let mut loss = self.on_target * self.weights[y] * (log_sum + (largest - x[y]));
        if self.spread > E::ZERO {
            loss += self.spread * weighted_losses(x, &self.weights, largest, log_sum);
        }
        loss
    }

    fn gradient(&self, out: &mut [E], x: &[E], y: usize, statistics: &[E], factor: E) {
        let on_target = self.on_target * self.weights[y];
        probabilities(out, x, statistics[0], statistics[1], factor * (on_target + self.spread * self.weight_sum));
        if self.spread > E::ZERO {
            super::loops::add_scaled_row(out, &self.weights, -(factor * self.spread));
        }
        out[y] -= factor * on_target;
    }
}

/// The mean cross-entropy of `logits` `[rows, classes]` with target
/// probabilities of the same number (mixup, distillation):
/// `−1/rows Σᵢ Σ꜀ tᵢ(c) log pᵢ(c)`, `[1]`; 0 of no rows.
///
/// No gradient flows into the targets.
///
/// # Errors
/// When the shapes do not fit.
pub fn soft_cross_entropy<E: Element>(tape: &Tape<E>, logits: &Var<E>, targets: &[E]) -> Result<Var<E>> {
    const OP: &str = "soft_cross_entropy";
    let (rows, classes) = matrix(OP, "logits", logits)?;
    if targets.len() != rows * classes {
        let problem = format!("{} target probabilities for logits of shape {}", targets.len(), logits.shape());
        return Err(EngineError::setting(OP, problem));
    }
    let statistics = statistics(logits.data(), rows, classes);
    let x = logits.data();
    let mut losses = vec![E::ZERO; rows];
    rows_mut_for(&mut losses, 1, classes, |first, part| {
        for (i, loss) in part.iter_mut().enumerate() {
            let (r, s) = (first + i, &statistics.data()[2 * (first + i)..]);
            let pairs = targets[r * classes..][..classes].iter().zip(&x[r * classes..][..classes]);
            // A class that is not a target adds nothing, however unlikely it is.
            *loss = pairs.filter(|(t, _)| **t != E::ZERO).fold(E::ZERO, |sum, (t, v)| sum + *t * (s[1] + (s[0] - *v)));
        }
    });
    let divisor = rows.max(1) as f64;
    let value = Tensor::full(&[1], E::of(losses.iter().map(|l| l.to_f64()).sum::<f64>() / divisor));
    let (h, x) = (logits.handle(), logits.value().clone());
    let targets = if tape.records(&[logits]) { targets.to_vec() } else { Vec::new() };
    Ok(tape.record(value, &[logits], move |d, g| {
        let factor = d.data()[0] / E::of(divisor);
        let (x, s) = (x.data(), statistics.data());
        let mut dx = Tensor::any(&[rows, classes]);
        rows_mut(dx.data_mut(), classes, |first, part| {
            for (i, out) in part.chunks_exact_mut(classes).enumerate() {
                let r = first + i;
                let targets = &targets[r * classes..][..classes];
                let total = targets.iter().fold(E::ZERO, |sum, t| sum + *t);
                probabilities(out, &x[r * classes..][..classes], s[2 * r], s[2 * r + 1], factor * total);
                super::loops::add_scaled_row(out, targets, -factor);
            }
        });
        g.add(h, dx);
        Ok(())
    }))
}

/// For each row the largest logit and log Σ exp of the differences to it:
/// `[rows, 2]`.
fn statistics<E: Element>(x: &[E], rows: usize, classes: usize) -> Tensor<E> {
    let mut out = Tensor::any(&[rows, 2]);
    rows_mut_for(out.data_mut(), 2, classes, |first, part| {
        for (i, s) in part.chunks_exact_mut(2).enumerate() {
            (s[0], s[1]) = row_statistics(&x[(first + i) * classes..][..classes]);
        }
    });
    out
}

vectorised! {
    fn row_statistics<E>(x: &[E]) -> (E, E) {
        let largest = max1(x);
        (largest, sum1(x, |v| (v - largest).exp()).ln())
    }
}
vectorised! {
    /// −Σ w · log softmax(x)
    fn weighted_losses<E>(x: &[E], weights: &[E], largest: E, log_sum: E) -> E {
        sum2(x, weights, |v, w| w * (log_sum + (largest - v)))
    }
}
vectorised! {
    /// out ← factor · softmax(x)
    fn probabilities<E>(out: &mut [E], x: &[E], largest: E, log_sum: E, factor: E) {
        for (o, v) in out.iter_mut().zip(x) {
            *o = ((*v - largest) - log_sum).exp() * factor;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::{gradients, random};
    use crate::with_threads;

    const GOLDEN: [f64; 4] =
        [2.974_261_450_289_891, 2.924_261_450_289_891, 3.052_653_245_789_007_7, 2.813_746_912_151_696_5];
    const GOLDEN_SOFT: f64 = 3.103_248_086_322_426_3;
    const TARGETS: [Option<u32>; 5] = [Some(2), None, Some(0), Some(3), Some(2)];

    fn variants() -> [CrossEntropy; 4] {
        let weights = Some(vec![0.5, 2.0, 1.5, 0.0]);
        [
            CrossEntropy::default(),
            CrossEntropy { label_smoothing: 0.1, ..Default::default() },
            CrossEntropy { class_weights: weights.clone(), label_smoothing: 0.0 },
            CrossEntropy { class_weights: weights, label_smoothing: 0.3 },
        ]
    }

    /// Fixed logits that the reference was given too.
    fn logits<E: Element>() -> Tensor<E> {
        let mut t = Tensor::any(&[5, 4]);
        for (i, x) in t.data_mut().iter_mut().enumerate() {
            *x = E::of((i * 7 % 11) as f64 * 0.5 - 2.0);
        }
        t
    }

    #[test]
    fn gradients_match_finite_differences() -> Result<()> {
        for s in variants() {
            gradients(&[random(&[5, 4], "x")], |t, v| cross_entropy(t, &v[0], &TARGETS, &s))?;
        }
        let soft: Vec<f64> = random(&[3, 5], "t").data().iter().map(|x| x.abs()).collect();
        gradients(&[random(&[3, 5], "x")], |t, v| soft_cross_entropy(t, &v[0], &soft))
    }

    #[test]
    fn values_are_those_of_pytorch() -> Result<()> {
        // x = ((torch.arange(20) * 7 % 11).double() * 0.5 - 2).reshape(5, 4)
        // F.cross_entropy(x, torch.tensor([2, -100, 0, 3, 2]), weight=w, label_smoothing=e)
        for (s, want) in variants().iter().zip(GOLDEN) {
            let wide = cross_entropy(&Tape::inference(), &Var::constant(logits::<f64>()), &TARGETS, s)?;
            assert!((wide.value().scalar()? - want).abs() < 1e-12, "{s:?}: {wide:?}");
            let narrow = cross_entropy(&Tape::inference(), &Var::constant(logits::<f32>()), &TARGETS, s)?;
            assert!((f64::from(narrow.value().scalar()?) - want).abs() < 1e-6, "{s:?}: {narrow:?}");
        }
        // F.cross_entropy(x, torch.softmax(x.flip(1), 1))
        let x = logits::<f64>();
        let mut targets = Vec::new();
        for r in x.data().chunks(4) {
            let sum: f64 = r.iter().map(|v| v.exp()).sum();
            targets.extend(r.iter().rev().map(|v| v.exp() / sum));
        }
        let soft = soft_cross_entropy(&Tape::inference(), &Var::constant(x), &targets)?;
        assert!((soft.value().scalar()? - GOLDEN_SOFT).abs() < 1e-12, "{soft:?}");
        Ok(())
    }

    #[test]
    fn far_logits_stay_finite_in_f32() -> Result<()> {
        let tape = Tape::<f32>::new();
        let x = tape.input(Tensor::from_slice(&[2, 3], &[1e4, -1e4, 0.0, -3e38, 3e38, 0.0])?);
        let y = cross_entropy(&tape, &x, &[Some(0), Some(1)], &CrossEntropy::default())?;
        assert_eq!(y.value().scalar()?, 0.0);
        let g = tape.backward(&y)?;
        assert!(g.of(&x).is_some_and(|t| t.data().iter().all(|v| v.abs() < 1e-30)));
        Ok(())
    }

    #[test]
    fn nothing_that_counts_is_zero_without_a_gradient() -> Result<()> {
        let none = CrossEntropy { class_weights: Some(vec![0.0, 1.0]), label_smoothing: 0.1 };
        for targets in [[None, None], [Some(0), None]] {
            let tape = Tape::<f32>::new();
            let x = tape.input(Tensor::full(&[2, 2], 1.0));
            let y = cross_entropy(&tape, &x, &targets, &none)?;
            assert_eq!(y.value().scalar()?, 0.0);
            let g = tape.backward(&y)?;
            assert_eq!(g.of(&x).map(|t| t.data().to_vec()), Some(vec![0.0; 4]));
        }
        let tape = Tape::<f32>::inference();
        let empty = Var::constant(Tensor::zeros(&[0, 3]));
        assert_eq!(cross_entropy(&tape, &empty, &[], &CrossEntropy::default())?.value().scalar()?, 0.0);
        assert_eq!(soft_cross_entropy(&tape, &empty, &[])?.value().scalar()?, 0.0);
        Ok(())
    }

    #[test]
    fn threads_do_not_change_a_bit() -> Result<()> {
        let x = random(&[601, 97], "x").cast::<f32>();
        let targets: Vec<_> = (0..601).map(|i| (i % 5 != 0).then_some(i * 13 % 97)).collect();
        let run = |threads| -> Result<_> {
            with_threads(threads, || {
                let tape = Tape::new();
                let x = tape.input(x.clone());
                let settings = CrossEntropy { label_smoothing: 0.1, ..Default::default() };
                let y = cross_entropy(&tape, &x, &targets, &settings)?;
                let g = tape.backward(&y)?;
                Ok((y.data().to_vec(), g.of(&x).map(|t| t.data().to_vec())))
            })
            .expect("threads")
        };
        assert_eq!(run(1)?, run(4)?);
        Ok(())
    }

    #[test]
    fn wrong_targets_and_settings_are_refused() {
        let tape = Tape::<f32>::new();
        let x = Var::constant(Tensor::zeros(&[2, 3]));
        let ask = |targets: &[Option<u32>], s: &CrossEntropy| {
            cross_entropy(&tape, &x, targets, s).map(|_| ()).unwrap_err().to_string()
        };
        let plain = CrossEntropy::default();
        assert_eq!(ask(&[None, Some(3)], &plain), "cross_entropy: index 3 at position 1 is not below 3");
        assert_eq!(ask(&[None], &plain), "cross_entropy: 1 targets for 2 rows");
        let short = CrossEntropy { class_weights: Some(vec![1.0]), label_smoothing: 0.0 };
        assert_eq!(ask(&[None, None], &short), "cross_entropy: 1 class weights for 3 classes");
        let negative = CrossEntropy { class_weights: Some(vec![1.0, -1.0, 1.0]), label_smoothing: 0.0 };
        assert!(ask(&[None, None], &negative).contains("-1"));
        let smooth = CrossEntropy { label_smoothing: 1.5, ..Default::default() };
        assert!(ask(&[None, None], &smooth).contains("1.5"));
        assert!(soft_cross_entropy(&tape, &x, &[0.5; 5]).is_err());
    }
}
