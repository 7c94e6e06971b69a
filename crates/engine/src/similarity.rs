//! Inner products of vectors, for searching among many.

use crate::Element;
use crate::simd::{LANES, sum_lanes, sum2, vectorised};

vectorised! {
    /// The inner product of two vectors of the same length, summed in an order
    /// that their length alone decides: the same bits on any processor.
    pub fn dot<E>(a: &[E], b: &[E]) -> E {
        sum2(a, b, |x, y| x * y)
    }
}

/// Rows compared at a time: so many sums are on their way at once, where a
/// single one would wait for each of its additions.
const ROWS: usize = 4;

vectorised! {
    /// The inner product of a vector `[dim]` with each row of `[rows, dim]`,
    /// into `out` `[rows]`; each as [`dot`] has it.
    pub fn dots<E>(vector: &[E], rows: &[E], out: &mut [E]) {
        let dim = vector.len().max(1);
        let (mut fours, mut outs) = (rows.chunks_exact(ROWS * dim), out.chunks_exact_mut(ROWS));
        for (rows, out) in (&mut fours).zip(&mut outs) {
            let (ab, cd) = rows.split_at(2 * dim);
            let ((a, b), (c, d)) = (ab.split_at(dim), cd.split_at(dim));
            out.copy_from_slice(&four(vector, [a, b, c, d]));
        }
        for (row, out) in fours.remainder().chunks_exact(dim).zip(outs.into_remainder()) {
            *out = sum2(vector, row, |x, y| x * y);
        }
    }
}

vectorised! {
    /// The inner product of a vector with each of four; each as [`dot`] has it.
    pub fn dot_four<E>(vector: &[E], rows: [&[E]; ROWS]) -> [E; ROWS] {
        four(vector, rows)
    }
}

/// As `sum2` of each, side by side.
#[inline(always)]
fn four<E: Element>(vector: &[E], rows: [&[E]; ROWS]) -> [E; ROWS] {
    let (x, x_rest) = vector.as_chunks::<LANES>();
    let [(a, a_rest), (b, b_rest), (c, c_rest), (d, d_rest)] = rows.map(|row| row.as_chunks::<LANES>());
    let [mut sa, mut sb, mut sc, mut sd] = [[E::ZERO; LANES]; ROWS];
    for ((((x, a), b), c), d) in x.iter().zip(a).zip(b).zip(c).zip(d) {
        for i in 0..LANES {
            sa[i] += x[i] * a[i];
        }
        for i in 0..LANES {
            sb[i] += x[i] * b[i];
        }
        for i in 0..LANES {
            sc[i] += x[i] * c[i];
        }
        for i in 0..LANES {
            sd[i] += x[i] * d[i];
        }
    }
    for (lanes, rest) in [(&mut sa, a_rest), (&mut sb, b_rest), (&mut sc, c_rest), (&mut sd, d_rest)] {
        for (lane, (x, y)) in lanes.iter_mut().zip(x_rest.iter().zip(rest)) {
            *lane += *x * *y;
        }
    }
    [sum_lanes(sa), sum_lanes(sb), sum_lanes(sc), sum_lanes(sd)]
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
            // Rows in fours and those left over have the same bits as alone.
            let mut out = [9.0; 6];
            dots(&a, &[&b[..], &c, &b, &a, &c, &b].concat(), &mut out);
            if dim > 0 {
                assert_eq!(out, [&b, &c, &b, &a, &c, &b].map(|row| dot(&a, row)));
                assert_eq!(dot_four(&a, [&b, &c, &b, &a]), out[..4]);
            }
        }
    }
}
