//! Compiling one loop for several instruction sets and choosing at run time.
//!
//! [`vectorised!`] turns a plain generic loop into a function with builds for
//! AVX2 and AVX-512 beside the baseline one. The loop stays safe, portable
//! Rust; NEON is in the baseline of 64-bit Arm. All builds give the same bits.

/// The widest instruction set that the kernels can use here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Whatever the target guarantees (SSE2, NEON).
    Baseline,
    /// AVX2 with fused multiply-add.
    Avx2,
    /// AVX-512 foundation, with everything of `Avx2`.
    Avx512,
}

/// The level of this processor; `SENSORIUM_SIMD=baseline|avx2` lowers it,
/// so that every path can be tested on one machine.
pub fn level() -> Level {
    static LEVEL: std::sync::OnceLock<Level> = std::sync::OnceLock::new();
    *LEVEL.get_or_init(|| {
        let found = detect();
        match std::env::var("SENSORIUM_SIMD").as_deref() {
            Ok("baseline") => Level::Baseline,
            Ok("avx2") => found.min(Level::Avx2),
            _ => found,
        }
    })
}

#[cfg(target_arch = "x86_64")]
fn detect() -> Level {
    if !(is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma")) {
        Level::Baseline
    } else if is_x86_feature_detected!("avx512f") {
        Level::Avx512
    } else {
        Level::Avx2
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn detect() -> Level {
    Level::Baseline
}

/// Defines `fn name<E: Element>(args) -> ret` from one generic body, compiled
/// for the baseline, AVX2 and AVX-512, chosen at run time.
macro_rules! vectorised {
    ($(#[$meta:meta])* $vis:vis fn $name:ident<$e:ident>($($arg:ident: $ty:ty),* $(,)?) $(-> $ret:ty)? $body:block) => {
        $(#[$meta])*
        $vis fn $name<$e: $crate::Element>($($arg: $ty),*) $(-> $ret)? {
            #[inline(always)]
            fn plain<$e: $crate::Element>($($arg: $ty),*) $(-> $ret)? $body
            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx2,fma")]
                fn wide<$e: $crate::Element>($($arg: $ty),*) $(-> $ret)? {
                    plain::<$e>($($arg),*)
                }
                #[target_feature(enable = "avx512f,avx2,fma")]
                fn widest<$e: $crate::Element>($($arg: $ty),*) $(-> $ret)? {
                    plain::<$e>($($arg),*)
                }
                match $crate::simd::level() {
                    // SAFETY: the level says that the instructions are there.
                    $crate::simd::Level::Avx512 => return unsafe { widest::<$e>($($arg),*) },
                    // SAFETY: as above.
                    $crate::simd::Level::Avx2 => return unsafe { wide::<$e>($($arg),*) },
                    $crate::simd::Level::Baseline => {}
                }
            }
            plain::<$e>($($arg),*)
        }
    };
}
pub(crate) use vectorised;

/// How many running sums a reduction keeps, so that it becomes vector code
/// with an order of addition that no instruction set changes.
pub(crate) const LANES: usize = 16;

/// Adds the lanes in a fixed, balanced order.
#[inline(always)]
pub(crate) fn sum_lanes<E: crate::Element>(mut lanes: [E; LANES]) -> E {
    let mut width = LANES / 2;
    while width > 0 {
        for i in 0..width {
            lanes[i] += lanes[i + width];
        }
        width /= 2;
    }
    lanes[0]
}

/// Folds a function of two slices' elements into a sum, in lanes.
#[inline(always)]
pub(crate) fn sum2<E: crate::Element>(a: &[E], b: &[E], f: impl Fn(E, E) -> E) -> E {
    let mut lanes = [E::ZERO; LANES];
    let (a_chunks, b_chunks) = (a.chunks_exact(LANES), b.chunks_exact(LANES));
    let (a_rest, b_rest) = (a_chunks.remainder(), b_chunks.remainder());
    for (x, y) in a_chunks.zip(b_chunks) {
        for i in 0..LANES {
            lanes[i] += f(x[i], y[i]);
        }
    }
    for (i, (x, y)) in a_rest.iter().zip(b_rest).enumerate() {
        lanes[i] += f(*x, *y);
    }
    sum_lanes(lanes)
}

/// Folds a function of a slice's elements into a sum, in lanes.
#[inline(always)]
pub(crate) fn sum1<E: crate::Element>(a: &[E], f: impl Fn(E) -> E) -> E {
    sum2(a, a, |x, _| f(x))
}

/// The largest element.
#[inline(always)]
pub(crate) fn max1<E: crate::Element>(a: &[E]) -> E {
    let mut lanes = [E::NEG_INFINITY; LANES];
    let chunks = a.chunks_exact(LANES);
    let rest = chunks.remainder();
    for x in chunks {
        for i in 0..LANES {
            lanes[i] = lanes[i].larger(x[i]);
        }
    }
    for (i, x) in rest.iter().enumerate() {
        lanes[i] = lanes[i].larger(*x);
    }
    lanes.into_iter().fold(E::NEG_INFINITY, E::larger)
}
