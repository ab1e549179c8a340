//! The `polycast` binary.
fn main() {}
