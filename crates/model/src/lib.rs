//! Transformer blocks, towers, fusion and heads over packed sequences.
