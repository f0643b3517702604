//! `timer-beside-busy`: timers expire while an innocent busy loop has the CPU.

use std::time::{Duration, Instant};

use crate::truth::Run;
use crate::{roles, sys};

#[derive(clap::Args)]
pub struct Options {
    #[arg(long, value_parser = roles::duration, default_value = "10ms")]
    period: Duration,
    #[arg(long, value_parser = roles::duration, default_value = "1s")]
    duration: Duration,
}

impl roles::Options for Options {
    fn run(&self, run: &mut Run) -> anyhow::Result<()> {
        let cpus = sys::allowed_cpus();
        let cpu = cpus[run.random.usize(..cpus.len())];
        run.set("cpu", cpu);
        let (period, end) = (self.period, Instant::now() + self.duration);
        let busy = run.spawn("busy", move |truth| {
            truth.set("pinned", sys::pin(cpu));
            while Instant::now() < end {
                sys::compute(Duration::from_millis(1));
            }
        })?;
        let sleeper = run.spawn("sleeper", move |truth| {
            truth.set("pinned", sys::pin(cpu));
            let mut wakes = 0_u64;
            while Instant::now() < end {
                std::thread::sleep(period);
                wakes += 1;
            }
            truth.set("wakes", wakes);
        })?;
        let workers = vec![busy, sleeper];
        run.ready(&workers);
        run.join(workers)
    }
}
