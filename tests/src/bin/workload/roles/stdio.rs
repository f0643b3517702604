//! `stdio`: threads write to one stdio stream, whose lock is held while something slow happens.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::pthread::Stream;
use crate::roles;
use crate::truth::Run;

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
        let stream = Arc::new(Stream::open()?);
        let (hold, end) = (self.hold, Instant::now() + self.duration);
        let mut workers = Vec::new();
        for _ in 0..self.threads {
            let stream = stream.clone();
            workers.push(run.spawn("writer", move |truth| {
                let (mut waited, mut lines) = (Duration::ZERO, 0_u64);
                while Instant::now() < end {
                    waited += stream.write_line(hold);
                    lines += 1;
                    std::thread::sleep(Duration::from_micros(300));
                }
                truth.set("waited_s", waited.as_secs_f64());
                truth.set("lines", lines);
            })?);
        }
        run.ready(&workers);
        run.join(workers)
    }
}
