//! Vector registers as values: kernels are written once over [`Vector`] and
//! built for each width.
//!
//! Where [`crate::simd::vectorised!`] leaves a loop to the compiler, this is
//! for loops in which sums must stay in registers and multiply-adds be fused.

use crate::Element;

/// A register of some elements of type `E`.
///
/// # Safety
/// Every function needs a processor with the register's instructions; loads
/// and stores reach `LANES` elements.
pub(crate) trait Vector<E>: Copy {
    /// Elements in a register.
    const LANES: usize;
    /// Rows of a tile of products two registers wide, whose sums fill the
    /// registers that there are.
    const ROWS: usize;

    unsafe fn load(from: *const E) -> Self;
    unsafe fn store(self, to: *mut E);
    unsafe fn splat(x: E) -> Self;
    unsafe fn add(self, other: Self) -> Self;
    unsafe fn sub(self, other: Self) -> Self;
    unsafe fn mul(self, other: Self) -> Self;
    /// self · x + y
    unsafe fn mul_add(self, x: Self, y: Self) -> Self;
    unsafe fn larger(self, other: Self) -> Self;
    /// eˣ for x up to 88, relative error below 2e-7 for `f32`; 0 below −87.
    unsafe fn exp(self) -> Self;
    /// The sum of the elements.
    unsafe fn sum(self) -> E;
    /// The largest element.
    unsafe fn largest(self) -> E;
}

/// Eight elements, in plain Rust.
#[derive(Clone, Copy)]
pub(crate) struct Portable<E>([E; 8]);

impl<E: Element> Portable<E> {
    #[inline(always)]
    fn zip(self, other: Self, f: impl Fn(E, E) -> E) -> Self {
        let mut out = self;
        for (o, x) in out.0.iter_mut().zip(other.0) {
            *o = f(*o, x);
        }
        out
    }

    #[inline(always)]
    fn fold(self, f: impl Fn(E, E) -> E) -> E {
        let x = self.0;
        f(f(f(x[0], x[4]), f(x[2], x[6])), f(f(x[1], x[5]), f(x[3], x[7])))
    }
}

impl<E: Element> Vector<E> for Portable<E> {
    const LANES: usize = 8;
    const ROWS: usize = 4;

    #[inline(always)]
    unsafe fn load(from: *const E) -> Self {
        // SAFETY: the caller's duty.
        Self(unsafe { from.cast::<[E; 8]>().read_unaligned() })
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut E) {
        // SAFETY: the caller's duty.
        unsafe { to.cast::<[E; 8]>().write_unaligned(self.0) };
    }
    #[inline(always)]
    unsafe fn splat(x: E) -> Self {
        Self([x; 8])
    }
    #[inline(always)]
    unsafe fn add(self, other: Self) -> Self {
        self.zip(other, |a, b| a + b)
    }
    #[inline(always)]
    unsafe fn sub(self, other: Self) -> Self {
        self.zip(other, |a, b| a - b)
    }
    #[inline(always)]
    unsafe fn mul(self, other: Self) -> Self {
        self.zip(other, |a, b| a * b)
    }
    #[inline(always)]
    unsafe fn mul_add(self, x: Self, y: Self) -> Self {
        self.zip(x, |a, b| a * b).zip(y, |a, b| a + b)
    }
    #[inline(always)]
    unsafe fn larger(self, other: Self) -> Self {
        self.zip(other, E::larger)
    }
    #[inline(always)]
    unsafe fn exp(self) -> Self {
        let least = E::of(-87.0);
        self.zip(self, |x, _| if x < least { E::ZERO } else { x.exp() })
    }
    #[inline(always)]
    unsafe fn sum(self) -> E {
        self.fold(|a, b| a + b)
    }
    #[inline(always)]
    unsafe fn largest(self) -> E {
        self.fold(E::larger)
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::Vector;
    use std::arch::x86_64::*;

    /// One register type: its width, the rows of its tiles, its intrinsics,
    /// and how eˣ is put together from the polynomial and the power of two.
    macro_rules! register {
        (
            $register:ty, lanes $lanes:literal, rows $rows:literal,
            $load:ident, $store:ident, $splat:ident, $add:ident, $sub:ident, $mul:ident, $fma:ident, $max:ident,
            round $round:expr, scale |$x:ident, $p:ident, $n:ident| $scale:expr,
            sum $sum:expr, largest $largest:expr
        ) => {
            // SAFETY (all functions): the caller vouches for the instructions
            // and for the elements that pointers reach.
            impl Vector<f32> for $register {
                const LANES: usize = $lanes;
                const ROWS: usize = $rows;

                #[inline(always)]
                unsafe fn load(from: *const f32) -> Self {
                    // SAFETY: as above.
                    unsafe { $load(from) }
                }
                #[inline(always)]
                unsafe fn store(self, to: *mut f32) {
                    // SAFETY: as above.
                    unsafe { $store(to, self) };
                }
                #[inline(always)]
                unsafe fn splat(x: f32) -> Self {
                    // SAFETY: as above.
                    unsafe { $splat(x) }
                }
                #[inline(always)]
                unsafe fn add(self, other: Self) -> Self {
                    // SAFETY: as above.
                    unsafe { $add(self, other) }
                }
                #[inline(always)]
                unsafe fn sub(self, other: Self) -> Self {
                    // SAFETY: as above.
                    unsafe { $sub(self, other) }
                }
                #[inline(always)]
                unsafe fn mul(self, other: Self) -> Self {
                    // SAFETY: as above.
                    unsafe { $mul(self, other) }
                }
                #[inline(always)]
                unsafe fn mul_add(self, x: Self, y: Self) -> Self {
                    // SAFETY: as above.
                    unsafe { $fma(self, x, y) }
                }
                #[inline(always)]
                unsafe fn larger(self, other: Self) -> Self {
                    // SAFETY: as above.
                    unsafe { $max(self, other) }
                }
                /// The polynomial of Cephes' `expf`, as `Element::exp` has it.
                #[inline(always)]
                unsafe fn exp(self) -> Self {
                    // SAFETY: as above.
                    unsafe {
                        let $x = self;
                        let $n = $round($mul(self, $splat(std::f32::consts::LOG2_E)));
                        let r = $fma($n, $splat(-0.693_359_4), self);
                        let r = $fma($n, $splat(2.121_944_4e-4), r);
                        let mut p = $splat(1.987_569_1e-4);
                        for c in [1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 0.5] {
                            p = $fma(p, r, $splat(c));
                        }
                        let $p = $add($fma(p, $mul(r, r), r), $splat(1.0));
                        $scale
                    }
                }
                #[inline(always)]
                unsafe fn sum(self) -> f32 {
                    // SAFETY: as above.
                    unsafe { $sum(self) }
                }
                #[inline(always)]
                unsafe fn largest(self) -> f32 {
                    // SAFETY: as above.
                    unsafe { $largest(self) }
                }
            }
        };
    }

    register! {
        __m512, lanes 16, rows 8,
        _mm512_loadu_ps, _mm512_storeu_ps, _mm512_set1_ps, _mm512_add_ps, _mm512_sub_ps, _mm512_mul_ps,
        _mm512_fmadd_ps, _mm512_max_ps,
        round _mm512_roundscale_ps::<8>,
        scale |x, p, n| _mm512_maskz_scalef_ps(_mm512_cmp_ps_mask::<_CMP_NLT_UQ>(x, _mm512_set1_ps(-87.0)), p, n),
        sum _mm512_reduce_add_ps, largest _mm512_reduce_max_ps
    }

    register! {
        __m256, lanes 8, rows 6,
        _mm256_loadu_ps, _mm256_storeu_ps, _mm256_set1_ps, _mm256_add_ps, _mm256_sub_ps, _mm256_mul_ps,
        _mm256_fmadd_ps, _mm256_max_ps,
        round _mm256_round_ps::<8>,
        scale |x, p, n| {
            let power = _mm256_slli_epi32::<23>(_mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127)));
            let seen = _mm256_cmp_ps::<_CMP_NLT_UQ>(x, _mm256_set1_ps(-87.0));
            _mm256_and_ps(_mm256_mul_ps(p, _mm256_castsi256_ps(power)), seen)
        },
        sum fold::<Add>, largest fold::<Max>
    }

    trait Fold {
        unsafe fn of(a: __m128, b: __m128) -> __m128;
    }
    struct Add;
    impl Fold for Add {
        #[inline(always)]
        unsafe fn of(a: __m128, b: __m128) -> __m128 {
            // SAFETY: SSE is in the baseline.
            unsafe { _mm_add_ps(a, b) }
        }
    }
    struct Max;
    impl Fold for Max {
        #[inline(always)]
        unsafe fn of(a: __m128, b: __m128) -> __m128 {
            // SAFETY: as above.
            unsafe { _mm_max_ps(a, b) }
        }
    }

    /// Folds eight elements to one in a balanced order.
    #[inline(always)]
    unsafe fn fold<F: Fold>(x: __m256) -> f32 {
        // SAFETY: the caller vouches for the instructions.
        unsafe {
            let x = F::of(_mm256_castps256_ps128(x), _mm256_extractf128_ps::<1>(x));
            let x = F::of(x, _mm_movehl_ps(x, x));
            _mm_cvtss_f32(F::of(x, _mm_shuffle_ps::<1>(x, x)))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// # Safety
    /// The processor has the register's instructions.
    #[inline(always)]
    unsafe fn follows_the_standard_library<V: Vector<f32>>() {
        // SAFETY: the caller's duty; all arrays hold at least `LANES`.
        unsafe {
            let lanes = V::LANES;
            for start in -9000..8700 {
                let x: [f32; 16] = std::array::from_fn(|i| start as f32 * 0.01 + i as f32 * 0.0007);
                let mut y = [0.0; 16];
                V::load(x.as_ptr()).exp().store(y.as_mut_ptr());
                for (x, y) in x.iter().zip(&y[..lanes]) {
                    let want = if *x < -87.0 { 0.0 } else { f64::from(*x).exp() };
                    assert!((f64::from(*y) - want).abs() <= 2e-7 * want, "e^{x} is not {y}");
                }
            }
            let far =
                [f32::NEG_INFINITY, -1e30, f32::NAN, 0.0, 1.0, -0.5, 2.0, 3.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0];
            let mut y = [0.0; 16];
            V::load(far.as_ptr()).exp().store(y.as_mut_ptr());
            assert_eq!(y[..2], [0.0; 2]);
            assert!(y[2].is_nan());
            let x: [f32; 16] = std::array::from_fn(|i| ((i * 5 % 16) as f32) - 3.0);
            let v = V::load(x.as_ptr());
            assert_eq!(v.sum(), x[..lanes].iter().sum::<f32>());
            assert_eq!(v.largest(), x[..lanes].iter().copied().fold(f32::NEG_INFINITY, f32::max));
            let w = v.mul_add(V::splat(2.0), V::splat(1.0)).sub(v).mul(V::splat(0.5)).add(V::splat(1.0));
            w.larger(V::splat(0.0)).store(y.as_mut_ptr());
            for (y, x) in y[..lanes].iter().zip(x) {
                assert_eq!(*y, ((x * 2.0 + 1.0 - x) * 0.5 + 1.0).max(0.0));
            }
        }
    }

    #[test]
    fn every_width_computes_the_same_functions() {
        // SAFETY: plain Rust.
        unsafe { follows_the_standard_library::<Portable<f32>>() };
        #[cfg(target_arch = "x86_64")]
        {
            use std::arch::x86_64::{__m256, __m512};
            #[target_feature(enable = "avx2,fma")]
            fn avx2() {
                // SAFETY: the instructions are enabled here.
                unsafe { follows_the_standard_library::<__m256>() };
            }
            #[target_feature(enable = "avx512f,avx2,fma")]
            fn avx512() {
                // SAFETY: as above.
                unsafe { follows_the_standard_library::<__m512>() };
            }
            if crate::level() >= crate::Level::Avx2 {
                // SAFETY: the level says that they are there.
                unsafe { avx2() };
            }
            if crate::level() >= crate::Level::Avx512 {
                // SAFETY: as above.
                unsafe { avx512() };
            }
        }
    }
}
