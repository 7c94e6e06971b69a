//! The training loop: optimizers, schedules, checkpoints with exact resume, logs.
