//! Cross-entropy over a vocabulary, fused with the projection onto it.

use super::{matrix, vector};
use crate::matmul::{Matrix, Output, product};
use crate::parallel::{reduce_rows, rows_mut, rows_mut2};
use crate::simd::{max1, sum1, vectorised};
use crate::{Buffer, Element, EngineError, Result, Tape, Tensor, Var};

/// Logits that stand at once: 64 MiB of `f32`. Fewer would pass over the
/// weight and its gradient more often than the products take time for.
const STANDING: usize = 1 << 24;

/// The mean cross-entropy of the logits `hidden·weightᵀ + bias` with one
/// target for each row; a row whose target is None does not count. The result
/// is `[1]`: `1/n Σᵢ [(1 − ε) (−log pᵢ(yᵢ)) + ε/V Σ꜀ (−log pᵢ(c))]` over the
/// n rows that count, 0 if none does.
///
/// `hidden` is `[rows, dim]`, `weight` `[vocabulary, dim]`, `bias`
/// `[vocabulary]`; ε is `label_smoothing`. The same as [`super::linear`] and
/// [`super::cross_entropy`], but logits stand only for some rows at a time
/// (never more than 16 million of them), and those of rows that do not count
/// are never computed. The gradients are made along with the loss, so that no
/// logit is computed twice.
///
/// # Errors
/// When the shapes do not fit, a target is not below the vocabulary (the error
/// names the row), or the smoothing is not in [0, 1].
pub fn vocabulary_cross_entropy<E: Element>(
    tape: &Tape<E>,
    hidden: &Var<E>,
    weight: &Var<E>,
    bias: Option<&Var<E>>,
    targets: &[Option<u32>],
    label_smoothing: f64,
) -> Result<Var<E>> {
    const OP: &str = "vocabulary_cross_entropy";
    let (rows, dim) = matrix(OP, "hidden", hidden)?;
    let (vocabulary, expected) = matrix(OP, "weight", weight)?;
    if dim != expected {
        return Err(EngineError::shape(OP, "hidden", format!("[rows, {expected}]"), hidden.shape()));
    }
    if let Some(b) = bias {
        vector(OP, "bias", b, vocabulary)?;
    }
    let settings = super::CrossEntropy { class_weights: None, label_smoothing };
    super::cross_entropy::check(OP, rows, vocabulary, targets, &settings)?;

    let (counted, classes): (Vec<u32>, Vec<u32>) =
        targets.iter().enumerate().filter_map(|(row, y)| Some((row as u32, (*y)?))).unzip();
    let mut involved = vec![hidden, weight];
    involved.extend(bias);
    let records = tape.records(&involved);
    let plan = Plan {
        hidden: rows_that_count(hidden.value(), &counted),
        weight: weight.data(),
        bias: bias.map(Var::data),
        targets: &classes,
        on_target: E::of(1.0 - label_smoothing),
        spread: E::of(label_smoothing / vocabulary.max(1) as f64),
        standing: STANDING,
    };
    let wanted = |v: &Var<E>| records && v.needs_gradient();
    let (loss, gradients) = plan.run([wanted(hidden), wanted(weight), bias.is_some_and(wanted)]);
    let (hh, hw, hb) = (hidden.handle(), weight.handle(), bias.map(Var::handle));
    Ok(tape.record(Tensor::full(&[1], loss), &involved, move |d, g| {
        let factor = d.data()[0];
        let [dh, dw, db] = gradients.map(|t| t.map(|t| times(t, factor)));
        if let Some(db) = db {
            g.add(hb.expect("a bias"), db);
        }
        if let Some(dw) = dw {
            g.add(hw, dw);
        }
        if let Some(dh) = dh {
            g.add(hh, put_back(dh, &counted, rows));
        }
        Ok(())
    }))
}

/// The rows at `index`, which are all of them or a copy.
fn rows_that_count<E: Element>(x: &Tensor<E>, index: &[u32]) -> Tensor<E> {
    if index.len() == x.shape().rows() {
        return x.clone();
    }
    let cols = x.shape().cols();
    let mut some = Tensor::any(&[index.len(), cols]);
    super::scatter::select(some.data_mut(), x.data(), index, cols);
    some
}

/// The opposite of [`rows_that_count`], zeros elsewhere.
fn put_back<E: Element>(some: Tensor<E>, index: &[u32], rows: usize) -> Tensor<E> {
    if index.len() == rows {
        return some;
    }
    let cols = some.shape().cols();
    let mut all = Tensor::zeros(&[rows, cols]);
    for (row, &to) in some.data().chunks_exact(cols.max(1)).zip(index) {
        all.data_mut()[to as usize * cols..][..cols].copy_from_slice(row);
    }
    all
}

/// The tensor itself, or in the rare case that it must be scaled, in place.
fn times<E: Element>(mut t: Tensor<E>, factor: E) -> Tensor<E> {
    if factor != E::ONE {
        rows_mut(t.data_mut(), 1, |_, part| multiply(part, factor));
    }
    t
}

struct Plan<'a, E: Element> {
    /// `[counted, dim]`
    hidden: Tensor<E>,
    /// `[vocabulary, dim]`
    weight: &'a [E],
    bias: Option<&'a [E]>,
    /// One for each row that counts.
    targets: &'a [u32],
    on_target: E,
    spread: E,
    /// How many logits may stand at once.
    standing: usize,
}

impl<E: Element> Plan<'_, E> {
    /// The loss and those of the gradients of hidden, weight and bias that are
    /// wanted.
    fn run(&self, [of_hidden, of_weight, of_bias]: [bool; 3]) -> (E, [Option<Tensor<E>>; 3]) {
        let (rows, dim) = (self.targets.len(), self.hidden.shape().cols());
        let vocabulary = self.weight.len() / dim.max(1);
        let vocabulary = self.bias.map_or(vocabulary, <[E]>::len);
        // The first run of rows overwrites; without rows nothing would.
        let make = |wanted: bool, dims: &[usize]| {
            wanted.then(|| if rows == 0 { Tensor::zeros(dims) } else { Tensor::any(dims) })
        };
        let mut dh = make(of_hidden, &[rows, dim]);
        let mut dw = make(of_weight, &[vocabulary, dim]);
        let mut db = make(of_bias, &[vocabulary]);
        let step = (self.standing / vocabulary.max(1)).clamp(1, rows.max(1));
        let mut logits = Buffer::any(step * vocabulary);
        let mut losses = vec![E::ZERO; rows];
        let factor = E::of(1.0 / rows.max(1) as f64);
        for (n, losses) in losses.chunks_mut(step).enumerate() {
            let (first, count) = (n * step, losses.len());
            let logits = &mut logits[..count * vocabulary];
            let hidden = Matrix::dense(&self.hidden.data()[first * dim..], count, dim);
            let weight = Matrix::dense(self.weight, vocabulary, dim);
            product(hidden, weight.transposed(), Output::dense(logits, count, vocabulary), false);
            rows_mut2((logits, vocabulary), (losses, 1), |row, logits, losses| {
                for (i, (x, loss)) in logits.chunks_exact_mut(vocabulary).zip(losses).enumerate() {
                    if let Some(bias) = self.bias {
                        super::loops::add_row(x, bias);
                    }
                    let y = self.targets[first + row + i] as usize;
                    *loss = loss_and_gradient(x, y, self.on_target, self.spread, factor);
                }
            });
            let d = Matrix::dense(logits, count, vocabulary);
            if let Some(dw) = &mut dw {
                product(d.transposed(), hidden, Output::dense(dw.data_mut(), vocabulary, dim), n > 0);
            }
            if let Some(dh) = &mut dh {
                product(d, weight, Output::dense(&mut dh.data_mut()[first * dim..], count, dim), false);
            }
            if let Some(db) = &mut db {
                add_column_sums(logits, db.data_mut(), n > 0);
            }
        }
        let total: f64 = losses.iter().map(|l| l.to_f64()).sum();
        (E::of(total / rows.max(1) as f64), [dh, dw, db])
    }
}

/// sums (+)= the sums of the columns of `x`.
fn add_column_sums<E: Element>(x: &[E], sums: &mut [E], add: bool) {
    let cols = sums.len();
    let mut own = Buffer::any(cols);
    reduce_rows(x.len() / cols.max(1), cols, &mut own, |from, to, part| {
        for row in x[from * cols..to * cols].chunks_exact(cols) {
            super::loops::add_row(part, row);
        }
    });
    match add {
        true => super::loops::add_row(sums, &own),
        false => sums.copy_from_slice(&own),
    }
}

vectorised! {
    /// The loss of one row of logits, which become their gradient.
    fn loss_and_gradient<E>(x: &mut [E], y: usize, on_target: E, spread: E, factor: E) -> E {
        let largest = max1(x);
        let below = x[y] - largest;
        // Σ (x − largest), for the even part of the target.
        let all_below = if spread > E::ZERO { sum1(x, |v| v - largest) } else { E::ZERO };
        for v in x.iter_mut() {
            *v = (*v - largest).exp();
        }
        let total = sum1(x, |v| v);
        let log = total.ln();
        let (each, even) = (factor / total, factor * spread);
        for v in x.iter_mut() {
            *v = *v * each - even;
        }
        x[y] -= factor * on_target;
        on_target * (log - below) + spread * (log * E::of(x.len() as f64) - all_below)
    }
}
vectorised! {
    fn multiply<E>(x: &mut [E], factor: E) {
        for x in x {
            *x *= factor;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::{gradients, random};
    use crate::ops::{Activation, CrossEntropy, cross_entropy, linear};
    use crate::with_threads;

    const TARGETS: [Option<u32>; 6] = [Some(2), None, Some(0), Some(6), None, Some(2)];

    fn inputs() -> [Tensor<f64>; 3] {
        [random(&[6, 5], "hidden"), random(&[7, 5], "weight"), random(&[7], "bias")]
    }

    #[test]
    fn gradients_match_finite_differences() -> Result<()> {
        for smoothing in [0.0, 0.3] {
            gradients(&inputs(), |t, v| vocabulary_cross_entropy(t, &v[0], &v[1], Some(&v[2]), &TARGETS, smoothing))?;
            gradients(&inputs()[..2], |t, v| vocabulary_cross_entropy(t, &v[0], &v[1], None, &TARGETS, smoothing))?;
            let fixed = Var::constant(inputs()[1].clone());
            gradients(&inputs()[..1], |t, v| vocabulary_cross_entropy(t, &v[0], &fixed, None, &TARGETS, smoothing))?;
        }
        Ok(())
    }

    #[test]
    fn a_weight_that_is_also_the_embedding_gets_both_gradients() -> Result<()> {
        gradients(&[random(&[7, 5], "table")], |t, v| {
            let hidden = crate::ops::embedding(t, &v[0], &[3, 1, 4, 1, 5, 0])?;
            vocabulary_cross_entropy(t, &hidden, &v[0], None, &TARGETS, 0.0)
        })
    }

    /// The loss and the gradients of all three inputs, fused or plain.
    fn run<E: Element>(
        inputs: &[Tensor<E>; 3],
        targets: &[Option<u32>],
        smoothing: f64,
        fused: bool,
    ) -> Result<Vec<Vec<E>>> {
        let tape = Tape::new();
        let [h, w, b] = [0, 1, 2].map(|i| tape.input(inputs[i].clone()));
        let loss = if fused {
            vocabulary_cross_entropy(&tape, &h, &w, Some(&b), targets, smoothing)?
        } else {
            let logits = linear(&tape, &h, &w, Some(&b), Activation::Identity)?;
            let settings = CrossEntropy { label_smoothing: smoothing, ..Default::default() };
            cross_entropy(&tape, &logits, targets, &settings)?
        };
        // Not a loss by itself, but a part of one.
        let part = crate::ops::scale(&tape, &loss, 0.7)?;
        let g = tape.backward(&part)?;
        let all = [&h, &w, &b].map(|v| g.of(v).expect("a gradient").data().to_vec());
        Ok([loss.data().to_vec()].into_iter().chain(all).collect())
    }

    #[test]
    fn it_is_the_projection_and_the_cross_entropy() -> Result<()> {
        for (rows, dim, vocabulary) in [(1, 1, 1), (1, 3, 2), (37, 24, 101), (200, 17, 333)] {
            let inputs = [random(&[rows, dim], "h"), random(&[vocabulary, dim], "w"), random(&[vocabulary], "b")];
            let some = |i: usize| (i % 3 != 1).then_some((i * 7 % vocabulary) as u32);
            let all = |i: usize| Some((i * 5 % vocabulary) as u32);
            for (targets, smoothing) in
                [((0..rows).map(some).collect::<Vec<_>>(), 0.0), ((0..rows).map(all).collect(), 0.1)]
            {
                let (fused, plain) =
                    (run(&inputs, &targets, smoothing, true)?, run(&inputs, &targets, smoothing, false)?);
                for (f, p) in fused.iter().flatten().zip(plain.iter().flatten()) {
                    assert!((f - p).abs() < 1e-12, "{rows} x {vocabulary}: {f} is not {p}");
                }
                let narrow = run(&inputs.clone().map(|t| t.cast::<f32>()), &targets, smoothing, true)?;
                for (n, p) in narrow.iter().flatten().zip(plain.iter().flatten()) {
                    assert!((f64::from(*n) - p).abs() < 2e-5, "{rows} x {vocabulary} in f32: {n} is not {p}");
                }
            }
        }
        Ok(())
    }

    #[test]
    fn slices_of_any_size_add_up_to_the_same() {
        let [hidden, weight, bias] = inputs();
        let targets = [2, 0, 6, 1, 1, 5];
        let run = |standing| {
            let plan = Plan {
                hidden: hidden.clone(),
                weight: weight.data(),
                bias: Some(bias.data()),
                targets: &targets,
                on_target: 0.9,
                spread: 0.1 / 7.0,
                standing,
            };
            let (loss, gradients) = plan.run([true; 3]);
            let gradients = gradients.into_iter().flatten().flat_map(|t| t.data().to_vec());
            [loss].into_iter().chain(gradients).collect::<Vec<_>>()
        };
        let whole = run(1000);
        assert_eq!(whole.len(), 1 + 6 * 5 + 7 * 5 + 7);
        for standing in [1, 14, 30] {
            for (a, b) in run(standing).iter().zip(&whole) {
                assert!((a - b).abs() < 1e-14, "{a} is not {b}");
            }
        }
    }

    #[test]
    fn far_logits_stay_finite_in_f32() -> Result<()> {
        let inputs = [
            Tensor::from_slice(&[2, 1], &[1.0, -1.0])?,
            Tensor::from_slice(&[3, 1], &[1e4, -3e30, 1e-30])?,
            Tensor::<f32>::zeros(&[3]),
        ];
        let all = run(&inputs, &[Some(0), Some(1)], 0.0, true)?;
        assert_eq!(all[0], [0.0]);
        assert!(all[1..].iter().flatten().all(|v| v.abs() < 1e-5), "{all:?}");
        Ok(())
    }

    #[test]
    fn nothing_that_counts_is_zero_without_a_gradient() -> Result<()> {
        for targets in [vec![None; 6], vec![]] {
            let [_, w, b] = inputs();
            let all = run(&[random(&[targets.len(), 5], "h"), w, b], &targets, 0.1, true)?;
            assert!(all.iter().flatten().all(|v| *v == 0.0));
        }
        Ok(())
    }

    #[test]
    fn threads_do_not_change_a_bit() -> Result<()> {
        let inputs = [random(&[150, 33], "h"), random(&[901, 33], "w"), random(&[901], "b")];
        let inputs = inputs.map(|t| t.cast::<f32>());
        let targets: Vec<_> = (0..150).map(|i| (i % 5 != 0).then_some(i * 13 % 901)).collect();
        let run = |threads| with_threads(threads, || run(&inputs, &targets, 0.1, true)).expect("threads");
        let one = run(1)?;
        assert_eq!(one, run(2)?);
        assert_eq!(one, run(4)?);
        Ok(())
    }

    #[test]
    fn what_does_not_fit_is_refused_by_name() {
        let tape = Tape::<f64>::new();
        let [h, w, b] = inputs().map(Var::constant);
        let ask = |targets: &[Option<u32>], smoothing: f64| {
            let result = vocabulary_cross_entropy(&tape, &h, &w, Some(&b), targets, smoothing);
            result.map(|_| ()).unwrap_err().to_string()
        };
        let mut far = TARGETS;
        far[3] = Some(7);
        assert_eq!(ask(&far, 0.0), "vocabulary_cross_entropy: index 7 at position 3 is not below 7");
        assert_eq!(ask(&TARGETS[..2], 0.0), "vocabulary_cross_entropy: 2 targets for 6 rows");
        assert!(ask(&TARGETS, 1.5).contains("1.5"));
        assert!(vocabulary_cross_entropy(&tape, &w, &h, Some(&b), &TARGETS, 0.0).is_err());
        assert!(vocabulary_cross_entropy(&tape, &h, &b, None, &TARGETS, 0.0).is_err());
    }
}
