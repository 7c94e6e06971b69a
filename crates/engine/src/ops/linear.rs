//! The linear layer as one operation: product, bias and activation.

use super::{Activation, activation, matrix, vector};
use crate::matmul::{Matrix, Output, Product, Right, reads_packed, run_all};
use crate::parallel::{reduce_rows, rows_mut};
use crate::simd::vectorised;
use crate::tape::Handle;
use crate::{Element, EngineError, Gradients, Result, Tape, Tensor, Var};

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
    let layer = Layer::new("linear", x, weight, bias)?;
    let involved = involved(x, weight, bias);
    let keeps_before = activation != Activation::Identity && tape.records(&involved);
    let at_once = if keeps_before { Activation::Identity } else { activation };
    let mut value = layer.forward(x, weight, bias, Activation::Identity, at_once);
    // The value before the activation is kept only where backward needs it.
    let before = keeps_before.then(|| {
        let after = activated(&value, activation);
        std::mem::replace(&mut value, after)
    });
    let (hx, shared) = (x.handle(), (weight.handle(), bias.map(Var::handle)));
    // Of the two factors each is kept only for the gradient of the other: with a
    // frozen weight the input is freed, below the lowest trained layer the weight.
    let (x, weight) =
        (weight.needs_gradient().then(|| x.value().clone()), x.needs_gradient().then(|| weight.value().clone()));
    Ok(tape.record(value, &involved, move |mut d, g| {
        if let Some(before) = before {
            activation::backward_in_place(activation, d.data_mut(), before.data());
        }
        layer.shared_gradients(&d, x.as_ref(), Activation::Identity, shared, g);
        drop(x);
        if let (Some(weight), Some((mut dx, add))) = (&weight, g.take(hx, &[layer.rows, layer.inputs])) {
            layer.input_gradient(&d, weight, &mut dx).accumulating(add).run();
            g.put(hx, dx);
        }
        Ok(())
    }))
}

/// y = f(u)·Wᵀ + b: the activation of the layer before is applied where the
/// product reads its input, so that f(u) never stands in memory.
///
/// `u` is `[rows, inputs]`, `weight` `[outputs, inputs]`, `bias` `[outputs]`;
/// the result `[rows, outputs]`. Backward evaluates f anew.
///
/// # Errors
/// When the shapes do not fit.
pub fn activated_linear<E: Element>(
    tape: &Tape<E>,
    u: &Var<E>,
    activation: Activation,
    weight: &Var<E>,
    bias: Option<&Var<E>>,
) -> Result<Var<E>> {
    let layer = Layer::new("activated_linear", u, weight, bias)?;
    let involved = involved(u, weight, bias);
    let value = layer.forward(u, weight, bias, activation, Activation::Identity);
    let (hu, shared) = (u.handle(), (weight.handle(), bias.map(Var::handle)));
    let (u, weight) = (u.value().clone(), u.needs_gradient().then(|| weight.value().clone()));
    Ok(tape.record(value, &involved, move |d, g| {
        layer.shared_gradients(&d, Some(&u), activation, shared, g);
        let dims = [layer.rows, layer.inputs];
        if let (Some(weight), Some((known, add))) = (&weight, g.take(hu, &dims)) {
            // f′ belongs to this product alone, not to a gradient known before.
            let (mut du, known) = if add { (Tensor::any(&dims), Some(known)) } else { (known, None) };
            let (slope, values) = (activation::backward_loop(activation), u.data());
            let times_slope = |row: usize, col: usize, run: &mut [E]| {
                slope(run, &values[row * layer.inputs + col..][..run.len()]);
            };
            layer.input_gradient(&d, weight, &mut du).finished_by(&times_slope).run();
            match known {
                Some(known) => {
                    g.put(hu, known);
                    g.add(hu, du);
                }
                None => g.put(hu, du),
            }
        }
        Ok(())
    }))
}

/// Layers of one input, y = f(x·Wᵀ + b) of each: the products of few rows are
/// done in one go, which takes less time than one after the other where they
/// are small.
///
/// `x` is `[rows, inputs]`, a weight `[outputs, inputs]`, a bias `[outputs]`.
///
/// # Errors
/// When the shapes do not fit.
pub fn linears<E: Element>(
    tape: &Tape<E>,
    x: &Var<E>,
    layers: &[(&Var<E>, Option<&Var<E>>)],
    activation: Activation,
) -> Result<Vec<Var<E>>> {
    if layers.iter().any(|(weight, bias)| tape.records(&involved(x, weight, *bias))) {
        return layers.iter().map(|(weight, bias)| linear(tape, x, weight, *bias, activation)).collect();
    }
    let shapes = layers.iter().map(|(weight, bias)| Layer::new("linears", x, weight, *bias));
    let shapes = shapes.collect::<Result<Vec<_>>>()?;
    let mut values = shapes.iter().map(|s| Tensor::any(&[s.rows, s.outputs])).collect::<Vec<_>>();
    let finishes = layers.iter().map(|(_, bias)| finish(*bias, activation)).collect::<Vec<_>>();
    let products = shapes.iter().zip(layers).zip(&mut values).zip(&finishes);
    let products = products.map(|(((shape, (weight, bias)), value), finish)| {
        let product = shape.product(x, weight, value);
        if bias.is_some() || activation != Activation::Identity { product.finished_by(finish) } else { product }
    });
    run_all(products.collect());
    Ok(values.into_iter().map(Var::constant).collect())
}

/// What happens to elements of a complete x·Wᵀ.
fn finish<E: Element>(bias: Option<&Var<E>>, activation: Activation) -> impl Fn(usize, usize, &mut [E]) + Sync {
    let (bias, activate) = (bias.map(Var::data), activation::forward_loop(activation));
    move |_, col, run| {
        if let Some(bias) = bias {
            add_bias(run, &bias[col..][..run.len()]);
        }
        activate(run);
    }
}

fn involved<'a, E: Element>(x: &'a Var<E>, weight: &'a Var<E>, bias: Option<&'a Var<E>>) -> Vec<&'a Var<E>> {
    let mut all = vec![x, weight];
    all.extend(bias);
    all
}

/// f(u), apart.
fn activated<E: Element>(u: &Tensor<E>, activation: Activation) -> Tensor<E> {
    let mut after = Tensor::any(u.dims());
    let (f, u) = (activation::forward_loop(activation), u.data());
    rows_mut(after.data_mut(), 1, |first, y| {
        y.copy_from_slice(&u[first..][..y.len()]);
        f(y);
    });
    after
}

/// The shape of a layer's work.
#[derive(Clone, Copy)]
struct Layer {
    rows: usize,
    inputs: usize,
    outputs: usize,
}

impl Layer {
    fn new<E: Element>(op: &'static str, x: &Var<E>, weight: &Var<E>, bias: Option<&Var<E>>) -> Result<Self> {
        let (rows, inputs) = matrix(op, "x", x)?;
        let (outputs, expected) = matrix(op, "weight", weight)?;
        if inputs != expected {
            return Err(EngineError::shape(op, "x", format!("[rows, {expected}]"), x.shape()));
        }
        if let Some(b) = bias {
            vector(op, "bias", b, outputs)?;
        }
        Ok(Self { rows, inputs, outputs })
    }

    /// after(before(x)·Wᵀ + b)
    fn forward<E: Element>(
        self,
        x: &Var<E>,
        weight: &Var<E>,
        bias: Option<&Var<E>>,
        before: Activation,
        after: Activation,
    ) -> Tensor<E> {
        let mut value = Tensor::any(&[self.rows, self.outputs]);
        let finish = finish(bias, after);
        let mut product = self.product(x, weight, &mut value);
        if before != Activation::Identity {
            product = product.left_mapped(activation::forward_loop(before));
        }
        if bias.is_some() || after != Activation::Identity {
            product = product.finished_by(&finish);
        }
        product.run();
        value
    }

    /// x·Wᵀ
    fn product<'a, E: Element>(self, x: &'a Var<E>, weight: &'a Var<E>, value: &'a mut Tensor<E>) -> Product<'a, E> {
        // A weight that nobody trains is packed once for all products that read it so.
        let kept = !weight.needs_gradient() && reads_packed(self.rows, self.outputs, self.inputs);
        let packed = if kept { weight.value().packed_transpose() } else { None };
        let plain = Matrix::dense(weight.data(), self.outputs, self.inputs).transposed();
        let right = packed.map_or(Right::Plain(plain), Right::Packed);
        let x = Matrix::dense(x.data(), self.rows, self.inputs);
        Product::with(x, right, Output::dense(value.data_mut(), self.rows, self.outputs))
    }

    /// Adds the gradients of weight and bias: dᵀ·f(x) and the sum of d's rows.
    fn shared_gradients<E: Element>(
        self,
        d: &Tensor<E>,
        x: Option<&Tensor<E>>,
        f: Activation,
        (weight, bias): (Handle, Option<Handle>),
        g: &mut Gradients<E>,
    ) {
        if let Some(bias) = bias.filter(|h| g.wants(*h)) {
            g.add(bias, sum_rows(d, self.outputs));
        }
        let Self { rows, inputs, outputs } = self;
        if let (Some(x), Some((mut dw, add))) = (x, g.take(weight, &[outputs, inputs])) {
            let (d, x) = (Matrix::dense(d.data(), rows, outputs).transposed(), Matrix::dense(x.data(), rows, inputs));
            let mut product = Product::new(d, x, Output::dense(dw.data_mut(), outputs, inputs)).accumulating(add);
            if f != Activation::Identity {
                product = product.right_mapped(activation::forward_loop(f));
            }
            product.run();
            g.put(weight, dw);
        }
    }

    /// d·W
    fn input_gradient<'a, E: Element>(
        self,
        d: &'a Tensor<E>,
        weight: &'a Tensor<E>,
        dx: &'a mut Tensor<E>,
    ) -> Product<'a, E> {
        Product::new(
            Matrix::dense(d.data(), self.rows, self.outputs),
            Matrix::dense(weight.data(), self.outputs, self.inputs),
            Output::dense(dx.data_mut(), self.rows, self.inputs),
        )
    }
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
    fn add_bias<E>(run: &mut [E], bias: &[E]) {
        for (y, b) in run.iter_mut().zip(bias) {
            *y += *b;
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
    fn an_activation_read_with_the_input_is_that_of_the_layer_before() -> Result<()> {
        let inputs = [random(&[5, 4], "u"), random(&[3, 4], "w"), random(&[3], "b")];
        for a in [Activation::Identity, Activation::Gelu, Activation::Sigmoid] {
            gradients(&inputs, |t, v| activated_linear(t, &v[0], a, &v[1], Some(&v[2])))?;
            // A second use of u: its gradients add up.
            gradients(&inputs[..2], |t, v| {
                let y = activated_linear(t, &v[0], a, &v[1], None)?;
                let z = activated_linear(t, &v[0], Activation::Tanh, &v[1], None)?;
                super::super::mul(t, &y, &z)
            })?;
        }
        Ok(())
    }

    /// Large enough for several blocks and slices, with edges; f32 on the
    /// packed product against the same operations in f64.
    #[test]
    fn fused_layers_agree_with_the_plain_ones_in_double_precision() -> Result<()> {
        let (rows, inputs, outputs) = (333, 601, 77);
        let wide = [random(&[rows, inputs], "x"), random(&[outputs, inputs], "w"), random(&[outputs], "b")];
        let [x, w, b] = wide.map(Var::constant);
        let narrow = [&x, &w, &b].map(|v| v.value().cast::<f32>());
        let plain = {
            let tape = Tape::<f64>::new();
            let [x, w, b] = [&x, &w, &b].map(|v| tape.input(v.value().clone()));
            let y = super::super::activate(&tape, &x, Activation::Gelu)?;
            let y = linear(&tape, &y, &w, Some(&b), Activation::Identity)?;
            let value = y.value().clone();
            let g = tape.backward_from(&y, value.clone())?;
            [Some(&value), g.of(&x), g.of(&w), g.of(&b)].map(|t| t.expect("a gradient").clone())
        };
        let fused = {
            let tape = Tape::<f32>::new();
            let [x, w, b] = narrow.clone().map(|v| tape.input(v));
            let y = activated_linear(&tape, &x, Activation::Gelu, &w, Some(&b))?;
            let value = y.value().clone();
            let g = tape.backward_from(&y, value.clone())?;
            [Some(&value), g.of(&x), g.of(&w), g.of(&b)].map(|t| t.expect("a gradient").clone())
        };
        for (a, b) in plain.iter().zip(&fused) {
            let scale = a.data().iter().fold(0.0_f64, |m, x| m.max(x.abs()));
            let worst = a.data().iter().zip(b.data()).fold(0.0_f64, |m, (x, y)| m.max((x - f64::from(*y)).abs()));
            assert!(worst < 2e-6 * scale, "{worst} of {scale}");
        }
        // A weight that nobody trains is packed, and an activation finished at once.
        let tape = Tape::inference();
        let [x, w, b] = narrow.map(Var::constant);
        let y = linear(&tape, &x, &w, Some(&b), Activation::Gelu)?;
        let again = linear(&tape, &x, &w, Some(&b), Activation::Gelu)?;
        let apart =
            super::super::activate(&tape, &linear(&tape, &x, &w, Some(&b), Activation::Identity)?, Activation::Gelu)?;
        assert_eq!(y.data(), again.data());
        assert_eq!(y.data(), apart.data());
        Ok(())
    }

    #[test]
    fn layers_of_one_input_at_once_are_those_of_each_alone() -> Result<()> {
        let random = |dims: &[usize], name| random(dims, name).cast::<f32>();
        let weights = [[300, 64], [7, 64], [90, 64]].map(|dims| random(&dims, "w"));
        let biases = [None, Some(random(&[7], "b")), Some(random(&[90], "c"))];
        // Few rows, and many.
        for rows in [0, 1, 5, 200] {
            let x = random(&[rows, 64], "x");
            for tape in [Tape::inference(), Tape::new()] {
                let x = tape.input(x.clone());
                let [w, b] = [weights.to_vec(), biases.iter().flatten().cloned().collect()]
                    .map(|all: Vec<Tensor>| all.into_iter().map(|t| tape.input(t)).collect::<Vec<_>>());
                let layers = [(&w[0], None), (&w[1], Some(&b[0])), (&w[2], Some(&b[1]))];
                let all = linears(&tape, &x, &layers, Activation::Gelu)?;
                for (y, (weight, bias)) in all.iter().zip(layers) {
                    assert_eq!(y.data(), linear(&tape, &x, weight, bias, Activation::Gelu)?.data());
                    assert_eq!(y.needs_gradient(), tape.is_recording());
                }
            }
        }
        Ok(())
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
