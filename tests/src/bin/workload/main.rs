//! Programs with a known sickness, and their healthy twins.
//!
//! `workload ROLE [options]`. Names, counts and addresses are drawn at random in each run (`--seed` repeats one), so no test can pass by
//! knowing them; what was drawn and what the program measured of itself is printed as one line of JSON when it ends. That is the
//! ground truth that the live tests compare a report with. Nothing here knows of the tracer.

mod pthread;
mod roles;
mod sys;
mod truth;
mod userfault;

use clap::Parser;

/// A program with a known sickness.
#[derive(Parser)]
#[command(name = "workload", about = "Programs with a known sickness, and their healthy twins")]
struct Cli {
    /// Repeats the random choices of an earlier run.
    #[arg(long, global = true)]
    seed: Option<u64>,
    /// Prints a first line of JSON with `ready` once all threads run, before the line at the end.
    #[arg(long, global = true)]
    announce: bool,
    #[command(subcommand)]
    role: roles::Role,
}

fn main() -> anyhow::Result<()> {
    // The shortest role goes first and parses nothing: fork storms execute it thousands of times.
    let mut arguments = std::env::args().skip(1);
    if arguments.next().as_deref() == Some("noop") {
        std::process::exit(arguments.next().and_then(|code| code.parse().ok()).unwrap_or(0));
    }
    let cli = Cli::parse();
    let seed = cli.seed.unwrap_or_else(|| fastrand::u64(..));
    let mut run = truth::Run::new(cli.role.name(), seed, cli.announce);
    cli.role.run(&mut run)?;
    run.print();
    Ok(())
}
