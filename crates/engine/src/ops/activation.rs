//! Activation functions, alone or in the epilogue of [`super::linear`].

use crate::parallel::rows_mut;
use crate::simd::vectorised;
use crate::{Element, Result, Tape, Var};

/// An elementwise non-linearity.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Activation {
    /// x
    Identity,
    /// max(x, 0)
    Relu,
    /// x·Φ(x) with the exact normal distribution (Hendrycks and Gimpel 2016).
    Gelu,
    /// The tanh approximation of GELU, as GPT-2 uses it.
    GeluTanh,
    /// x·σ(1.702 x), as OpenAI's CLIP uses it.
    QuickGelu,
    /// x·σ(x), also called swish.
    Silu,
    /// tanh x
    Tanh,
    /// σ(x) = 1 / (1 + e⁻ˣ)
    Sigmoid,
}

/// Applies an activation: any shape to the same shape.
///
/// # Errors
/// None at present.
pub fn activate<E: Element>(tape: &Tape<E>, x: &Var<E>, activation: Activation) -> Result<Var<E>> {
    if activation == Activation::Identity {
        return Ok(x.clone());
    }
    let mut value = x.value().clone();
    forward_in_place(activation, value.data_mut());
    let (h, before) = (x.handle(), x.value().clone());
    Ok(tape.record(value, &[x], move |mut d, g| {
        backward_in_place(activation, d.data_mut(), before.data());
        g.add(h, d);
        Ok(())
    }))
}

/// x ← f(x)
pub(crate) fn forward_in_place<E: Element>(activation: Activation, x: &mut [E]) {
    let f = forward_loop(activation);
    rows_mut(x, 1, |_, part| f(part));
}

/// d ← d · f′(x)
pub(crate) fn backward_in_place<E: Element>(activation: Activation, d: &mut [E], x: &[E]) {
    let f = backward_loop(activation);
    rows_mut(d, 1, |i, part| {
        let end = i + part.len();
        f(part, &x[i..end]);
    });
}

/// The vector loop of an activation, over one run of elements.
pub(crate) fn forward_loop<E: Element>(activation: Activation) -> fn(&mut [E]) {
    match activation {
        Activation::Identity => |_| {},
        Activation::Relu => relu,
        Activation::Gelu => gelu,
        Activation::GeluTanh => gelu_tanh,
        Activation::QuickGelu => quick_gelu,
        Activation::Silu => silu,
        Activation::Tanh => tanh,
        Activation::Sigmoid => sigmoid,
    }
}

pub(crate) fn backward_loop<E: Element>(activation: Activation) -> fn(&mut [E], &[E]) {
    match activation {
        Activation::Identity => |_, _| {},
        Activation::Relu => relu_backward,
        Activation::Gelu => gelu_backward,
        Activation::GeluTanh => gelu_tanh_backward,
        Activation::QuickGelu => quick_gelu_backward,
        Activation::Silu => silu_backward,
        Activation::Tanh => tanh_backward,
        Activation::Sigmoid => sigmoid_backward,
    }
}

macro_rules! activations {
    ($($forward:ident, $backward:ident: |$x:ident| $f:expr, $df:expr;)*) => {$(
        vectorised! {
            fn $forward<E>(values: &mut [E]) {
                for v in values {
                    let $x = *v;
                    *v = $f;
                }
            }
        }
        vectorised! {
            fn $backward<E>(gradients: &mut [E], values: &[E]) {
                for (d, v) in gradients.iter_mut().zip(values) {
                    let $x = *v;
                    *d *= $df;
                }
            }
        }
    )*};
}

#[inline(always)]
fn sigma<E: Element>(x: E) -> E {
    E::ONE / (E::ONE + (-x).exp())
}

/// Φ(x)
#[inline(always)]
fn normal_cdf<E: Element>(x: E) -> E {
    E::of(0.5) * (E::ONE + (x * E::of(std::f64::consts::FRAC_1_SQRT_2)).erf())
}

/// Φ(x) + x·φ(x), φ being the density: the slope of GELU.
#[inline(always)]
fn gelu_slope<E: Element>(x: E) -> E {
    let (erf, exp) = (x * E::of(std::f64::consts::FRAC_1_SQRT_2)).erf_exp();
    E::of(0.5) * (E::ONE + erf) + x * exp * E::of(0.398_942_280_401_432_7)
}

/// tanh(√(2/π)(x + 0.044715 x³))
#[inline(always)]
fn gelu_inner<E: Element>(x: E) -> E {
    (E::of(0.797_884_560_802_865_4) * (x + E::of(0.044_715) * x * x * x)).tanh()
}

activations! {
    relu, relu_backward: |x| x.larger(E::ZERO), if x > E::ZERO { E::ONE } else { E::ZERO };
    gelu, gelu_backward: |x| x * normal_cdf(x), gelu_slope(x);
    gelu_tanh, gelu_tanh_backward: |x| E::of(0.5) * x * (E::ONE + gelu_inner(x)), {
        let t = gelu_inner(x);
        let slope = E::of(0.797_884_560_802_865_4) * (E::ONE + E::of(0.134_145) * x * x);
        E::of(0.5) * (E::ONE + t) + E::of(0.5) * x * (E::ONE - t * t) * slope
    };
    quick_gelu, quick_gelu_backward: |x| x * sigma(x * E::of(1.702)), {
        let s = sigma(x * E::of(1.702));
        s + x * E::of(1.702) * s * (E::ONE - s)
    };
    silu, silu_backward: |x| x * sigma(x), {
        let s = sigma(x);
        s + x * s * (E::ONE - s)
    };
    tanh, tanh_backward: |x| x.tanh(), {
        let t = x.tanh();
        E::ONE - t * t
    };
    sigmoid, sigmoid_backward: |x| sigma(x), {
        let s = sigma(x);
        s * (E::ONE - s)
    };
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::{gradients, random};

    const ALL: [Activation; 8] = [
        Activation::Identity,
        Activation::Relu,
        Activation::Gelu,
        Activation::GeluTanh,
        Activation::QuickGelu,
        Activation::Silu,
        Activation::Tanh,
        Activation::Sigmoid,
    ];

    #[test]
    fn gradients_match_finite_differences() -> Result<()> {
        for a in ALL {
            gradients(&[random(&[4, 7], "x")], |t, v| activate(t, &v[0], a))?;
        }
        Ok(())
    }

    #[test]
    fn values_are_those_of_pytorch() {
        // torch.nn.functional on [-3, -0.5, 0, 1, 4], float64.
        let x = [-3.0, -0.5, 0.0, 1.0, 4.0];
        let known: [(Activation, [f64; 5]); 5] = [
            (Activation::Gelu, [-0.004_049_694_096, -0.154_268_769_363, 0.0, 0.841_344_746_069, 3.999_873_315_032]),
            (Activation::GeluTanh, [-0.003_637_392_022, -0.154_285_988_127, 0.0, 0.841_191_990_607, 3.999_929_785_549]),
            (Activation::QuickGelu, [-0.018_069_146_5, -0.149_643_108_8, 0.0, 0.845_795_766_7, 3.995_588_297_1]),
            (Activation::Silu, [-0.142_277_619_3, -0.188_770_334_4, 0.0, 0.731_058_578_6, 3.928_055_160_2]),
            (Activation::Sigmoid, [0.047_425_873_2, 0.377_540_668_8, 0.5, 0.731_058_578_6, 0.982_013_790_0]),
        ];
        for (a, want) in known {
            let mut got = x;
            forward_in_place(a, &mut got);
            for (g, w) in got.iter().zip(want) {
                assert!((g - w).abs() < 1e-4, "{a:?}: {g} is not {w}");
            }
        }
    }

    #[test]
    fn f32_follows_f64_and_extremes_stay_finite() {
        for a in ALL {
            let x: Vec<f64> = (-4000..4000).map(|i| f64::from(i) / 400.0).collect();
            let mut wide = x.clone();
            let mut narrow: Vec<f32> = x.iter().map(|x| *x as f32).collect();
            forward_in_place(a, &mut wide);
            forward_in_place(a, &mut narrow);
            for (w, n) in wide.iter().zip(&narrow) {
                assert!((w - f64::from(*n)).abs() < 3e-6, "{a:?}: {n} is not {w}");
            }
            let mut far = [-1e30_f32, 1e30];
            forward_in_place(a, &mut far);
            assert!(far.iter().all(|x| x.is_finite()), "{a:?}: {far:?}");
        }
    }
}
