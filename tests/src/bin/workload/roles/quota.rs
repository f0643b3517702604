//! `quota`: one thread computes in a cgroup that may use only a part of a CPU. Healthy: in a cgroup whose quota it never reaches.

use std::path::PathBuf;
use std::time::Duration;

use crate::truth::Run;
use crate::{roles, sys};

#[derive(clap::Args)]
pub struct Options {
    /// The folder of the cgroup to go to.
    #[arg(long)]
    cgroup: PathBuf,
    #[arg(long, value_parser = roles::duration, default_value = "3s")]
    duration: Duration,
    /// It ends once it has computed for so long, however long that takes.
    #[arg(long, value_parser = roles::duration)]
    work: Option<Duration>,
    /// Part of each 20 ms in which it computes.
    #[arg(long, default_value_t = 1.0)]
    busy: f64,
    #[arg(long, default_value_t = 1)]
    threads: usize,
    /// On one CPU.
    #[arg(long)]
    pinned: bool,
}

/// It computes and sleeps in turn.
const ROUND: Duration = Duration::from_millis(20);

impl roles::Options for Options {
    fn run(&self, run: &mut Run) -> anyhow::Result<()> {
        roles::enter_cgroup(&self.cgroup)?;
        if self.pinned {
            let cpus = sys::allowed_cpus();
            let cpu = cpus[run.random.usize(..cpus.len())];
            anyhow::ensure!(sys::pin(cpu), "cannot bind to CPU {cpu}");
            run.set("cpu", cpu);
        }
        let (duration, busy, work) = (self.duration, self.busy, self.work);
        let mut workers = Vec::new();
        for _ in 0..self.threads {
            workers.push(run.spawn("computer", move |_| {
                if let Some(work) = work {
                    sys::compute_cpu(work);
                    return;
                }
                if busy >= 1.0 {
                    sys::compute(duration);
                    return;
                }
                let end = std::time::Instant::now() + duration;
                while std::time::Instant::now() < end {
                    sys::compute(ROUND.mul_f64(busy));
                    std::thread::sleep(ROUND.mul_f64(1.0 - busy));
                }
            })?);
        }
        run.ready(&workers);
        run.join(workers)
    }
}
