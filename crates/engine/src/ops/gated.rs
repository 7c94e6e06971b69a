//! Gated linear units: an activation times a second branch.

use super::{Activation, activation, same};
use crate::parallel::{rows_mut, rows_mut2};
use crate::simd::vectorised;
use crate::{Element, Result, Tape, Tensor, Var};

/// f(gate) · up, element by element, of equal shapes (Shazeer 2020): SwiGLU
/// with [`Activation::Silu`], GEGLU with [`Activation::Gelu`].
///
/// # Errors
/// When the shapes differ.
pub fn gated<E: Element>(tape: &Tape<E>, gate: &Var<E>, up: &Var<E>, activation: Activation) -> Result<Var<E>> {
    same("gated", gate, up)?;
    let f = activation::forward_loop(activation);
    let mut value = Tensor::any(gate.value().dims());
    let (from, with) = (gate.data(), up.data());
    rows_mut(value.data_mut(), 1, |first, part| {
        let end = first + part.len();
        part.copy_from_slice(&from[first..end]);
        f(part);
        multiply_row(part, &with[first..end]);
    });
    let (hg, hu) = (gate.handle(), up.handle());
    let (gate_value, up_value) = (gate.value().clone(), up.value().clone());
    Ok(tape.record(value, &[gate, up], move |mut d, g| {
        let (gate, up) = (gate_value.data(), up_value.data());
        let slope = activation::backward_loop(activation);
        // The gradient of `up` is made beside that of `gate`, which replaces
        // the incoming one in place.
        let mut du = Tensor::any(d.dims());
        match (g.wants(hg), g.wants(hu)) {
            (true, true) => rows_mut2((du.data_mut(), 1), (d.data_mut(), 1), |first, du, d| {
                let range = first..first + du.len();
                du.copy_from_slice(&gate[range.clone()]);
                f(du);
                multiply_row(du, d);
                multiply_row(d, &up[range.clone()]);
                slope(d, &gate[range]);
            }),
            (true, false) => rows_mut(d.data_mut(), 1, |first, d| {
                let range = first..first + d.len();
                multiply_row(d, &up[range.clone()]);
                slope(d, &gate[range]);
            }),
            _ => {
                let d = d.data();
                rows_mut(du.data_mut(), 1, |first, du| {
                    let range = first..first + du.len();
                    du.copy_from_slice(&gate[range.clone()]);
                    f(du);
                    multiply_row(du, &d[range]);
                });
            }
        }
        if g.wants(hu) {
            g.add(hu, du);
        }
        if g.wants(hg) {
            g.add(hg, d);
        }
        Ok(())
    }))
}

vectorised! {
    /// out ← out · x
    pub(crate) fn multiply_row<E>(out: &mut [E], x: &[E]) {
        for (o, x) in out.iter_mut().zip(x) {
            *o *= *x;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::{gradients, random};

    #[test]
    fn gradients_match_finite_differences_of_both_and_of_each_alone() -> Result<()> {
        let inputs = [random(&[3, 7], "gate"), random(&[3, 7], "up")];
        for a in [Activation::Silu, Activation::Gelu, Activation::Sigmoid, Activation::Identity] {
            gradients(&inputs, |t, v| gated(t, &v[0], &v[1], a))?;
            let fixed = Var::constant(random(&[3, 7], "fixed"));
            gradients(&inputs[..1], |t, v| gated(t, &v[0], &fixed, a))?;
            gradients(&inputs[..1], |t, v| gated(t, &fixed, &v[0], a))?;
            gradients(&inputs[..1], |t, v| gated(t, &v[0], &v[0], a))?;
        }
        Ok(())
    }

    #[test]
    fn it_is_the_activation_times_the_other_branch() -> Result<()> {
        let tape = Tape::<f32>::inference();
        let (a, b) = (Var::constant(random(&[211, 97], "a").cast()), Var::constant(random(&[211, 97], "b").cast()));
        let fused = gated(&tape, &a, &b, Activation::Silu)?;
        let apart = super::super::mul(&tape, &super::super::activate(&tape, &a, Activation::Silu)?, &b)?;
        assert_eq!(fused.data(), apart.data());
        Ok(())
    }

    #[test]
    fn different_shapes_are_refused() {
        let (a, b) = (Var::constant(Tensor::zeros(&[2, 3])), Var::constant(Tensor::zeros(&[3, 2])));
        assert!(gated(&Tape::<f32>::new(), &a, &b, Activation::Silu).is_err());
    }
}
