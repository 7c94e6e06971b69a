//! Rows of unit length.

use super::loops::row;
use super::matrix;
use crate::parallel::rows_mut;
use crate::simd::{sum1, sum2, vectorised};
use crate::{Element, EngineError, Result, Tape, Tensor, Var};

/// Each row divided by its Euclidean length, or by `eps` where it is shorter:
/// `[rows, dim]` to the same.
///
/// # Errors
/// When `x` is not a matrix or `eps` is not above 0.
pub fn normalize<E: Element>(tape: &Tape<E>, x: &Var<E>, eps: f64) -> Result<Var<E>> {
    let (rows, cols) = matrix("normalize", "x", x)?;
    let eps = E::of(eps);
    if !(eps.is_finite() && eps > E::ZERO) {
        return Err(EngineError::setting("normalize", format!("eps {eps:?} is not above 0")));
    }
    let mut value = Tensor::any(&[rows, cols]);
    let from = x.data();
    rows_mut(value.data_mut(), cols, |first, part| {
        for (i, out) in part.chunks_exact_mut(cols).enumerate() {
            forward_row(out, row(from, first + i, cols), eps);
        }
    });
    let (h, x_value) = (x.handle(), x.value().clone());
    Ok(tape.record(value, &[x], move |mut d, g| {
        let x = x_value.data();
        rows_mut(d.data_mut(), cols, |first, part| {
            for (i, d) in part.chunks_exact_mut(cols).enumerate() {
                backward_row(d, row(x, first + i, cols), eps);
            }
        });
        g.add(h, d);
        Ok(())
    }))
}

vectorised! {
    fn forward_row<E>(out: &mut [E], x: &[E], eps: E) {
        let factor = E::ONE / sum1(x, |v| v * v).sqrt().larger(eps);
        for (o, v) in out.iter_mut().zip(x) {
            *o = *v * factor;
        }
    }
}
vectorised! {
    /// d ← (d − y (d·y)) / |x|, and d / eps where x is shorter than eps
    fn backward_row<E>(d: &mut [E], x: &[E], eps: E) {
        let length = sum1(x, |v| v * v).sqrt();
        let factor = E::ONE / length.larger(eps);
        let along = if length > eps { sum2(d, x, |d, x| d * x) * factor * factor } else { E::ZERO };
        for (d, x) in d.iter_mut().zip(x) {
            *d = (*d - *x * along) * factor;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::{gradients, random};

    #[test]
    fn gradients_match_finite_differences() -> Result<()> {
        gradients(&[random(&[5, 7], "x")], |t, v| normalize(t, &v[0], 1e-12))?;
        // Rows shorter than eps are only divided by it.
        gradients(&[random(&[5, 7], "x")], |t, v| normalize(t, &v[0], 100.0))
    }

    #[test]
    fn rows_have_length_one_and_zero_stays_zero() -> Result<()> {
        let mut x = random(&[4, 33], "x").cast::<f32>();
        x.data_mut()[33..66].fill(0.0);
        let y = normalize(&Tape::inference(), &Var::constant(x), 1e-8)?;
        for (i, r) in y.data().chunks(33).enumerate() {
            let length = r.iter().map(|v| v * v).sum::<f32>().sqrt();
            assert!((length - if i == 1 { 0.0 } else { 1.0 }).abs() < 1e-6);
        }
        Ok(())
    }

    #[test]
    fn wrong_shapes_and_settings_are_refused() {
        let tape = Tape::<f32>::new();
        assert!(normalize(&tape, &Var::constant(Tensor::zeros(&[3])), 1e-6).is_err());
        for eps in [0.0, -1.0, f64::NAN] {
            assert!(normalize(&tape, &Var::constant(Tensor::zeros(&[3, 1])), eps).is_err());
        }
    }
}
