//! The product for every processor and element: the `gemm` crate's, cut into
//! fixed bands of rows.

use super::{Output, Product, Right, Shared, written_out};
use crate::{Buffer, Element};
use rayon::prelude::*;

const BAND: usize = 64;

pub(crate) fn product<E: Element>(p: Product<'_, E>) {
    let Product { a, b, c, accumulate, parallel, map_a, map_b, finish } = p;
    let Right::Plain(b) = b else { unreachable!("nothing is packed for the portable product") };
    // Mapped factors are written out first.
    let (mut held_a, mut held_b) = (None, None);
    let a = if map_a.is_some() { written_out(a, a.rows, map_a, &mut held_a) } else { a };
    // The crate has other ways for few rows, which add in another order.
    let (mut filled_a, mut filled_c) = (None, None);
    if super::ALIKE.get() && c.rows % BAND != 0 {
        let rows = c.rows.next_multiple_of(BAND);
        let a = written_out(a, rows, None, &mut filled_a);
        let values = filled_c.insert(Buffer::zeros(rows * c.cols));
        for i in 0..if accumulate { c.rows } else { 0 } {
            // SAFETY: row i of the output, which we borrow exclusively.
            let row = unsafe { std::slice::from_raw_parts(c.data.add(i * c.stride), c.cols) };
            values[i * c.cols..][..c.cols].copy_from_slice(row);
        }
        let whole = Output::dense(values, rows, c.cols);
        product(Product {
            a,
            b: Right::Plain(b),
            c: whole,
            accumulate,
            parallel,
            map_a: None,
            map_b: None,
            finish: None,
        });
        for i in 0..c.rows {
            // SAFETY: as above.
            let row = unsafe { std::slice::from_raw_parts_mut(c.data.add(i * c.stride), c.cols) };
            row.copy_from_slice(&values[i * c.cols..][..c.cols]);
            if let Some(finish) = finish {
                finish(i, 0, row);
            }
        }
        return;
    }
    let b = if map_b.is_some() { written_out(b, b.rows, map_b, &mut held_b) } else { b };
    let band = Shared(|i: usize| {
        // Capture the whole output, not its raw pointer.
        let c = &c;
        let first = i * BAND;
        let rows = BAND.min(c.rows - first);
        // SAFETY: the constructors checked that every index of the three
        // matrices lies in its data; bands write disjoint rows of C.
        unsafe {
            gemm::gemm(
                rows,
                c.cols,
                a.cols,
                c.data.add(first * c.stride),
                1,
                c.stride as isize,
                accumulate,
                a.data.as_ptr().add(first * a.row_stride),
                a.col_stride as isize,
                a.row_stride as isize,
                b.data.as_ptr(),
                b.col_stride as isize,
                b.row_stride as isize,
                E::ONE,
                E::ONE,
                false,
                false,
                false,
                gemm::Parallelism::None,
            );
        }
        if let Some(finish) = finish {
            for row in first..first + rows {
                // SAFETY: a row of the band, complete now.
                finish(row, 0, unsafe { std::slice::from_raw_parts_mut(c.data.add(row * c.stride), c.cols) });
            }
        }
    });
    let bands = c.rows.div_ceil(BAND);
    if parallel && c.rows * c.cols * a.cols > 1 << 16 {
        (0..bands).into_par_iter().for_each(|i| band.call(i));
    } else {
        (0..bands).for_each(|i| band.call(i));
    }
}
