//! `pipe-queue`: a producer feeds a consumer through a pipe, at the producer's pace. Healthy.

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use anyhow::Context;

use crate::truth::Run;
use crate::{roles, sys};

#[derive(clap::Args)]
pub struct Options {
    /// Computing time per item, on either side.
    #[arg(long, value_parser = roles::duration, default_value = "500us")]
    period: Duration,
    #[arg(long, value_parser = roles::duration, default_value = "1s")]
    duration: Duration,
}

impl roles::Options for Options {
    fn run(&self, run: &mut Run) -> anyhow::Result<()> {
        let (from, to) = sys::pipe().context("cannot make a pipe")?;
        let (period, end) = (self.period, Instant::now() + self.duration);
        let producer = run.spawn("producer", move |truth| {
            let mut items = 0_u64;
            while Instant::now() < end {
                sys::compute(period);
                if sys::write_full(to.as_fd(), &[1; 64]).is_err() {
                    break;
                }
                items += 1;
            }
            truth.set("items", items);
        })?;
        let consumer = run.spawn("consumer", move |truth| {
            let (mut items, mut waited, mut item) = (0_u64, sys::Waited::default(), [0; 64]);
            loop {
                if !waited.in_call(|| sys::read_full(from.as_fd(), &mut item)).unwrap_or(false) {
                    break;
                }
                sys::compute(period / 2);
                items += 1;
            }
            truth.set("items", items);
            truth.set("waited_s", waited.seconds());
        })?;
        let workers = vec![producer, consumer];
        run.ready(&workers);
        run.join(workers)
    }
}
