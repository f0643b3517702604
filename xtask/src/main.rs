//! `cargo xtask`: set-up, build, run, test and measure.
fn main() {}
