//! Dropout of elements and of whole segments' branches.
//!
//! The masks are functions of a [`Random`]: backward makes them again, so
//! nothing is stored, and neither threads nor resuming can change them.

use super::matrix;
use super::segments::each_row;
use crate::parallel::rows_mut;
use crate::simd::vectorised;
use crate::{Element, EngineError, Offsets, Random, Result, Tape, Tensor, Var};

/// Elements whose random words are made together: 16 positions of 4 words.
const GROUP: usize = 64;

/// Sets each element to 0 with `probability` and divides the others by
/// 1 − probability (Srivastava et al. 2014, inverted): any shape to the same.
/// With probability 0 the result is the input itself.
///
/// # Errors
/// When `probability` is not in [0, 1).
pub fn dropout<E: Element>(tape: &Tape<E>, x: &Var<E>, probability: f64, random: Random) -> Result<Var<E>> {
    let Some((threshold, factor)) = plan("dropout", probability)? else {
        return Ok(x.clone());
    };
    let factor = E::of(factor);
    let h = x.handle();
    let mut value = Tensor::any(x.value().dims());
    let from = x.data();
    rows_mut(value.data_mut(), GROUP, |first, part| {
        part.copy_from_slice(&from[first * GROUP..][..part.len()]);
        mask_loop(part, first as u64, threshold, factor, random);
    });
    Ok(tape.record(value, &[x], move |mut d, g| {
        rows_mut(d.data_mut(), GROUP, |first, part| mask_loop(part, first as u64, threshold, factor, random));
        g.add(h, d);
        Ok(())
    }))
}

/// Stochastic depth (Huang et al. 2016): sets all rows of a segment to 0 with
/// `probability` and divides those of the others by 1 − probability. `x` is
/// `[rows, dim]` cut by `offsets`; the result has the same shape.
///
/// # Errors
/// When the offsets do not cut `x` or `probability` is not in [0, 1).
pub fn drop_path<E: Element>(
    tape: &Tape<E>,
    x: &Var<E>,
    offsets: &Offsets,
    probability: f64,
    random: Random,
) -> Result<Var<E>> {
    let (rows, cols) = matrix("drop_path", "x", x)?;
    offsets.expect_rows("drop_path", rows)?;
    let Some((threshold, factor)) = plan("drop_path", probability)? else {
        return Ok(x.clone());
    };
    let factor = E::of(factor);
    let h = x.handle();
    let apply = move |x: &Tensor<E>, offsets: &Offsets| {
        let mut out = Tensor::any(&[rows, cols]);
        let x = x.data();
        rows_mut(out.data_mut(), cols, |first, part| {
            each_row(offsets, first, part.len() / cols, |i, segment| {
                let kept = random.block(segment as u64)[0] >= threshold;
                let from = &x[(first + i) * cols..][..cols];
                super::loops::scale_row(&mut part[i * cols..][..cols], from, if kept { factor } else { E::ZERO });
            });
        });
        out
    };
    let value = apply(x.value(), offsets);
    let offsets = offsets.clone();
    Ok(tape.record(value, &[x], move |d, g| {
        g.add(h, apply(&d, &offsets));
        Ok(())
    }))
}

/// The random words below which an element is dropped, and the factor of the
/// others; None when nothing is dropped.
fn plan(op: &'static str, probability: f64) -> Result<Option<(u32, f64)>> {
    if !(0.0..1.0).contains(&probability) {
        return Err(EngineError::setting(op, format!("probability {probability} is not in [0, 1)")));
    }
    let threshold = (probability * 4_294_967_296.0) as u32;
    Ok((threshold > 0).then_some((threshold, 1.0 / (1.0 - probability))))
}

vectorised! {
    /// Element j of group n takes word j / 16 of position 16 n + j mod 16, so
    /// that sixteen positions are made side by side in vector code.
    fn mask_loop<E>(values: &mut [E], first_group: u64, threshold: u32, factor: E, random: Random) {
        for (n, group) in values.chunks_mut(GROUP).enumerate() {
            let start = (first_group + n as u64) * 16;
            let mut words = [[0_u32; 16]; 4];
            for i in 0..16 {
                let block = random.block(start + i as u64);
                for (w, b) in words.iter_mut().zip(block) {
                    w[i] = b;
                }
            }
            for (values, words) in group.chunks_mut(16).zip(&words) {
                for (x, &w) in values.iter_mut().zip(words) {
                    *x *= if w >= threshold { factor } else { E::ZERO };
                }
            }
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
        let r = Random::new(1).purpose("dropout");
        gradients(&[random(&[7, 13], "x")], |t, v| dropout(t, &v[0], 0.4, r))?;
        let o = Offsets::from_lengths([3, 0, 2, 1, 1]);
        gradients(&[random(&[7, 3], "x")], |t, v| drop_path(t, &v[0], &o, 0.5, r))
    }

    #[test]
    fn the_share_dropped_is_the_probability_and_the_mean_stays() -> Result<()> {
        let tape = Tape::<f32>::inference();
        let x = Var::constant(Tensor::full(&[500, 333], 1.0));
        let y = dropout(&tape, &x, 0.1, Random::new(2))?;
        let zeros = y.data().iter().filter(|&&v| v == 0.0).count() as f64 / y.value().len() as f64;
        assert!((zeros - 0.1).abs() < 0.005, "{zeros} dropped");
        assert!(y.data().iter().all(|&v| v == 0.0 || (v - 1.0 / 0.9).abs() < 1e-6));
        let other = dropout(&tape, &x, 0.1, Random::new(3))?;
        assert_ne!(y.data(), other.data());
        Ok(())
    }

    #[test]
    fn every_element_has_its_own_random_word() -> Result<()> {
        let tape = Tape::<f32>::inference();
        let r = Random::new(4);
        let y = dropout(&tape, &Var::constant(Tensor::full(&[200], 1.0)), 0.5, r)?;
        for (e, v) in y.data().iter().enumerate() {
            let (group, j) = (e / 64, e % 64);
            let word = r.block((group * 16 + j % 16) as u64)[j / 16];
            assert_eq!(*v > 0.0, word >= 1 << 31, "element {e}");
        }
        Ok(())
    }

    #[test]
    fn threads_do_not_change_the_mask() -> Result<()> {
        let run = |threads| {
            with_threads(threads, || {
                let x = Var::constant(Tensor::<f32>::full(&[301, 201], 1.0));
                dropout(&Tape::inference(), &x, 0.3, Random::new(9)).map(|y| y.data().to_vec())
            })
            .expect("threads")
        };
        assert_eq!(run(1)?, run(4)?);
        Ok(())
    }

    #[test]
    fn a_path_is_dropped_or_kept_as_a_whole() -> Result<()> {
        let o = Offsets::from_lengths((0..100).map(|i| i % 4));
        let x = Var::constant(Tensor::<f32>::full(&[o.total(), 5], 1.0));
        let y = drop_path(&Tape::inference(), &x, &o, 0.25, Random::new(1))?;
        let mut dropped = 0;
        for r in o.ranges().filter(|r| !r.is_empty()) {
            let part = &y.data()[r.start * 5..r.end * 5];
            assert!(part.iter().all(|v| *v == part[0]) && (part[0] == 0.0 || (part[0] - 4.0 / 3.0).abs() < 1e-6));
            dropped += usize::from(part[0] == 0.0);
        }
        assert!((8..32).contains(&dropped), "{dropped} of 75");
        Ok(())
    }

    #[test]
    fn probability_zero_is_the_input_and_one_is_refused() -> Result<()> {
        let tape = Tape::<f32>::new();
        let x = tape.input(Tensor::full(&[2, 2], 1.0));
        assert_eq!(dropout(&tape, &x, 0.0, Random::new(1))?.handle(), x.handle());
        let o = Offsets::from_lengths([2]);
        assert_eq!(drop_path(&tape, &x, &o, 0.0, Random::new(1))?.handle(), x.handle());
        for p in [1.0, -0.1, f64::NAN] {
            assert!(dropout(&tape, &x, p, Random::new(1)).is_err());
        }
        assert!(drop_path(&tape, &x, &Offsets::from_lengths([3]), 0.5, Random::new(1)).is_err());
        Ok(())
    }
}
