//! `join`: threads wait for other threads to end.

use std::time::{Duration, Instant};

use crate::truth::Run;
use crate::{roles, sys};

#[derive(clap::Args)]
pub struct Options {
    #[arg(long, default_value_t = 3)]
    threads: usize,
    /// For how long each joined thread lives.
    #[arg(long, value_parser = roles::duration, default_value = "20ms")]
    period: Duration,
    #[arg(long, value_parser = roles::duration, default_value = "1s")]
    duration: Duration,
}

impl roles::Options for Options {
    fn run(&self, run: &mut Run) -> anyhow::Result<()> {
        let (period, end) = (self.period, Instant::now() + self.duration);
        let mut workers = Vec::new();
        for _ in 0..self.threads {
            workers.push(run.spawn("joiner", move |truth| {
                let (mut waited, mut joined) = (Duration::ZERO, 0_u64);
                while Instant::now() < end {
                    let other = std::thread::spawn(move || {
                        sys::compute(period / 4);
                        std::thread::sleep(period);
                    });
                    let asked = Instant::now();
                    let _ = other.join();
                    waited += asked.elapsed();
                    joined += 1;
                }
                truth.set("waited_s", waited.as_secs_f64());
                truth.set("joined", joined);
            })?);
        }
        run.ready(&workers);
        run.join(workers)
    }
}
