//! `crowded`: a thread works on one CPU; its priority can be lowered. What else runs on that CPU is for the test to say. Healthy: it
//! works for a small part of the time.

use std::time::{Duration, Instant};

use crate::truth::Run;
use crate::{roles, sys};

#[derive(clap::Args)]
pub struct Options {
    /// The CPU.
    #[arg(long)]
    cpu: usize,
    /// Its nice value.
    #[arg(long, default_value_t = 0, allow_hyphen_values = true)]
    nice: i32,
    #[arg(long, value_parser = roles::duration, default_value = "3s")]
    duration: Duration,
    /// It ends once it has computed for so long, however long that takes.
    #[arg(long, value_parser = roles::duration)]
    work: Option<Duration>,
    /// It computes for 2 ms and sleeps for 18 ms.
    #[arg(long)]
    mostly_idle: bool,
}

impl roles::Options for Options {
    fn run(&self, run: &mut Run) -> anyhow::Result<()> {
        let Options { cpu, nice, duration, work, mostly_idle } = *self;
        anyhow::ensure!(sys::pin(cpu), "cannot bind to CPU {cpu}");
        let worker = run.spawn("computer", move |truth| {
            truth.set("niced", sys::nice(nice));
            if let Some(work) = work {
                sys::compute_cpu(work);
                return;
            }
            if !mostly_idle {
                sys::compute(duration);
                return;
            }
            let end = Instant::now() + duration;
            while Instant::now() < end {
                sys::compute(Duration::from_millis(2));
                std::thread::sleep(Duration::from_millis(18));
            }
        })?;
        let workers = vec![worker];
        run.ready(&workers);
        run.join(workers)
    }
}
