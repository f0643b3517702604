//! `xtask timed`: runs a command and writes what it used to a file. It stands between whatever observes (the tracer, perf,
//! nothing) and the workload, so that all three are measured in the same way and without the observer's own start and end.

use std::{
    fs,
    io::Read,
    path::{Path, PathBuf},
    process::{Command, ExitCode, Stdio},
};

use anyhow::{Context, Result, ensure};
use nix::sys::resource::{Usage, UsageWho, getrusage};
use serde_json::{Value, json};

/// Arguments of `timed`.
#[derive(clap::Args)]
pub struct Arguments {
    /// Where to write
    #[arg(long)]
    output: PathBuf,
    /// The command
    #[arg(last = true, required = true)]
    command: Vec<String>,
}

/// What one run of a workload used.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    /// Wall time of its work, as the workload itself took it.
    pub elapsed_s: f64,
    /// User and system time of its process.
    pub cpu_s: f64,
    /// How often its threads were switched out.
    pub switches: f64,
}

/// The verb.
pub fn main(arguments: Arguments) -> Result<ExitCode> {
    let (program, rest) = arguments.command.split_first().context("no command")?;
    let mut child = Command::new(program)
        .args(rest)
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot run `{program}`"))?;
    let mut printed = String::new();
    child
        .stdout
        .take()
        .context("the command has no standard output")?
        .read_to_string(&mut printed)
        .with_context(|| format!("cannot read what `{program}` prints"))?;
    let status = child.wait().with_context(|| format!("cannot wait for `{program}`"))?;
    let (cpu_s, switches) = used_by_children()?;
    let text = json!({ "cpu_s": cpu_s, "switches": switches, "printed": printed }).to_string();
    fs::write(&arguments.output, text).with_context(|| format!("cannot write {}", arguments.output.display()))?;
    Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// CPU seconds and context switches of all children that have been waited for, and of theirs.
pub fn used_by_children() -> Result<(f64, f64)> {
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN).context("the kernel does not say what children used")?;
    let switches = usage.voluntary_context_switches() + usage.involuntary_context_switches();
    Ok((cpu_seconds(&usage), switches as f64))
}

fn cpu_seconds(usage: &Usage) -> f64 {
    [usage.user_time(), usage.system_time()].iter().map(|time| time.tv_sec() as f64 + time.tv_usec() as f64 / 1e6).sum()
}

/// Reads what `timed` wrote.
pub fn read(file: &Path) -> Result<Sample> {
    let text = fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
    sample(&text).with_context(|| format!("{} cannot be used", file.display()))
}

fn sample(text: &str) -> Result<Sample> {
    let written: Value = serde_json::from_str(text).context("it is not JSON")?;
    let number = |key: &str| written[key].as_f64().with_context(|| format!("it has no number `{key}`"));
    let printed = written["printed"].as_str().unwrap_or_default();
    let elapsed_s = printed
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok()?["elapsed_s"].as_f64())
        .next_back()
        .context("the workload printed no JSON line with `elapsed_s`")?;
    ensure!(elapsed_s > 0.0, "the workload says that it took {elapsed_s} s");
    Ok(Sample { elapsed_s, cpu_s: number("cpu_s")?, switches: number("switches")? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_workloads_own_time_is_taken() {
        let text = r#"{"cpu_s":1.5,"switches":200001,"printed":"hello\n{\"elapsed_s\":0.61,\"count\":200000}\n"}"#;
        assert_eq!(sample(text).unwrap(), Sample { elapsed_s: 0.61, cpu_s: 1.5, switches: 200_001.0 });
    }

    #[test]
    fn a_workload_that_says_nothing_is_refused() {
        let error = sample(r#"{"cpu_s":1.5,"switches":1,"printed":"hello\n"}"#).unwrap_err();
        assert_eq!(error.to_string(), "the workload printed no JSON line with `elapsed_s`");
    }
}
