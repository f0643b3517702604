//! The `tracer` binary. Everything is in the library; this only keeps `main` single-threaded until a command is forked,
//! and is the helper that reads debug information where tracer started itself as such.

use std::process::ExitCode;

fn main() -> ExitCode {
    if let Some(code) = tracer::symbol::helper::run_if_asked() {
        return code;
    }
    tracer::app::main()
}
