//! The `tracer` binary. Everything is in the library; this only keeps `main` single-threaded until a command is forked.

use std::process::ExitCode;

fn main() -> ExitCode {
    tracer::app::main()
}
