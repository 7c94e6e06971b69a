//! Learned positions of a grid of patches, for pictures of another size.

/// Rows of positions for a grid of another side: `positions` are `first` rows
/// and then those of a square grid, row by row; so is the result, of the shape
/// `dims` (`[first + side², width]`). None where the numbers fit no squares.
///
/// Bicubic as the reference library does it. Without `antialias` the kernel
/// has a = −0.75 and four taps; with it, a = −0.5, and shrinking widens it.
pub(super) fn resized(positions: &[f32], first: usize, dims: &[usize], antialias: bool) -> Option<Vec<f32>> {
    let &[rows, width] = dims else { return None };
    if width == 0 || !positions.len().is_multiple_of(width) {
        return None;
    }
    if positions.len() == rows * width {
        return Some(positions.to_vec());
    }
    let side = |rows: usize| {
        let patches = rows.checked_sub(first)?;
        let side = patches.isqrt();
        (side > 0 && side * side == patches).then_some(side)
    };
    let (old, new) = (side(positions.len() / width)?, side(rows)?);
    let (kept, grid) = positions.split_at(first * width);
    let taps = if antialias { smoothed(old, new) } else { interpolated(old, new) };
    // Along each row, then along each column.
    let mut wide = vec![0.0; old * new * width];
    for (row, out) in grid.chunks_exact(old * width).zip(wide.chunks_exact_mut(new * width)) {
        for (taps, out) in taps.iter().zip(out.chunks_exact_mut(width)) {
            for (from, weight) in taps {
                out.iter_mut().zip(&row[from * width..]).for_each(|(o, x)| *o += weight * f64::from(*x));
            }
        }
    }
    let mut result = kept.to_vec();
    let line = new * width;
    for taps in &taps {
        let sum = |i: usize| taps.iter().map(|(from, weight)| weight * wide[from * line + i]).sum::<f64>();
        result.extend((0..line).map(|i| sum(i) as f32));
    }
    Some(result)
}

/// The cubic convolution kernel (Keys 1981).
fn cubic(x: f64, a: f64) -> f64 {
    let x = x.abs();
    if x <= 1.0 {
        ((a + 2.0) * x - (a + 3.0)) * x * x + 1.0
    } else if x < 2.0 {
        ((a * x - 5.0 * a) * x + 8.0 * a) * x - 4.0 * a
    } else {
        0.0
    }
}

/// For each new place the four old ones around it, the border repeated.
fn interpolated(old: usize, new: usize) -> Vec<Vec<(usize, f64)>> {
    let last = old as i64 - 1;
    let place = |i: usize| {
        let at = (i as f64 + 0.5) * old as f64 / new as f64 - 0.5;
        let below = at.floor();
        let tap = |k: i64| ((below as i64 + k).clamp(0, last) as usize, cubic(at - below - k as f64, -0.75));
        (-1..=2).map(tap).collect()
    };
    (0..new).map(place).collect()
}

/// For each new place all old ones that it covers.
fn smoothed(old: usize, new: usize) -> Vec<Vec<(usize, f64)>> {
    let step = old as f64 / new as f64;
    let stretch = step.max(1.0);
    let place = |i: usize| {
        let centre = (i as f64 + 0.5) * step;
        let from = (centre - 2.0 * stretch + 0.5).max(0.0) as usize;
        let to = ((centre + 2.0 * stretch + 0.5) as usize).min(old);
        let taps: Vec<_> = (from..to).map(|j| (j, cubic((j as f64 + 0.5 - centre) / stretch, -0.5))).collect();
        let sum: f64 = taps.iter().map(|t| t.1).sum();
        taps.into_iter().map(|(j, weight)| (j, weight / sum)).collect()
    };
    (0..new).map(place).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_constant_grid_stays_constant_and_the_first_rows_stay() {
        let mut positions = vec![7.0, 8.0];
        positions.extend([1.5; 2 * 9]);
        for antialias in [false, true] {
            for side in [1, 2, 3, 5] {
                let rows = 1 + side * side;
                let new = resized(&positions, 1, &[rows, 2], antialias).unwrap();
                assert_eq!((new.len(), &new[..2]), (rows * 2, &[7.0, 8.0][..]));
                assert!(new[2..].iter().all(|x| (x - 1.5).abs() < 1e-6));
            }
        }
    }

    #[test]
    fn what_is_no_square_is_refused() {
        assert!(resized(&[0.0; 12], 1, &[5, 2], false).is_none());
        assert!(resized(&[0.0; 20], 1, &[4, 2], false).is_none());
        assert!(resized(&[0.0; 21], 1, &[5, 2], false).is_none());
    }
}
