//! The length of the whole gradient, and what clipping makes of it.

use crate::simd::{LANES, vectorised};
use crate::{Element, Gradients};
use rayon::prelude::*;

/// Elements whose squares one task adds up.
const RUN: usize = 1 << 15;

/// The Euclidean length of all parameter gradients together.
///
/// Squares are added in `f64`, in an order that depends on nothing but the
/// shapes. The result is NaN or infinite exactly when some gradient is, so
/// `is_finite()` is the check for a step that must be skipped.
pub fn global_norm<E: Element>(gradients: &Gradients<E>) -> f64 {
    let runs: Vec<&[E]> = gradients.kept().flat_map(|(_, g)| g.data().chunks(RUN)).collect();
    let sums: Vec<f64> = runs.into_par_iter().map(square_sum).collect();
    sums.into_iter().sum::<f64>().sqrt()
}

/// The factor that brings a gradient of length `norm` to at most `max_norm`:
/// `min(1, max_norm / (norm + 1e-6))`, as PyTorch clips.
pub fn clip_factor(norm: f64, max_norm: f64) -> f64 {
    (max_norm / (norm + 1e-6)).min(1.0)
}

vectorised! {
    fn square_sum<E>(x: &[E]) -> f64 {
        let mut lanes = [0.0_f64; LANES];
        let chunks = x.chunks_exact(LANES);
        let rest = chunks.remainder();
        for chunk in chunks {
            for (lane, x) in lanes.iter_mut().zip(chunk) {
                *lane += x.to_f64() * x.to_f64();
            }
        }
        for (lane, x) in lanes.iter_mut().zip(rest) {
            *lane += x.to_f64() * x.to_f64();
        }
        crate::simd::sum_lanes(lanes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Params, Result, Tape, Tensor, ops, with_threads};

    /// The gradients of Σ w·c: the constants themselves.
    fn gradients_of(constants: &[Tensor<f32>]) -> Result<Gradients<f32>> {
        let mut params = Params::new();
        let tape = Tape::new();
        let mut total = None;
        for (i, c) in constants.iter().enumerate() {
            let id = params.insert(format!("p{i}"), Tensor::zeros(c.dims()))?;
            let y = ops::mul(&tape, &tape.param(&params, id), &crate::Var::constant(c.clone()))?;
            let y = ops::sum(&tape, &y)?;
            total = Some(match total {
                None => y,
                Some(t) => ops::add(&tape, &t, &y)?,
            });
        }
        match total {
            Some(t) => tape.backward(&t),
            None => Ok(Gradients::none()),
        }
    }

    #[test]
    fn the_norm_is_that_of_all_gradients_laid_end_to_end() -> Result<()> {
        let g = gradients_of(&[Tensor::full(&[2], 3.0), Tensor::full(&[7], 2.0)])?;
        assert!((global_norm(&g) - 46_f64.sqrt()).abs() < 1e-12);
        assert_eq!(global_norm(&Gradients::<f32>::none()), 0.0);
        // Squares that f32 could not hold.
        let g = gradients_of(&[Tensor::full(&[4], 1e30)])?;
        assert!((global_norm(&g) / 2e30 - 1.0).abs() < 1e-6);
        Ok(())
    }

    #[test]
    fn one_bad_element_is_seen() -> Result<()> {
        for bad in [f32::NAN, f32::INFINITY] {
            let mut t = Tensor::full(&[50], 1.0);
            t.data_mut()[37] = bad;
            assert!(!global_norm(&gradients_of(&[Tensor::full(&[3], 1.0), t])?).is_finite());
        }
        Ok(())
    }

    #[test]
    fn threads_do_not_change_a_bit() -> Result<()> {
        let g =
            gradients_of(&[crate::check::random(&[300, 401], "a").cast(), crate::check::random(&[77], "b").cast()])?;
        let run = |threads| with_threads(threads, || global_norm(&g).to_bits()).expect("threads");
        assert_eq!(run(1), run(4));
        Ok(())
    }

    #[test]
    fn clipping_shortens_and_never_lengthens() {
        assert_eq!(clip_factor(0.5, 1.0), 1.0);
        assert!((clip_factor(4.0, 1.0) - 0.25).abs() < 1e-6);
    }
}
