//! Values whose way is not kept, but gone again in backward.

use crate::{Element, Result, Tape, Tensor, Var};

/// `f` of the inputs, of which nothing stays in memory but the inputs and the
/// result: backward computes it once more to have what it needs (Chen et al.,
/// "Training deep nets with sublinear memory cost", 2016).
///
/// `f` must give the same for the same inputs, randomness included. Gradients
/// are those of `f` to the bit, unless a parameter is used both inside and
/// outside, or in several such calls, whose sums then take another way.
///
/// # Errors
/// Those of `f`.
pub fn recompute<E: Element>(
    tape: &Tape<E>,
    inputs: &[&Var<E>],
    f: impl Fn(&Tape<E>, &[Var<E>]) -> Result<Var<E>> + 'static,
) -> Result<Var<E>> {
    if !tape.is_recording() {
        let inputs: Vec<Var<E>> = inputs.iter().map(|v| (*v).clone()).collect();
        return f(tape, &inputs);
    }
    let kept: Vec<(Tensor<E>, bool)> = inputs.iter().map(|v| (v.value().clone(), v.needs_gradient())).collect();
    let handles: Vec<_> = inputs.iter().map(|v| v.handle()).collect();
    let run = move |tape: &Tape<E>| -> Result<(Vec<Var<E>>, Var<E>)> {
        let leaf = |(value, wanted): &(Tensor<E>, bool)| match wanted {
            true => tape.input(value.clone()),
            false => Var::constant(value.clone()),
        };
        let vars: Vec<Var<E>> = kept.iter().map(leaf).collect();
        let out = f(tape, &vars)?;
        Ok((vars, out))
    };
    // Recorded, though thrown away, to see whether a gradient passes through.
    let (_, out) = run(&Tape::new())?;
    if !out.needs_gradient() {
        return Ok(out);
    }
    Ok(tape.record_always(out.into_value(), move |d, g| {
        let tape = Tape::new();
        let (vars, out) = run(&tape)?;
        let mut inner = tape.backward_from(&out, d)?;
        for (var, handle) in vars.iter().zip(handles) {
            if let Some(gradient) = inner.take_of(var) {
                g.add(handle, gradient);
            }
        }
        g.accumulate(inner);
        Ok(())
    }))
}

#[cfg(test)]
mod tests {
    use super::super::{Activation, dropout, linear, mul, sum};
    use super::*;
    use crate::check::{gradients, random};
    use crate::{Params, Random};

    #[test]
    fn gradients_match_finite_differences() -> Result<()> {
        let inputs = [random(&[5, 4], "x"), random(&[3, 4], "w")];
        gradients(&inputs, |t, v| {
            let y = recompute(t, &[&v[0], &v[1]], |t, v| linear(t, &v[0], &v[1], None, Activation::Gelu))?;
            mul(t, &y, &y)
        })
    }

    /// The gradients of two layers with dropout, and the operations kept.
    fn two_layers(recomputed: bool) -> Result<(Vec<Vec<u64>>, usize)> {
        let mut params = Params::<f64>::new();
        let weights = [params.insert("a", random(&[4, 4], "a"))?, params.insert("b", random(&[4, 4], "b"))?];
        let tape = Tape::new();
        let input = tape.input(random(&[6, 4], "x"));
        let mut x = input.clone();
        for (i, id) in weights.into_iter().enumerate() {
            let own = params.clone();
            let layer = move |t: &Tape<f64>, v: &[Var<f64>]| {
                let y = linear(t, &v[0], &t.param(&own, id), None, Activation::Tanh)?;
                let y = dropout(t, &y, 0.5, Random::new(i as u64))?;
                mul(t, &y, &v[0])
            };
            x = if recomputed { recompute(&tape, &[&x], layer)? } else { layer(&tape, &[x])? };
        }
        let loss = sum(&tape, &x)?;
        let operations = tape.operations();
        let g = tape.backward(&loss)?;
        let all = weights.map(|w| g.param(w)).into_iter().chain([g.of(&input).cloned()]).flatten();
        Ok((all.map(|t| t.data().iter().map(|x| x.to_bits()).collect()).collect(), operations))
    }

    #[test]
    fn gradients_are_those_of_the_plain_way_to_the_bit() -> Result<()> {
        let (plain, kept) = two_layers(false)?;
        let (again, fewer) = two_layers(true)?;
        assert_eq!(plain, again);
        assert_eq!(plain.len(), 3);
        assert!(fewer < kept, "{fewer} of {kept} operations are kept");
        Ok(())
    }

    #[test]
    fn nothing_is_recorded_where_nothing_is_trained() -> Result<()> {
        let tape = Tape::<f64>::new();
        let x = Var::constant(random(&[2, 2], "x"));
        let y = recompute(&tape, &[&x], |t, v| mul(t, &v[0], &v[0]))?;
        assert!(!y.needs_gradient());
        assert_eq!(tape.operations(), 0);
        Ok(())
    }
}
