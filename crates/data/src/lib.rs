//! Tables, column types, splits, samples, tokenizers and packs.
