//! `cpu`: threads compute, for a time or for a fixed amount of work.

use std::time::Duration;

use crate::truth::Run;
use crate::{roles, sys};

#[derive(clap::Args)]
pub struct Options {
    /// 0: the first thread computes, no other is started.
    #[arg(long, default_value_t = 0)]
    threads: usize,
    #[arg(long, value_parser = roles::duration, default_value = "1s")]
    duration: Duration,
    /// A fixed number of loops per thread instead of a duration.
    #[arg(long)]
    work: Option<u64>,
    /// All on one CPU.
    #[arg(long)]
    pinned: bool,
}

impl roles::Options for Options {
    fn run(&self, run: &mut Run) -> anyhow::Result<()> {
        if self.pinned {
            let cpus = sys::allowed_cpus();
            let cpu = cpus[run.random.usize(..cpus.len())];
            anyhow::ensure!(sys::pin(cpu), "cannot bind to CPU {cpu}");
            run.set("cpu", cpu);
        }
        let (work, duration) = (self.work, self.duration);
        let compute = move || match work {
            Some(loops) => sys::compute_loops(1, loops),
            None => sys::compute(duration),
        };
        if self.threads == 0 {
            run.ready(&[]);
            compute();
            return Ok(());
        }
        let mut workers = Vec::new();
        for _ in 0..self.threads {
            workers.push(run.spawn("computer", move |_| {
                compute();
            })?);
        }
        run.ready(&workers);
        run.join(workers)
    }
}
