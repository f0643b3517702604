//! `cgroup-move`: moves itself into another cgroup, and works there.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;

use crate::truth::Run;
use crate::{roles, sys};

#[derive(clap::Args)]
pub struct Options {
    /// The folder of the cgroup to go to.
    #[arg(long)]
    to: PathBuf,
    /// For how long it works before it goes, and again after.
    #[arg(long, value_parser = roles::duration, default_value = "200ms")]
    period: Duration,
}

impl roles::Options for Options {
    fn run(&self, run: &mut Run) -> anyhow::Result<()> {
        run.set("to", self.to.display().to_string());
        run.ready(&[]);
        sys::compute(self.period);
        let procs = self.to.join("cgroup.procs");
        std::fs::write(&procs, "0").with_context(|| format!("cannot write {}", procs.display()))?;
        sys::compute(self.period / 2);
        std::thread::sleep(self.period / 2);
        Ok(())
    }
}
