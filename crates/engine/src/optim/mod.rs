//! Optimizer steps, fused over all parameters.
