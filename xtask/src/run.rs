//! `cargo xtask run`: builds everything and becomes the tracer. Signals and the exit status are then the tracer's own.

use std::process::ExitCode;

use anyhow::Result;

use crate::{
    build, sh,
    sh::Cmd,
    workspace::{Binaries, utf8},
};

/// Arguments of `run`.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  cargo xtask run                              trace the built-in demo: four threads that fight for one lock
  cargo xtask run -- doctor                    what this host allows
  cargo xtask run -- run -- python3 train.py   trace a command")]
pub struct Arguments {
    /// Build the tracer optimised
    #[arg(long)]
    release: bool,
    /// What the tracer is to do
    #[arg(last = true, value_name = "TRACER ARGUMENTS")]
    arguments: Vec<String>,
}

/// The built-in demo: its report names the lock's threads and who held it.
const DEMO: [&str; 5] = ["mutex", "--threads", "4", "--duration", "3s"];

/// The verb.
pub fn main(arguments: Arguments) -> Result<ExitCode> {
    let binaries = build::everything(arguments.release)?;
    let of_tracer = if arguments.arguments.is_empty() { demo(&binaries)? } else { arguments.arguments };
    let command = Cmd::new(&binaries.tracer).args(&of_tracer);
    if !needs_root(&of_tracer) {
        return Err(command.become_it());
    }
    sh::can_be_root()?;
    Err(command.privileged().become_it())
}

fn demo(binaries: &Binaries) -> Result<Vec<String>> {
    eprintln!("tracing the built-in demo workload: 4 threads that fight for one lock, for 3 s");
    let workload = utf8(&binaries.workload)?;
    Ok(["run", "--", &workload].into_iter().chain(DEMO).map(str::to_owned).collect())
}

/// Only attaching does; the other commands read files or ask what is allowed.
fn needs_root(of_tracer: &[String]) -> bool {
    let only_asks = of_tracer
        .iter()
        .take_while(|argument| *argument != "--")
        .any(|argument| argument == "--help" || argument == "-h");
    !only_asks && matches!(of_tracer.first().map(String::as_str), Some("run" | "record"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_attaches_runs_as_root() {
        let needs = |line: &str| needs_root(&line.split(' ').map(str::to_owned).collect::<Vec<_>>());
        assert!(needs("run -- true") && needs("record --all") && needs("run -- ls --help"));
        assert!(!needs("doctor") && !needs("report x.trc") && !needs("run --help") && !needs("--version"));
    }
}
