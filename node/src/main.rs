//! The `henge` binary.
fn main() {}
