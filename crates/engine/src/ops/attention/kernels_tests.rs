//! The innermost loops against their definitions, on every width there is.

use super::kernels::*;

fn all() -> Vec<&'static Kernels<f32>> {
    let mut all = vec![kernels_portable::<f32>()];
    #[cfg(target_arch = "x86_64")]
    {
        if crate::level() >= crate::Level::Avx2 {
            all.push(avx2::KERNELS);
        }
        if crate::level() >= crate::Level::Avx512 {
            all.push(avx512::KERNELS);
        }
    }
    #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
    all.extend(super::tiles::kernels(1024, 1 << 16));
    all
}

fn values(len: usize, seed: usize) -> Vec<f32> {
    (0..len).map(|i| ((i * 37 + seed * 11) % 101) as f32 / 50.0 - 1.0).collect()
}

/// A product of a part of B, against the definition.
fn check(kernels: &Kernels<f32>, (rows, cols, depth): (usize, usize, usize), [across, b_across, add]: [bool; 3]) {
    let lanes = kernels.lanes;
    let (padded, from) = (cols.next_multiple_of(lanes), (lanes, 2 * lanes));
    let whole = (from.0 + depth, from.1 + cols);
    let (a, b) = (values(rows * depth, 1), values(whole.0 * whole.1, 2));
    let strides = |across, (rows, cols)| if across { (1, rows) } else { (cols, 1) };
    let (a_strides, b_strides) = (strides(across, (rows, depth)), strides(b_across, whole));
    let mut laid = vec![f32::NAN; (kernels.laid_out)(whole.0, whole.1)];
    let mut room = vec![f32::NAN; (kernels.room)(depth)];
    let mut c = values(rows.next_multiple_of(kernels.rows) * padded, 3);
    let before = c.clone();
    (kernels.begin)();
    // SAFETY: all hold what is named.
    unsafe {
        (kernels.lay_out)(View { data: b.as_ptr(), strides: b_strides }, whole, laid.as_mut_ptr());
        (kernels.product)(Product {
            rows,
            cols: padded,
            depth,
            a: View { data: a.as_ptr(), strides: a_strides },
            b: laid.as_ptr(),
            whole,
            from,
            c: c.as_mut_ptr(),
            c_stride: padded,
            add,
            room: room.as_mut_ptr(),
        });
    }
    (kernels.end)();
    for i in 0..rows {
        for j in 0..padded {
            let term = |k: usize| {
                let at = (from.0 + k) * b_strides.0 + (from.1 + j) * b_strides.1;
                f64::from(a[i * a_strides.0 + k * a_strides.1]) * f64::from(b[at])
            };
            let sum = if j < cols { (0..depth).map(term).sum::<f64>() } else { 0.0 };
            let want = sum + if add { f64::from(before[i * padded + j]) } else { 0.0 };
            assert!((f64::from(c[i * padded + j]) - want).abs() < 1e-5, "{rows} x {cols} x {depth}, {lanes} lanes");
        }
    }
    let beyond = rows * padded..;
    assert!(!add || c[beyond.clone()] == before[beyond], "rows beyond the last change");
}

#[test]
fn products_of_every_shape_and_layout_match_the_definition() {
    for kernels in all() {
        for rows in [1, 2, 3, 4, 5, 7, 11, 16, 23, 33, 64] {
            for (cols, depth) in [(8, 1), (16, 5), (40, 32), (33, 70), (5, 2)] {
                for form in 0..8 {
                    check(kernels, (rows, cols, depth), [form & 1 > 0, form & 2 > 0, form & 4 > 0]);
                }
            }
        }
    }
}

#[test]
fn exponentials_of_hidden_scores_are_zero() {
    for kernels in all() {
        let len = 2 * kernels.lanes;
        let mut x = values(len, 4);
        x[3..].fill(f32::NEG_INFINITY);
        let want: Vec<f32> = x.iter().map(|v| (v - x[..3].iter().copied().fold(-9.0, f32::max)).exp()).collect();
        // SAFETY: `x` holds `len` elements.
        let (_, sum) = unsafe { (kernels.exponentials)(x.as_mut_ptr(), len) };
        assert!(x.iter().zip(&want).all(|(a, b)| (a - b).abs() < 1e-6));
        assert_eq!(x[3..], vec![0.0; len - 3]);
        assert!((sum - want.iter().sum::<f32>()).abs() < 1e-6);
        x.fill(f32::NEG_INFINITY);
        // SAFETY: as above.
        let (largest, sum) = unsafe { (kernels.exponentials)(x.as_mut_ptr(), len) };
        assert_eq!((largest, sum), (f32::NEG_INFINITY, 0.0));
        assert_eq!(x, vec![0.0; len]);
    }
}
