//! The numbers tensors are made of: `f32` in use, `f64` in tests.

use crate::buffer::Pool;
use std::fmt::Debug;
use std::ops::{Add, AddAssign, Div, DivAssign, Mul, MulAssign, Neg, Sub, SubAssign};

/// A floating-point element with the functions the operations are written in.
///
/// The `f32` functions are branch-free polynomials, so that a loop over them
/// becomes vector code under every instruction set; `f64` uses the standard
/// library and is the reference that gradient tests trust.
pub trait Element:
    Copy
    + Send
    + Sync
    + Default
    + Debug
    + PartialOrd
    + PartialEq
    + Add<Output = Self>
    + Sub<Output = Self>
    + Mul<Output = Self>
    + Div<Output = Self>
    + Neg<Output = Self>
    + AddAssign
    + SubAssign
    + MulAssign
    + DivAssign
    + 'static
{
    /// 0
    const ZERO: Self;
    /// 1
    const ONE: Self;
    /// Minus infinity, the identity of `max`.
    const NEG_INFINITY: Self;

    /// The nearest value to `x`.
    fn of(x: f64) -> Self;
    /// The value as `f64`, exactly.
    fn to_f64(self) -> f64;
    /// √x
    fn sqrt(self) -> Self;
    /// |x|
    fn abs(self) -> Self;
    /// eˣ; relative error below 2e-7 for `f32`, saturating outside ±87.
    fn exp(self) -> Self;
    /// ln x
    fn ln(self) -> Self;
    /// tanh x
    fn tanh(self) -> Self;
    /// sin x
    fn sin(self) -> Self;
    /// cos x
    fn cos(self) -> Self;
    /// The error function; absolute error below 6e-7 for `f32`.
    fn erf(self) -> Self;
    /// The error function of x and e^(−x²), which share most of their work;
    /// as exact as [`Element::erf`] and [`Element::exp`].
    fn erf_exp(self) -> (Self, Self) {
        (self.erf(), (-self * self).exp())
    }
    /// The larger of two values.
    fn larger(self, other: Self) -> Self;
    /// The smaller of two values.
    fn smaller(self, other: Self) -> Self;
    /// Whether the value is neither infinite nor NaN.
    fn is_finite(self) -> bool;
    /// Appends the value as little-endian bytes.
    fn append_bytes(self, out: &mut Vec<u8>);
    /// The pool that buffers of this element come from.
    fn pool() -> &'static Pool<Self>;
    /// One matrix product; see [`crate::matmul`].
    fn product(product: crate::matmul::Product<'_, Self>);
    /// Several of them.
    fn products(all: Vec<crate::matmul::Product<'_, Self>>) {
        all.into_iter().for_each(Self::product);
    }
    /// A matrix packed for products with it on the right; None where the
    /// product packs nothing.
    fn pack(_right: &crate::matmul::Matrix<'_, Self>) -> Option<crate::matmul::PackedRight> {
        None
    }
    /// The innermost loops of attention on this processor, for a segment of at
    /// least so many queries and keys, and so many multiply-adds for a query.
    fn attention(rows: usize, work: usize) -> &'static crate::ops::AttentionKernels<Self>;
}

static POOL_F32: Pool<f32> = Pool::new();
static POOL_F64: Pool<f64> = Pool::new();

impl Element for f32 {
    const ZERO: Self = 0.0;
    const ONE: Self = 1.0;
    const NEG_INFINITY: Self = f32::NEG_INFINITY;

    #[inline(always)]
    fn of(x: f64) -> Self {
        x as f32
    }
    #[inline(always)]
    fn to_f64(self) -> f64 {
        f64::from(self)
    }
    #[inline(always)]
    fn sqrt(self) -> Self {
        f32::sqrt(self)
    }
    #[inline(always)]
    fn abs(self) -> Self {
        f32::abs(self)
    }
    /// Cephes' `expf`: eˣ = 2ⁿ·eʳ with r in ±ln 2 / 2 and a polynomial for eʳ.
    #[inline(always)]
    fn exp(self) -> Self {
        // Adding 1.5·2²³ rounds to the nearest whole number without a branch
        // or an instruction beyond the baseline.
        const ROUND: f32 = 12_582_912.0;
        let x = self.larger(-87.3).smaller(88.0);
        let shifted = x * std::f32::consts::LOG2_E + ROUND;
        let n = shifted - ROUND;
        let r = x - n * 0.693_359_4;
        let r = r + n * 2.121_944_4e-4;
        let mut p = 1.987_569_1e-4_f32;
        p = p * r + 1.398_199_9e-3;
        p = p * r + 8.333_452e-3;
        p = p * r + 4.166_579_6e-2;
        p = p * r + 1.666_666_5e-1;
        p = p * r + 0.5;
        let e = p * (r * r) + r + 1.0;
        let power = ((shifted.to_bits() as i32).wrapping_sub(ROUND.to_bits() as i32) + 127) << 23;
        // NaN passes through the clamps as a number; hand it on instead.
        if self.is_nan() { self } else { e * f32::from_bits(power as u32) }
    }
    #[inline(always)]
    fn ln(self) -> Self {
        f32::ln(self)
    }
    #[inline(always)]
    fn tanh(self) -> Self {
        // 1 - 2/(e^{2|x|}+1) loses digits near zero, where the odd series is
        // exact to rounding.
        let a = self.abs();
        let e = Element::exp(a + a);
        let large = 1.0 - 2.0 / (e + 1.0);
        let s = self * self;
        let small = a * (1.0 + s * (-0.333_333_34 + s * (0.133_333_34 + s * -0.053_968_254)));
        let t = if a < 0.1 { small } else { large };
        t.copysign(self)
    }
    #[inline(always)]
    fn sin(self) -> Self {
        f32::sin(self)
    }
    #[inline(always)]
    fn cos(self) -> Self {
        f32::cos(self)
    }
    #[inline(always)]
    fn erf(self) -> Self {
        self.erf_exp().0
    }
    /// Abramowitz and Stegun 7.1.26.
    #[inline(always)]
    fn erf_exp(self) -> (Self, Self) {
        let z = self.abs();
        let t = 1.0 / (1.0 + 0.327_591_1 * z);
        let mut p = 1.061_405_4_f32;
        p = p * t - 1.453_152;
        p = p * t + 1.421_413_8;
        p = p * t - 0.284_496_74;
        p = p * t + 0.254_829_6;
        let e = Element::exp(-z * z);
        ((1.0 - p * t * e).copysign(self), e)
    }
    #[inline(always)]
    fn larger(self, other: Self) -> Self {
        if self > other { self } else { other }
    }
    #[inline(always)]
    fn smaller(self, other: Self) -> Self {
        if self < other { self } else { other }
    }
    #[inline(always)]
    fn is_finite(self) -> bool {
        f32::is_finite(self)
    }
    fn append_bytes(self, out: &mut Vec<u8>) {
        out.extend(self.to_le_bytes());
    }
    fn pool() -> &'static Pool<Self> {
        &POOL_F32
    }
    fn product(product: crate::matmul::Product<'_, Self>) {
        crate::matmul::product_f32(product);
    }
    fn products(all: Vec<crate::matmul::Product<'_, Self>>) {
        crate::matmul::products_f32(all);
    }
    fn pack(right: &crate::matmul::Matrix<'_, Self>) -> Option<crate::matmul::PackedRight> {
        crate::matmul::pack_f32(right)
    }
    fn attention(rows: usize, work: usize) -> &'static crate::ops::AttentionKernels<Self> {
        crate::ops::attention_kernels_f32(rows, work)
    }
}

impl Element for f64 {
    const ZERO: Self = 0.0;
    const ONE: Self = 1.0;
    const NEG_INFINITY: Self = f64::NEG_INFINITY;

    fn of(x: f64) -> Self {
        x
    }
    fn to_f64(self) -> f64 {
        self
    }
    fn sqrt(self) -> Self {
        f64::sqrt(self)
    }
    fn abs(self) -> Self {
        f64::abs(self)
    }
    fn exp(self) -> Self {
        f64::exp(self)
    }
    fn ln(self) -> Self {
        f64::ln(self)
    }
    fn tanh(self) -> Self {
        f64::tanh(self)
    }
    fn sin(self) -> Self {
        f64::sin(self)
    }
    fn cos(self) -> Self {
        f64::cos(self)
    }
    /// The Maclaurin series below 3, the continued fraction above: both to
    /// the last few bits.
    fn erf(self) -> Self {
        let z = self.abs();
        let value = if z < 3.0 {
            let mut term = z;
            let mut sum = z;
            let mut n = 0.0;
            while term.abs() > 1e-18 * sum.abs() && n < 200.0 {
                n += 1.0;
                term *= -z * z / n;
                sum += term / (2.0 * n + 1.0);
            }
            sum * 2.0 / std::f64::consts::PI.sqrt()
        } else {
            let mut f = 0.0;
            for k in (1..=60).rev() {
                f = f64::from(k) / 2.0 / (z + f);
            }
            1.0 - (-z * z).exp() / (std::f64::consts::PI.sqrt() * (z + f))
        };
        value.copysign(self)
    }
    fn larger(self, other: Self) -> Self {
        if self > other { self } else { other }
    }
    fn smaller(self, other: Self) -> Self {
        if self < other { self } else { other }
    }
    fn is_finite(self) -> bool {
        f64::is_finite(self)
    }
    fn append_bytes(self, out: &mut Vec<u8>) {
        out.extend(self.to_le_bytes());
    }
    fn pool() -> &'static Pool<Self> {
        &POOL_F64
    }
    fn product(product: crate::matmul::Product<'_, Self>) {
        crate::matmul::product_portable(product);
    }
    fn attention(_: usize, _: usize) -> &'static crate::ops::AttentionKernels<Self> {
        crate::ops::attention_kernels_portable()
    }
}

#[cfg(test)]
mod tests {
    use super::Element;

    fn worst(range: f64, ours: fn(f32) -> f32, truth: fn(f64) -> f64, relative: bool) -> f64 {
        (0..200_001)
            .map(|i| {
                let x = ((f64::from(i) / 100_000.0 - 1.0) * range) as f32;
                let (got, want) = (f64::from(ours(x)), truth(f64::from(x)));
                (got - want).abs() / if relative { want.abs() } else { 1.0 }
            })
            .fold(0.0, f64::max)
    }

    #[test]
    fn fast_functions_are_as_close_as_their_documentation_says() {
        assert!(worst(80.0, <f32 as Element>::exp, f64::exp, true) < 2e-7);
        assert!(worst(10.0, <f32 as Element>::tanh, f64::tanh, false) < 3e-7);
        assert!(worst(6.0, <f32 as Element>::erf, <f64 as Element>::erf, false) < 6e-7);
    }

    #[test]
    fn the_reference_error_function_has_the_textbook_values() {
        // Abramowitz and Stegun, table 7.1.
        for (x, want) in [(0.5, 0.520_499_877_8), (1.0, 0.842_700_792_9), (2.0, 0.995_322_265_0)] {
            assert!((Element::erf(x) - want).abs() < 1e-10, "erf({x})");
        }
        assert!((Element::erf(2.999_999_f64) - Element::erf(3.000_001_f64)).abs() < 1e-8);
    }

    #[test]
    fn extremes_saturate_and_nan_stays_nan() {
        assert!(Element::exp(f32::NAN).is_nan());
        assert!(Element::exp(1000.0_f32).is_finite());
        assert!(Element::exp(-1000.0_f32) < 1e-37);
        assert_eq!(Element::tanh(50.0_f32), 1.0);
    }
}
