//! `stopwatch`: notes the time and becomes another program, which finds it in the environment: a clock of its own from first to last.

use std::ffi::OsString;
use std::os::unix::process::CommandExt;

use anyhow::Context;

use crate::truth::Run;
use crate::{roles, sys};

#[derive(clap::Args)]
pub struct Options {
    /// The program and its arguments. It finds CLOCK_MONOTONIC in STARTED_MONOTONIC_NS.
    #[arg(last = true, required = true)]
    command: Vec<OsString>,
}

impl roles::Options for Options {
    fn run(&self, _run: &mut Run) -> anyhow::Result<()> {
        let (program, arguments) = self.command.split_first().context("no program is given")?;
        let started = sys::clock_ns(libc::CLOCK_MONOTONIC).to_string();
        let error = std::process::Command::new(program).args(arguments).env("STARTED_MONOTONIC_NS", started).exec();
        Err(error).with_context(|| format!("cannot run {}", program.display()))
    }
}
