//! Rows of a table by identifier.

use super::matrix;
use super::scatter::{check_index, select};
use crate::{Element, Result, Tape, Tensor, Var};

/// The rows of an embedding table for token identifiers: `table` is
/// `[vocabulary, dim]`, the result `[ids, dim]`.
///
/// # Errors
/// When `table` is not a matrix or an identifier is not below its rows; the
/// error names the position.
pub fn embedding<E: Element>(tape: &Tape<E>, table: &Var<E>, ids: &[u32]) -> Result<Var<E>> {
    rows_of("embedding", tape, table, ids)
}

/// The rows of `x` `[rows, dim]` in the order of `index` (repeats allowed):
/// `[index, dim]`.
///
/// # Errors
/// When `x` is not a matrix or an index is not below its rows; the error names
/// the position.
pub fn gather_rows<E: Element>(tape: &Tape<E>, x: &Var<E>, index: &[u32]) -> Result<Var<E>> {
    rows_of("gather_rows", tape, x, index)
}

fn rows_of<E: Element>(op: &'static str, tape: &Tape<E>, table: &Var<E>, index: &[u32]) -> Result<Var<E>> {
    let (rows, cols) = matrix(op, "table", table)?;
    check_index(op, index, rows)?;
    let mut value = Tensor::any(&[index.len(), cols]);
    select(value.data_mut(), table.data(), index, cols);
    let h = table.handle();
    let index = if tape.records(&[table]) { index.to_vec() } else { Vec::new() };
    Ok(tape.record(value, &[table], move |d, g| {
        g.add_rows(h, [rows, cols], &index, &d);
        Ok(())
    }))
}

/// `x + table[index]`: position, segment or modality embeddings added to the
/// rows of a pack. `x` is `[rows, dim]`, `table` `[n, dim]`, `index` one entry
/// for each row; the result `[rows, dim]`.
///
/// # Errors
/// When the shapes do not fit or an index is not below `n`.
pub fn add_rows_broadcast<E: Element>(tape: &Tape<E>, x: &Var<E>, table: &Var<E>, index: &[u32]) -> Result<Var<E>> {
    const OP: &str = "add_rows_broadcast";
    let (rows, cols) = matrix(OP, "x", x)?;
    let (n, width) = matrix(OP, "table", table)?;
    if width != cols {
        return Err(crate::EngineError::shape(OP, "table", format!("[n, {cols}]"), table.shape()));
    }
    if index.len() != rows {
        return Err(crate::EngineError::setting(OP, format!("{} indices for {rows} rows", index.len())));
    }
    check_index(OP, index, n)?;
    let mut value = Tensor::any(&[rows, cols]);
    let (from, with) = (x.data(), table.data());
    crate::parallel::rows_mut(value.data_mut(), cols, |first, part| {
        part.copy_from_slice(&from[first * cols..][..part.len()]);
        for (o, &i) in part.chunks_exact_mut(cols).zip(&index[first..]) {
            super::loops::add_row(o, super::loops::row(with, i as usize, cols));
        }
    });
    let (hx, ht) = (x.handle(), table.handle());
    let index = if tape.records(&[table]) { index.to_vec() } else { Vec::new() };
    Ok(tape.record(value, &[x, table], move |d, g| {
        g.add_rows(ht, [n, cols], &index, &d);
        g.add(hx, d);
        Ok(())
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::{gradients, random};

    #[test]
    fn gradients_match_finite_differences_with_repeats_and_unused_rows() -> Result<()> {
        gradients(&[random(&[5, 3], "table")], |t, v| embedding(t, &v[0], &[4, 0, 4, 2, 4]))?;
        // Far more positions than rows: the other way of adding them up.
        let ids: Vec<u32> = (0..40).map(|i| i * i % 3).collect();
        gradients(&[random(&[3, 2], "table")], |t, v| gather_rows(t, &v[0], &ids))?;
        gradients(&[random(&[4, 3], "x"), random(&[2, 3], "table")], |t, v| {
            add_rows_broadcast(t, &v[0], &v[1], &[1, 0, 1, 1])
        })
    }

    #[test]
    fn a_table_used_twice_gets_both_gradients() -> Result<()> {
        gradients(&[random(&[3, 2], "table")], |t, v| {
            let a = embedding(t, &v[0], &[0, 1])?;
            let b = gather_rows(t, &v[0], &[2, 1])?;
            super::super::mul(t, &a, &b)
        })
    }

    #[test]
    fn rows_are_those_asked_for() -> Result<()> {
        let tape = Tape::<f64>::inference();
        let table = Var::constant(random(&[4, 2], "table"));
        let y = embedding(&tape, &table, &[3, 1])?;
        assert_eq!(y.data()[..2], table.data()[6..]);
        assert_eq!(y.data()[2..], table.data()[2..4]);
        assert_eq!(embedding(&tape, &table, &[])?.value().dims(), [0, 2]);
        let x = Var::constant(random(&[2, 2], "x"));
        let z = add_rows_broadcast(&tape, &x, &table, &[3, 1])?;
        for i in 0..4 {
            assert_eq!(z.data()[i], x.data()[i] + y.data()[i]);
        }
        Ok(())
    }

    #[test]
    fn an_identifier_outside_the_table_is_named() {
        let tape = Tape::<f32>::new();
        let table = Var::constant(Tensor::zeros(&[4, 2]));
        let message = embedding(&tape, &table, &[1, 4]).map(|_| ()).unwrap_err().to_string();
        assert_eq!(message, "embedding: index 4 at position 1 is not below 4");
        let x = Var::constant(Tensor::zeros(&[2, 3]));
        assert!(add_rows_broadcast(&tape, &x, &table, &[0, 0]).is_err());
        let x = Var::constant(Tensor::zeros(&[2, 2]));
        assert!(add_rows_broadcast(&tape, &x, &table, &[0]).is_err());
        assert!(add_rows_broadcast(&tape, &x, &table, &[0, 9]).is_err());
        assert!(gather_rows(&tape, &Var::constant(Tensor::zeros(&[4])), &[0]).is_err());
    }
}
