//! `idle-pool`: many threads wait for work that hardly comes. Healthy.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::pthread::Tokens;
use crate::truth::Run;
use crate::{roles, sys};

#[derive(clap::Args)]
pub struct Options {
    #[arg(long, default_value_t = 32)]
    threads: usize,
    /// One piece of work per this time.
    #[arg(long, value_parser = roles::duration, default_value = "50ms")]
    period: Duration,
    #[arg(long, value_parser = roles::duration, default_value = "1s")]
    duration: Duration,
}

impl roles::Options for Options {
    fn run(&self, run: &mut Run) -> anyhow::Result<()> {
        let tokens = Arc::new(Tokens::new());
        run.set("locks", json!([tokens.address()]));
        let end = Instant::now() + self.duration;
        let mut workers = Vec::new();
        for _ in 0..self.threads {
            let tokens = tokens.clone();
            workers.push(run.spawn("idle", move |truth| {
                let mut pieces = 0_u64;
                while Instant::now() < end {
                    tokens.take();
                    sys::compute(Duration::from_micros(200));
                    pieces += 1;
                }
                truth.set("pieces", pieces);
            })?);
        }
        run.ready(&workers);
        while Instant::now() < end {
            std::thread::sleep(self.period);
            tokens.put(1);
        }
        tokens.put(self.threads as i64);
        run.join(workers)
    }
}
