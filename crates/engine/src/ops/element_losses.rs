//! Losses that are means over elements: binary cross-entropy, squared error,
//! absolute error and Huber's.

use crate::parallel::{reduce_rows, rows_mut};
use crate::{Element, EngineError, Result, Tape, Tensor, Var};

/// The mean binary cross-entropy of logits with targets in [0, 1]: `[1]`.
///
/// `logits` is `[rows, labels]`, `targets` as many numbers; where `mask` is
/// given, only elements that are true in it count (0 if none does).
/// `pos_weight`, one for each label, multiplies the part of the loss that
/// belongs to the target: `−w y log σ(x) − (1 − y) log(1 − σ(x))`.
///
/// # Errors
/// When the numbers of elements do not fit, or a target that counts is not in
/// [0, 1] (the error names its position).
pub fn binary_cross_entropy<E: Element>(
    tape: &Tape<E>,
    logits: &Var<E>,
    targets: &[E],
    mask: Option<&[bool]>,
    pos_weight: Option<&[E]>,
) -> Result<Var<E>> {
    const OP: &str = "binary_cross_entropy";
    let (_, labels) = super::matrix(OP, "logits", logits)?;
    fits(OP, logits, targets, mask)?;
    let counts = |i: &usize| mask.is_none_or(|m| m[*i]);
    let wrong = |i: &usize| !(targets[*i] >= E::ZERO && targets[*i] <= E::ONE);
    if let Some(i) = (0..targets.len()).filter(counts).find(wrong) {
        return Err(EngineError::setting(OP, format!("target {:?} at position {i} is not in [0, 1]", targets[i])));
    }
    let weights = pos_weight.map_or_else(|| vec![E::ONE; labels], <[E]>::to_vec);
    if weights.len() != labels {
        return Err(EngineError::setting(OP, format!("{} positive weights for {labels} labels", weights.len())));
    }
    if let Some(w) = weights.iter().find(|w| !(w.is_finite() && **w >= E::ZERO)) {
        return Err(EngineError::setting(OP, format!("positive weight {w:?} is not a number from 0 on")));
    }
    let slopes = weights.clone();
    // −log σ(±x) = log(1 + e^−|x|) + max(∓x, 0): no exponential overflows and
    // nothing cancels.
    let loss = move |x: E, y: E, i: usize| {
        let common = log1p((-x.abs()).exp());
        let (missed, alarm) = (common + (-x).larger(E::ZERO), common + x.larger(E::ZERO));
        weights[i % labels] * y * missed + (E::ONE - y) * alarm
    };
    let slope = move |x: E, y: E, i: usize| {
        let (up, down) = (E::ONE / (E::ONE + (-x).exp()), E::ONE / (E::ONE + x.exp()));
        (E::ONE - y) * up - slopes[i % labels] * y * down
    };
    Ok(mean_of(tape, logits, targets, mask, loss, slope))
}

/// The mean squared error: `[1]`.
///
/// `x` has any shape, `targets` as many numbers; where `mask` is given, only
/// elements that are true in it count (0 if none does).
///
/// # Errors
/// When the numbers of elements do not fit.
pub fn mse<E: Element>(tape: &Tape<E>, x: &Var<E>, targets: &[E], mask: Option<&[bool]>) -> Result<Var<E>> {
    fits("mse", x, targets, mask)?;
    let loss = |x: E, y: E, _| (x - y) * (x - y);
    Ok(mean_of(tape, x, targets, mask, loss, |x, y, _| E::of(2.0) * (x - y)))
}

/// The mean absolute error: `[1]`. Where x is its target, the gradient is 0.
///
/// `x` has any shape, `targets` as many numbers; where `mask` is given, only
/// elements that are true in it count (0 if none does).
///
/// # Errors
/// When the numbers of elements do not fit.
pub fn mae<E: Element>(tape: &Tape<E>, x: &Var<E>, targets: &[E], mask: Option<&[bool]>) -> Result<Var<E>> {
    fits("mae", x, targets, mask)?;
    // Written so that NaN stays NaN.
    let slope = |x: E, y: E, _| {
        let e = x - y;
        match () {
            () if e > E::ZERO => E::ONE,
            () if e < E::ZERO => -E::ONE,
            () => e,
        }
    };
    Ok(mean_of(tape, x, targets, mask, |x: E, y: E, _| (x - y).abs(), slope))
}

/// The mean of Huber's loss: `[1]`. With e = x − target it is e²/2 up to
/// |e| = δ and δ(|e| − δ/2) beyond.
///
/// `x` has any shape, `targets` as many numbers; where `mask` is given, only
/// elements that are true in it count (0 if none does).
///
/// # Errors
/// When the numbers of elements do not fit or `delta` is not above 0.
pub fn huber<E: Element>(
    tape: &Tape<E>,
    x: &Var<E>,
    targets: &[E],
    mask: Option<&[bool]>,
    delta: f64,
) -> Result<Var<E>> {
    fits("huber", x, targets, mask)?;
    if !(delta.is_finite() && delta > 0.0) {
        return Err(EngineError::setting("huber", format!("delta {delta} is not a number above 0")));
    }
    let (delta, half) = (E::of(delta), E::of(0.5));
    let loss = move |x: E, y: E, _| {
        let e = (x - y).abs();
        if e <= delta { half * e * e } else { delta * (e - half * delta) }
    };
    // Written so that NaN stays NaN.
    let slope = move |x: E, y: E, _| {
        let e = x - y;
        match () {
            () if e > delta => delta,
            () if e < -delta => -delta,
            () => e,
        }
    };
    Ok(mean_of(tape, x, targets, mask, loss, slope))
}

/// ln(1 + e) for e in [0, 1], to the last few bits also where e is small.
fn log1p<E: Element>(e: E) -> E {
    let u = E::ONE + e;
    if u == E::ONE { e } else { u.ln() * e / (u - E::ONE) }
}

fn fits<E: Element>(op: &'static str, x: &Var<E>, targets: &[E], mask: Option<&[bool]>) -> Result<()> {
    let n = x.shape().len();
    if targets.len() != n {
        return Err(EngineError::setting(op, format!("{} targets for shape {}", targets.len(), x.shape())));
    }
    match mask {
        Some(m) if m.len() != n => {
            Err(EngineError::setting(op, format!("a mask of {} for shape {}", m.len(), x.shape())))
        }
        _ => Ok(()),
    }
}

/// The mean of `loss(x, target, position)` over the elements that count.
fn mean_of<E: Element>(
    tape: &Tape<E>,
    x: &Var<E>,
    targets: &[E],
    mask: Option<&[bool]>,
    loss: impl Fn(E, E, usize) -> E + Sync,
    slope: impl Fn(E, E, usize) -> E + Sync + 'static,
) -> Var<E> {
    let from = x.data();
    let mut total = [0.0_f64];
    reduce_rows(targets.len(), 1, &mut total, |first, end, part| {
        for i in first..end {
            if mask.is_none_or(|m| m[i]) {
                part[0] += loss(from[i], targets[i], i).to_f64();
            }
        }
    });
    let counted = mask.map_or(targets.len(), |m| m.iter().filter(|m| **m).count()).max(1);
    let value = Tensor::full(&[1], E::of(total[0] / counted as f64));
    let (h, x_value) = (x.handle(), x.value().clone());
    let (targets, mask) =
        if tape.records(&[x]) { (targets.to_vec(), mask.map(<[bool]>::to_vec)) } else { (vec![], None) };
    tape.record(value, &[x], move |d, g| {
        let factor = d.data()[0] / E::of(counted as f64);
        let mut dx = Tensor::any(x_value.dims());
        let from = x_value.data();
        rows_mut(dx.data_mut(), 1, |first, part| {
            for (i, o) in (first..).zip(part) {
                let counts = mask.as_ref().is_none_or(|m| m[i]);
                *o = if counts { slope(from[i], targets[i], i) * factor } else { E::ZERO };
            }
        });
        g.add(h, dx);
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::{gradients, random};
    use crate::with_threads;

    /// What the reference was given too.
    fn x<E: Element>() -> Var<E> {
        let mut t = Tensor::any(&[4, 3]);
        for (i, x) in t.data_mut().iter_mut().enumerate() {
            *x = E::of((i * 7 % 11) as f64 * 0.5 - 2.0);
        }
        Var::constant(t)
    }

    fn targets<E: Element>() -> Vec<E> {
        (0..12).map(|i| E::of(f64::from(i * 5 % 4) / 3.0)).collect()
    }

    fn mask() -> Vec<bool> {
        (0..12).map(|i| i % 5 != 0).collect()
    }

    #[test]
    fn gradients_match_finite_differences() -> Result<()> {
        let (input, y, m) = ([random(&[4, 3], "x")], targets::<f64>(), mask());
        let w = [0.5, 2.0, 3.0];
        gradients(&input, |t, v| binary_cross_entropy(t, &v[0], &y, None, None))?;
        gradients(&input, |t, v| binary_cross_entropy(t, &v[0], &y, Some(&m), Some(&w)))?;
        gradients(&input, |t, v| mse(t, &v[0], &y, None))?;
        gradients(&input, |t, v| mse(t, &v[0], &y, Some(&m)))?;
        gradients(&input, |t, v| mae(t, &v[0], &y, None))?;
        gradients(&input, |t, v| mae(t, &v[0], &y, Some(&m)))?;
        gradients(&input, |t, v| huber(t, &v[0], &y, None, 0.4))?;
        gradients(&input, |t, v| huber(t, &v[0], &y, Some(&m), 1.0))
    }

    fn golden<E: Element>(tolerance: f64) -> Result<()> {
        // x = ((arange(12) * 7 % 11) * 0.5 - 2).reshape(4, 3), y = ((arange(12) * 5 % 4) / 3).reshape(4, 3),
        // m = (arange(12) % 5 != 0).reshape(4, 3), w = [0.5, 2, 3]
        let (t, x, y, m) = (Tape::<E>::inference(), x::<E>(), targets::<E>(), mask());
        let w = [0.5, 2.0, 3.0].map(E::of);
        let known = [
            // F.binary_cross_entropy_with_logits(x, y)
            (binary_cross_entropy(&t, &x, &y, None, None)?, 0.834_353_794_354_222_1),
            // ... (x, y, pos_weight=w)
            (binary_cross_entropy(&t, &x, &y, None, Some(&w))?, 1.447_662_216_645_416_3),
            // ... (x, y, pos_weight=w, reduction="none")[m].mean()
            (binary_cross_entropy(&t, &x, &y, Some(&m), Some(&w))?, 1.618_630_052_804_267_9),
            // F.mse_loss(x, y), F.mse_loss(x[m], y[m])
            (mse(&t, &x, &y, None)?, 2.631_944_444_444_444_6),
            (mse(&t, &x, &y, Some(&m))?, 2.817_901_234_567_901_5),
            // F.l1_loss(x, y), F.l1_loss(x[m], y[m])
            (mae(&t, &x, &y, None)?, 1.486_111_111_111_111_4),
            (mae(&t, &x, &y, Some(&m))?, 1.537_037_037_037_037),
            // F.huber_loss(x, y, delta=1.0), ...(x[m], y[m], delta=1.0)
            (huber(&t, &x, &y, None, 1.0)?, 1.001_157_407_407_407_4),
            (huber(&t, &x, &y, Some(&m), 1.0)?, 1.050_925_925_925_925_8),
            // F.huber_loss(x, y, delta=0.3), ...(x[m], y[m], delta=0.3)
            (huber(&t, &x, &y, None, 0.3)?, 0.400_833_333_333_333_4),
            (huber(&t, &x, &y, Some(&m), 0.3)?, 0.416_111_111_111_111_1),
        ];
        for (i, (got, want)) in known.iter().enumerate() {
            assert!((got.value().scalar()?.to_f64() - want).abs() < tolerance, "case {i}: {got:?} is not {want}");
        }
        Ok(())
    }

    #[test]
    fn values_are_those_of_pytorch() -> Result<()> {
        golden::<f64>(1e-12)?;
        golden::<f32>(1e-6)
    }

    #[test]
    fn far_logits_keep_their_loss_and_gradient() -> Result<()> {
        let tape = Tape::<f32>::new();
        let x = tape.input(Tensor::from_slice(&[1, 4], &[-1e4, 1e4, -20.0, 1e30])?);
        let y = binary_cross_entropy(&tape, &x, &[1.0, 1.0, 0.0, 1.0], Some(&[true, true, true, true]), None)?;
        assert!((y.value().scalar()? - 2500.0).abs() < 1e-3);
        let g = tape.backward(&y)?;
        let d = g.of(&x).expect("wanted").data();
        assert_eq!(d[0], -0.25);
        assert!(d[1].abs() < 1e-30 && d[3].abs() < 1e-30, "{d:?}");
        // log(1 + e⁻²⁰), which 1 + e⁻²⁰ cannot hold in f32.
        let small = Var::constant(Tensor::from_slice(&[1, 1], &[-20.0_f32])?);
        let y = binary_cross_entropy(&Tape::inference(), &small, &[0.0], None, None)?;
        assert!((y.value().scalar()? / 2.061_153_6e-9 - 1.0).abs() < 1e-6);
        Ok(())
    }

    #[test]
    fn what_does_not_count_may_be_anything() -> Result<()> {
        let tape = Tape::<f32>::new();
        let x = tape.input(Tensor::from_slice(&[2, 1], &[0.5, 3.0])?);
        let y = mse(&tape, &x, &[f32::NAN, 1.0], Some(&[false, true]))?;
        assert_eq!(y.value().scalar()?, 4.0);
        let nothing = mse(&tape, &x, &[f32::NAN; 2], Some(&[false; 2]))?;
        assert_eq!(nothing.value().scalar()?, 0.0);
        let y = binary_cross_entropy(&tape, &x, &[f32::NAN, 1.0], Some(&[false, true]), None)?;
        let g = tape.backward(&y)?;
        assert_eq!(g.of(&x).map(|t| t.data()[0]), Some(0.0));
        Ok(())
    }

    #[test]
    fn threads_do_not_change_a_bit() -> Result<()> {
        let (x, y) = (random(&[997, 71], "x").cast::<f32>(), random(&[997, 71], "y").cast::<f32>());
        let run = |threads| -> Result<_> {
            with_threads(threads, || {
                let tape = Tape::new();
                let x = tape.input(x.clone());
                let loss = huber(&tape, &x, y.data(), None, 0.7)?;
                let g = tape.backward(&loss)?;
                Ok((loss.data().to_vec(), g.of(&x).map(|t| t.data().to_vec())))
            })
            .expect("threads")
        };
        assert_eq!(run(1)?, run(4)?);
        Ok(())
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let tape = Tape::<f64>::new();
        let (x, y) = (x(), targets::<f64>());
        let message = |r: Result<Var<f64>>| r.map(|_| ()).unwrap_err().to_string();
        let mut high = y.clone();
        high[7] = 1.5;
        assert_eq!(
            message(binary_cross_entropy(&tape, &x, &high, None, None)),
            "binary_cross_entropy: target 1.5 at position 7 is not in [0, 1]"
        );
        assert_eq!(message(mse(&tape, &x, &y[1..], None)), "mse: 11 targets for shape [4, 3]");
        assert!(mse(&tape, &x, &y, Some(&[true])).is_err());
        assert!(binary_cross_entropy(&tape, &x, &y, None, Some(&[1.0])).is_err());
        assert!(binary_cross_entropy(&tape, &x, &y, None, Some(&[1.0, -1.0, 1.0])).is_err());
        assert!(huber(&tape, &x, &y, None, 0.0).is_err());
    }
}
