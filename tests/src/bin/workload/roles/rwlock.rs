//! `rwlock`: writers and readers fight for one read-write lock.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::pthread::RwLock;
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
        let lock = Arc::new(RwLock::new());
        run.set("locks", json!([lock.address()]));
        let (hold, end) = (self.hold, Instant::now() + self.duration);
        let mut workers = Vec::new();
        for number in 0..self.threads {
            let lock = lock.clone();
            let write = number % 2 == 0;
            let role = if write { "writer" } else { "reader" };
            workers.push(run.spawn(role, move |truth| {
                let mut waited = Duration::ZERO;
                while Instant::now() < end {
                    let asked = Instant::now();
                    lock.lock(write);
                    waited += asked.elapsed();
                    sys::compute(hold);
                    lock.unlock();
                    std::thread::sleep(Duration::from_micros(300));
                }
                truth.set("waited_s", waited.as_secs_f64());
            })?);
        }
        run.ready(&workers);
        run.join(workers)
    }
}
