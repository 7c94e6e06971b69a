//! Linear layers and tables with quantised weights, for inference.

use super::kernels::Kernel;
use super::product::{Epilogue, product};
use super::rows::Rows;
use super::{Quantized, Range};
use crate::{Activation, EngineError, Result, Tensor, Var};

/// y = f(x·Wᵀ + b) with a quantised weight: `x` `[rows, inputs]`, `weight`
/// `[outputs, inputs]` laid out in panels, `bias` `[outputs]`; the result
/// `[rows, outputs]`, which no gradient flows through.
///
/// # Errors
/// When the shapes do not fit, or the weight is not laid out in panels.
pub fn quantized_linear(x: &Var, weight: &Quantized, bias: Option<&Var>, activation: Activation) -> Result<Var> {
    let mut all = quantized_linears(x, &[(weight, bias)], activation)?;
    all.pop().ok_or_else(|| EngineError::setting(OP, "no layer"))
}

const OP: &str = "quantized_linear";

/// As [`quantized_linear`] for several layers with the same input, which
/// becomes codes once (for each range that it has).
///
/// # Errors
/// As there.
pub fn quantized_linears(x: &Var, layers: &[(&Quantized, Option<&Var>)], activation: Activation) -> Result<Vec<Var>> {
    let [rows, inputs] = *x.value().dims() else {
        return Err(EngineError::shape(OP, "x", "[rows, inputs]", x.shape()));
    };
    let mut codes: Vec<(Option<Range>, Rows)> = Vec::new();
    let mut all = Vec::with_capacity(layers.len());
    for (weight, bias) in layers {
        let Some(panels) = weight.panels() else {
            return Err(EngineError::setting(OP, "the weight is laid out for looking rows up, not for products"));
        };
        if inputs != weight.cols() {
            return Err(EngineError::shape(OP, "x", format!("[rows, {}]", weight.cols()), x.shape()));
        }
        if let Some(b) = bias.filter(|b| b.value().dims() != [weight.rows()]) {
            return Err(EngineError::shape(OP, "bias", format!("[{}]", weight.rows()), b.shape()));
        }
        let at = match codes.iter().position(|(range, _)| *range == weight.range()) {
            Some(at) => at,
            None => {
                codes.push((weight.range(), Rows::of(x.data(), inputs, weight.range())));
                codes.len() - 1
            }
        };
        let mut value = Tensor::any(&[rows, weight.rows()]);
        let epilogue = Epilogue { bias: bias.map(Var::data), activation };
        product(Kernel::best(), &codes[at].1, panels, &epilogue, value.data_mut());
        all.push(Var::constant(value));
    }
    Ok(all)
}

/// Rows of a quantised table `[entries, dim]` for identifiers: `[ids, dim]`.
///
/// # Errors
/// When an identifier is not below the entries; the error names the position.
pub fn quantized_embedding(table: &Quantized, ids: &[u32]) -> Result<Var> {
    if let Some(position) = ids.iter().position(|id| *id as usize >= table.rows()) {
        let (op, index) = ("quantized_embedding", ids[position] as usize);
        return Err(EngineError::Index { op, index, position, limit: table.rows() });
    }
    let dim = table.cols();
    let mut value = Tensor::any(&[ids.len(), dim]);
    crate::parallel::rows_mut(value.data_mut(), dim.max(1), |first, part| {
        for (row, id) in part.chunks_exact_mut(dim.max(1)).zip(&ids[first..]) {
            table.dequantize_row(*id as usize, row);
        }
    });
    Ok(Var::constant(value))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Random, Tape, ops};

    fn some(dims: &[usize], purpose: &str) -> Tensor {
        let random = Random::new(5).purpose(purpose);
        let values: Vec<f32> = (0..dims.iter().product()).map(|i: usize| random.normal(i as u64) as f32).collect();
        Tensor::from_slice(dims, &values).expect("values")
    }

    /// Codes of activations and weights multiplied in f64: what the product has
    /// to be, but for rounding.
    fn reference(x: &Tensor, w: &Quantized, bias: Option<&Tensor>) -> Vec<f64> {
        let (inputs, outputs) = (w.cols(), w.rows());
        let rows = Rows::of(x.data(), inputs, w.range());
        let weight = w.dequantize::<f64>();
        let mut out = Vec::new();
        for r in 0..rows.scales.len() {
            let codes = &rows.codes[r * rows.depth..][..inputs];
            let x: Vec<f64> =
                codes.iter().map(|u| f64::from(rows.scales[r]) * f64::from(f32::from(*u) - rows.zeros[r])).collect();
            for c in 0..outputs {
                let dot: f64 = x.iter().zip(&weight.data()[c * inputs..]).map(|(x, w)| x * w).sum();
                out.push(dot + bias.map_or(0.0, |b| f64::from(b.data()[c])));
            }
        }
        out
    }

    #[test]
    fn products_are_those_of_the_codes() -> Result<()> {
        for (rows, inputs, outputs) in [(1, 1, 1), (3, 64, 16), (33, 70, 50), (16, 384, 100), (70, 129, 33)] {
            for range in [None, Some(Range { low: -1.5, high: 2.0 })] {
                let x = some(&[rows, inputs], "x");
                let w = Quantized::of(&some(&[outputs, inputs], "w"))?.into_panels().with_range(range);
                let b = some(&[outputs], "b");
                for bias in [None, Some(&b)] {
                    let want = reference(&x, &w, bias);
                    let bias = bias.map(|b| Var::constant(b.clone()));
                    let y = quantized_linear(&Var::constant(x.clone()), &w, bias.as_ref(), Activation::Identity)?;
                    for (y, want) in y.data().iter().zip(&want) {
                        assert!((f64::from(*y) - want).abs() < 2e-4 * want.abs().max(1.0), "{y} is not {want}");
                    }
                }
            }
        }
        Ok(())
    }

    #[test]
    fn every_kernel_and_any_number_of_threads_give_the_same_bits() -> Result<()> {
        let (rows, inputs, outputs) = (300, 200, 530);
        let x = some(&[rows, inputs], "x");
        let w = Quantized::of(&some(&[outputs, inputs], "w"))?.into_panels();
        let bias = some(&[outputs], "b");
        let run = |kernel: Kernel, threads: usize| {
            let mut out = vec![0.0; rows * outputs];
            crate::with_threads(threads, || {
                let codes = Rows::of(x.data(), inputs, None);
                let epilogue = Epilogue { bias: Some(bias.data()), activation: Activation::Gelu };
                product(kernel, &codes, w.panels().expect("panels"), &epilogue, &mut out);
            })
            .expect("threads");
            out.iter().map(|y| y.to_bits()).collect::<Vec<_>>()
        };
        let first = run(Kernel::Portable, 1);
        for kernel in Kernel::ALL.into_iter().filter(|k| k.is_here()) {
            for threads in [1, 2, 4] {
                assert!(run(kernel, threads) == first, "{kernel:?} with {threads} threads");
            }
        }
        Ok(())
    }

    #[test]
    fn it_stays_close_to_the_layer_it_was_made_from() -> Result<()> {
        let tape = Tape::inference();
        let (x, w, b) = (some(&[40, 384], "x"), some(&[96, 384], "w"), some(&[96], "b"));
        let quantized = Quantized::of(&w)?.into_panels();
        let (x, w, b) = (Var::constant(x), Var::constant(w), Var::constant(b));
        for f in [Activation::Identity, Activation::Gelu, Activation::Silu] {
            let want = ops::linear(&tape, &x, &w, Some(&b), f)?;
            let got = quantized_linear(&x, &quantized, Some(&b), f)?;
            let error: f32 = want.data().iter().zip(got.data()).map(|(a, b)| (a - b).powi(2)).sum();
            let size: f32 = want.data().iter().map(|a| a.powi(2)).sum();
            assert!((error / size).sqrt() < 0.02, "{f:?}: {}", (error / size).sqrt());
        }
        Ok(())
    }

    #[test]
    fn what_is_not_finite_reaches_every_output() -> Result<()> {
        let mut x = some(&[2, 8], "x");
        x.data_mut()[3] = f32::NAN;
        let w = Quantized::of(&some(&[5, 8], "w"))?.into_panels();
        let y = quantized_linear(&Var::constant(x), &w, None, Activation::Identity)?;
        assert!(y.data()[..5].iter().all(|y| y.is_nan()) && y.data()[5..].iter().all(|y| y.is_finite()));
        Ok(())
    }

    #[test]
    fn tables_and_wrong_shapes() -> Result<()> {
        let table = Quantized::of(&some(&[6, 5], "t"))?;
        let all = table.dequantize::<f32>();
        let rows = quantized_embedding(&table, &[4, 0, 4])?;
        assert_eq!(rows.data()[..5], all.data()[20..25]);
        assert_eq!(rows.data()[5..10], all.data()[..5]);
        let message = quantized_embedding(&table, &[1, 6]).map(|_| ()).unwrap_err().to_string();
        assert_eq!(message, "quantized_embedding: index 6 at position 1 is not below 6");
        let x = Var::constant(some(&[2, 5], "x"));
        assert!(quantized_linear(&x, &table, None, Activation::Identity).is_err(), "rows are no panels");
        let w = table.into_panels();
        assert_eq!(quantized_linear(&x, &w, None, Activation::Relu)?.value().dims(), [2, 6]);
        let none = Var::constant(Tensor::zeros(&[0, 5]));
        assert_eq!(quantized_linear(&none, &w, None, Activation::Relu)?.value().dims(), [0, 6]);
        let wrong = Var::constant(Tensor::zeros(&[2, 4]));
        assert!(quantized_linear(&wrong, &w, None, Activation::Relu).is_err());
        assert!(quantized_linear(&x, &w, Some(&wrong), Activation::Relu).is_err());
        Ok(())
    }
}
