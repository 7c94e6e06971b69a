//! The `sensorium` program.
fn main() {}
