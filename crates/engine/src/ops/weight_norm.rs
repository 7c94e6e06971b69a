//! A matrix as directions and lengths of its columns.

use super::{matrix, vector};
use crate::{Element, Result, Tape, Tensor, Var};

/// Each column of `direction` `[rows, cols]` brought to the length that
/// `length` `[cols]` gives it (Salimans and Kingma 2016): y = v · g / |v|.
///
/// # Errors
/// When the shapes do not fit.
pub fn weight_norm<E: Element>(tape: &Tape<E>, direction: &Var<E>, length: &Var<E>) -> Result<Var<E>> {
    const OP: &str = "weight_norm";
    let (rows, cols) = matrix(OP, "direction", direction)?;
    vector(OP, "length", length, cols)?;
    let mut inverse = vec![E::ZERO; cols];
    for v in direction.data().chunks_exact(cols.max(1)) {
        inverse.iter_mut().zip(v).for_each(|(sum, v)| *sum += *v * *v);
    }
    inverse.iter_mut().for_each(|sum| *sum = E::ONE / sum.sqrt());
    let factor: Vec<E> = inverse.iter().zip(length.data()).map(|(i, g)| *i * *g).collect();
    let mut value = direction.value().clone();
    for y in value.data_mut().chunks_exact_mut(cols.max(1)) {
        y.iter_mut().zip(&factor).for_each(|(y, f)| *y *= *f);
    }
    let (hv, hg, v) = (direction.handle(), length.handle(), direction.value().clone());
    Ok(tape.record(value, &[direction, length], move |mut d, g| {
        // Along each column: the gradient of its length.
        let mut along = Tensor::zeros(&[cols]);
        for (d, v) in d.data().chunks_exact(cols).zip(v.data().chunks_exact(cols)) {
            for (c, a) in along.data_mut().iter_mut().enumerate() {
                *a += d[c] * v[c] * inverse[c];
            }
        }
        if g.wants(hv) {
            let a = along.data();
            for (d, v) in d.data_mut().chunks_exact_mut(cols).zip(v.data().chunks_exact(cols)) {
                for c in 0..cols {
                    d[c] = (d[c] - v[c] * inverse[c] * a[c]) * factor[c];
                }
            }
            debug_assert_eq!(d.dims(), [rows, cols]);
            g.add(hv, d);
        }
        g.add(hg, along);
        Ok(())
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::{gradients, random};

    #[test]
    fn gradients_match_finite_differences() -> Result<()> {
        gradients(&[random(&[5, 3], "v"), random(&[3], "g")], |t, v| weight_norm(t, &v[0], &v[1]))?;
        gradients(&[random(&[5, 3], "v"), random(&[3], "g")], |t, v| {
            super::super::mul(t, &weight_norm(t, &v[0], &v[1])?, &v[0])
        })
    }

    #[test]
    fn columns_have_the_lengths_given() -> Result<()> {
        let (v, g) = (Var::constant(random(&[7, 2], "v")), Var::constant(Tensor::from_slice(&[2], &[2.0, 0.5])?));
        let y = weight_norm(&Tape::inference(), &v, &g)?;
        for (c, length) in [2.0, 0.5].into_iter().enumerate() {
            let square: f64 = y.data().chunks(2).map(|r| r[c] * r[c]).sum();
            assert!((square.sqrt() - length).abs() < 1e-12);
        }
        assert!(weight_norm(&Tape::inference(), &v, &Var::constant(Tensor::zeros(&[3]))).is_err());
        Ok(())
    }
}
