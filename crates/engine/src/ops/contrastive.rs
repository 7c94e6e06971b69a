//! Contrastive losses over a batch of pairs: row i of one matrix belongs to
//! row i of the other, and to nothing else but what is said to be the same.

use super::matrix;
use crate::matmul::{Matrix, Output, product};
use crate::parallel::{rows_mut_for, rows_per_task};
use crate::simd::{max1, sum1, sum2, vectorised};
use crate::tape::Handle;
use crate::{Element, EngineError, Result, Tape, Tensor, Var};
use rayon::prelude::*;

/// InfoNCE in both directions (CLIP, Radford et al. 2021): `[1]`.
///
/// `a` and `b` are `[pairs, dim]`, of unit length by convention, `log_scale`
/// one number. With the logits `L = exp(log_scale) · a · bᵀ` it is
/// `1/2n Σᵢ [−log softmax(Lᵢ·)ᵢ − log softmax(L·ᵢ)ᵢ]`.
///
/// `same[i]` lists the other rows that belong to row i as well (captions of
/// the same image); the list of each of them names i. They are neither pulled
/// nor pushed by row i: they are left out of both sums over its row and its
/// column, and have their own pair. Without any the loss is CLIP's.
///
/// # Errors
/// When the shapes do not fit, or `same` names a row that is not there.
pub fn info_nce<E: Element>(
    tape: &Tape<E>,
    a: &Var<E>,
    b: &Var<E>,
    log_scale: &Var<E>,
    same: &[Vec<u32>],
) -> Result<Var<E>> {
    const OP: &str = "info_nce";
    let (n, dim) = pairs(OP, a, b, same)?;
    let scale = one(OP, "log_scale", log_scale)?.exp();
    let mut logits = similarities(a, b, n, dim);
    rows_mut_for(logits.data_mut(), n, n, |first, part| {
        for (i, row) in part.chunks_exact_mut(n).enumerate() {
            scale_shift(row, scale, E::ZERO);
            for j in &same[first + i] {
                row[*j as usize] = E::NEG_INFINITY;
            }
        }
    });
    let rows = row_sums(logits.data(), n);
    let columns = column_sums(logits.data(), n);
    let total: f64 =
        (0..n).map(|i| rows[i].to_f64() + columns[i].to_f64() - 2.0 * logits.data()[i * n + i].to_f64()).sum();
    let divisor = (2 * n.max(1)) as f64;
    let value = Tensor::full(&[1], E::of(total / divisor));
    let inputs = Inputs::of(a, b, log_scale, None, scale);
    Ok(tape.record(value, &[a, b, log_scale], move |d, g| {
        let factor = d.data()[0] / E::of(divisor);
        let sums = into_gradients(&mut logits, n, E::ZERO, |i, row| {
            softmax_slopes(row, rows[i], &columns, factor);
            row[i] -= factor + factor;
        });
        inputs.backward(&logits, &sums, g)
    }))
}

/// The logistic loss of every pair by itself (SigLIP, Zhai et al. 2023): `[1]`.
///
/// `a` and `b` are `[pairs, dim]`, of unit length by convention, `log_scale`
/// and `bias` one number each. With `L = exp(log_scale) · a · bᵀ + bias` it is
/// `−1/n Σᵢⱼ log σ(zᵢⱼ Lᵢⱼ)`, z being 1 for what belongs together and −1 for
/// what does not. `same[i]` lists the rows that belong to row i beside itself.
///
/// # Errors
/// When the shapes do not fit, or `same` names a row that is not there.
pub fn pairwise_sigmoid<E: Element>(
    tape: &Tape<E>,
    a: &Var<E>,
    b: &Var<E>,
    log_scale: &Var<E>,
    bias: &Var<E>,
    same: &[Vec<u32>],
) -> Result<Var<E>> {
    const OP: &str = "pairwise_sigmoid";
    let (n, dim) = pairs(OP, a, b, same)?;
    let scale = one(OP, "log_scale", log_scale)?.exp();
    let shift = one(OP, "bias", bias)?;
    let mut logits = similarities(a, b, n, dim);
    let mut losses = vec![E::ZERO; n];
    with_rows(&mut logits, &mut losses, n, |i, row| {
        scale_shift(row, scale, shift);
        // −log σ(L) = log(1 + eᴸ) − L for those that belong together.
        let own = same[i].iter().fold(row[i], |sum, j| sum + row[*j as usize]);
        softplus_sum(row) - own
    });
    let divisor = n.max(1) as f64;
    let value = Tensor::full(&[1], E::of(losses.iter().map(|l| l.to_f64()).sum::<f64>() / divisor));
    let inputs = Inputs::of(a, b, log_scale, Some(bias), scale);
    let same = if tape.records(&[a, b, log_scale, bias]) { same.to_vec() } else { Vec::new() };
    Ok(tape.record(value, &[a, b, log_scale, bias], move |d, g| {
        let factor = d.data()[0] / E::of(divisor);
        let sums = into_gradients(&mut logits, n, shift, |i, row| {
            sigmoid_slopes(row, factor);
            row[i] -= factor;
            for j in &same[i] {
                row[*j as usize] -= factor;
            }
        });
        inputs.backward(&logits, &sums, g)
    }))
}

/// The pairs and the width, where everything fits.
fn pairs<E: Element>(op: &'static str, a: &Var<E>, b: &Var<E>, same: &[Vec<u32>]) -> Result<(usize, usize)> {
    let (n, dim) = matrix(op, "a", a)?;
    super::same(op, a, b)?;
    if same.len() != n {
        return Err(EngineError::setting(op, format!("{} lists of the same for {n} pairs", same.len())));
    }
    for (position, list) in same.iter().enumerate() {
        if let Some(&index) = list.iter().find(|j| **j as usize >= n || **j as usize == position) {
            return Err(EngineError::Index { op, index: index as usize, position, limit: n });
        }
    }
    Ok((n, dim))
}

fn one<E: Element>(op: &'static str, what: &'static str, x: &Var<E>) -> Result<E> {
    match x.data() {
        [x] => Ok(*x),
        _ => Err(EngineError::shape(op, what, "one element", x.shape())),
    }
}

fn similarities<E: Element>(a: &Var<E>, b: &Var<E>, n: usize, dim: usize) -> Tensor<E> {
    let mut out = Tensor::any(&[n, n]);
    let b = Matrix::dense(b.data(), n, dim).transposed();
    product(Matrix::dense(a.data(), n, dim), b, Output::dense(out.data_mut(), n, n), false);
    out
}

/// Calls `f(row number, row)` on every row, in parallel, and keeps what it returns.
fn with_rows<E: Element, T: Send>(
    x: &mut Tensor<E>,
    out: &mut [T],
    cols: usize,
    f: impl Fn(usize, &mut [E]) -> T + Sync,
) {
    if out.is_empty() {
        return;
    }
    let step = rows_per_task(cols);
    x.data_mut().par_chunks_mut(step * cols).zip(out.par_chunks_mut(step)).enumerate().for_each(|(part, (x, out))| {
        for (i, (row, out)) in x.chunks_exact_mut(cols).zip(out).enumerate() {
            *out = f(part * step + i, row);
        }
    });
}

/// Turns logits into their gradients by `f(row number, row)`, in place; for
/// each row the sum of the gradients, and that of their products with the
/// logits without `shift`.
fn into_gradients<E: Element>(
    logits: &mut Tensor<E>,
    n: usize,
    shift: E,
    f: impl Fn(usize, &mut [E]) + Sync,
) -> Vec<[E; 2]> {
    let mut sums = vec![[E::ZERO; 2]; n];
    with_rows(logits, &mut sums, n, |i, row| {
        let before = row.to_vec();
        f(i, row);
        [sum_of(row), weighted_sum(row, &before, shift)]
    });
    sums
}

/// log Σ exp of each row.
fn row_sums<E: Element>(x: &[E], n: usize) -> Vec<E> {
    let mut out = vec![E::ZERO; n];
    rows_mut_for(&mut out, 1, n, |first, part| {
        for (i, o) in part.iter_mut().enumerate() {
            *o = log_sum_exp(&x[(first + i) * n..][..n]);
        }
    });
    out
}

/// log Σ exp of each column; a task reads some columns of every row.
fn column_sums<E: Element>(x: &[E], n: usize) -> Vec<E> {
    const COLUMNS: usize = 256;
    let mut out = vec![E::ZERO; n];
    out.par_chunks_mut(COLUMNS).enumerate().for_each(|(part, out)| {
        let first = part * COLUMNS;
        let mut largest = vec![E::NEG_INFINITY; out.len()];
        for row in x.chunks_exact(n) {
            raise(&mut largest, &row[first..first + out.len()]);
        }
        for row in x.chunks_exact(n) {
            add_powers(out, &row[first..first + out.len()], &largest);
        }
        for (o, largest) in out.iter_mut().zip(&largest) {
            *o = o.ln() + *largest;
        }
    });
    out
}

/// What backward keeps of the inputs.
struct Inputs<E: Element> {
    a: Var<E>,
    b: Var<E>,
    log_scale: Handle,
    log_scale_dims: Vec<usize>,
    bias: Option<(Handle, Vec<usize>)>,
    scale: E,
}

impl<E: Element> Inputs<E> {
    fn of(a: &Var<E>, b: &Var<E>, log_scale: &Var<E>, bias: Option<&Var<E>>, scale: E) -> Self {
        Self {
            a: a.clone(),
            b: b.clone(),
            log_scale: log_scale.handle(),
            log_scale_dims: log_scale.value().dims().to_vec(),
            bias: bias.map(|b| (b.handle(), b.value().dims().to_vec())),
            scale,
        }
    }

    /// From the gradient G of the logits, and of each of its rows the sum and
    /// the sum of its products with the logits without the bias, to those of
    /// the inputs: s·G·b, s·Gᵀ·a, Σ G∘(L − bias), Σ G.
    fn backward(&self, gradient: &Tensor<E>, sums: &[[E; 2]], g: &mut crate::Gradients<E>) -> Result<()> {
        let (n, dim) = (self.a.rows(), self.a.cols());
        let total = |k: usize| E::of(sums.iter().map(|s| s[k].to_f64()).sum());
        g.add(self.log_scale, Tensor::full(&self.log_scale_dims, total(1)));
        if let Some((bias, dims)) = &self.bias {
            g.add(*bias, Tensor::full(dims, total(0)));
        }
        let square = Matrix::dense(gradient.data(), n, n);
        for (to, other, matrix) in [(&self.a, &self.b, square), (&self.b, &self.a, square.transposed())] {
            if !g.wants(to.handle()) {
                continue;
            }
            let mut d = Tensor::any(&[n, dim]);
            product(matrix, Matrix::dense(other.data(), n, dim), Output::dense(d.data_mut(), n, dim), false);
            crate::parallel::rows_mut(d.data_mut(), 1, |_, part| scale_shift(part, self.scale, E::ZERO));
            g.add(to.handle(), d);
        }
        Ok(())
    }
}

vectorised! {
    /// x ← scale · x + shift
    fn scale_shift<E>(x: &mut [E], scale: E, shift: E) {
        for v in x {
            *v = *v * scale + shift;
        }
    }
}
vectorised! {
    fn log_sum_exp<E>(x: &[E]) -> E {
        let largest = max1(x);
        sum1(x, |v| (v - largest).exp()).ln() + largest
    }
}
vectorised! {
    fn raise<E>(largest: &mut [E], x: &[E]) {
        for (l, v) in largest.iter_mut().zip(x) {
            *l = l.larger(*v);
        }
    }
}
vectorised! {
    fn add_powers<E>(out: &mut [E], x: &[E], largest: &[E]) {
        for ((o, v), l) in out.iter_mut().zip(x).zip(largest) {
            *o += (*v - *l).exp();
        }
    }
}
vectorised! {
    /// x ← factor · (eˣ⁻ʳ + eˣ⁻ᶜ), the sum of both directions' probabilities;
    /// 0 where x is left out.
    fn softmax_slopes<E>(x: &mut [E], row: E, columns: &[E], factor: E) {
        for (v, column) in x.iter_mut().zip(columns) {
            let p = (*v - row).exp() + (*v - *column).exp();
            *v = if *v > E::NEG_INFINITY { factor * p } else { E::ZERO };
        }
    }
}
vectorised! {
    /// Σ log(1 + eˣ), without overflow.
    fn softplus_sum<E>(x: &[E]) -> E {
        sum1(x, |v| v.larger(E::ZERO) + (E::ONE + (-v.abs()).exp()).ln())
    }
}
vectorised! {
    /// x ← factor · σ(x)
    fn sigmoid_slopes<E>(x: &mut [E], factor: E) {
        for v in x {
            *v = factor / (E::ONE + (-*v).exp());
        }
    }
}
vectorised! {
    fn sum_of<E>(x: &[E]) -> E {
        sum1(x, |v| v)
    }
}
vectorised! {
    /// Σ g (x − shift); what is left out has no gradient.
    fn weighted_sum<E>(g: &[E], x: &[E], shift: E) -> E {
        sum2(g, x, |g, x| if x > E::NEG_INFINITY { g * (x - shift) } else { E::ZERO })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::{gradients, random};
    use crate::{ops, with_threads};

    /// What the reference was given too: rows of unit length.
    fn unit(n: usize, dim: usize, seed: usize) -> Tensor<f64> {
        let mut t = Tensor::any(&[n, dim]);
        for (i, x) in t.data_mut().iter_mut().enumerate() {
            *x = ((i * 7 + seed * 5) % 23) as f64 * 0.17 - 1.8;
        }
        for row in t.data_mut().chunks_mut(dim) {
            let norm = row.iter().map(|x| x * x).sum::<f64>().sqrt();
            row.iter_mut().for_each(|x| *x /= norm);
        }
        t
    }

    fn number(x: f64) -> Tensor<f64> {
        Tensor::full(&[1, 1], x)
    }

    fn some_same() -> Vec<Vec<u32>> {
        vec![vec![2, 3], vec![], vec![0, 3], vec![0, 2], vec![]]
    }

    const GOLDEN: &str = include_str!("../../tests/golden/contrastive.json");

    /// Value, then the gradients of a, b, log_scale and, where there is one, the bias.
    fn golden(name: &str) -> Vec<Vec<f64>> {
        let rest = GOLDEN.split(&format!("\"{name}\":")).nth(1).expect(name);
        let lists = rest.split("]]").next().expect(name);
        let numbers = |l: &str| l.split(',').filter_map(|x| x.trim().parse().ok()).collect::<Vec<f64>>();
        lists.split('[').map(|l| numbers(l.trim_end_matches([']', ',', ' ', '\n']))).filter(|l| !l.is_empty()).collect()
    }

    type Loss<E> = Box<dyn Fn(&Tape<E>, &[Var<E>]) -> Result<Var<E>>>;

    type Case<E> = (&'static str, Vec<Tensor<E>>, Loss<E>);

    #[allow(clippy::approx_constant, reason = "the golden values were made with this very number")]
    fn cases<E: Element>() -> Vec<Case<E>> {
        let inputs = |scale: f64, bias: Option<f64>| {
            let mut all = vec![unit(5, 8, 0).cast(), unit(5, 8, 1).cast(), number(scale).cast()];
            all.extend(bias.map(|b| number(b).cast()));
            all
        };
        let none = || vec![Vec::new(); 5];
        let clip = |same: Vec<Vec<u32>>| -> Loss<E> { Box::new(move |t, v| info_nce(t, &v[0], &v[1], &v[2], &same)) };
        let siglip = |same: Vec<Vec<u32>>| -> Loss<E> {
            Box::new(move |t, v| pairwise_sigmoid(t, &v[0], &v[1], &v[2], &v[3], &same))
        };
        vec![
            ("clip", inputs(2.6592, None), clip(none())),
            ("clip_same", inputs(1.5, None), clip(some_same())),
            ("siglip", inputs(2.302585, Some(-10.0)), siglip(none())),
            ("siglip_same", inputs(1.5, Some(-0.5)), siglip(some_same())),
        ]
    }

    #[test]
    fn gradients_match_finite_differences() -> Result<()> {
        for (_, inputs, loss) in cases() {
            gradients(&inputs, |t, v| loss(t, v))?;
        }
        // Not of unit length, as random as can be.
        let same = some_same();
        let inputs = [random(&[5, 3], "a"), random(&[5, 3], "b"), number(0.3), number(-0.2)];
        gradients(&inputs[..3], |t, v| info_nce(t, &v[0], &v[1], &v[2], &same))?;
        gradients(&inputs, |t, v| pairwise_sigmoid(t, &v[0], &v[1], &v[2], &v[3], &same))
    }

    fn against_golden<E: Element>(tolerance: f64) -> Result<()> {
        for (name, inputs, loss) in cases::<E>() {
            let want = golden(name);
            let tape = Tape::new();
            let vars: Vec<_> = inputs.into_iter().map(|t| tape.input(t)).collect();
            let value = loss(&tape, &vars)?;
            let g = tape.backward(&value)?;
            let mut got = vec![vec![value.value().scalar()?.to_f64()]];
            got.extend(vars.iter().map(|v| g.of(v).expect(name).data().iter().map(|x| x.to_f64()).collect()));
            assert_eq!(got.len(), want.len(), "{name}");
            for (got, want) in got.iter().zip(&want) {
                assert_eq!(got.len(), want.len(), "{name}");
                let scale = want.iter().fold(1.0_f64, |m, x| m.max(x.abs()));
                for (a, b) in got.iter().zip(want) {
                    assert!((a - b).abs() < tolerance * scale, "{name}: {a}, open_clip {b}");
                }
            }
        }
        Ok(())
    }

    #[test]
    fn values_and_gradients_are_those_of_open_clip() -> Result<()> {
        against_golden::<f64>(1e-9)?;
        against_golden::<f32>(2e-6)
    }

    #[test]
    fn what_is_the_same_is_neither_pulled_nor_pushed() -> Result<()> {
        // Rows 0 and 1 are captions of one image: swapping their captions
        // changes nothing, and nothing pushes them apart.
        let same = [vec![1], vec![0], vec![]];
        let image = Tensor::from_slice(&[3, 2], &[1.0, 0.0, 1.0, 0.0, 0.0, 1.0])?;
        let run = |text: &[f64]| -> Result<f64> {
            let (image, text) = (Var::constant(image.clone()), Var::constant(Tensor::from_slice(&[3, 2], text)?));
            info_nce(&Tape::inference(), &image, &text, &Var::constant(number(2.0)), &same)?.value().scalar()
        };
        let one = run(&[0.6, 0.8, 0.8, -0.6, 0.0, 1.0])?;
        let swapped = run(&[0.8, -0.6, 0.6, 0.8, 0.0, 1.0])?;
        assert!((one - swapped).abs() < 1e-12, "{one} and {swapped}");
        Ok(())
    }

    #[test]
    fn threads_do_not_change_a_bit() -> Result<()> {
        let (a, b) = (random(&[301, 16], "a").cast::<f32>(), random(&[301, 16], "b").cast::<f32>());
        let run = |threads| -> Result<_> {
            with_threads(threads, || {
                let tape = Tape::new();
                let (a, b) = (tape.input(a.clone()), tape.input(b.clone()));
                let scale = tape.input(Tensor::full(&[1, 1], 1.0));
                let y = info_nce(&tape, &a, &b, &scale, &vec![Vec::new(); 301])?;
                let z = pairwise_sigmoid(&tape, &a, &b, &scale, &scale, &vec![Vec::new(); 301])?;
                let y = ops::add(&tape, &y, &z)?;
                let g = tape.backward(&y)?;
                let of = |v| g.of(v).map(|t| t.data().to_vec());
                Ok((y.data().to_vec(), of(&a), of(&b), of(&scale)))
            })
            .expect("threads")
        };
        assert_eq!(run(1)?, run(4)?);
        Ok(())
    }

    #[test]
    fn no_pairs_are_no_loss_and_bad_lists_are_refused() -> Result<()> {
        let tape = Tape::<f32>::inference();
        let (none, one) = (Var::constant(Tensor::zeros(&[0, 4])), Var::constant(Tensor::zeros(&[1, 1])));
        assert_eq!(info_nce(&tape, &none, &none, &one, &[])?.value().scalar()?, 0.0);
        assert_eq!(pairwise_sigmoid(&tape, &none, &none, &one, &one, &[])?.value().scalar()?, 0.0);
        let two = Var::constant(Tensor::zeros(&[2, 4]));
        assert!(info_nce(&tape, &two, &two, &one, &[vec![]]).is_err());
        assert!(info_nce(&tape, &two, &two, &one, &[vec![2], vec![]]).is_err());
        assert!(info_nce(&tape, &two, &two, &one, &[vec![0], vec![]]).is_err());
        Ok(())
    }
}
