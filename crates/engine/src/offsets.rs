//! Where the segments of a pack begin and end.

use crate::{EngineError, Result};
use std::ops::Range;
use std::sync::Arc;

/// Cuts the rows of a pack into consecutive segments; cheap to clone.
///
/// `[0, 3, 3, 7]` are three segments of 3, 0 and 4 rows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Offsets(Arc<[usize]>);

impl Offsets {
    /// Offsets from their list: beginning with 0, never falling.
    ///
    /// # Errors
    /// When the list is empty, does not begin with 0, or falls.
    pub fn new(bounds: impl Into<Arc<[usize]>>) -> Result<Self> {
        let bounds = bounds.into();
        let problem = if bounds.first() != Some(&0) {
            Some("do not begin with 0".to_owned())
        } else {
            bounds.windows(2).position(|w| w[1] < w[0]).map(|i| format!("fall after entry {i}"))
        };
        match problem {
            Some(problem) => Err(EngineError::Offsets { op: "offsets", problem }),
            None => Ok(Self(bounds)),
        }
    }

    /// Offsets from the lengths of the segments.
    pub fn from_lengths(lengths: impl IntoIterator<Item = usize>) -> Self {
        let mut bounds = vec![0];
        let mut end = 0;
        for n in lengths {
            end += n;
            bounds.push(end);
        }
        Self(bounds.into())
    }

    /// The number of segments.
    pub fn segments(&self) -> usize {
        self.0.len() - 1
    }

    /// The number of rows of all segments.
    pub fn total(&self) -> usize {
        *self.0.last().expect("offsets are never empty")
    }

    /// The rows of one segment.
    pub fn range(&self, segment: usize) -> Range<usize> {
        self.0[segment]..self.0[segment + 1]
    }

    /// The length of one segment.
    pub fn length(&self, segment: usize) -> usize {
        self.0[segment + 1] - self.0[segment]
    }

    /// The rows of every segment.
    pub fn ranges(&self) -> impl Iterator<Item = Range<usize>> + '_ {
        self.0.windows(2).map(|w| w[0]..w[1])
    }

    /// The longest segment's length.
    pub fn longest(&self) -> usize {
        self.0.windows(2).map(|w| w[1] - w[0]).max().unwrap_or(0)
    }

    /// The bounds themselves.
    pub fn bounds(&self) -> &[usize] {
        &self.0
    }

    pub(crate) fn expect_rows(&self, op: &'static str, rows: usize) -> Result<()> {
        if self.total() == rows {
            return Ok(());
        }
        Err(EngineError::Offsets { op, problem: format!("end at row {}, but there are {rows} rows", self.total()) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bad_lists_are_refused() {
        assert!(Offsets::new([0, 2, 5]).is_ok());
        for bad in [vec![], vec![1, 2], vec![0, 3, 2]] {
            assert!(Offsets::new(bad).is_err());
        }
    }

    #[test]
    fn lengths_and_ranges_agree() {
        let o = Offsets::from_lengths([3, 0, 4]);
        assert_eq!(o.ranges().collect::<Vec<_>>(), [0..3, 3..3, 3..7]);
        assert_eq!((o.segments(), o.total(), o.longest()), (3, 7, 4));
    }
}
