//! Words of a vocabulary learnt from the training rows.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Each word has a number; 0 is any word that the training rows do not have.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CategoryProcessor {
    /// The words numbered 1, 2, …, sorted.
    pub vocabulary: Vec<String>,
}

impl CategoryProcessor {
    /// The most words kept; rarer ones become 0.
    pub const MAX_WORDS: usize = 10_000;

    /// Keeps the most frequent words. Words seen once become 0 where there are others, so that the
    /// embedding of 0 is trained and stands for "rare".
    pub(crate) fn fit(counts: &BTreeMap<String, u64>) -> Self {
        let frequent = counts.values().any(|count| *count > 1);
        let mut words: Vec<(&String, u64)> =
            counts.iter().map(|(word, count)| (word, *count)).filter(|(_, count)| *count > 1 || !frequent).collect();
        words.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(b.0)));
        words.truncate(Self::MAX_WORDS);
        let mut vocabulary: Vec<String> = words.into_iter().map(|(word, _)| word.clone()).collect();
        vocabulary.sort();
        CategoryProcessor { vocabulary }
    }

    /// The number of a word.
    pub fn id(&self, word: &str) -> u32 {
        self.vocabulary.binary_search_by(|known| known.as_str().cmp(word.trim())).map_or(0, |at| at as u32 + 1)
    }

    /// Numbers in use, the 0 included: the rows of an embedding table.
    pub fn len(&self) -> usize {
        self.vocabulary.len() + 1
    }

    /// Never true: 0 always exists.
    pub fn is_empty(&self) -> bool {
        false
    }

    pub(crate) fn validate(&self) -> Result<(), String> {
        match self.vocabulary.windows(2).find(|pair| pair[0] >= pair[1]) {
            Some(pair) => {
                Err(format!("the vocabulary must be sorted and distinct: {:?} stands before {:?}", pair[0], pair[1]))
            }
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rare_and_unknown_words_are_zero() {
        let counts = BTreeMap::from([("b".to_string(), 3), ("a".to_string(), 2), ("once".to_string(), 1)]);
        let processor = CategoryProcessor::fit(&counts);
        assert_eq!(processor.vocabulary, ["a", "b"]);
        assert_eq!(["a", " b ", "once", "new"].map(|word| processor.id(word)), [1, 2, 0, 0]);
        assert_eq!(processor.len(), 3);
        let all_once = CategoryProcessor::fit(&BTreeMap::from([("x".to_string(), 1)]));
        assert_eq!(all_once.id("x"), 1);
        assert!(CategoryProcessor { vocabulary: vec!["b".into(), "a".into()] }.validate().is_err());
    }
}
