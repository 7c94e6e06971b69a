//! Inner products of vectors, for searching among many.

use crate::simd::{sum2, vectorised};

vectorised! {
    /// The inner product of two vectors of the same length, summed in an order
    /// that their length alone decides: the same bits on any processor.
    pub fn dot<E>(a: &[E], b: &[E]) -> E {
        sum2(a, b, |x, y| x * y)
    }
}

vectorised! {
    /// The inner product of a vector `[dim]` with each row of `[rows, dim]`,
    /// into `out` `[rows]`; each as [`dot`] has it.
    pub fn dots<E>(vector: &[E], rows: &[E], out: &mut [E]) {
        for (row, out) in rows.chunks_exact(vector.len().max(1)).zip(out) {
            *out = sum2(vector, row, |x, y| x * y);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Random;

    #[test]
    fn products_match_the_definition_for_every_length() {
        let random = Random::new(1).purpose("vectors");
        for dim in [0, 1, 7, 15, 16, 17, 64, 100, 384] {
            let vector = |at: u64| -> Vec<f64> { (0..dim).map(|i| random.at_step(at).normal(i)).collect() };
            let (a, b, c) = (vector(0), vector(1), vector(2));
            let plain = |x: &[f64], y: &[f64]| -> f64 { x.iter().zip(y).map(|(x, y)| x * y).sum() };
            assert!((dot(&a, &b) - plain(&a, &b)).abs() < 1e-12, "{dim}");
            let mut out = [9.0; 2];
            dots(&a, &[b.clone(), c.clone()].concat(), &mut out);
            if dim > 0 {
                assert_eq!(out, [dot(&a, &b), dot(&a, &c)]);
            }
        }
    }
}
