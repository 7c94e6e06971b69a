//! A residual sum and what follows it, while its rows are at hand.

use crate::parallel::rows_per_task;
use crate::simd::vectorised;
use crate::{Element, Tape, Tensor, Var};
use rayon::prelude::*;

/// a + b on the tape; calls `then(row of the sum, row of x, row of y)` for
/// each row as soon as it is there. `x` and `y` come with their row lengths.
pub(super) fn sum_then<E: Element>(
    tape: &Tape<E>,
    (a, b): (&Var<E>, &Var<E>),
    x: (&mut [E], usize),
    y: (&mut [E], usize),
    then: impl Fn(&[E], &mut [E], &mut [E]) + Sync,
) -> Var<E> {
    let mut sum = Tensor::any(a.value().dims());
    let cols = a.cols();
    if !sum.is_empty() {
        let step = rows_per_task(cols);
        let (left, right) = (a.data(), b.data());
        let outputs = x.0.par_chunks_mut(step * x.1).zip(y.0.par_chunks_mut(step * y.1));
        sum.data_mut().par_chunks_mut(step * cols).zip(outputs).enumerate().for_each(|(i, (sum, (xs, ys)))| {
            let rows = sum.chunks_exact_mut(cols).zip(xs.chunks_exact_mut(x.1)).zip(ys.chunks_exact_mut(y.1));
            for (r, ((sum, x), y)) in rows.enumerate() {
                let first = (i * step + r) * cols;
                add_rows(sum, &left[first..first + cols], &right[first..first + cols]);
                then(sum, x, y);
            }
        });
    }
    let (ha, hb) = (a.handle(), b.handle());
    tape.record(sum, &[a, b], move |d, g| {
        g.add(ha, d.clone());
        g.add(hb, d);
        Ok(())
    })
}

vectorised! {
    fn add_rows<E>(out: &mut [E], a: &[E], b: &[E]) {
        for ((o, a), b) in out.iter_mut().zip(a).zip(b) {
            *o = *a + *b;
        }
    }
}
