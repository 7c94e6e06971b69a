//! Sums, products and means of whole tensors.

use super::same;
use crate::parallel::{reduce_rows, rows_mut};
use crate::simd::{sum1, vectorised};
use crate::{Element, Result, Tape, Tensor, Var};

/// a + b, of equal shapes.
///
/// # Errors
/// When the shapes differ.
pub fn add<E: Element>(tape: &Tape<E>, a: &Var<E>, b: &Var<E>) -> Result<Var<E>> {
    same("add", a, b)?;
    let value = zip(a.value(), b.value(), add_loop);
    let (ha, hb) = (a.handle(), b.handle());
    Ok(tape.record(value, &[a, b], move |d, g| {
        g.add(ha, d.clone());
        g.add(hb, d);
        Ok(())
    }))
}

/// a − b, of equal shapes.
///
/// # Errors
/// When the shapes differ.
pub fn sub<E: Element>(tape: &Tape<E>, a: &Var<E>, b: &Var<E>) -> Result<Var<E>> {
    same("sub", a, b)?;
    let value = zip(a.value(), b.value(), sub_loop);
    let (ha, hb) = (a.handle(), b.handle());
    Ok(tape.record(value, &[a, b], move |d, g| {
        if g.wants(hb) {
            g.add(hb, scaled(&d, -E::ONE));
        }
        g.add(ha, d);
        Ok(())
    }))
}

/// a · b element by element, of equal shapes.
///
/// # Errors
/// When the shapes differ.
pub fn mul<E: Element>(tape: &Tape<E>, a: &Var<E>, b: &Var<E>) -> Result<Var<E>> {
    same("mul", a, b)?;
    let value = zip(a.value(), b.value(), mul_loop);
    let (ha, hb) = (a.handle(), b.handle());
    let (va, vb) = (a.value().clone(), b.value().clone());
    Ok(tape.record(value, &[a, b], move |d, g| {
        if g.wants(ha) {
            g.add(ha, zip(&d, &vb, mul_loop));
        }
        if g.wants(hb) {
            g.add(hb, zip(&d, &va, mul_loop));
        }
        Ok(())
    }))
}

/// factor · a.
///
/// # Errors
/// None at present.
pub fn scale<E: Element>(tape: &Tape<E>, a: &Var<E>, factor: f64) -> Result<Var<E>> {
    let factor = E::of(factor);
    let h = a.handle();
    Ok(tape.record(scaled(a.value(), factor), &[a], move |d, g| {
        g.add(h, scaled(&d, factor));
        Ok(())
    }))
}

/// e to the power of each element; a few of them, such as a learned scale.
///
/// # Errors
/// None at present.
pub fn exp<E: Element>(tape: &Tape<E>, a: &Var<E>) -> Result<Var<E>> {
    let mut value = Tensor::any(a.value().dims());
    value.data_mut().iter_mut().zip(a.data()).for_each(|(o, x)| *o = x.exp());
    let (h, kept) = (a.handle(), value.clone());
    Ok(tape.record(value, &[a], move |d, g| {
        if g.wants(h) {
            g.add(h, zip(&d, &kept, mul_loop));
        }
        Ok(())
    }))
}

/// The sum of all elements: `[1]`.
///
/// # Errors
/// None at present.
pub fn sum<E: Element>(tape: &Tape<E>, a: &Var<E>) -> Result<Var<E>> {
    let mut value = Tensor::any(&[1]);
    let x = a.data();
    reduce_rows(x.len(), 1, value.data_mut(), |from, to, part| part[0] = sum_loop(&x[from..to]));
    let (h, shape) = (a.handle(), a.shape());
    Ok(tape.record(value, &[a], move |d, g| {
        g.add(h, Tensor::full(shape.dims(), d.data()[0]));
        Ok(())
    }))
}

/// The mean of all elements: `[1]` (0 of none).
///
/// # Errors
/// None at present.
pub fn mean<E: Element>(tape: &Tape<E>, a: &Var<E>) -> Result<Var<E>> {
    let n = a.shape().len().max(1);
    let total = sum(tape, a)?;
    scale(tape, &total, 1.0 / n as f64)
}

fn zip<E: Element>(a: &Tensor<E>, b: &Tensor<E>, f: fn(&mut [E], &[E], &[E])) -> Tensor<E> {
    let mut out = Tensor::any(a.dims());
    let (x, y) = (a.data(), b.data());
    rows_mut(out.data_mut(), 1, |i, o| {
        let end = i + o.len();
        f(o, &x[i..end], &y[i..end]);
    });
    out
}

pub(crate) fn scaled<E: Element>(a: &Tensor<E>, factor: E) -> Tensor<E> {
    let mut out = Tensor::any(a.dims());
    let x = a.data();
    rows_mut(out.data_mut(), 1, |i, o| {
        let end = i + o.len();
        scale_loop(o, &x[i..end], factor);
    });
    out
}

vectorised! {
    fn add_loop<E>(out: &mut [E], a: &[E], b: &[E]) {
        for ((o, a), b) in out.iter_mut().zip(a).zip(b) {
            *o = *a + *b;
        }
    }
}
vectorised! {
    fn sub_loop<E>(out: &mut [E], a: &[E], b: &[E]) {
        for ((o, a), b) in out.iter_mut().zip(a).zip(b) {
            *o = *a - *b;
        }
    }
}
vectorised! {
    fn mul_loop<E>(out: &mut [E], a: &[E], b: &[E]) {
        for ((o, a), b) in out.iter_mut().zip(a).zip(b) {
            *o = *a * *b;
        }
    }
}
vectorised! {
    fn scale_loop<E>(out: &mut [E], a: &[E], factor: E) {
        for (o, a) in out.iter_mut().zip(a) {
            *o = *a * factor;
        }
    }
}
vectorised! {
    fn sum_loop<E>(a: &[E]) -> E {
        sum1(a, |x| x)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::{gradients, random};

    #[test]
    fn gradients_match_finite_differences() -> Result<()> {
        let ab = [random(&[3, 5], "a"), random(&[3, 5], "b")];
        gradients(&ab, |t, v| add(t, &v[0], &v[1]))?;
        gradients(&ab, |t, v| sub(t, &v[0], &v[1]))?;
        gradients(&ab, |t, v| mul(t, &v[0], &v[1]))?;
        gradients(&ab[..1], |t, v| scale(t, &v[0], -2.5))?;
        gradients(&ab[..1], |t, v| exp(t, &v[0]))?;
        gradients(&ab[..1], |t, v| sum(t, &v[0]))?;
        gradients(&ab[..1], |t, v| mean(t, &v[0]))
    }

    #[test]
    fn a_value_minus_itself_has_no_gradient() -> Result<()> {
        let tape = Tape::<f64>::new();
        let x = tape.input(random(&[4], "x"));
        let y = sum(&tape, &sub(&tape, &x, &x)?)?;
        let g = tape.backward(&y)?;
        assert_eq!(g.of(&x).map(|t| t.data().to_vec()), Some(vec![0.0; 4]));
        Ok(())
    }

    #[test]
    fn different_shapes_are_refused_by_name() {
        let tape = Tape::<f32>::new();
        let (a, b) = (Var::constant(Tensor::zeros(&[2, 3])), Var::constant(Tensor::zeros(&[3, 2])));
        let message = add(&tape, &a, &b).map(|_| ()).unwrap_err().to_string();
        assert_eq!(message, "add: second input has shape [3, 2], expected [2, 3]");
    }
}
