//! `condvar`: threads wait on a condition for tokens that one thread hands out.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::pthread::Tokens;
use crate::truth::Run;
use crate::{roles, sys};

#[derive(clap::Args)]
pub struct Options {
    #[arg(long, default_value_t = 4)]
    threads: usize,
    /// One token per this time.
    #[arg(long, value_parser = roles::duration, default_value = "2ms")]
    period: Duration,
    #[arg(long, value_parser = roles::duration, default_value = "2s")]
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
            workers.push(run.spawn("waiter", move |truth| {
                let (mut waited, mut taken) = (Duration::ZERO, 0_u64);
                while Instant::now() < end {
                    let asked = Instant::now();
                    tokens.take();
                    waited += asked.elapsed();
                    taken += 1;
                }
                truth.set("waited_s", waited.as_secs_f64());
                truth.set("taken", taken);
            })?);
        }
        let (period, count) = (self.period, self.threads as i64);
        workers.push(run.spawn("giver", move |_| {
            while Instant::now() < end {
                sys::compute(period);
                tokens.put(1);
            }
            // Nobody is left behind: each waiter ends at its next token.
            tokens.put(count + 1);
        })?);
        run.ready(&workers);
        run.join(workers)
    }
}
