//! `semaphore`: threads fight for a semaphore of one.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::pthread::Semaphore;
use crate::truth::Run;
use crate::{roles, sys};

#[derive(clap::Args)]
pub struct Options {
    #[arg(long, default_value_t = 4)]
    threads: usize,
    #[arg(long, value_parser = roles::duration, default_value = "2ms")]
    hold: Duration,
    #[arg(long, value_parser = roles::duration, default_value = "2s")]
    duration: Duration,
}

impl roles::Options for Options {
    fn run(&self, run: &mut Run) -> anyhow::Result<()> {
        let semaphore = Arc::new(Semaphore::new(1));
        run.set("locks", json!([semaphore.address()]));
        let (hold, end) = (self.hold, Instant::now() + self.duration);
        let mut workers = Vec::new();
        for _ in 0..self.threads {
            let semaphore = semaphore.clone();
            workers.push(run.spawn("taker", move |truth| {
                let mut waited = Duration::ZERO;
                while Instant::now() < end {
                    let asked = Instant::now();
                    semaphore.take();
                    waited += asked.elapsed();
                    sys::compute(hold);
                    semaphore.put();
                    std::thread::sleep(Duration::from_micros(300));
                }
                truth.set("waited_s", waited.as_secs_f64());
            })?);
        }
        run.ready(&workers);
        run.join(workers)
    }
}
