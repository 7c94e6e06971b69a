//! Rows and columns multiplied by factors that are learned or computed.

use super::loops::{add_scaled_row, dot, row, scale_row};
use super::segments::each_row;
use super::{matrix, vector};
use crate::parallel::{reduce_rows, rows_mut, rows_mut_for};
use crate::simd::vectorised;
use crate::{Element, EngineError, Offsets, Result, Tape, Tensor, Var};

/// Each row times its own factor: `x` is `[rows, dim]`, `w` `[rows, 1]`, the
/// result `[rows, dim]`.
///
/// # Errors
/// When the shapes do not fit.
pub fn scale_rows<E: Element>(tape: &Tape<E>, x: &Var<E>, w: &Var<E>) -> Result<Var<E>> {
    let (rows, cols) = matrix("scale_rows", "x", x)?;
    one_factor_each("scale_rows", "w", w, rows)?;
    let value = scaled_rows(x.value(), w.data(), cols);
    let (hx, hw) = (x.handle(), w.handle());
    let kept_x = w.needs_gradient().then(|| x.value().clone());
    let kept_w = x.needs_gradient().then(|| w.value().clone());
    Ok(tape.record(value, &[x, w], move |d, g| {
        if let Some(x) = kept_x {
            let mut dw = Tensor::any(&[rows, 1]);
            let (d, x) = (d.data(), x.data());
            rows_mut_for(dw.data_mut(), 1, cols, |first, part| {
                for (i, o) in part.iter_mut().enumerate() {
                    *o = dot(row(d, first + i, cols), row(x, first + i, cols));
                }
            });
            g.add(hw, dw);
        }
        if let Some(w) = kept_w {
            g.add(hx, scaled_rows(&d, w.data(), cols));
        }
        Ok(())
    }))
}

/// Each row times one vector, element by element (layer scale): `x` is
/// `[rows, dim]`, `v` `[dim]`, the result `[rows, dim]`.
///
/// # Errors
/// When the shapes do not fit.
pub fn mul_vector<E: Element>(tape: &Tape<E>, x: &Var<E>, v: &Var<E>) -> Result<Var<E>> {
    let (rows, cols) = matrix("mul_vector", "x", x)?;
    vector("mul_vector", "v", v, cols)?;
    let value = times_vector(x.value(), v.data());
    let (hx, hv) = (x.handle(), v.handle());
    let kept_x = v.needs_gradient().then(|| x.value().clone());
    let kept_v = x.needs_gradient().then(|| v.value().clone());
    Ok(tape.record(value, &[x, v], move |d, g| {
        if let Some(x) = kept_x {
            let mut dv = Tensor::any(&[cols]);
            let (d, x) = (d.data(), x.data());
            reduce_rows(rows, cols, dv.data_mut(), |from, to, part| {
                for r in from..to {
                    add_product_row(part, row(d, r, cols), row(x, r, cols));
                }
            });
            g.add(hv, dv);
        }
        if let Some(v) = kept_v {
            g.add(hx, times_vector(&d, v.data()));
        }
        Ok(())
    }))
}

/// The weighted sum of the rows of each segment: `x` is `[rows, dim]`,
/// `weights` `[rows, 1]`, the result `[segments, dim]`; zeros for an empty
/// segment. Attention pooling is this after
/// [`segment_softmax`](super::segment_softmax).
///
/// # Errors
/// When the shapes do not fit or the offsets do not cut the rows.
pub fn segment_weighted_sum<E: Element>(
    tape: &Tape<E>,
    x: &Var<E>,
    weights: &Var<E>,
    offsets: &Offsets,
) -> Result<Var<E>> {
    const OP: &str = "segment_weighted_sum";
    let (rows, cols) = matrix(OP, "x", x)?;
    one_factor_each(OP, "weights", weights, rows)?;
    offsets.expect_rows(OP, rows)?;
    let mut value = Tensor::any(&[offsets.segments(), cols]);
    let (from, w) = (x.data(), weights.data());
    let work = cols * (1 + rows / offsets.segments().max(1));
    rows_mut_for(value.data_mut(), cols, work, |first, part| {
        for (i, out) in part.chunks_exact_mut(cols).enumerate() {
            out.fill(E::ZERO);
            for r in offsets.range(first + i) {
                add_scaled_row(out, row(from, r, cols), w[r]);
            }
        }
    });
    let (hx, hw, offsets) = (x.handle(), weights.handle(), offsets.clone());
    let kept_x = weights.needs_gradient().then(|| x.value().clone());
    let kept_w = x.needs_gradient().then(|| weights.value().clone());
    Ok(tape.record(value, &[x, weights], move |d, g| {
        let d = d.data();
        if let Some(x) = kept_x {
            let mut dw = Tensor::any(&[rows, 1]);
            let x = x.data();
            rows_mut_for(dw.data_mut(), 1, cols, |first, part| {
                each_row(&offsets, first, part.len(), |i, s| {
                    part[i] = dot(row(d, s, cols), row(x, first + i, cols));
                });
            });
            g.add(hw, dw);
        }
        if let Some(w) = kept_w {
            let mut dx = Tensor::any(&[rows, cols]);
            let w = w.data();
            rows_mut(dx.data_mut(), cols, |first, part| {
                each_row(&offsets, first, part.len() / cols, |i, s| {
                    scale_row(&mut part[i * cols..][..cols], row(d, s, cols), w[first + i]);
                });
            });
            g.add(hx, dx);
        }
        Ok(())
    }))
}

fn one_factor_each<E: Element>(op: &'static str, what: &'static str, w: &Var<E>, rows: usize) -> Result<()> {
    if w.value().dims() == [rows, 1] {
        return Ok(());
    }
    Err(EngineError::shape(op, what, format!("[{rows}, 1]"), w.shape()))
}

fn scaled_rows<E: Element>(x: &Tensor<E>, w: &[E], cols: usize) -> Tensor<E> {
    let mut out = Tensor::any(x.dims());
    let x = x.data();
    rows_mut(out.data_mut(), cols, |first, part| {
        for (i, o) in part.chunks_exact_mut(cols).enumerate() {
            scale_row(o, row(x, first + i, cols), w[first + i]);
        }
    });
    out
}

fn times_vector<E: Element>(x: &Tensor<E>, v: &[E]) -> Tensor<E> {
    let mut out = Tensor::any(x.dims());
    let (x, cols) = (x.data(), v.len());
    rows_mut(out.data_mut(), cols, |first, part| {
        product_rows(part, &x[first * cols..], v);
    });
    out
}

vectorised! {
    /// out ← x · v for every row
    fn product_rows<E>(out: &mut [E], x: &[E], v: &[E]) {
        for (out, x) in out.chunks_exact_mut(v.len()).zip(x.chunks_exact(v.len())) {
            for ((o, x), v) in out.iter_mut().zip(x).zip(v) {
                *o = *x * *v;
            }
        }
    }
}
vectorised! {
    /// out ← out + a · b
    fn add_product_row<E>(out: &mut [E], a: &[E], b: &[E]) {
        for ((o, a), b) in out.iter_mut().zip(a).zip(b) {
            *o += *a * *b;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::{gradients, random};
    use crate::with_threads;

    #[test]
    fn gradients_match_finite_differences() -> Result<()> {
        let offsets = Offsets::from_lengths([2, 0, 4, 1]);
        let inputs = [random(&[7, 5], "x"), random(&[7, 1], "w")];
        gradients(&inputs, |t, v| scale_rows(t, &v[0], &v[1]))?;
        gradients(&inputs, |t, v| segment_weighted_sum(t, &v[0], &v[1], &offsets))?;
        gradients(&[random(&[7, 5], "x"), random(&[5], "v")], |t, v| mul_vector(t, &v[0], &v[1]))
    }

    #[test]
    fn attention_pooling_is_softmax_and_weighted_sum() -> Result<()> {
        let offsets = Offsets::from_lengths([3, 0, 4]);
        gradients(&[random(&[7, 5], "x"), random(&[7, 1], "scores")], |t, v| {
            let weights = super::super::segment_softmax(t, &v[1], &offsets)?;
            segment_weighted_sum(t, &v[0], &weights, &offsets)
        })
    }

    #[test]
    fn one_gradient_alone_is_the_same_as_of_both() -> Result<()> {
        let fixed = Var::constant(random(&[7, 1], "w"));
        gradients(&[random(&[7, 5], "x")], |t, v| scale_rows(t, &v[0], &fixed))?;
        let fixed = Var::constant(random(&[7, 5], "x"));
        gradients(&[random(&[7, 1], "w")], |t, v| scale_rows(t, &fixed, &v[0]))?;
        gradients(&[random(&[5], "v")], |t, v| mul_vector(t, &fixed, &v[0]))
    }

    #[test]
    fn values_are_those_of_the_definitions() -> Result<()> {
        let tape = Tape::<f64>::inference();
        let x = Var::constant(Tensor::from_slice(&[3, 2], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0])?);
        let w = Var::constant(Tensor::from_slice(&[3, 1], &[2.0, -1.0, 0.5])?);
        assert_eq!(scale_rows(&tape, &x, &w)?.data(), [2.0, 4.0, -3.0, -4.0, 2.5, 3.0]);
        let y = segment_weighted_sum(&tape, &x, &w, &Offsets::from_lengths([2, 0, 1]))?;
        assert_eq!(y.data(), [-1.0, 0.0, 0.0, 0.0, 2.5, 3.0]);
        let v = Var::constant(Tensor::from_slice(&[2], &[10.0, -1.0])?);
        assert_eq!(mul_vector(&tape, &x, &v)?.data(), [10.0, -2.0, 30.0, -4.0, 50.0, -6.0]);
        Ok(())
    }

    #[test]
    fn threads_do_not_change_a_bit() -> Result<()> {
        let offsets = Offsets::from_lengths((0..151).map(|i| i * 5 % 17));
        let rows = offsets.total();
        let inputs = [random(&[rows, 37], "x"), random(&[rows, 1], "w"), random(&[37], "v")].map(|t| t.cast::<f32>());
        let run = |threads| -> Result<_> {
            with_threads(threads, || {
                let tape = Tape::new();
                let [x, w, v] = inputs.clone().map(|t| tape.input(t));
                let y = mul_vector(&tape, &scale_rows(&tape, &x, &w)?, &v)?;
                let y = segment_weighted_sum(&tape, &y, &w, &offsets)?;
                let loss = super::super::sum(&tape, &y)?;
                let g = tape.backward(&loss)?;
                Ok([x, w, v].map(|i| g.of(&i).map(|t| t.data().to_vec())))
            })
            .expect("threads")
        };
        assert_eq!(run(1)?, run(4)?);
        Ok(())
    }

    #[test]
    fn wrong_shapes_are_refused() {
        let tape = Tape::<f32>::new();
        let x = Var::constant(Tensor::zeros(&[4, 2]));
        let three = Var::constant(Tensor::zeros(&[3, 1]));
        let message = scale_rows(&tape, &x, &three).map(|_| ()).unwrap_err().to_string();
        assert_eq!(message, "scale_rows: w has shape [3, 1], expected [4, 1]");
        assert!(mul_vector(&tape, &x, &Var::constant(Tensor::zeros(&[3]))).is_err());
        let four = Var::constant(Tensor::zeros(&[4, 1]));
        assert!(segment_weighted_sum(&tape, &x, &three, &Offsets::from_lengths([4])).is_err());
        assert!(segment_weighted_sum(&tape, &x, &four, &Offsets::from_lengths([3])).is_err());
    }
}
