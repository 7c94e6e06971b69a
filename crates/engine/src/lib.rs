//! Tensors, the tape and the fused differentiable operations of Sensorium.
