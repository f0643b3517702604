//! `cargo xtask`: sets up, builds, runs, tests and measures tracer. One file per verb; here are only the arguments and which
//! verb they name.

mod again;
mod bless;
mod build;
mod ci;
mod needs;
mod overhead;
mod run;
mod setup;
mod sh;
mod stats;
mod table;
mod test;
mod tidy;
mod toolchain;
mod vm;
mod workspace;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Sets up, builds, runs, tests and measures tracer.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", max_term_width = 100, after_help = EXAMPLES)]
struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

const EXAMPLES: &str = "\
Examples:
  cargo xtask run                                 build everything, trace the built-in demo workload
  cargo xtask run -- run -- python3 train.py      build everything, trace a command of your own
  cargo xtask test offline                        the tests that need neither root nor eBPF
  cargo xtask test live --without sched_switch    do the tests notice when this program is off?
  cargo xtask ci --only tidy --only clippy        two parts of the gate
  cargo xtask vm --all                            the live tests on old and new kernels
  cargo xtask overhead pingpong --json cost.json  what tracing costs, with an interval and a control";

#[derive(Subcommand)]
enum Verb {
    /// Find a usable eBPF toolchain, and install what is missing as far as that can be done
    Setup(setup::Arguments),
    /// Build the eBPF object, then the tracer and the workloads that the tests trace
    Build(build::Arguments),
    /// Build everything and run the tracer, without arguments over the built-in demo
    Run(run::Arguments),
    /// Run the offline tests, the live ones (root), or both
    Test(test::Arguments),
    /// The gate: tidy, fmt, clippy, tests, goldens, docs, live tests without their programs
    Ci(ci::Arguments),
    /// Check the rules that the compiler does not know; takes seconds
    Tidy(tidy::Arguments),
    /// Measure what tracing costs, against its limits
    Overhead(overhead::Arguments),
    /// Run the live tests on other kernels, each in an emulated machine
    Vm(vm::Arguments),
    /// Write the checked-in JSON Schema and the golden snapshots anew
    Bless(bless::Arguments),
    /// Run a command and write what it used to a file; `overhead` puts it between the tracer and the workload
    #[command(hide = true)]
    Timed(overhead::timed::Arguments),
}

fn main() -> ExitCode {
    let result = match Arguments::parse().verb {
        Verb::Setup(arguments) => setup::main(arguments),
        Verb::Build(arguments) => build::main(arguments),
        Verb::Run(arguments) => run::main(arguments),
        Verb::Test(arguments) => test::main(arguments),
        Verb::Ci(arguments) => ci::main(arguments),
        Verb::Tidy(arguments) => tidy::main(arguments),
        Verb::Overhead(arguments) => overhead::main(arguments),
        Verb::Vm(arguments) => vm::main(arguments),
        Verb::Bless(arguments) => bless::main(arguments),
        Verb::Timed(arguments) => overhead::timed::main(arguments),
    };
    result.unwrap_or_else(|error| {
        eprintln!("xtask: {error:#}");
        ExitCode::from(1)
    })
}
