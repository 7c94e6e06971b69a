//! Metrics and reports: pure functions over predictions and truths.
