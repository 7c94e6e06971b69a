//! The gradient of a large table of which a step reads few rows.
//!
//! A vocabulary has tens of thousands of rows, a batch hundreds of different
//! tokens: to write, measure and apply a gradient that is zero nearly
//! everywhere costs more than many a layer.

use crate::ops::scatter::{group, scatter_add};
use crate::parallel::rows_mut;
use crate::{Element, Shape, Tensor};

/// Elements of a table from which on it is worth the trouble.
const LARGE: usize = 1 << 16;

/// Some rows of the gradient of a table `[rows, cols]`; the others are zero.
#[derive(Clone, Debug)]
pub(crate) struct RowGradient<E: Element> {
    shape: Shape,
    /// Which, ascending.
    index: Vec<u32>,
    /// `[index, cols]`
    values: Tensor<E>,
}

impl<E: Element> RowGradient<E> {
    /// Whether so many rows that are read are few of a table.
    pub fn pays(rows: usize, cols: usize, read: usize) -> bool {
        rows * cols >= LARGE && read * 2 <= rows
    }

    /// The gradient of a table `[rows, cols]` whose rows `index` were read, from
    /// that of what was read, `[index, cols]`: the sums for each row, in the
    /// order of their positions.
    pub fn of_read(shape: Shape, index: &[u32], d: &Tensor<E>) -> Self {
        let cols = shape.cols();
        let mut rows = index.to_vec();
        rows.sort_unstable();
        rows.dedup();
        // Sums of as many rows as there are different ones.
        let places: Vec<u32> =
            index.iter().map(|i| rows.binary_search(i).expect("each index is among them") as u32).collect();
        let (starts, positions) = group(&places, rows.len());
        let mut values = Tensor::any(&[rows.len(), cols]);
        let d = d.data();
        rows_mut(values.data_mut(), cols, |first, part| {
            for (i, out) in part.chunks_exact_mut(cols).enumerate() {
                let mut positions = positions[starts[first + i]..starts[first + i + 1]].iter();
                if let Some(&p) = positions.next() {
                    out.copy_from_slice(&d[p as usize * cols..][..cols]);
                }
                for &p in positions {
                    crate::ops::loops::add_row(out, &d[p as usize * cols..][..cols]);
                }
            }
        });
        Self { shape, index: rows, values }
    }

    /// The shape of the whole.
    pub fn shape(&self) -> Shape {
        self.shape
    }

    /// Which rows, ascending.
    pub fn index(&self) -> &[u32] {
        &self.index
    }

    /// Their values, `[index, cols]`.
    pub fn values(&self) -> &Tensor<E> {
        &self.values
    }

    /// The values of the row at a place of the index.
    pub fn row(&self, at: usize) -> &[E] {
        &self.values.data()[at * self.shape.cols()..][..self.shape.cols()]
    }

    /// Adds it to a whole gradient of the same shape.
    pub fn add_to(&self, whole: &mut Tensor<E>) {
        scatter_add(whole.data_mut(), true, self.values.data(), &self.index, self.shape.cols());
    }

    /// All rows.
    pub fn whole(&self) -> Tensor<E> {
        let mut whole = Tensor::any(self.shape.dims());
        scatter_add(whole.data_mut(), false, self.values.data(), &self.index, self.shape.cols());
        whole
    }

    /// The sum of two.
    pub fn plus(self, other: &Self) -> Self {
        let index = [&self.index[..], &other.index].concat();
        let mut both = Tensor::any(&[index.len(), self.shape.cols()]);
        let (first, second) = both.data_mut().split_at_mut(self.values.len());
        first.copy_from_slice(self.values.data());
        second.copy_from_slice(other.values.data());
        Self::of_read(self.shape, &index, &both)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::random;
    use crate::{Params, Result, Tape, Var, ops, with_threads};

    /// A table that is large enough, read at a few places, some of them twice.
    const ROWS: usize = 9000;
    const READ: [u32; 6] = [8999, 3, 70, 3, 512, 3];

    fn table() -> Result<(Params<f64>, crate::ParamId)> {
        let mut params = Params::new();
        let id = params.insert("table", random(&[ROWS, 8], "table"))?;
        Ok((params, id))
    }

    /// Σ c · table[READ], and what else is said.
    fn gradients(
        params: &Params<f64>,
        id: crate::ParamId,
        more: impl Fn(&Tape<f64>, &Var<f64>, Var<f64>) -> Result<Var<f64>>,
    ) -> Result<crate::Gradients<f64>> {
        let tape = Tape::new();
        let table = tape.param(params, id);
        let read = ops::embedding(&tape, &table, &READ)?;
        let loss = ops::sum(&tape, &ops::mul(&tape, &read, &Var::constant(random(&[6, 8], "c")))?)?;
        let loss = more(&tape, &table, loss)?;
        tape.backward(&loss)
    }

    fn expected() -> Tensor<f64> {
        let mut want = Tensor::zeros(&[ROWS, 8]);
        for (i, x) in READ.iter().zip(random(&[6, 8], "c").data().chunks(8)) {
            for (w, x) in want.data_mut()[*i as usize * 8..].iter_mut().zip(x) {
                *w += x;
            }
        }
        want
    }

    fn close(a: &Tensor<f64>, b: &Tensor<f64>) -> bool {
        a.shape() == b.shape() && a.data().iter().zip(b.data()).all(|(a, b)| (a - b).abs() < 1e-12)
    }

    #[test]
    fn a_table_read_at_few_places_keeps_those_alone() -> Result<()> {
        let (params, id) = table()?;
        let g = gradients(&params, id, |_, _, loss| Ok(loss))?;
        assert_eq!(g.rows_of(id).map(|rows| rows.index().to_vec()), Some(vec![3, 70, 512, 8999]));
        assert!(close(&g.param(id).expect("a gradient"), &expected()));
        Ok(())
    }

    #[test]
    fn a_second_reading_and_other_uses_add_up() -> Result<()> {
        let (params, id) = table()?;
        // Read twice: rows and rows.
        let twice = gradients(&params, id, |tape, table, loss| {
            let again = ops::sum(tape, &ops::embedding(tape, table, &[1, 3])?)?;
            ops::add(tape, &loss, &again)
        })?;
        assert_eq!(twice.rows_of(id).map(|rows| rows.index().to_vec()), Some(vec![1, 3, 70, 512, 8999]));
        let mut want = expected();
        for row in [1, 3] {
            want.data_mut()[row * 8..][..8].iter_mut().for_each(|x| *x += 1.0);
        }
        assert!(close(&twice.param(id).expect("a gradient"), &want));
        // Used whole as well, after the reading and so before it in backward,
        // and the other way round.
        for before in [false, true] {
            let tape = Tape::new();
            let table = tape.param(&params, id);
            let whole =
                |tape: &Tape<f64>| ops::sum(tape, &ops::mul(tape, &table, &Var::constant(random(&[ROWS, 8], "w")))?);
            let early = before.then(|| whole(&tape)).transpose()?;
            let read = ops::embedding(&tape, &table, &READ)?;
            let read = ops::sum(&tape, &ops::mul(&tape, &read, &Var::constant(random(&[6, 8], "c")))?)?;
            let whole = early.map_or_else(|| whole(&tape), Ok)?;
            let loss = ops::add(&tape, &read, &whole)?;
            let g = tape.backward(&loss)?;
            assert!(g.rows_of(id).is_none());
            let mut want = expected();
            want.data_mut().iter_mut().zip(random(&[ROWS, 8], "w").data()).for_each(|(x, w)| *x += w);
            assert!(close(&g.param(id).expect("a gradient"), &want), "whole before: {before}");
        }
        Ok(())
    }

    #[test]
    fn batches_accumulate_in_any_mixture() -> Result<()> {
        let (params, id) = table()?;
        let few = || gradients(&params, id, |_, _, loss| Ok(loss));
        let all = || gradients(&params, id, |tape, table, loss| ops::add(tape, &loss, &ops::sum(tape, table)?));
        let ones = Tensor::full(&[ROWS, 8], 1.0);
        for (first, second, wholes) in [(few()?, few()?, 0.0), (few()?, all()?, 1.0), (all()?, few()?, 1.0)] {
            let mut g = crate::Gradients::none();
            g.accumulate(first);
            g.accumulate(second);
            let mut want = expected();
            want.data_mut().iter_mut().zip(ones.data()).for_each(|(x, one)| *x = 2.0 * *x + wholes * one);
            assert!(close(&g.param(id).expect("a gradient"), &want));
        }
        Ok(())
    }

    #[test]
    fn threads_do_not_change_a_bit() -> Result<()> {
        let (params, id) = table()?;
        let run = |threads| {
            with_threads(threads, || gradients(&params, id, |_, _, loss| Ok(loss)).map(|g| g.param(id)))
                .expect("threads start")
        };
        assert_eq!(run(1)?.map(|t| t.data().to_vec()), run(4)?.map(|t| t.data().to_vec()));
        Ok(())
    }
}
