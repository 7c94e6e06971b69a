//! The linear layer as one operation: product, bias and activation.

use super::{Activation, activation, matrix, vector};
use crate::matmul::{Matrix, Output, product};
use crate::parallel::{reduce_rows, rows_mut, rows_mut2};
use crate::simd::vectorised;
use crate::{Element, EngineError, Result, Tape, Tensor, Var};

/// y = f(x·Wᵀ + b).
///
/// `x` is `[rows, inputs]`, `weight` `[outputs, inputs]`, `bias` `[outputs]`;
/// the result `[rows, outputs]`.
///
/// # Errors
/// When the shapes do not fit.
pub fn linear<E: Element>(
    tape: &Tape<E>,
    x: &Var<E>,
    weight: &Var<E>,
    bias: Option<&Var<E>>,
    activation: Activation,
) -> Result<Var<E>> {
    let (rows, inputs) = matrix("linear", "x", x)?;
    let (outputs, expected) = matrix("linear", "weight", weight)?;
    if inputs != expected {
        return Err(EngineError::shape("linear", "x", format!("[rows, {expected}]"), x.shape()));
    }
    if let Some(b) = bias {
        vector("linear", "bias", b, outputs)?;
    }
    let mut value = Tensor::any(&[rows, outputs]);
    product(
        Matrix::dense(x.data(), rows, inputs),
        Matrix::dense(weight.data(), outputs, inputs).transposed(),
        Output::dense(value.data_mut(), rows, outputs),
        false,
    );
    let mut involved = vec![x, weight];
    involved.extend(bias);
    let records = tape.records(&involved);
    // The value before the activation is kept only where backward needs it.
    let mut before = None;
    if activation != Activation::Identity && records {
        let mut after = Tensor::any(&[rows, outputs]);
        bias_activate_apart(value.data_mut(), after.data_mut(), outputs, bias.map(Var::data), activation);
        before = Some(std::mem::replace(&mut value, after));
    } else {
        bias_activate(value.data_mut(), outputs, bias.map(Var::data), activation);
    }
    let (hx, hw, hb) = (x.handle(), weight.handle(), bias.map(Var::handle));
    // Of the two factors each is kept only for the gradient of the other: with a
    // frozen weight the input is freed, below the lowest trained layer the weight.
    let (x, weight) =
        (weight.needs_gradient().then(|| x.value().clone()), x.needs_gradient().then(|| weight.value().clone()));
    Ok(tape.record(value, &involved, move |mut d, g| {
        if let Some(before) = before {
            activation::backward_in_place(activation, d.data_mut(), before.data());
        }
        if let Some(hb) = hb.filter(|h| g.wants(*h)) {
            g.add(hb, sum_rows(&d, outputs));
        }
        if let (Some(x), Some((mut dw, add))) = (&x, g.take(hw, &[outputs, inputs])) {
            product(
                Matrix::dense(d.data(), rows, outputs).transposed(),
                Matrix::dense(x.data(), rows, inputs),
                Output::dense(dw.data_mut(), outputs, inputs),
                add,
            );
            g.put(hw, dw);
        }
        drop(x);
        if let (Some(weight), Some((mut dx, add))) = (&weight, g.take(hx, &[rows, inputs])) {
            product(
                Matrix::dense(d.data(), rows, outputs),
                Matrix::dense(weight.data(), outputs, inputs),
                Output::dense(dx.data_mut(), rows, inputs),
                add,
            );
            g.put(hx, dx);
        }
        Ok(())
    }))
}

/// y ← f(y + b) in place.
fn bias_activate<E: Element>(y: &mut [E], cols: usize, bias: Option<&[E]>, activation: Activation) {
    if bias.is_none() && activation == Activation::Identity {
        return;
    }
    let f = activation::forward_loop(activation);
    rows_mut(y, cols, |_, part| {
        if let Some(b) = bias {
            add_bias(part, b);
        }
        f(part);
    });
}

/// u ← u + b in place and y ← f(u).
fn bias_activate_apart<E: Element>(u: &mut [E], y: &mut [E], cols: usize, bias: Option<&[E]>, activation: Activation) {
    let f = activation::forward_loop(activation);
    rows_mut2((u, cols), (y, cols), |_, u, y| {
        if let Some(b) = bias {
            add_bias(u, b);
        }
        y.copy_from_slice(u);
        f(y);
    });
}

/// The sum over rows of `[rows, cols]`: `[cols]`.
pub(crate) fn sum_rows<E: Element>(d: &Tensor<E>, cols: usize) -> Tensor<E> {
    let mut out = Tensor::any(&[cols]);
    let x = d.data();
    reduce_rows(x.len() / cols.max(1), cols, out.data_mut(), |from, to, part| {
        add_rows(part, &x[from * cols..to * cols]);
    });
    out
}

vectorised! {
    fn add_bias<E>(rows: &mut [E], bias: &[E]) {
        for row in rows.chunks_exact_mut(bias.len()) {
            for (y, b) in row.iter_mut().zip(bias) {
                *y += *b;
            }
        }
    }
}
vectorised! {
    fn add_rows<E>(sum: &mut [E], rows: &[E]) {
        for row in rows.chunks_exact(sum.len()) {
            for (s, x) in sum.iter_mut().zip(row) {
                *s += *x;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::{gradients, random};

    #[test]
    fn gradients_match_finite_differences() -> Result<()> {
        let inputs = [random(&[5, 4], "x"), random(&[3, 4], "w"), random(&[3], "b")];
        for a in [Activation::Identity, Activation::Gelu, Activation::Tanh] {
            gradients(&inputs, |t, v| linear(t, &v[0], &v[1], Some(&v[2]), a))?;
            gradients(&inputs[..2], |t, v| linear(t, &v[0], &v[1], None, a))?;
        }
        Ok(())
    }

    #[test]
    fn one_input_through_two_layers_adds_its_gradients() -> Result<()> {
        let inputs = [random(&[5, 4], "x"), random(&[3, 4], "w"), random(&[3, 4], "v")];
        gradients(&inputs, |t, v| {
            let a = linear(t, &v[0], &v[1], None, Activation::Identity)?;
            let b = linear(t, &v[0], &v[2], None, Activation::Silu)?;
            super::super::add(t, &a, &b)
        })
    }

    #[test]
    fn no_rows_and_wrong_shapes() -> Result<()> {
        let tape = Tape::<f32>::new();
        let w = Var::constant(Tensor::zeros(&[3, 4]));
        let none = Var::constant(Tensor::zeros(&[0, 4]));
        assert_eq!(linear(&tape, &none, &w, None, Activation::Gelu)?.value().dims(), [0, 3]);
        let wrong = Var::constant(Tensor::zeros(&[2, 5]));
        let message = linear(&tape, &wrong, &w, None, Activation::Gelu).map(|_| ()).unwrap_err().to_string();
        assert_eq!(message, "linear: x has shape [2, 5], expected [rows, 4]");
        Ok(())
    }
}
