//! Laying matrices together, cutting them apart, and other dimensions for the
//! same values.

use super::loops::{add_row, row};
use super::matrix;
use crate::parallel::rows_mut;
use crate::{Element, EngineError, Result, Tape, Tensor, Var};

/// The rows of all parts one after the other: `[rows₁ + rows₂ + …, dim]`.
///
/// # Errors
/// When there are no parts or they do not have the same number of columns.
pub fn concat_rows<E: Element>(tape: &Tape<E>, parts: &[&Var<E>]) -> Result<Var<E>> {
    let (_, cols) = first("concat_rows", parts)?;
    let mut total = 0;
    for part in parts {
        let (rows, width) = matrix("concat_rows", "a part", part)?;
        if width != cols {
            return Err(EngineError::shape("concat_rows", "a part", format!("[rows, {cols}]"), part.shape()));
        }
        total += rows;
    }
    let mut value = Tensor::any(&[total, cols]);
    let mut rest = value.data_mut();
    for part in parts {
        let (here, after) = rest.split_at_mut(part.value().len());
        copy(here, part.data());
        rest = after;
    }
    let pieces: Vec<_> = parts.iter().map(|p| (p.handle(), p.rows())).collect();
    Ok(tape.record(value, parts, move |d, g| {
        let mut start = 0;
        for (h, rows) in pieces {
            let from = &d.data()[start..start + rows * cols];
            start += from.len();
            if let Some((mut dx, add)) = g.take(h, &[rows, cols]) {
                if add {
                    rows_mut(dx.data_mut(), 1, |first, part| add_row(part, &from[first..]));
                } else {
                    copy(dx.data_mut(), from);
                }
                g.put(h, dx);
            }
        }
        Ok(())
    }))
}

/// The columns of all parts side by side: `[rows, dim₁ + dim₂ + …]`.
///
/// # Errors
/// When there are no parts or they do not have the same number of rows.
pub fn concat_cols<E: Element>(tape: &Tape<E>, parts: &[&Var<E>]) -> Result<Var<E>> {
    let (rows, _) = first("concat_cols", parts)?;
    let mut pieces = Vec::with_capacity(parts.len());
    let mut total = 0;
    for part in parts {
        let (n, width) = matrix("concat_cols", "a part", part)?;
        if n != rows {
            return Err(EngineError::shape("concat_cols", "a part", format!("[{rows}, dim]"), part.shape()));
        }
        pieces.push((part.handle(), total, width));
        total += width;
    }
    let mut value = Tensor::any(&[rows, total]);
    let sources: Vec<_> = parts.iter().map(|p| (p.data(), p.cols())).collect();
    rows_mut(value.data_mut(), total, |first, part| {
        for (i, out) in part.chunks_exact_mut(total).enumerate() {
            let mut start = 0;
            for &(x, width) in &sources {
                out[start..start + width].copy_from_slice(row(x, first + i, width));
                start += width;
            }
        }
    });
    Ok(tape.record(value, parts, move |d, g| {
        let d = d.data();
        for (h, start, width) in pieces {
            if let Some((mut dx, add)) = g.take(h, &[rows, width]) {
                rows_mut(dx.data_mut(), width, |first, part| {
                    for (i, out) in part.chunks_exact_mut(width).enumerate() {
                        let from = &row(d, first + i, total)[start..start + width];
                        if add {
                            add_row(out, from);
                        } else {
                            out.copy_from_slice(from);
                        }
                    }
                });
                g.put(h, dx);
            }
        }
        Ok(())
    }))
}

/// Consecutive columns of `x` `[rows, dim]` as separate values `[rows, widthᵢ]`.
///
/// # Errors
/// When the widths do not add up to the columns.
pub fn split_cols<E: Element>(tape: &Tape<E>, x: &Var<E>, widths: &[usize]) -> Result<Vec<Var<E>>> {
    let (rows, cols) = matrix("split_cols", "x", x)?;
    let sum = widths.iter().try_fold(0_usize, |sum, w| sum.checked_add(*w));
    if sum != Some(cols) {
        return Err(EngineError::setting("split_cols", format!("widths {widths:?} do not add up to {cols} columns")));
    }
    let from = x.data();
    let mut start = 0;
    let piece = |&width: &usize| {
        let at = start;
        start += width;
        let mut value = Tensor::any(&[rows, width]);
        rows_mut(value.data_mut(), width, |first, part| {
            for (i, out) in part.chunks_exact_mut(width).enumerate() {
                out.copy_from_slice(&row(from, first + i, cols)[at..at + width]);
            }
        });
        let h = x.handle();
        tape.record(value, &[x], move |d, g| {
            if let Some((mut dx, add)) = g.take(h, &[rows, cols]) {
                let d = d.data();
                rows_mut(dx.data_mut(), cols, |first, part| {
                    if !add {
                        part.fill(E::ZERO);
                    }
                    for (i, out) in part.chunks_exact_mut(cols).enumerate() {
                        add_row(&mut out[at..at + width], row(d, first + i, width));
                    }
                });
                g.put(h, dx);
            }
            Ok(())
        })
    };
    Ok(widths.iter().map(piece).collect())
}

/// The same values under other dimensions.
///
/// # Errors
/// When the number of elements differs or there are more than four dimensions.
pub fn reshape<E: Element>(tape: &Tape<E>, x: &Var<E>, dims: &[usize]) -> Result<Var<E>> {
    if dims.len() > 4 {
        return Err(EngineError::setting("reshape", format!("{dims:?} are more than four dimensions")));
    }
    let value = x.value().reshaped(dims)?;
    let (h, before) = (x.handle(), x.shape());
    Ok(tape.record(value, &[x], move |d, g| {
        g.add(h, d.reshaped(before.dims())?);
        Ok(())
    }))
}

fn first<E: Element>(op: &'static str, parts: &[&Var<E>]) -> Result<(usize, usize)> {
    match parts.first() {
        Some(part) => matrix(op, "a part", part),
        None => Err(EngineError::setting(op, "no parts were given")),
    }
}

fn copy<E: Element>(to: &mut [E], from: &[E]) {
    rows_mut(to, 1, |first, part| part.copy_from_slice(&from[first..first + part.len()]));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::{gradients, random};
    use crate::ops::mul;

    #[test]
    fn gradients_match_finite_differences() -> Result<()> {
        let rows = [random(&[3, 4], "a"), random(&[0, 4], "b"), random(&[2, 4], "c")];
        gradients(&rows, |t, v| concat_rows(t, &[&v[0], &v[1], &v[2], &v[0]]))?;
        let cols = [random(&[3, 4], "a"), random(&[3, 1], "b"), random(&[3, 2], "c")];
        gradients(&cols, |t, v| concat_cols(t, &[&v[0], &v[1], &v[2], &v[0]]))?;
        gradients(&cols[..1], |t, v| {
            let parts = split_cols(t, &v[0], &[1, 0, 2, 1])?;
            mul(t, &parts[0], &parts[3])
        })?;
        gradients(&cols[..1], |t, v| {
            let parts = split_cols(t, &v[0], &[2, 2])?;
            let product = mul(t, &parts[0], &parts[1])?;
            let flat = reshape(t, &v[0], &[6, 2])?;
            concat_rows(t, &[&flat, &product])
        })
    }

    #[test]
    fn what_was_laid_together_comes_apart_again() -> Result<()> {
        let tape = Tape::<f32>::inference();
        let parts = [random(&[3, 4], "a"), random(&[3, 1], "b"), random(&[3, 2], "c")].map(|t| Var::constant(t.cast()));
        let together = concat_cols(&tape, &[&parts[0], &parts[1], &parts[2]])?;
        assert_eq!(together.value().dims(), [3, 7]);
        for (a, b) in parts.iter().zip(split_cols(&tape, &together, &[4, 1, 2])?) {
            assert_eq!(a.data(), b.data());
        }
        let stacked = concat_rows(&tape, &[&parts[0], &parts[0]])?;
        assert_eq!(stacked.value().dims(), [6, 4]);
        assert_eq!(stacked.data()[12..], *parts[0].data());
        assert_eq!(reshape(&tape, &parts[0], &[2, 1, 6])?.value().dims(), [2, 1, 6]);
        Ok(())
    }

    #[test]
    fn a_part_of_a_large_value_keeps_its_place() -> Result<()> {
        let tape = Tape::<f64>::new();
        let x = tape.input(random(&[3000, 11], "x"));
        let parts = split_cols(&tape, &x, &[5, 6])?;
        let loss = crate::ops::sum(&tape, &mul(&tape, &parts[1], &parts[1])?)?;
        let g = tape.backward(&loss)?;
        let d = g.of(&x).expect("wanted").data();
        for (i, (d, v)) in d.iter().zip(x.data()).enumerate() {
            assert_eq!(*d, if i % 11 < 5 { 0.0 } else { 2.0 * v });
        }
        Ok(())
    }

    #[test]
    fn parts_that_do_not_fit_are_refused() {
        let tape = Tape::<f32>::new();
        let (a, b) = (Var::constant(Tensor::zeros(&[2, 3])), Var::constant(Tensor::zeros(&[3, 2])));
        let message = concat_rows(&tape, &[&a, &b]).map(|_| ()).unwrap_err().to_string();
        assert_eq!(message, "concat_rows: a part has shape [3, 2], expected [rows, 3]");
        assert!(concat_cols(&tape, &[&a, &b]).is_err());
        assert!(concat_rows::<f32>(&tape, &[]).is_err() && concat_cols::<f32>(&tape, &[]).is_err());
        assert!(split_cols(&tape, &a, &[1, 1]).is_err());
        assert!(split_cols(&tape, &a, &[usize::MAX, 4]).is_err());
        assert!(reshape(&tape, &a, &[4]).is_err() && reshape(&tape, &a, &[1, 1, 1, 2, 3]).is_err());
    }
}
