//! Programs with a known sickness and their healthy twins.
fn main() {}
