//! `cargo xtask ci`: the gate. Its parts in order, the quick ones first; all run even when one failed, and a table at the end says
//! what each took. What a part checks lies in the verb of its name.

use std::{process::ExitCode, time::Instant};

use anyhow::{Result, bail};
use clap::ValueEnum;

use crate::{bless, sh::Cmd, table, test, tidy, workspace};

/// Arguments of `ci`.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  cargo xtask ci                            the whole gate
  cargo xtask ci --only tidy --only fmt     two parts of it
  cargo xtask ci --tests-done               `cargo xtask test` has just passed: leave its tests out")]
pub struct Arguments {
    /// Run this part only; may be given several times
    #[arg(long, value_name = "PART")]
    only: Vec<Part>,
    /// Leave out the tests that `cargo xtask test` runs
    #[arg(long)]
    tests_done: bool,
}

/// In the order in which they run.
#[derive(Clone, Copy, Debug, PartialEq, ValueEnum)]
enum Part {
    /// The rules that the compiler does not know
    Tidy,
    /// Formatting
    Fmt,
    /// Lints, host and eBPF crates, warnings are errors
    Clippy,
    /// The offline tests
    Offline,
    /// The live tests
    Live,
    /// Schema and golden snapshots are what the code gives
    Golden,
    /// Documentation builds without warnings
    Docs,
    /// Every live test fails when its eBPF program is off, one run per program
    Without,
}

struct Outcome {
    name: String,
    took_s: f64,
    error: Option<String>,
}

/// The verb.
pub fn main(arguments: Arguments) -> Result<ExitCode> {
    let is_wanted = |part: &Part| match part {
        _ if !arguments.only.is_empty() => arguments.only.contains(part),
        Part::Offline | Part::Live => !arguments.tests_done,
        _ => true,
    };
    let mut outcomes = Vec::new();
    for part in Part::value_variants().iter().copied().filter(is_wanted) {
        run(part, &mut outcomes);
    }
    eprintln!("\n{}", summary(&outcomes));
    let failed: Vec<&str> = outcomes.iter().filter(|one| one.error.is_some()).map(|one| one.name.as_str()).collect();
    if failed.is_empty() {
        return Ok(ExitCode::SUCCESS);
    }
    bail!("failed: {}", failed.join(", "))
}

fn run(part: Part, outcomes: &mut Vec<Outcome>) {
    let name = part.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned());
    match part {
        Part::Tidy => timed(outcomes, name, || tidy::check().map(drop)),
        Part::Fmt => timed(outcomes, name, || Cmd::cargo().args(["fmt", "--all", "--check"]).run()),
        Part::Clippy => timed(outcomes, name, clippy),
        Part::Offline => timed(outcomes, name, || test::offline(&[])),
        Part::Live => timed(outcomes, name, || test::live(&[])),
        Part::Golden => timed(outcomes, name, bless::check),
        Part::Docs => timed(outcomes, name, docs),
        Part::Without => {
            let mut programs = Vec::new();
            timed(outcomes, "without".to_owned(), || {
                programs = test::programs_to_switch_off()?;
                Ok(())
            });
            for program in programs {
                timed(outcomes, format!("without {program}"), || test::without_program(&program).map(drop));
            }
        }
    }
}

fn timed(outcomes: &mut Vec<Outcome>, name: String, part: impl FnOnce() -> Result<()>) {
    eprintln!("\n== {name}");
    let start = Instant::now();
    let error = part().err().map(|error| format!("{error:#}"));
    if let Some(error) = &error {
        eprintln!("{name} failed: {error}");
    }
    outcomes.push(Outcome { name, took_s: start.elapsed().as_secs_f64(), error });
}

fn clippy() -> Result<()> {
    let deny = ["--", "-D", "warnings"];
    Cmd::cargo().args(["clippy", "--workspace", "--exclude", "tracer-ebpf", "--all-targets"]).args(deny).run()?;
    // The kernel side has no unwinding and no standard library. Checked for the host it needs no eBPF toolchain; with panic set
    // to abort the missing unwinder is not asked for, and a folder of its own keeps that from rebuilding everything else.
    Cmd::cargo()
        .args(["clippy", "-p", "tracer-ebpf", "--config", "profile.dev.panic=\"abort\"", "--target-dir"])
        .arg(workspace::target_dir().join("clippy-ebpf"))
        .args(deny)
        .run()
}

fn docs() -> Result<()> {
    let folders = ["doc", "--no-deps", "--lib", "-p", "tracer", "-p", "tracer-common"];
    Cmd::cargo().args(folders).env("RUSTDOCFLAGS", "-D warnings").run()
}

fn summary(outcomes: &[Outcome]) -> String {
    let rows: Vec<Vec<String>> = outcomes
        .iter()
        .map(|one| {
            let result = one
                .error
                .as_ref()
                .map_or("ok".to_owned(), |error| format!("FAILED: {}", error.lines().next().unwrap_or_default()));
            vec![one.name.clone(), table::seconds(one.took_s), result]
        })
        .collect();
    table::text(&["part", "took", "result"], &rows, &[1])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_summary_names_what_failed_and_why() {
        let outcomes = [
            Outcome { name: "tidy".to_owned(), took_s: 0.21, error: None },
            Outcome {
                name: "fmt".to_owned(),
                took_s: 1.0,
                error: Some("`cargo fmt` ended with status 1\nmore".to_owned()),
            },
        ];
        let text = summary(&outcomes);
        assert_eq!(
            text,
            "part   took  result\ntidy  0.2 s  ok\nfmt   1.0 s  FAILED: `cargo fmt` ended with status 1\n"
        );
    }
}
