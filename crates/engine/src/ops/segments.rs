//! Walking the rows of a pack together with the segments they belong to.

use crate::Offsets;

/// Calls `f(i, segment)` for the `count` rows from row `first` on, `i`
/// counting from 0.
#[inline]
pub(crate) fn each_row(offsets: &Offsets, first: usize, count: usize, mut f: impl FnMut(usize, usize)) {
    if count == 0 {
        return;
    }
    let bounds = offsets.bounds();
    // The last segment that begins at or before the row; empty ones that
    // begin there too come before it.
    let mut segment = bounds.partition_point(|&b| b <= first) - 1;
    for i in 0..count {
        while bounds[segment + 1] <= first + i {
            segment += 1;
        }
        f(i, segment);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_meets_its_segment_from_any_start() {
        let offsets = Offsets::from_lengths([0, 2, 0, 0, 3, 1, 0]);
        let truth = [1, 1, 4, 4, 4, 5];
        for first in 0..=truth.len() {
            let mut seen = Vec::new();
            each_row(&offsets, first, truth.len() - first, |_, s| seen.push(s));
            assert_eq!(seen, truth[first..]);
        }
    }
}
