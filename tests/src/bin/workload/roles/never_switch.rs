//! `never-switch`: a thread spins on one CPU and never leaves it by itself.

use std::time::Duration;

use crate::truth::Run;
use crate::{roles, sys};

#[derive(clap::Args)]
pub struct Options {
    #[arg(long, value_parser = roles::duration, default_value = "2s")]
    duration: Duration,
}

impl roles::Options for Options {
    fn run(&self, run: &mut Run) -> anyhow::Result<()> {
        let cpus = sys::allowed_cpus();
        let cpu = cpus[run.random.usize(..cpus.len())];
        run.set("cpu", cpu);
        let duration = self.duration;
        let worker = run.spawn("spinner", move |truth| {
            truth.set("pinned", sys::pin(cpu));
            sys::compute(duration);
        })?;
        let workers = vec![worker];
        run.ready(&workers);
        run.join(workers)
    }
}
