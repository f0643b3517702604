//! `cargo xtask test`: the offline tests (no root, no eBPF toolchain), the live ones (root), and the live ones with one eBPF
//! program off, each of which must then fail.

use std::{path::PathBuf, process::ExitCode, time::Duration};

use anyhow::{Context, Result, bail, ensure};
use clap::ValueEnum;

use crate::{
    again,
    build::{self, Ebpf},
    needs::{self, Needs},
    setup, sh,
    sh::Cmd,
    workspace::{self, Binaries},
};

/// Arguments of `test`.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  cargo xtask test                                   both, the offline ones first
  cargo xtask test offline -- capture                offline tests with `capture` in their name
  cargo xtask test live -- --nocapture               live tests, with what they print
  cargo xtask test live --without sched_switch       the tests that depend on this program, which must all fail")]
pub struct Arguments {
    /// Which tests
    kind: Option<Kind>,
    /// Leave this eBPF program off; every live test that depends on it must fail
    #[arg(long, value_name = "PROGRAM")]
    without: Option<String>,
    /// Filters and options for the tests themselves
    #[arg(last = true, value_name = "FILTER OR OPTION")]
    arguments: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, ValueEnum)]
enum Kind {
    /// Neither root nor an eBPF toolchain is needed
    Offline,
    /// On the running kernel, as root
    Live,
}

/// A test whose program is off may wait for events that never come.
const LIMIT_WITHOUT: Duration = Duration::from_secs(180);

/// What libtest ends with when a test failed.
const TEST_FAILED: i32 = 101;

/// The verb.
pub fn main(arguments: Arguments) -> Result<ExitCode> {
    let Arguments { kind, without, arguments } = arguments;
    if let Some(program) = without {
        ensure!(kind != Some(Kind::Offline), "--without is for live tests: offline ones use no eBPF program");
        ensure!(arguments.is_empty(), "--without runs exactly the tests of tests/live/needs.tsv: it takes no filter");
        return without_program(&program);
    }
    if kind != Some(Kind::Live) {
        if kind.is_none() {
            // First what the live tests need anyway: without the eBPF object the tracer would be compiled now and again for them.
            build::everything(false)?;
        }
        offline(&arguments)?;
    }
    if kind != Some(Kind::Offline) {
        live(&arguments)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// The tests of every crate, then those over captures.
pub fn offline(arguments: &[String]) -> Result<()> {
    let binaries = build::host(false)?;
    // All at once: what is selected decides about the features of what all depend on, and other features are another build of it.
    let packages = ["-p", "tracer-common", "-p", "tracer", "-p", "xtask", "-p", "tests"];
    let targets = ["--lib", "--bin", "xtask", "--test", "offline"];
    let command = Cmd::cargo().arg("test").args(packages).args(targets).envs(binaries.variables()?);
    // Snapshots are written by `bless` alone.
    let command = command.env("INSTA_UPDATE", "no");
    if in_ci() {
        return again::run(&command.args(["--no-fail-fast", "--"]), arguments);
    }
    if arguments.is_empty() { command.run() } else { command.arg("--").args(arguments).run() }
}

fn in_ci() -> bool {
    std::env::var_os("CI").is_some()
}

/// The live tests, as root.
pub fn live(arguments: &[String]) -> Result<()> {
    sh::can_be_root().context("the live tests attach eBPF programs")?;
    setup::test_programs()?;
    let live = Live::build()?;
    ensure!(!live.list()?.is_empty(), "tests/live holds no test");
    let command = live.command()?.privileged();
    let arguments = [&["--test-threads=1".to_owned()], arguments].concat();
    if in_ci() { again::run(&command, &arguments) } else { command.args(arguments).run() }
}

/// Each listed test must fail; fails itself when one did not.
pub fn without_program(program: &str) -> Result<ExitCode> {
    sh::can_be_root().context("the live tests attach eBPF programs")?;
    let needs = Needs::load()?;
    let live = Live::build()?;
    let programs = needs::programs(&live.binaries.tracer)?;
    ensure!(
        programs.iter().any(|known| known == program),
        "there is no program `{program}`, only {}",
        programs.join(", ")
    );
    if let Some((_, reason)) = needs.exempt.iter().find(|(exempt, _)| exempt == program) {
        bail!("no live test can depend on `{program}`: {reason}");
    }
    let tests = needs.tests_of(program);
    ensure!(!tests.is_empty(), "no live test depends on `{program}`: write one and list it in tests/live/needs.tsv");
    let present = live.list()?;
    let absent: Vec<&str> = tests.iter().copied().filter(|test| !present.iter().any(|name| name == test)).collect();
    ensure!(absent.is_empty(), "tests/live/needs.tsv lists tests that do not exist: {}", absent.join(", "));

    let mut unnoticed = Vec::new();
    for test in &tests {
        match live.notices(test, program)? {
            None => eprintln!("`{test}` failed without `{program}`, as it must"),
            Some(how) => unnoticed.push(format!("`{test}` {how}")),
        }
    }
    eprintln!("`{program}` off: {} of {} tests noticed", tests.len() - unnoticed.len(), tests.len());
    if unnoticed.is_empty() {
        return Ok(ExitCode::SUCCESS);
    }
    bail!("with `{program}` off, {}", unnoticed.join("; "))
}

/// What `ci` does for every program: those to be switched off in turn, once the table has no gaps.
pub fn programs_to_switch_off() -> Result<Vec<String>> {
    let binaries = build::everything(false)?;
    let programs = needs::programs(&binaries.tracer)?;
    let needs = Needs::load()?;
    let gaps = needs.gaps(&programs);
    ensure!(gaps.is_empty(), "{}: {}", needs::file().display(), gaps.join("; "));
    for (program, reason) in &needs.exempt {
        eprintln!("`{program}` is not switched off: {reason}");
    }
    Ok(programs.into_iter().filter(|program| !needs.exempt.iter().any(|(exempt, _)| exempt == program)).collect())
}

/// The live tests, built.
pub struct Live {
    /// What they run.
    pub binaries: Binaries,
    /// They themselves.
    pub executable: PathBuf,
}

impl Live {
    /// Builds as the user who runs xtask, so that only the tests themselves run as root.
    pub fn build() -> Result<Self> {
        Self::build_with(Ebpf::Release)
    }

    /// The same with the eBPF object built in some way.
    pub fn build_with(how: Ebpf) -> Result<Self> {
        let binaries = build::everything_with(false, how)?;
        let build = Cmd::cargo()
            .args(["test", "-p", "tests", "--test", "live", "--no-run", "--message-format=json-render-diagnostics"])
            .read()?;
        let executable = executable_of(&build).context("cargo did not say where it built the live tests")?;
        Ok(Self { binaries, executable })
    }

    fn command(&self) -> Result<Cmd> {
        let folder = workspace::root().join("tests");
        Ok(Cmd::new(&self.executable).folder(folder).envs(self.binaries.variables()?))
    }

    /// Their names.
    pub fn list(&self) -> Result<Vec<String>> {
        let text = self.command()?.args(["--list", "--format=terse"]).quiet().read()?;
        Ok(text.lines().filter_map(|line| line.strip_suffix(": test")).map(str::to_owned).collect())
    }

    /// Runs one test with a program off: `None` when it failed, else what it did instead.
    fn notices(&self, test: &str, program: &str) -> Result<Option<String>> {
        // The failure is expected: where it comes from is of no interest.
        let quiet = self.command()?.env("RUST_BACKTRACE", "0");
        let command = quiet.env("TRACER_WITHOUT", program).args(["--exact", test, "--test-threads=1"]);
        let Some(status) = command.privileged().status_within(LIMIT_WITHOUT)? else {
            return Ok(Some(format!("hung for {} s", LIMIT_WITHOUT.as_secs())));
        };
        Ok(match status.code() {
            Some(TEST_FAILED) => None,
            Some(0) => Some("passed all the same".to_owned()),
            _ => Some(sh::how_it_ended(status)),
        })
    }
}

/// The test's executable, from cargo's messages.
fn executable_of(messages: &str) -> Option<PathBuf> {
    messages.lines().find_map(|line| {
        let message: serde_json::Value = serde_json::from_str(line).ok()?;
        let is_it = message["reason"] == "compiler-artifact" && message["target"]["name"] == "live";
        is_it.then(|| message["executable"].as_str().map(PathBuf::from))?
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_live_tests_executable_is_found_in_cargos_messages() {
        let messages = r#"{"reason":"compiler-artifact","target":{"name":"tests"},"executable":null}
{"reason":"compiler-artifact","target":{"name":"live","kind":["test"]},"executable":"/t/live-1"}
{"reason":"build-finished","success":true}"#;
        assert_eq!(executable_of(messages), Some(PathBuf::from("/t/live-1")));
        assert_eq!(executable_of(""), None);
    }
}
