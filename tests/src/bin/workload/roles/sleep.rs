//! `sleep`: a thread sleeps, wakes, sleeps.

use std::time::{Duration, Instant};

use crate::roles;
use crate::truth::Run;

#[derive(clap::Args)]
pub struct Options {
    #[arg(long, value_parser = roles::duration, default_value = "10ms")]
    period: Duration,
    #[arg(long, value_parser = roles::duration, default_value = "1s")]
    duration: Duration,
}

impl roles::Options for Options {
    fn run(&self, run: &mut Run) -> anyhow::Result<()> {
        run.ready(&[]);
        let end = Instant::now() + self.duration;
        let (mut slept, mut wakes) = (Duration::ZERO, 0_u64);
        while Instant::now() < end {
            let before = Instant::now();
            std::thread::sleep(self.period);
            slept += before.elapsed();
            wakes += 1;
        }
        run.set("slept_s", slept.as_secs_f64());
        run.set("wakes", wakes);
        Ok(())
    }
}
