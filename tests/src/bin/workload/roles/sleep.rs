//! `sleep`: a thread sleeps, wakes, sleeps; or one such thread on each CPU.

use std::time::{Duration, Instant};

use crate::truth::Run;
use crate::{roles, sys};

#[derive(clap::Args)]
pub struct Options {
    #[arg(long, value_parser = roles::duration, default_value = "10ms")]
    period: Duration,
    #[arg(long, value_parser = roles::duration, default_value = "1s")]
    duration: Duration,
    /// One thread per CPU, bound to it, instead of the first thread.
    #[arg(long)]
    each_cpu: bool,
}

fn nap(period: Duration, end: Instant) -> (f64, u64) {
    let (mut slept, mut wakes) = (Duration::ZERO, 0_u64);
    while Instant::now() < end {
        let before = Instant::now();
        std::thread::sleep(period);
        slept += before.elapsed();
        wakes += 1;
    }
    (slept.as_secs_f64(), wakes)
}

impl roles::Options for Options {
    fn run(&self, run: &mut Run) -> anyhow::Result<()> {
        let (period, end) = (self.period, Instant::now() + self.duration);
        if !self.each_cpu {
            run.ready(&[]);
            let (slept_s, wakes) = nap(period, end);
            run.set("slept_s", slept_s);
            run.set("wakes", wakes);
            return Ok(());
        }
        let mut workers = Vec::new();
        for cpu in sys::allowed_cpus() {
            workers.push(run.spawn("sleeper", move |truth| {
                truth.set("cpu", cpu);
                truth.set("pinned", sys::pin(cpu));
                let (slept_s, wakes) = nap(period, end);
                truth.set("slept_s", slept_s);
                truth.set("wakes", wakes);
            })?);
        }
        run.ready(&workers);
        run.join(workers)
    }
}
