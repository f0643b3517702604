//! `cargo xtask bless`: writes the checked-in JSON Schema of the report and the golden snapshots anew. With `--check` it only
//! says whether they would change.

use std::{fs, process::ExitCode};

use anyhow::{Context, Result, bail, ensure};

use crate::{build, sh::Cmd, workspace};

/// Arguments of `bless`.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  cargo xtask bless            write them; then read the diff before committing it
  cargo xtask bless --check    what `ci` runs")]
pub struct Arguments {
    /// Fail when something would change; write nothing
    #[arg(long)]
    check: bool,
}

const SCHEMA: &str = "tests/offline/report.schema.json";

/// The verb.
pub fn main(arguments: Arguments) -> Result<ExitCode> {
    if arguments.check {
        check()?
    } else {
        write()?
    }
    Ok(ExitCode::SUCCESS)
}

/// Fails when the schema or a snapshot would change.
pub fn check() -> Result<()> {
    let binaries = build::host(false)?;
    let stale = fs::read_to_string(workspace::root().join(SCHEMA)).unwrap_or_default() != schema(&binaries)?;
    let snapshots = snapshots(&binaries, "no");
    if stale {
        bail!("{SCHEMA} is not what the report's types give: run `cargo xtask bless` and read the diff");
    }
    snapshots.context("the golden snapshots are not what the code gives: run `cargo xtask bless` and read the diff")
}

fn write() -> Result<()> {
    let binaries = build::host(false)?;
    let file = workspace::root().join(SCHEMA);
    fs::write(&file, schema(&binaries)?).with_context(|| format!("cannot write {}", file.display()))?;
    snapshots(&binaries, "always")
}

fn schema(binaries: &workspace::Binaries) -> Result<String> {
    let command = Cmd::new(&binaries.tracer).arg("schema");
    let text = command.read()?;
    ensure!(
        serde_json::from_str::<serde_json::Value>(&text).is_ok_and(|schema| schema.is_object()),
        "`{command}` did not print a JSON Schema"
    );
    Ok(text)
}

fn snapshots(binaries: &workspace::Binaries, update: &str) -> Result<()> {
    Cmd::cargo()
        .args(["test", "-p", "tests", "--test", "offline"])
        .env("INSTA_UPDATE", update)
        .envs(binaries.variables()?)
        .run()
}
