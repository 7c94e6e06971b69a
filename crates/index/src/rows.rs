//! Sets of positions.

/// A set of positions in an index, a bit for each.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RowSet {
    words: Vec<u64>,
    count: usize,
}

impl RowSet {
    /// Adds a position; false where it was there already.
    pub fn insert(&mut self, position: usize) -> bool {
        let (word, bit) = (position / 64, 1 << (position % 64));
        if self.words.len() <= word {
            self.words.resize(word + 1, 0);
        }
        let new = self.words[word] & bit == 0;
        self.words[word] |= bit;
        self.count += usize::from(new);
        new
    }

    /// Whether a position is there.
    #[inline]
    pub fn contains(&self, position: usize) -> bool {
        self.words.get(position / 64).is_some_and(|word| word >> (position % 64) & 1 == 1)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.count
    }

    /// True without any.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// As bytes, eight positions each.
    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        self.words.iter().flat_map(|w| w.to_le_bytes()).collect()
    }

    /// What [`RowSet::to_bytes`] gave.
    pub(crate) fn from_bytes(bytes: &[u8]) -> Self {
        let word = |b: &[u8]| b.iter().rev().fold(0_u64, |w, b| w << 8 | u64::from(*b));
        let words: Vec<u64> = bytes.chunks(8).map(word).collect();
        let count = words.iter().map(|w| w.count_ones() as usize).sum();
        Self { words, count }
    }
}

impl FromIterator<usize> for RowSet {
    fn from_iter<I: IntoIterator<Item = usize>>(positions: I) -> Self {
        let mut set = Self::default();
        positions.into_iter().for_each(|p| {
            set.insert(p);
        });
        set
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_survives_its_bytes() {
        let set: RowSet = [0, 5, 63, 64, 1000, 5].into_iter().collect();
        assert_eq!(set.len(), 5);
        let again = RowSet::from_bytes(&set.to_bytes());
        assert_eq!(again, set);
        assert!(again.contains(1000) && !again.contains(999) && !again.contains(1 << 40));
    }
}
